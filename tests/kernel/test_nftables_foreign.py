"""Chains of others beside ours: seen in the order in which packets meet them, with what they take away."""

from __future__ import annotations

import pytest

from capture.addresses import FAMILIES, IPV4
from capture.backends.nftables.foreign import ForeignChain, read_foreign_chains
from capture.backends.nftables.names import HOOKS, Hook
from capture.backends.nftables.netlink import NetlinkDriver
from capture.config import CaptureConfig
from capture.model import (
    NAT,
    OUTPUT,
    PREROUTING,
    Destination,
    DestinationPort,
    Drop,
    Protocol,
    Redirect,
    Rule,
    Ruleset,
    UnknownMatch,
    UnknownVerdict,
    only,
)
from capture.rules import build_ruleset
from nftables_cases import networks
from pytest_netns import Namespace, NamespaceFactory

pytestmark = pytest.mark.kernel

THEIRS = """
table ip theirs {
    set blocked { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.7 }; }
    chain first {
        type filter hook output priority -200
        ip daddr @blocked drop
        ip daddr 192.0.2.2 drop
        accept
    }
    chain last {
        type nat hook output priority -50
        tcp dport 80 redirect to :8080
    }
}
table inet theirs {
    chain input {
        type filter hook input priority 0
        drop
    }
    chain harmless {
        type filter hook prerouting priority -150
        meta mark set 5
        counter accept
    }
}
table ip6 closed {
    chain everything {
        type filter hook prerouting priority -310; policy drop
    }
}
"""


@pytest.fixture
def namespace(netns: NamespaceFactory) -> Namespace:
    return netns("shared")


def read(namespace: Namespace) -> dict[str, ForeignChain]:
    chains = namespace.call(read_foreign_chains)
    return {f"{chain.family} {chain.table} {chain.name}": chain for chain in chains}


def test_ours_are_not_foreign(namespace: Namespace) -> None:
    namespace.call(NetlinkDriver().write, build_ruleset(CaptureConfig()), Ruleset(FAMILIES, ()), None)

    assert read(namespace) == {}


def test_chains_in_the_order_of_packets(namespace: Namespace) -> None:
    namespace.run(["nft", "-f", "-"], stdin=THEIRS)
    chains = read(namespace)

    assert list(chains) == ["ip theirs first", "ip theirs last", "ip6 closed everything", "inet theirs harmless"]
    assert chains["ip theirs first"].hook == Hook("filter", "output", -200)
    assert [rule.rule for rule in chains["ip theirs first"].rules[:2]] == [
        Rule(Drop(), (UnknownMatch("ip daddr @blocked"),), IPV4),
        Rule(Drop(), (Destination(networks("192.0.2.2")),), IPV4),
    ]
    assert [rule.rule for rule in chains["ip theirs last"].rules] == [
        Rule(Redirect(8080), (Protocol("tcp"), DestinationPort((only(80),))), IPV4)
    ]


def test_what_they_take_away(namespace: Namespace) -> None:
    namespace.run(["nft", "-f", "-"], stdin=THEIRS)
    chains = read(namespace)

    assert {name for name, chain in chains.items() if chain.takes_away} == {
        "ip theirs first",
        "ip theirs last",
        "ip6 closed everything",
    }
    assert [rule.words for rule in chains["ip theirs first"].takers()] == [
        "ip daddr @blocked drop",
        "ip daddr 192.0.2.2 drop",
    ]


def test_what_is_before_ours(namespace: Namespace) -> None:
    namespace.run(["nft", "-f", "-"], stdin=THEIRS)
    chains = read(namespace)

    assert [name for name, chain in chains.items() if chain.is_before(HOOKS[NAT, OUTPUT])] == ["ip theirs first"]
    assert [name for name, chain in chains.items() if chain.is_before(HOOKS[NAT, PREROUTING])] == [
        "ip6 closed everything",
        "inet theirs harmless",
    ]


def test_rules_of_iptables_are_said_to_be_unknown(namespace: Namespace) -> None:
    namespace.run(
        [
            "iptables-nft",
            "-t",
            "nat",
            "-A",
            "OUTPUT",
            "-p",
            "tcp",
            "-m",
            "owner",
            "--uid-owner",
            "0",
            "-j",
            "REDIRECT",
            "--to-ports",
            "1",
        ]
    )

    (chain,) = read(namespace).values()

    assert (chain.family, chain.table, chain.name, chain.hook) == ("ip", "nat", "OUTPUT", HOOKS[NAT, OUTPUT])
    (rule,) = chain.takers()
    assert isinstance(rule.rule.verdict, UnknownVerdict)
    assert "owner" in rule.words
    assert "REDIRECT" in rule.words
