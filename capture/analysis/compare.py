"""Differences between the desired and the live rules.

In our own chains, in either spelling, every rule counts, in order. In built-in chains our rules must be there in
order. A rule that no other program writes is our own, in any chain. A foreign rule counts when it precedes our rules
and may divert traffic, or change a mark that our rules match. Counters and comments never count.
"""

from __future__ import annotations

from capture.analysis.canonical import CanonicalChain, canonical
from capture.analysis.ownership import CERTAIN, disturbance_test, likeness_to_own
from capture.model.addresses import FAMILIES, Family
from capture.model.chain_names import is_own_chain
from capture.model.location import Location
from capture.model.ruleset import BUILT_IN_CHAINS
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Literal

    from capture.analysis.canonical import CanonicalTables
    from capture.analysis.effects import Effect
    from capture.model.ruleset import Rule, Ruleset, TableName

    DifferenceKind = Literal["missing", "unexpected", "foreign", "policy", "family"]
    PlacedRule = tuple[int, int, Rule]
    """A rule with its positions, which count from 0, in two chains."""
    CommonRun = tuple[int, int, "CommonRun | None"]
    """A common subsequence from its end: the positions of its last rule, and the run before it."""
else:
    DifferenceKind = str

EMPTY_CHAIN = CanonicalChain("ACCEPT", ())


class Difference(Value):
    """One difference: where, of what kind, and which rule; position counts from 1, in the live chain if it is there.

    Kinds: one of our rules is ``missing``; a rule in our chain, or an own one elsewhere, is ``unexpected``; a
    ``foreign`` rule comes before our rules and may divert traffic or change its marks; a built-in chain has
    another ``policy``; a ``family`` is captured that should not be. ``effect`` is what it does to packets where all
    else is as desired; ``effect_context`` is, in words, which other difference it takes for that.
    """

    not_compared = ("rules_before", "effect", "effect_context")

    family: Family
    table: TableName
    chain: str
    kind: DifferenceKind
    rule: Rule | None = None
    position: int = 0
    policy: str = ""
    rules_before: int = 0
    """How many of the desired rules of its chain are before it."""
    effect: Effect | None = None
    effect_context: str = ""

    @property
    def location(self) -> Location:
        """Return where it is."""
        return Location(self.table, self.chain, self.position, self.family)

    @property
    def weight(self) -> tuple[bool, ...]:
        """Return what orders differences, the heaviest first: those without an effect come last."""
        return self.effect is None, *(self.effect.weight if self.effect else ())

    @property
    def is_own(self) -> bool:
        """Return whether it is about one of our rules, not about a foreign one."""
        return self.kind in ("missing", "unexpected", "family")


def differences(desired: Ruleset, live: Ruleset) -> list[Difference]:
    """Return every difference that can matter to a packet, family by family, those of our own rules first."""
    all_differences: list[Difference] = []
    for family in FAMILIES:
        desired_forms = canonical(desired, family) if family in desired.families else None
        live_forms = canonical(live, family)
        own, foreign = compare_family(family, desired_forms, live_forms)
        all_differences += own
        for key, in_chain in differences_by_chain(foreign).items():
            all_differences += _disturbing_rules(key, in_chain, own, desired_forms or {})
    return all_differences


def differences_by_chain(differing: Iterable[Difference]) -> dict[tuple[TableName, str], list[Difference]]:
    """Return differences of one family by their tables and chains."""
    grouped: dict[tuple[TableName, str], list[Difference]] = {}
    for difference in differing:
        grouped.setdefault((difference.table, difference.chain), []).append(difference)
    return grouped


def _disturbing_rules(
    key: tuple[TableName, str], foreign: Sequence[Difference], own: Sequence[Difference], desired: CanonicalTables
) -> Iterator[Difference]:
    """Yield the foreign rules of a chain that are before one of our own, and may divert packets or change its marks."""
    table, name = key
    missing = {each.rules_before for each in own if (each.table, each.chain, each.kind) == (*key, "missing")}
    shared = {*range(len(desired.get(key, EMPTY_CHAIN).rules))} - missing
    disturbs = disturbance_test(
        (each.rule for each in foreign if each.rule), name, lambda chain: desired.get((table, chain), EMPTY_CHAIN).rules
    )
    last_own = max(shared, default=-1)
    return (each for each in foreign if each.rules_before <= last_own and each.rule and disturbs(each.rule))


def compare_family(
    family: Family,
    desired_forms: CanonicalTables | None,
    live_forms: CanonicalTables,
    recorded_forms: CanonicalTables | None = None,
) -> tuple[list[Difference], list[Difference]]:
    """Return the differences of our own rules, and every foreign rule in a built-in chain.

    ``desired_forms`` is None where nothing should be captured. Rules of ``recorded_forms`` are our own.
    """
    if desired_forms is None:
        return list(_uncaptured_family_differences(family, live_forms)), []
    own: list[Difference] = []
    foreign: list[Difference] = []
    forms = with_foreign_chains(desired_forms, live_forms)
    for key in dict.fromkeys((*forms, *live_forms)):
        desired, live = forms.get(key, EMPTY_CHAIN), live_forms.get(key, EMPTY_CHAIN)
        if desired == live:
            continue
        table, name = key
        if live.policy != desired.policy:
            own.append(Difference(family, table, name, "policy", policy=live.policy))
        missing, extra = _missing_and_extra(desired.rules, live.rules)
        own += [
            Difference(family, table, name, "missing", rule, position + 1, rules_before=position)
            for position, _, rule in missing
        ]
        are_all_own = is_own_chain(name) or live.is_hooked_differently
        recorded = (recorded_forms or {}).get(key, EMPTY_CHAIN).rules
        for before, position, rule in extra:
            is_own = are_all_own or likeness_to_own(table, name, rule) == CERTAIN or rule in recorded
            kind: DifferenceKind = "unexpected" if is_own else "foreign"
            (own if is_own else foreign).append(Difference(family, *key, kind, rule, position + 1, rules_before=before))
    return own, foreign


