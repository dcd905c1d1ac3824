"""``istio-init --run-validation``: by effect, with and without capabilities, before and with a running proxy."""

import time

import pytest

from pytest_netns import NamespaceFactory, Pod, PodPair
from support.captures.init_program import AS_PROXY, init
from support.captures.injected_arguments import injected
from support.runtimes.cni_calls import INJECTED, RESULT, call, configuration

EVERYTHING = [
    *(f"{family} {way}" for family in ("IPv4", "IPv6") for way in ("outbound", "inbound")),
    *(f"{family} inbound from outside" for family in ("IPv4", "IPv6")),
]


def validated(printed: str) -> list[str]:
    """Return what was validated."""
    return [line.split(": ")[1] for line in printed.splitlines() if line.startswith("validated: ")]


@pytest.mark.parametrize(
    "flags",
    [
        ["--backend", "iptables"],
        ["--backend", "nftables"],
        ["--profile", "current"],
        ["-m", "TPROXY"],
        ["-p", "16001", "-z", "16006", "-u", "4444", "-g", "5555"],
        # What would be dialled first is left alone, so that something else must be.
        ["-o", "15002", "-x", "192.0.2.0/24,2001:db8::/64"],
        ["-i", "10.77.0.0/24,fd77::/64"],
        ["-i", "", "-q", "9999"],
    ],
    ids=" ".join,
)
def test_capture_is_proven(pod_pair: PodPair, flags: list[str]) -> None:
    printed = init(pod_pair.pod, *flags, "--run-validation").stdout

    assert validated(printed) == EVERYTHING
    assert "not validated" not in printed


def test_a_connection_that_is_not_captured_proves_nothing(pod_pair: PodPair) -> None:
    assert validated(init(pod_pair.pod, "-b", "", "--run-validation").stdout) == ["IPv4 outbound", "IPv6 outbound"]
    printed = init(pod_pair.pod, "-i", "", "--run-validation").stdout
    assert validated(printed) == [line for line in EVERYTHING if "inbound" in line]
    printed = init(pod_pair.pod, "-i", "", "-b", "", "--run-validation").stdout
    assert "not validated: the settings capture nothing" in printed
    refused = init(pod_pair.pod, "-i", "", "-b", "", "--run-validation", "--require-proof", code=125).stderr
    assert "validation incomplete: the settings capture nothing" in refused


def test_validation_proves_the_families_of_the_pod_only(netns: NamespaceFactory) -> None:
    pod = netns.pod(ipv6=None)

    printed = init(pod, "--run-validation", "--require-proof").stdout
    assert validated(printed) == ["IPv4 outbound", "IPv4 inbound", "IPv4 inbound from outside"]


