"""What differences do: each with a packet that goes elsewhere, and what cannot change any packet set apart.

Our own rules must be as asked, whether or not a packet notices. A rule of somebody else is drift only if
it changes where a packet goes; otherwise it is worth a note. What we cannot judge counts as drift: a rule
that asks for something unknown, and a rule behind one that does, if it would divert a packet that comes past.
"""

from __future__ import annotations

from capture.examples import Surroundings, example
from capture.model import Jump, Rule, Ruleset, UnknownMatch, UnknownVerdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.compare import Difference
    from capture.model import Table


def judged(
    desired: Ruleset, live: Ruleset, differences: Iterable[Difference], surroundings: Surroundings
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """Return the differences that are drift, with examples where there are any, and those that are notes."""
    drift, notes = [], []
    for difference in differences:
        shown = example(
            desired, live, difference.family, difference.table, difference.chain, difference.rule, surroundings
        )
        if shown is None and difference.kind == "foreign" and _is_understood(difference, live):
            notes.append(difference)
        else:
            drift.append(difference.replace(example=shown if shown and shown.is_plain else None))
    return tuple(drift), tuple(notes)


def _is_understood(difference: Difference, live: Ruleset) -> bool:
    """Return whether we can judge a foreign rule, and all that it may jump to."""
    table = live.table(difference.table)
    return difference.rule is not None and table is not None and _all_understood(difference.rule, table, frozenset())


def _all_understood(rule: Rule, table: Table, seen: frozenset[str]) -> bool:
    if isinstance(rule.verdict, UnknownVerdict) or any(isinstance(match, UnknownMatch) for match in rule.matches):
        return False
    if not isinstance(rule.verdict, Jump) or rule.verdict.chain in seen:
        return True
    target = table.chain(rule.verdict.chain)
    inner = seen | {rule.verdict.chain}
    return all(_all_understood(each, table, inner) for each in (target.rules if target else ()))
