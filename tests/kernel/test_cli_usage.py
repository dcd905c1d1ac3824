"""Bad usage of the commands is refused in words, before anything is written; what has no effect is named."""

import re

import pytest

from pytest_netns import NamespaceFactory
from support.processes.our_programs import run_program as run

# The arguments, what the error names, and what it expects.
BAD_VALUES = [
    (["-p", "0"], "--envoy-port", "'0'", "a port (1-65535)"),
    (["-z", "70000"], "--inbound-capture-port", "'70000'", "a port (1-65535)"),
    (["-b", "80,x"], "--istio-inbound-ports", "'80,x'", "ports (1-65535) or ranges"),
    (["-o", "90-80"], "--istio-local-outbound-ports-exclude", "'90-80'", "ranges such as 8000-8100"),
    (["-x", "10.0.0.0/33"], "--istio-service-exclude-cidr", "'10.0.0.0/33'", "networks such as 10.0.0.0/8"),
    (["-i", "fd00::/129"], "--istio-service-cidr", "'fd00::/129'", "networks"),
    (["-c", "abcdefghijklmnop"], "--istio-exclude-interfaces", "'abcdefghijklmnop'", "at most 15 bytes"),
    (["-k", "eth0/1"], "--kube-virt-interfaces", "'eth0/1'", "no '/'"),
    (["-u", "no-such-user"], "--proxy-uid", "'no-such-user'", "users that exist"),
    (["-g", "4294967295"], "--proxy-gid", "'4294967295'", "group ids"),
    (["-t", "blue"], "--istio-inbound-tproxy-mark", "'blue'", "a number from 1 to 4294967295"),
    (["-r", "254"], "--istio-inbound-tproxy-route-table", "'254'", "not 253, 254 or 255"),
    (["-m", "NAT"], "--istio-inbound-interception-mode", "'NAT'", "REDIRECT or TPROXY"),
    (["--dual-stack=maybe"], "--dual-stack", "'maybe'", "true or false"),
    (["--profile", "new"], "--profile", "'new'", "1.8 (classic) or 1.30 (current)"),
    (["--backend", "ipfw"], "--backend", "'ipfw'", "auto, iptables or nftables"),
    (["--backend", "nftables", "--driver", "restore"], "--driver", "'restore'", "netlink or libnftables"),
    (["--native-nftables", "--backend", "iptables"], "--backend", "'iptables'", "--native-nftables"),
    *(
        ([flag, f"{value}\n-A OUTPUT -j ACCEPT"], name, r"\n-A OUTPUT", "no control characters")
        for flag, name, value in [
            ("-p", "--envoy-port", "15001"),
            ("-b", "--istio-inbound-ports", "80"),
            ("-x", "--istio-service-exclude-cidr", "10.0.0.0/8"),
            ("-c", "--istio-exclude-interfaces", "eth1"),
            ("-u", "--proxy-uid", "1337"),
        ]
    ),
]


@pytest.mark.parametrize("program", ["istio-init", "capture apply"])
@pytest.mark.parametrize(("arguments", "option", "value", "expected"), BAD_VALUES)
def test_a_bad_value_is_refused_before_anything_is_written(
    module_netns: NamespaceFactory, program: str, arguments: list[str], option: str, value: str, expected: str
) -> None:
    namespace = module_netns()
    name, *command = program.split()

    done = run(namespace, name, *command, *arguments, code=2)

    assert done.stderr.startswith("error: ")
    assert (option in done.stderr, value in done.stderr, expected in done.stderr) == (True, True, True), done.stderr
    assert "Traceback" not in done.stderr
    assert namespace.run(["nft", "list", "ruleset"]).stdout == ""


@pytest.mark.parametrize("program", ["istio-init", "capture apply"])
def test_a_bad_variable_is_named(module_netns: NamespaceFactory, program: str) -> None:
    name, *command = program.split()

    done = run(module_netns(), name, *command, code=2, env={"ISTIO_OUTBOUND_OWNER_GROUPS": "-1"})

    where = "environment ISTIO_OUTBOUND_OWNER_GROUPS"
    assert done.stderr.startswith(f"error: {where}: invalid value '-1'")


@pytest.mark.parametrize(
    "arguments",
    [
        ["dump", "--no-such"],
        ["no-such-command"],
        ["apply", "unexpected"],
        ["dump", "--format", "xml"],
        ["dump", "--pid", "0"],
        ["dump", "--pid", "1", "--netns", "/proc/1/ns/net"],
        ["apply", "-p"],
    ],
)
def test_bad_usage_of_capture(module_netns: NamespaceFactory, arguments: list[str]) -> None:
    done = run(module_netns(), "capture", *arguments, code=2)

    assert (done.stdout, done.stderr.startswith("error: ")) == ("", True)
    assert "invalid value" in done.stderr or re.search(r"\n  See `capture.* --help(-all)?`\.\n$", done.stderr)


@pytest.mark.parametrize(
    "arguments", [["--no-such"], ["-Z"], ["unexpected"], ["istio-iptables", "istio-iptables"], ["-p"]]
)
def test_bad_usage_of_istio_init(module_netns: NamespaceFactory, arguments: list[str]) -> None:
    done = run(module_netns(), "istio-init", *arguments, code=2)

    assert done.stderr.startswith("error: ")
    assert "istio-init --help" in done.stderr


def test_host_bits_are_cleared_with_a_warning(netns: NamespaceFactory) -> None:
    done = run(netns(), "capture", "apply", "-x", "10.1.2.3/8")

    option = "--istio-service-exclude-cidr (command line)"
    assert done.stderr == f"warning: {option}: 10.1.2.3/8 has host bits set, and is taken as 10.0.0.0/8\n"


@pytest.mark.parametrize("command", [("trace", "tcp", "10.1.2.3:80"), ("explain",)], ids=lambda words: words[0])
def test_options_without_effect_on_the_live_rules_are_checked_and_named(
    netns: NamespaceFactory, command: tuple[str, ...]
) -> None:
    namespace = netns()
    in_vain = run(namespace, "capture", *command, "-o", "80").stderr
    refused = run(namespace, "capture", *command, "-o", "http", code=2).stderr

    assert in_vain.startswith("warning: --istio-local-outbound-ports-exclude: no effect")
    assert "invalid value 'http'" in refused
    assert "no effect" not in run(namespace, "capture", *command, "-o", "80", "--from-options").stderr
