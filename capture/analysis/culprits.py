"""Which foreign rules divert captured packets.

The desired rules are compared with the same and all foreign ones. A packet that differs is a witness. The foreign rules
that it met are removed one after the other; a rule without which the packet is captured again is a culprit. Packets
that such a rule may match are set aside. When none is left, the remaining rules are compared again: a later rule may do
the same.
"""

from __future__ import annotations

from capture.analysis.captured_pod import proxy_owner_by_rules
from capture.analysis.compare import Difference
from capture.analysis.compiler import INBOUND, OUTBOUND
from capture.analysis.effects import Comparison, Effect, FateChange
from capture.analysis.outcome import Fate
from capture.analysis.replies import SENT_ON, look_ups, reply_to_proxy, trace_with_flags, zone_conflict
from capture.analysis.trace import Step, Trace, trace_whole_path
from capture.model.addresses import FAMILY_NAMES
from capture.model.ruleset import Chain, Jump, Rule, Table, UnknownMatch, UnknownVerdict
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from capture.analysis.base_chains import BaseChain, Situation
    from capture.model.addresses import Family
    from capture.model.location import Location

MAX_CULPRITS = 20
"""Foreign rules that are named for one family; a longer list would not help."""
SLOW_FROM_RULES = 5000
"""With more foreign rules than this only some are named, and they are compared once, for the time it takes."""
MAX_CULPRITS_OF_MANY = 4


class Obstacle(Value):
    """A rule of a foreign base chain, or with None its policy; ``effect`` is what it does to captured packets."""

    not_compared = ("effect", "position")

    foreign_chain: BaseChain
    rule: Rule | None = None
    effect: Effect | None = None
    position: int = 0
    """That of the rule in its chain; 0 for the policy."""

    @property
    def family(self) -> Family:
        """Return the family of the rule, the first of a chain for both."""
        return (self.rule and self.rule.family) or self.foreign_chain.families[0]

    @property
    def location(self) -> Location:
        """Return where it is."""
        base = self.foreign_chain
        return base.location(base.chain.name, self.position, self.family)


Foreign = Difference | Obstacle
"""A rule in a chain that we share, or one of another base chain."""


