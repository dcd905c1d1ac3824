"""Each kind of difference has its sentence, and its plain values for JSON."""

import subprocess
import sys
from pathlib import Path

import capture
from capture.analysis.base_chains import BaseChain
from capture.analysis.compare import Difference
from capture.analysis.culprits import Obstacle
from capture.analysis.effects import Effect, FateChange
from capture.analysis.outcome import Fate
from capture.analysis.trace import Trace
from capture.backends.detect import BackendChoice
from capture.backends.iptables.render import shown_rule
from capture.model.addresses import parse_address, parse_network
from capture.model.conventions import NO_IPV4, NOTHING_APPLIED
from capture.model.packet import Packet
from capture.model.routing import LoopbackAddress, MissingRoute, PolicyRoute
from capture.model.ruleset import (
    MANGLE,
    NAT,
    Accept,
    Chain,
    Destination,
    DestinationPort,
    Jump,
    Protocol,
    Return,
    Rule,
    Ruleset,
    SetMark,
    Table,
    only,
)
from capture.operations import SecondSet, Verified
from capture.report.packet_text import fate_text, packet_text
from capture.report.verified_text import (
    conclusion_lines,
    difference_lines,
    difference_text,
    differences_as_plain,
    note_lines,
)

TCP = Protocol("tcp")
NOWHERE = Ruleset((), ())
TAKEN = Rule(Accept(), (TCP, DestinationPort((only(80),))))
PACKET = Packet("tcp", parse_address("203.0.113.7"), 80, uid=1000, gid=1000, out_interface="eth0")
EFFECT = Effect(
    "ipv4",
    "outbound",
    PACKET,
    Trace(PACKET, "proxy-outbound", 15001, None, ()),
    Trace(PACKET, "direct", 80, None, ()),
    FateChange(Fate("proxy-outbound", 15001), Fate("direct")),
    ("tcp to 203.0.113.0/24", "tcp, port 80"),
)
WITNESS = "witness: tcp to 203.0.113.7:80, out via eth0, of user 1000, group 1000"
SAYS = f" (tcp to 203.0.113.0/24; tcp, port 80: proxy-outbound 15001 -> direct; {WITNESS})"


def verified(*differences: Difference, **others: object) -> Verified:
    live = Ruleset((), (Table(NAT, (Chain("ISTIO-OUTPUT"),)),))
    return Verified(BackendChoice("iptables", "restore", "nft"), NOWHERE, live, differences).replace(**others)


def test_a_family_without_rules_is_in_the_part_of_that_family_alone() -> None:
    whole = verified(uncaptured=(NO_IPV4, "IPv6 is not captured"))

    assert whole.part("ipv4", None).uncaptured == (NO_IPV4,)
    assert whole.part("ipv6", None).uncaptured == ("IPv6 is not captured",)
    assert whole.part(None, NAT).uncaptured == ()


def test_each_kind_has_its_sentence() -> None:
    own_rule = Rule(Jump("ISTIO-OUTPUT"), (TCP,))
    found = verified(
        Difference("ipv4", NAT, "OUTPUT", "missing", own_rule, 1),
        Difference("ipv6", NAT, "OUTPUT", "unexpected", own_rule, 2),
        Difference("ipv4", NAT, "OUTPUT", "foreign", TAKEN, 1, effect=EFFECT),
        Difference("ipv4", NAT, "OUTPUT", "policy", policy="DROP"),
        Difference("ipv6", NAT, "OUTPUT", "family", own_rule, 1),
        missing=(
            LoopbackAddress(parse_network("::6")),
            MissingRoute(PolicyRoute("ipv6", 1337, 133), has_rule=True, has_route=False),
            MissingRoute(PolicyRoute("ipv4", 1337, 133), has_rule=False, has_route=False),
        ),
        second_sets=(SecondSet(BackendChoice("nftables", "netlink", "")),),
    )

    assert list(difference_lines(found)) == [
        (
            "IPv4 nat OUTPUT, rule 1: foreign rule precedes ours and diverts captured traffic:"
            f" -p tcp -m tcp --dport 80 -j ACCEPT{SAYS}"
        ),
        "IPv4 nat OUTPUT, rule 1 is missing: -p tcp -j ISTIO-OUTPUT",
        "IPv6 nat OUTPUT, rule 2 is unexpected: -p tcp -j ISTIO-OUTPUT",
        "IPv4 nat OUTPUT: the policy is DROP, and should be ACCEPT",
        "IPv6 nat OUTPUT, rule 1 is for a family that is not captured: -p tcp -j ISTIO-OUTPUT",
        "the address ::6/128 on lo is missing: `ip address add ::6/128 dev lo` adds it",
        "IPv6: the route for mark 0x539 is missing: `ip -6 route replace local default dev lo table 133` adds it",
        (
            "IPv4: the policy rule and the route for mark 0x539 are missing: `ip rule add fwmark 0x539 lookup 133`"
            " and `ip route replace local default dev lo table 133` add them"
        ),
        "a second set of capture rules is in nftables",
    ]


