"""One form for all rule sets that mean the same, so that desired and live rules can be compared.

A rule set is looked at family by family, and its rules get one form:

1. Reasons and counters are gone; matches come in one order.
2. Rules in a row that differ in the entries of one list only are that list.
3. Up to 16 entries of a list are a rule each, in their order, so that each has a counter. More are joined into the
   fewest networks or spans: a rule each if these are 16 at most, else one rule.

Kernels and tools differ in exactly these points: iptables writes each entry as a rule, an interval set of nftables
joins overlapping and adjacent entries.

No packet tells a rule set from its form. So rules are not joined where a packet that meets two of them goes
through a chain twice, and rules that test something unknown stay as they are: some matches count or limit.
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.addresses import Family, collapse, merge_ranges
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TypeVar

    AnyMatch = TypeVar("AnyMatch", bound=model.Match)
    Listed = model.AddressMatch | model.PortMatch | model.OwnerMatch
    """Matches with several entries."""

MATCH_KINDS = (
    model.Source, model.Destination, model.InInterface, model.OutInterface, model.Protocol, model.SourcePort,
    model.DestinationPort, model.OwnerUid, model.OwnerGid, model.Mark, model.ConnectionMark, model.ConnectionState,
    model.UnknownMatch,
)  # fmt: skip
MATCH_ORDER: dict[type, int] = {kind: index for index, kind in enumerate(MATCH_KINDS)}

ENTRIES: dict[type, str] = {
    **dict.fromkeys((model.Source, model.Destination), "networks"),
    **dict.fromkeys((model.SourcePort, model.DestinationPort), "ports"),
    **dict.fromkeys((model.OwnerUid, model.OwnerGid), "ids"),
}
"""The fields in which matches with several entries keep them."""

SPREAD_OVER_RULES = (model.Source, model.Destination, model.SourcePort, model.DestinationPort)
"""Matches whose entries may be spread over rules, in the order in which they are looked at."""
LISTED = (*SPREAD_OVER_RULES, model.OwnerUid, model.OwnerGid)


class CanonicalChain(Value):
    """A chain as one family sees it."""

    policy: str
    rules: tuple[model.Rule, ...]
    is_hooked_differently: bool = False
    """Whether packets enter it where none of the built-in chains of its table is entered."""


if TYPE_CHECKING:
    CanonicalTables = dict[tuple[model.TableName, str], CanonicalChain]


def canonical(ruleset: model.Ruleset, family: Family) -> CanonicalTables:
    """Return what a packet of the family meets, by table and chain; nothing for a family that the rule set is not for.

    Chains without rules for the family are left out, unless they have another policy than ACCEPT.
    """
    chains: CanonicalTables = {}
    if family not in ruleset.families:
        return chains
    for table in ruleset.tables:
        for chain in table.chains:
            rules = canonical_rules(chain.rules_for(family))
            policy = chain.policy_for(family) or "ACCEPT"
            if rules or policy != "ACCEPT":
                is_elsewhere = chain.policy is not None and bool(chain.state)
                chains[table.name, chain.name] = CanonicalChain(policy, rules, is_elsewhere)
    return chains


def canonical_rules(rules: Iterable[model.Rule]) -> tuple[model.Rule, ...]:
    """Return rules that decide the same on every packet, in their one form."""
    before: list[model.Rule] = []
    after: list[model.Rule] = []
    for rule in map(canonical_rule, rules):
        if _have_single_entries(rule.matches):
            after.append(rule)
        else:
            after += _with_one_list(rule)
    while after != before:  # entries that join to every address leave a rule that may belong to another list
        before, after = after, list(_with_lists_joined(after))
    return tuple(after)


def canonical_rule(rule: model.Rule) -> model.Rule:
    """Return the rule with its matches in order, without those that every packet fulfils."""
    matches = rule.matches
    if not _have_single_entries(matches):
        matches = tuple(match for match in _joined_matches(matches) if not _is_always_true(match))
    in_order = tuple(sorted(matches, key=lambda match: MATCH_ORDER[type(match)]))
    return model.Rule(rule.verdict, rule.matches if in_order == rule.matches else in_order)


def _have_single_entries(matches: tuple[model.Match, ...]) -> bool:
    """Return whether matches are of one kind each and have one entry each, so that they are joined already."""
    kinds = set()
    for match in matches:
        kind = type(match)
        kinds.add(kind)
        if kind in ENTRIES and (len(entries_of_match(match)) != 1 or _is_always_true(match)):
            return False
    return len(kinds) == len(matches)


def _is_always_true(match: model.Match) -> bool:
    networks = match.networks if isinstance(match, model.AddressMatch) and not match.negated else ()
    return any(network.is_everything for network in networks)


def _joined_matches(matches: tuple[model.Match, ...]) -> Iterator[model.Match]:
    """Yield the matches with their entries in order; "not a" and "not b" of one kind become "neither a nor b"."""
    negated: dict[type, list[Listed]] = {}
    for match in matches:
        if not isinstance(match, LISTED):
            yield match
        elif match.negated:
            negated.setdefault(type(match), []).append(match)
        else:
            yield match if len(entries_of_match(match)) == 1 else merged_match([match])
    for alike in negated.values():
        yield merged_match(alike)


# --- lists ---------------------------------------------------------------------------------------


def _with_lists_joined(rules: Iterable[model.Rule]) -> Iterator[model.Rule]:
    """Yield the rules, those of one list in the list's one form."""
    run: list[tuple[model.Rule, Listed]] = []
    run_shape = None
    for rule in rules:
        listed = _list_of(rule)
        shape = listed and (rule.verdict, type(listed), [match for match in rule.matches if match is not listed])
        if run and shape != run_shape:
            yield from _canonical_run(run)
            run = []
        if listed is None:
            yield rule
        else:
            run.append((rule, listed))
            run_shape = shape
    if run:
        yield from _canonical_run(run)


