"""The most ordinary packet of a set: a witness that is easy to recognise.

A set in which long lists of rules are switches has one, too, and mostly it is found without the lists being put in.
"""

from __future__ import annotations

from itertools import islice

from capture.analysis.space import DESTINATION, GID, IN, OUT, PORT, SOURCE, SOURCE_PORT, STATE, UID
from capture.model.addresses import LOOPBACK_ADDRESSES
from capture.model.ruleset import CONNECTION_STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.analysis.compiler import Direction
    from capture.analysis.space import PacketSpace
    from capture.analysis.stations import PodNetwork

OUTSIDE = {"ipv4": (0xCB007107, 0xC6336407), "ipv6": (0x20010DB8 << 96 | 7, 0x20010DB8 << 96 | 9)}
"""203.0.113.7 and 198.51.100.7, 2001:db8::7 and 2001:db8::9: a destination and a source for examples (RFC 5737)."""
ORDINARY_PORTS = (80, 443, 8080)
ORDINARY_IDS = (1000, 1337, 0)
EPHEMERAL_PORT = 45000


def witness(space: PacketSpace, packets: int, network: PodNetwork, direction: Direction) -> list[int]:
    """Return the numbers of the most ordinary packet of a set without switches that is not empty, field by field."""
    return _Search(space, (), network, direction).below((packets,), []) or []


def _ordinary(
    space: PacketSpace, level: int, before: Sequence[int], network: PodNetwork, direction: Direction
) -> tuple[int, ...]:
    """Return what a field mostly is, the most ordinary first."""
    outside = OUTSIDE[space.family]
    own = tuple(address.first for address in network.own_addresses(space.family))
    here = (*own, LOOPBACK_ADDRESSES[space.family].first)
    is_inbound = direction == "inbound"
    if level in (IN, OUT):
        return (space.interface(network.interface),)
    if level == STATE:
        return CONNECTION_STATES.index("NEW"), CONNECTION_STATES.index("ESTABLISHED")
    if level == PORT:
        return ORDINARY_PORTS
    if level == SOURCE_PORT:
        return (EPHEMERAL_PORT,)
    if level in (UID, GID):
        return (before[UID], *ORDINARY_IDS) if level == GID else ORDINARY_IDS
    if level == DESTINATION:
        return here if is_inbound else (outside[0], *here)
    if level == SOURCE:
        return (outside[1], outside[0]) if is_inbound else (*here, outside[1])
    return ()


# --- in a set with switches ----------------------------------------------------------------------

MAX_CLASSES = 8
"""Verdicts of long lists that are tried."""
MAX_STEPS = 20_000
"""Numbers that are tried for one of them."""


def quick_witness(space: PacketSpace, packets: int, network: PodNetwork, direction: Direction) -> list[int] | None:
    """Return the numbers of an ordinary packet of a set with switches, if one is found soon."""
    for nodes, targets in islice(_classes(space, packets, (), ()), MAX_CLASSES):
        numbers = _Search(space, targets, network, direction).below(nodes, [])
        if numbers is not None:
            return numbers
    return None


def _classes(
    space: PacketSpace, node: int, lists: tuple[int, ...], leaves: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield a set without switches, with the lists that have to lead to certain leaves, and these."""
    if space.diagrams.level(node) >= 0:
        if node != space.diagrams.no:
            yield (node, *lists), leaves
        return
    long_list, functions = space.switches.parts(node)
    for leaf, kid in functions.items():
        yield from _classes(space, kid, (*lists, long_list), (*leaves, leaf))


class _Search:
    """The search, field by field, for a packet of a set that lists lead to their targets.

    It looks at each field once where there are no lists: only these may lead to none of their targets further down.
    """

    def __init__(self, space: PacketSpace, targets: tuple[int, ...], network: PodNetwork, direction: Direction) -> None:
        self.space = space
        self.targets = targets
        self.network = network
        self.direction = direction
        self.steps = 0
        self.failed: set[tuple[int, ...]] = set()

    def below(self, nodes: tuple[int, ...], numbers: list[int]) -> list[int] | None:
        """Return the numbers with those of the further fields; None if there are none, or too many were tried."""
        level = len(numbers)
        if level == self.space.first_unknown:
            return numbers + [0] * (len(self.space.domains) - level)
        if (level, *nodes) in self.failed:
            return None
        for number in self._candidates(level, nodes, numbers):
            self.steps += 1
            if self.steps > MAX_STEPS:
                return None
            kids = tuple(self._kid(node, level, number) for node in nodes)
            if self._is_hopeful(kids):
                found = self.below(kids, [*numbers, number])
                if found is not None:
                    return found
        self.failed.add((level, *nodes))
        return None

    def _kid(self, node: int, level: int, number: int) -> int:
        return self.space.diagrams.kid(node, number) if self.space.diagrams.level(node) == level else node

    def _is_hopeful(self, nodes: tuple[int, ...]) -> bool:
        diagrams = self.space.diagrams
        lists = zip(nodes[1:], self.targets, strict=True)
        return nodes[0] != diagrams.no and all(node == leaf or not diagrams.is_leaf(node) for node, leaf in lists)

    def _candidates(self, level: int, nodes: tuple[int, ...], numbers: list[int]) -> Iterator[int]:
        """Yield one number of each interval, the most ordinary ones first."""
        low, high = self.space.domains[level]
        ordinary = _ordinary(self.space, level, numbers, self.network, self.direction)
        wishes = [wish for wish in (*ordinary, 0, low) if low <= wish <= high]
        testing = [node for node in nodes if self.space.diagrams.level(node) == level]
        if not testing:
            yield wishes[0]
            return
        yield from wishes
        for node in testing:
            yield from (end + 1 for end, _ in self.space.diagrams.edges(node) if end is not None)
