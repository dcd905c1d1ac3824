"""Sets of packets in words, and the most ordinary packet of each: a witness that is easy to recognise.

A set is described only as far as it differs among packets that can occur. A witness is mostly found without putting
long lists of rules in the place of their switches.
"""

from __future__ import annotations

from itertools import islice, pairwise

from capture.analysis.space import MARK_KINDS, PACKET_PROTOCOLS, Field, scattered_bits
from capture.model.addresses import LOOPBACK_ADDRESSES, Family, address_text, gaps, merge_ranges, networks_in_range
from capture.model.conventions import APP_ID, PROXY_ID
from capture.model.packet import EPHEMERAL_PORT, LOOPBACK
from capture.model.ruleset import CONNECTION_STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from capture.analysis.compiler import Direction
    from capture.analysis.space import MarkKind, PacketSpace
    from capture.model.packet import Packet

Intervals = tuple[tuple[int, int], ...]
Region = dict[int, Intervals]
"""The ranges, by level, that the packets of a part of a set share."""

OVER_LO = "over lo"
MAX_NAMED = 6
"""A longer list is printed as its first entries and a count."""
MAX_REGIONS = 2000
"""Parts of a set that are looked at to describe it."""


# --- a set without what is always true -----------------------------------------------------------


def _simplified_set(space: PacketSpace, packets: int, among: int) -> int:
    """Return a simpler set with the same packets among those that can occur.

    Other packets may be in it or not (the operator restrict of Coudert and Madre, 1990).
    """
    diagrams = space.diagrams

    memo: dict[tuple[int, int], int] = {}

    def simplified(node: int, frame: int) -> int:
        if frame == diagrams.no:
            return DONT_CARE
        if frame == diagrams.yes or diagrams.is_leaf(node):
            return node
        if (node, frame) not in memo:
            memo[node, frame] = simplified_children(node, frame)
        return memo[node, frame]

    def simplified_children(node: int, frame: int) -> int:
        level, bounds, columns = diagrams.aligned((node, frame))
        if diagrams.level(node) != level:  # a field that only ``frame`` tests
            return simplified(node, diagrams.any_of(diagrams.children(frame)))
        children = [simplified(*pair) for pair in columns]
        return diagrams.node(level, bounds, _without_dont_cares(children, [*bounds, space.domains[level][1]]))

    simple = simplified(packets, among)
    return diagrams.no if simple == DONT_CARE else simple


DONT_CARE = -1


def _without_dont_cares(children: list[int], ends: list[int]) -> list[int]:
    """Return the children with free ones like both their neighbours, else like the one that has most numbers."""
    sizes: dict[int, int] = {}
    for begin, end, child in zip([-1, *ends], ends, children, strict=False):
        sizes[child] = sizes.get(child, 0) + end - begin
    sizes.pop(DONT_CARE, None)
    usual = max(sizes, key=lambda child: (sizes[child], child))
    filled: list[int] = []
    for child, following in pairwise((*children, DONT_CARE)):
        between = following if filled and following == filled[-1] else usual
        filled.append(between if child == DONT_CARE else child)
    return filled


# --- words ---------------------------------------------------------------------------------------


def regions_of(space: PacketSpace, packets: int, among: int) -> list[Region]:
    """Return the parts of a set among packets that can occur, joined where they differ in one field only."""
    simple = _simplified_set(space, packets, among)
    return _joined_regions(list(islice(_regions_below(space, simple, {}), MAX_REGIONS)))


def _regions_below(space: PacketSpace, node: int, region: Region) -> Iterator[Region]:
    diagrams = space.diagrams
    if node == diagrams.no:
        return
    level = diagrams.level(node)
    if diagrams.is_leaf(node):
        yield region
        return
    leads: dict[int, list[tuple[int, int]]] = {}
    low, high = space.domains[level]
    for end, child in diagrams.edges(node):
        last = high if end is None else end
        leads.setdefault(child, []).append((low, last))
        low = last + 1
    for child, ranges in leads.items():
        yield from _regions_below(space, child, {**region, level: tuple(ranges)})


