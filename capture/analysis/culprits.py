"""Which foreign rules divert captured packets.

The desired rules are compared with the same and all foreign ones. A packet that differs is a witness. The foreign rules
that it met are removed one after the other; a rule without which the packet is captured again is the reason. Packets
that such a rule may match are set aside. When none is left, the remaining rules are compared again: a later rule may do
the same.
"""

from __future__ import annotations

from capture.analysis.effects import Comparison, Effect
from capture.analysis.trace import Step, Trace, trace_whole_path
from capture.model.ruleset import Chain, Jump, Rule, Table, TableName, UnknownMatch, UnknownVerdict
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from capture.analysis.base_chains import BaseChain, Situation
    from capture.analysis.compare import Difference
    from capture.model.addresses import Family

MAX_CULPRITS = 20
"""Foreign rules that are named for one family; a longer list would not help."""
SLOW_FROM_RULES = 5000
"""With more foreign rules than this only some are named, and they are compared once, for the time it takes."""
MAX_CULPRITS_OF_MANY = 4


class Obstacle(Value):
    """A rule of a foreign base chain, or with None its policy; ``effect`` is what it does to captured packets."""

    not_compared = ("effect",)

    foreign_chain: BaseChain
    rule: Rule | None = None
    effect: Effect | None = None

    @property
    def family(self) -> Family:
        """Return the family of the rule, the first of a chain for both."""
        return (self.rule and self.rule.family) or self.foreign_chain.families[0]

    @property
    def place(self) -> str:
        """Return where it is, in words."""
        there = self.foreign_chain
        return f"table {there.table}, chain {there.chain.name} ({there.hook_text}, priority {there.priority})"


class RuleLocation(Value):
    """A foreign rule, or None for a policy, and where it is: in our tables, or in base chain ``number`` elsewhere."""

    not_compared = ("rule",)

    table: TableName
    chain: str
    position: int
    rule: Rule | None
    number: int = -1


