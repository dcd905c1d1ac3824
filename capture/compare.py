"""What differs between the rules that were asked for and the rules that are there.

In our own chains every rule counts, in order. In built-in chains ours must be there in order, and a rule
of somebody else counts when it stands before ours and may take traffic away from them. Counters and
comments never count.
"""

from __future__ import annotations

from capture.canonical import CanonicalChain, canonical
from capture.model import (
    BUILT_IN_CHAINS,
    FAMILIES,
    Continue,
    Jump,
    Log,
    RestoreMark,
    Rule,
    SaveMark,
    SetMark,
    SetZone,
)
from capture.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from capture.addresses import Family
    from capture.canonical import CanonicalTables
    from capture.examples import Example
    from capture.model import Ruleset, TableName

    Kind = Literal["missing", "unexpected", "foreign", "policy", "family"]

GO_ON = (Continue, Log, SetMark, SaveMark, RestoreMark, SetZone)
"""Verdicts after which the next rule is looked at."""

EMPTY = CanonicalChain("ACCEPT", ())


class Difference(Value):
    """One difference: where, of what kind, and which rule; position counts from 1, in the live chain if it is there.

    Kinds: a rule of ours is ``missing``; a rule in our chain, or a jump to it, is ``unexpected``; a
    ``foreign`` rule stands before ours and may take traffic away; a built-in chain has another ``policy``;
    a ``family`` is captured that should not be. ``example`` is a packet that goes elsewhere because of it.
    """

    not_compared = ("example",)

    family: Family
    table: TableName
    chain: str
    kind: Kind
    rule: Rule | None = None
    position: int = 0
    policy: str = ""
    example: Example | None = None

    @property
    def is_ours(self) -> bool:
        """Return whether it is about a rule of ours, not about what somebody else did beside it."""
        return self.kind in ("missing", "unexpected", "family")


def differences(desired: Ruleset, live: Ruleset) -> list[Difference]:
    """Return every difference that can matter to a packet, in the order of the tables."""
    found: list[Difference] = []
    ours = chain_names(desired)
    for family in FAMILIES:
        there = canonical(live, family)
        if family in desired.families:
            found += _family_differences(family, canonical(desired, family), there, ours)
        else:
            found += _captured_family(family, there, ours)
    return found


def can_stay(desired: Ruleset, live: Ruleset) -> bool:
    """Return whether writing the rules again would change nothing: a policy is nothing that we write."""
    return desired.comments == live.comments and all(d.kind == "policy" for d in differences(desired, live))


def chain_names(ruleset: Ruleset) -> frozenset[tuple[TableName, str]]:
    """Return our chains: those of a rule set that are not built in."""
    return frozenset(
        (table.name, chain.name)
        for table in ruleset.tables
        for chain in table.chains
        if chain.name not in BUILT_IN_CHAINS[table.name]
    )


def _family_differences(
    family: Family, desired: CanonicalTables, live: CanonicalTables, ours: frozenset[tuple[TableName, str]]
) -> Iterator[Difference]:
    for place in dict.fromkeys((*desired, *live)):
        table, name = place
        wanted, there = desired.get(place, EMPTY), live.get(place, EMPTY)
        if name in BUILT_IN_CHAINS[table]:
            yield from _built_in_differences(family, table, name, wanted, there, ours)
        elif place in desired or place in ours:
            yield from _own_differences(family, table, name, wanted.rules, there.rules)


def _own_differences(
    family: Family, table: TableName, name: str, wanted: tuple[Rule, ...], there: tuple[Rule, ...]
) -> Iterator[Difference]:
    if wanted == there:
        return
    for rule, place in _only_in_first(wanted, there):
        yield Difference(family, table, name, "missing", rule, place)
    for rule, place in _only_in_first(there, wanted):
        yield Difference(family, table, name, "unexpected", rule, place)


def _built_in_differences(
    family: Family,
    table: TableName,
    name: str,
    wanted: CanonicalChain,
    there: CanonicalChain,
    ours: frozenset[tuple[TableName, str]],
) -> Iterator[Difference]:
    if there.policy != wanted.policy:
        yield Difference(family, table, name, "policy", policy=there.policy)
    for rule, place in _only_in_first(wanted.rules, there.rules):
        yield Difference(family, table, name, "missing", rule, place)
    extra = list(_only_in_first(there.rules, wanted.rules))
    extra_places = {place for _, place in extra}
    last_of_ours = max((p for p in range(1, len(there.rules) + 1) if p not in extra_places), default=0)
    for rule, place in extra:
        if isinstance(rule.verdict, Jump) and (table, rule.verdict.chain) in ours:
            yield Difference(family, table, name, "unexpected", rule, place)
        elif place < last_of_ours and may_take_away(rule):
            yield Difference(family, table, name, "foreign", rule, place)


def _captured_family(
    family: Family, live: CanonicalTables, ours: frozenset[tuple[TableName, str]]
) -> Iterator[Difference]:
    for (table, name), chain in live.items():
        if name not in BUILT_IN_CHAINS[table]:
            continue
        for place, rule in enumerate(chain.rules, 1):
            if isinstance(rule.verdict, Jump) and (table, rule.verdict.chain) in ours:
                yield Difference(family, table, name, "family", rule, place)


def may_take_away(rule: Rule) -> bool:
    """Return whether a packet that matches the rule may never meet the rules after it."""
    return not isinstance(rule.verdict, GO_ON)


def _only_in_first(first: tuple[Rule, ...], second: tuple[Rule, ...]) -> Iterator[tuple[Rule, int]]:
    """Yield what of ``first`` is no part of the longest order that both share, with its place from 1."""
    shared = _longest_common(first, second)
    for place, rule in enumerate(first, 1):
        if place - 1 not in shared:
            yield rule, place


def _longest_common(first: tuple[Rule, ...], second: tuple[Rule, ...]) -> set[int]:
    """Return the places in ``first`` of a longest common subsequence; equal ends are taken off before."""
    start, end = 0, 0
    shortest = min(len(first), len(second))
    while start < shortest and first[start] == second[start]:
        start += 1
    while end < shortest - start and first[-1 - end] == second[-1 - end]:
        end += 1
    shared = {*range(start), *range(len(first) - end, len(first))}
    middle, other = first[start : len(first) - end], second[start : len(second) - end]
    lengths = [[0] * (len(other) + 1) for _ in range(len(middle) + 1)]
    for i in range(len(middle) - 1, -1, -1):
        for j in range(len(other) - 1, -1, -1):
            same = middle[i] == other[j]
            lengths[i][j] = lengths[i + 1][j + 1] + 1 if same else max(lengths[i + 1][j], lengths[i][j + 1])
    i = j = 0
    while i < len(middle) and j < len(other):
        if middle[i] == other[j]:
            shared.add(start + i)
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return shared
