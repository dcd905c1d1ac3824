"""Whether foreign rules, and differences of our own, matter to any packet: drift, or a note, or beyond judging.

Three situations are compared: the desired rules, the live ones without anything foreign, and the live ones with all
that is there. What differs between the last two is the work of foreign rules. Which of them is told by taking out,
one after the other, those that the witness met, until nothing differs any more.
"""

from __future__ import annotations

from capture.analysis.canonical import canonical
from capture.analysis.compare import Difference, foreign_places
from capture.analysis.diagram import TooLargeError
from capture.analysis.effects import Comparison
from capture.analysis.stations import Situation
from capture.analysis.trace import whole_way
from capture.model.ruleset import Accept, Continue, Log, Return, Rule, Ruleset, Table
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from capture.analysis.effects import Effect
    from capture.analysis.foreign import ForeignChain
    from capture.analysis.stations import PodNetwork
    from capture.analysis.trace import Step, Trace
    from capture.model.addresses import Family
    from capture.model.ruleset import Chain, TableName

MAX_CULPRITS = 20
"""Foreign rules that are named for one family; a longer list would not help."""
MAX_JUDGED = 100
"""Differences of our own that get an effect each."""
LET_PASS = (Accept, Return, Continue, Log)
"""Verdicts of another table's base chain after which a packet comes to us as it was: not worth a note."""


class Obstacle(Value):
    """A rule of a foreign base chain, or with None its policy; ``effect`` is what it does to captured packets."""

    not_compared = ("effect",)

    foreign_chain: ForeignChain
    rule: Rule | None = None
    effect: Effect | None = None