def _with_one_list(rule: model.Rule) -> Iterator[model.Rule]:
    """Yield the rule with its first list, which others may keep in a set, and one entry of each other list.

    iptables has a rule for each combination, in which the entries of the first list change fastest. It makes no
    difference which one is kept: no packet fulfils two of the combinations.
    """
    listed = _list_of(rule)
    if any(isinstance(match, model.UnknownMatch) for match in rule.matches):
        yield rule
        return
    for match in reversed(rule.matches):
        if match is listed or not isinstance(match, LISTED):
            continue
        if not match.negated and len(entries_of_match(match)) > 1:
            for entry in entries_of_match(match):
                single = with_entries(match, (entry,))
                matches = tuple(single if each is match else each for each in rule.matches)
                yield from _with_one_list(rule.replace(matches=matches))
            return
    yield rule


def _list_of(rule: model.Rule) -> Listed | None:
    """Return the first list of a rule; none of one that tests something unknown."""
    listed: Listed | None = None
    for match in rule.matches:
        if isinstance(match, model.UnknownMatch):
            return None
        if listed is None and isinstance(match, SPREAD_OVER_RULES) and not match.negated:
            listed = match
    return listed


def _canonical_run(run: list[tuple[model.Rule, Listed]]) -> Iterator[model.Rule]:
    """Yield a run of rules that differ in the entries of one list only: an entry each if they are few, else joined."""
    first, list_of_first = run[0]
    if len(run) == 1 and len(entries_of_match(list_of_first)) == 1:
        yield first
        return
    lists = [listed for _, listed in run]
    if _count_entries(lists) > model.MAX_SINGLE_RULES and _may_be_one(first.verdict, lists):
        lists = [merged_match(lists)]
    if len(lists) > 1 or _count_entries(lists) <= model.MAX_SINGLE_RULES:
        lists = [with_entries(listed, (entry,)) for listed in lists for entry in entries_of_match(listed)]
    for listed in lists:
        matches = tuple(listed if match is list_of_first else match for match in first.matches)
        yield model.Rule(first.verdict, tuple(match for match in matches if not _is_always_true(match)))


def _count_entries(lists: Iterable[Listed]) -> int:
    return sum(len(entries_of_match(listed)) for listed in lists)


def _may_be_one(verdict: model.Verdict, lists: list[Listed]) -> bool:
    """Return whether a packet that fulfils several of these matches is treated as if it fulfilled one.

    A verdict that ends a table ends it at the first match, and a mark is set twice to the same. A chain, or an
    unknown verdict, may do another thing each time.
    """
    if len(lists) == 1 or not isinstance(verdict, model.Jump | model.UnknownVerdict):
        return True
    entries = sorted((entry.first, entry.last) for listed in lists for entry in entries_of_match(listed))
    neighbours = zip(entries, entries[1:], strict=False)  # noqa: RUF007  # the plugin does without itertools
    return all(last < first for (_, last), (first, _) in neighbours)


def entries_of_match(match: model.Match) -> tuple[Any, ...]:
    """Return the entries of a match that may have several; none of another."""
    field = ENTRIES.get(type(match))
    return getattr(match, field) if field else ()


def with_entries(match: AnyMatch, entries: tuple[Any, ...]) -> AnyMatch:
    """Return a match with other entries."""
    return match.replace(**{ENTRIES[type(match)]: entries})


def merged_match(matches: list[AnyMatch]) -> AnyMatch:
    """Return one match for the entries of several of one kind: in order, overlapping and adjacent ones joined."""
    entries = [entry for listed in matches for entry in entries_of_match(listed)]
    join = collapse if isinstance(matches[0], model.AddressMatch) else joined_spans
    return with_entries(matches[0], join(entries))


def joined_spans(spans: Iterable[model.Span]) -> tuple[model.Span, ...]:
    """Return the fewest spans, in order, that hold the same numbers."""
    return tuple(model.Span(*ends) for ends in merge_ranges((span.first, span.last) for span in spans))
