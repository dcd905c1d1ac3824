"""A foreign rule is named by where packets meet it: before our rules, or behind them."""

from __future__ import annotations

import pytest

from capture.analysis.base_chains import BaseChain, Situation
from capture.analysis.foreign_effects import (
    CHANGES_MARKS,
    DIVERTS,
    DIVERTS_BEHIND,
    LOOPS,
    POLICY,
    STOPS,
    STOPS_DISCOVERY,
    STOPS_SENT_ON,
    WITHOUT_EFFECT,
    consequence,
    foreign_effect_text,
    harmless_text,
    other_consequences,
)
from capture.analysis.judgement import judge
from capture.model.addresses import parse_network
from capture.model.foreign import Protocols
from capture.model.ruleset import (
    ALL_BITS,
    INPUT,
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    Accept,
    Chain,
    ConnectionState,
    DestinationPort,
    Drop,
    Mark,
    OutInterface,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Rule,
    SaveMark,
    SetMark,
    Source,
    SourcePort,
    Table,
    TransparentProxy,
    UnknownMatch,
    only,
)
from capture.settings import options as option
from support.captures.fake_pod import ruleset_of
from support.rules.foreign import foreign_match, foreign_verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.effects import Effect

TPROXY = {option.INTERCEPTION_MODE: "TPROXY"}
DNS = {option.REDIRECT_DNS: "true", option.CAPTURE_ALL_DNS: "true"}
LOOK_UPS = Rule(Drop(), (Protocol("udp"), DestinationPort((only(53),))))
STOPPED = Rule(Drop(), (Protocol("tcp"), DestinationPort((only(15001),))))
ALL = Rule(Drop(), (Protocol("tcp"),))
TO_SOCKET = Rule(TransparentProxy(9999, 1, ALL_BITS), (Protocol("tcp"),))
OF_PROXY = Protocol("tcp"), OwnerUid((only(1337),))
SENT_ON = Rule(Drop(), (*OF_PROXY, OutInterface("eth0")))
SENT_BACK = Rule(Redirect(15001), OF_PROXY)
TAKEN = Rule(Redirect(9999), (Protocol("tcp"), DestinationPort((only(80),))))


@pytest.mark.parametrize(
    ("texts", "hook", "priority", "rule", "does"),
    [
        ({}, OUTPUT, -200, ALL, DIVERTS),
        ({}, OUTPUT, 0, STOPPED, STOPS),
        ({}, "INPUT", 0, STOPPED, STOPS),
        ({}, OUTPUT, -110, TAKEN, DIVERTS),
        ({}, OUTPUT, -90, TAKEN, DIVERTS_BEHIND),  # what the proxy sends on
        ({}, OUTPUT, 0, SENT_ON, STOPS_SENT_ON),
        ({}, OUTPUT, -110, SENT_BACK, LOOPS),
        ({}, PREROUTING, -120, ALL, DIVERTS),
        ({}, PREROUTING, -120, TO_SOCKET, DIVERTS),
        (DNS, OUTPUT, -110, LOOK_UPS, DIVERTS),  # which met our zones before
        (TPROXY, PREROUTING, -120, ALL, STOPS),
        (TPROXY, PREROUTING, -160, ALL, DIVERTS),
    ],
)
def test_the_words_depend_on_where_packets_meet_the_rule(
    texts: dict[option.Option[str], str], hook: str, priority: int, rule: Rule, does: str
) -> None:
    is_nat = rule in (TAKEN, SENT_BACK)
    contents = Table(NAT if is_nat else MANGLE, (Chain("x", (rule,), "ACCEPT"),))
    there = BaseChain("ip other", ("ipv4",), hook, priority, is_nat=is_nat, contents=contents)
    desired = ruleset_of(texts)

    (found,) = judge(Situation(desired, (there,)), desired).obstacles

    assert foreign_effect_text(found.rule, found.effect) == does


@pytest.mark.parametrize(
    ("rule", "does"),
    [
        (ALL, DIVERTS),
        (None, POLICY),
        *((Rule(verdict), CHANGES_MARKS) for verdict in (SetMark(1), SaveMark(), RestoreMark())),
    ],
)
def test_without_a_packet_that_shows_it_the_words_are_those_of_the_rule(rule: Rule | None, does: str) -> None:
    assert foreign_effect_text(rule, None) == does