def test_plain_values_mean_the_same() -> None:
    found = verified(
        Difference("ipv4", NAT, "OUTPUT", "foreign", TAKEN, 1, effect=EFFECT),
        missing=(MissingRoute(PolicyRoute("ipv4", 1337, 133), has_rule=False, has_route=True),),
        second_sets=(SecondSet(BackendChoice("iptables", "restore", "legacy"), EFFECT),),
    )

    foreign, plumbing, second = differences_as_plain(found)

    assert (foreign["kind"], foreign["rule"], foreign["position"]) == (
        "foreign",
        "-p tcp -m tcp --dport 80 -j ACCEPT",
        1,
    )
    assert (foreign["table"], foreign["chain"], foreign["policy"], foreign["together"]) == (NAT, "OUTPUT", None, None)
    assert foreign["example"] == {
        "packet": "tcp to 203.0.113.7:80, out via eth0, of user 1000, group 1000",
        "asked": "proxy-outbound",
        "asked_port": 15001,
        "live": "direct",
        "live_port": 80,
    }
    assert foreign["effect"] == {
        "direction": "outbound",
        "packets": ["tcp to 203.0.113.0/24", "tcp, port 80"],
        "witness": "tcp to 203.0.113.7:80, out via eth0, of user 1000, group 1000",
        "before": {"outcome": "proxy-outbound", "port": 15001, "address": None, "interface": None},
        "after": {"outcome": "direct", "port": None, "address": None, "interface": None},
        "hangs": False,
    }
    assert (plumbing["kind"], plumbing["what"], plumbing["family"]) == ("plumbing", "route", "ipv4")
    assert second["kind"] == "second set"
    assert second["message"] == f"a second set of capture rules is in iptables-legacy{SAYS}"


def test_a_note_is_no_difference() -> None:
    found = verified(harmless_differences=(Difference("ipv4", NAT, "OUTPUT", "foreign", TAKEN, 1),))

    assert found.holds
    (sentence,) = note_lines(found)
    assert sentence.startswith("IPv4 nat OUTPUT, rule 1: foreign rule without effect on captured traffic: ")
    assert sentence.endswith("-p tcp -m tcp --dport 80 -j ACCEPT")


def test_a_foreign_chain_is_named_with_its_rule_in_its_own_words() -> None:
    table = Table(MANGLE, (Chain("x", (TAKEN,), "ACCEPT"),))
    there = BaseChain("ip other", ("ipv4",), "OUTPUT", -200, is_nat=False, contents=table)
    in_nft = Obstacle(there, TAKEN.replace(why="tcp dport 80 drop"), EFFECT)
    found = verified(obstacles=(in_nft, Obstacle(there)), harmless_obstacles=(Obstacle(there, TAKEN),))

    place = "ip other x, hook OUTPUT, priority -200: foreign rule"
    first, second = difference_lines(found)
    assert first == f"{place} precedes ours and diverts captured traffic: tcp dport 80 drop{SAYS}"
    assert second == f"{place.removesuffix('rule')}policy stops captured traffic: the policy DROP"
    (note,) = note_lines(found)
    assert note == f"{place} without effect on captured traffic: -p tcp -m tcp --dport 80 -j ACCEPT"
    assert not found.holds
    plain, _ = differences_as_plain(found)
    assert (plain["kind"], plain["table"], plain["chain"]) == ("foreign", "ip other", "x")
    assert plain["message"] == first


def test_a_list_is_named_by_its_first_rule() -> None:
    networks = tuple(parse_network(f"10.{2 * number}.0.0/16") for number in range(20))

    assert (
        shown_rule(Rule(Return(), (Destination(networks),)), "ipv4") == "-d 10.0.0.0/16 -j RETURN (and 19 more like it)"
    )
    assert shown_rule(Rule(Return()), "ipv4") == "-j RETURN"


