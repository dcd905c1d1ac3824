"""Where packets go by their marks: what each table of routes leads to, and what earlier policy rules have decided."""

from __future__ import annotations

from typing import Any

import pytest

from capture.analysis.rerouting import UNCHANGED, MarkRoute, foreign_routes, mark_routes, routed_marks
from capture.model.addresses import parse_address, parse_network
from capture.model.packet import Packet
from capture.model.ruleset import ALL_BITS, MANGLE, PREROUTING, Accept, Chain, Rule, Ruleset, Table, TransparentProxy
from capture.netlink.policy_rules import FR_ACT_GOTO, FR_ACT_NOP, FR_ACT_TO_TBL, REFUSING_ACTIONS, PolicyRule
from capture.netlink.routing import REFUSING_KINDS, RTN_LOCAL, RTN_THROW, RTN_UNICAST, TableRoute
from capture.settings import options as option
from support.captures.fake_pod import ruleset_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.rerouting import RouteTarget

LAST = (1 << 32) - 1
TEN, ELEVEN = 10 << 24, 11 << 24
"""10.0.0.0 and 11.0.0.0."""
NAMES = {2: "eth0", 3: "eth1"}
BY_MARK = PolicyRule(100, FR_ACT_TO_TBL, 7, 5, 0xFF, is_inverted=False)
DEFAULT = TableRoute(7, 0, 0, RTN_UNICAST, 2, 0)
TO_TEN = TableRoute(7, TEN, 8, RTN_UNICAST, 3, 0)
OF_POD = PolicyRule(0, FR_ACT_TO_TBL, 255, 0, 0, is_inverted=False)
POD_ADDRESS = TableRoute(255, TEN + 1, 32, RTN_LOCAL, 2, 0)
REST: list[RouteTarget] = [(0, TEN - 1, "eth0"), (ELEVEN, LAST, "eth0")]


def hole(address: int) -> TableRoute:
    """Return a route by which the table does not lead to an address."""
    return TableRoute(7, address, 32, RTN_THROW, 0, 0)


def targets(*routes: TableRoute, rules: tuple[PolicyRule, ...] = (BY_MARK,)) -> list[RouteTarget]:
    (found,) = mark_routes("ipv4", rules, routes, NAMES)
    return list(found.targets)


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ((), []),
        ((DEFAULT,), [(0, LAST, "eth0")]),
        ((DEFAULT.replace(table=8),), []),
        ((DEFAULT.replace(kind=RTN_LOCAL),), [(0, LAST, "lo")]),
        ((DEFAULT.replace(interface=9),), [(0, LAST, UNCHANGED)]),
        *(((DEFAULT.replace(kind=kind),), [(0, LAST, None)]) for kind in REFUSING_KINDS),
        ((DEFAULT, TO_TEN), [(TEN, ELEVEN - 1, "eth1"), *REST]),
        ((DEFAULT, TO_TEN.replace(kind=RTN_THROW)), REST),
        ((TO_TEN.replace(interface=2, metric=1), TO_TEN), [(TEN, ELEVEN - 1, "eth1")]),
        ((TO_TEN, hole(TEN)), [(TEN + 1, ELEVEN - 1, "eth1")]),
        ((TO_TEN, hole(ELEVEN - 1)), [(TEN, ELEVEN - 2, "eth1")]),
        ((TO_TEN, hole(TEN - 5), hole(ELEVEN + 5)), [(TEN, ELEVEN - 1, "eth1")]),
    ],
)
def test_a_table_leads_by_its_longest_prefix_and_lowest_metric(
    routes: tuple[TableRoute, ...], expected: list[RouteTarget]
) -> None:
    assert targets(*routes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"suppress_prefixlength": 0}, [(TEN, ELEVEN - 1, "eth1")]),
        ({"suppress_prefixlength": 7}, [(TEN, ELEVEN - 1, "eth1")]),
        ({"suppress_prefixlength": 8}, []),
        ({"action": FR_ACT_NOP}, []),
        ({"action": FR_ACT_GOTO}, [(0, LAST, UNCHANGED)]),
        *(({"action": action}, [(0, LAST, None)]) for action in REFUSING_ACTIONS),
    ],
)
def test_a_policy_rule_suppresses_or_refuses(changes: dict[str, int], expected: list[RouteTarget]) -> None:
    assert targets(DEFAULT, TO_TEN, rules=(BY_MARK.replace(**changes),)) == expected


