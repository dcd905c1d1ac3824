"""The canonical form: one for each meaning, however a backend writes and lists it."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from capture.analysis.canonical import canonical, canonical_rule, canonical_rules, joined_spans
from capture.model.addresses import FAMILIES, IPV4, Family, Network, collapse
from capture.model.packet import Packet
from capture.model.ruleset import (
    MAX_SINGLE_RULES,
    NAT,
    OUTPUT,
    Accept,
    Chain,
    Counters,
    Destination,
    DestinationPort,
    Drop,
    Jump,
    Mark,
    Match,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    Return,
    Rule,
    Ruleset,
    SetMark,
    Source,
    SourcePort,
    Span,
    Table,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.generators.configurations import configs, many_networks, many_ports, seeds
from support.generators.rules import Place, rules, rulesets
from support.rules.traced import trace

FIELDS: dict[type, str] = {
    Source: "networks",
    Destination: "networks",
    SourcePort: "ports",
    DestinationPort: "ports",
    OwnerUid: "ids",
    OwnerGid: "ids",
}

chains = st.lists(rules(Place("nat", OUTPUT, ("ISTIO_OUTPUT",))), max_size=6)


def in_each_chain(ruleset: Ruleset, change: Callable[[Iterable[Rule]], Iterable[Rule]]) -> Ruleset:
    return ruleset.with_chains(lambda _, chain: chain.replace(rules=tuple(change(chain.rules))))


def one_rule_an_entry(several: Iterable[Rule]) -> list[Rule]:
    """Return the rules as iptables has them: a list is one rule an entry, "none of these" one match an entry.

    What a list has twice, or in adjacent pieces, is there once.
    """
    result = []
    for rule in interval_sets(several):
        matches: list[Match] = []
        spread: Match | None = None
        for match in rule.matches:
            if isinstance(match, Source | Destination | SourcePort | DestinationPort) and not match.negated:
                spread = spread or match
                matches.append(match)
            elif isinstance(match, OwnerUid | OwnerGid) and match.negated:
                matches += [match.replace(ids=(span,)) for span in match.ids]
            else:
                matches.append(match)
        if spread is None:
            result.append(rule.replace(matches=tuple(matches)))
            continue
        field = FIELDS[type(spread)]
        for entry in getattr(spread, field):
            single = spread.replace(**{field: (entry,)})
            result.append(rule.replace(matches=tuple(single if match is spread else match for match in matches)))
    return result


def interval_sets(several: Iterable[Rule]) -> list[Rule]:
    """Return the rules as nf_tables lists them: entries of a list in order, overlapping and adjacent ones joined."""
    return [rule.replace(matches=tuple(map(in_order, rule.matches))) for rule in several]


def in_order(match: Match) -> Match:
    if isinstance(match, Source | Destination):
        return match.replace(networks=collapse(match.networks))
    field = FIELDS.get(type(match))
    return match.replace(**{field: joined_spans(getattr(match, field))}) if field else match


class TestOneForm:
    @given(chains)
    def test_the_canonical_form_is_its_own(self, several: list[Rule]) -> None:
        once = canonical_rules(several)
        assert canonical_rules(once) == once

    @given(chains, st.randoms())
    def test_order_of_matches_reasons_counters_and_family_do_not_count(
        self, several: list[Rule], random: Random
    ) -> None:
        def disguised(rule: Rule) -> Rule:
            matches = list(rule.matches)
            random.shuffle(matches)
            return Rule(rule.verdict, tuple(matches), None, "another reason", Counters(3, 180))

        assert canonical_rules(map(disguised, several)) == canonical_rules(several)

    @given(chains)
    def test_entries_joined_by_a_kernel_change_nothing(self, several: list[Rule]) -> None:
        assert canonical_rules(interval_sets(several)) == canonical_rules(several)

    @given(chains)
    def test_written_one_rule_an_entry_the_canonical_form_is_the_same(self, several: list[Rule]) -> None:
        once = canonical_rules(several)
        assert canonical_rules(one_rule_an_entry(once)) == once

    @given(rulesets(), st.sampled_from(FAMILIES))
    def test_a_rule_for_both_families_is_one_for_each(self, ruleset: Ruleset, family: Family) -> None:
        def split(several: Iterable[Rule]) -> list[Rule]:
            return [
                rule.replace(family=each) for rule in several for each in (rule.family and [rule.family]) or FAMILIES
            ]

        assert canonical(in_each_chain(ruleset, split), family) == canonical(ruleset, family)

    @given(rulesets(), st.permutations(FAMILIES))
    def test_a_family_that_is_not_captured_meets_nothing(self, ruleset: Ruleset, families: list[Family]) -> None:
        captured, other = families
        assert canonical(ruleset.replace(families=(captured,)), other) == {}

    @given(rulesets(), st.sampled_from(FAMILIES))
    def test_chains_and_tables_without_effect_do_not_count(self, ruleset: Ruleset, family: Family) -> None:
        more = Table("raw", (Chain(OUTPUT, (), "ACCEPT"), Chain("ISTIO_OUTPUT_DNS")))
        tables = [*ruleset.tables] if ruleset.table("raw") else [*ruleset.tables, more]
        shuffled = ruleset.replace(tables=tuple(reversed(tables)))
        assert canonical(shuffled, family) == canonical(ruleset, family)


# --- a small world, in which every packet can be tried ---------------------------------------------

ADDRESSES = range(0x0A000000, 0x0A000008)
PORTS = range(1, 25)
IDS = range(1, 4)

COUNTING = "COUNTING"
"""A chain that adds one to the mark of each packet, each time it comes through."""
ADD_ONE = Chain(COUNTING, tuple(Rule(SetMark(mark + 1), (Mark(mark),)) for mark in reversed(range(60))))
AFTERWARDS = tuple(Rule(Redirect(60000 + mark), (Mark(mark),)) for mark in range(61))
"""Rules by which it shows which mark a packet got."""

spans = st.builds(lambda a, b: Span(min(a, b), max(a, b)), st.sampled_from(PORTS), st.sampled_from(PORTS))
singles = st.sampled_from(PORTS).map(only)
small_networks = st.builds(
    lambda address, prefix: Network(IPV4, address >> (32 - prefix) << (32 - prefix), prefix),
    st.sampled_from(ADDRESSES),
    st.sampled_from((32, 32, 31, 30, 29)),
)
listed = st.one_of(
    st.builds(DestinationPort, st.lists(singles | spans, min_size=1, max_size=5).map(tuple), st.booleans()),
    st.builds(SourcePort, st.lists(singles, min_size=1, max_size=24).map(tuple), st.booleans()),
    st.builds(Destination, st.lists(small_networks, min_size=1, max_size=4).map(tuple), st.booleans()),
    st.builds(OwnerUid, st.lists(st.sampled_from(IDS).map(only), min_size=1, max_size=2).map(tuple), st.booleans()),
)
verdicts = st.sampled_from([Jump(COUNTING), Jump(COUNTING), SetMark(1), SetMark(2), Return(), Accept(), Drop()])
single_rules = st.builds(
    lambda verdict, matches: [Rule(verdict, tuple(matches))], verdicts, st.lists(listed, min_size=1, max_size=4)
)
runs_of_rules = st.builds(
    lambda verdict, others, ports: [Rule(verdict, (*others, DestinationPort((port,)))) for port in ports],
    verdicts,
    st.lists(listed, max_size=1),
    st.lists(singles | spans, min_size=14, max_size=28),
)
small_chains = st.lists(single_rules | runs_of_rules, min_size=1, max_size=3).map(
    lambda several: [rule for some in several for rule in some]
)


def small_packets(random: Random) -> Iterator[Packet]:
    """Yield a packet to each port and address of the small world, the rest by chance."""
    for port in PORTS:
        for address in ADDRESSES:
            yield Packet(
                "tcp",
                Network(IPV4, address, 32),
                port,
                source_port=random.choice(PORTS),
                uid=random.choice(IDS),
                out_interface="eth0",
            )


class TestMeaning:
    """No packet distinguishes rules from their form; so two rule sets of one form mean the same."""

    @given(small_chains, st.randoms(use_true_random=False))
    def test_every_packet_goes_where_it_went(self, several: list[Rule], random: Random) -> None:
        def with_rules(chosen: Iterable[Rule]) -> Ruleset:
            return Ruleset((IPV4,), (Table(NAT, (Chain(OUTPUT, (*chosen, *AFTERWARDS)), ADD_ONE)),))

        as_written, in_form = with_rules(several), with_rules(canonical_rules(several))
        for packet in small_packets(random):
            assert trace(in_form, packet).fate == trace(as_written, packet).fate


class TestBackends:
    """The way that capture's own rules take: written by one backend, listed by it, compared with the desired ones."""

    @given(configs)
    def test_a_rule_for_each_entry_and_interval_sets_have_the_same_form(self, config: CaptureConfig) -> None:
        ruleset = build_ruleset(config)
        for as_listed in (one_rule_an_entry, interval_sets):
            listed = in_each_chain(ruleset, as_listed)
            assert all(canonical(listed, family) == canonical(ruleset, family) for family in FAMILIES)