def test_a_container_of_the_proxys_user_proves_inbound_after_the_plugin(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    init(pod)

    printed = init(pod, "--skip-rule-apply", "--run-validation", before=AS_PROXY).stdout

    assert validated(printed) == ["IPv4 inbound", "IPv6 inbound"]
    assert "not validated: IPv4 outbound: not permitted to act as another user" in printed
    assert "not validated: connections from outside the pod: the rules cannot be read here" in printed


def test_a_pod_without_rules(pod_pair: PodPair) -> None:
    started = time.monotonic()

    refused = init(pod_pair.pod, "--skip-rule-apply", "--run-validation", "--probe-timeout", "300ms", code=126).stderr

    assert "error: validation failed: IPv4 outbound: user 0 dialled 192.0.2.1:15002, and within 0.3 s" in refused
    assert "The namespace has no rules of the capture. " in refused
    assert "The CNI plugin capture-cni should have written the rules" in refused
    assert time.monotonic() - started < 4


def test_a_pod_without_rules_seen_by_the_proxys_user(pod_pair: PodPair) -> None:
    flags = ["--skip-rule-apply", "--run-validation", "--probe-timeout", "300ms"]

    refused = init(pod_pair.pod, *flags, code=126, before=AS_PROXY).stderr

    assert "IPv4 inbound: user 1337 dialled 10.77.0.2:15002" in refused
    assert "The rules cannot be read here" in refused


@pytest.mark.parametrize("before", [[], AS_PROXY], ids=["root", "no capabilities"])
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_the_injector_s_arguments_in_a_pod_of_the_plugin(pod_pair: PodPair, mode: str, before: list[str]) -> None:
    """The plugin wrote the rules from annotations: other ports, in another order, in today's layout."""
    pod = pod_pair.pod
    add(pod, {"sidecar.istio.io/interceptionMode": mode, "traffic.sidecar.istio.io/excludeInboundPorts": "9,15020"})
    arguments = injected("--run-validation", "--skip-rule-apply", mode=mode, excluded=",15020")

    printed = init(pod, *arguments, "--log_output_level=default:info", before=before).stdout

    if not before:
        assert validated(printed) == EVERYTHING
    elif mode == "REDIRECT":
        assert validated(printed) == ["IPv4 inbound", "IPv6 inbound"]
    else:
        assert "not validated: IPv4 inbound: not permitted to listen as a transparent proxy" in printed
    init(pod, *arguments, "--require-proof", before=before, code=125 if before else 0)


def test_nothing_that_may_be_looked_at_is_no_failure(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    add(pod, {"traffic.sidecar.istio.io/includeInboundPorts": ""})

    printed = init(pod, *injected("--run-validation", "--skip-rule-apply", ports=""), before=AS_PROXY).stdout

    assert validated(printed) == []
    assert "not validated: IPv4 outbound: not permitted to act as another user" in printed


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_the_way_in_is_proven_from_an_outside_of_its_own(pod_pair: PodPair, mode: str) -> None:
    pod = pod_pair.pod
    flags = ["-m", mode, "--run-validation", "--probe-from-outside", "--require-proof"]
    links = pod.run(["ip", "-o", "link"]).stdout

    printed = init(pod, *flags).stdout

    assert "validated: IPv4 inbound from outside: user 0 dialled 10.77.0.2:15002 and arrived on port 15006" in printed
    assert validated(printed) == EVERYTHING
    assert pod.run(["ip", "-o", "link"]).stdout == links
    pod.run(["iptables", "-I", "INPUT", "-i", "capture-probe", "-j", "DROP"])
    refused = init(pod, *flags, "--probe-timeout", "500ms", code=126).stderr
    assert "validation failed: IPv4 inbound from outside" in refused


def test_a_rule_that_no_connection_from_inside_would_miss(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    init(pod, "--backend", "iptables")
    pod.run(["ip6tables", "-t", "nat", "-F", "PREROUTING"])

    refused = init(pod, "--skip-rule-apply", "--run-validation", code=126).stderr

    assert "IPv6 inbound from outside: what is sent to [fd77::2]:15002 does not reach port 15006" in refused
    assert "by the live rules it is direct" in refused


def test_a_switch_of_the_kernel_fails_the_validation(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    init(pod, "-m", "TPROXY")
    pod.sysctl("net.ipv4.conf.all.src_valid_mark", "1")

    refused = init(pod, "-m", "TPROXY", "--skip-rule-apply", "--run-validation", before=AS_PROXY, code=126).stderr

    assert "validation failed: net.ipv4.conf.all.src_valid_mark is 1" in refused


def test_foreign_rules_in_the_way(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    init(pod)
    pod.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "15006", "-j", "DROP"])

    refused = init(pod, "--skip-rule-apply", "--run-validation", "--probe-timeout", "300ms", code=126).stderr

    assert "IPv4 inbound" in refused
    assert "All rules are in place, but: " in refused
    assert "foreign rule meets connections behind the redirect and stops captured traffic" in refused
    assert "dport 15006" in refused


@pytest.mark.parametrize("before", [[], AS_PROXY], ids=["root", "no capabilities"])
def test_a_policy_rule_that_is_gone_fails_the_validation(pod_pair: PodPair, before: list[str]) -> None:
    pod = pod_pair.pod
    init(pod, "-m", "TPROXY")
    pod.run(["ip", "rule", "del", "fwmark", "1337"])

    refused = init(pod, "-m", "TPROXY", "--skip-rule-apply", "--run-validation", before=before, code=126).stderr

    assert "IPv4: the policy rule for mark 0x539 is missing: `ip rule add fwmark 0x539 lookup 133` adds it\n" in refused


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_validation_works_while_a_proxy_runs(pod_pair: PodPair, mode: str) -> None:
    """The kernel's list of sockets shows which process took a connection."""
    pod = pod_pair.pod
    init(pod, "-m", mode)
    outbound = pod.listener(("0.0.0.0", 15001), ("::", 15001), uid=1337, label="outbound")
    inbound = pod.listener(("0.0.0.0", 15006), ("::", 15006), label="inbound", transparent=mode == "TPROXY")
    flags = ["-m", mode, "--skip-rule-apply", "--run-validation"]

    printed = init(pod, *flags, "--require-proof").stdout

    assert validated(printed) == EVERYTHING
    assert printed.count("where the proxy took it") == 4
    from_outside = init(pod, *flags, "--probe-from-outside", "--require-proof").stdout
    assert from_outside.count("where the proxy took it") == 6
    assert validated(init(pod, *flags, before=AS_PROXY).stdout) == ["IPv4 inbound", "IPv6 inbound"]

    pod.run(["iptables", "-t", "nat", "-F", "OUTPUT"])
    assert "IPv4 outbound" in init(pod, *flags, "--probe-timeout", "500ms", code=126).stderr
    outbound.close()
    inbound.close()


def add(pod: Pod, annotations: dict[str, str]) -> None:
    """Let the plugin program the pod, by its annotations, in today's layout."""
    result = RESULT | {"ips": [{"address": f"{pod.ipv4}/24"}]}
    stdin = configuration(INJECTED | annotations, prevResult=result, profile="current")
    done = call(stdin, CNI_NETNS=pod.path)
    assert done.returncode == 0, done.stdout
