"""From the model to native rules: what is written, what is left out, what is refused."""

import pytest

from capture.backends.nf_tables.names import Hook
from capture.backends.nf_tables.native import Among
from capture.backends.nftables.lower import MAX_NFT_COMMENT_BYTES, lower, lower_rule
from capture.model.addresses import FAMILIES, IPV4, IPV6
from capture.model.ruleset import (
    INPUT,
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    RAW,
    Chain,
    ConnectionState,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Match,
    OwnerUid,
    Protocol,
    Return,
    Rule,
    Ruleset,
    Source,
    Table,
    TableName,
    UnknownMatch,
    UnknownVerdict,
    only,
)
from support.rules.nftables_cases import networks

BOTH = Ruleset(FAMILIES, ())


def test_only_base_chains_that_do_something_are_made() -> None:
    raw = Table(RAW, (Chain(PREROUTING, (), "ACCEPT"), Chain(OUTPUT, (), "ACCEPT")))
    mangle = Table(MANGLE, (Chain(PREROUTING, (), "DROP"), Chain(OUTPUT, (Rule(Return()),), "ACCEPT"), Chain("OWN")))

    (table,) = lower(Ruleset(FAMILIES, (raw, mangle)))

    assert [(chain.name, chain.policy) for chain in table.chains] == [
        ("prerouting", "DROP"),
        ("output", "ACCEPT"),
        ("OWN", None),
    ]


def test_a_rule_of_another_family_is_left_out() -> None:
    of_ipv4 = Ruleset((IPV4,), ())

    assert not list(lower_rule(Rule(Return(), (), IPV6), of_ipv4))
    assert not list(lower_rule(Rule(Return(), (Source(networks("::1")),)), of_ipv4))


def test_an_address_says_the_family() -> None:
    explicit, implied = (Rule(Return(), (Source(networks("::1")),), family) for family in (IPV6, None))

    assert list(lower_rule(explicit, BOTH)) == list(lower_rule(implied, BOTH))


def test_the_order_of_matches_does_not_matter() -> None:
    matches = (Protocol("tcp"), DestinationPort((only(80),)), InInterface("lo"), Source(networks("10.0.0.1")))

    assert list(lower_rule(Rule(Return(), matches), BOTH)) == list(lower_rule(Rule(Return(), matches[::-1]), BOTH))


def test_networks_are_merged() -> None:
    (native,) = lower_rule(Rule(Return(), (Source(networks("10.0.0.1", "10.0.0.0", "10.0.0.2/31")),)), BOTH)

    assert Among("ip saddr", ((0x0A000000, 0x0A000003),)) in native.conditions


def test_a_comment_is_cut_between_characters() -> None:
    commented = Ruleset(FAMILIES, (), has_comments=True)

    (native,) = lower_rule(Rule(Return(), why="ü" * 100), commented)

    assert native.comment == "ü" * (MAX_NFT_COMMENT_BYTES // 2)


@pytest.mark.parametrize(
    ("match", "complaint"),
    [
        (DestinationPort((only(80),)), "a port without a protocol"),
        (Source(()), "no networks"),
        (OwnerUid(()), "no numbers"),
        (ConnectionState(()), "no connection states"),
        (InInterface("+"), "an empty name"),
        (UnknownMatch("fib daddr type local"), "a foreign rule"),
    ],
)
def test_a_match_that_nf_tables_cannot_express_is_refused(match: Match, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        list(lower_rule(Rule(Return(), (match,)), BOTH))


def test_the_verdict_of_a_foreign_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="a foreign rule"):
        list(lower_rule(Rule(UnknownVerdict("queue")), BOTH))


@pytest.mark.parametrize(
    "matches", [(Destination(networks("::1")),), (Source(networks("::1")), Destination(networks("1.1.1.1")))]
)
def test_a_rule_that_contradicts_itself_is_refused(matches: tuple[Match, ...]) -> None:
    with pytest.raises(ValueError, match="address of ipv"):
        list(lower_rule(Rule(Drop(), matches, IPV4), BOTH))


@pytest.mark.parametrize(
    ("table", "name", "hook"),
    [
        (NAT, INPUT, Hook("nat", "input", 100)),
        (NAT, OUTPUT, Hook("nat", "output", -100)),
        (MANGLE, OUTPUT, Hook("route", "output", -150)),
        (RAW, PREROUTING, Hook("filter", "prerouting", -300)),
    ],
)
def test_a_built_in_chain_has_its_hook(table: TableName, name: str, hook: Hook) -> None:
    built_in = Table(table, (Chain(name, (Rule(Return()),), "ACCEPT"),))

    ((chain,),) = (lowered.chains for lowered in lower(Ruleset(FAMILIES, (built_in,))))

    assert chain.hook == hook