class Culprits:
    """Foreign rules that divert packets of one family: ``named`` has each with its effect.

    ``desired`` has our own rules, ``whole`` the same with all foreign ones. ``foreign`` are those in chains that we
    share; others are met by jumps from there. ``by_order`` are named ones that may divert further packets, in another
    order of chains. ``without_effect`` have none, and spare no packet that a named one would divert. ``doubts`` are
    what else cannot be judged, in words. Rules are known by their identity: two may be equal.
    """

    def __init__(self, family: Family, desired: Situation, whole: Situation, foreign: Sequence[Difference]) -> None:
        self.family = family
        self.desired = desired
        self.whole = whole
        self.doubts: tuple[str, ...] = ()
        self._foreign: dict[int, Foreign] = {id(difference.rule): difference for difference in foreign}
        self._policies: dict[tuple[str, str], int] = {}
        for base in (base for base in whole.other_chains if family in base.families):
            for position, rule in enumerate(base.chain.rules_for(family), 1):
                self._foreign[id(rule)] = Obstacle(base, rule, position=rule.number or position)
            if base.chain.policy_for(family) == "DROP":
                self._foreign[id(base.chain)] = Obstacle(base)
                self._policies[base.table, base.chain.name] = id(base.chain)
        self._effects: dict[int, Effect] = {}
        self._by_order: dict[int, Effect] = {}
        self._may_be_spared = False
        """Whether a rule that cannot be judged may keep packets from one that is named."""
        called = sum(len(chain.rules) for base in whole.other_chains for chain in base.contents.chains)
        self._are_many = called + len(foreign) > SLOW_FROM_RULES
        is_complete = not self._foreign or self._name_culprits(Comparison(family, desired, whole))
        self._effects |= dict(self._effect_on_replies()) | dict(self._effect_on_zones())
        known = {*self._effects, *(self._doubtful_rules() if self._may_be_spared else ())}
        self.named = tuple(self._foreign[key].replace(effect=effect) for key, effect in self._effects.items())
        self.by_order = tuple(self._foreign[key].replace(effect=effect) for key, effect in self._by_order.items())
        self.without_effect = tuple(rule for key, rule in self._foreign.items() if is_complete and key not in known)

    def _name_culprits(self, with_all: Comparison) -> bool:
        """Name the rules; return whether all that have an effect are named."""
        comparison = with_all
        while len(self._effects) < len(self._foreign):
            count = len(self._effects)
            self._name_difference(comparison, with_all)
            if count == len(self._effects):
                if comparison.first() is not None:
                    effect = next(comparison.effects(only_captured=True))
                    doubt = f"what happens to {effect.regions[0]} depends on the order of foreign chains"
                    self.doubts = (f"{FAMILY_NAMES[self.family]}: {doubt}",)
                return True
            if len(self._effects) == len(self._foreign):
                return True
            if self._is_enough() or (self._are_many and any(effect.is_certain for effect in self._effects.values())):
                self.doubts = (f"{FAMILY_NAMES[self.family]}: other foreign rules may divert captured traffic, too",)
                return False
            comparison = with_all.with_after(self._situation_without(self._effects))
        return True

    def _effect_on_replies(self) -> Iterator[tuple[int, Effect]]:
        """Yield the rule that drops replies to what the proxy sends to others, which no capture is for."""
        packet = reply_to_proxy(self.whole.network, self.family) if self._foreign else None
        before, after = (packet and trace_with_flags(packet, situation) for situation in (self.desired, self.whole))
        if not packet or not before or not after or before.outcome == "dropped" or after.outcome != "dropped":
            return
        change = FateChange(Fate("direct"), Fate("dropped"), is_certain=after.is_certain)
        before = before.replace(outcome="direct", step=None)
        effect = Effect(self.family, INBOUND, packet, before, after, change, (f"answers to {SENT_ON}",))
        met = [
            key
            for key, _ in self._met_rules(after)
            if trace_with_flags(packet, self._situation_without((key,))).fate != after.fate
        ]
        yield from ((key, effect) for key in met[-1:] if key not in self._effects)

    def _effect_on_zones(self) -> Iterator[tuple[int, Effect]]:
        """Yield the rule that has look-ups tracked in another zone than their answers, which no fate tells."""
        owner = proxy_owner_by_rules(self.desired.ruleset)
        for packet in look_ups(self.whole, self.family) if self._foreign else ():
            before, after = (trace_whole_path(packet, situation) for situation in (self.desired, self.whole))
            conflict = zone_conflict(after, self.whole, owner)
            if conflict is None or zone_conflict(before, self.desired, owner) is not None:
                continue
            change, after = FateChange(before.fate, Fate("dropped")), after.replace(outcome="dropped", step=conflict[1])
            effect = Effect(self.family, OUTBOUND, packet, before, after, change, ("look-ups",))
            for key in [key for way in (after, conflict[0]) for key, _ in self._met_rules(way)]:
                without = self._situation_without((key,))
                if zone_conflict(trace_whole_path(packet, without), without, owner) is None:
                    yield key, effect
                    return

    def _is_enough(self) -> bool:
        return len(self._effects) >= (MAX_CULPRITS_OF_MANY if self._are_many else MAX_CULPRITS)

    def _name_difference(self, comparison: Comparison, with_all: Comparison) -> None:
        """Name the rules that make the difference, unless one hides another."""
        passed: list[Rule | None] = []
        while not self._is_enough():
            effect = comparison.first(passed)
            culprits = [] if effect is None else self._culprits_of(effect, with_all)
            if effect is None or not culprits or not self._effects.keys().isdisjoint(culprits):
                break
            for key in culprits:
                self._effects[key] = self._effect_of(key, effect, comparison, with_all)
                self._by_order |= self._effects_by_order(key, with_all)
                passed.append(self._foreign[key].rule)

    def _culprits_of(self, effect: Effect, with_all: Comparison) -> list[int]:
        """Return the rule without which the witness would be treated as it should.

        If several rules do the same to it, return those with a certain effect of their own; if none has, all it met.
        Each is tried without the rules that are named already.
        """
        met = list(self._met_rules(effect.after))
        if not effect.is_certain:
            doubtful = [key for key, is_certain in met if not is_certain]
            return doubtful[:1] or [key for key, _ in met][:1]
        for key, _ in reversed(met):
            if (
                trace_whole_path(effect.packet, self._situation_without((*self._effects, key))).fate
                != effect.after.fate
            ):
                return [key]
        keys = [key for key, _ in met]
        alone = [
            key for key in keys if self._heaviest_effect(effect, self._comparison_alone(key, with_all)) is not None
        ]
        return alone or keys

    def _met_rules(self, traced: Trace) -> Iterator[tuple[int, bool]]:
        """Yield the foreign rules that a packet met in base chains, and whether that is certain; last the policy."""
        top: Step | None = None
        is_certain = True
        for step in (*traced.path, None):
            if top is not None and (step is None or step.depth == 0) and id(top.rule) in self._foreign:
                yield id(top.rule), is_certain
            if step is not None:
                is_certain = step.is_certain and (step.depth == 0 or is_certain)
                top = step if step.depth == 0 else top
        base = traced.policy
        policy = self._policies.get((base.table, base.chain.name)) if base else None
        if policy is not None:
            yield policy, True

    def _effect_of(self, key: int, effect: Effect, comparison: Comparison, with_all: Comparison) -> Effect:
        """Return what a foreign rule does where the others let it, else alone; if that is nothing, with others."""
        if len(self._foreign) == 1:
            return self._heaviest_effect(effect, with_all) or effect
        alone = self._comparison_alone(key, with_all)
        next_to_others = self._heaviest_effect(effect, with_all, like=alone)
        is_spared = effect.is_certain and any(self._doubtful_rules()) and with_all.is_doubtful(alone)
        self._may_be_spared |= is_spared
        if next_to_others is not None:
            return next_to_others
        by_itself = self._heaviest_effect(effect, alone)
        if by_itself is not None:
            return by_itself.replace(change=by_itself.change.replace(is_certain=False)) if is_spared else by_itself
        together = comparison.effects(only_captured=True)
        return next((other for other in together if other.change == effect.change), effect)

    def _effects_by_order(self, key: int, with_all: Comparison) -> Iterator[tuple[int, Effect]]:
        """Yield further effects that a rule with a certain one may have, as its chain comes before ours or not."""
        rule = self._foreign[key]
        if self._effects[key].is_certain and isinstance(rule, Obstacle) and rule.foreign_chain.is_age_unknown:
            effects = self._comparison_alone(key, with_all).effects(only_captured=True)
            doubtful = sorted((effect for effect in effects if not effect.is_certain), key=lambda each: each.weight)
            yield from ((key, effect) for effect in doubtful[:1])

    def _heaviest_effect(self, effect: Effect, comparison: Comparison, like: Comparison | None = None) -> Effect | None:
        """Return the heaviest effect that is as certain as another one."""
        effects = comparison.effects(only_captured=True, like=like)
        alike = (other for other in effects if other.is_certain == effect.is_certain)
        return min(alike, key=lambda each: each.weight, default=None)

    def _comparison_alone(self, key: int, with_all: Comparison) -> Comparison:
        return with_all.with_after(self._situation_without(self._foreign.keys() - {key}))

    def _doubtful_rules(self) -> Iterator[int]:
        """Yield the foreign rules that cannot be judged, or that lead to such a rule."""
        tables = {id(base.contents): base.contents for base in self.whole.other_chains}
        chains = {key: _doubtful_chains(table) for key, table in tables.items()}
        own = {table.name: _doubtful_chains(table) for table in self.whole.ruleset.tables}
        for key, other in self._foreign.items():
            doubtful = chains[id(other.foreign_chain.contents)] if isinstance(other, Obstacle) else own[other.table]
            if other.rule is not None and _may_be_doubtful(other.rule, doubtful):
                yield key

    def _situation_without(self, gone: Collection[int]) -> Situation:
        """Return the desired rules and all foreign ones but some, with ACCEPT for a policy that is one of these."""

        def without_gone(chain: Chain) -> Chain:
            if id(chain) in gone:
                chain = chain.replace(policy="ACCEPT", ipv6_policy=None)
            rules = tuple(rule for rule in chain.rules if id(rule) not in gone)
            return chain if len(rules) == len(chain.rules) else chain.replace(rules=rules)

        other_chains = (base.with_chain(without_gone(base.chain)) for base in self.whole.other_chains)
        in_use = tuple(base for base in other_chains if base.chain.rules or "DROP" in base.policies)
        ruleset = self.whole.ruleset.with_chains(lambda _, chain: without_gone(chain))
        return self.whole.replace(ruleset=ruleset, other_chains=in_use)


def _doubtful_chains(table: Table) -> set[str]:
    """Return the chains with a rule that cannot be judged, and those from which one comes to them."""
    doubtful: set[str] = set()
    while leading_there := {
        chain.name
        for chain in table.chains
        if chain.name not in doubtful and any(_may_be_doubtful(rule, doubtful) for rule in chain.rules)
    }:
        doubtful |= leading_there
    return doubtful


def _may_be_doubtful(rule: Rule, chains: set[str]) -> bool:
    """Return whether a rule has a part that the model lacks, or leads to one of the doubtful chains."""
    if isinstance(rule.verdict, Jump) and rule.verdict.chain in chains:
        return True
    return any(isinstance(part, UnknownMatch | UnknownVerdict) for part in (*rule.matches, rule.verdict))
