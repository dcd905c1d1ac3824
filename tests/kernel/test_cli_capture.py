"""The commands as people call them: exit codes, words, and what they leave in a namespace."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from capture.backends import request
from pytest_netns import Namespace, NamespaceFactory, PodPair
from support.processes.our_programs import run_program as run
from support.traffic.proxies import listen_as_proxy

PROGRAMS = Path(sys.executable).parent

FILE_2 = shlex.split("istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d 15090,15021,15020")
"""The arguments with which pods are injected."""

SHELL_2 = """\
Chain PREROUTING
ISTIO-INBOUND      tcp  --  *   *   0.0.0.0/0  0.0.0.0/0
Chain OUTPUT
ISTIO-OUTPUT       tcp  --  *   *   0.0.0.0/0  0.0.0.0/0
Chain ISTIO-INBOUND (1 references)
RETURN             tcp  --  *   *   0.0.0.0/0  0.0.0.0/0   tcp dpt:15008
RETURN             tcp  --  *   *   0.0.0.0/0  0.0.0.0/0   tcp dpt:22
RETURN             tcp  --  *   *   0.0.0.0/0  0.0.0.0/0   tcp dpt:15090
RETURN             tcp  --  *   *   0.0.0.0/0  0.0.0.0/0   tcp dpt:15021
RETURN             tcp  --  *   *   0.0.0.0/0  0.0.0.0/0   tcp dpt:15020
ISTIO-IN-REDIRECT  tcp  --  *   *   0.0.0.0/0  0.0.0.0/0
Chain ISTIO-IN-REDIRECT (3 references)
REDIRECT           tcp  --  *   *   0.0.0.0/0  0.0.0.0/0   redir ports 15006
Chain ISTIO-OUTPUT (1 references)
RETURN             all  --  *   lo  127.0.0.6  0.0.0.0/0
ISTIO-IN-REDIRECT  all  --  *   lo  0.0.0.0/0  !127.0.0.1  owner UID match 1337
RETURN             all  --  *   lo  0.0.0.0/0  0.0.0.0/0   ! owner UID match 1337
RETURN             all  --  *   *   0.0.0.0/0  0.0.0.0/0   owner UID match 1337
ISTIO-IN-REDIRECT  all  --  *   lo  0.0.0.0/0  !127.0.0.1  owner GID match 1337
RETURN             all  --  *   lo  0.0.0.0/0  0.0.0.0/0   ! owner GID match 1337
RETURN             all  --  *   *   0.0.0.0/0  0.0.0.0/0   owner GID match 1337
RETURN             all  --  *   *   0.0.0.0/0  127.0.0.1
ISTIO-REDIRECT     all  --  *   *   0.0.0.0/0  0.0.0.0/0
Chain ISTIO-REDIRECT (1 references)
REDIRECT           tcp  --  *   *   0.0.0.0/0  0.0.0.0/0   redir ports 15001
"""
"""The known nat table of a pod, without counters and without built-in chains that have no rules."""

VARIANTS = {"restore": ("nft", "legacy"), "netlink": ("nft",), "iptc": ("legacy",)}
DRIVERS = [
    (backend, driver, variant)
    for backend, drivers in request.DRIVERS.items()
    for driver in drivers
    for variant in (VARIANTS[driver] if backend == "iptables" else ("",))
]


def state(namespace: Namespace) -> str:
    """Return everything that rules can be in, without counters."""
    nft = namespace.run(["nft", "--stateless", "list", "ruleset"]).stdout
    legacy = namespace.run(["cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]).stdout
    addresses = namespace.run(["ip", "-brief", "address", "show", "lo"]).stdout
    rules = namespace.run(["ip", "rule"]).stdout + namespace.run(["ip", "-6", "rule"]).stdout
    return nft + legacy + addresses + rules


def choice(backend: str, driver: str, variant: str) -> list[str]:
    """Return the flags that choose a driver."""
    return ["--backend", backend, "--driver", driver, *(["--force-iptables-binary", variant] if variant else [])]


def rows(listing: str) -> list[str]:
    """Return a listing without counters, policies, column names and empty built-in chains; blanks as one."""
    lines: list[str] = []
    for block in listing.strip().split("\n\n"):
        heading, _columns, *rules = block.split("\n")
        name = heading.partition(" (policy")[0]
        if rules or "references" in heading:
            lines += [name, *(" ".join(_in_words(rule.split()[2:])) for rule in rules)]
    return lines


def _in_words(columns: list[str]) -> list[str]:
    """Return the columns with the protocol as a word; iptables 1.8.9 prints numbers."""
    target, protocol, *rest = columns
    return [target, {"0": "all", "6": "tcp"}.get(protocol, protocol), *rest]


@pytest.mark.parametrize(("backend", "driver", "variant"), DRIVERS)
def test_dump_prints_the_known_table(netns: NamespaceFactory, backend: str, driver: str, variant: str) -> None:
    namespace = netns()

    run(namespace, "istio-init", *FILE_2, *choice(backend, driver, variant))

    shown = run(namespace, "capture", "dump", "--family", "ipv4", "--table", "nat").stdout
    assert rows(shown) == [" ".join(line.split()) for line in SHELL_2.splitlines()]
    if variant:
        others = namespace.run([f"iptables-{variant}", "-t", "nat", "-nvL"]).stdout
        assert sorted(rows(others)) == sorted(rows(shown))


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


# --- where ---------------------------------------------------------------------------------------


@pytest.fixture
def named(netns: NamespaceFactory) -> Iterator[None]:
    """A namespace that has a name: where tests run in a container, this is what shows that it is a node."""
    name = Path("/run/netns/pod")
    name.touch()
    subprocess.run(["mount", "--bind", netns().path, name], check=True)
    yield
    subprocess.run(["umount", name], check=True)
    name.unlink()


def test_the_host_is_refused(named: None) -> None:
    """The only test that runs in the host's own namespace; it must not get as far as writing."""
    for program in (["istio-init"], ["capture", "apply"], ["capture", "clean"], ["istio-init", "--cleanup-only"]):
        done = subprocess.run([PROGRAMS / program[0], *program[1:]], capture_output=True, text=True, check=False)

        assert done.returncode == 2
        assert re.match("error: refused: this network namespace is (the host's own|that of a node, )", done.stderr)
        assert "--allow-host" in done.stderr


