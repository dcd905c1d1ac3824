"""What foreign rules mean, by the decoder of iptables' words; ``test_decode`` has those of nft."""

import pytest

from capture.analysis.base_chains import PodNetwork
from capture.analysis.meaning import (
    effective_verdict,
    holds_for_protocol,
    holds_in_state,
    losing_rule,
    modelled_matches,
    rule_matches,
)
from capture.model.addresses import Family, parse_address, parse_network
from capture.model.foreign import (
    AllOf,
    ConnectionDirection,
    Either,
    IcmpType,
    InterfaceIndex,
    LaterFragment,
    LocalAddress,
    NoWayBack,
    Protocols,
    Reject,
    States,
    TcpFlags,
    Translate,
    TranslateSource,
    Untrack,
)
from capture.model.packet import Packet
from capture.model.ruleset import (
    CONNECTION_STATES,
    Accept,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    Drop,
    Goto,
    InInterface,
    Match,
    OutInterface,
    OwnerUid,
    Protocol,
    Redirect,
    Rule,
    SetZone,
    Source,
    Span,
    UnknownMatch,
    UnknownVerdict,
    Verdict,
)
from support.rules.foreign import foreign_match, foreign_verdict

ADDRESS, ADDRESS6 = parse_address("10.0.0.1"), parse_address("fd00::1")
NETWORK = PodNetwork(local=(parse_address("10.0.0.9"), parse_address("fd00::9")), names=((2, "eth0"),))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("REJECT", "REJECT --reject-with tcp-reset", "REJECT [ revision 1, 0x01 ]"), Reject()),
        (("TARPIT",), Drop()),
        (("NOTRACK", "CT --notrack", "CT --notrack --zone 5"), Untrack()),
        (("-g OTHER",), Goto("OTHER")),
        (("NFLOG --nflog-group 1", "TTL --ttl-set 64", "SET --add-set x src"), Continue()),
        (("TTL --ttl-dec 1", "HL --hl-inc 1", "HL --hl-set 255"), Continue()),
        (("ULOG", "TRACE", "AUDIT", "CLASSIFY", "DSCP", "TOS", "HL", "ECN", "CHECKSUM", "TCPMSS"), Continue()),
        (("TCPOPTSTRIP", "LED", "IDLETIMER", "RATEEST"), Continue()),
        (("DNAT --to-destination 10.0.0.1", "DNAT --to-destination 10.0.0.1 --persistent"), Translate(ADDRESS, None)),
        (("DNAT --to-destination 10.0.0.1:81",), Translate(ADDRESS, 81)),
        (("DNAT --to-destination fd00::1", "DNAT --to-destination [fd00::1]"), Translate(ADDRESS6, None)),
        (("DNAT --to-destination [fd00::1]:81",), Translate(ADDRESS6, 81)),
        (("DNAT --to-destination :81", "DNAT --to-destination []:81"), Translate(None, 81)),
        (("SNAT --to-source 10.0.0.1", "SNAT --to-source 10.0.0.1-10.0.0.9:1-2"), TranslateSource(ADDRESS)),
        (("SNAT --to-source fd00::1", "SNAT [ revision 9 ]", "MASQUERADE --random"), Accept()),
        (("NETMAP --to 10.1.0.0/16",), Translate(parse_network("10.1.0.0/16"), None)),
        (("REDIRECT --to-ports 81 --random",), Redirect(81)),
    ],
)
def test_verdicts_that_the_model_lacks_have_a_meaning(words: tuple[str, ...], expected: Verdict) -> None:
    assert {effective_verdict(Rule(foreign_verdict(each))) for each in words} == {expected}


@pytest.mark.parametrize(
    ("network", "negated", "holds"),
    [("0.0.0.0/0", False, True), ("0.0.0.0/0", True, False), ("10.0.0.0/8", False, False), ("10.0.0.0/8", True, False)],
)
def test_a_source_that_is_not_known_is_in_the_network_of_all_addresses_alone(
    network: str, *, negated: bool, holds: bool
) -> None:
    packet = Packet("tcp", ADDRESS, 80, in_interface="eth0")
    assert rule_matches(Rule(Drop(), (Source((parse_network(network),), negated),)), packet, NETWORK) is holds


TWO, FOUR = (parse_address("10.0.0.1"), parse_address("10.0.0.2")), parse_address("10.0.0.4")
FIRST, LAST, FIRST6, LAST6 = (parse_address(each) for each in ("10.0.0.1", "10.0.0.9", "fd00::1", "fd00::9"))


