"""What differences do: each with a packet that goes elsewhere, and what cannot change any packet set apart.

Our own rules must be as asked, whether or not a packet notices. A rule of somebody else is drift only if
it changes where a packet goes; otherwise it is worth a note. What we cannot judge counts as drift: a rule
that asks for something unknown, and a rule behind one that does, if it would divert a packet that comes past.
"""

from __future__ import annotations

from capture.analysis.examples import disturbance, example
from capture.analysis.foreign import in_tables_of_iptables
from capture.analysis.ownership import CERTAIN, shape
from capture.model.ruleset import (
    Accept,
    Continue,
    Drop,
    Jump,
    Log,
    Return,
    Rule,
    Ruleset,
    UnknownMatch,
    UnknownVerdict,
)
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.analysis.compare import Difference
    from capture.analysis.examples import Example
    from capture.analysis.foreign import ForeignChain
    from capture.analysis.stations import PodNetwork
    from capture.model.ruleset import Table

LETS_PASS = (Accept, Return, Continue, Log)
"""Verdicts of a bystander after which a packet comes to us as it was."""


class Obstacle(Value):
    """A rule of a bystander before ours, or with None its policy; ``example`` is a packet that it takes from us."""

    not_compared = ("example",)

    foreign_chain: ForeignChain
    rule: Rule | None = None
    example: Example | None = None


def judged(
    desired: Ruleset, live: Ruleset, differences: Iterable[Difference], pod_network: PodNetwork
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """Return the differences that are drift, with examples where there are any, and those that are notes."""
    drift, notes = [], []
    for difference in differences:
        shown = example(
            desired, live, difference.family, difference.table, difference.chain, difference.rule, pod_network
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


# --- bystanders ----------------------------------------------------------------------------------


def in_tables_without_ours(live: Ruleset, desired: Ruleset) -> Iterator[ForeignChain]:
    """Yield the chains with rules of others in tables of iptables where we ask for no rules.

    Where we do, and what policies do, is a difference (``compare``).
    """
    for each in in_tables_of_iptables(live, is_older=lambda _: True):
        table = each.contents.name
        asked = desired.table(table)
        wanted = asked.chain(each.hook) if asked else None
        foreign = tuple(rule for rule in each.entry.rules if shape(table, each.hook, rule) != CERTAIN)
        if foreign and not (wanted and wanted.rules):
            _, *others = each.contents.chains
            entry = each.entry.replace(rules=foreign, policy="ACCEPT", ipv6_policy=None)
            yield each.replace(contents=each.contents.replace(chains=(entry, *others)))


def obstacles(
    desired: Ruleset, foreign_chains: Iterable[ForeignChain], pod_network: PodNetwork
) -> tuple[tuple[Obstacle, ...], tuple[Obstacle, ...]]:
    """Return what of chains beside ours is drift, with examples where there are any, and what is worth a note.

    It is drift if it changes what happens to a packet that we capture, or may do so by what we do not understand.
    """
    drift, notes = [], []
    for foreign_chain in foreign_chains:
        if not _comes_before(foreign_chain, desired):
            continue
        for place in _suspects(foreign_chain):
            rule = None if place is None else foreign_chain.entry.rules[place]
            feared = foreign_chain if place is None else _feared(foreign_chain, place)
            shown = disturbance(desired, feared, rule and feared.entry.rules[-1], pod_network)
            if shown is None:
                notes.append(Obstacle(foreign_chain, rule))
            else:
                is_sure = shown.is_plain and (
                    rule is None or _all_understood(rule, foreign_chain.contents, frozenset())
                )
                drift.append(Obstacle(foreign_chain, rule, shown if is_sure else None))
    return tuple(drift), tuple(notes)


def _comes_before(foreign_chain: ForeignChain, desired: Ruleset) -> bool:
    """Return whether a bystander stands before one of our base chains."""
    return any(
        foreign_chain.is_before(table.name) for table in desired.tables if table.chain(foreign_chain.hook) is not None
    )


def _suspects(foreign_chain: ForeignChain) -> Iterator[int | None]:
    """Yield the places of rules that may keep packets from us or change them, and None for a policy that does."""
    for place, rule in enumerate(foreign_chain.entry.rules):
        if not isinstance(rule.verdict, LETS_PASS):
            yield place
    if any(foreign_chain.entry.policy_for(family) == "DROP" for family in foreign_chain.families):
        yield None


def _feared(foreign_chain: ForeignChain, place: int) -> ForeignChain:
    """Return the bystander up to a rule, as if what is unknown in it, or in what it jumps to, were the worst."""
    entry, *others = foreign_chain.contents.chains
    suspect = entry.rules[place]
    rules = (*entry.rules[:place], _worst(suspect))
    if isinstance(suspect.verdict, Jump):
        others = [chain.replace(rules=tuple(map(_worst, chain.rules))) for chain in others]
    entry = entry.replace(rules=rules, policy="ACCEPT", ipv6_policy=None)
    return foreign_chain.replace(contents=foreign_chain.contents.replace(chains=(entry, *others)))


def _worst(rule: Rule) -> Rule:
    """Return a rule as it would be if its unknown matches held, and its unknown verdict threw packets away."""
    verdict = Drop() if isinstance(rule.verdict, UnknownVerdict) else rule.verdict
    return rule.replace(verdict=verdict, matches=tuple(m for m in rule.matches if not isinstance(m, UnknownMatch)))