def test_a_namespace_that_is_not_there(netns: NamespaceFactory) -> None:
    namespace = netns()
    for target in (["--netns", "/run/netns/no-such"], ["--netns", "/etc/hostname"], ["--pid", "4194304"]):
        done = run(namespace, "capture", "dump", *target, code=1)

        assert done.stderr.startswith("error: network namespace ")
        assert "lsns" in done.stderr
    for command in (("why", "--pid"), ("trace", "tcp", "10.1.2.3:80", "--as-pid")):
        done = run(namespace, "capture", *command, "4194304", code=1)
        assert done.stderr.startswith(f"error: network namespace of {command[-1]} 4194304: no such process")


def test_commands_without_privilege_name_the_capability(netns: NamespaceFactory) -> None:
    namespace = netns()
    run(namespace, "istio-init")
    names = ("apply", "dump", "doctor", "verify", "clean")
    for program in (["istio-init"], ["istio-init", "--cleanup-only"], *(["capture", name] for name in names)):
        done = namespace.run([PROGRAMS / program[0], *program[1:]], uid=1000, check=False, reads_everything=True)

        assert done.returncode == 3, (program, done.stdout, done.stderr)
        assert "NET_ADMIN" in done.stdout + done.stderr
        assert "will be cut" not in done.stderr
        assert "Traceback" not in done.stderr


def test_another_namespace_by_path_and_by_process(netns: NamespaceFactory) -> None:
    here, there = netns("here"), netns("there")
    process = there.popen(["sleep", "60"])

    run(here, "capture", "apply", "--pid", str(process.pid))

    assert "no rules of the capture" in run(here, "capture", "dump").stderr
    assert "ISTIO-OUTPUT" in run(there, "capture", "dump").stdout
    assert "ISTIO-OUTPUT" in run(here, "capture", "dump", "--netns", f"/proc/{process.pid}/ns/net").stdout
    run(here, "capture", "clean", "--netns", f"/proc/{process.pid}/ns/net")
    assert "no rules of the capture" in run(there, "capture", "dump").stderr


# --- apply, dump, verify, clean --------------------------------------------------------------------


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
    foreign, missing = printed.splitlines()[1:]
    assert foreign.startswith("  IPv4 nat OUTPUT, rule 1: foreign rule precedes ours and diverts captured traffic")
    assert "-p tcp -m tcp --dport 443 -j ACCEPT (tcp, port 443, user other than 1337" in foreign
    assert missing.startswith("  IPv6 nat ISTIO-INBOUND, rule 1 is missing: -p tcp -m tcp --dport 15008 -j RETURN")

    assert run(namespace, "capture", "verify", "--family", "ipv6", code=4).stdout.splitlines()[1:] == [missing]
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