@pytest.mark.parametrize(
    "words",
    [
        "DNAT --to-destination 10.0.0.999", "DNAT", "NETMAP --to 10.1.0.0/99", "NFQUEUE", "REJECTED", "REDIRECTS",
        "DNAT --to-destination 10.0.0.1:80-90/80", "TTL --ttl-set 1", "HL --hl-set 31",
    ],
)  # fmt: skip
def test_verdicts_that_are_unknown_stay_as_they_are(words: str) -> None:
    assert effective_verdict(Rule(foreign_verdict(words))) == UnknownVerdict(words)


@pytest.mark.parametrize(
    ("words", "ways"),
    [
        ("DNAT --to-destination 10.0.0.1-10.0.0.9", (Translate(FIRST, None), Translate(LAST, None))),
        ("DNAT --to-destination 10.0.0.1-10.0.0.9:80", (Translate(FIRST, 80), Translate(LAST, 80))),
        ("DNAT --to-destination 10.0.0.1:81-90 --random", (Translate(FIRST, 81), Translate(FIRST, 90))),
        ("DNAT --to-destination [fd00::1-fd00::9]:80", (Translate(FIRST6, 80), Translate(LAST6, 80))),
        ("REDIRECT --to-ports 81-90", (Redirect(81), Redirect(90))),
    ],
)
def test_a_translation_to_one_of_several_is_to_the_first_or_the_last(
    words: str, ways: tuple[Translate, Translate]
) -> None:
    assert effective_verdict(Rule(foreign_verdict(words))) == Either(ways)


@pytest.mark.parametrize("words", ["REDIRECT", "REDIRECT --random"])
def test_a_redirect_without_a_port_keeps_the_port(words: str) -> None:
    assert effective_verdict(Rule(foreign_verdict(words))) == Translate(None, None)
    assert Translate(None, None).for_sent_packets("ipv6") == Translate(parse_address("::1"), None)


def test_a_zone_is_of_no_concern_for_udp_alone() -> None:
    assert effective_verdict(Rule(SetZone(1), (Protocol("udp"),))) == SetZone(1)
    assert isinstance(effective_verdict(Rule(SetZone(1), (Protocol("tcp"),))), UnknownVerdict)
    assert effective_verdict(Rule(UnknownVerdict("counter accept", Accept()))) == Accept()


def test_a_network_replaces_the_first_bits_of_the_destination() -> None:
    translated = Translate(parse_network("192.168.0.0/16"), None).destination(parse_address("10.0.3.4"))
    assert translated == parse_address("192.168.3.4")
    assert Translate(None, 81).destination(ADDRESS) == ADDRESS


@pytest.mark.parametrize(
    ("test", "tcp", "udp"),
    [
        (Protocols(("tcp",)), True, False),
        (LaterFragment(), False, False),
        (LaterFragment(negated=True), True, True),
        (Protocols(("tcp", "1"), negated=True), False, True),
        (Protocols(("icmp",)), False, False),
        (Protocols(("tcp", "udp")), True, True),
        (TcpFlags(2, 2), None, None),
        (None, None, None),
    ],
)
def test_matches_of_a_protocol_hold_for_all_its_packets_or_for_none(
    test: Match | None, *, tcp: bool | None, udp: bool | None
) -> None:
    assert (holds_for_protocol(test, "tcp"), holds_for_protocol(test, "udp")) == (tcp, udp)


def test_the_type_of_icmpv6_is_a_packets_port() -> None:
    tests = IcmpType(135), IcmpType(136), IcmpType(136, negated=True)
    assert [holds_for_protocol(test, "ipv6-icmp", 135) for test in tests] == [True, False, True]
    assert [holds_for_protocol(test, "tcp", 135) for test in tests] == [None, None, None]


@pytest.mark.parametrize(
    ("test", "new", "established"),
    [
        (TcpFlags(0x17, 0x02), True, False),
        (TcpFlags(0x17, 0x02, negated=True), False, True),
        (TcpFlags(0x3F, 0x00), False, False),
        (TcpFlags(0x08, 0x08), False, None),
        (Protocols(("tcp",)), None, None),
    ],
)
def test_flags_hold_for_all_packets_in_a_state_or_for_none(
    test: Match, *, new: bool | None, established: bool | None
) -> None:
    states = ("NEW", "RELATED", "ESTABLISHED", "INVALID")
    answers = [holds_in_state(test, state, is_translated=None) for state in states]
    assert answers == [new, new, established, None]


