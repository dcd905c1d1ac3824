"""Whether foreign rules, and differences of our own, matter to any packet: drift, a note, or not judged.

Each is judged where all else is as desired: the desired rules are compared with those with one difference of our own
(``own_effects``), and with those with all foreign rules, of which ``culprits`` finds the ones that matter.
"""

from __future__ import annotations

from capture.analysis.canonical import canonical, canonical_rules
from capture.analysis.compare import EMPTY_CHAIN, Difference, compare_family, with_differences, with_foreign_chains
from capture.analysis.culprits import Culprits, Obstacle
from capture.analysis.diagram import TooLargeError
from capture.analysis.effects import Comparison
from capture.model import ruleset as model
from capture.model.addresses import FAMILIES, Family
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from typing import Any

    from capture.analysis.base_chains import Situation
    from capture.analysis.canonical import CanonicalTables
    from capture.analysis.effects import Effect
    from capture.model.location import Location

LET_PASS = (model.Accept, model.Return, *model.VERDICTS_WITHOUT_EFFECT)
"""Verdicts of another table's base chain after which a packet comes to us as it was: not worth a note."""


class Judgement(Value):
    """The judgement on all differences and foreign rules: fields of ``Verified``, which has their meaning."""

    differences: tuple[Difference, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    harmless_differences: tuple[Difference, ...] = ()
    harmless_obstacles: tuple[Obstacle, ...] = ()
    unjudged: tuple[Difference | Obstacle, ...] = ()
    doubts: tuple[str, ...] = ()


def judge(
    around: Situation, live: model.Ruleset, *, has_reference: bool = True, recorded: model.Ruleset | None = None
) -> Judgement:
    """Return what of the differences, and of foreign rules in all tables, is drift.

    ``around`` are the desired rules next to all other chains. Without a reference they are our own live rules, and only
    foreign rules are judged. Rules of ``recorded`` are our own, desired or not.
    """
    desired = around.ruleset
    parts: list[Judgement] = []
    for family in FAMILIES:
        desired_forms = canonical(desired, family) if family in desired.families else None
        live_forms = canonical(live, family)
        recorded_forms = canonical(recorded, family) if recorded else None
        own, foreign = compare_family(family, desired_forms, live_forms, recorded_forms)
        if not has_reference:
            own = [difference for difference in own if difference.kind not in ("missing", "unexpected")]
        if desired_forms is None:
            parts.insert(0, Judgement(tuple(own)))
            continue
        forms = with_foreign_chains(desired_forms, live_forms)
        rules = _with_forms(_with_chains_of(desired.replace(families=(family,)), live), forms)
        try:
            parts.append(_family_judgement(around.replace(ruleset=rules), forms, own, foreign))
        except TooLargeError as error:
            parts.append(Judgement(tuple(own), doubts=(str(error.message),)))
    return _with_rule_numbers(_merged_judgement(parts), live)


def _with_rule_numbers(judgement: Judgement, live: model.Ruleset) -> Judgement:
    """Return foreign rules with their numbers in the kernel, where a rule with a list is one; 0 where none is known."""
    numbers: dict[Location, dict[model.Rule, int]] = {}

    def numbered(foreign: Difference | Obstacle) -> Difference | Obstacle:
        if not isinstance(foreign, Difference) or foreign.kind != "foreign" or foreign.rule is None:
            return foreign
        location = foreign.location.chain_location
        if location not in numbers:
            chain = live.chain(foreign.table, foreign.chain)
            rules = [*enumerate(chain.rules_for(foreign.family) if chain else (), 1)]
            numbers[location] = {form: n for n, rule in reversed(rules) for form in canonical_rules((rule,))}
        return foreign.replace(position=numbers[location].get(foreign.rule, 0))

    fields = ("differences", "harmless_differences", "unjudged")
    return judgement.replace(**{name: tuple(map(numbered, getattr(judgement, name))) for name in fields})


def family_ruleset(ruleset: model.Ruleset, family: Family, *differences: Difference) -> model.Ruleset:
    """Return what packets of a family meet of a rule set, in its canonical form, with some differences made in it."""
    return _with_forms(ruleset.replace(families=(family,)), with_differences(canonical(ruleset, family), differences))


def _with_forms(ruleset: model.Ruleset, forms: CanonicalTables) -> model.Ruleset:
    def formed(table: model.TableName, chain: model.Chain) -> model.Chain:
        form = forms.get((table, chain.name), EMPTY_CHAIN)
        if chain.rules is form.rules and chain.policy == form.policy:
            return chain
        return chain.replace(rules=form.rules, policy=form.policy, ipv6_policy=None)

    return ruleset.with_chains(formed)


def _with_chains_of(desired: model.Ruleset, live: model.Ruleset) -> model.Ruleset:
    tables: dict[model.TableName, dict[str, model.Chain]] = {}
    for table in (*live.tables, *desired.tables):
        tables.setdefault(table.name, {}).update({chain.name: chain for chain in table.chains})
    return desired.replace(tables=tuple(model.Table(name, tuple(chains.values())) for name, chains in tables.items()))


def _family_judgement(
    around: Situation, forms: CanonicalTables, own: Sequence[Difference], foreign: Sequence[Difference]
) -> Judgement:
    """Return what matters in one family; ``around`` are the desired rules, next to the foreign chains."""
    (family,) = around.ruleset.families
    reference = around.replace(other_chains=())

    def situation_with(differences: Sequence[Difference]) -> Situation:
        return reference.replace(ruleset=_with_forms(reference.ruleset, with_differences(forms, differences)))

    whole = situation_with(foreign).replace(other_chains=around.other_chains)
    culprits = Culprits(family, reference, whole, foreign)
    certain = [culprit for culprit in culprits.named if culprit.effect and culprit.effect.is_certain]
    harmless = [
        other
        for other in culprits.without_effect
        if isinstance(other, Difference) or (other.rule is not None and not isinstance(other.rule.verdict, LET_PASS))
    ]

    if own:
        from capture.analysis.own_effects import with_effects  # not where our own rules are in sync

        own = tuple(with_effects(family, own, situation_with))
    return Judgement(
        (*own, *(each for each in certain if isinstance(each, Difference))),
        tuple(each for each in certain if isinstance(each, Obstacle)),
        tuple(each for each in harmless if isinstance(each, Difference)),
        tuple(each for each in harmless if isinstance(each, Obstacle)),
        (*(culprit for culprit in culprits.named if culprit not in certain), *culprits.by_order),
        culprits.doubts,
    )


def _merged_judgement(parts: Sequence[Judgement]) -> Judgement:
    """Return the judgement of both families; a chain for both is named once."""
    merged = {name: _of_all_parts(parts, name) for name in Judgement.__match_args__}
    named = {*map(_rule_key, (*merged["obstacles"], *merged["unjudged"]))}
    merged["harmless_obstacles"] = tuple(each for each in merged["harmless_obstacles"] if _rule_key(each) not in named)
    return Judgement(**merged)


def _of_all_parts(parts: Sequence[Judgement], name: str) -> tuple[Any, ...]:
    found: dict[Hashable, Any] = {}
    for each in (each for part in parts for each in getattr(part, name)):
        found.setdefault(_rule_key(each), each)
    return tuple(found.values())


def _rule_key(judged: Difference | Obstacle | str) -> Hashable:
    return (id(judged.foreign_chain), judged.rule) if isinstance(judged, Obstacle) else judged


def second_set_effect(around: Situation) -> Effect | None:
    """Return what a second capture, in the other chains, does to packets, taken for the newer of both.

    Of hooks with one priority the kernel enters the one first that was registered last.
    """
    newest = tuple(chain.replace(is_age_unknown=False, is_older=False) for chain in around.other_chains)
    for family in around.ruleset.families:
        reference = around.replace(ruleset=family_ruleset(around.ruleset, family), other_chains=())
        try:
            effects = list(Comparison(family, reference, reference.replace(other_chains=newest)).effects())
        except TooLargeError:
            continue
        plain = [effect for effect in effects if effect.change.is_certain_diversion]
        if plain:
            return min(plain, key=lambda effect: effect.weight)
    return None
