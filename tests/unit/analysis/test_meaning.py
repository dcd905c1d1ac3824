"""What foreign rules mean: the words of iptables and those of nft have one meaning, and doubtful words have none."""

from __future__ import annotations

import pytest

from capture.analysis.base_chains import PodNetwork
from capture.analysis.meaning import (
    Either,
    Goto,
    Reject,
    Translate,
    TranslateSource,
    Untrack,
    holds_for_flags,
    holds_for_protocol,
    is_pure,
    meaning,
    modelled_matches,
    rule_matches,
)
from capture.model.addresses import parse_address, parse_network
from capture.model.packet import Packet
from capture.model.ruleset import (
    CONNECTION_STATES,
    Accept,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    Drop,
    InInterface,
    OutInterface,
    Protocol,
    Redirect,
    Rule,
    SetZone,
    Source,
    UnknownMatch,
    UnknownVerdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.meaning import Meaning
    from capture.model.addresses import Family
    from capture.model.ruleset import Match

ADDRESS, ADDRESS6 = parse_address("10.0.0.1"), parse_address("fd00::1")
NETWORK = PodNetwork(local=(parse_address("10.0.0.9"), parse_address("fd00::9")), names=((2, "eth0"),))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("REJECT --reject-with tcp-reset", "reject with tcp reset", "[reject 1=00000000]"), Reject()),
        (("TARPIT",), Drop()),
        (("NOTRACK", "CT --notrack", "notrack"), Untrack()),
        (("-g OTHER", "goto OTHER"), Goto("OTHER")),
        (("NFLOG --nflog-group 1", "TTL --ttl-set 64", "SET --add-set x src"), Continue()),
        (("ULOG", "TRACE", "AUDIT", "CLASSIFY", "DSCP", "TOS", "HL", "ECN", "CHECKSUM", "TCPMSS"), Continue()),
        (("TCPOPTSTRIP", "LED", "IDLETIMER", "RATEEST"), Continue()),
        (("DNAT --to-destination 10.0.0.1", "dnat to 10.0.0.1", "dnat ip to 10.0.0.1"), Translate(ADDRESS, None)),
        (("DNAT --to-destination 10.0.0.1:81", "dnat ip to 10.0.0.1:81"), Translate(ADDRESS, 81)),
        (("DNAT --to-destination [fd00::1]:81", "dnat ip6 to [fd00::1]:81"), Translate(ADDRESS6, 81)),
        (("DNAT --to-destination :81", "dnat to :81"), Translate(None, 81)),
        (("SNAT --to-source 10.0.0.1", "snat to 10.0.0.1", "snat ip to 10.0.0.1-10.0.0.9"), TranslateSource(ADDRESS)),
        (("SNAT --to-source fd00::1", "snat ip6 to fd00::1", "MASQUERADE --random", "[masq]"), Accept()),
        (("NETMAP --to 10.1.0.0/16",), Translate(parse_network("10.1.0.0/16"), None)),
    ],
)
def test_verdicts_in_the_words_of_both_backends_mean_the_same(words: tuple[str, ...], expected: Meaning) -> None:
    assert {meaning(Rule(UnknownVerdict(each))) for each in words} == {expected}


@pytest.mark.parametrize(
    ("network", "negated", "holds"),
    [("0.0.0.0/0", False, True), ("0.0.0.0/0", True, False), ("10.0.0.0/8", False, False), ("10.0.0.0/8", True, False)],
)
def test_a_source_that_is_not_known_is_in_the_network_of_all_addresses_alone(
    network: str, *, negated: bool, holds: bool
) -> None:
    packet = Packet("tcp", ADDRESS, 80, in_interface="eth0")
    assert rule_matches(Rule(Drop(), (Source((parse_network(network),), negated),)), packet, NETWORK) is holds


FIRST, LAST, FIRST6, LAST6 = (parse_address(each) for each in ("10.0.0.1", "10.0.0.9", "fd00::1", "fd00::9"))


@pytest.mark.parametrize(
    "words",
    [
        "DNAT --to-destination 10.0.0.999", "DNAT", "NETMAP --to 10.1.0.0/99", "queue to 1", "REJECTED", "REDIRECTS",
    ],
)  # fmt: skip
def test_verdicts_that_are_unknown_stay_as_they_are(words: str) -> None:
    assert meaning(Rule(UnknownVerdict(words))) == UnknownVerdict(words)


@pytest.mark.parametrize(
    ("words", "ways"),
    [
        ("DNAT --to-destination 10.0.0.1-10.0.0.9", (Translate(FIRST, None), Translate(LAST, None))),
        ("dnat to 10.0.0.1-10.0.0.9:80", (Translate(FIRST, 80), Translate(LAST, 80))),
        ("DNAT --to-destination 10.0.0.1:81-90 --random", (Translate(FIRST, 81), Translate(FIRST, 90))),
        ("DNAT --to-destination [fd00::1-fd00::9]:80", (Translate(FIRST6, 80), Translate(LAST6, 80))),
        ("REDIRECT --to-ports 81-90", (Redirect(81), Redirect(90))),
        ("redirect to :81-90", (Redirect(81), Redirect(90))),
    ],
)
def test_a_translation_to_one_of_several_is_to_the_first_or_the_last(
    words: str, ways: tuple[Translate, Translate]
) -> None:
    assert meaning(Rule(UnknownVerdict(words))) == Either(ways)


