"""The init container's program: its flags and environment, and everything that it does apart from programming."""

import json

import pytest

from pytest_netns import Namespace, NamespaceFactory
from support.captures.init_program import AS_PROXY, init
from support.captures.injected_arguments import INJECTED, LOG_FLAGS
from support.processes.private_mounts import OWN_MOUNTS


def save(namespace: Namespace) -> str:
    """Return the rules of the nat table, without the comments with the time."""
    lines = namespace.run(["iptables-nft-save", "-t", "nat"]).stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def test_a_flag_beats_the_environment_and_an_empty_value_counts(netns: NamespaceFactory) -> None:
    namespace = netns()
    environment = {"ENVOY_PORT": "16001", "INBOUND_CAPTURE_PORT": "16006", "ISTIO_LOCAL_EXCLUDE_PORTS": ""}

    printed = init(namespace, "-p", "17001", env=environment).stdout

    assert "--envoy-port '17001' (command line)" in printed
    assert "--inbound-capture-port '16006' (environment INBOUND_CAPTURE_PORT)" in printed
    assert "--istio-local-exclude-ports '' (environment ISTIO_LOCAL_EXCLUDE_PORTS)" in printed
    rules = save(namespace)
    assert "--to-ports 17001" in rules
    assert "--to-ports 16006" in rules
    assert "15021" not in rules


def test_the_proxy_is_the_user_of_the_environment(netns: NamespaceFactory) -> None:
    namespace = netns()

    init(namespace, env={"ENVOY_USER": "www-data"})

    assert "--uid-owner 33" in save(namespace)


def test_the_output_ends_with_the_rules(netns: NamespaceFactory) -> None:
    printed = init(netns()).stdout

    assert "applied: 38 rules for IPv4 and IPv6, backend iptables-nft" in printed
    assert "# iptables-nft, IPv6, table nat\nChain PREROUTING" in printed
    assert printed.endswith("\n# in sync: live rules match the applied configuration\n")


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


def test_cleanup_removes_everything(netns: NamespaceFactory) -> None:
    namespace = netns()
    init(namespace, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns")

    shown = init(namespace, "--cleanup-only", "--dry-run").stdout
    assert "would remove our rules among these" in shown
    assert "ISTIO-TPROXY" in shown
    assert "ISTIO-TPROXY" in namespace.run(["iptables-nft-save"]).stdout

    assert "removed: nothing is captured any more" in init(namespace, "--cleanup-only").stdout
    assert "ISTIO" not in namespace.run(["iptables-nft-save"]).stdout
    assert "fwmark" not in namespace.run(["ip", "rule"]).stdout
    assert "nothing to remove" in init(namespace, "--cleanup-only").stdout
    assert init(namespace, "--cleanup-only", "--dry-run").stdout.endswith("\nnothing to remove\n")


def test_a_second_run_writes_nothing_unless_forced(netns: NamespaceFactory) -> None:
    namespace = netns()
    init(namespace)

    assert "\nunchanged: " in init(namespace, "--reconcile", "-u", "1337").stdout
    assert "\napplied: " in init(namespace, "--force-apply").stdout
    assert "\napplied: " in init(namespace, "-p", "15101").stdout


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
    assert " more capture options: istio-init --help-all\n" in init(netns(), *arguments).stdout
    assert "--istio-inbound-interception-mode MODE" in init(netns(), *arguments[:-1], "--help-all").stdout


def test_the_injector_s_flags_of_the_log_give_the_same_rules(netns: NamespaceFactory) -> None:
    plain, with_flags = netns("plain"), netns("flags")
    for name in ("plain", "TPROXY", "networks and ports"):
        without = init(plain, *INJECTED[name])
        printed = init(with_flags, *INJECTED[name], *LOG_FLAGS[0])
        assert "\napplied: " in printed.stdout
        assert printed.stderr == without.stderr
        assert save(plain) == save(with_flags)


def test_its_output_as_json_and_in_silence(netns: NamespaceFactory) -> None:
    namespace = netns()
    printed = init(
        namespace, *INJECTED["plain"], "--log_as_json", "--restore-format", env={"ISTIO_META_DNS_CAPTURE": "yes"}
    )
    lines = [json.loads(line) for line in (printed.stdout + printed.stderr).splitlines()]
    assert {line["level"] for line in lines} == {"info", "warn"}
    assert any(line["msg"].startswith("applied: ") for line in lines)
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


def test_a_state_directory_that_cannot_be_written_is_named(netns: NamespaceFactory) -> None:
    """As in a container with a read-only root: the rules are written, and verify cannot know them."""
    read_only = 'mount -t tmpfs -o ro,mode=700 none /run/istio-capture && exec "$@"'

    done = init(netns(), before=(*OWN_MOUNTS, "sh", "-c", read_only, "sh"))

    assert "warning: /run/istio-capture cannot be written (Read-only file system): " in done.stderr
    assert "name the options when you verify" in done.stderr