class Judgement(Value):
    """What matters, and what does not.

    ``differences`` and ``obstacles`` are drift, the first in our own tables. ``notes`` and ``harmless`` are foreign
    rules without effect on captured traffic. ``unjudged`` may have one. ``doubts`` say in words what else cannot be
    told.
    """

    differences: tuple[Difference, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[Difference, ...] = ()
    harmless: tuple[Obstacle, ...] = ()
    unjudged: tuple[Difference | Obstacle, ...] = ()
    doubts: tuple[str, ...] = ()


class Place(Value):
    """Where a foreign rule is: in a table of ours, or in chain ``number`` of another. Position 0 is a policy."""

    table: TableName
    chain: str
    position: int
    number: int = -1


def judge(
    desired: Ruleset,
    live: Ruleset,
    differences: Iterable[Difference],
    elsewhere: tuple[ForeignChain, ...],
    network: PodNetwork,
    *,
    is_native: bool,
) -> Judgement:
    """Return what of the differences, and of foreign rules in all tables, is drift.

    ``differences`` are those of ``compare``; of them, foreign ones are judged anew.
    """
    own = [difference for difference in differences if difference.kind != "foreign"]
    parts = []
    for family in desired.families:
        asked = Situation(of_family(desired, family, desired), (), is_native, network)
        whole = Situation(of_family(live, family, desired), elsewhere, is_native, network)
        foreign = foreign_places(desired, live, family)
        try:
            parts.append(_Family(family, asked, whole, foreign).judgement([d for d in own if d.family == family]))
        except TooLargeError as error:
            parts.append(Judgement(tuple(d for d in own if d.family == family), doubts=(str(error.message),)))
    others = [difference for difference in own if difference.family not in desired.families]
    return _together([Judgement(tuple(others)), *parts])


def of_family(ruleset: Ruleset, family: Family, desired: Ruleset) -> Ruleset:
    """Return what packets of a family meet of a rule set, in its canonical form, with the desired routes."""
    chains: dict[TableName, list[Chain]] = {table.name: [] for table in ruleset.tables}
    known = canonical(ruleset, family)
    for table in ruleset.tables:
        for chain in table.chains:
            form = known.get((table.name, chain.name))
            policy = form.policy if form else "ACCEPT"
            rules = form.rules if form else ()
            chains[table.name].append(chain.replace(rules=rules, policy=policy, ipv6_policy=None))
    tables = tuple(Table(name, tuple(found)) for name, found in chains.items())
    return desired.replace(families=(family,), tables=tables)


class _Family:
    """One family: ``whole`` is all that is live, ``foreign`` tells where foreign rules are in our tables."""

    def __init__(
        self,
        family: Family,
        asked: Situation,
        whole: Situation,
        foreign: dict[tuple[TableName, str], frozenset[int]],
    ) -> None:
        self.family = family
        self.asked = asked
        self.whole = whole
        self.foreign = foreign
        self.ours_alone = without(whole, foreign).replace(elsewhere=())

    def judgement(self, own: Sequence[Difference]) -> Judgement:
        """Return what matters in this family."""
        certain, unjudged, doubts = self._culprits()
        named = {place for place, _ in (*certain, *unjudged)}
        shared, others = _told_apart(self._finding(place, effect) for place, effect in certain)
        harmless = [place for place in self._all_foreign() if place not in named]
        notes, quiet = _told_apart(self._finding(place, None) for place in harmless)
        return Judgement(
            (*self._with_effects(own), *shared),
            tuple(others),
            tuple(notes),
            tuple(quiet),
            tuple(self._finding(place, effect) for place, effect in unjudged),
            doubts,
        )

    # --- our own -----------------------------------------------------------------------------------

    def _with_effects(self, own: Sequence[Difference]) -> Iterator[Difference]:
        """Yield the differences of our own rules, each with what comes of it to packets that its rule speaks of."""
        if not own:
            return
        comparison = Comparison(self.family, self.asked, self.ours_alone)
        for number, difference in enumerate(own):
            effect = None
            if number < MAX_JUDGED:
                effects = [each for each in comparison.effects(among=difference.rule) if each.is_certain]
                effect = min(effects, key=_rank, default=None)
            yield difference.replace(effect=effect)

    # --- foreign -----------------------------------------------------------------------------------

    def _culprits(self) -> tuple[list[tuple[Place, Effect]], list[tuple[Place, Effect]], tuple[str, ...]]:
        """Return the foreign rules that have an effect, those that may have one, and what cannot be told."""
        certain: list[tuple[Place, Effect]] = []
        unjudged: list[tuple[Place, Effect]] = []
        situation = self.whole
        while self._has_foreign(situation) and len(certain) + len(unjudged) < MAX_CULPRITS:
            effects = list(Comparison(self.family, self.ours_alone, situation).effects(only_captured=True))
            if not effects:
                return certain, unjudged, ()
            effect = min(effects, key=_rank)
            places = self._to_blame(effect, situation)
            if not places:
                words = f"{self.family}: what becomes of {effect.regions[0]} depends on the order of foreign chains"
                return certain, unjudged, (words,)
            for place in places:
                own = self._effect_of(place, effect)
                (certain if own.is_certain else unjudged).append((place, own))
                situation = self._taken_out(situation, place)
        return certain, unjudged, ()

    def _to_blame(self, effect: Effect, situation: Situation) -> list[Place]:
        """Return the rule without which the witness would fare as it should.

        If several rules do the same to it, those that have an effect of their own; all it met, if none has.
        """
        met = list(self._met(effect.after, situation))
        if not effect.is_certain:
            doubtful = [place for place, is_certain in met if not is_certain]
            return doubtful[:1] or [place for place, _ in met][:1]
        for place, _ in reversed(met):
            if whole_way(effect.packet, self._taken_out(situation, place)).fate != effect.after.fate:
                return [place]
        places = [place for place, _ in met]
        return [place for place in places if self._effects_alone(place)] or places

    def _met(self, traced: Trace, situation: Situation) -> Iterator[tuple[Place, bool]]:
        """Yield the foreign rules that a packet met in base chains, and whether that is certain; last the policy."""
        top: Step | None = None
        is_certain = True
        for step in (*traced.path, None):
            if top is not None and (step is None or step.depth == 0):
                place = self._place_of(top, situation)
                if place is not None:
                    yield place, is_certain
            if step is not None:
                is_certain = step.certain and (step.depth == 0 or is_certain)
                top = step if step.depth == 0 else top
        if traced.policy is not None and traced.policy.foreign is not None:
            number = _number(situation, traced.policy.foreign)
            yield Place(traced.policy.contents.name, traced.policy.entry.name, 0, number), True

    def _place_of(self, step: Step, situation: Situation) -> Place | None:
        """Return where a rule is if it is foreign."""
        station = step.station
        if station is None:
            return None
        if station.foreign is not None:
            return self._original(step, station.foreign, situation)
        positions = self.foreign.get((station.contents.name, step.chain), frozenset())
        original = self.whole.ruleset.table(station.contents.name)
        chain = original.chain(step.chain) if original else None
        for position, rule in enumerate(chain.rules if chain else (), 1):
            if position in positions and rule is step.rule:
                return Place(station.contents.name, step.chain, position)
        return None

    def _original(self, step: Step, chain: ForeignChain, situation: Situation) -> Place | None:
        number = _number(situation, chain)
        for position, rule in enumerate(self.whole.elsewhere[number].entry.rules, 1):
            if rule is step.rule:
                return Place(chain.contents.name, chain.entry.name, position, number)
        return None

    def _taken_out(self, situation: Situation, place: Place) -> Situation:
        """Return the situation without a foreign rule, or with another policy."""
        rule = self._rule(place)

        def kept(chain: Chain) -> Chain:
            if rule is None:
                return chain.replace(policy="ACCEPT", ipv6_policy=None)
            return chain.replace(rules=tuple(each for each in chain.rules if each is not rule))

        if place.number >= 0:
            elsewhere = list(situation.elsewhere)
            there = elsewhere[place.number]
            entry, *others = there.contents.chains
            elsewhere[place.number] = there.replace(contents=there.contents.replace(chains=(kept(entry), *others)))
            return situation.replace(elsewhere=tuple(elsewhere))
        return situation.replace(ruleset=_changed(situation.ruleset, place.table, place.chain, kept))

    def _rule(self, place: Place) -> Rule | None:
        if place.position == 0:
            return None
        if place.number >= 0:
            return self.whole.elsewhere[place.number].entry.rules[place.position - 1]
        table = self.whole.ruleset.table(place.table)
        chain = table.chain(place.chain) if table else None
        return chain.rules[place.position - 1] if chain else None

    def _effect_of(self, place: Place, effect: Effect) -> Effect:
        """Return what a foreign rule does alone; what it does together with others, if alone it does nothing."""
        same = [each for each in self._effects_alone(place) if each.is_certain == effect.is_certain]
        return min(same, key=_rank, default=effect)

    def _effects_alone(self, place: Place) -> list[Effect]:
        """Return what a foreign rule does where no other is."""
        return list(Comparison(self.family, self.ours_alone, self._with_only(place)).effects(only_captured=True))

    def _with_only(self, place: Place) -> Situation:
        """Return our own live rules and one foreign rule."""
        if place.number >= 0:
            there = self.whole.elsewhere[place.number]
            entry, *others = there.contents.chains
            rule = self._rule(place)
            policy = {} if rule is None else {"policy": "ACCEPT", "ipv6_policy": None}
            only = entry.replace(rules=(rule,) if rule else entry.rules, **policy)
            contents = there.contents.replace(chains=(only, *others))
            return self.ours_alone.replace(elsewhere=(there.replace(contents=contents),))
        rest = {
            where: frozenset(p for p in positions if (*where, p) != (place.table, place.chain, place.position))
            for where, positions in self.foreign.items()
        }
        return without(self.whole, rest).replace(elsewhere=())

    # --- all that is foreign -----------------------------------------------------------------------

    def _has_foreign(self, situation: Situation) -> bool:
        return bool(self.foreign) or bool(situation.elsewhere)

    def _all_foreign(self) -> Iterator[Place]:
        """Yield every foreign rule that is worth a word."""
        for (table, chain), positions in self.foreign.items():
            yield from (Place(table, chain, position) for position in sorted(positions))
        for number, each in enumerate(self.whole.elsewhere):
            if self.family in each.families and each.is_worth_notes:
                for position, rule in enumerate(each.entry.rules, 1):
                    is_of_family = rule.family in (None, self.family)
                    if is_of_family and not isinstance(rule.verdict, LET_PASS):
                        yield Place(each.contents.name, each.entry.name, position, number)

    def _finding(self, place: Place, effect: Effect | None) -> Difference | Obstacle:
        if place.number >= 0:
            return Obstacle(self.whole.elsewhere[place.number], self._rule(place), effect)
        rule = self._rule(place)
        return Difference(self.family, place.table, place.chain, "foreign", rule, place.position, effect=effect)


def _rank(effect: Effect) -> tuple[bool, ...]:
    """Return what orders effects: the certain ones first, of captured packets, of apps and clients."""
    is_everyday = effect.before.outcome == "proxy-outbound" or effect.direction == "inbound"
    return not effect.is_certain, not effect.is_plain, effect.before.outcome == "direct", not is_everyday


def without(situation: Situation, places: dict[tuple[TableName, str], frozenset[int]]) -> Situation:
    """Return a situation without the rules at some positions of chains in our tables."""
    ruleset = situation.ruleset
    for (table, name), positions in places.items():

        def kept(chain: Chain, positions: frozenset[int] = positions) -> Chain:
            rules = tuple(rule for place, rule in enumerate(chain.rules, 1) if place not in positions)
            return chain.replace(rules=rules)

        ruleset = _changed(ruleset, table, name, kept)
    return situation.replace(ruleset=ruleset)


def _changed(ruleset: Ruleset, table: TableName, name: str, change: Callable[[Chain], Chain]) -> Ruleset:
    tables = []
    for each in ruleset.tables:
        chains = each.chains
        if each.name == table:
            chains = tuple(change(chain) if chain.name == name else chain for chain in chains)
        tables.append(each.replace(chains=chains))
    return ruleset.replace(tables=tuple(tables))


def _number(situation: Situation, chain: ForeignChain) -> int:
    return next(number for number, each in enumerate(situation.elsewhere) if each is chain)


def _told_apart(found: Iterable[Difference | Obstacle]) -> tuple[list[Difference], list[Obstacle]]:
    """Return what is in our own tables, and what is in others."""
    shared: list[Difference] = []
    others: list[Obstacle] = []
    for each in found:
        if isinstance(each, Difference):
            shared.append(each)
        else:
            others.append(each)
    return shared, others


def _together(parts: Sequence[Judgement]) -> Judgement:
    """Return the judgement of both families; a chain for both is named once."""
    obstacles = {(id(each.foreign_chain), each.rule): each for part in reversed(parts) for each in part.obstacles}
    unjudged = {
        (id(each.foreign_chain), each.rule) if isinstance(each, Obstacle) else each: each
        for part in reversed(parts)
        for each in part.unjudged
    }
    named = {*obstacles, *(key for key in unjudged if isinstance(key, tuple))}
    harmless = {(id(each.foreign_chain), each.rule): each for part in parts for each in part.harmless}
    return Judgement(
        tuple(each for part in parts for each in part.differences),
        tuple(obstacles.values()),
        tuple(each for part in parts for each in part.notes),
        tuple(each for key, each in harmless.items() if key not in named),
        tuple(each for key, each in unjudged.items() if key not in obstacles),
        tuple(dict.fromkeys(doubt for part in parts for doubt in part.doubts)),
    )


def second_set_effect(desired: Ruleset, elsewhere: tuple[ForeignChain, ...], network: PodNetwork) -> Effect | None:
    """Return what a second capture does to packets next to the desired one to packets, taken for the newest.

    Of hooks with one priority the kernel asks the one first that was registered last.
    """
    newest = tuple(chain.replace(is_of_any_age=False, is_older=False) for chain in elsewhere)
    for family in desired.families:
        asked = Situation(of_family(desired, family, desired), (), network=network)
        try:
            effects = list(Comparison(family, asked, asked.replace(elsewhere=newest)).effects())
        except TooLargeError:
            continue
        plain = [each for each in effects if each.is_certain and each.is_plain]
        if plain:
            return min(plain, key=_rank)
    return None
