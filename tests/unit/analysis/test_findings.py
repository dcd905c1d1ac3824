"""Which rules of somebody else are drift, and which are worth a note; the kernel's word is in ``tests/kernel``."""

from __future__ import annotations

import pytest

from capture.analysis.compare import differences
from capture.analysis.findings import judged, obstacles
from capture.analysis.foreign import ForeignChain
from capture.analysis.stations import PodNetwork
from capture.model.addresses import FAMILIES
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    Accept,
    Chain,
    DestinationPort,
    Drop,
    InInterface,
    Jump,
    Log,
    Protocol,
    Redirect,
    RestoreMark,
    Rule,
    SaveMark,
    SetMark,
    Table,
    UnknownMatch,
    UnknownVerdict,
    only,
)
from capture.settings import options as option
from fake_pod import ruleset_of
from rule_notation import rule_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.compare import Difference
    from capture.analysis.findings import Obstacle
    from capture.model.ruleset import Ruleset, TableName

REDIRECT = ruleset_of({})
TPROXY = ruleset_of({option.INTERCEPTION_MODE: "TPROXY"})

UNKNOWN = UnknownMatch("-m statistic --mode random")
HTTPS = (Protocol("tcp"), DestinationPort((only(443),)))
TIME = (Protocol("udp"), DestinationPort((only(123),)))
TAKES_HTTPS = Rule(Accept(), HTTPS)
TAKES_TIME = Rule(Accept(), TIME)


def judge(asked: Ruleset, table: TableName, chain: str, *foreign: Rule) -> tuple[list[Difference], list[Difference]]:
    """Return what of rules before ours is drift in IPv4, and what is worth a note."""
    live = asked.replace(
        tables=tuple(
            each.replace(
                chains=tuple(c.replace(rules=foreign + c.rules) if c.name == chain else c for c in each.chains)
            )
            if each.name == table
            else each
            for each in asked.tables
        )
    )
    drift, notes = judged(asked, live, differences(asked, live), PodNetwork())
    return [d for d in drift if d.family == "ipv4"], [n for n in notes if n.family == "ipv4"]


def lines_of(differences: list[Difference]) -> list[str]:
    return [rule_line(each.rule) for each in differences if each.rule]


class TestTaken:
    def test_drift_with_an_example(self) -> None:
        (drift,), notes = judge(REDIRECT, NAT, OUTPUT, TAKES_HTTPS)

        assert not notes
        assert drift.example is not None
        assert (drift.example.asked.outcome, drift.example.live.outcome) == ("proxy-outbound", "direct")

    def test_a_note_where_nothing_captured_meets_it(self) -> None:
        drift, notes = judge(REDIRECT, NAT, OUTPUT, TAKES_TIME)

        assert not drift
        assert lines_of(notes) == [rule_line(TAKES_TIME)]

    @pytest.mark.parametrize(
        "unknown", [Rule(SetMark(7), (UNKNOWN,)), Rule(Accept(), (UNKNOWN,)), Rule(UnknownVerdict("NFQUEUE"))]
    )
    def test_behind_what_is_unknown_it_counts_for_what_comes_past(self, unknown: Rule) -> None:
        drift, notes = judge(REDIRECT, NAT, OUTPUT, unknown, TAKES_HTTPS, TAKES_TIME)

        assert rule_line(TAKES_HTTPS) in lines_of(drift)
        assert all(each.example is None for each in drift), "nobody knows where a packet goes behind the unknown"
        assert lines_of(notes) == [rule_line(TAKES_TIME)]

    def test_what_stands_behind_it_makes_no_doubt(self) -> None:
        (taken, unknown), _ = judge(REDIRECT, NAT, OUTPUT, TAKES_HTTPS, Rule(Accept(), (UNKNOWN,)))

        assert taken.example is not None
        assert unknown.rule == Rule(Accept(), (UNKNOWN,))


class TestMarks:
    @pytest.mark.parametrize(
        ("chain", "rule"),
        [
            (PREROUTING, Rule(SetMark(1337), HTTPS)),
            (PREROUTING, Rule(SetMark(5))),  # also of what the proxy sends to its own pod
            (PREROUTING, Rule(RestoreMark())),
            (OUTPUT, Rule(SetMark(5))),
            (OUTPUT, Rule(SaveMark())),  # so that answers of the app do not come to the proxy
        ],
    )
    def test_drift(self, chain: str, rule: Rule) -> None:
        drift, notes = judge(TPROXY, MANGLE, chain, rule)

        assert (lines_of(drift), notes) == ([rule_line(rule)], [])

    @pytest.mark.parametrize("rule", [Rule(SetMark(5), (InInterface("eth0"),)), Rule(SetMark(1337), TIME)])
    def test_a_note_where_ours_do_the_same(self, rule: Rule) -> None:
        drift, notes = judge(TPROXY, MANGLE, PREROUTING, rule)

        assert (drift, lines_of(notes)) == ([], [rule_line(rule)])

    def test_an_unknown_question_counts(self) -> None:
        (drift,), _ = judge(TPROXY, MANGLE, PREROUTING, Rule(SetMark(1337), (UNKNOWN,)))

        assert drift.example is None