class TestLists:
    @given(seeds, st.randoms())
    def test_a_long_list_is_one_rule_in_any_order_of_its_entries(self, seed: int, random: Random) -> None:
        ports = list(many_ports(seed))
        matches = [(Protocol("tcp"), DestinationPort((span,))) for span in ports]
        singles = [Rule(Return(), each) for each in matches]
        random.shuffle(singles)
        together = Rule(Return(), (Protocol("tcp"), DestinationPort(tuple(ports))))
        assert canonical_rules(singles) == canonical_rules([together])
        assert len(canonical_rules(singles)) == 1 or len(joined_spans(ports)) <= MAX_SINGLE_RULES

    @given(seeds.filter(lambda seed: seed % 2 == 0))
    def test_lists_of_networks_have_the_form_of_single_rules(self, seed: int) -> None:
        networks = collapse(tuple(network for network in many_networks(seed) if not network.is_everything))
        singles = [Rule(Jump("ISTIO_REDIRECT"), (Destination((network,)),)) for network in networks]
        together = Rule(Jump("ISTIO_REDIRECT"), (Destination(networks),))
        assert canonical_rules(singles) == canonical_rules([together])

    @given(st.lists(st.builds(lambda a, b: Span(min(a, b), max(a, b)), st.integers(0, 60), st.integers(0, 60))))
    def test_joined_spans_hold_the_same_numbers_with_gaps_between(self, spans: list[Span]) -> None:
        joined = joined_spans(spans)
        assert {n for span in joined for n in range(span.first, span.last + 1)} == {
            n for span in spans for n in range(span.first, span.last + 1)
        }
        assert all(one.last + 1 < other.first for one, other in pairwise(joined))

    @given(rules(Place(NAT, OUTPUT)))
    def test_a_rule_alone_has_the_matches_it_had(self, rule: Rule) -> None:
        """Only one that always holds is left out, and of several negated ones of a kind there is one."""
        kinds = [type(match) for match in canonical_rule(rule).matches]
        assert len(set(kinds)) == len(kinds)
        left_out = {type(match) for match in rule.matches} - set(kinds)
        assert left_out <= {Source, Destination}
        for match in rule.matches:
            if type(match) in left_out:
                assert isinstance(match, Source | Destination)
                assert collapse(match.networks)[0].is_everything
                assert not match.negated
        assert canonical_rule(rule).family is None
