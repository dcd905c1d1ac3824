"""Where packets go whose mark a rule has changed: the policy rules of routing by marks (ip-rule(8)). Pure.

A process' packet is routed before the first chain. It is routed again behind a chain that changed its mark, if that is
iptables' mangle OUTPUT or of nf_tables' type route (ipt_mangle_out() in iptable_mangle.c, nft_chain_route.c); and where
nat sent it to another address. ip_route_me_harder() gives up packets that a route refuses::

    mark 5 --(100: from all fwmark 0x5 lookup 7)--> table 7 --(blackhole default)--> it is gone

An earlier policy rule without a mark has decided already on the addresses in its table, such as local ones.
One that is for a part of the packets has decided on these. It does not see their user: IPv4 takes 0 in its place.
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.addresses import BITS, Family, Network, gaps, merge_ranges, parse_network
from capture.model.packet import LOOPBACK, Packet
from capture.model.values import Value
from capture.netlink.policy_rules import FR_ACT_GOTO, FR_ACT_TO_TBL, REFUSING_ACTIONS, PolicyRule
from capture.netlink.routing import REFUSING_KINDS, RTN_LOCAL, RTN_THROW, TableRoute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Interval = tuple[int, int]
    RouteTarget = tuple[int, int, str | None]
    """Addresses from the first to the last, and the interface that leads to them; None where they are refused."""

UNCHANGED = ""
"""In the place of an interface: packets leave as they would without the policy rule."""


class MarkRoute(Value):
    """A policy rule that looks at the mark, or at a part of the packets, and where it leads.

    ``words`` are those of ip-rule(8). ``is_certain`` is False if it looks at something else than mark and addresses.
    """

    family: Family
    mark: int
    mask: int
    is_inverted: bool
    words: str
    targets: tuple[RouteTarget, ...]
    is_certain: bool = True
    source: Network | None = None
    """The only one whose packets are meant."""

    def is_for(self, packet: Packet) -> bool:
        """Return whether packets with its mark and its source are meant."""
        is_from = self.source is None or (packet.source is not None and self.source.contains(packet.source.first))
        return is_from and (packet.mark & self.mask == self.mark) != self.is_inverted

    def target_of(self, address: Network) -> RouteTarget | None:
        """Return where an address lies in what it leads to; None if it does not lead there."""
        return next((target for target in self.targets if target[0] <= address.first <= target[1]), None)


def mark_routes(
    family: Family, rules: Iterable[PolicyRule], routes: Sequence[TableRoute], names: Mapping[int, str]
) -> Iterator[MarkRoute]:
    """Yield what policy rules of a family do by marks, and those before them; ``names`` are those of the interfaces."""
    decided: list[Interval] = []
    for rule in rules:
        # What the pod sends comes in via lo, for these rules (fib_rule_match() in net/core/fib_rules.c).
        if rule.incoming not in ("", LOOPBACK) and not rule.is_inverted:
            continue
        targets = list(_route_targets(rule, routes, names, family))
        # It looks at nothing but mark and addresses; if inverted, at the mark alone.
        is_certain = not (rule.others or rule.type_of_service) and not (rule.is_inverted and rule.selector)
        if rule.destination and is_certain:
            destination = parse_network(rule.destination)
            targets = _without_decided(
                targets, _undecided_parts(*_all_addresses(family), [(destination.first, destination.last)])
            )
        if rule.mask or rule.source or not is_certain:
            is_inverted = rule.is_inverted and is_certain
            mask = rule.mask if is_inverted == rule.is_inverted else 0  # else it may be for any mark
            source = parse_network(rule.source) if rule.source and is_certain else None
            undecided = tuple(_without_decided(targets, decided))
            yield MarkRoute(family, rule.mark & mask, mask, is_inverted, str(rule), undecided, is_certain, source)
        elif not rule.is_inverted:
            decided = merge_ranges([*decided, *[(first, last) for first, last, _ in targets]])


def _without_decided(targets: Iterable[RouteTarget], known: Sequence[Interval]) -> list[RouteTarget]:
    return [(*piece, target) for first, last, target in targets for piece in _undecided_parts(first, last, known)]


def _route_targets(
    rule: PolicyRule, routes: Iterable[TableRoute], names: Mapping[int, str], family: Family
) -> Iterator[RouteTarget]:
    """Yield where a policy rule leads: by the longest prefix in its table, apart from each other."""
    if rule.action in REFUSING_ACTIONS:
        yield (*_all_addresses(family), None)
    if rule.action == FR_ACT_GOTO:
        yield (*_all_addresses(family), UNCHANGED)
    if rule.action != FR_ACT_TO_TBL:
        return
    shortest = 0 if rule.suppress_prefixlength is None else rule.suppress_prefixlength + 1
    in_table = [route for route in routes if route.table == rule.table and route.prefix >= shortest]
    known: list[Interval] = []
    for route in sorted(in_table, key=lambda route: (-route.prefix, route.metric)):
        first, last = route.first, route.first | (1 << BITS[family] - route.prefix) - 1
        interface = LOOPBACK if route.kind == RTN_LOCAL else names.get(route.interface, UNCHANGED)
        if route.kind != RTN_THROW:
            for piece in _undecided_parts(first, last, known):
                yield (*piece, None if route.kind in REFUSING_KINDS else interface)
        known = merge_ranges([*known, (first, last)])


def _all_addresses(family: Family) -> Interval:
    return 0, (1 << BITS[family]) - 1


def _undecided_parts(first: int, last: int, known: Iterable[Interval]) -> list[Interval]:
    return gaps(
        [(max(low, first), min(high, last)) for low, high in known if low <= last and high >= first], first, last
    )


# --- the marks of a capture ----------------------------------------------------------------------


def routed_marks(ruleset: model.Ruleset) -> set[int]:
    """Return the marks that lead packets to a transparent proxy."""
    return {policy.mark for policy in ruleset.policy_routes} or {each.mark for each in ruleset.transparent_verdicts}


def is_led_to_proxy(packet: Packet, ruleset: model.Ruleset) -> bool:
    """Return whether it leaves with a mark that leads back to the proxy, or its connection has kept one."""
    leaves, marks = packet.out_interface not in (None, LOOPBACK), routed_marks(ruleset)
    return (leaves and packet.mark in marks) or packet.connection_mark in marks


def foreign_routes(routes: Sequence[MarkRoute], ruleset: model.Ruleset) -> tuple[MarkRoute, ...]:
    """Return the routes by marks; those of the capture lead nowhere else here: a fate tells by itself who is marked."""
    exact = (each for each in routes if each.mask == model.ALL_BITS and not each.is_inverted)
    own = [each for each in exact if each.mark in routed_marks(ruleset)]
    if all(each in own or not each.mask for each in routes):
        return ()
    everywhere = {each.family: ((*_all_addresses(each.family), UNCHANGED),) for each in own}
    return tuple(each.replace(targets=everywhere[each.family]) if each in own else each for each in routes)
