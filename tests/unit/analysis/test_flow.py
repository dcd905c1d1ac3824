"""The packet's path as a tree with counters."""

from __future__ import annotations

from capture.analysis.flow import Edge, PathTree, flows, with_rates
from capture.analysis.stations import ForeignChain, Situation
from capture.model.ruleset import (
    FAMILIES,
    NAT,
    OUTPUT,
    Accept,
    Chain,
    Counters,
    DestinationPort,
    Drop,
    Protocol,
    Redirect,
    Rule,
    Ruleset,
    Table,
    only,
)
from capture.report.differences import text_of
from capture.report.flow_svg import picture
from capture.report.flow_text import lines
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig

HTTP = (Protocol("tcp"), DestinationPort((only(80),)))


def counted(ruleset: Ruleset, packets: int, *first: Rule) -> Ruleset:
    """Return the rules, each with this many packets; ``first`` before those of nat OUTPUT."""
    tables = []
    for table in ruleset.tables:
        chains = []
        for chain in table.chains:
            before = first if (table.name, chain.name) == (NAT, OUTPUT) else ()
            rules = tuple(rule.replace(counters=Counters(packets, 60 * packets)) for rule in (*before, *chain.rules))
            chains.append(chain.replace(rules=rules, counters=Counters(packets, 0) if chain.policy else None))
        tables.append(table.replace(chains=tuple(chains)))
    return ruleset.replace(tables=tuple(tables))


def paths(situation: Situation) -> dict[str, list[str]]:
    """Return the edges of each direction as indented texts."""

    def text(edge: Edge, depth: int) -> list[str]:
        own = f"{'  ' * depth}{edge.to} | {edge.says} | {edge.packets}"
        return [own, *(line for each in edge.below for line in text(each, depth + 1))]

    return {
        flow.direction: [line for each in flow.tables for line in text(each, 0)]
        for flow in flows(situation, FAMILIES, text_of)
    }


def test_the_path_of_the_default_capture() -> None:
    found = paths(Situation(counted(build_ruleset(CaptureConfig(excluded_inbound_ports=(only(15021),))), 2)))

    assert found["inbound"] == [
        "nat PREROUTING |  | None",
        "  ISTIO-INBOUND | inbound connections | 2",
        "    direct | the proxy's tunnel: it listens there | 2",
        "    direct | ssh is left alone | 2",
        "    direct | port is left alone | 2",
        "    proxy :15006 | all other inbound connections | 2",
    ]
    assert found["outbound"][:2] == ["nat OUTPUT |  | None", "  ISTIO-OUTPUT | outbound connections | 2"]
    assert "    direct | the proxy itself goes out; anything else would be a loop | 4" in found["outbound"]
    assert "    proxy :15001 | all other outbound connections | 2" in found["outbound"]


def test_what_our_rules_drop_is_dropped() -> None:
    situation = Situation(build_ruleset(CaptureConfig(drops_invalid=True)))
    edges = [edge for flow in flows(situation, FAMILIES, text_of) for table in flow.tables for edge in all_below(table)]
    assert [(edge.kind, edge.to) for edge in edges if edge.to == "dropped"] == [("dropped", "dropped")]


def all_below(edge: Edge) -> list[Edge]:
    return [edge, *(found for each in edge.below for found in all_below(each))]


def test_a_foreign_rule_is_where_packets_meet_it() -> None:
    first = Chain(
        "first", (Rule(Drop(), HTTP, why="tcp dport 80 drop", counters=Counters(7, 0)), Rule(Drop(), HTTP)), "ACCEPT"
    )
    foreign = ForeignChain("ip filter", FAMILIES, OUTPUT, -300, is_nat=False, contents=Table("mangle", (first,)))
    found = paths(Situation(counted(build_ruleset(CaptureConfig()), 0, Rule(Accept(), HTTP)), (foreign,)))

    assert found["outbound"][:5] == [
        "ip filter first | foreign, priority -300 | None",
        "  foreign: dropped | rule 1: tcp dport 80 drop | 7",
        "  foreign: dropped | rule 2: -p tcp -m tcp --dport 80 -j DROP | None",
        "nat OUTPUT |  | None",
        "  foreign: direct | rule 1: -p tcp -m tcp --dport 80 -j ACCEPT | 0",
    ]


def test_a_foreign_redirect_goes_to_no_proxy() -> None:
    found = paths(Situation(counted(build_ruleset(CaptureConfig()), 0, Rule(Redirect(15001), HTTP))))

    assert (
        "  foreign: port 15001 | rule 1: -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001 | 0" in found["outbound"]
    )


def test_rates_are_by_the_second_and_begin_anew_where_counters_do() -> None:
    ruleset = build_ruleset(CaptureConfig())
    before, now = (flows(Situation(counted(ruleset, packets)), FAMILIES, text_of) for packets in (10, 25))

    rates = {edge.rate for edge in below_tables(with_rates(now, before, 3.0))}
    assert rates == {5.0, 10.0, 15.0, 20.0}  # edges of one to four rules
    assert {edge.rate for edge in below_tables(with_rates(before, now, 3.0))} == {None}


def below_tables(found: tuple[PathTree, ...]) -> list[Edge]:
    edges = [edge for flow in found for table in flow.tables for edge in table.below]
    for edge in edges:
        edges += edge.below
    return edges


def test_no_line_is_wider_than_the_terminal_and_a_picture_escapes_what_it_says() -> None:
    rule = Rule(Accept(), HTTP, why="<b>\033[2J & \u202e")
    foreign = ForeignChain("ip x", FAMILIES, OUTPUT, -300, is_nat=False, contents=Table(NAT, (Chain("c", (rule,)),)))
    found = flows(Situation(counted(build_ruleset(CaptureConfig()), 123456789), (foreign,)), FAMILIES, text_of)

    for width in (80, 120, 200):
        assert max(len(line) for line, _ in lines(found, width, FAMILIES)) <= width
    drawn = picture(found, "pod")
    assert "&lt;b&gt;\\x1b[2J &amp; \\u202e" in drawn
    assert drawn.count("<rect") == drawn.count('class="to"') + 1  # a box for each name, and the background


def test_policies_of_both_families_count_together_and_one_chain_for_both_once() -> None:
    one = Chain(OUTPUT, (), "ACCEPT", Counters(3, 0))
    for chain, expected in ((one, 3), (one.replace(ipv6_policy="ACCEPT", ipv6_counters=Counters(3, 0)), 6)):
        (outbound, _) = flows(Situation(Ruleset(FAMILIES, (Table(NAT, (chain,)),))), FAMILIES, text_of)
        assert [edge.packets for edge in outbound.tables[0].below] == [expected]
