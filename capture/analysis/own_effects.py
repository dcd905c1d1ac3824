"""What each difference of our own rules does to packets: the desired rules are compared with the same and it alone.

A rule that was changed or moved is two differences, and one change; so is a chain without any of its rules. Some do
nothing alone, such as the loss of one of two rules for the same packets. Of those the smallest groups that do something
together are looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

from capture.analysis.base_chains import Situation
from capture.analysis.compare import Difference, differences_by_chain
from capture.analysis.effects import Comparison, Effect
from capture.model.addresses import Family
from capture.model.ruleset import Rule, Ruleset
from capture.model.text import plural

RuleChange = tuple[Difference, ...]
SituationWith = Callable[[Sequence[Difference]], Situation]
"""Returns the desired rules with some differences made in them."""

MOVED = "the rule was moved"
CHANGED = "the rule was changed"
EMPTIED = "with all rules of the chain"
EFFECT_NOT_JUDGED = "effect not looked for: there are too many differences"
NOT_ALONE = "no effect alone; effects with others not looked for: there are too many"
MAX_JUDGED_SINGLY = 3
"""Up to this many missing rules of a chain without rules are judged one by one."""
MAX_JUDGED = 100
"""Changes that get an effect each."""
MAX_GROUPS = 5
"""Groups of changes that do something together only."""


def with_effects(family: Family, own: Sequence[Difference], situation_with: SituationWith) -> Iterator[Difference]:
    """Yield the differences of our own rules in one family, each with its effect. Raises TooLargeError."""
    whole = Comparison(family, situation_with(()), situation_with(own))

    def effect_of(*changes: RuleChange) -> Effect | None:
        situation = situation_with([difference for change in changes for difference in change])
        effects = whole.with_after(situation).effects()
        return min(effects, key=lambda each: each.weight, default=None)

    contexts = dict(_rule_changes(own, whole.situations[1].ruleset))
    judged = [*contexts][:MAX_JUDGED]
    contexts |= dict.fromkeys([*contexts][MAX_JUDGED:], EFFECT_NOT_JUDGED)
    effects = {change: effect_of(change) for change in judged}
    idle = [change for change, effect in effects.items() if effect is None]
    for _ in range(MAX_GROUPS):
        if len(idle) < 2 or effect_of(*idle) is None:
            break
        group = idle
        for change in idle:
            fewer = [other for other in group if other != change]
            group = fewer if effect_of(*fewer) is not None else group
        for change in group:
            effects[change] = effect_of(*group)
            contexts[change] = f"not alone, but with {_locations_text([other for other in group if other != change])}"
        idle = [change for change in idle if change not in group]
    else:
        if len(idle) > 1 and effect_of(*idle) is not None:
            contexts |= dict.fromkeys(idle, NOT_ALONE)
    known = {each: (effects.get(change), contexts[change]) for change in contexts for each in change}
    for difference in own:
        effect, effect_context = known[difference]
        yield difference.replace(effect=effect, effect_context=effect_context)


def _locations_text(changes: Sequence[RuleChange]) -> str:
    first, others = changes[0][0].location, len(changes) - 1
    return f"{first} and {plural(others, 'more difference')}" if others else str(first)


def _rule_changes(own: Sequence[Difference], live: Ruleset) -> Iterator[tuple[RuleChange, str]]:
    """Yield the changes, of one difference or several, each with its kind in words.

    An unexpected rule belongs to a missing one that is equal to it, else to one in the place of which it is.
    """
    for key, in_chain in differences_by_chain(own).items():
        chain = live.chain(*key)
        if len(in_chain) > MAX_JUDGED_SINGLY and not (chain and chain.rules):
            yield tuple(in_chain), EMPTIED
            continue
        gone = {difference.rules_before: difference for difference in in_chain if difference.kind == "missing"}
        same: dict[Rule | None, list[Difference]] = {}
        for difference in gone.values():
            same.setdefault(difference.rule, []).append(difference)
        taken: set[int] = set()
        for difference in sorted(in_chain, key=lambda each: each.rule not in same):
            end = next(at for at in count(difference.rules_before) if at not in gone)
            moved = same.get(difference.rule, [])
            missing = moved or map(gone.get, range(difference.rules_before, end))
            free = [each for each in missing if each and id(each) not in taken]
            if free and difference.kind == "unexpected":
                other = max(free, key=lambda each: len(_rule_parts(each) & _rule_parts(difference)))
                taken |= {id(difference), id(other)}
                placed = difference if moved else difference.replace(rules_before=other.rules_before)
                yield (other, placed), MOVED if moved else CHANGED
        yield from (((difference,), "") for difference in in_chain if id(difference) not in taken)


def _rule_parts(difference: Difference) -> set[object]:
    return {difference.rule.verdict, *difference.rule.matches} if difference.rule else set()
