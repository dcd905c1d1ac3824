"""The init container's program: its flags and environment, and everything that it does besides programming."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from injected_arguments import INJECTED, LOG_FLAGS
from pytest_netns import NamespaceFactory, PodPair

if TYPE_CHECKING:
    from pytest_netns import Namespace

pytestmark = pytest.mark.kernel

PROGRAMS = Path(sys.executable).parent
AS_PROXY = ["setpriv", "--reuid=1337", "--regid=1337", "--clear-groups", "--inh-caps=-all"]


def init(
    namespace: Namespace,
    *arguments: str,
    code: int = 0,
    env: dict[str, str] | None = None,
    before: tuple[str, ...] | list[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run istio-init and check its exit code."""
    command = [*before, PROGRAMS / "istio-init", *arguments]
    done = namespace.run(command, check=False, env=env, reads_everything=True)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def save(namespace: Namespace) -> str:
    """Return the rules of the nat table."""
    return namespace.run(["iptables-nft-save", "-t", "nat"]).stdout


def test_a_flag_beats_the_environment_and_an_empty_value_counts(netns: NamespaceFactory) -> None:
    namespace = netns()
    environment = {"ENVOY_PORT": "16001", "INBOUND_CAPTURE_PORT": "16006", "ISTIO_LOCAL_EXCLUDE_PORTS": ""}

    told = init(namespace, "-p", "17001", env=environment).stdout

    assert "--envoy-port '17001' (command line)" in told
    assert "--inbound-capture-port '16006' (environment INBOUND_CAPTURE_PORT)" in told
    assert "--istio-local-exclude-ports '' (environment ISTIO_LOCAL_EXCLUDE_PORTS)" in told
    rules = save(namespace)
    assert "--to-ports 17001" in rules
    assert "--to-ports 16006" in rules
    assert "15021" not in rules


def test_the_proxy_is_the_user_of_the_environment(netns: NamespaceFactory) -> None:
    namespace = netns()

    init(namespace, env={"ENVOY_USER": "www-data"})

    assert "--uid-owner 33" in save(namespace)


def test_it_ends_with_the_rules(netns: NamespaceFactory) -> None:
    told = init(netns()).stdout

    assert "programmed: 38 rules for IPv4 and IPv6, backend iptables nft" in told
    assert "# iptables (nft), IPv6, table nat\nChain PREROUTING" in told
    assert told.endswith("\n# The rules are what was asked for.\n")


def test_a_dry_run_says_what_and_changes_nothing(netns: NamespaceFactory) -> None:
    namespace = netns()

    for flags, words in (
        ([], "-A ISTIO-OUTPUT "),
        (["--native-nftables"], "table inet istio-proxy-nat"),
        (["--backend=iptables", "--force-iptables-binary=legacy"], "iptables-legacy-restore"),
    ):
        assert words in init(namespace, "--dry-run", *flags).stdout

    assert namespace.run(["nft", "list", "ruleset"]).stdout == ""
    assert namespace.run(["cat", "/proc/net/ip_tables_names"]).stdout == ""


def test_a_dry_run_needs_no_privilege(netns: NamespaceFactory) -> None:
    assert "-A ISTIO-OUTPUT " in init(netns(), "-n", before=AS_PROXY).stdout


