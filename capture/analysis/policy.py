"""The whole policy in words: the fate of every connection, by sets of packets that do not overlap, and why.

It covers first packets of connections without a mark, which is all connections but those of programs that set one.
Everything that decides on them counts, second captures and foreign chains included.
"""

from __future__ import annotations

from capture.analysis.chains import ANYTHING
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler
from capture.analysis.realistic import realistic
from capture.analysis.regions import in_words, parts, with_ports, witness
from capture.analysis.space import Field, PacketSpace
from capture.analysis.trace import Fate, whole_way
from capture.model.limits import MAX_PORT
from capture.model.ruleset import ALL_BITS, DestinationPort
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from capture.analysis.compiler import Direction
    from capture.analysis.regions import Path
    from capture.analysis.stations import Situation
    from capture.model.addresses import Family
    from capture.model.ruleset import Ruleset

MAX_PARTS = 40
"""Lines for one outcome; those that are left out are counted."""
MAX_PIECES = 40
"""Ranges of ports of one line that get a reason each; a longer list has that of its first range."""
UNKNOWN = "cannot be judged"


class Statement(Value):
    """One line of the policy: traffic of some families in one direction, its outcome, and the reason.

    ``fate`` is None where it depends on something that cannot be judged.
    """

    families: tuple[Family, ...]
    direction: Direction
    traffic: str
    fate: Fate | None
    why: str


def policy(situations: dict[Family, Situation]) -> list[Statement]:
    """Return the policy of some families; a line that several share comes once.

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
        fates = space.settled(compiler.fates(direction), _fate, "policy")
        fates = space.diagrams.choose(among, fates, space.diagrams.leaf(None))
        for leaf in space.diagrams.leaves(fates):
            fate = space.diagrams.value(leaf)
            if fate is None:
                continue
            packets = space.diagrams.mapped(fates, fate.__eq__, ("is", fate))
            yield from _statements(space, situation, direction, packets, among, fate)


def _fate(values: list[Hashable]) -> Hashable:
    """Return the fate that all possible values come to, or UNKNOWN."""
    plain = {value.replace(marked=False) if isinstance(value, Fate) else value for value in values}
    return UNKNOWN if len(plain) > 1 or ANYTHING in plain else next(iter(plain))


def _statements(
    space: PacketSpace, situation: Situation, direction: Direction, packets: int, among: int, fate: object
) -> Iterator[Statement]:
    """Yield a line for each part of the packets with one outcome, with the rule that a packet of it meets."""
    described = parts(space, packets, among)
    known = fate if isinstance(fate, Fate) else None
    for path in described[:MAX_PARTS]:
        reasons: dict[str, Path] = {}
        for piece in _cut_by_port(situation.ruleset, path):
            part = packets
            for level, ranges in piece.items():
                part = space.diagrams.both(part, space.numbers(level, ranges))
            numbers = witness(space, part if part != space.diagrams.no else packets, direction)
            step = whole_way(space.packet(numbers), situation).step
            why = (step.rule.why or f"{step.table} {step.chain} {step.position}") if step else "no rule decides"
            reasons[why] = with_ports(reasons[why], piece) if why in reasons else piece
        for why, piece in reasons.items():
            yield Statement((space.family,), direction, in_words(space, piece), known, why)
    if len(described) > MAX_PARTS:
        rest = f"{len(described) - MAX_PARTS} more sets of packets"
        yield Statement((space.family,), direction, rest, known, "")


def _cut_by_port(ruleset: Ruleset, path: Path) -> list[Path]:
    """Return a part as several, cut where a rule's ports begin or end: each may have a reason of its own."""
    ranges = path.get(Field.PORT, ())
    if not 0 < len(ranges) <= MAX_PIECES:
        return [path]
    matches = (match for rule in ruleset.rules for match in rule.matches if isinstance(match, DestinationPort))
    spans = {span for match in matches for span in match.ports}
    cuts = sorted({end for span in spans for end in (span.first, span.last + 1)})
    pieces = [
        (max(first, low), min(last, high))
        for first, last in ranges
        for low, high in zip([0, *cuts], [*(cut - 1 for cut in cuts), MAX_PORT], strict=True)
        if first <= high and low <= last
    ]
    return [{**path, Field.PORT: (piece,)} for piece in pieces] if len(pieces) <= MAX_PIECES else [path]