def test_dump_prints_json(netns: NamespaceFactory) -> None:
    namespace = netns()
    assert json.loads(run(namespace, "capture", "dump", "--format", "json").stdout) == {
        "schema": "capture/v1",
        "as_asked": None,
        "certain": None,
        "differences": [],
        "rejected_families": [],
        "tables": [],
    }
    assert json.loads(run(namespace, "capture", "verify", "--format", "json", code=4).stdout)["as_asked"] is False
    run(namespace, "capture", "apply")

    assert "has no rules in this part" in run(namespace, "capture", "dump", "--table", "raw").stderr
    dumped = json.loads(run(namespace, "capture", "dump", "--format", "json", "--family", "ipv6").stdout)

    (table,) = dumped["tables"]
    assert (table["backend"], table["variant"], table["family"], table["table"]) == ("iptables", "nft", "ipv6", "nat")
    chains = {chain["chain"]: chain for chain in table["chains"]}
    assert chains["PREROUTING"]["policy"] == "ACCEPT"
    assert chains["ISTIO-REDIRECT"] == {
        "chain": "ISTIO-REDIRECT",
        "references": 1,
        "rules": [
            {
                "packets": 0,
                "bytes": 0,
                "target": "REDIRECT",
                "prot": "tcp",
                "opt": "--",
                "in": "*",
                "out": "*",
                "source": "::/0",
                "destination": "::/0",
                "extra": "redir ports 15001",
                "rule": "-p tcp -j REDIRECT --to-ports 15001",
                "more": [],
            }
        ],
    }


@pytest.mark.parametrize(("backend", "driver", "variant"), DRIVERS)
def test_a_saved_dump_can_be_restored(netns: NamespaceFactory, backend: str, driver: str, variant: str) -> None:
    namespace, ipv4, native = netns(), netns(), netns()
    run(namespace, "capture", "apply", *choice(backend, driver, variant))

    saved = run(namespace, "capture", "dump", "--format", "save", "--family", "ipv4").stdout
    ipv4.run(["iptables-nft-restore"], stdin=saved)
    script = run(namespace, "capture", "dump", "--format", "nft").stdout
    native.run(["nft", "-f", "-"], stdin=script)

    expected = rows(run(namespace, "capture", "dump", "--family", "ipv4", "--table", "nat").stdout)
    assert rows(run(ipv4, "capture", "dump", "--family", "ipv4", "--table", "nat").stdout) == expected
    assert rows(run(native, "capture", "dump", "--family", "ipv4", "--table", "nat").stdout) == expected