def test_cleanup(netns: NamespaceFactory) -> None:
    namespace = netns()
    init(namespace, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns")

    shown = init(namespace, "--cleanup-only", "--dry-run").stdout
    assert "to be removed" in shown
    assert "ISTIO-TPROXY" in shown
    assert "ISTIO-TPROXY" in namespace.run(["iptables-nft-save"]).stdout

    assert "removed: nothing is captured any more" in init(namespace, "--cleanup-only").stdout
    assert "ISTIO" not in namespace.run(["iptables-nft-save"]).stdout
    assert "fwmark" not in namespace.run(["ip", "rule"]).stdout
    assert "unchanged" in init(namespace, "--cleanup-only").stdout
    assert "nothing of ours stands there" in init(namespace, "--cleanup-only", "--dry-run").stdout


def test_a_second_run_writes_nothing_unless_forced(netns: NamespaceFactory) -> None:
    namespace = netns()
    init(namespace)

    assert "\nunchanged: " in init(namespace, "--reconcile", "-u", "1337").stdout
    assert "\nprogrammed: " in init(namespace, "--force-apply").stdout
    assert "\nprogrammed: " in init(namespace, "-p", "15101").stdout


def test_another_namespace_as_the_plugin_would(netns: NamespaceFactory) -> None:
    here, there = netns("here"), netns("there")
    process = there.popen(["sleep", "60"])
    target = ["--network-namespace", f"/proc/{process.pid}/ns/net"]

    refused = init(here, *target, "--cni-mode", "-u", "www-data", code=2)  # a user of the host is not the pod's
    assert "--proxy-uid: invalid value 'www-data'" in refused.stderr
    init(here, *target, "--cni-mode", "-u", "1337")

    assert "ISTIO" not in save(here)
    assert "ISTIO-OUTPUT" in save(there)
    assert "no rule is written" in init(here, *target, "--skip-rule-apply").stdout


def test_a_namespace_that_is_not_there(netns: NamespaceFactory) -> None:
    assert "no-such" in init(netns(), "--network-namespace", "/run/netns/no-such", code=1).stderr


@pytest.mark.parametrize("arguments", [["--help"], ["istio-iptables", "-h"]])
def test_help(netns: NamespaceFactory, arguments: list[str]) -> None:
    assert "--istio-inbound-interception-mode MODE" in init(netns(), *arguments).stdout


# --- validation ------------------------------------------------------------------------------------

BOTH_WAYS = ["IPv4 outbound", "IPv4 inbound", "IPv6 outbound", "IPv6 inbound"]


def validated(told: str) -> list[str]:
    """Return what was validated."""
    return [line.split(": ")[1] for line in told.splitlines() if line.startswith("validated: ")]


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
    told = init(pod_pair.pod, *flags, "--run-validation").stdout

    assert validated(told) == BOTH_WAYS
    assert "not validated" not in told


def test_what_is_not_captured_is_not_proven(pod_pair: PodPair) -> None:
    assert validated(init(pod_pair.pod, "-b", "", "--run-validation").stdout) == ["IPv4 outbound", "IPv6 outbound"]
    assert validated(init(pod_pair.pod, "-i", "", "--run-validation").stdout) == ["IPv4 inbound", "IPv6 inbound"]
    refused = init(pod_pair.pod, "-i", "", "-b", "", "--run-validation", code=126).stderr
    assert "nothing could be proven: the settings capture nothing" in refused


def test_only_the_families_of_the_pod(netns: NamespaceFactory) -> None:
    pod = netns.pod(ipv6=None)

    assert validated(init(pod, "--run-validation").stdout) == ["IPv4 outbound", "IPv4 inbound"]


def test_in_a_container_of_the_proxys_user_what_was_programmed_by_somebody_else(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    init(pod)

    told = init(pod, "--skip-rule-apply", "--run-validation", before=AS_PROXY).stdout

    assert validated(told) == ["IPv4 inbound", "IPv6 inbound"]
    assert "not validated: IPv4 outbound: not permitted to act as another user" in told
    assert "not validated: connections from outside the pod: the rules cannot be read here" in told


def test_a_pod_without_rules(pod_pair: PodPair) -> None:
    started = time.monotonic()

    refused = init(pod_pair.pod, "--skip-rule-apply", "--run-validation", "--probe-timeout", "300ms", code=126).stderr

    assert "error: validation failed: IPv4 outbound: user 0 dialled 192.0.2.1:15002, and within 0.3 s" in refused
    assert "First of what is wrong: IPv4 nat PREROUTING: rule 1 is missing: -p tcp -j ISTIO-INBOUND" in refused
    assert "The CNI plugin capture-cni should have written the rules" in refused
    assert time.monotonic() - started < 4


def test_a_pod_without_rules_seen_by_the_proxys_user(pod_pair: PodPair) -> None:
    flags = ["--skip-rule-apply", "--run-validation", "--probe-timeout", "300ms"]

    refused = init(pod_pair.pod, *flags, code=126, before=AS_PROXY).stderr

    assert "IPv4 inbound: user 1337 dialled 10.77.0.2:15002" in refused
    assert "The rules cannot be read here" in refused


def test_a_rule_that_no_connection_from_inside_would_miss(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    init(pod)
    pod.run(["ip6tables", "-t", "nat", "-F", "PREROUTING"])

    refused = init(pod, "--skip-rule-apply", "--run-validation", code=126).stderr

    assert "the rules are not what they should be" in refused
    assert "IPv6 nat PREROUTING: rule 1 is missing: -p tcp -j ISTIO-INBOUND" in refused


def test_rules_of_others_in_the_way(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    init(pod)
    pod.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "15006", "-j", "DROP"])

    refused = init(pod, "--skip-rule-apply", "--run-validation", "--probe-timeout", "300ms", code=126).stderr

    assert "IPv4 inbound" in refused
    assert "All rules are in place, so something else is in the way" in refused


def test_after_the_proxy_has_started(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    init(pod)
    pod.listener(("0.0.0.0", 15001), uid=1337)

    refused = init(pod, "--skip-rule-apply", "--run-validation", code=126).stderr

    assert "cannot listen on port 15001 (IPv4): Address already in use" in refused
    assert "Validate before the proxy starts" in refused


def test_the_injector_s_flags_of_the_log_give_the_same_rules(netns: NamespaceFactory) -> None:
    plain, with_flags = netns("plain"), netns("flags")
    for name in ("plain", "TPROXY", "networks and ports"):
        init(plain, *INJECTED[name])
        told = init(with_flags, *INJECTED[name], *LOG_FLAGS[0])
        assert "\nprogrammed: " in told.stdout
        assert "log_" not in told.stderr
        assert save(plain) == save(with_flags)


def test_its_output_as_json_and_in_silence(netns: NamespaceFactory) -> None:
    namespace = netns()
    told = init(
        namespace, *INJECTED["plain"], "--log_as_json", "--restore-format", env={"ISTIO_META_DNS_CAPTURE": "yes"}
    )
    lines = [json.loads(line) for line in (told.stdout + told.stderr).splitlines()]
    assert {line["level"] for line in lines} == {"info", "warn"}
    assert any(line["msg"].startswith("programmed: ") for line in lines)
    assert [line["msg"].split(":")[0] for line in lines if line["level"] == "warn"] == [
        "environment ISTIO_META_DNS_CAPTURE",
        "--restore-format has no effect",
    ]
    failed = init(namespace, "--log_as_json", "-p", "0", code=2)
    assert json.loads(failed.stderr)["level"] == "error"
    assert "ISTIO" in save(namespace)

    silent = init(namespace, "istio-clean-iptables", "--log_output_level=error")
    assert silent.stdout + silent.stderr == ""
    assert "ISTIO" not in save(namespace)