class Culprits:
    """Foreign rules that divert packets of one family: ``named`` has the place of each, with its effect.

    ``desired`` has our own rules, ``whole`` the same with all foreign ones. ``foreign`` are those in chains that we
    share; others are met by jumps from there. ``others`` have no effect, and spare no packet that a named one would
    divert. ``doubts`` are what else cannot be judged, in words.
    """

    def __init__(self, family: Family, desired: Situation, whole: Situation, foreign: Sequence[Difference]) -> None:
        self.family = family
        self.desired = desired
        self.whole = whole
        self.named: dict[RuleLocation, Effect] = {}
        self.doubts: tuple[str, ...] = ()
        self._foreign = {id(each.rule): each for each in foreign}
        self._shared = {
            (table, name): [(at, rule) for at, rule in self._numbered(table, name) if id(rule) in self._foreign]
            for table, name in dict.fromkeys((each.table, each.chain) for each in foreign)
        }
        self._count = sum(1 for _ in self._locations())
        called = sum(len(chain.rules) for each in whole.other_chains for chain in each.contents.chains)
        self._are_many = called + sum(map(len, self._shared.values())) > SLOW_FROM_RULES
        is_complete = self._search()
        known = {*self.named, *self._judge_next_to_doubtful()}
        self.others = (location for location in self._locations() if is_complete and location not in known)

    def _numbered(self, table: TableName, name: str) -> Iterator[tuple[int, Rule]]:
        chain = self.whole.ruleset.chain(table, name)
        return enumerate(chain.rules if chain else (), 1)

    def found(self, location: RuleLocation, effect: Effect | None = None) -> Difference | Obstacle:
        """Return a foreign rule as what it is: a difference in our tables, or an obstacle in others."""
        if location.number >= 0:
            return Obstacle(self.whole.other_chains[location.number], location.rule, effect)
        return self._foreign[id(location.rule)].replace(effect=effect)

    def _locations(self, is_meant: Callable[[Rule | None], bool] = lambda _: True) -> Iterator[RuleLocation]:
        """Yield the foreign rules that are meant, and policies as None. There may be very many: they are not kept."""
        for (table, chain), rules in self._shared.items():
            yield from (RuleLocation(table, chain, position, rule) for position, rule in rules if is_meant(rule))
        for number, each in enumerate(self.whole.other_chains):
            table, entry = each.contents.name, each.chain
            if self.family in each.families:
                for position, rule in enumerate(entry.rules, 1):
                    if rule.family in (None, self.family) and is_meant(rule):
                        yield RuleLocation(table, entry.name, position, rule, number)
                if entry.policy_for(self.family) == "DROP" and is_meant(None):
                    yield RuleLocation(table, entry.name, 0, None, number)

    def _location_of(self, base_chain: BaseChain, chain: str, rule: Rule | None) -> RuleLocation | None:
        """Return where a rule of a base chain is if it is foreign; None is the policy."""
        alike = self._locations(lambda each: each is rule)
        return next((each for each in alike if self._is_in(each, base_chain, chain)), None)

    def _is_in(self, location: RuleLocation, base_chain: BaseChain, chain: str) -> bool:
        table = self.whole.other_chains[location.number].table if location.number >= 0 else location.table
        return (table, location.chain) == (base_chain.table, chain)

    def _search(self) -> bool:
        """Name the rules; return whether all that have an effect are named."""
        while len(self.named) < self._count:
            comparison = Comparison(self.family, self.desired, self._without(self.named))
            count = len(self.named)
            self._name(comparison)
            if count == len(self.named):
                if comparison.first() is not None:
                    effect = next(comparison.effects(only_captured=True))
                    what = f"what happens to {effect.regions[0]} depends on the order of foreign chains"
                    self.doubts = (f"{self.family}: {what}",)
                return True
            if len(self.named) == self._count:
                return True
            if self._is_enough() or (self._are_many and any(each.is_certain for each in self.named.values())):
                self.doubts = (f"{self.family}: foreign rules that are not named may divert captured traffic, too",)
                return False
        return True

    def _is_enough(self) -> bool:
        return len(self.named) >= (MAX_CULPRITS_OF_MANY if self._are_many else MAX_CULPRITS)

    def _name(self, comparison: Comparison) -> None:
        """Name the rules that make the difference, unless one hides another."""
        passed: list[Rule | None] = []
        while not self._is_enough():
            effect = comparison.first(passed)
            locations = [] if effect is None else self._to_blame(effect)
            if effect is None or not locations or not self.named.keys().isdisjoint(locations):
                break
            for location in locations:
                self.named[location] = self._effect_of(location, effect, comparison)
                passed.append(location.rule)

    def _to_blame(self, effect: Effect) -> list[RuleLocation]:
        """Return the rule without which the witness would be treated as it should.

        If several rules do the same to it, return those with a certain effect of their own; if none has, all it met.
        Each is tried without the rules that are named already.
        """
        met = list(self._met(effect.after))
        if not effect.is_certain:
            doubtful = [location for location, is_certain in met if not is_certain]
            return doubtful[:1] or [location for location, _ in met][:1]
        for location, _ in reversed(met):
            if trace_whole_path(effect.packet, self._without((*self.named, location))).fate != effect.after.fate:
                return [location]
        locations = [location for location, _ in met]
        alone = [location for location in locations if any(each.is_certain for each in self._effects_of(location))]
        return alone or locations

    def _met(self, traced: Trace) -> Iterator[tuple[RuleLocation, bool]]:
        """Yield the foreign rules that a packet met in base chains, and whether that is certain; last the policy."""
        top: Step | None = None
        is_certain = True
        for step in (*traced.path, None):
            if top is not None and top.base_chain is not None and (step is None or step.depth == 0):
                location = self._location_of(top.base_chain, top.chain, top.rule)
                if location is not None:
                    yield location, is_certain
            if step is not None:
                is_certain = step.certain and (step.depth == 0 or is_certain)
                top = step if step.depth == 0 else top
        location = self._location_of(traced.policy, traced.policy.chain.name, None) if traced.policy else None
        if location is not None:
            yield location, True

    def _effect_of(self, location: RuleLocation, effect: Effect, comparison: Comparison) -> Effect:
        """Return what a foreign rule does alone; what it does together with others, if alone it does nothing."""
        alone = () if self._count == 1 else self._effects_of(location)
        same = [each for each in alone if each.is_certain == effect.is_certain]
        if same:
            return min(same, key=lambda each: each.weight)
        together = comparison.effects(only_captured=True)
        return next((each for each in together if each.change == effect.change), effect)

    def _effects_of(self, *locations: RuleLocation) -> list[Effect]:
        """Return what some foreign rules do where no others are."""
        situation = self._with_only(*locations)
        return list(Comparison(self.family, self.desired, situation).effects(only_captured=True))

    def _judge_next_to_doubtful(self) -> set[RuleLocation]:
        """Call certain only what rules do next to those that cannot be judged, which may accept packets before.

        Return those that may.
        """
        found = {location: effect for location, effect in self.named.items() if effect.is_certain}
        possible = (*self.named, *self._doubtful()) if found else ()
        doubtful = [location for location in dict.fromkeys(possible) if location not in found]
        for location, effect in found.items() if doubtful else ():
            certain = [each for each in self._effects_of(*doubtful, location) if each.is_certain]
            if certain:
                self.named[location] = min(certain, key=lambda each: each.weight)
            elif any(each.is_certain for each in self._effects_of(location)):
                self.named[location] = effect.replace(change=effect.change.replace(is_certain=False))
        is_changed = any(self.named[location] != effect for location, effect in found.items())
        return set(doubtful) if is_changed else set()

    def _doubtful(self) -> Iterator[RuleLocation]:
        """Yield the foreign rules that cannot be judged, or that lead to such a rule."""
        chains = {(-1, table.name): _doubtful_chains(table) for table in self.whole.ruleset.tables}
        for number, each in enumerate(self.whole.other_chains):
            chains[number, each.contents.name] = _doubtful_chains(each.contents)
        for location in self._locations(lambda rule: rule is not None):
            if location.rule is not None and _may_be_doubtful(location.rule, chains[location.number, location.table]):
                yield location

    def _with_only(self, *locations: RuleLocation) -> Situation:
        """Return our own live rules and some foreign ones."""
        gone = {(-1, *where): {position for position, _ in rules} for where, rules in self._shared.items()}
        for number, each in enumerate(self.whole.other_chains):
            gone[number, each.contents.name, each.chain.name] = set(range(len(each.chain.rules) + 1))
        for location in locations:
            gone[location.number, location.table, location.chain].discard(location.position)
        return self._left(gone)

    def _without(self, locations: Iterable[RuleLocation]) -> Situation:
        """Return all live rules without some of the foreign ones."""
        gone: dict[tuple[int, TableName, str], set[int]] = {}
        for location in locations:
            gone.setdefault((location.number, location.table, location.chain), set()).add(location.position)
        return self._left(gone)

    def _left(self, gone: Mapping[tuple[int, TableName, str], set[int]]) -> Situation:
        """Return all live rules but those at some positions of chains; ACCEPT is the policy for position 0."""

        def left(table: TableName, chain: Chain, number: int = -1) -> Chain:
            positions = gone.get((number, table, chain.name), set())
            if 0 in positions:
                chain = chain.replace(policy="ACCEPT", ipv6_policy=None)
            if not positions:
                return chain
            return chain.replace(rules=tuple(rule for at, rule in enumerate(chain.rules, 1) if at not in positions))

        other_chains = (
            each.with_chain(left(each.contents.name, each.chain, number))
            for number, each in enumerate(self.whole.other_chains)
        )
        in_use = tuple(each for each in other_chains if each.chain.rules or "DROP" in each.policies)
        return self.whole.replace(ruleset=self.whole.ruleset.with_chains(left), other_chains=in_use)


def _doubtful_chains(table: Table) -> set[str]:
    """Return the chains with a rule that cannot be judged, and those from which one comes to them."""
    found: set[str] = set()
    while more := {
        chain.name
        for chain in table.chains
        if chain.name not in found and any(_may_be_doubtful(rule, found) for rule in chain.rules)
    }:
        found |= more
    return found


def _may_be_doubtful(rule: Rule, chains: set[str]) -> bool:
    """Return whether a rule has a part that the model lacks, or leads to one of the doubtful chains."""
    if isinstance(rule.verdict, Jump) and rule.verdict.chain in chains:
        return True
    return any(isinstance(part, UnknownMatch | UnknownVerdict) for part in (*rule.matches, rule.verdict))
