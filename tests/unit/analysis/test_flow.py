"""The packet's path as a tree with counters."""

import pytest

from capture.analysis.base_chains import BaseChain, Situation
from capture.analysis.flow import Edge, PathTree, path_trees, with_rates
from capture.backends.iptables.render import shown_rule
from capture.model.addresses import FAMILIES, Family
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    Accept,
    Chain,
    Continue,
    Counters,
    DestinationPort,
    Drop,
    Jump,
    Log,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    SetZone,
    Table,
    TableName,
    TransparentProxy,
    Verdict,
    only,
)
from capture.report.flow_svg import svg_picture
from capture.report.flow_text import flow_lines
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.rules.foreign import foreign_verdict

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
        own = f"{'  ' * depth}{edge.to} | {edge.text} | {edge.packets}"
        return [own, *(line for each in edge.below for line in text(each, depth + 1))]

    return {
        flow.direction: [line for each in flow.tables for line in text(each, 0)]
        for flow in path_trees(situation, FAMILIES, shown_rule)
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


def test_packets_that_our_rules_drop_are_dropped() -> None:
    situation = Situation(build_ruleset(CaptureConfig(drops_invalid=True)))
    edges = [
        edge
        for flow in path_trees(situation, FAMILIES, shown_rule)
        for table in flow.tables
        for edge in all_below(table)
    ]
    assert [(edge.kind, edge.to) for edge in edges if edge.to == "dropped"] == [("dropped", "dropped")]


def all_below(edge: Edge) -> list[Edge]:
    return [edge, *(found for each in edge.below for found in all_below(each))]


def test_a_foreign_rule_is_where_packets_meet_it() -> None:
    first = Chain(
        "first", (Rule(Drop(), HTTP, why="tcp dport 80 drop", counters=Counters(7, 0)), Rule(Drop(), HTTP)), "ACCEPT"
    )
    foreign = BaseChain("ip filter", FAMILIES, OUTPUT, -300, is_nat=False, contents=Table("mangle", (first,)))
    found = paths(Situation(counted(build_ruleset(CaptureConfig()), 0, Rule(Accept(), HTTP)), (foreign,)))

    assert found["outbound"][:5] == [
        "ip filter first | foreign, priority -300 | None",
        "  foreign: dropped | rule 1: tcp dport 80 drop | 7",
        "  foreign: dropped | rule 2: -p tcp -m tcp --dport 80 -j DROP | None",
        "nat OUTPUT |  | None",
        "  foreign: direct | rule 1: -p tcp -m tcp --dport 80 -j ACCEPT | 0",
    ]


@pytest.mark.parametrize(("port", "where"), [(15001, "proxy :15001"), (15053, "port 15053"), (7, "port 7")])
def test_a_foreign_redirect_goes_where_its_port_says(port: int, where: str) -> None:
    found = paths(Situation(counted(build_ruleset(CaptureConfig()), 0, Rule(Redirect(port), HTTP))))

    assert (
        f"  foreign: {where} | rule 1: -p tcp -m tcp --dport 80 -j REDIRECT --to-ports {port} | 0" in found["outbound"]
    )


def test_rates_are_by_the_second_and_begin_anew_where_counters_do() -> None:
    ruleset = build_ruleset(CaptureConfig())
    before, now = (path_trees(Situation(counted(ruleset, packets)), FAMILIES, shown_rule) for packets in (10, 25))

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
    foreign = BaseChain("ip x", FAMILIES, OUTPUT, -300, is_nat=False, contents=Table(NAT, (Chain("c", (rule,)),)))
    found = path_trees(Situation(counted(build_ruleset(CaptureConfig()), 123456789), (foreign,)), FAMILIES, shown_rule)

    for width in (80, 120, 200):
        assert max(len(line) for line, _ in flow_lines(found, width, FAMILIES)) <= width
    drawn = svg_picture(found, "pod")
    assert "&lt;b&gt;\\x1b[2J &amp; \\u202e" in drawn
    assert drawn.count("<rect") == drawn.count('class="to"') + 1  # a box for each name, and the background


def test_policies_of_both_families_count_together_and_one_chain_for_both_once() -> None:
    one = Chain(OUTPUT, (), "ACCEPT", Counters(3, 0))
    for chain, expected in ((one, 3), (one.replace(ipv6_policy="ACCEPT", ipv6_counters=Counters(3, 0)), 6)):
        (outbound, _) = path_trees(Situation(Ruleset(FAMILIES, (Table(NAT, (chain,)),))), FAMILIES, shown_rule)
        assert [edge.packets for edge in outbound.tables[0].below] == [expected]


# --- edges of one table --------------------------------------------------------------------------

OURS = "ISTIO_OUTPUT"
FOUND = Counters(3, 180)


def edges(
    *chains: Chain, table: TableName = NAT, families: tuple[Family, ...] = FAMILIES, is_foreign: bool = False
) -> tuple[Edge, ...]:
    """Return what is below the table at OUTPUT; the first chain is the one there."""
    contents = Table(table, chains)
    if not is_foreign:
        situation = Situation(Ruleset(families, (contents,)))
    else:
        foreign = BaseChain("ip x", families, OUTPUT, -300, is_nat=False, contents=contents)
        situation = Situation(Ruleset(families, ()), (foreign,))
    (outbound, _) = path_trees(situation, families, shown_rule)
    return outbound.tables[0].below if outbound.tables else ()


def through_ours(*rules: Rule, more: tuple[Chain, ...] = (), table: TableName = NAT) -> tuple[Edge, ...]:
    """Return what is below the jump to one of our chains with these rules."""
    (jump, *_) = edges(Chain(OUTPUT, (Rule(Jump(OURS)),)), Chain(OURS, rules), *more, table=table)
    assert (jump.to, jump.kind) == (OURS, "chain")
    return jump.below


@pytest.mark.parametrize(
    ("verdict", "table", "expected"),
    [
        (Drop(), NAT, ("dropped", "dropped")),
        (Return(), NAT, ("direct", "direct")),
        (Accept(), NAT, ("direct", "direct")),
        (Accept(), MANGLE, ("goes on", "goes on")),
        (SaveMark(), NAT, ("goes on", "mark saved")),
        (RestoreMark(), NAT, ("goes on", "mark restored")),
        (Log("x"), NAT, ("goes on", "logged")),
        (SetZone(2), NAT, ("goes on", "zone 2")),
        (SetMark(1337), NAT, ("goes on", "mark 0x539")),
        (foreign_verdict("NFQUEUE --queue-num 1"), NAT, ("goes on", "NFQUEUE")),
        (Continue(), NAT, ("goes on", "counted")),
        (Jump("nowhere"), NAT, ("chain", "nowhere")),
        (TransparentProxy(15006, 1), MANGLE, ("proxy", "proxy :15006")),
    ],
)  # fmt: skip
def test_an_edge_shows_where_our_rule_sends_packets(
    verdict: Verdict, table: TableName, expected: tuple[str, str]
) -> None:
    rule = Rule(verdict, HTTP, counters=FOUND)
    (edge, _) = through_ours(rule, Rule(Drop(), why="another"), table=table)
    assert (edge.kind, edge.to) == expected
    assert (edge.text, edge.packets, edge.bytes) == (shown_rule(rule, "ipv4"), 3, 180)
    assert (edge.families, edge.below) == (FAMILIES, ())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ISTIO_REDIRECT", ("proxy", "proxy :15053")),
        ("ISTIO_OUTPUT_DNS", ("dns", "agent's DNS :15053")),
    ],
)  # fmt: skip
def test_a_chain_that_only_redirects_is_no_node(name: str, expected: tuple[str, str]) -> None:
    redirect, other = Rule(Redirect(15053), HTTP), Rule(Drop(), why="another")

    def entered(*rules: Rule) -> Edge:
        return through_ours(Rule(Jump(name)), other, more=(Chain(name, rules),))[0]

    plain, chain = entered(redirect), entered(redirect, other)
    assert (plain.kind, plain.to, plain.below) == (*expected, ())
    assert [(each.kind, each.to) for each in (chain, *chain.below)] == [
        ("chain", name),
        expected,
        ("dropped", "dropped"),
    ]
    assert (entered(other).kind, len(entered(other).below)) == ("chain", 1)