def with_foreign_chains(desired: CanonicalTables, live_forms: CanonicalTables) -> CanonicalTables:
    """Return desired rules with the live chains of others, without rules of ours that these may have."""
    forms = dict(desired)
    for (table, name), chain in live_forms.items():
        is_shared = name in BUILT_IN_CHAINS[table] or chain.is_hooked_differently
        if not (is_shared or is_own_chain(name)):
            rules = tuple(rule for rule in chain.rules if likeness_to_own(table, name, rule) != CERTAIN)
            forms[table, name] = chain if len(rules) == len(chain.rules) else chain.replace(rules=rules)
    return forms


def with_differences(forms: CanonicalTables, made: Iterable[Difference]) -> CanonicalTables:
    """Return rules with some differences made in them.

    Where rules are missing, others come before them: those that are applied again are appended.
    """
    changed = dict(forms)
    for key, in_chain in differences_by_chain(made).items():
        form = forms.get(key, EMPTY_CHAIN)
        gone = {difference.rules_before for difference in in_chain if difference.kind == "missing"}
        rules = [(at, 1, rule) for at, rule in enumerate(form.rules) if at not in gone]
        extra = sorted((each for each in in_chain if each.kind != "missing"), key=lambda each: each.position)
        rules += [(difference.rules_before, 0, difference.rule) for difference in extra if difference.rule is not None]
        policy = next((difference.policy for difference in in_chain if difference.policy), form.policy)
        in_order = tuple(rule for _, _, rule in sorted(rules, key=lambda placed: placed[:2]))
        changed[key] = form.replace(policy=policy, rules=in_order)
    return changed


def is_applied(desired: Ruleset, live: Ruleset, *, writes_policies: bool = False) -> bool:
    """Return whether writing the rules again would change nothing.

    In tables that are shared a policy is foreign, and is nothing that we write.
    """
    if not live.tables:
        return False
    changes = [each for each in differences(desired, live) if writes_policies or each.kind != "policy"]
    return desired.has_comments == live.has_comments and not changes


def _uncaptured_family_differences(family: Family, live: CanonicalTables) -> Iterator[Difference]:
    for (table, name), chain in live.items():
        if not is_own_chain(name):
            for position, rule in enumerate(chain.rules, 1):
                if likeness_to_own(table, name, rule) == CERTAIN:
                    yield Difference(family, table, name, "family", rule, position)


def _missing_and_extra(first: tuple[Rule, ...], second: tuple[Rule, ...]) -> tuple[list[PlacedRule], list[PlacedRule]]:
    """Return the rules of each that are not in the longest order that both share, with their positions in both.

    A rule that is not in the first one is right behind the last rule there that both share.
    """
    start, end = 0, 0
    shortest = min(len(first), len(second))
    while start < shortest and first[start] == second[start]:
        start += 1
    while end < shortest - start and first[-1 - end] == second[-1 - end]:
        end += 1
    pairs = _longest_common(first[start : len(first) - end], second[start : len(second) - end])
    missing: list[PlacedRule] = []
    extra: list[PlacedRule] = []
    i = j = start
    for at_first, at_second in (*((start + i, start + j) for i, j in pairs), (len(first) - end, len(second) - end)):
        extra += [(i, at, second[at]) for at in range(j, at_second)]
        missing += [(at, j, first[at]) for at in range(i, at_first)]
        i, j = at_first + 1, at_second + 1
    return missing, extra


def _longest_common(first: tuple[Rule, ...], second: tuple[Rule, ...]) -> list[tuple[int, int]]:
    """Return the positions, in both, of a longest common subsequence.

    J. W. Hunt and T. G. Szymanski, "A fast algorithm for computing longest common subsequences" (1977): the longest
    run of rising positions in ``second``. Nearly linear, since few rules are equal to one another.
    """
    from bisect import bisect_left  # rules that differ are rare

    positions: dict[Rule, list[int]] = {}
    for j in range(len(second) - 1, -1, -1):
        positions.setdefault(second[j], []).append(j)
    ends: list[int] = []  # by length of a run: the lowest position at which one ends
    runs: list[CommonRun] = []  # those runs, each with the one that it continues
    for i, rule in enumerate(first):
        for j in positions.get(rule, ()):
            length = bisect_left(ends, j)
            run = (i, j, runs[length - 1] if length else None)
            ends[length : length + 1] = [j]
            runs[length : length + 1] = [run]
    pairs, last = [], runs[-1] if runs else None
    while last is not None:
        i, j, last = last
        pairs.append((i, j))
    return pairs[::-1]
