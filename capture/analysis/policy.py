"""The whole policy in words: what becomes of every connection, by sets of packets that do not overlap, and why.

It is told of first packets of connections that carry no mark, which is all connections but those of programs that
set one; by everything that decides on them, second captures and foreign chains included.
"""

from __future__ import annotations

from capture.analysis.chains import ANYTHING
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler
from capture.analysis.realistic import realistic
from capture.analysis.regions import in_words, parts, simplified
from capture.analysis.space import PacketSpace
from capture.analysis.trace import Fate, whole_way
from capture.analysis.witnesses import witness
from capture.model.ruleset import ALL_BITS
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.analysis.compiler import Direction
    from capture.analysis.stations import Situation
    from capture.analysis.trace import Trace
    from capture.model.addresses import Family

MAX_PARTS = 40
"""Lines for one outcome; those that are left out are counted."""
UNKNOWN = "cannot be judged"


class Statement(Value):
    """One line of the policy: this traffic of these families, in this direction, fares so, because of that.

    ``fate`` is None where it hangs on something that cannot be judged. ``witness`` is the trace of one such packet.
    """

    not_compared = ("witness",)

    families: tuple[Family, ...]
    direction: Direction
    traffic: str
    fate: Fate | None
    why: str
    witness: Trace | None = None


def policy(situations: dict[Family, Situation]) -> list[Statement]:
    """Return the policy of some families; what is said alike of several is said once.

    Raises TooLargeError where rules are too entangled.
    """
    joined: dict[tuple[Direction, str, Fate | None, str], Statement] = {}
    for family, situation in situations.items():
        for each in _of_family(family, situation):
            key = (each.direction, each.traffic, each.fate, each.why)
            known = joined.get(key)
            joined[key] = known.replace(families=(*known.families, family)) if known else each
    order = {INBOUND: 0, OUTBOUND: 1}
    return sorted(joined.values(), key=lambda each: (order[each.direction], _rank(each.fate)))


def _rank(fate: Fate | None) -> tuple[int, str]:
    """Return what orders outcomes: what is captured first, what bypasses the proxy last."""
    if fate is None:
        return 2, ""
    return (0 if fate.port is not None else 1), fate.outcome


def _of_family(family: Family, situation: Situation) -> Iterator[Statement]:
    space = PacketSpace(family, (situation,))
    compiler = Compiler(space, situation)
    possible = realistic(space, (compiler,))
    first = space.diagrams.both(space.state_in("NEW"), space.marked("mark", 0, ALL_BITS))
    for direction in (INBOUND, OUTBOUND):
        among = space.diagrams.both(possible[direction], first)
        fates = space.diagrams.choose(among, _settled(space, compiler.fates(direction)), space.diagrams.leaf(None))
        for leaf in space.diagrams.leaves(fates):
            fate = space.diagrams.value(leaf)
            if fate is None:
                continue
            packets = space.diagrams.mapped(fates, fate.__eq__, ("is", fate))
            yield from _statements(space, situation, direction, packets, among, fate)


def _settled(space: PacketSpace, node: int) -> int:
    """Return the fates with those that hang on something unknown as UNKNOWN."""
    diagrams = space.diagrams

    def change(each: int) -> int | None:
        if diagrams.level(each) < space.first_unknown:
            return None
        values = {diagrams.value(leaf) for leaf in diagrams.leaves(each)}
        plain = {value.replace(marked=False) if isinstance(value, Fate) else value for value in values}
        return diagrams.leaf(UNKNOWN if len(plain) > 1 or ANYTHING in plain else next(iter(plain)))

    return diagrams.changed(node, change, "settled")


def _statements(
    space: PacketSpace, situation: Situation, direction: Direction, packets: int, among: int, fate: object
) -> Iterator[Statement]:
    """Yield a line for each part of the packets that fare alike, with the rule that a packet of it meets."""
    told = parts(space, simplified(space, packets, among))
    for path in told[:MAX_PARTS]:
        part = packets
        for level, ranges in path.items():
            part = space.diagrams.both(part, space.numbers(level, ranges))
        packet = space.packet(
            witness(space, part if part != space.diagrams.no else packets, situation.network, direction)
        )
        traced = whole_way(packet, situation)
        why = (traced.step.rule.why if traced.step else "no rule decides") or _place(traced)
        known = fate if isinstance(fate, Fate) else None
        yield Statement((space.family,), direction, in_words(space, path), known, why, traced)
    if len(told) > MAX_PARTS:
        rest = f"{len(told) - MAX_PARTS} more sets of packets"
        yield Statement((space.family,), direction, rest, fate if isinstance(fate, Fate) else None, "")


def _place(traced: Trace) -> str:
    return f"{traced.step.table} {traced.step.chain} {traced.step.position}" if traced.step else ""


def families_in_words(families: Iterable[Family]) -> str:
    """Return "IPv4, IPv6"."""
    return ", ".join({"ipv4": "IPv4", "ipv6": "IPv6"}[family] for family in families)
