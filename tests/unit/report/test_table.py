"""A table is printed as `iptables -nvL` prints it."""

import pytest

from capture.model.addresses import FAMILIES, IPV4, IPV6, Network, parse_network
from capture.model.ruleset import (
    NAT,
    Accept,
    Chain,
    ConnectionMark,
    ConnectionState,
    Continue,
    Counters,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Jump,
    Log,
    Mark,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    SetZone,
    Source,
    SourcePort,
    Span,
    Table,
    TransparentProxy,
    Verdict,
    only,
)
from capture.report.table import counter_text, listed_chains, listing, row_text, rule_row
from support.rules.foreign import foreign_match, foreign_verdict
from support.rules.vocabulary import kinds_of

TCP = Protocol("tcp")
UDP = Protocol("udp")


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(parse_network(text) for text in texts)


# A rule, its columns from the target on, and what follows them; words as in iptables 1.8.9.
ROWS = [
    (Rule(Jump("ISTIO_INBOUND"), (TCP,)), "ISTIO_INBOUND tcp -- * * 0.0.0.0/0 0.0.0.0/0"),
    (Rule(Return(), (TCP, DestinationPort((only(22),)))), "RETURN tcp -- * * 0.0.0.0/0 0.0.0.0/0 | tcp dpt:22"),
    (
        Rule(Return(), (TCP, DestinationPort((Span(8000, 8100),)))),
        "RETURN tcp -- * * 0.0.0.0/0 0.0.0.0/0 | tcp dpts:8000:8100",
    ),
    (
        Rule(Return(), (TCP, DestinationPort((Span(80, 90),), negated=True))),
        "RETURN tcp -- * * 0.0.0.0/0 0.0.0.0/0 | tcp dpts:!80:90",
    ),
    (
        Rule(Return(), (UDP, DestinationPort((only(55),)), OwnerUid((only(3),)), SourcePort((only(53),)))),
        "RETURN udp -- * * 0.0.0.0/0 0.0.0.0/0 | udp dpt:55 spt:53 owner UID match 3",
    ),
    (
        Rule(Return(), (TCP, DestinationPort((only(80), Span(90, 100))))),
        "RETURN tcp -- * * 0.0.0.0/0 0.0.0.0/0 | multiport dports 80,90:100",
    ),
    (
        Rule(Return(), (Source(networks("10.0.0.0/8", "1.2.3.4"), negated=True),)),
        "RETURN all -- * * !10.0.0.0/8 0.0.0.0/0 | source IP range ! 1.2.3.4-1.2.3.4",
    ),
    (
        Rule(Return(), (TCP, SourcePort((only(80), only(81)), negated=True))),
        "RETURN tcp -- * * 0.0.0.0/0 0.0.0.0/0 | multiport sports  !80,81",
    ),
    (
        Rule(Accept(), (Source(networks("10.0.0.0/8"), negated=True), Destination(networks("1.2.3.4")))),
        "ACCEPT all -- * * !10.0.0.0/8 1.2.3.4",
    ),
    (Rule(Drop(), (Destination(networks("10.0.0.0/8", "1.2.3.4")),)), "DROP all -- * * 0.0.0.0/0 {10.0.0.0/8,1.2.3.4}"),
    (Rule(Continue(), (InInterface("eth+", negated=True), OutInterface("lo"))), "all -- !eth+ lo 0.0.0.0/0 0.0.0.0/0"),
    (
        Rule(Return(), (OwnerUid((Span(1000, 2000),)), OwnerGid((only(5), only(7)), negated=True))),
        "RETURN all -- * * 0.0.0.0/0 0.0.0.0/0 | owner UID match 1000-2000 ! owner GID match 5 ! owner GID match 7",
    ),
    (Rule(Return(), (Mark(0x539),)), "RETURN all -- * * 0.0.0.0/0 0.0.0.0/0 | mark match 0x539"),
    (
        Rule(Return(), (Mark(0x539, 0xFFF, negated=True),)),
        "RETURN all -- * * 0.0.0.0/0 0.0.0.0/0 | mark match ! 0x539/0xfff",
    ),
    (Rule(Return(), (ConnectionMark(1),)), "RETURN all -- * * 0.0.0.0/0 0.0.0.0/0 | connmark match  0x1"),
    (
        Rule(Return(), (ConnectionState(("NEW", "ESTABLISHED"), negated=True),)),
        "RETURN all -- * * 0.0.0.0/0 0.0.0.0/0 | ! ctstate NEW,ESTABLISHED",
    ),
    (Rule(Redirect(15006), (TCP,)), "REDIRECT tcp -- * * 0.0.0.0/0 0.0.0.0/0 | redir ports 15006"),
    (
        Rule(TransparentProxy(15006, 1337), (TCP,)),
        "TPROXY tcp -- * * 0.0.0.0/0 0.0.0.0/0 | TPROXY redirect 0.0.0.0:15006 mark 0x539/0xffffffff",
    ),
    (Rule(SetMark(1338)), "MARK all -- * * 0.0.0.0/0 0.0.0.0/0 | MARK set 0x53a"),
    (Rule(SetMark(1, 0xFF)), "MARK all -- * * 0.0.0.0/0 0.0.0.0/0 | MARK xset 0x1/0xff"),
    (Rule(SetMark(0, 0xFF)), "MARK all -- * * 0.0.0.0/0 0.0.0.0/0 | MARK and 0xffffff00"),
    (Rule(SetMark(4, 4)), "MARK all -- * * 0.0.0.0/0 0.0.0.0/0 | MARK or 0x4"),
    (Rule(SaveMark()), "CONNMARK all -- * * 0.0.0.0/0 0.0.0.0/0 | CONNMARK save"),
    (Rule(RestoreMark()), "CONNMARK all -- * * 0.0.0.0/0 0.0.0.0/0 | CONNMARK restore"),
    (Rule(SetZone(1), (UDP,)), "CT udp -- * * 0.0.0.0/0 0.0.0.0/0 | CT zone 1"),
    (Rule(Log("in: ")), 'LOG all -- * * 0.0.0.0/0 0.0.0.0/0 | LOG flags 0 level 4 prefix "in: "'),
    (Rule(Log("")), "LOG all -- * * 0.0.0.0/0 0.0.0.0/0 | LOG flags 0 level 4"),
    (
        Rule(foreign_verdict("DNAT --to-destination 1.2.3.4"), (foreign_match("-m addrtype --dst-type LOCAL"),)),
        "DNAT all -- * * 0.0.0.0/0 0.0.0.0/0 | -m addrtype --dst-type LOCAL --to-destination 1.2.3.4",
    ),
    (Rule(Return(), (foreign_match("-p sctp"),)), "RETURN sctp -- * * 0.0.0.0/0 0.0.0.0/0"),
    (Rule(Return(), (foreign_match("! -p tcp"),)), "RETURN !tcp -- * * 0.0.0.0/0 0.0.0.0/0"),
    (Rule(Return(), (foreign_match("-f"),)), "RETURN all -f * * 0.0.0.0/0 0.0.0.0/0"),
    (Rule(Return(), (foreign_match("! -f"),)), "RETURN all !f * * 0.0.0.0/0 0.0.0.0/0"),
    (
        Rule(Redirect(1), (TCP,), why="outbound: to the proxy"),
        "REDIRECT tcp -- * * 0.0.0.0/0 0.0.0.0/0 | /* outbound: to the proxy */ redir ports 1",
    ),
]


