"""Whether foreign rules, and differences of our own, matter to any packet: drift, a note, or not judged.

Three situations are compared: the desired rules, the live rules without foreign ones, and all live rules. What differs
between the last two comes from foreign rules; ``culprits`` finds which.
"""

from __future__ import annotations

from capture.analysis.base_chains import BaseChain, PodNetwork, Situation
from capture.analysis.canonical import canonical
from capture.analysis.compare import EMPTY, Difference, compared
from capture.analysis.compiler import INBOUND, OUTBOUND
from capture.analysis.culprits import Culprits, RuleLocation
from capture.analysis.diagram import TooLargeError
from capture.analysis.effects import Comparison, Effect
from capture.model import ruleset as model
from capture.model.addresses import FAMILIES, Family
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence
    from typing import TypeVar

    from capture.analysis.canonical import CanonicalTables
    from capture.analysis.compare import Numbered
    from capture.analysis.compiler import Direction

    Found = TypeVar("Found")

MAX_JUDGED = 100
"""Differences of our own that get an effect each."""
DECIDED_BY_NAT: dict[str, Direction] = {model.PREROUTING: INBOUND, model.OUTPUT: OUTBOUND}
"""Table nat decides on a connection in the first chain that it meets, and on none of the other direction."""
LET_PASS = (model.Accept, model.Return, *model.NO_EFFECT)
"""Verdicts of another table's base chain after which a packet comes to us as it was: not worth a note."""


class Obstacle(Value):
    """A rule of a foreign base chain, or with None its policy; ``effect`` is what it does to captured packets."""

    not_compared = ("effect",)

    foreign_chain: BaseChain
    rule: model.Rule | None = None
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