ELSEWHERE = foreign_verdict("DNAT --to-destination 10.0.0.9")
PASSED = Rule(ELSEWHERE, (Protocol("tcp"),))
LOOK_UPS_PASSED = Rule(ELSEWHERE, LOOK_UPS.matches)


def effects_of(texts: dict[option.Option[str], str], rule: Rule, *, is_nat: bool) -> list[Effect | None]:
    """Return the effects of a rule at OUTPUT before ours."""
    contents = Table(NAT if is_nat else MANGLE, (Chain("x", (rule,), "ACCEPT"),))
    there = BaseChain("ip other", ("ipv4",), OUTPUT, -110, is_nat=is_nat, contents=contents)
    found = judge(Situation(ruleset_of(texts), (there,)), ruleset_of(texts))
    return [each.effect for each in (*found.obstacles, *found.unjudged)]


@pytest.mark.parametrize(
    ("texts", "rule", "is_nat", "words"),
    [
        ({}, ALL, False, "outbound connections are dropped"),
        ({}, TAKEN, True, "outbound connections go to port 9999"),
        ({}, PASSED, True, "outbound connections bypass the proxy"),
        ({}, SENT_ON, False, "outbound connections that should be direct are dropped"),
        ({}, SENT_BACK, True, "the proxy's own connections come back to it"),
        (DNS, LOOK_UPS_PASSED, True, "look-ups bypass the agent"),
    ],
)
def test_the_consequence_of_a_rule_in_a_few_words(
    texts: dict[option.Option[str], str], rule: Rule, words: str, *, is_nat: bool
) -> None:
    (effect,) = effects_of(texts, rule, is_nat=is_nat)
    assert effect is not None
    assert consequence(effect) == words


def test_of_rules_that_drop_answers_together_the_one_that_drops_is_named() -> None:
    answers = Protocol("tcp"), SourcePort((only(80),)), ConnectionState(("ESTABLISHED",))
    marks, drops = Rule(SetMark(7), answers), Rule(Drop(), (Mark(7),))
    others = tuple(
        BaseChain("ip other", ("ipv4",), hook, priority, False, Table(MANGLE, (Chain(hook, (rule,), "ACCEPT"),)))
        for hook, priority, rule in ((PREROUTING, -140, marks), (INPUT, 0, drops))
    )
    found = judge(Situation(ruleset_of({}), others), ruleset_of({}))
    assert [each.rule for each in found.obstacles] == [drops]


def test_consequences_that_are_not_those_of_the_first_are_in_brackets() -> None:
    (dropped,), (passed,) = effects_of({}, ALL, is_nat=False), effects_of({}, PASSED, is_nat=True)
    assert other_consequences(dropped, [dropped, None]) == ""
    assert other_consequences(None, []) == ""
    words = " (outbound connections bypass the proxy)"
    assert other_consequences(dropped, [dropped, passed, passed]) == words
    assert other_consequences(None, [passed]) == words


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(Drop(), (foreign_match("-p ipv6-icmp"),), family="ipv6"), STOPS_DISCOVERY),
        (Rule(Drop(), (UnknownMatch("meta l4proto 58", Protocols(("ipv6-icmp",))),)), STOPS_DISCOVERY),
        (Rule(Drop(), (foreign_match("-m icmp6 --icmpv6-type 136"),), family="ipv6"), STOPS_DISCOVERY),
        (Rule(Drop(), (foreign_match("-m icmp6 --icmpv6-type 128"),), family="ipv6"), WITHOUT_EFFECT),
        (Rule(Drop(), (foreign_match("-p ipv6-icmp"),), family="ipv4"), WITHOUT_EFFECT),
        (Rule(Accept(), (foreign_match("-p ipv6-icmp"),), family="ipv6"), WITHOUT_EFFECT),
        (Rule(Drop(), (Protocol("udp"),), family="ipv6"), WITHOUT_EFFECT),
        (Rule(Drop(), (Source((parse_network("fe80::/64"),)),), family="ipv6"), STOPS_DISCOVERY),
        (None, WITHOUT_EFFECT),
    ],
)
def test_a_rule_that_diverts_nothing_may_keep_neighbours_from_being_found(rule: Rule | None, text: str) -> None:
    assert harmless_text(rule) == text
