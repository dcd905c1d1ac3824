"""Which foreign rules divert captured packets.

The live rules are compared with our own rules among them. A packet that differs is a witness. The foreign rules that
it met are removed one after the other; a rule without which the packet is captured again is the reason. Packets that
such a rule may match are set aside. When none is left, the remaining rules are compared again: a later rule may do the
same.
"""

from __future__ import annotations

from capture.analysis.effects import Comparison
from capture.analysis.trace import whole_way
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.effects import Effect
    from capture.analysis.foreign import ForeignChain
    from capture.analysis.stations import Situation
    from capture.analysis.trace import Step, Trace
    from capture.model.addresses import Family
    from capture.model.ruleset import Chain, Rule, TableName

MAX_CULPRITS = 20
"""Foreign rules that are named for one family; a longer list would not help."""
MANY = 5000
"""With more foreign rules than this only some are named, and they are compared once, for the time it takes."""
MAX_OF_MANY = 4


class Place(Value):
    """Where a foreign rule is: in one of our tables, or in chain ``number`` of another. Position 0 is a policy."""

    table: TableName
    chain: str
    position: int
    number: int = -1


class Culprits:
    """Foreign rules that divert packets of one family: ``named`` has the place of each, with its effect.

    ``whole`` has all live rules, ``without_foreign`` our own of them, ``foreign`` the places of foreign rules in our
    tables. ``doubts`` are what else cannot be judged, in words; with ``is_complete`` every other rule has no effect.
    """

    def __init__(self, family: Family, whole: Situation, foreign: dict[tuple[TableName, str], frozenset[int]]) -> None:
        self.family = family
        self.without_foreign = without(whole, foreign).replace(elsewhere=())
        self.whole = whole
        self.foreign = foreign
        self.named: dict[Place, Effect] = {}
        self.doubts: tuple[str, ...] = ()
        self.is_complete = True
        self._is_only_one = sum(map(len, foreign.values())) + sum(_ways_in(each) for each in whole.elsewhere) == 1
        self._are_many = sum(map(len, foreign.values())) + _count(whole) > MANY
        self._search()

    def _search(self) -> None:
        situation = self.whole
        while self.foreign or situation.elsewhere:
            comparison = Comparison(self.family, self.without_foreign, situation)
            left = self._named_of(comparison, situation)
            if left is situation:
                if comparison.first() is not None:
                    self._doubt_order(comparison)
                return
            situation = left
            if not self._is_left(situation):
                return
            if self._is_enough() or (self._are_many and any(each.is_certain for each in self.named.values())):
                self.is_complete = False
                self.doubts = (f"{self.family}: foreign rules that are not named may divert captured traffic, too",)
                return

    def _is_left(self, situation: Situation) -> bool:
        """Return whether foreign rules are left that may be the reason."""
        in_tables = (Place(*where, position) for where, found in self.foreign.items() for position in found)
        return any(map(_ways_in, situation.elsewhere)) or any(place not in self.named for place in in_tables)

    def _is_enough(self) -> bool:
        return len(self.named) >= (MAX_OF_MANY if self._are_many else MAX_CULPRITS)

    def _named_of(self, comparison: Comparison, situation: Situation) -> Situation:
        """Name the rules that make the difference, unless one hides another; return the situation without them."""
        passed: list[Rule | None] = []
        while not self._is_enough():
            effect = comparison.first(passed)
            places = [] if effect is None else self._to_blame(effect, comparison.situations[1], situation)
            if effect is None or not places or not self.named.keys().isdisjoint(places):
                break
            for place in places:
                self.named[place] = self._effect_of(place, effect, comparison)
                passed.append(self.rule(place))
                situation = self._taken_out(situation, place)
        return situation

    def _doubt_order(self, comparison: Comparison) -> None:
        effect = next(comparison.effects(only_captured=True))
        self.doubts = (f"{self.family}: what happens to {effect.regions[0]} depends on the order of foreign chains",)

    def _to_blame(self, effect: Effect, compared: Situation, situation: Situation) -> list[Place]:
        """Return the rule without which the witness would be treated as it should.

        If several rules do the same to it, those that have an effect of their own; all it met, if none has. It was
        traced in the situation that was compared; the rules are tried in the one that is left.
        """
        met = list(self._met(effect.after, compared))
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
        table, number = station.contents.name, -1
        if station.foreign is not None:
            number = _number(situation, station.foreign)
            chain: Chain | None = self.whole.elsewhere[number].entry
        else:
            chain = self.whole.ruleset.chain(table, step.chain)
        for position, rule in enumerate(chain.rules if chain else (), 1):
            if rule is step.rule and (number >= 0 or position in self.foreign.get((table, step.chain), ())):
                return Place(table, step.chain, position, number)
        return None

    def _taken_out(self, situation: Situation, place: Place) -> Situation:
        """Return the situation without a foreign rule, or with another policy."""
        rule = self.rule(place)

        def kept(chain: Chain) -> Chain:
            if rule is None:
                return chain.replace(policy="ACCEPT", ipv6_policy=None)
            return chain.replace(rules=tuple(each for each in chain.rules if each is not rule))

        if place.number >= 0:
            elsewhere = list(situation.elsewhere)
            elsewhere[place.number] = elsewhere[place.number].with_entry(kept(elsewhere[place.number].entry))
            return situation.replace(elsewhere=tuple(elsewhere))
        where = place.table, place.chain
        changed = situation.ruleset.with_chains(lambda of, chain: kept(chain) if (of, chain.name) == where else chain)
        return situation.replace(ruleset=changed)

    def rule(self, place: Place) -> Rule | None:
        """Return the rule at a place; None for a policy."""
        if place.position == 0:
            return None
        if place.number >= 0:
            return self.whole.elsewhere[place.number].entry.rules[place.position - 1]
        chain = self.whole.ruleset.chain(place.table, place.chain)
        return chain.rules[place.position - 1] if chain else None

    def _effect_of(self, place: Place, effect: Effect, comparison: Comparison) -> Effect:
        """Return what a foreign rule does alone; what it does together with others, if alone it does nothing."""
        alone = () if self._is_only_one else self._effects_alone(place)
        same = [each for each in alone if each.is_certain == effect.is_certain]
        if same:
            return min(same, key=lambda each: each.weight)
        together = comparison.effects(only_captured=True)
        return next((each for each in together if each.change == effect.change), effect)

    def _effects_alone(self, place: Place) -> list[Effect]:
        """Return what a foreign rule does where no other is."""
        return list(Comparison(self.family, self.without_foreign, self._with_only(place)).effects(only_captured=True))

    def _with_only(self, place: Place) -> Situation:
        """Return our own live rules and one foreign rule."""
        if place.number >= 0:
            there = self.whole.elsewhere[place.number]
            rule = self.rule(place)
            only = there.entry.replace(rules=(rule,), policy="ACCEPT", ipv6_policy=None) if rule else there.entry
            return self.without_foreign.replace(elsewhere=(there.with_entry(only),))
        rest = {
            where: frozenset(p for p in positions if (*where, p) != (place.table, place.chain, place.position))
            for where, positions in self.foreign.items()
        }
        return without(self.whole, rest).replace(elsewhere=())


def _ways_in(chain: ForeignChain) -> int:
    """Return how many rules of a base chain, and policies, may be the reason."""
    return len(chain.entry.rules) + (chain.entry.policy == "DROP") + (chain.entry.ipv6_policy == "DROP")


def _count(situation: Situation) -> int:
    return sum(len(chain.rules) for each in situation.elsewhere for chain in each.contents.chains)


def without(situation: Situation, places: dict[tuple[TableName, str], frozenset[int]]) -> Situation:
    """Return a situation without the rules at some positions of chains in our tables."""

    def kept(table: TableName, chain: Chain) -> Chain:
        positions = places.get((table, chain.name))
        if not positions:
            return chain
        return chain.replace(rules=tuple(rule for place, rule in enumerate(chain.rules, 1) if place not in positions))

    return situation.replace(ruleset=situation.ruleset.with_chains(kept))


def _number(situation: Situation, chain: ForeignChain) -> int:
    return next(number for number, each in enumerate(situation.elsewhere) if each is chain)