@pytest.mark.parametrize(
    ("before", "decides"),
    [
        (OF_POD, True),
        (OF_POD.replace(incoming="lo"), True),
        (OF_POD.replace(destination="10.0.0.0/8"), True),
        (OF_POD.replace(destination="11.0.0.0/8"), False),
        (OF_POD.replace(incoming="eth0"), False),
        (OF_POD.replace(is_inverted=True), False),
    ],
)
def test_a_policy_rule_without_a_mark_decides_before(before: PolicyRule, *, decides: bool) -> None:
    left = [(0, TEN, "eth0"), (TEN + 2, LAST, "eth0")]
    assert targets(DEFAULT, POD_ADDRESS, rules=(before, BY_MARK)) == (left if decides else [(0, LAST, "eth0")])
    assert targets(DEFAULT, POD_ADDRESS, rules=(before, OF_POD.replace(action=6), BY_MARK)) == []


@pytest.mark.parametrize(
    ("changes", "is_certain", "source"),
    [
        ({"source": "10.0.0.0/8"}, True, "10.0.0.0/8"),
        ({"others": "uidrange ..."}, False, None),
        ({"source": "10.0.0.0/8", "is_inverted": True}, False, None),
    ],
)
def test_a_policy_rule_about_a_part_of_the_packets_decides_on_these(
    changes: dict[str, Any], *, is_certain: bool, source: str | None
) -> None:
    before = OF_POD.replace(**changes)
    found, by_mark = mark_routes("ipv4", (before, BY_MARK), (DEFAULT, POD_ADDRESS), NAMES)

    assert (found.mask, found.is_inverted, found.is_certain) == (0, False, is_certain)
    assert found.source == (parse_network(source) if source else None)
    assert (found.targets, by_mark.targets) == (((TEN + 1, TEN + 1, "lo"),), ((0, LAST, "eth0"),))
    packet = Packet("tcp", parse_address("10.0.0.9"), 80, source=parse_address("10.9.9.9"))
    assert found.is_for(packet)
    assert found.is_for(packet.replace(source=parse_address("11.0.0.1"))) == (source is None)


@pytest.mark.parametrize(
    ("changes", "is_certain"),
    [
        ({}, True),
        ({"incoming": "lo"}, True),
        ({"destination": "0.0.0.0/0", "source": "10.0.0.0/8"}, True),
        ({"others": "oif eth0"}, False),
        ({"others": "goto ..."}, False),
    ],
)
def test_further_conditions_make_a_policy_rule_uncertain(changes: dict[str, str], *, is_certain: bool) -> None:
    rule = BY_MARK.replace(mark=0x105, **changes)
    (found,) = mark_routes("ipv4", (rule,), (DEFAULT,), NAMES)
    assert (found.mark, found.mask, found.words, found.is_certain) == (5, 0xFF, str(rule), is_certain)


@pytest.mark.parametrize(("mark", "is_meant"), [(5, True), (0x105, True), (4, False), (0, False)])
def test_a_route_tells_which_marks_it_is_for(mark: int, *, is_meant: bool) -> None:
    route = MarkRoute("ipv4", 5, 0xFF, False, "", ())
    assert route.is_certain
    packet = Packet("tcp", parse_address("10.0.0.9"), 80, mark=mark)
    assert (route.is_for(packet), route.replace(is_inverted=True).is_for(packet)) == (is_meant, not is_meant)


@pytest.mark.parametrize(
    ("address", "place"),
    [("9.255.255.255", None), ("10.0.0.0", 0), ("10.255.255.255", 0), ("11.0.0.0", 1), ("12.0.0.0", None)],
)
def test_the_way_to_an_address(address: str, place: int | None) -> None:
    known = ((TEN, ELEVEN - 1, "eth0"), (ELEVEN, (12 << 24) - 1, None))
    found = MarkRoute("ipv4", 5, ALL_BITS, False, "", known).target_of(parse_address(address))
    assert found == (None if place is None else known[place])


def test_the_route_of_the_capture_itself_leads_nowhere_else() -> None:
    ruleset = ruleset_of({option.INTERCEPTION_MODE: "TPROXY"})
    own = MarkRoute("ipv4", 1337, ALL_BITS, False, "own", ((0, LAST, "lo"),))
    unlike = [own.replace(mark=5), own.replace(mask=0xFFFF), own.replace(is_inverted=True)]

    assert foreign_routes([own], ruleset) == foreign_routes([], ruleset) == ()
    assert foreign_routes([own, *unlike], ruleset) == (own.replace(targets=((0, LAST, UNCHANGED),)), *unlike)
    assert foreign_routes(unlike, ruleset) == tuple(unlike)


def test_marks_of_a_transparent_proxy_whose_routes_are_unknown() -> None:
    rules = (Rule(Accept()), Rule(TransparentProxy(15006, 7, ALL_BITS)))
    own, foreign = (
        Ruleset(("ipv4",), (Table(MANGLE, (Chain(name, rules),)),)) for name in ("ISTIO_TPROXY", PREROUTING)
    )

    assert routed_marks(own) == {7}
    assert routed_marks(foreign) == set()
    assert routed_marks(ruleset_of({option.INTERCEPTION_MODE: "TPROXY"})) == {1337}
    assert routed_marks(ruleset_of({})) == set()
