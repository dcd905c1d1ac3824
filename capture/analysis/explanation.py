"""The fate of every connection in words, by sets of packets that do not overlap, and why.

It covers first packets of connections without a mark, which is all connections but those of programs that set one.
Everything that decides on them counts, second captures and foreign chains included.

The reason of a fate is true of every packet that has it: the rule or policy that drops a packet, translates it, or
lets nat leave it as it is; of a redirect, the rule that chose it by a jump into one of our chains. A packet's way is
compiled from its end, so a rule is the reason unless one behind it has more to say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator

from capture.analysis.base_chains import Situation
from capture.analysis.captured_pod import proxy_id_ranges
from capture.analysis.causes import TextOf
from capture.analysis.chains import CALLING_VERDICTS, ChainCompiler
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler, Direction, PathCompiler
from capture.analysis.meaning import effective_verdict
from capture.analysis.outcome import PROXY_INBOUND, PROXY_OUTBOUND, TO_PROXY, Fate, Outcome, Reason
from capture.analysis.possible_packets import possible_packets
from capture.analysis.regions import Region, is_leaving_pod, is_over_lo, region_text, regions_of
from capture.analysis.space import Field, PacketSpace
from capture.model import ruleset as model
from capture.model.addresses import Family, merge_ranges
from capture.model.foreign import Either, Translate
from capture.model.values import Value

MAX_PARTS = 40
"""Lines for one outcome; those that are left out are counted."""
NO_RULE_DECIDES = "no rule decides"
MAIN_OUTCOMES: dict[Direction, Outcome] = {INBOUND: PROXY_INBOUND, OUTBOUND: PROXY_OUTBOUND}
"""The outcome for which there is a capture; that of the proxy's calls to its own pod is rare."""


class Statement(Value):
    """One line of ``capture explain``: traffic of some families in one direction, its fate, and the reason.

    ``fate`` is None where it depends on something that cannot be judged. It is routine if it is about connections of
    the proxy itself, or over ``lo``, and these fare as with every capture.
    """

    families: tuple[Family, ...]
    direction: Direction
    traffic: str
    fate: Fate | None
    why: str
    is_routine: bool = False


def statements_about(situations: dict[Family, Situation], text_of: TextOf) -> list[Statement]:
    """Return what happens to connections of some families; a line that several share comes once.

    ``text_of`` gives a rule in words, for one without a reason. Raises TooLargeError where rules are too entangled.
    """
    joined: dict[tuple[Direction, str, Fate | None, str], Statement] = {}
    for family, situation in situations.items():
        for statement in _FamilyExplanation(family, situation, text_of).statements():
            key = (statement.direction, statement.traffic, statement.fate, statement.why)
            known = joined.get(key)
            joined[key] = known.replace(families=(*known.families, family)) if known else statement
    return sorted(joined.values(), key=_line_rank)


def _line_rank(statement: Statement) -> tuple[bool, bool, bool, bool, bool, str]:
    """Return the key that sorts lines: outbound first; the usual outcome, then what bypasses the proxy, the unknown."""
    fate, group = statement.fate, (statement.direction == INBOUND, statement.is_routine)
    if fate is None:
        return *group, True, True, True, ""
    return *group, False, fate.port is None, fate.outcome != MAIN_OUTCOMES[statement.direction], fate.outcome


