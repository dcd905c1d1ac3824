"""Which rules of somebody else are drift, and which are worth a note; the kernel's word is in ``tests/kernel``."""

from __future__ import annotations

import pytest

from capture import settings as option
from capture.compare import differences
from capture.examples import Surroundings
from capture.findings import judged
from capture.model import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    Accept,
    DestinationPort,
    InInterface,
    Protocol,
    RestoreMark,
    Rule,
    SaveMark,
    SetMark,
    UnknownMatch,
    UnknownVerdict,
    only,
)
from fake_pod import ruleset_of
from rule_notation import rule_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.compare import Difference
    from capture.model import Ruleset, TableName

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
    drift, notes = judged(asked, live, differences(asked, live), Surroundings())
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