def test_counters_of_real_traffic(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    pod.listener(("0.0.0.0", 15001), uid=1337)
    run(pod, "capture", "apply")

    for _ in range(3):
        pod.client(1000).connect(peer.ipv4, 80)

    lines = run(pod, "capture", "dump", "--family", "ipv4", "--table", "nat").stdout.splitlines()
    assert "    3   180 ISTIO-REDIRECT  all  --  *      *       0.0.0.0/0            0.0.0.0/0" in lines


def test_foreign_rules_stay_and_are_shown(netns: NamespaceFactory) -> None:
    namespace = netns()
    namespace.run(["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth9", "-j", "MASQUERADE"])
    before = state(namespace)

    run(namespace, "capture", "apply")
    assert "MASQUERADE" in run(namespace, "capture", "dump").stdout
    run(namespace, "capture", "verify")
    run(namespace, "capture", "clean")

    assert state(namespace) == before


# --- render ---------------------------------------------------------------------------------------


def test_render_needs_neither_privilege_nor_kernel(netns: NamespaceFactory) -> None:
    namespace = netns()
    before = state(namespace)

    rendered = namespace.run([PROGRAMS / "capture", "render"], uid=1000, reads_everything=True).stdout

    headings = [line for line in rendered.splitlines() if line.startswith("# ")]
    assert any("iptables" in heading for heading in headings)
    assert any("nft" in heading for heading in headings)
    assert state(namespace) == before


@pytest.mark.parametrize("profile", ["classic", "current"])
def test_rendered_rules_can_be_piped(netns: NamespaceFactory, profile: str) -> None:
    options = ["--profile", profile, "-m", "TPROXY", "--redirect-dns", "--capture-all-dns", "--drop-invalid"]
    namespace, iptables, native = netns(), netns(), netns()

    for family, restore in (("ipv4", "iptables-restore"), ("ipv6", "ip6tables-restore")):
        text = run(namespace, "capture", "render", "--backend", "iptables", "--family", family, *options).stdout
        iptables.run([restore, "--noflush"], stdin=text)
    native.run(["nft", "-f", "-"], stdin=run(namespace, "capture", "render", "--backend", "nftables", *options).stdout)

    run(namespace, "capture", "apply", "--backend", "iptables", *options)
    shown = run(namespace, "capture", "dump").stdout.partition("\n# in sync")[0]
    assert run(iptables, "capture", "dump").stdout.rstrip() == shown.rstrip()
    run(namespace, "capture", "apply", "--backend", "nftables", *options)
    shown = run(namespace, "capture", "dump").stdout.partition("\n# in sync")[0]
    assert run(native, "capture", "dump").stdout.rstrip() == shown.rstrip()


# --- doctor ---------------------------------------------------------------------------------------


def test_doctor_changes_nothing_and_says_what_auto_picks(netns: NamespaceFactory) -> None:
    namespace = netns()
    before = state(namespace)

    report = json.loads(run(namespace, "capture", "doctor", "--format", "json").stdout)
    printed = run(namespace, "capture", "doctor").stdout

    assert state(namespace) == before
    assert report["works"] is True
    by_name = {finding["name"]: finding for finding in report["findings"]}
    assert by_name["backend"]["says"].startswith("auto takes iptables-nft with the driver ")
    assert by_name["identity"]["says"].endswith("not the host's own")
    assert "auto takes iptables-nft" in printed
    assert all(name in printed for name in by_name)  # a pipe gets them all
    assert {"nf_tables", "nft_compat and xt_owner", "legacy tables", "IPv6", "nft", "lock"} <= set(by_name)


def test_doctor_sees_our_rules_in_two_places(netns: NamespaceFactory) -> None:
    namespace = netns()
    run(namespace, "capture", "apply", "--backend", "nftables")
    rules = run(namespace, "capture", "render", "--backend", "iptables", "--family", "ipv4").stdout
    namespace.run(["iptables-restore", "--noflush"], stdin=rules)

    printed = run(namespace, "capture", "doctor", code=4).stdout

    assert "second-set" in printed
    assert "there are several rule sets of the capture; expected one" in printed
    assert "a second set of capture rules is in iptables-nft" in run(namespace, "capture", "verify", code=4).stdout


# --- how programs end -------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error(netns: NamespaceFactory) -> None:
    namespace = netns()
    run(namespace, "capture", "apply")

    done = namespace.run(
        ["bash", "-c", f"{PROGRAMS / 'capture'} dump --format json | head -c 1; echo ${{PIPESTATUS[0]}}"]
    )

    assert done.stdout.strip("{").strip() in ("0", "141")  # all of it may have fit into the pipe
    assert done.stderr == ""


def test_trace_shows_a_table_and_refuses_another_family(netns: NamespaceFactory) -> None:
    namespace = netns()
    run(namespace, "capture", "apply", "--istio-inbound-interception-mode", "TPROXY")
    packet = ("trace", "tcp", "10.1.2.3:80", "--in", "eth0")

    shown = {table: run(namespace, "capture", *packet, "--table", table).stdout for table in ("nat", "mangle")}
    refused = run(namespace, "capture", *packet, "--family", "ipv6", code=2)
    by_why = run(namespace, "capture", "why", *packet[1:], code=4).stderr

    assert "mangle PREROUTING" in shown["mangle"]
    assert "PREROUTING" not in shown["nat"]
    assert [text.count("proxy-inbound:") for text in shown.values()] == [1, 1]
    assert "of family ipv4, not ipv6" in refused.stderr
    assert "warning: --in: the pod has no interface eth0 now (it has: only lo)" in by_why
    assert "eth0 now" not in run(namespace, "capture", *packet, "--from-options").stderr


def test_render_takes_the_facts_of_a_pod(pod_pair: PodPair) -> None:
    pod_pair.pod.run(["ip", "-6", "address", "flush", "dev", "eth0"])
    words = ("capture", "render", "--ip-families", "mesh", "--backend", "iptables", "--format", "json")

    rendered = {here: run(pod_pair.pod, *words, *here).stdout for here in ((), ("--netns", "/proc/self/ns/net"))}

    assert [text.count("ISTIO-INBOUND - ") for text in rendered.values()] == [2, 1]


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
