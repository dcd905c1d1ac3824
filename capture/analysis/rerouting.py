"""Where packets go whose mark a rule has changed: the policy rules of routing by marks (ip-rule(8)). Pure.

A process' packet is routed before the first chain. It is routed again behind a chain that changed its mark, if that is
iptables' mangle OUTPUT or of nf_tables' type route (ipt_mangle_out() in iptable_mangle.c, nft_chain_route.c); and where
nat sent it to another address. ip_route_me_harder() gives up packets that a route refuses::

    mark 5 --(100: from all fwmark 0x5 lookup 7)--> table 7 --(blackhole default)--> it is gone

An earlier policy rule without a mark has decided already on the addresses in its table, such as local ones.
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.addresses import BITS, gaps, merge_ranges
from capture.model.values import Value
from capture.netlink.policy_rules import FR_ACT_TO_TBL, REFUSING_ACTIONS
from capture.netlink.routing import REFUSING_KINDS, RTN_LOCAL, RTN_THROW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from capture.model.addresses import Family, Network
    from capture.netlink.policy_rules import PolicyRule
    from capture.netlink.routing import TableRoute

    Range = tuple[int, int]
    Way = tuple[int, int, str | None]
    """Addresses from the first to the last, and the interface that leads to them; None where they are refused."""

UNCHANGED = ""
"""In the place of an interface: packets leave as they would without the policy rule."""
OF_THIS_HOST = "iif lo"
"""The selector of packets that the pod sends itself (fib_rule_match() in net/core/fib_rules.c)."""


class MarkRoute(Value):
    """A policy rule that looks at the mark, and where it leads; ``words`` are those of ip-rule(8).

    ``is_certain`` is False if it looks at something else, too.
    """

    family: Family
    mark: int
    mask: int
    is_inverted: bool
    words: str
    ways: tuple[Way, ...]
    is_certain: bool = True

    def is_for(self, mark: int) -> bool:
        """Return whether packets with a mark are meant."""
        return (mark & self.mask == self.mark) != self.is_inverted

    def way_to(self, address: Network) -> Way | None:
        """Return where an address lies in what it leads to; None if it does not lead there."""
        return next((way for way in self.ways if way[0] <= address.first <= way[1]), None)


def mark_routes(
    family: Family, rules: Iterable[PolicyRule], routes: Sequence[TableRoute], names: Mapping[int, str]
) -> Iterator[MarkRoute]:
    """Yield what policy rules of a family do by marks, in their order; ``names`` are those of the interfaces."""
    bits = BITS[family]
    decided: list[Range] = []
    for rule in rules:
        ways = list(_ways(rule, routes, names, bits))
        is_plain = rule.selector in ("", OF_THIS_HOST)
        if rule.mask:
            left = [(*piece, way) for first, last, way in ways for piece in _pieces(first, last, decided)]
            yield MarkRoute(
                family, rule.mark & rule.mask, rule.mask, rule.is_inverted, str(rule), tuple(left), is_plain
            )
        elif is_plain and not rule.is_inverted:
            decided = merge_ranges([*decided, *[(first, last) for first, last, _ in ways]])


def _ways(rule: PolicyRule, routes: Iterable[TableRoute], names: Mapping[int, str], bits: int) -> Iterator[Way]:
    """Yield where a policy rule leads: by the longest prefix in its table, apart from each other."""
    if rule.action in REFUSING_ACTIONS:
        yield 0, (1 << bits) - 1, None
    if rule.action != FR_ACT_TO_TBL:
        return
    shortest = -1 if rule.suppressed is None else rule.suppressed
    in_table = [each for each in routes if each.table == rule.table and each.prefix > shortest]
    known: list[Range] = []
    for each in sorted(in_table, key=lambda each: (-each.prefix, each.metric)):
        first, last = each.first, each.first | (1 << bits - each.prefix) - 1
        interface = "lo" if each.kind == RTN_LOCAL else names.get(each.interface, UNCHANGED)
        if each.kind != RTN_THROW:
            for piece in _pieces(first, last, known):
                yield (*piece, None if each.kind in REFUSING_KINDS else interface)
        known = merge_ranges([*known, (first, last)])


def _pieces(first: int, last: int, known: Iterable[Range]) -> list[Range]:
    """Return what of a range is in none of those that are known."""
    return gaps(
        [(max(low, first), min(high, last)) for low, high in known if low <= last and high >= first], first, last
    )


# --- the marks of a capture ----------------------------------------------------------------------


def routed_marks(ruleset: model.Ruleset) -> set[int]:
    """Return the marks that lead packets to a transparent proxy."""
    return {policy.mark for policy in ruleset.policy_routes} or {each.mark for each in transparent_rules(ruleset)}


def transparent_rules(ruleset: model.Ruleset) -> list[model.TransparentProxy]:
    """Return the verdicts that hand packets to a transparent proxy."""
    mangle = ruleset.table(model.MANGLE)
    rules = mangle.rules if mangle else ()
    return [rule.verdict for rule in rules if isinstance(rule.verdict, model.TransparentProxy)]


def foreign_routes(routes: Sequence[MarkRoute], ruleset: model.Ruleset) -> tuple[MarkRoute, ...]:
    """Return the routes by marks; those of the capture lead nowhere else here: a fate tells by itself who is marked."""
    own = [each for each in routes if _is_own(each, ruleset)]
    if len(own) == len(routes):
        return ()
    everywhere = {each.family: ((0, (1 << BITS[each.family]) - 1, UNCHANGED),) for each in own}
    return tuple(each.replace(ways=everywhere[each.family]) if each in own else each for each in routes)


def _is_own(route: MarkRoute, ruleset: model.Ruleset) -> bool:
    return route.mask == model.ALL_BITS and not route.is_inverted and route.mark in routed_marks(ruleset)
