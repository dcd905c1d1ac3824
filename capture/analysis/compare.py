"""Differences between the desired and the live rules.

In our own chains, in either spelling, every rule counts, in order. In built-in chains our rules must be there in
order. A rule that no other program writes is our own, as a second set is. A foreign rule counts when it comes before
our rules and may divert traffic, or change a mark that our rules match. Counters and comments never count.
"""

from __future__ import annotations

from capture.analysis.canonical import CanonicalChain, canonical
from capture.analysis.ownership import CERTAIN, disturbance_test, shape
from capture.model.addresses import FAMILIES, FAMILY_NAMES, Family
from capture.model.chain_names import is_own_chain
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from capture.analysis.canonical import CanonicalTables
    from capture.analysis.effects import Effect
    from capture.model.ruleset import Rule, Ruleset, TableName

    DifferenceKind = Literal["missing", "unexpected", "foreign", "policy", "family"]
    Numbered = list[tuple[int, Rule]]
    """Rules with their places in a chain, which count from 1."""
    Run = tuple[int, int, "Run | None"]
    """A common subsequence from its end: the places of its last rule, and the run before it."""

EMPTY = CanonicalChain("ACCEPT", ())


class Difference(Value):
    """One difference: where, of what kind, and which rule; position counts from 1, in the live chain if it is there.

    Kinds: one of our rules is ``missing``; a rule in our chain, or an own one elsewhere, is ``unexpected``; a
    ``foreign`` rule comes before our rules and may divert traffic or change its marks; a built-in chain has
    another ``policy``; a ``family`` is captured that should not be. ``effect`` is what it does to packets.
    """

    not_compared = ("effect",)

    family: Family
    table: TableName
    chain: str
    kind: DifferenceKind
    rule: Rule | None = None
    position: int = 0
    policy: str = ""
    effect: Effect | None = None

    @property
    def place(self) -> str:
        """Return where it is, in words."""
        where = f"{FAMILY_NAMES[self.family]} {self.table} {self.chain}"
        if self.rule is None:
            return where
        return f"{where}: rule {self.position}" if self.position else f"{where}: a rule"

    @property
    def weight(self) -> tuple[bool, ...]:
        """Return what orders differences, the weightiest first: those without an effect come last."""
        return self.effect is None, *(self.effect.weight if self.effect else ())

    @property
    def is_own(self) -> bool:
        """Return whether it is about one of our rules, not about a foreign one."""
        return self.kind in ("missing", "unexpected", "family")


def differences(desired: Ruleset, live: Ruleset) -> list[Difference]:
    """Return every difference that can matter to a packet, family by family, those of our own rules first."""
    found: list[Difference] = []
    for family in FAMILIES:
        desired_forms = canonical(desired, family) if family in desired.families else None
        there = canonical(live, family)
        own, foreign = compared(family, desired_forms, there)
        found += own
        for place, rules in foreign.items():
            extra = {each.position for each in own if (each.table, each.chain, each.kind) == (*place, "unexpected")}
            shared = {*range(1, len(there[place].rules) + 1)} - extra - {position for position, _ in rules}
            disturbing = _disturbing(place, rules, max(shared, default=0), desired_forms or {})
            found += [Difference(family, *place, "foreign", rule, position) for position, rule in disturbing]
    return found


def _disturbing(
    place: tuple[TableName, str], rules: Numbered, last_own: int, desired_forms: CanonicalTables
) -> Iterator[tuple[int, Rule]]:
    """Yield the foreign rules of a chain that are before one of our own, and may divert packets or change its marks."""
    table, name = place
    disturbs = disturbance_test(
        (rule for _, rule in rules), name, lambda chain: desired_forms.get((table, chain), EMPTY).rules
    )
    return ((position, rule) for position, rule in rules if position < last_own and disturbs(rule))