def test_a_changed_mark_is_not_traffic_taken_away() -> None:
    found = verified(Difference("ipv4", MANGLE, "PREROUTING", "foreign", Rule(SetMark(5), (TCP,)), 1))

    (sentence,) = difference_lines(found)
    assert "foreign rule changes a mark that the capture depends on: -p tcp -j MARK" in sentence


def test_many_differences_are_grouped_by_chain() -> None:
    own_rule = Rule(Jump("ISTIO-OUTPUT"), (TCP,))
    foreign = [Difference("ipv4", NAT, "OUTPUT", "foreign", TAKEN, place) for place in range(1, 31)]
    few = [Difference("ipv6", NAT, "ISTIO-INBOUND", "missing", own_rule, place) for place in range(1, 4)]

    first, *others = difference_lines(verified(*foreign, *few))

    assert first.endswith(f"{shown_rule(TAKEN, 'ipv4')} (and 29 more of this kind in this chain)")
    assert others == [f"IPv6 nat ISTIO-INBOUND, rule {place} is missing: -p tcp -j ISTIO-OUTPUT" for place in (1, 2, 3)]


def test_missing_rules_of_a_chain_are_one_sentence_with_the_heaviest_effect() -> None:
    own_rule = Rule(Jump("ISTIO-OUTPUT"), (TCP,))
    light = EFFECT.replace(change=EFFECT.change.replace(before=Fate("direct")))
    missing = [Difference("ipv4", NAT, "ISTIO-INBOUND", "missing", own_rule, place) for place in range(1, 31)]
    missing[4:6] = [missing[4].replace(effect=light), missing[5].replace(effect=EFFECT)]
    elsewhere = Difference("ipv4", NAT, "OUTPUT", "unexpected", own_rule, 2)
    live = Ruleset((), (Table(NAT, (Chain("ISTIO-INBOUND"),)),))
    found = verified(elsewhere, *missing, live=live)

    in_words = ["IPv4 nat ISTIO-INBOUND: all 30 rules are missing" + SAYS, difference_text(elsewhere)]
    assert list(difference_lines(found)) == in_words
    assert len(differences_as_plain(found)) == 31
    assert next(iter(conclusion_lines(found))) == "drift: 31 differences from the configuration of the options"
    chain = Chain("ISTIO-INBOUND", (TAKEN,))
    first, _ = difference_lines(found.replace(live=Ruleset((), (Table(NAT, (chain,)),))))
    assert first == f"{difference_text(missing[5])} (and 29 more of this kind in this chain)"
    assert list(difference_lines(found.replace(live=NOWHERE))) == [NOTHING_APPLIED]


def test_a_fate_in_words() -> None:
    elsewhere = parse_address("2001:db8::7")
    assert fate_text(Fate("direct", 81, elsewhere)) == "direct to [2001:db8::7]:81"
    assert fate_text(Fate("direct", None, elsewhere)) == "direct to 2001:db8::7"
    assert fate_text(Fate("dns", 15053)) == "dns 15053"
    assert fate_text(Fate("dropped")) == "dropped"


def test_marks_of_a_packet_are_printed() -> None:
    assert packet_text(PACKET.replace(mark=0x539)).endswith("group 1000, mark 0x539")
    assert packet_text(PACKET.replace(connection_mark=7)).endswith("group 1000, connection mark 0x7")


def test_a_packet_without_a_route_leaves_by_no_interface() -> None:
    assert packet_text(PACKET.replace(out_interface="none")) == packet_text(PACKET.replace(out_interface=None))


ROOT = Path(capture.__file__).parents[1]

IN_SYNC = """
import sys
from capture.backends.detect import BackendChoice
from capture.model.ruleset import Ruleset
from capture.operations.results import Verified
from capture.report.verified_text import conclusion_lines
print(*conclusion_lines(Verified(BackendChoice("iptables", "netlink", "nft"), Ruleset((), ()), Ruleset((), ()))))
print(*{"capture.analysis.effects", "re"} & set(sys.modules))
"""


def test_no_analysis_of_effects_is_loaded_where_nothing_differs() -> None:
    done = subprocess.run([sys.executable, "-S", "-c", IN_SYNC], capture_output=True, text=True, check=True, cwd=ROOT)
    conclusion, loaded = done.stdout.split("\n")[:2]
    assert conclusion.startswith("in sync")
    assert not loaded