def test_jumps_in_a_circle_end() -> None:
    """No kernel takes them."""
    (edge,) = edges(Chain(OUTPUT, (Rule(Jump(OURS)),)), Chain(OURS, (Rule(Jump(OURS)),)))
    (back,) = edge.below
    assert (edge.to, back.to, back.below) == (OURS, OURS, ())


def test_edges_of_both_families_are_one() -> None:
    one, other = (Rule(Drop(), HTTP, family, why="x", counters=FOUND) for family in FAMILIES)
    (edge,) = through_ours(one, other.replace(counters=Counters(4, 20)))
    assert (edge.packets, edge.bytes, edge.families) == (7, 200, FAMILIES)
    (edge,) = through_ours(one, other.replace(counters=None))
    assert (edge.packets, edge.bytes) == (3, 180)
    (edge,) = through_ours(one)
    assert edge.families == ("ipv4",)
    (edge,) = edges(Chain(OURS, (Rule(Drop(), counters=FOUND),)), families=("ipv6",), is_foreign=True)
    assert (edge.packets, edge.families) == (3, ("ipv6",))


@pytest.mark.parametrize(
    ("chain", "table", "is_foreign", "expected"),
    [
        (Chain(OUTPUT, (), "ACCEPT"), NAT, False, [("direct", None, FAMILIES)]),
        (Chain(OUTPUT, (), "ACCEPT", FOUND), NAT, False, [("direct", 3, FAMILIES)]),
        (Chain(OUTPUT, (), "ACCEPT"), MANGLE, False, []),
        (Chain(OUTPUT, (), "ACCEPT", FOUND), MANGLE, False, [("goes on", 3, FAMILIES)]),
        (Chain(OUTPUT, (), "DROP"), MANGLE, False, [("dropped", None, FAMILIES)]),
        (Chain("x", (), "ACCEPT", FOUND), MANGLE, True, []),
        (Chain("x", (), "DROP"), MANGLE, True, [("dropped", None, FAMILIES)]),
        (Chain("x", (), "ACCEPT", ipv6_policy="DROP"), MANGLE, True, [("dropped", None, ("ipv6",))]),
        (Chain(OUTPUT, (), "ACCEPT", ipv6_policy="DROP"), MANGLE, False, [("dropped", None, ("ipv6",))]),
        (Chain(OUTPUT, ()), NAT, False, []),
        (
            Chain(OUTPUT, (), "ACCEPT", FOUND, ipv6_policy="DROP", ipv6_counters=Counters(5, 50)),
            NAT,
            False,
            [("direct", 3, ("ipv4",)), ("dropped", 5, ("ipv6",))],
        ),
    ],
)  # fmt: skip
def test_the_policy_decides_where_no_rule_does(
    chain: Chain, table: TableName, expected: list[tuple[str, int | None, tuple[Family, ...]]], *, is_foreign: bool
) -> None:
    first = Rule(Drop(), HTTP, why="first")  # a table without any rule but that of nat is left out
    (_, *rest) = edges(chain.replace(rules=(first,)), table=table, is_foreign=is_foreign)
    assert [(edge.kind, edge.packets, edge.families) for edge in rest] == expected
    assert all(edge.to == edge.kind for edge in rest)
    assert {edge.text for edge in rest} <= {"policy ACCEPT", "policy DROP"}
    assert [edge.bytes for edge in rest if edge.kind == "direct" and edge.packets] in ([], [180])


def test_a_table_without_rules_is_left_out_unless_it_is_nat() -> None:
    tables = tuple(Table(name, (Chain(OUTPUT, (), "ACCEPT", FOUND),)) for name in (MANGLE, NAT))
    second = BaseChain(
        "ip two", FAMILIES, OUTPUT, -90, is_nat=True, contents=Table(NAT, (Chain(OURS, (Rule(Drop()),)),))
    )
    (outbound, inbound) = path_trees(Situation(Ruleset(FAMILIES, tables), (second,)), FAMILIES, shown_rule)

    assert [(table.to, table.kind, table.text) for table in outbound.tables] == [
        ("nat OUTPUT", "table", ""),
        (f"ip two {OURS}", "table", "second set, priority -90"),
    ]
    assert (outbound.direction, inbound) == ("outbound", PathTree("inbound", ()))


def test_an_unchanged_count_has_the_rate_0() -> None:
    tree = PathTree("outbound", (Edge("x", "direct", "", 3), Edge("y", "direct", ""), Edge("new", "direct", "", 3)))
    before = (tree.replace(tables=tree.tables[:2]),)
    (rated,) = with_rates((tree,), before, 2.0)
    assert [edge.rate for edge in rated.tables] == [0.0, None, None]
