"""Answers to connections: where they come from and go to, and which of them are lost."""

from __future__ import annotations

import pytest

from capture.analysis.base_chains import BaseChain, Situation
from capture.analysis.meaning import ACK, PSH, SYN
from capture.analysis.replies import (
    is_own_step,
    loss_text,
    lost_reply,
    replies,
    trace_with_flags,
    untracked_text,
    untracking_step,
    zone_conflict,
)
from capture.analysis.trace import Step, trace_whole_path
from capture.model.addresses import parse_address
from capture.model.packet import EPHEMERAL_PORT, Packet
from capture.model.ruleset import (
    INPUT,
    OUTPUT,
    PREROUTING,
    RAW,
    Chain,
    ConnectionMark,
    ConnectionState,
    DestinationPort,
    Drop,
    Jump,
    Protocol,
    Rule,
    SetZone,
    SourcePort,
    Table,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.rules.foreign import foreign_match, foreign_verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.trace import Trace
    from capture.model.ruleset import Match, ProtocolName

POD, WORLD, LO = map(parse_address, ("192.0.2.2", "198.51.100.7", "127.0.0.1"))
BY_APP = Packet("tcp", WORLD, 80, source=POD, source_port=45000, uid=1000, gid=1000, out_interface="eth0")
BY_PROXY = BY_APP.replace(uid=1337, gid=1337)
CAME_IN = Packet("tcp", POD, 8080, source=WORLD, source_port=45000, in_interface="eth0")
TO_22 = CAME_IN.replace(port=22)
HTTP = Protocol("tcp"), DestinationPort((only(80),))
FROM_HTTP = Protocol("tcp"), SourcePort((only(80),))
UNTRACKS = Rule(foreign_verdict("NOTRACK"), HTTP)


def foreign(rule: Rule, hook: str, priority: int) -> BaseChain:
    return BaseChain("ip other", ("ipv4",), hook, priority, False, Table(RAW, (Chain("x", (rule,), "ACCEPT"),)))


def situation(*others: BaseChain, config: CaptureConfig | None = None) -> Situation:
    return Situation(build_ruleset(config or CaptureConfig()), others)


def way(packet: Packet, *others: BaseChain) -> Trace:
    return trace_whole_path(packet, situation(*others))


def ends(packet: Packet) -> tuple[object, ...]:
    return packet.source, packet.source_port, packet.destination, packet.port


def test_an_answer_to_a_call_from_elsewhere_leaves_as_the_call_came() -> None:
    (answer,) = replies(way(TO_22), uid=7, gid=8)
    assert ends(answer) == (POD, 22, WORLD, 45000)
    assert (answer.in_interface, answer.out_interface, answer.uid, answer.gid) == (None, "eth0", 7, 8)
    assert (answer.state, answer.is_reply) == ("ESTABLISHED", True)
    (by_proxy,) = replies(way(CAME_IN))
    assert ends(by_proxy) == (POD, 15006, WORLD, 45000)
    assert [*replies(way(CAME_IN.replace(source=None)))] == []
    (usual,) = replies(way(TO_22.replace(source_port=None)))
    assert usual.port == EPHEMERAL_PORT


def test_an_answer_from_elsewhere_comes_in_from_whom_was_called() -> None:
    (answer,) = replies(way(BY_PROXY))
    assert ends(answer) == (WORLD, 80, POD, 45000)
    assert (answer.in_interface, answer.out_interface, answer.uid) == ("eth0", None, None)
    to_another = Rule(foreign_verdict("DNAT --to-destination 198.51.100.8:81"), HTTP)
    (translated,) = replies(way(BY_PROXY, foreign(to_another, OUTPUT, -90).replace(is_nat=True)))
    assert ends(translated) == (parse_address("198.51.100.8"), 81, POD, 45000)


def test_an_answer_of_the_proxy_is_sent_from_lo_and_comes_in_from_whom_was_called() -> None:
    sent, comes_in = replies(way(BY_APP), uid=1337, gid=1337)
    assert (ends(sent), ends(comes_in)) == ((LO, 15001, POD, 45000), (WORLD, 80, POD, 45000))
    assert (sent.out_interface, sent.in_interface, sent.uid) == ("lo", None, 1337)
    assert (comes_in.out_interface, comes_in.in_interface, comes_in.uid) == (None, "lo", None)


def test_an_answer_within_the_pod_comes_over_lo() -> None:
    within = BY_PROXY.replace(destination=LO, source=LO, out_interface="lo")
    assert [(each.in_interface, each.out_interface) for each in replies(way(within))] == [(None, "lo"), ("lo", None)]


@pytest.mark.parametrize(
    ("rule", "hook", "is_lost"),
    [
        (Rule(Drop(), (*FROM_HTTP, ConnectionState(("ESTABLISHED",)))), INPUT, True),
        (Rule(Drop(), (*FROM_HTTP, ConnectionState(("NEW",)))), INPUT, False),
        (Rule(Drop(), HTTP), INPUT, False),
        (Rule(Drop(), (*FROM_HTTP, foreign_match("-m time"))), INPUT, False),
    ],
)
def test_an_answer_that_is_certainly_dropped_is_lost(rule: Rule, hook: str, *, is_lost: bool) -> None:
    there = foreign(rule, hook, 0)
    lost = lost_reply(way(BY_PROXY, there), situation(there))
    assert (lost is not None) == is_lost
    if lost is not None:
        assert loss_text(lost) == f"its answers are dropped by {there.location('x', 1)}: the connection hangs"
    assert lost_reply(way(BY_APP, there), situation(there)) is None, "the proxy answers"


def test_answers_to_what_is_not_tracked_are_taken_for_calls() -> None:
    there = foreign(UNTRACKS, OUTPUT, -300)
    live = way(BY_APP, there)
    step = untracking_step(live)
    assert (live.outcome, step and step.rule) == ("direct", UNTRACKS)
    lost = lost_reply(live, situation(there))
    assert lost is not None
    assert (lost.outcome, lost.packet.state, lost.packet.is_reply) == ("proxy-inbound", "NEW", False)
    assert untracked_text(live.replace(lost_reply=lost)) == "its answers go to port 15006: the connection hangs"
    assert untracked_text(live) == "nat rules see tracked connections only"
    assert untracking_step(way(BY_APP)) is None


def test_answers_to_an_untracked_call_are_taken_for_calls_of_the_pod() -> None:
    there = foreign(Rule(foreign_verdict("NOTRACK"), (Protocol("tcp"), DestinationPort((only(22),)))), PREROUTING, -300)
    lost = lost_reply(way(TO_22, there), situation(there))
    assert lost is not None
    assert loss_text(lost) == "its answers go to port 15001: the connection hangs"


@pytest.mark.parametrize(
    ("flags", "is_lost"),
    [("SYN,ACK SYN,ACK", True), ("SYN,ACK ACK", True), ("SYN,RST,ACK,FIN SYN", False), ("PSH PSH", True)],
)
def test_where_flags_decide_each_kind_of_answer_that_is_needed_counts(flags: str, *, is_lost: bool) -> None:
    there = foreign(Rule(Drop(), (*FROM_HTTP, foreign_match(f"-m tcp --tcp-flags {flags}"))), INPUT, 0)
    lost = lost_reply(way(BY_PROXY, there), situation(there))
    assert (lost is not None) == is_lost
    if lost is not None:
        assert lost.packet.flags in (SYN | ACK, ACK, PSH | ACK)


def test_flags_of_a_later_packet_are_never_those_of_the_first() -> None:
    there = foreign(Rule(Drop(), (*HTTP, foreign_match("-m tcp --tcp-flags SYN SYN"))), OUTPUT, -160)
    later = BY_PROXY.replace(state="ESTABLISHED")
    assert trace_with_flags(later, situation(there)).outcome == "direct"
    udp = later.replace(protocol="udp")
    assert trace_with_flags(udp, situation(there)) == trace_whole_path(udp, situation(there))


def test_of_answers_that_are_all_treated_alike_the_first_tells_how() -> None:
    ends_it = Rule(Drop(), (*FROM_HTTP, foreign_match("-m tcp --tcp-flags FIN FIN")))
    there = foreign(ends_it, INPUT, 0)
    (answer,) = replies(way(BY_PROXY))
    assert not trace_whole_path(answer, situation(there)).is_certain
    found = trace_with_flags(answer, situation(there))
    assert (found.is_certain, found.packet.flags) == (True, SYN | ACK)
    at_times = foreign(Rule(Drop(), (*FROM_HTTP, foreign_match("-m time"))), INPUT, 0)
    assert trace_with_flags(answer, situation(there, at_times)) == trace_whole_path(answer, situation(there, at_times))


@pytest.mark.parametrize(
    ("protocol", "match", "state"),
    [
        ("tcp", ConnectionState(("INVALID",)), "INVALID"),
        ("tcp", ConnectionState(("NEW",)), "NEW"),
        ("udp", ConnectionState(("INVALID",)), None),
        ("udp", ConnectionState(("NEW",)), "NEW"),
        ("udp", foreign_match("-m tcp --tcp-flags ACK ACK"), None),
        ("tcp", ConnectionMark(0, negated=True), None),
    ],
)
def test_answers_to_what_is_not_tracked_are_first_packets_or_invalid(
    protocol: ProtocolName, match: Match, state: str | None
) -> None:
    of_port = Protocol(protocol), DestinationPort((only(80),))
    untracks = foreign(Rule(foreign_verdict("NOTRACK"), of_port), OUTPUT, -300)
    drops = foreign(Rule(Drop(), (Protocol(protocol), SourcePort((only(80),)), match)), INPUT, 0)
    lost = lost_reply(way(BY_PROXY.replace(protocol=protocol), untracks, drops), situation(untracks, drops))
    lost_to_us = None if lost is None or lost.outcome != "dropped" else lost.packet.state
    assert lost_to_us == state


@pytest.mark.parametrize(
    ("step", "owned"),
    [
        (Step(RAW, "ISTIO_OUTPUT", 1, UNTRACKS), True),
        (Step(RAW, OUTPUT, 1, Rule(Jump("ISTIO_OUTPUT"))), True),
        (Step(RAW, OUTPUT, 1, UNTRACKS), False),
        (Step("ip other", "ISTIO_OUTPUT", 1, UNTRACKS), False),
        (Step(RAW, OUTPUT, 1, Rule(Jump("OTHER"))), False),
    ],
)
def test_our_own_rules_are_in_our_tables_and_in_our_chains_or_lead_there(step: Step, *, owned: bool) -> None:
    assert is_own_step(step) is owned
    untracked = way(BY_APP, foreign(UNTRACKS, OUTPUT, -300)).replace(path=(step,))
    assert untracking_step(untracked) == (step if step.rule == UNTRACKS and not owned else None)


DNS_CAPTURE = CaptureConfig(captures_dns=True, captures_all_dns=True)
IN_ZONE_7 = foreign(Rule(SetZone(7), (Protocol("udp"), DestinationPort((only(53),)))), OUTPUT, -310)


@pytest.mark.parametrize(
    ("other", "is_lost"),
    [
        (IN_ZONE_7, True),
        (IN_ZONE_7.replace(hook=INPUT), False),
        (IN_ZONE_7.replace(priority=-290), False),  # behind ours: the first rule for one decides
        (foreign(Rule(SetZone(7), (Protocol("udp"),)), OUTPUT, -310), False),  # the answer, too
    ],
)
def test_a_look_up_and_its_answer_have_one_zone(other: BaseChain, *, is_lost: bool) -> None:
    with_other = situation(other, config=DNS_CAPTURE)
    look_up = BY_APP.replace(protocol="udp", port=53)
    conflict = zone_conflict(trace_whole_path(look_up, with_other), with_other, (1337, 1337))
    assert (conflict is not None) is is_lost
    assert conflict is None or (conflict[1] and conflict[1].base_chain) == IN_ZONE_7