@pytest.mark.parametrize(
    ("words", "test"),
    [
        ("-p sctp", Protocols(("sctp",))),
        ("! -p 6", Protocols(("tcp",), negated=True)),
        ("-p icmpv6", Protocols(("ipv6-icmp",))),
        ("! -f", LaterFragment(negated=True)),
        ("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN", TcpFlags(0x17, 0x02)),
        ("-m tcp ! --tcp-flags ALL NONE", TcpFlags(0x3F, 0x00, negated=True)),
        ("-m addrtype --dst-type LOCAL", LocalAddress(Destination)),
        ("-m addrtype ! --src-type LOCAL", LocalAddress(Source, negated=True)),
        ("-m icmp6 ! --icmpv6-type 135", IcmpType(135, negated=True)),
        ("-m icmp6 --icmpv6-type 1/4", None),
        ("-m owner ! --socket-exists", AllOf((OwnerUid((Span(0, 0xFFFF_FFFE),), negated=True),))),
        ("-m conntrack --ctdir REPLY", ConnectionDirection(is_reply=True)),
        ("-m conntrack ! --ctstate NEW,SNAT", States(("NEW", "SNAT"), negated=True)),
        (
            "-m iprange --src-range 10.0.0.1-10.0.0.2 ! --dst-range 10.0.0.2-10.0.0.3",
            AllOf((Source(TWO), Destination((parse_network("10.0.0.2/31"),), negated=True))),
        ),
        *((words, None) for words in (
            "-m tcp --tcp-option 5", "-m tcp --tcp-flags ODD SYN", "-m addrtype --dst-type UNICAST", "-m addrtype",
            "-m addrtype --dst-type LOCAL --limit-iface-in", "-m conntrack --ctstate DNAT --ctdir REPLY",
            "-m conntrack ! --ctdir REPLY", "-m iprange --src-range 10.0.0.1", "-m mac --mac-source 0:0:0:0:0:1",
            "-d 10.0.1.0/255.0.255.0", "-m",
        )),
    ],
)  # fmt: skip
def test_a_match_that_the_model_lacks_has_a_value_where_that_is_certain(words: str, test: Match | None) -> None:
    match = foreign_match(words)
    assert isinstance(match, UnknownMatch)
    assert (match.text, match.test) == (words, test)


OWN = parse_network("127.0.0.0/8"), parse_address("192.0.2.2"), parse_address("10.0.0.9")


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (UnknownMatch("?", LocalAddress(Destination)), Destination(OWN)),
        (UnknownMatch("?", LocalAddress(Source, negated=True)), Source(OWN, True)),
        (foreign_match("-m iprange --dst-range 10.0.0.2-10.0.0.4"), Destination((parse_network("10.0.0.2/31"), FOUR))),
        (UnknownMatch("?", InterfaceIndex(InInterface, 2)), InInterface("eth0")),
        (UnknownMatch("?", InterfaceIndex(OutInterface, 1, negated=True)), OutInterface("lo", True)),
        (UnknownMatch("?", InterfaceIndex(InInterface, 9)), InInterface("")),
        (UnknownMatch("?", NoWayBack(negated=True)), ConnectionState((), negated=True)),
    ],
)
def test_matches_about_the_pod_are_spelled_out(match: Match, expected: Match) -> None:
    network = NETWORK.replace(families_with_return_route=("ipv4",))
    assert [*modelled_matches((match, Protocol("tcp")), "ipv4", network)] == [expected, Protocol("tcp")]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_matches_about_an_unknown_pod_stay_unknown(family: Family) -> None:
    tests = LocalAddress(Destination), InterfaceIndex(InInterface, 2), NoWayBack(), None
    unknown = tuple(UnknownMatch("?", test) for test in tests)
    assert tuple(modelled_matches(unknown, family, PodNetwork())) == unknown
    lo = UnknownMatch("iif 1", InterfaceIndex(InInterface, 1))
    assert [*modelled_matches((lo,), family, PodNetwork())] == [InInterface("lo")]


def test_the_source_of_another_host_loses_what_is_sent_over_lo() -> None:
    for address, states in ((ADDRESS, ("NEW",)), (OWN[2], ())):
        assert losing_rule(TranslateSource(address), NETWORK).matches[2] == ConnectionState(states)


@pytest.mark.parametrize("state", CONNECTION_STATES)
def test_the_state_of_what_is_not_tracked(state: str) -> None:
    packet = Packet("tcp", ADDRESS, 80, state=state, connection_mark=1)

    def holds(match: Match) -> bool | None:
        return rule_matches(Rule(Drop(), (match,)), packet, NETWORK, is_tracked=False)

    assert holds(ConnectionState(("INVALID",))) is (state != "UNTRACKED")
    assert holds(ConnectionState(("UNTRACKED", "NEW"), negated=True)) is (state != "UNTRACKED")
    assert not any(holds(ConnectionMark(1, 1, negated)) for negated in (True, False))


@pytest.mark.parametrize(
    ("words", "is_pure"),
    [("-m statistic --mode nth", False), ("-m time --timestart 8", False), ("-m mac --mac-source 0:0:0:0:0:1", True)],
)
def test_matches_that_count_give_no_single_answer(words: str, *, is_pure: bool) -> None:
    match = foreign_match(words)
    assert isinstance(match, UnknownMatch)
    assert match.is_pure is is_pure
