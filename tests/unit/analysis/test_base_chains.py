"""The order of base chains is that of the kernel, which is written here as its source has it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.analysis.base_chains import BaseChain, PodNetwork, Situation, base_chains_of_iptables
from capture.analysis.rerouting import MarkRoute
from capture.model.addresses import FAMILIES, parse_address
from capture.model.location import Location
from capture.model.ruleset import (
    ALL_BITS,
    FORWARD,
    INPUT,
    MANGLE,
    NAT,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    RAW,
    Chain,
    Jump,
    Rule,
    Ruleset,
    Table,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.rules.foreign import foreign_verdict

TRANSPARENT = build_ruleset(CaptureConfig(mode="TPROXY", captures_dns=True, captures_all_dns=True))
OWN = [("raw", -300, False), ("mangle", -150, False), ("nat", -100, True)]
Registered = tuple[str, int, bool]
"""A base chain as the kernel gets it: its table, its priority, and whether it is of type nat."""


def foreign(number: int, priority: int, *, is_nat: bool = False, is_older: bool = False, **more: bool) -> BaseChain:
    table = Table(NAT if is_nat else RAW, (Chain("x", (), "ACCEPT"),))
    return BaseChain(f"ip {number}", ("ipv4",), OUTPUT, priority, is_nat, table, is_older).replace(**more)


def in_kernel(registered: list[Registered]) -> list[str]:
    """Return tables in the order in which the kernel enters chains that are registered in this order.

    nf_hook_entries_grow puts a chain before the first one whose priority is not lower. Those of type nat share one
    entry at -100, and have the same order in it (nf_nat_register_fn).
    """
    entries: list[tuple[int, list[Registered]]] = []
    nat: list[Registered] = []
    for chain in registered:
        if chain[2]:
            nat.insert(sum(each[1] < chain[1] for each in nat), chain)
        if not chain[2] or len(nat) == 1:
            priority = -100 if chain[2] else chain[1]
            entries.insert(sum(each < priority for each, _ in entries), (priority, nat if chain[2] else [chain]))
    return [table for _, chains in entries for table, _, _ in chains]


@given(
    st.lists(st.tuples(st.sampled_from((-400, -300, -160, -150, -99, 0, 50)), st.booleans(), st.booleans()), max_size=8)
)
def test_base_chains_come_in_the_order_of_the_kernel(drawn: list[tuple[int, bool, bool]]) -> None:
    """The others are listed as the kernel lists them: of equal ones the newest first."""
    others = [
        foreign(number, priority, is_nat=is_nat, is_older=is_older)
        for number, (priority, is_nat, is_older) in enumerate(drawn)
    ]
    older, newer = (
        [(each.table, each.priority, each.is_nat) for each in reversed(others) if each.is_older == wanted]
        for wanted in (True, False)
    )
    met = Situation(TRANSPARENT, tuple(others)).base_chains(OUTPUT, "ipv4")
    assert [each.table for each in met] == in_kernel([*older, *OWN, *newer])


def test_a_filter_at_the_priority_of_nat_is_before_it_if_it_is_newer() -> None:
    others = (foreign(1, -100), foreign(2, -100, is_older=True), foreign(3, 50, is_nat=True))
    met = Situation(TRANSPARENT, others).base_chains(OUTPUT, "ipv4")
    assert [each.table for each in met] == ["raw", "mangle", "ip 1", "nat", "ip 3", "ip 2"]


def test_chains_at_another_hook_or_of_another_family_are_not_met() -> None:
    situation = Situation(TRANSPARENT, (foreign(1, 0),))
    assert [each.table for each in situation.base_chains(OUTPUT, "ipv6")] == ["raw", "mangle", "nat"]
    assert [each.table for each in situation.base_chains(PREROUTING, "ipv4")] == ["raw", "mangle"]
    assert [each.table for each in situation.base_chains(OUTPUT, "ipv4", with_nat=False)] == ["raw", "mangle", "ip 1"]


def test_packets_are_routed_again_behind_chains_of_type_route_at_output_only() -> None:
    others = tuple(foreign(1, 0).replace(hook=hook, is_route=True) for hook in (OUTPUT, PREROUTING))
    situation = Situation(TRANSPARENT, (*others, foreign(2, 0)))
    met = [each for hook in (OUTPUT, PREROUTING) for each in situation.base_chains(hook, "ipv4")]
    assert [(each.table, each.hook, each.is_own) for each in met if each.reroutes] == [
        ("mangle", OUTPUT, True),
        ("ip 1", OUTPUT, False),
    ]


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_chains_of_unknown_age_have_every_order_up_to_a_number(count: int) -> None:
    others = tuple(foreign(number, -150, is_age_unknown=True) for number in range(count))
    orders = list(Situation(TRANSPARENT, (foreign(9, 7, is_age_unknown=True), *others)).orders(OUTPUT, "ipv4"))
    assert len(orders) == len({tuple(known.items()) for known, _ in orders}) == 2 ** min(count, 3)
    for known, met in orders:
        tables = [each.table for each in met]
        assert sorted(tables) == sorted(["raw", "mangle", "nat", "ip 9", *(each.table for each in others)])
        for number, is_first in known.items():
            assert (tables.index(f"ip {number - 1}") < tables.index("mangle")) == is_first


@pytest.mark.parametrize(
    ("hook", "place", "is_first"), [(PREROUTING, "ingress", True), ("POSTROUTING", "egress", False)]
)
def test_chains_of_devices_are_first_or_last(hook: str, place: str, *, is_first: bool) -> None:
    device = foreign(1, 5).replace(hook=hook, devices=("eth0", "eth1"))
    others = (device, foreign(2, -500).replace(hook=hook), foreign(3, 500).replace(hook=hook))
    met = [each.table for each in Situation(TRANSPARENT, others).base_chains(hook, "ipv4")]
    assert met.index("ip 1") == (0 if is_first else len(met) - 1)
    assert device.hook_text == f"{place} of eth0, eth1"


@pytest.mark.parametrize(
    ("priority", "is_older", "hook", "is_tracked"),
    [(-201, True, OUTPUT, False), (-200, False, OUTPUT, False), (-200, True, OUTPUT, True), (-199, False, OUTPUT, True),
     (-300, False, "INPUT", True)],
)  # fmt: skip
def test_connection_tracking_has_seen_what_comes_behind_it(
    *, priority: int, is_older: bool, hook: str, is_tracked: bool
) -> None:
    assert foreign(1, priority, is_older=is_older).replace(hook=hook).is_tracked == is_tracked


def test_a_second_captures_chains_are_read_with_all_that_they_jump_to() -> None:
    jump = Rule(Jump("X"), why="of its program")
    chains = tuple(Chain(name, (jump,), "ACCEPT") for name in (PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING))
    ruleset = Ruleset(FAMILIES, tuple(Table(name, (*chains, Chain("X", ()))) for name in (MANGLE, NAT)))
    found = [*base_chains_of_iptables(ruleset, lambda table: table == NAT)]

    assert [(each.table, each.hook, each.priority, each.is_nat, each.is_route, each.is_older) for each in found] == [
        *[("mangle of iptables", hook, -150, False, True, False) for hook in (PREROUTING, INPUT, OUTPUT, POSTROUTING)],
        *[("nat of iptables", hook, -100, True, False, True) for hook in (PREROUTING, OUTPUT)],
    ]
    for each in found:
        assert each.chain == Chain(each.hook, (jump.replace(why=""),), "ACCEPT")
        assert [chain.name for chain in each.contents.chains[1:]] == [
            *(chain.name for chain in chains if chain.name != each.hook), "X",
        ]  # fmt: skip


def test_nat_at_postrouting_is_read_where_it_maps_to_an_address_that_it_names() -> None:
    maps = Rule(foreign_verdict("SNAT --to-source 10.0.0.1"))
    for rules, priorities in (((maps,), [100]), ((Rule(foreign_verdict("MASQUERADE")),), [])):
        chains = (Chain(INPUT, rules, "ACCEPT"), Chain(POSTROUTING, rules, "ACCEPT"))
        ruleset = Ruleset(FAMILIES, (Table(RAW, ()), Table(NAT, chains)))
        second = [*base_chains_of_iptables(ruleset, lambda _: False)]
        assert [(each.hook, each.priority, each.is_nat) for each in second] == [
            (POSTROUTING, priority, False) for priority in priorities
        ]
        assert all((each.is_native, each.place) == (False, ("iptables", "nft")) for each in second)
        own = Situation(ruleset)
        assert [(each.is_nat, each.contents.chains) for each in own.base_chains(POSTROUTING, "ipv4")] == [
            (False, chains[::-1]) for _ in priorities
        ]
        assert own.base_chains(INPUT, "ipv4") == ()


def test_a_situation_comes_in_each_order_that_is_possible_for_a_family() -> None:
    others = (
        foreign(1, -150, is_age_unknown=True),
        foreign(2, -149, is_age_unknown=True),  # of another priority than each of ours
        foreign(3, -150),
        foreign(4, -100, is_nat=True, is_age_unknown=True),
        foreign(5, -90, is_nat=True, is_age_unknown=True),
        foreign(6, -100, is_nat=True, is_age_unknown=True).replace(hook=PREROUTING),  # where our nat has no chain
    )
    situation = Situation(TRANSPARENT, others)
    first, *rest = situation.reordered_situations("ipv4")
    assert first is situation
    ages = [tuple(place for place, each in enumerate(one.other_chains) if each.is_older) for one in rest]
    assert sorted(ages) == [(0,), (0, 3), (3,)]
    assert [*situation.reordered_situations("ipv6")] == [situation]
    many = Situation(TRANSPARENT, tuple(foreign(number, -150, is_age_unknown=True) for number in range(9)))
    assert len([*many.reordered_situations("ipv4")]) == 64


@pytest.mark.parametrize(
    ("changes", "chain", "expected"),
    [
        ({}, "x", Location("ip 1", "x", 3, hook="hook OUTPUT, priority -5")),
        ({}, "y", Location("ip 1", "y", 3)),
        ({"place": ("nftables", "native")}, "y", Location("ip 1", "y", 3)),
        ({"table": "nat"}, "x", Location("nat", "x", 3, "ipv6")),
        ({"table": "nat of iptables", "place": ("iptables", "nft")}, "x", Location("nat of iptables", "x", 3, "ipv6")),
    ],
)
def test_a_rule_is_named_by_family_in_tables_that_both_families_have(
    changes: dict[str, Any], chain: str, expected: Location
) -> None:
    assert foreign(1, -5).replace(**changes).location(chain, 3, "ipv6") == expected
    assert foreign(1, -5).replace(**changes).location(chain) == expected.replace(position=0, family=None)


def test_another_base_chain_keeps_those_that_one_can_jump_to() -> None:
    chains = tuple(Chain(name, (), None) for name in ("x", "y", "z"))
    base = foreign(1, 0).replace(contents=Table(NAT, chains))
    changed = base.with_chain(Chain("x", (Rule(Jump("y")),)))
    assert changed.chain.rules == (Rule(Jump("y")),)
    assert changed.contents.chains[1:] == chains[1:]


def test_a_network_of_which_nothing_is_known_has_addresses_for_documentation() -> None:
    network = PodNetwork()
    assert network.own_addresses("ipv4") == (parse_address("192.0.2.2"),)
    assert network.own_addresses("ipv6") == (parse_address("2001:db8::2"),)
    assert network.interface == "eth0"
    here = network.replace(local=(parse_address("10.0.0.1"),))
    addresses = {"192.0.2.2": True, "10.0.0.1": True, "127.0.0.9": True, "::1": True, "10.0.0.2": False}
    assert {text: here.is_local(parse_address(text)) for text in addresses} == addresses
    assert not network.is_local(parse_address("10.0.0.1"))


def test_routes_by_marks_are_those_of_a_family() -> None:
    routes = tuple(MarkRoute(family, 5, ALL_BITS, False, "", ((0, 9, "net1"),)) for family in FAMILIES)
    situation = Situation(TRANSPARENT, network=PodNetwork(mark_routes=routes))
    assert [situation.mark_routes(family) for family in FAMILIES] == [routes[:1], routes[1:]]