@pytest.mark.parametrize(("rule", "expected"), ROWS)
def test_a_rule_reads_as_iptables_prints_it(rule: Rule, expected: str) -> None:
    columns, _, extra = expected.partition(" | ")
    shown = rule_row(rule, IPV4)
    before_extra = row_text(shown.replace(extra=""))

    assert before_extra.split() == ["-", "-", *columns.split()]
    assert shown.extra == extra
    assert row_text(shown) == f"{before_extra:<88} {extra}".rstrip()


def test_every_match_and_every_verdict_has_a_row() -> None:
    assert {type(rule.verdict) for rule, _ in ROWS} == kinds_of(Verdict)
    assert {type(match) for rule, _ in ROWS for match in rule.matches} == kinds_of(Match)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "    0"),
        (99999, "99999"),
        (100000, " 100K"),
        (703_740, " 704K"),
        (9_999_499, "9999K"),
        (9_999_500, "  10M"),
        (9_999_499_499, "9999M"),
        (9_999_499_999, "  10G"),  # it rounds what it has rounded
        (10**10, "  10G"),
        (10**13, "  10T"),
    ],
)
def test_counters_are_rounded_to_five_columns(number: int, text: str) -> None:
    assert counter_text(number) == text


def test_columns_are_where_iptables_puts_them() -> None:
    rule = Rule(
        Jump("ISTIO-IN-REDIRECT"),
        (Destination(networks("127.0.0.1"), negated=True), OutInterface("lo"), OwnerUid((only(1337),))),
        counters=Counters(54, 3240),
    )

    columns, _, extra = row_text(rule_row(rule, IPV4)).partition("            ")
    assert columns == "   54  3240 ISTIO-IN-REDIRECT  all  --  *      lo      0.0.0.0/0           !127.0.0.1"
    assert extra == "owner UID match 1337"


