"""A capture is applied, changed, verified and removed by commands: exit codes, words, and what is left."""

import json
import re

import pytest

from pytest_netns import Namespace, NamespaceFactory, PodPair
from support.captures.commands import DRIVERS, choice, state
from support.processes.our_programs import run_program as run
from support.traffic.proxies import listen_as_proxy


@pytest.mark.parametrize(("backend", "driver", "variant"), DRIVERS)
def test_ports_and_user_alone_capture_in_and_out(pod_pair: PodPair, backend: str, driver: str, variant: str) -> None:
    pod, peer = pod_pair
    for one in (pod, peer):
        one.listener(("0.0.0.0", 80), ("::", 80), label=one.name)
    listen_as_proxy(pod)

    run(pod, "istio-init", "-p", "15001", "-z", "15006", "-u", "1337", *choice(backend, driver, variant))

    for pod_address, peer_address in ((pod.ipv4, peer.ipv4), (pod.ipv6, peer.ipv6)):
        assert pod.client(1000).connect(peer_address, 80).label == "outbound"
        assert peer.client(1000).connect(pod_address, 80).label == "inbound"
        assert pod.client(1337).connect(peer_address, 80).label == peer.name


@pytest.mark.parametrize(("backend", "driver", "variant"), DRIVERS)
def test_a_capture_is_applied_changed_and_removed(
    netns: NamespaceFactory, backend: str, driver: str, variant: str
) -> None:
    namespace = netns()
    before = state(namespace)
    flags = choice(backend, driver, variant)

    assert run(namespace, "capture", "apply", *flags).stdout.startswith("applied: 38 rules for IPv4 and IPv6")
    assert run(namespace, "capture", "apply", *flags).stdout.startswith("unchanged: ")
    assert run(namespace, "capture", "verify").stdout == "in sync: live rules match the applied configuration\n"
    assert run(namespace, "capture", "verify", "-x", "10.0.0.0/8", code=4).stdout.startswith(
        "drift: 1 difference from the configuration"
    )
    assert run(namespace, "capture", "dump").stdout.endswith(
        "\n# in sync: live rules match the applied configuration\n"
    )
    many = run(namespace, "capture", "apply", *flags, "-d", ",".join(map(str, range(100, 140, 2)))).stdout
    listed = json.loads(run(namespace, "capture", "dump", "--format", "json").stdout)["tables"]
    count = sum(len(chain["rules"]) for table in listed for chain in table["chains"])
    assert many.startswith(f"applied: {count} rules for IPv4 and IPv6")
    assert run(namespace, "capture", "clean").stdout.startswith("removed: ")
    assert run(namespace, "capture", "clean").stdout == "nothing to remove\n"
    if variant != "legacy":  # tables of legacy iptables stay, once they were there
        assert state(namespace).replace("table ip nat {\n}\n", "") == before


def test_every_program_says_profile_and_families_and_where_both_come_from(netns: NamespaceFactory) -> None:
    """Programs that change a pod: in their output; those that answer a question: on stderr."""
    namespace = netns()
    applied = "profile 1.30 (command line), families IPv4 (ipv4, command line)"
    assert applied in run(namespace, "capture", "apply", "--profile", "1.30", "--ip-families", "ipv4").stdout
    packet = ("tcp", "203.0.113.9:80", "--uid", "1000", "--out", "lo")
    for command in (["verify"], ["trace", *packet], ["explain"]):
        assert run(namespace, "capture", *command).stderr == f"{applied}\n"
        assert json.loads(run(namespace, "capture", *command, "--format", "json").stdout)

    note = "note: the applied profile is 1.30, and that of these options 1.8: add `--profile 1.30`"
    assert note in run(namespace, "capture", "verify", "-p", "15001", code=4).stdout.splitlines()
    default = "profile 1.8 (default), families IPv4 and IPv6 (both, default)"
    assert run(namespace, "capture", "render", "--backend", "nftables").stderr == f"{default}\n"
    assert run(namespace, "capture", "trace", *packet, "--from-options").stderr == f"{default}\n"
    assert default in run(namespace, "istio-init", "--dry-run").stdout
    assert applied in run(namespace, "istio-init", "--cleanup-only").stdout.splitlines()
    assert "profile" not in run(namespace, "istio-init", "--cleanup-only").stdout
    assert "nothing to remove" in run(namespace, "istio-init", "--cleanup-only", "-u", "no-such-user").stdout


