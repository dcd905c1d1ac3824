"""The last lines of a trace: where the packet ends, and which rule decides."""

import pytest

from capture.analysis.base_chains import BaseChain
from capture.analysis.trace import Step, Trace
from capture.model.addresses import FAMILIES, parse_address
from capture.model.conventions import NOTHING_APPLIED
from capture.model.packet import Packet
from capture.model.ruleset import INPUT, MANGLE, OUTPUT, Accept, Chain, Drop, Protocol, Redirect, Rule, Table
from capture.report.trace_text import path_lines, trace_as_plain, trace_lines

PACKET = Packet("tcp", parse_address("203.0.113.7"), 80, uid=1000, gid=1000, out_interface="eth0")
DROPS = Rule(Drop(), (Protocol("tcp"),))


@pytest.mark.parametrize(
    ("table", "chain", "in_json"),
    [
        ("ip filter", "OUTPUT", "ip filter OUTPUT: -p tcp -j DROP"),
        ("mangle", "ISTIO-DROP", "-t mangle -A ISTIO-DROP -p tcp -j DROP"),
    ],
)
def test_a_rule_is_named_in_one_form_whatever_its_table(table: str, chain: str, in_json: str) -> None:
    step = Step(table, chain, 1, DROPS)
    traced = Trace(PACKET, "dropped", 80, step, (step,))

    assert list(trace_lines(traced))[1:] == [
        f"  => {table} {chain} 1: -p tcp -j DROP",
        "dropped: by the rule marked =>",
    ]
    assert list(trace_lines(traced, "nat"))[-1] == f"because of {table} {chain} 1: -p tcp -j DROP"
    assert trace_as_plain(traced)["rule"] == in_json


@pytest.mark.parametrize(
    ("rule", "unless"),
    [(Rule(Accept()), ", unless a rule marked ? accepts it, which cannot be judged"), (DROPS, "")],
)
def test_a_policy_that_drops_is_named_once_with_what_may_spare_the_packet(rule: Rule, unless: str) -> None:
    there = BaseChain("ip filter", FAMILIES, OUTPUT, 0, is_nat=False, contents=Table(MANGLE, (Chain(OUTPUT, ()),)))
    step = Step("ip filter", "OUTPUT", 1, rule, is_certain=False, base_chain=there)
    traced = Trace(PACKET, "dropped", 80, None, (step,), policy=there)

    assert list(trace_lines(traced))[2:] == [f"dropped: by the policy DROP of ip filter OUTPUT{unless}"]
    assert trace_as_plain(traced)["may_be_spared"] is bool(unless)


@pytest.mark.parametrize(("chain", "rule_set"), [("ISTIO_OUTPUT", "a second rule set"), ("OUTPUT", "a foreign rule")])
def test_a_redirect_that_is_not_the_captures_names_whose_rule_it_is(chain: str, rule_set: str) -> None:
    step = Step("nat", chain, 1, Rule(Redirect(16001), (Protocol("tcp"),)))

    *_, verdict = trace_lines(Trace(PACKET, "redirected", 16001, step, (step,)))
    assert verdict == f"redirected: it is redirected to port 16001 by {rule_set}"


@pytest.mark.parametrize(("comes_in_by", "between"), [(None, ["     then it comes in over lo:"]), ("eth0", [])])
def test_rules_that_a_redirected_packet_meets_over_lo_come_behind_a_line(
    comes_in_by: str | None, between: list[str]
) -> None:
    there = BaseChain("ip filter", FAMILIES, INPUT, 0, is_nat=False, contents=Table(MANGLE, (Chain(INPUT, (DROPS,)),)))
    redirect, drop = Step("nat", "OUTPUT", 1, Rule(Redirect(1))), Step("ip filter", INPUT, 1, DROPS, base_chain=there)

    traced = Trace(PACKET.replace(in_interface=comes_in_by), "dropped", 1, drop, (redirect, drop))

    first, *others = path_lines(traced)
    assert first == "     nat OUTPUT 1: -j REDIRECT --to-ports 1"
    assert others == [*between, "  => ip filter INPUT 1: -p tcp -j DROP"]


def test_without_a_capture_that_is_told_behind_the_reason_of_the_outcome() -> None:
    traced = Trace(PACKET, "direct", 80, None, (), is_applied=False)
    assert list(trace_lines(traced))[-3:] == [
        "direct: it bypasses the proxy",
        "because no rule matches it",
        NOTHING_APPLIED,
    ]
    assert trace_as_plain(traced)["applied"] is False