def test_a_goto_is_printed_first_and_one_column_to_the_left() -> None:
    text = row_text(rule_row(Rule(foreign_verdict("-g SOMEWHERE"), (Mark(1),)), IPV4))

    assert text.endswith(" 0.0.0.0/0            0.0.0.0/0           [goto]  mark match 0x1")
    assert rule_row(Rule(foreign_verdict("-g SOMEWHERE")), IPV4).target == "SOMEWHERE"


def test_ipv6_has_its_own_addresses() -> None:
    rule = Rule(TransparentProxy(1, 2), (TCP, Source(networks("fd00::/8"))))

    assert rule_row(rule, IPV6).replace(counters=None).extra == "TPROXY redirect :::1 mark 0x2/0xffffffff"
    assert (rule_row(rule, IPV6).source, rule_row(rule, IPV6).destination) == ("fd00::/8", "::/0")


def chains(*names: str) -> Ruleset:
    own = [Chain(name) for name in names]
    return Ruleset(FAMILIES, (Table(NAT, tuple(own)),))


@pytest.mark.parametrize("dash", ["-", "_"])
def test_chains_of_the_kernel_come_first_and_our_own_by_name_in_either_spelling(dash: str) -> None:
    mixed = [
        f"ISTIO{dash}{name}" for name in ("REDIRECT", f"IN{dash}REDIRECT", "OUTPUT", f"OUTPUT{dash}DNS", "INBOUND")
    ]
    ruleset = chains(*mixed, "POSTROUTING", "OUTPUT", "INPUT", "PREROUTING", "DOCKER")

    assert [chain.name for chain in listed_chains(ruleset.tables[0], IPV4)] == [
        "PREROUTING",
        "INPUT",
        "OUTPUT",
        "POSTROUTING",
        "DOCKER",
        f"ISTIO{dash}INBOUND",
        f"ISTIO{dash}IN{dash}REDIRECT",
        f"ISTIO{dash}OUTPUT",
        f"ISTIO{dash}OUTPUT{dash}DNS",
        f"ISTIO{dash}REDIRECT",
    ]


def test_references_are_the_jumps_of_one_family() -> None:
    rules = (
        Rule(Jump("A"), (), IPV4),
        Rule(Jump("A")),
        Rule(foreign_verdict("-g A"), (), IPV6),
        Rule(foreign_verdict("-g A"), (), IPV6),
    )
    table = Table(NAT, (Chain("OUTPUT", rules), Chain("A")))

    assert [chain.references for chain in listed_chains(table, IPV4)] == [0, 2]
    assert [chain.references for chain in listed_chains(table, IPV6)] == [0, 3]


def test_a_chain_of_the_other_family_is_not_listed() -> None:
    table = Table(NAT, (Chain("OUTPUT"), Chain("SIX", (Rule(Return(), (), IPV6),)), Chain("EMPTY")))

    assert [chain.name for chain in listed_chains(table, IPV4)] == ["OUTPUT", "EMPTY"]
    assert [chain.name for chain in listed_chains(table, IPV6)] == ["OUTPUT", "EMPTY", "SIX"]


def test_there_is_no_listing_of_what_was_not_read() -> None:
    ruleset = Ruleset((IPV4,), (Table(NAT, ()),))

    assert listing(ruleset, IPV6, NAT) == ""
    assert listing(ruleset, IPV4, "raw") == ""


def test_a_policy_is_shown_with_its_counters_if_there_are_any() -> None:
    table = Table(NAT, (Chain("OUTPUT", policy="DROP"),))

    assert listing(Ruleset((IPV4,), (table,)), IPV4, NAT).startswith("Chain OUTPUT (policy DROP)\n")