def test_a_foreign_rule_and_a_missing_one(netns: NamespaceFactory) -> None:
    namespace = netns()
    run(namespace, "capture", "apply")
    namespace.run(["iptables", "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "--dport", "443", "-j", "ACCEPT"])
    namespace.run(["ip6tables", "-t", "nat", "-D", "ISTIO-INBOUND", "1"])

    printed = run(namespace, "capture", "verify", code=4).stdout
    foreign, missing, remedy = printed.splitlines()[1:]
    assert foreign.startswith("  IPv4 nat OUTPUT, rule 1: foreign rule precedes ours and diverts captured traffic")
    assert "-p tcp -m tcp --dport 443 -j ACCEPT (tcp, port 443, user other than 1337" in foreign
    assert missing.startswith("  IPv6 nat ISTIO-INBOUND, rule 1 is missing: -p tcp -m tcp --dport 15008 -j RETURN")

    assert remedy.startswith("  Run `capture apply --recorded"), "what repairs our own rules"
    of_family = run(namespace, "capture", "verify", "--family", "ipv6", code=4).stdout.splitlines()[1:]
    assert of_family == [missing, remedy]
    part = run(namespace, "capture", "verify", "--table", "mangle", "--family", "ipv6").stdout
    assert part == "in sync, IPv6, table mangle alone: live rules match the applied configuration\n"
    assert "the capture has no rules in this part" in run(namespace, "capture", "dump", "--table", "mangle").stderr

    plain = json.loads(run(namespace, "capture", "verify", "--format", "json", code=4).stdout)
    assert plain["as_asked"] is False
    assert [(each["kind"], each["family"], each["chain"]) for each in plain["differences"]] == [
        ("foreign", "ipv4", "OUTPUT"),
        ("missing", "ipv6", "ISTIO-INBOUND"),
    ]
    assert plain["differences"][0]["example"]["asked"] == "proxy-outbound"

    dumped = run(namespace, "capture", "dump").stdout
    assert "\n# drift: 2 differences from the applied configuration\n#   IPv4 nat OUTPUT, rule 1" in dumped
    run(namespace, "capture", "apply")
    run(namespace, "capture", "verify")


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_rule_that_was_applied_is_unexpected_and_not_foreign_for_other_options(
    netns: NamespaceFactory, backend: str
) -> None:
    namespace = netns()
    run(namespace, "capture", "apply", "--backend", backend, "-c", "net9")

    plain = json.loads(run(namespace, "capture", "verify", "-p", "15001", "--format", "json", code=4).stdout)

    assert {(each["kind"], each["chain"].upper(), each["rule"]) for each in plain["differences"]} == {
        ("unexpected", "PREROUTING", "-i net9 -j RETURN"),
        ("unexpected", "OUTPUT", "-o net9 -j RETURN"),
    }
    assert plain["notes"] == []


def test_recorded_settings_are_applied_again_and_their_loss_is_named(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    run(pod, "capture", "apply", "--recorded", code=1)
    given = ("-x", "10.1.0.0/16", "--backend", "nftables", "-u", "1337")
    run(pod, "capture", "apply", *given, env={"ISTIO_META_DNS_CAPTURE": "true"})
    applied = dumped_rules(pod)
    pod.run(["nft", "flush", "chain", "inet", "istio-proxy-nat", "ISTIO-OUTPUT"])

    for command, name in (("why", "causes"), ("doctor", "findings")):
        plain = json.loads(run(pod, "capture", command, "--netns", pod.path, "--format", "json", code=4).stdout)
        remedies = [each["remedy"] for each in plain[name] if each["kind"] == "rule-missing"]
        assert [f"Run `capture apply --recorded --netns {pod.path}`, or" in each for each in remedies] == [True]
    assert "invalid value 'x'" in run(pod, "capture", "apply", "--recorded", "-x", "x", code=2).stderr
    done = run(pod, "capture", "apply", "--recorded", env={"PROXY_UID": "4711"})
    assert (done.stderr, dumped_rules(pod)) == ("", applied)

    pod.run(["nft", "flush", "ruleset"])
    assert (
        f"Run `capture apply --recorded --netns {pod.path}`"
        in run(pod, "capture", "verify", "--netns", pod.path, code=4).stderr
    )
    done = run(pod, "capture", "apply")
    lost = ("--redirect-dns=true", "--istio-service-exclude-cidr=10.1.0.0/16", "--backend=nftables")
    restore = ("capture", "apply", "--recorded", *lost)
    assert done.stderr.startswith(
        f"warning: recorded options are replaced by their defaults: `{' '.join(lost)}`."
        f" To restore them: `{' '.join(restore)}`\n"
    )
    assert run(pod, "capture", "apply").stderr == ""
    run(pod, *restore)
    assert dumped_rules(pod) == applied


def test_one_recorded_setting_is_changed_and_the_others_are_kept(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    given = ("-x", "10.1.0.0/16", "--backend", "nftables", "-m", "TPROXY", "--redirect-dns", "--ip-families", "ipv4")
    run(pod, "capture", "apply", *given, "-o", "81")

    run(pod, "capture", "apply", "--recorded", "--ip-families", "both", "-u", "root", env={"PROXY_UID": "4711"})
    run(pod, "capture", "verify", *given, "-o", "81", "--ip-families", "both", "-u", "0")
    run(pod, "capture", "apply", "--recorded", "--redirect-dns=false", "-o", "82,83")
    run(pod, "capture", "verify", *given, "-o", "82,83", "--ip-families", "both", "-u", "0", "--redirect-dns=false")
    run(pod, "capture", "apply", "--recorded", "--driver", "libnftables")
    run(pod, "capture", "apply", "--recorded", "--backend", "iptables")
    run(
        pod,
        "capture",
        "verify",
        *given,
        "--backend",
        "iptables",
        "-o",
        "82,83",
        "--ip-families",
        "both",
        "-u",
        "0",
        "--redirect-dns=false",
    )

    lost = run(pod, "capture", "apply", "--backend", "nftables", "-u", "1337").stderr
    assert (
        "replaced by their defaults: `--istio-service-exclude-cidr=10.1.0.0/16 --istio-inbound-interception-mode=TPROXY"
        " --istio-local-outbound-ports-exclude=82,83`. To restore them: `capture apply --recorded "
    ) in lost


def dumped_rules(namespace: Namespace) -> str:
    """Return our live rules without counters."""
    return re.sub(r"counter packets \d+ bytes \d+ ", "", namespace.run(["nft", "list", "ruleset"]).stdout)