@pytest.mark.parametrize("words", ["REDIRECT", "REDIRECT --random", "redirect"])
def test_a_redirect_without_a_port_keeps_the_port(words: str) -> None:
    assert meaning(Rule(UnknownVerdict(words))) == Translate(None, None)
    assert Translate(None, None).as_sent("ipv6") == Translate(parse_address("::1"), None)


def test_a_zone_is_of_no_concern_for_udp_alone() -> None:
    assert meaning(Rule(SetZone(1), (Protocol("udp"),))) == SetZone(1)
    assert isinstance(meaning(Rule(SetZone(1), (Protocol("tcp"),))), UnknownVerdict)
    assert meaning(Rule(UnknownVerdict("counter accept", Accept()))) == Accept()


def test_a_network_replaces_the_first_bits_of_the_destination() -> None:
    translated = Translate(parse_network("192.168.0.0/16"), None).destination(parse_address("10.0.3.4"))
    assert translated == parse_address("192.168.3.4")
    assert Translate(None, 81).destination(ADDRESS) == ADDRESS


@pytest.mark.parametrize(
    ("words", "tcp", "udp"),
    [
        (("-p tcp", "-p 6", "meta l4proto 6", "ip protocol tcp", "ip6 nexthdr { 6 }"), True, False),
        (("! -p tcp", "meta l4proto != 6", "ip protocol != { tcp, 1 }"), False, True),
        (("-p icmp", "meta l4proto { 1, 58 }"), False, False),
        (("meta l4proto { 6, 17 }",), True, True),
        (
            (
                "meta l4proto { 1-20 }",
                "meta l4proto @s",
                "ip protocol != @s",
                "-m mac --mac-source 0:0:0:0:0:1",
                "meta l4proto",
            ),
            None,
            None,
        ),
    ],
)
def test_matches_of_a_protocol_hold_for_all_its_packets_or_for_none(
    words: tuple[str, ...], *, tcp: bool | None, udp: bool | None
) -> None:
    assert {(holds_for_protocol(each, "tcp"), holds_for_protocol(each, "udp")) for each in words} == {(tcp, udp)}


@pytest.mark.parametrize(
    ("words", "new", "established"),
    [
        (("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN", "tcp flags & 0x17 == 0x02"), True, False),
        (("-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", "tcp flags & 0x17 != 0x02"), False, True),
        (("-m tcp --tcp-flags ALL NONE", "tcp flags & 0x3f == 0x00"), False, False),
        (("-m tcp --tcp-flags PSH PSH", "tcp flags & 0x08 == 0x08"), False, None),
        (("tcp flags == 2", "-m tcp --tcp-option 5"), None, None),
    ],
)
def test_flags_hold_for_all_packets_in_a_state_or_for_none(
    words: tuple[str, ...], *, new: bool | None, established: bool | None
) -> None:
    for each in words:
        answers = [holds_for_flags(each, state) for state in ("NEW", "RELATED", "ESTABLISHED", "INVALID")]
        assert answers == [new, new, established, None]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("-m addrtype --dst-type LOCAL", "fib daddr type local"),
            Destination((parse_network("127.0.0.0/8"), parse_address("192.0.2.2"), parse_address("10.0.0.9"))),
        ),
        (
            ("-m addrtype ! --src-type LOCAL", "fib saddr type != local"),
            Source((parse_network("127.0.0.0/8"), parse_address("192.0.2.2"), parse_address("10.0.0.9")), True),
        ),
        (("-m iprange --dst-range 10.0.0.2-10.0.0.3",), Destination((parse_network("10.0.0.2/31"),))),
        (("-m iprange ! --src-range 10.0.0.2-10.0.0.3",), Source((parse_network("10.0.0.2/31"),), True)),
        (("iif 2",), InInterface("eth0")),
        (("oif != 1",), OutInterface("lo", True)),
        (("iif 9",), InInterface("")),
    ],
)
def test_matches_about_the_pod_are_spelled_out(words: tuple[str, ...], expected: Match) -> None:
    for each in words:
        assert [*modelled_matches((UnknownMatch(each), Protocol("tcp")), "ipv4", NETWORK)] == [
            expected,
            Protocol("tcp"),
        ]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_matches_about_an_unknown_pod_stay_unknown(family: Family) -> None:
    unknown = tuple(
        UnknownMatch(words) for words in ("fib daddr type local", "iif 2", "-m addrtype --dst-type UNICAST")
    )
    assert tuple(modelled_matches(unknown, family, PodNetwork())) == unknown
    assert [*modelled_matches((UnknownMatch("iif 1"),), family, PodNetwork())] == [InInterface("lo")]


@pytest.mark.parametrize("state", CONNECTION_STATES)
def test_the_state_of_what_is_not_tracked(state: str) -> None:
    packet = Packet("tcp", ADDRESS, 80, state=state, connection_mark=1)

    def holds(match: Match) -> bool | None:
        return rule_matches(Rule(Drop(), (match,)), packet, NETWORK, is_tracked=False)

    assert holds(ConnectionState(("INVALID",))) is (state != "UNTRACKED")
    assert holds(ConnectionState(("UNTRACKED", "NEW"), negated=True)) is (state != "UNTRACKED")
    assert not any(holds(ConnectionMark(1, 1, negated)) for negated in (True, False))


def test_matches_that_count_give_no_single_answer() -> None:
    assert not any(
        map(
            is_pure,
            ("-m statistic --mode nth", "limit rate 1/second", "numgen random mod 2 == 0", "jhash ip saddr mod 2"),
        )
    )
    assert is_pure("-m mac --mac-source 00:00:00:00:00:01")
