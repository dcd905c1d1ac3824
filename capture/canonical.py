"""One form for all rule sets that mean the same, so that what was asked and what is read can be compared.

A rule set is looked at family by family. In each, rules lose what does not decide on packets (reasons,
counters), matches stand in one order, and lists have one form: up to 16 entries in a row are
one rule each, as people want their counters; more are one rule with the fewest networks or spans.
Kernels and tools differ in exactly these points: iptables writes each entry as a rule, an interval set
of nftables joins overlapping and adjacent entries.
"""

from __future__ import annotations

from capture.addresses import collapse
from capture.model import (
    BUILT_IN_CHAINS,
    ConnectionMark,
    ConnectionState,
    Destination,
    DestinationPort,
    InInterface,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Rule,
    Source,
    SourcePort,
    Span,
    UnknownMatch,
)
from capture.rules.lists import MOST_SINGLE_RULES
from capture.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.addresses import Family
    from capture.model import Match, Ruleset, Table, TableName

MATCH_ORDER: dict[type, int] = {
    kind: place
    for place, kind in enumerate(
        (
            Source,
            Destination,
            InInterface,
            OutInterface,
            Protocol,
            SourcePort,
            DestinationPort,
            OwnerUid,
            OwnerGid,
            Mark,
            ConnectionMark,
            ConnectionState,
            UnknownMatch,
        )
    )
}

LISTS = (Source, Destination, SourcePort, DestinationPort)
"""Matches whose entries may be spread over rules, in the order in which they are looked at."""


class CanonicalChain(Value):
    """A chain as one family sees it."""

    policy: str
    rules: tuple[Rule, ...]


if TYPE_CHECKING:
    CanonicalTables = dict[tuple[TableName, str], CanonicalChain]


def canonical(ruleset: Ruleset, family: Family) -> CanonicalTables:
    """Return what a packet of the family meets, by table and chain; chains that nobody notices are left out.

    Empty: a built-in chain without rules and with the policy ACCEPT, and one of ours without rules to
    which nothing jumps.
    """
    chains: CanonicalTables = {}
    for table in ruleset.tables:
        for chain in table.chains:
            rules = tuple(canonical_rules(chain.rules_for(family)))
            policy = chain.policy or "ACCEPT"
            if rules or policy != "ACCEPT":
                chains[table.name, chain.name] = CanonicalChain(policy, rules)
    return chains


def reaches_family(table: Table, family: Family) -> bool:
    """Return whether any built-in chain of the table holds a rule for the family."""
    built_in = BUILT_IN_CHAINS[table.name]
    return any(any(chain.rules_for(family)) for chain in table.chains if chain.name in built_in)


def canonical_rules(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Yield rules that decide the same on every packet, in their one form."""
    run: list[Rule] = []
    for rule in map(canonical_rule, rules):
        if run and _shape(rule) != _shape(run[0]):
            yield from _joined(run)
            run = []
        if _shape(rule) is None:
            yield rule
        else:
            run.append(rule)
    yield from _joined(run)


def canonical_rule(rule: Rule) -> Rule:
    """Return the rule with its matches in order, without those that every packet fulfils."""
    matches = sorted(_joined_negations(rule.matches), key=lambda match: MATCH_ORDER[type(match)])
    return Rule(rule.verdict, tuple(match for match in matches if not _holds_always(match)))


def _holds_always(match: Match) -> bool:
    if isinstance(match, Source | Destination):
        return not match.negated and any(network.is_everything for network in match.networks)
    return False


def _joined_negations(matches: tuple[Match, ...]) -> Iterator[Match]:
    """Yield the matches; "not a" and "not b" of one kind become "neither a nor b"."""
    joined: dict[type, Match] = {}
    for match in matches:
        if isinstance(match, OwnerUid | OwnerGid) and match.negated:
            earlier = joined.get(type(match))
            spans = (earlier.ids if isinstance(earlier, OwnerUid | OwnerGid) else ()) + match.ids
            joined[type(match)] = type(match)(_sorted_spans(spans), negated=True)
        elif isinstance(match, SourcePort | DestinationPort) and match.negated:
            earlier = joined.get(type(match))
            spans = (earlier.ports if isinstance(earlier, SourcePort | DestinationPort) else ()) + match.ports
            joined[type(match)] = type(match)(_sorted_spans(spans), negated=True)
        elif isinstance(match, Source | Destination) and len(match.networks) > 1:
            yield match.replace(networks=collapse(match.networks))
        else:
            yield match
    yield from joined.values()


def _sorted_spans(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return spans in order, overlapping and adjacent ones joined."""
    result: list[Span] = []
    for span in sorted(set(spans), key=lambda span: (span.first, span.last)):
        if result and span.first <= result[-1].last + 1:
            result[-1] = Span(result[-1].first, max(result[-1].last, span.last))
        else:
            result.append(span)
    return tuple(result)


# --- lists ---------------------------------------------------------------------------------------


def _shape(rule: Rule) -> tuple[object, ...] | None:
    """Return what rules have in common that differ in the entries of one list only; None without a list."""
    listed = _list_of(rule)
    if listed is None:
        return None
    return (rule.verdict, type(listed), tuple(match for match in rule.matches if match is not listed))


def _list_of(rule: Rule) -> Source | Destination | SourcePort | DestinationPort | None:
    for match in rule.matches:
        if isinstance(match, LISTS) and not match.negated:
            return match
    return None


def _entries(match: Source | Destination | SourcePort | DestinationPort) -> tuple[object, ...]:
    return match.networks if isinstance(match, Source | Destination) else match.ports


def _joined(run: list[Rule]) -> Iterator[Rule]:
    """Yield a run of rules of one shape: as they are if they are few and single, else as one rule."""
    lists = [listed for listed in map(_list_of, run) if listed is not None]
    count = sum(len(_entries(listed)) for listed in lists)
    if count == len(run) and count <= MOST_SINGLE_RULES:
        yield from run
        return
    first = run[0]
    together = _union(lists)
    yield Rule(first.verdict, tuple(together if match is lists[0] else match for match in first.matches))


def _union(lists: list[Source | Destination | SourcePort | DestinationPort]) -> Match:
    first = lists[0]
    if isinstance(first, Source | Destination):
        networks = [network for each in lists if isinstance(each, Source | Destination) for network in each.networks]
        return type(first)(collapse(networks))
    spans = [span for each in lists if isinstance(each, SourcePort | DestinationPort) for span in each.ports]
    return type(first)(_sorted_spans(spans))
