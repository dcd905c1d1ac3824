"""The whole policy in words: the fate of every connection, by sets of packets that do not overlap, and why.

It covers first packets of connections without a mark, which is all connections but those of programs that set one.
Everything that decides on them counts, second captures and foreign chains included.
"""

from __future__ import annotations

import operator
from functools import partial

from capture.analysis.chains import ANYTHING
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler
from capture.analysis.outcome import TO_PROXY, Fate
from capture.analysis.realistic import realistic
from capture.analysis.regions import is_told_apart_from_lo, parts, region_text, with_ports, witness
from capture.analysis.space import Field, PacketSpace
from capture.analysis.trace import trace_whole_path
from capture.model.addresses import merge_ranges
from capture.model.conventions import MAX_PORT
from capture.model.ruleset import ALL_BITS, DestinationPort, Redirect, TransparentProxy
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from capture.analysis.base_chains import Situation
    from capture.analysis.compiler import Direction
    from capture.analysis.outcome import Outcome
    from capture.analysis.regions import Path
    from capture.analysis.trace import Trace
    from capture.model.addresses import Family
    from capture.model.ruleset import Rule, Ruleset

    TextOf = Callable[[Rule, Family], str]

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


def policy(situations: dict[Family, Situation], text_of: TextOf) -> list[Statement]:
    """Return the policy of some families; a line that several share comes once.

    ``text_of`` gives a rule in words, for one without a reason. Raises TooLargeError where rules are too entangled.
    """
    joined: dict[tuple[Direction, str, Fate | None, str], Statement] = {}
    for family, situation in situations.items():
        for each in _FamilyPolicy(family, situation, text_of).statements():
            key = (each.direction, each.traffic, each.fate, each.why)
            known = joined.get(key)
            joined[key] = known.replace(families=(*known.families, family)) if known else each
    return sorted(joined.values(), key=lambda each: (each.direction == OUTBOUND, *_rank(each.fate)))


def _rank(fate: Fate | None) -> tuple[bool, bool, str]:
    """Return what orders outcomes: what is captured first, then what bypasses the proxy, then what is not known."""
    return fate is None, fate is None or fate.port is None, fate.outcome if fate else ""


class _FamilyPolicy:
    """The policy of one family."""

    def __init__(self, family: Family, situation: Situation, text_of: TextOf) -> None:
        self.family = family
        self.situation = situation
        self.text_of = text_of
        self.space = PacketSpace(family, (situation,))

    def statements(self) -> Iterator[Statement]:
        """Yield the lines of each direction, outcome by outcome."""
        space = self.space
        diagrams = space.diagrams
        compiler = Compiler(space, self.situation)
        for direction, among in _first_packets(space, compiler):
            fates = space.settled(compiler.fates(direction), _fate, "policy")
            fates = diagrams.choose(among, fates, diagrams.leaf(None))
            for fate in filter(None, map(diagrams.value, diagrams.leaves(fates))):
                packets = diagrams.mapped(fates, partial(operator.eq, fate), ("is", fate))
                known = fate if isinstance(fate, Fate) else None
                for traffic, why in self._parts(direction, packets, among, is_known=known is not None):
                    yield Statement((self.family,), direction, traffic, known, why)

    def _parts(self, direction: Direction, packets: int, among: int, *, is_known: bool) -> Iterator[tuple[str, str]]:
        """Yield each part of the packets with one outcome in words, with the reason of an ordinary packet of it."""
        space = self.space
        described = parts(space, packets, among)
        for path in described[:MAX_PARTS]:
            for why, piece in self._by_reason(direction, packets, path, is_known=is_known).items():
                leaves = ", leaving the pod" if is_told_apart_from_lo(space, piece) else ""
                yield f"{region_text(space, piece)}{leaves}", why
        if len(described) > MAX_PARTS:
            yield f"{len(described) - MAX_PARTS} more sets of packets", ""

    def _by_reason(self, direction: Direction, packets: int, path: Path, *, is_known: bool) -> dict[str, Path]:
        """Return a part by the reasons of its ports: a rule about some of them may decide, or one about all."""
        found: dict[str, Path] = {}
        for piece in _cut_by_port(self.situation.ruleset, path):
            traced = self._traced(direction, packets, piece)
            why = self._reason(traced) if is_known else self._doubt(traced)
            found[why] = with_ports(found[why], piece) if why in found else piece
        return found

    def _traced(self, direction: Direction, packets: int, path: Path) -> Trace:
        """Return what happens to an ordinary packet of a part of a set."""
        space = self.space
        inside = space.diagrams.all_of(space.numbers(level, ranges) for level, ranges in path.items())
        part = space.diagrams.both(packets, inside)
        numbers = witness(space, part if part != space.diagrams.no else packets, direction)
        return trace_whole_path(space.packet(numbers), self.situation)

    def _reason(self, traced: Trace) -> str:
        """Return why a packet has its outcome: the rule that decides; of a redirect, the rule that chose it."""
        step, dropping = traced.step, traced.policy
        if dropping is not None:
            return f"the policy DROP of {dropping.table} {dropping.chain.name}"
        if step is None:
            return "no rule decides"
        if isinstance(step.rule.verdict, Redirect | TransparentProxy) and step in traced.path:
            before = traced.path[: traced.path.index(step)]
            step = next((each for each in reversed(before) if each.depth < step.depth and each.rule.why), step)
        return step.rule.why or f"{step.table} {step.chain} {step.position}: {self.text_of(step.rule, self.family)}"

    def _doubt(self, traced: Trace) -> str:
        """Return the first rule that a packet meets and that cannot be judged."""
        rule = next((step.rule for step in traced.path if not step.certain), None)
        words = (rule.why or self.text_of(rule, self.family)) if rule is not None else "one that other packets meet"
        return f"a rule that cannot be judged: {words}"


def captured_ports(situation: Situation, family: Family) -> dict[Outcome, int]:
    """Return to which ports of the proxy connections are sent that come in or leave the pod, by their outcome.

    Those over ``lo`` do not count: whatever the settings leave out, the proxy's calls to its own pod are captured.
    """
    space = PacketSpace(family, (situation,))
    diagrams, compiler, network = space.diagrams, Compiler(space, situation), situation.network
    by_link = merge_ranges((number, number) for number in map(space.interface, (network.interface, *network.others)))
    found: dict[Outcome, int] = {}
    for direction, first in _first_packets(space, compiler):
        through = space.numbers(Field.IN if direction == INBOUND else Field.OUT, by_link)
        fates = diagrams.choose(diagrams.both(first, through), compiler.fates(direction), diagrams.leaf(None))
        values = map(diagrams.value, diagrams.leaves(fates))
        found |= {
            fate.outcome: fate.port
            for fate in values
            if isinstance(fate, Fate) and fate.port and fate.outcome in TO_PROXY
        }
    return found


def _first_packets(space: PacketSpace, compiler: Compiler) -> Iterator[tuple[Direction, int]]:
    """Yield which first packets of connections, without a mark, can occur in each direction."""
    possible = realistic(space, (compiler,))
    first = space.diagrams.both(space.state_in("NEW"), space.marked("mark", 0, ALL_BITS))
    for direction in (INBOUND, OUTBOUND):
        yield direction, space.diagrams.both(possible[direction], first)


def _fate(values: list[Hashable]) -> Hashable:
    """Return the fate that all possible values come to, or UNKNOWN."""
    plain = {value.replace(marked=False) if isinstance(value, Fate) else value for value in values}
    return UNKNOWN if len(plain) > 1 or ANYTHING in plain else next(iter(plain))


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