class _FamilyExplanation:
    def __init__(self, family: Family, situation: Situation, text_of: TextOf) -> None:
        self.family = family
        self.situation = situation
        self.rule_text: Callable[[model.Rule], str] = lambda rule: text_of(rule, family)
        self.space = PacketSpace(family, (situation,))
        kinds = (Field.UID, model.OwnerUid), (Field.GID, model.OwnerGid)
        self.proxy_id_ranges = {
            level: {*merge_ranges(proxy_id_ranges(situation.ruleset, kind))} for level, kind in kinds
        }

    def statements(self) -> Iterator[Statement]:
        """Yield the lines of each direction, outcome by outcome, and of each outcome by its reasons."""
        diagrams = self.space.diagrams
        compiler = Compiler(self.space, self.situation)
        for direction, among in _first_packets(self.space, compiler):
            fates = self.space.switches.expanded(ReasonCompiler(compiler, direction, self.rule_text).root())
            explained = diagrams.choose(among, self._settled_fates(fates), diagrams.leaf(None))
            reasons: dict[Fate | None, list[str]] = {}
            for value in map(diagrams.value, diagrams.leaves(explained)):
                if isinstance(value, tuple):
                    reasons.setdefault(value[0], []).append(value[1])
            for fate, whys in reasons.items():
                for traffic, why, region in self._parts(explained, among, fate, whys):
                    yield Statement((self.family,), direction, traffic, fate, why, self._is_routine(region, fate))

    def _is_routine(self, region: Region, fate: Fate | None) -> bool:
        """Return whether connections are the proxy's, or over ``lo``, and fare as with every capture."""
        is_proxy = any(region.get(level) and {*region[level]} <= known for level, known in self.proxy_id_ranges.items())
        over_lo = is_over_lo(self.space, region)
        if fate is None or fate.address or fate.interface:
            return False
        return {"direct": is_proxy or over_lo, PROXY_INBOUND: is_proxy and over_lo}.get(fate.outcome, False)

    def _settled_fates(self, fates: int) -> int:
        diagrams = self.space.diagrams

        def settled(node: int) -> int | None:
            if diagrams.level(node) < self.space.first_unknown_level:
                return None
            return diagrams.leaf(self._fate_and_reason(node))

        return diagrams.rewritten(fates, settled, "policy")

    def _fate_and_reason(self, node: int) -> tuple[Fate | None, str]:
        """Return a fate and its reason, from all that are possible; no fate where they differ, and why."""
        diagrams = self.space.diagrams
        fates = [value if isinstance(value, Fate) else None for value in map(diagrams.value, diagrams.leaves(node))]
        plain = {fate and fate.replace(is_marked=False, reason=None) for fate in fates}
        if len(plain) == 1 and None not in plain:
            texts = {fate.reason[1] if fate.reason else NO_RULE_DECIDES for fate in fates if fate}
            return plain.pop(), ", or ".join(sorted(texts))
        doubts = sorted({self._doubt(self.space.doubts[level]) for level in diagrams.levels(node)})
        more = f" (and {len(doubts) - 1} more)" if len(doubts) > 1 else ""
        return None, ": ".join(("a rule that cannot be judged", *doubts[:1])) + more

    def _doubt(self, unknown: model.Rule | str) -> str:
        return unknown if isinstance(unknown, str) else unknown.why or self.rule_text(unknown)

    def _parts(self, node: int, among: int, fate: Fate | None, reasons: list[str]) -> Iterator[tuple[str, str, Region]]:
        """Yield the sets of packets with one outcome in words, with reason and ranges; of very many, how many more."""
        space = self.space
        diagrams = space.diagrams
        listed, rest = tuple(reasons[:MAX_PARTS]), tuple(reasons[MAX_PARTS:])
        first = {(fate, why) for why in listed}
        few = diagrams.mapped(node, lambda each: each if each in first else None, ("few", fate, listed))
        count = 0
        for packets_of, fates_here in (*[(few, (each,)) for each in listed], *[(node, rest)] * bool(rest)):
            meant = {(fate, why) for why in fates_here}
            packets = diagrams.mapped(packets_of, meant.__contains__, ("one of", fate, fates_here))
            for region in regions_of(space, packets, among):
                count += 1
                if count <= MAX_PARTS:
                    leaves = ", leaving the pod" if is_leaving_pod(space, region) else ""
                    yield f"{region_text(space, region)}{leaves}", fates_here[0], region
        if count > MAX_PARTS:
            yield f"{count - MAX_PARTS} more sets of packets", "", {}