# --- chains of others in tables of their own -------------------------------------------------------


def foreign_chain(
    *rules: Rule, hook: str = OUTPUT, priority: int = -200, is_nat: bool = False, policy: str = "ACCEPT"
) -> ForeignChain:
    """Return a chain beside ours, whose rules may jump to one that drops HTTPS."""
    more = Chain("more", (Rule(Accept(), TIME), Rule(Drop(), HTTPS)))
    table = Table(NAT if is_nat else MANGLE, (Chain("x", rules, policy), more))
    return ForeignChain("inet other", FAMILIES, hook, priority, is_nat, table)


def beside(there: ForeignChain, asked: Ruleset = REDIRECT) -> tuple[tuple[Obstacle, ...], tuple[Obstacle, ...]]:
    return obstacles(asked, (there,), PodNetwork())


def outcomes(found: tuple[Obstacle, ...]) -> list[tuple[str, str] | None]:
    return [(each.example.asked.outcome, each.example.live.outcome) if each.example else None for each in found]


class TestBystanders:
    @pytest.mark.parametrize(
        ("there", "outcome"),
        [
            (foreign_chain(Rule(Drop(), HTTPS)), "dropped"),
            (foreign_chain(Rule(Redirect(1), HTTPS), is_nat=True), "redirected"),
            (foreign_chain(Rule(Redirect(1), HTTPS), is_nat=True, priority=-100), "redirected"),
            (foreign_chain(Rule(Jump("more"))), "dropped"),
            (foreign_chain(Rule(Accept(), TIME), policy="DROP"), "dropped"),
            (foreign_chain(Rule(Drop(), (InInterface("lo"),)), hook=PREROUTING), "dropped"),
        ],
    )
    def test_what_takes_from_us_is_drift(self, there: ForeignChain, outcome: str) -> None:
        drift, notes = beside(there)

        assert [found and found[1] for found in outcomes(drift)] == [outcome]
        assert notes == ()

    @pytest.mark.parametrize(
        "there",
        [
            foreign_chain(Rule(Drop(), HTTPS), priority=-50),
            foreign_chain(Rule(Redirect(1), HTTPS), is_nat=True, priority=-99),
            foreign_chain(Rule(Accept()), Rule(Log("seen")), policy="DROP", priority=0),
            foreign_chain(Rule(Accept(), (UNKNOWN,))),
        ],
    )
    def test_neither_what_stands_behind_ours_nor_what_accepts_is_worth_a_word(self, there: ForeignChain) -> None:
        assert beside(there) == ((), ())

    def test_what_we_do_not_capture_is_worth_a_note(self) -> None:
        drift, notes = beside(foreign_chain(Rule(Drop(), TIME), Rule(SetMark(1337)), Rule(Jump("nowhere"))))

        assert drift == ()
        assert len(notes) == 3

    def test_each_is_blamed_for_what_it_does_itself(self) -> None:
        """The first rule lets nothing come to the second, and the jump does no harm."""
        port_80 = Rule(Drop(), (Protocol("tcp"), DestinationPort((only(80),))))

        drift, notes = beside(foreign_chain(port_80, port_80, Rule(Accept(), HTTPS), Rule(Jump("more"))))

        assert [each.rule for each in drift] == [port_80]
        assert len(notes) == 2

    @pytest.mark.parametrize(
        "rule",
        [Rule(UnknownVerdict("queue to 1"), HTTPS), Rule(Drop(), (UNKNOWN,)), Rule(UnknownVerdict("goto elsewhere"))],
    )
    def test_what_nobody_can_judge_is_drift_if_it_may_meet_what_is_captured(self, rule: Rule) -> None:
        drift, _ = beside(foreign_chain(rule))

        assert [each.example for each in drift] == [None]

    def test_else_it_is_worth_a_note(self) -> None:
        drift, notes = beside(foreign_chain(Rule(UnknownVerdict("queue to 1"), TIME)))

        assert (drift, len(notes)) == ((), 1)

    def test_a_mark_by_which_a_transparent_capture_tells_packets_apart(self) -> None:
        there = foreign_chain(Rule(SetMark(1337), HTTPS), hook=PREROUTING)

        assert outcomes(beside(there, TPROXY)[0]) == [("proxy-inbound", "dropped")]

    def test_a_family_that_is_not_captured(self) -> None:
        asked = REDIRECT.replace(families=("ipv4",))

        assert beside(foreign_chain(Rule(Drop(), HTTPS, "ipv6")), asked)[0] == ()