class Judgement(Value):
    """The judgement on all differences and foreign rules.

    ``differences`` and ``obstacles`` are drift, the first in our own tables. ``harmless_*`` are foreign
    rules without effect on captured traffic. ``unjudged`` may have one. ``doubts`` are what else cannot be judged, in
    words.
    """

    differences: tuple[Difference, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    harmless_differences: tuple[Difference, ...] = ()
    harmless_obstacles: tuple[Obstacle, ...] = ()
    unjudged: tuple[Difference | Obstacle, ...] = ()
    doubts: tuple[str, ...] = ()


def judge(
    desired: model.Ruleset,
    live: model.Ruleset,
    other_chains: tuple[BaseChain, ...],
    network: PodNetwork,
    *,
    is_native: bool,
    has_reference: bool = True,
    recorded: model.Ruleset | None = None,
) -> Judgement:
    """Return what of the differences, and of foreign rules in all tables, is drift.

    Without a reference ``desired`` are our own live rules, and foreign rules are judged alone. What is recorded is no
    foreign rule, if not desired either.
    """
    parts: list[Judgement] = []
    for family in FAMILIES:
        desired_forms = canonical(desired, family) if family in desired.families else None
        there = canonical(live, family)
        own, foreign = compared(family, desired_forms, there, canonical(recorded, family) if recorded else None)
        if not has_reference:
            own = [difference for difference in own if difference.kind not in ("missing", "unexpected")]
        if desired_forms is None:
            parts.insert(0, Judgement(tuple(own)))
            continue
        reference = Situation(_with_forms(desired, desired_forms, family, desired), (), is_native, network)
        whole = Situation(_with_forms(live, there, family, desired), other_chains, is_native, network)
        try:
            parts.append(_of_family(family, reference, whole, own, foreign))
        except TooLargeError as error:
            parts.append(Judgement(tuple(own), doubts=(str(error.message),)))
    return _together(parts)


def of_family(ruleset: model.Ruleset, family: Family, desired: model.Ruleset) -> model.Ruleset:
    """Return what packets of a family meet of a rule set, in its canonical form, with the desired routes."""
    return _with_forms(ruleset, canonical(ruleset, family), family, desired)


def _with_forms(
    ruleset: model.Ruleset, forms: CanonicalTables, family: Family, desired: model.Ruleset
) -> model.Ruleset:
    def formed(table: model.TableName, chain: model.Chain) -> model.Chain:
        form = forms.get((table, chain.name), EMPTY)
        return chain.replace(rules=form.rules, policy=form.policy, ipv6_policy=None)

    return desired.replace(families=(family,), tables=ruleset.with_chains(formed).tables)


def _of_family(
    family: Family,
    reference: Situation,
    whole: Situation,
    own: Sequence[Difference],
    foreign: dict[tuple[model.TableName, str], Numbered],
) -> Judgement:
    """Return what matters in one family; ``whole`` has all live rules."""
    culprits = Culprits(family, whole, foreign)
    named = [_difference_at(culprits, place, effect) for place, effect in culprits.named.items() if effect.is_certain]
    unjudged = (
        _difference_at(culprits, place, effect) for place, effect in culprits.named.items() if not effect.is_certain
    )
    harmless = [
        _difference_at(culprits, place)
        for place in culprits.others
        if place.number < 0 or (place.rule is not None and not isinstance(place.rule.verdict, LET_PASS))
    ]
    judged = _with_effects(own, Comparison(family, reference, culprits.without_foreign)) if own else ()
    return Judgement(
        (*judged, *_only(Difference, named)),
        _only(Obstacle, named),
        _only(Difference, harmless),
        _only(Obstacle, harmless),
        tuple(unjudged),
        culprits.doubts,
    )


def _with_effects(own: Sequence[Difference], comparison: Comparison) -> Iterator[Difference]:
    """Yield the differences of our own rules, each with its effect on packets that its rule matches."""
    for number, difference in enumerate(own):
        effect = None
        if number < MAX_JUDGED:
            directions = _directions(comparison.situations[0].ruleset.table(difference.table), difference.chain)
            effects = [
                each
                for each in comparison.effects(among=difference.rule)
                if each.is_certain and (each.direction in directions or not directions)
            ]
            effect = min(effects, key=lambda each: each.weight, default=None)
        yield difference.replace(effect=effect)


def _directions(table: model.Table | None, name: str) -> set[Direction]:
    """Return on which connections a chain may decide; nothing where that is not known."""
    if table is None or table.name != model.NAT:
        return set()
    if name in DECIDED_BY_NAT:
        return {DECIDED_BY_NAT[name]}
    entered_from = (chain.name for chain in table.chains if model.Jump(name) in {rule.verdict for rule in chain.rules})
    return {direction for each in entered_from for direction in _directions(table, each)}


def _difference_at(culprits: Culprits, place: RuleLocation, effect: Effect | None = None) -> Difference | Obstacle:
    if place.number >= 0:
        return Obstacle(culprits.whole.other_chains[place.number], place.rule, effect)
    return Difference(culprits.family, place.table, place.chain, "foreign", place.rule, place.position, effect=effect)


def _only(kind: type[Found], found: Iterable[Difference | Obstacle]) -> tuple[Found, ...]:
    """Return what is in our own tables (Difference), or in others (Obstacle)."""
    return tuple(each for each in found if isinstance(each, kind))


def _together(parts: Sequence[Judgement]) -> Judgement:
    """Return the judgement of both families; a chain for both is named once."""
    obstacles = {_key(each): each for part in reversed(parts) for each in part.obstacles}
    unjudged = {_key(each): each for part in reversed(parts) for each in part.unjudged}
    harmless_obstacles = {_key(each): each for part in parts for each in part.harmless_obstacles}
    return Judgement(
        tuple(each for part in parts for each in part.differences),
        tuple(obstacles.values()),
        tuple(each for part in parts for each in part.harmless_differences),
        tuple(each for key, each in harmless_obstacles.items() if key not in obstacles and key not in unjudged),
        tuple(each for key, each in unjudged.items() if key not in obstacles),
        tuple(dict.fromkeys(doubt for part in parts for doubt in part.doubts)),
    )


def _key(each: Difference | Obstacle) -> Hashable:
    return (id(each.foreign_chain), each.rule) if isinstance(each, Obstacle) else each


def second_set_effect(
    desired: model.Ruleset, other_chains: tuple[BaseChain, ...], network: PodNetwork
) -> Effect | None:
    """Return what a second capture next to the desired one does to packets, taken for the newer of both.

    Of hooks with one priority the kernel enters the one first that was registered last.
    """
    newest = tuple(chain.replace(is_of_any_age=False, is_older=False) for chain in other_chains)
    for family in desired.families:
        reference = Situation(of_family(desired, family, desired), (), network=network)
        try:
            effects = list(Comparison(family, reference, reference.replace(other_chains=newest)).effects())
        except TooLargeError:
            continue
        plain = [each for each in effects if each.change.is_plain]
        if plain:
            return min(plain, key=lambda each: each.weight)
    return None