def _joined_regions(regions: list[Region]) -> list[Region]:
    for level in sorted({level for region in regions for level in region}, reverse=True):
        alike: dict[tuple[tuple[int, Intervals], ...], Region] = {}
        for region in regions:
            rest = tuple(sorted((other, ranges) for other, ranges in region.items() if other != level))
            known = alike.get(rest)
            if known is None:
                alike[rest] = region
            elif level in known and level in region:
                alike[rest] = {**known, level: tuple(merge_ranges((*known[level], *region[level])))}
            else:
                alike[rest] = dict(rest)
        regions = list(alike.values())
    return regions


def region_text(space: PacketSpace, region: Region) -> str:
    """Return a part of a set in words: "tcp to 203.0.113.0/24, port 80, user 1337"."""
    protocols = {number for ends in region.get(Field.PROTOCOL, ((0, 1),)) for number in ends}
    words: str = "tcp and udp" if len(protocols) > 1 else PACKET_PROTOCOLS[protocols.pop()]
    for level, before, in_words_of in FIELD_TEXTS:
        if level in region and (text := in_words_of(space, level, region[level])):
            words += f"{before}{text}"
    return ", ".join((words, *_mark_texts(space, region)))


def is_leaving_pod(space: PacketSpace, region: Region) -> bool:
    """Return whether a part is what leaves the pod by any interface, but not over lo: ``region_text`` omits that."""
    ranges = region.get(Field.OUT, ())
    lo = space.number_of(LOOPBACK)
    may_be_lo = not ranges or any(first <= lo <= last for first, last in ranges)
    return not may_be_lo and not _interfaces_text(space, Field.OUT, ranges)


def is_over_lo(space: PacketSpace, region: Region) -> bool:
    """Return whether a part is what stays in the pod."""
    return _interfaces_text(space, Field.OUT, region.get(Field.OUT, ())) == OVER_LO


def _numbers_text(space: PacketSpace, level: int, ranges: Intervals) -> str:
    def spans(numbers: Iterable[tuple[int, int]]) -> Iterator[str]:
        return (str(first) if first == last else f"{first}-{last}" for first, last in numbers)

    return _ranges_text(ranges, space.domains[level][1], spans)


def _addresses_text(space: PacketSpace, level: int, ranges: Intervals) -> str:
    return _ranges_text(ranges, space.domains[level][1], lambda addresses: _network_texts(space.family, addresses))


def _ranges_text(ranges: Intervals, highest: int, texts: Callable[[Iterable[tuple[int, int]]], Iterable[str]]) -> str:
    """Return ranges in words, or what they leave out where that is less; "" if that is nothing."""
    shown = tuple((max(first, 0), last) for first, last in ranges if last >= 0)
    excluded = gaps(shown, 0, highest)
    if not shown:
        return "unknown"
    if not excluded:
        return ""
    if len(excluded) < len(shown) or _count_numbers(excluded) < _count_numbers(shown):
        return f"other than {_names_text([*texts(excluded)])}"
    return _names_text([*texts(shown)])