def compared(
    family: Family,
    desired_forms: CanonicalTables | None,
    there: CanonicalTables,
    recorded_forms: CanonicalTables | None = None,
) -> tuple[list[Difference], dict[tuple[TableName, str], Numbered]]:
    """Return the differences of our own rules, and every foreign rule in a shared chain that is not as desired.

    ``desired_forms`` is None where nothing should be captured. Rules of ``recorded_forms`` are our own.
    """
    if desired_forms is None:
        return list(_captured_family(family, there)), {}
    own: list[Difference] = []
    foreign: dict[tuple[TableName, str], Numbered] = {}
    for place in dict.fromkeys((*desired_forms, *there)):
        desired, live = desired_forms.get(place, EMPTY), there.get(place, EMPTY)
        if desired == live:
            continue
        table, name = place
        if live.policy != desired.policy:
            own.append(Difference(family, table, name, "policy", policy=live.policy))
        missing, extra = _only_in_one(desired.rules, live.rules)
        if not (is_own_chain(name) or live.is_hooked_differently):
            recorded = (recorded_forms or {}).get(place, EMPTY).rules
            certain = {position for position, rule in extra if shape(table, name, rule) == CERTAIN or rule in recorded}
            others = [each for each in extra if each[0] not in certain]
            extra = [each for each in extra if each[0] in certain]
            if others:
                foreign[place] = others
        own += [Difference(family, table, name, "missing", rule, position) for position, rule in missing]
        own += [Difference(family, table, name, "unexpected", rule, position) for position, rule in extra]
    return own, foreign


def can_stay(desired: Ruleset, live: Ruleset, *, writes_policies: bool = False) -> bool:
    """Return whether writing the rules again would change nothing.

    In tables that are shared a policy is foreign, and is nothing that we write.
    """
    if not live.tables:
        return False
    found = [d for d in differences(desired, live) if writes_policies or d.kind != "policy"]
    return desired.comments == live.comments and not found


def _captured_family(family: Family, live: CanonicalTables) -> Iterator[Difference]:
    for (table, name), chain in live.items():
        if not is_own_chain(name):
            for position, rule in enumerate(chain.rules, 1):
                if shape(table, name, rule) == CERTAIN:
                    yield Difference(family, table, name, "family", rule, position)


def _only_in_one(first: tuple[Rule, ...], second: tuple[Rule, ...]) -> tuple[Numbered, Numbered]:
    """Return the rules of each that are not in the longest order that both share."""
    start, end = 0, 0
    shortest = min(len(first), len(second))
    while start < shortest and first[start] == second[start]:
        start += 1
    while end < shortest - start and first[-1 - end] == second[-1 - end]:
        end += 1
    first, second = first[start : len(first) - end], second[start : len(second) - end]
    pairs = _longest_common(first, second)
    shared_first, shared_second = {i for i, _ in pairs}, {j for _, j in pairs}
    return (
        [(start + i + 1, rule) for i, rule in enumerate(first) if i not in shared_first],
        [(start + j + 1, rule) for j, rule in enumerate(second) if j not in shared_second],
    )


def _longest_common(first: tuple[Rule, ...], second: tuple[Rule, ...]) -> list[tuple[int, int]]:
    """Return the places, in both, of a longest common subsequence.

    J. W. Hunt and T. G. Szymanski, "A fast algorithm for computing longest common subsequences" (1977): the longest
    run of rising places in ``second``. Nearly linear, since few rules are equal to one another.
    """
    from bisect import bisect_left  # rules that differ are rare

    places: dict[Rule, list[int]] = {}
    for j in range(len(second) - 1, -1, -1):
        places.setdefault(second[j], []).append(j)
    ends: list[int] = []  # by length of a run: the lowest place at which one ends
    runs: list[Run] = []  # those runs, each with the one that it continues
    for i, rule in enumerate(first):
        for j in places.get(rule, ()):
            length = bisect_left(ends, j)
            run = (i, j, runs[length - 1] if length else None)
            ends[length : length + 1] = [j]
            runs[length : length + 1] = [run]
    pairs, last = [], runs[-1] if runs else None
    while last is not None:
        i, j, last = last
        pairs.append((i, j))
    return pairs