@functools.lru_cache(maxsize=16)  # one process examines many pods, or one again and again, with the same settings
def captured_ports(situation: Situation, family: Family) -> dict[Outcome, int]:
    """Return the ports of the proxy to which connections into and out of the pod are sent, by their outcome.

    Those over ``lo`` do not count: whatever the settings leave out, the proxy's calls to its own pod are captured.
    """
    space = PacketSpace(family, (situation,))
    diagrams, compiler, network = space.diagrams, Compiler(space, situation), situation.network
    links = map(space.number_of, (network.interface, *network.other_interfaces))
    by_link = merge_ranges((number, number) for number in links)
    ports: dict[Outcome, int] = {}
    for direction, first in _first_packets(space, compiler):
        through = space.field_in(Field.IN if direction == INBOUND else Field.OUT, by_link)
        fates = diagrams.choose(diagrams.both(first, through), compiler.fates(direction), diagrams.leaf(None))
        values = map(diagrams.value, diagrams.leaves(fates))
        ports |= {
            fate.outcome: fate.port
            for fate in values
            if isinstance(fate, Fate) and fate.port and fate.outcome in TO_PROXY
        }
    return ports


def _first_packets(space: PacketSpace, compiler: Compiler) -> Iterator[tuple[Direction, int]]:
    """Yield which first packets of connections, without a mark, can occur in each direction."""
    possible = possible_packets(space, (compiler,))
    first = space.diagrams.both(space.has_state("NEW"), space.has_mark("mark", 0, model.ALL_BITS))
    for direction in (INBOUND, OUTBOUND):
        yield direction, space.diagrams.both(possible[direction], first)


# --- reasons -------------------------------------------------------------------------------------

LETS_PASS, LETS_PASS_NAT, DECIDES_FATE = range(1, 4)
REDIRECTS = (model.Redirect, model.TransparentProxy)


class ReasonCompiler(PathCompiler):
    """The fates of packets of one direction with their reasons; ``text_of`` gives a rule in words."""

    def __init__(self, compiler: Compiler, direction: Direction, text_of: Callable[[model.Rule], str]) -> None:
        super().__init__(compiler, direction)
        self._text_of = text_of

    def reason(self, chain: ChainCompiler, positions: str, rule: model.Rule) -> Reason:
        """Return a rule as a reason: its own words, or what it is; of a long list its positions and its verdict."""
        if chain.stage.chosen_by and isinstance(rule.verdict, REDIRECTS):
            return DECIDES_FATE, chain.stage.chosen_by
        is_native_foreign = chain.base_chain.is_native and not chain.base_chain.is_own
        if isinstance(effective_verdict(rule), CALLING_VERDICTS) or (rule.why and not is_native_foreign):
            text = rule.why
        else:
            shown = rule if positions.isdecimal() else rule.replace(matches=())
            text = f"{chain.base_chain.table} {chain.chain.name} {positions}: {rule.why or self._text_of(shown)}"
        is_passing = isinstance(rule.verdict, model.Return | model.Accept)
        rank = LETS_PASS_NAT if chain.base_chain.table == model.NAT else LETS_PASS
        return rank if is_passing else DECIDES_FATE, text

    def with_reason(self, node: int, verdict: model.Verdict, reason: Reason | None) -> int:
        """Return the fates of packets that match a rule, with it as the reason of those for which it is one."""

        def explained(fate: Hashable) -> Hashable:
            is_reason = reason is not None and isinstance(fate, Fate) and _is_reason(verdict, reason[0], fate)
            return fate.replace(reason=reason) if isinstance(fate, Fate) and is_reason else fate

        fates = self.diagrams.mapped(node, explained, ("because", verdict, reason))
        if not isinstance(verdict, model.SetMark):
            return fates
        return self.diagrams.choose(self.space.has_mark("mark", verdict.value, verdict.mask), node, fates)

    def _dropped_fate(self, why: str) -> int:
        return self._fate_node(Fate("dropped", reason=(DECIDES_FATE, why)))


def _is_reason(verdict: model.Verdict, rank: int, fate: Fate) -> bool:
    """Return whether a rule with a verdict is the reason of a fate behind it."""
    known = fate.reason[0] if fate.reason else 0
    match verdict:
        case model.Return() | model.Accept():
            return known < rank
        case _ if known == DECIDES_FATE:
            return False
        case model.Redirect(port=port) | model.TransparentProxy(port=port):
            return fate.port == port
        case Translate():
            return fate.outcome in ("direct", "dropped")
        case Either():
            return any(_is_reason(way, rank, fate) for way in verdict.ways)
        case model.Drop() | model.SetMark() | model.RestoreMark():
            return fate.outcome == "dropped"
    return False