def _count_numbers(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _network_texts(family: Family, ranges: Iterable[tuple[int, int]]) -> Iterator[str]:
    for first, last in ranges:
        networks = list(networks_in_range(family, first, last))
        if len(networks) > 2:  # a range is shorter than many networks
            yield f"{address_text(family, first)}-{address_text(family, last)}"
        else:
            yield from (each.shown for each in networks)


def _interfaces_text(space: PacketSpace, level: int, ranges: Intervals) -> str:
    """Return by which interfaces; nothing for packets that leave the pod by any."""
    inside = {number for first, last in ranges for number in range(first, last + 1)}
    usable = space.usable_interfaces[level]
    names = [name for number, name in usable.items() if number in inside]
    if len(names) == len(usable):
        return ""
    if space.number_of(LOOPBACK) in inside:
        if not names:
            return OVER_LO
        if level == Field.OUT:  # what comes in over lo was sent by the pod, and is told as outbound
            names.insert(0, LOOPBACK)
    return f"{'in via' if level == Field.IN else 'out via'} {_names_text(names)}" if names else ""


def _states_text(_space: PacketSpace, _: int, ranges: Intervals) -> str:
    states = [CONNECTION_STATES[n] for first, last in ranges for n in range(first, last + 1)]
    usual = [state for state in states if state != "UNTRACKED"]
    return "" if len(usual) >= len(CONNECTION_STATES) - 1 else f"of a connection that is {' or '.join(usual)}"


FIELD_TEXTS = (
    (Field.DESTINATION, " to ", _addresses_text),
    (Field.PORT, ", port ", _numbers_text),
    (Field.SOURCE, ", from ", _addresses_text),
    (Field.SOURCE_PORT, ", from port ", _numbers_text),
    (Field.UID, ", user ", _numbers_text),
    (Field.GID, ", group ", _numbers_text),
    (Field.IN, ", ", _interfaces_text),
    (Field.OUT, ", ", _interfaces_text),
    (Field.STATE, ", ", _states_text),
)
"""How the fields of a set of packets read, in this order."""


def _mark_texts(space: PacketSpace, region: Region) -> Iterator[str]:
    """Yield which marks the packet and its connection have, in those bits that matter."""
    kinds: tuple[tuple[MarkKind, str], ...] = (("mark", "mark"), ("connection", "connection mark"))
    for kind, words in kinds:
        value = mask = 0
        is_single_value = True
        for group, bits in enumerate(space.groups):
            ranges = region.get(Field.COUNT + len(MARK_KINDS) * group + MARK_KINDS.index(kind))
            if ranges is not None:
                is_single_value &= len(ranges) == 1 and ranges[0][0] == ranges[0][1]
                value |= scattered_bits(ranges[0][0], bits)
                mask |= scattered_bits((1 << len(bits)) - 1, bits)
        if mask:
            shown = f"{value:#x}" if mask == 0xFFFF_FFFF else f"{value:#x}/{mask:#x}"  # all bits
            yield f"{words} {shown}" if is_single_value else f"some {words}s"


def _names_text(names: list[str]) -> str:
    if len(names) > MAX_NAMED:
        return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more"
    return ", ".join(names)


# --- the most ordinary packet of a set -----------------------------------------------------------

EXAMPLE_ADDRESSES = {"ipv4": (0xCB007107, 0xC6336407), "ipv6": (0x20010DB8 << 96 | 7, 0x20010DB8 << 96 | 9)}
"""203.0.113.7 and 198.51.100.7, 2001:db8::7 and 2001:db8::9: a destination and a source (RFC 5737, RFC 3849)."""
USUAL_IDS = (APP_ID, PROXY_ID, 0)


MAX_SWITCH_CASES = 8
"""Verdicts of long lists that are tried before the lists are put in."""
MAX_STEPS = 20_000
"""Numbers that are tried for one of them."""


def witness(space: PacketSpace, packets: int, direction: Direction) -> Packet | None:
    """Return the most ordinary packet of a set; None if the set is empty."""
    for nodes, targets in islice(_switch_cases(space, packets, (), ()), MAX_SWITCH_CASES):
        numbers = _Search(space, targets, direction).below(nodes, [])
        if numbers is not None:
            return space.packet(numbers)
    whole = space.switches.expanded(packets)
    numbers = None if whole == space.diagrams.no else _Search(space, (), direction).below((whole,), [])
    return None if numbers is None else space.packet(numbers)


def _ordinary_numbers(space: PacketSpace, direction: Direction) -> dict[int, tuple[int, ...]]:
    """Return by level what a field mostly is, the most ordinary first."""
    destination, source = EXAMPLE_ADDRESSES[space.family]
    own = (address.first for address in space.network.own_addresses(space.family))
    addresses = (*own, LOOPBACK_ADDRESSES[space.family].first)
    is_inbound = direction == "inbound"
    outward = (space.number_of(space.network.interface),)
    return {
        Field.IN: outward,
        Field.OUT: outward,
        Field.UID: USUAL_IDS,
        Field.GID: USUAL_IDS,
        Field.STATE: (CONNECTION_STATES.index("NEW"), CONNECTION_STATES.index("ESTABLISHED")),
        Field.PORT: (80, 443, 8080),
        Field.SOURCE_PORT: (EPHEMERAL_PORT,),
        Field.DESTINATION: addresses if is_inbound else (destination, *addresses),
        Field.SOURCE: (source, destination) if is_inbound else (*addresses, source),
    }


def _switch_cases(
    space: PacketSpace, node: int, lists: tuple[int, ...], leaves: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield a set without switches, with the lists that have to lead to certain leaves, and these."""
    if space.diagrams.level(node) >= 0:
        if node != space.diagrams.no:
            yield (node, *lists), leaves
        return
    long_list, functions = space.switches.list_and_targets(node)
    for leaf, child in functions.items():
        yield from _switch_cases(space, child, (*lists, long_list), (*leaves, leaf))


class _Search:
    """The search, field by field, for a packet of a set that lists lead to their targets.

    It looks at each field once where there are no lists: only these may lead to none of their targets further down.
    """

    def __init__(self, space: PacketSpace, targets: tuple[int, ...], direction: Direction) -> None:
        self.space = space
        self.diagrams = space.diagrams
        self.targets = targets
        self.ordinary = _ordinary_numbers(space, direction)
        self.steps = 0
        self.failed: set[tuple[int, ...]] = set()

    def below(self, nodes: tuple[int, ...], numbers: list[int]) -> list[int] | None:
        """Return the numbers with those of the further fields; None if there are none, or too many were tried."""
        level = len(numbers)
        if level == self.space.first_unknown_level:
            return numbers + [0] * (len(self.space.domains) - level)
        if (level, *nodes) in self.failed:
            return None
        for number in self._candidate_numbers(level, nodes, numbers):
            self.steps += 1
            if self.steps > MAX_STEPS:
                return None
            children = tuple(self.diagrams.cofactor(node, level, number) for node in nodes)
            if self._can_lead_to_targets(children):
                fitting = self.below(children, [*numbers, number])
                if fitting is not None:
                    return fitting
        self.failed.add((level, *nodes))
        return None

    def _can_lead_to_targets(self, nodes: tuple[int, ...]) -> bool:
        lists = zip(nodes[1:], self.targets, strict=True)
        is_open = all(node == leaf or not self.diagrams.is_leaf(node) for node, leaf in lists)
        return is_open and nodes[0] != self.diagrams.no

    def _candidate_numbers(self, level: int, nodes: tuple[int, ...], numbers: list[int]) -> Iterator[int]:
        """Yield one number of each interval, the most ordinary ones first."""
        low, high = self.space.domains[level]
        ordinary = self.ordinary.get(level, ())
        if level == Field.GID:
            ordinary = (numbers[Field.UID], *ordinary)
        preferred = [number for number in (*ordinary, 0, low) if low <= number <= high]
        testing = [node for node in nodes if self.diagrams.level(node) == level]
        if not testing:
            yield preferred[0]
            return
        yield from preferred
        is_address = level in (Field.SOURCE, Field.DESTINATION)
        for node in testing:
            ends = [end for end, _ in self.diagrams.edges(node) if end is not None]
            for end, last in pairwise((*ends, high)):
                # The first address of a network is no host's.
                yield end + 2 if is_address and end + 2 <= last else end + 1
