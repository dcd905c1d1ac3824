from __future__ import annotations

from capture.analysis.compare import Difference
from capture.analysis.examples import Example
from capture.analysis.findings import Obstacle
from capture.analysis.foreign import ForeignChain
from capture.analysis.trace import Trace
from capture.backends.detect import Decision
from capture.model.addresses import parse_address, parse_network
from capture.model.packet import Packet
from capture.model.ruleset import (
    MANGLE,
    NAT,
    Accept,
    Chain,
    Destination,
    DestinationPort,
    Jump,
    LoopbackAddress,
    PolicyRoute,
    Protocol,
    Return,
    Rule,
    Ruleset,
    SetMark,
    Table,
    only,
)
from capture.operations import Other, Verified
from capture.report.differences import as_plain, in_words, notes_in_words, text_of
from capture.report.packet_words import packet_in_words

TCP = Protocol("tcp")
NOWHERE = Ruleset((), ())
TAKEN = Rule(Accept(), (TCP, DestinationPort((only(80),))))
PACKET = Packet("tcp", parse_address("203.0.113.7"), 80, uid=1000, gid=1000, out_interface="eth0")
EXAMPLE = Example(
    PACKET, Trace(PACKET, "proxy-outbound", 15001, None, ()), Trace(PACKET, "direct", 80, None, ())
)  # fmt: skip


def verified(*differences: Difference, **besides: object) -> Verified:
    return Verified(Decision("iptables", "restore", "nft"), NOWHERE, NOWHERE, differences).replace(**besides)


def test_each_kind_has_its_sentence() -> None:
    ours = Rule(Jump("ISTIO-OUTPUT"), (TCP,))
    found = verified(
        Difference("ipv4", NAT, "OUTPUT", "missing", ours, 1),
        Difference("ipv6", NAT, "OUTPUT", "unexpected", ours, 2),
        Difference("ipv4", NAT, "OUTPUT", "foreign", TAKEN, 1, example=EXAMPLE),
        Difference("ipv4", NAT, "OUTPUT", "policy", policy="DROP"),
        Difference("ipv6", NAT, "OUTPUT", "family", ours, 1),
        missing=(
            LoopbackAddress(parse_network("::6")),
            PolicyRoute("ipv6", 1337, 133),
        ),
        others=(Other(Decision("nftables", "netlink", "")),),
    )

    assert list(in_words(found)) == [
        "IPv4 nat OUTPUT: rule 1 is missing: -p tcp -j ISTIO-OUTPUT",
        "IPv6 nat OUTPUT: rule 2 should not be there: -p tcp -j ISTIO-OUTPUT",
        (
            "IPv4 nat OUTPUT: rule 1 belongs to somebody else, and takes traffic away before it reaches ours:"
            " -p tcp -m tcp --dport 80 -j ACCEPT"
            " (so that tcp to 203.0.113.7:80, out by eth0, of user 1000, group 1000: direct instead of proxy-outbound)"
        ),
        "IPv4 nat OUTPUT: the policy is DROP, and should be ACCEPT",
        "IPv6 nat OUTPUT: rule 1 captures a family that should not be captured: -p tcp -j ISTIO-OUTPUT",
        "the address ::6/128 on lo is missing",
        "`ip -6 rule add fwmark 1337 lookup 133` or `ip -6 route add local default dev lo table 133` is missing",
        "a second set of rules stands in nftables",
    ]


def test_plain_values_say_the_same() -> None:
    found = verified(
        Difference("ipv4", NAT, "OUTPUT", "foreign", TAKEN, 1, example=EXAMPLE),
        missing=(PolicyRoute("ipv4", 1337, 133),),
        others=(Other(Decision("iptables", "restore", "legacy"), EXAMPLE),),
    )

    foreign, plumbing, second = as_plain(found)

    assert (foreign["kind"], foreign["rule"], foreign["position"]) == (
        "foreign",
        "-p tcp -m tcp --dport 80 -j ACCEPT",
        1,
    )
    assert foreign["example"] == {
        "packet": "tcp to 203.0.113.7:80, out by eth0, of user 1000, group 1000",
        "asked": "proxy-outbound",
        "live": "direct",
    }
    assert plumbing["kind"] == "plumbing"
    assert (second["kind"], second["message"]) == ("second set", "a second set of rules stands in iptables legacy")


def test_a_note_is_no_difference() -> None:
    found = verified(notes=(Difference("ipv4", NAT, "OUTPUT", "foreign", TAKEN, 1),))

    assert found.holds
    (sentence,) = notes_in_words(found)
    assert sentence.startswith("IPv4 nat OUTPUT: rule 1 belongs to somebody else, and takes no traffic away from us: ")
    assert sentence.endswith("-p tcp -m tcp --dport 80 -j ACCEPT")


def test_a_chain_beside_ours_is_named_with_its_rule_in_its_own_words() -> None:
    table = Table(MANGLE, (Chain("x", (TAKEN,), "ACCEPT"),))
    there = ForeignChain("ip other", ("ipv4",), "OUTPUT", -200, is_nat=False, contents=table)
    in_nft = Obstacle(there, TAKEN.replace(why="tcp dport 80 drop"), EXAMPLE)
    found = verified(obstacles=(in_nft, Obstacle(there)), harmless=(Obstacle(there, TAKEN),))

    place = "table ip other, chain x (OUTPUT, priority -200): a rule belongs to somebody else, and takes"
    first, second = in_words(found)
    assert first.startswith(
        f"{place} traffic away before it reaches ours: tcp dport 80 drop (so that tcp to 203.0.113.7"
    )
    assert second == f"{place} traffic away before it reaches ours: the policy DROP"
    (note,) = notes_in_words(found)
    assert note == f"{place} no traffic away from us: -p tcp -m tcp --dport 80 -j ACCEPT"
    assert not found.holds
    plain, _ = as_plain(found)
    assert (plain["kind"], plain["table"], plain["chain"]) == ("foreign", "ip other", "x")
    assert plain["message"] == first


def test_a_list_is_told_by_its_first_rule() -> None:
    networks = tuple(parse_network(f"10.{2 * number}.0.0/16") for number in range(20))

    assert text_of(Rule(Return(), (Destination(networks),)), "ipv4") == "-d 10.0.0.0/16 -j RETURN (and 19 more like it)"
    assert text_of(Rule(Return()), "ipv4") == "-j RETURN"


def test_a_changed_mark_is_not_traffic_taken_away() -> None:
    found = verified(Difference("ipv4", MANGLE, "PREROUTING", "foreign", Rule(SetMark(5), (TCP,)), 1))

    (sentence,) = in_words(found)
    assert "belongs to somebody else, and changes a mark by which ours tell packets apart: -p tcp -j MARK" in sentence


def test_marks_of_a_packet_are_said() -> None:
    assert packet_in_words(PACKET.replace(mark=0x539)).endswith("group 1000, mark 0x539")
    assert packet_in_words(PACKET.replace(connection_mark=7)).endswith("group 1000, connection mark 0x7")
