"""What `dump` and `trace` print of live rules: as a table, as JSON, and as a text that can be restored."""

import json
import shlex

import pytest

from pytest_netns import NamespaceFactory, PodPair
from support.captures.commands import DRIVERS, PROGRAMS, choice, state
from support.processes.our_programs import run_program as run

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
