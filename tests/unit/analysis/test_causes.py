"""Causes that no test can make in a kernel it shares, and the limits of the others."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import capture
from capture.analysis.base_chains import BaseChain
from capture.analysis.captured_pod import Capture, IngressRedirect, PodFacts
from capture.analysis.cause_text import CAUSE_TEXTS, cause, machine_remedy, remedy_without_record
from capture.analysis.causes import causes_of_connection, drop_cause
from capture.analysis.outcome import DNS, PROXY_INBOUND, PROXY_OUTBOUND
from capture.analysis.pod_causes import (
    can_stop_connection,
    causes_at_port,
    causes_of_pod,
    causes_of_proxy,
    default_route_causes,
    notes_on_proxy,
    unreached_app_notes,
)
from capture.analysis.rerouting import MarkRoute
from capture.analysis.trace import Step, Trace
from capture.backends.iptables.render import shown_rule
from capture.model.addresses import FAMILIES, address_text, parse_address
from capture.model.conventions import IPPROTO_TCP, IPPROTO_UDP
from capture.model.foreign import Translate
from capture.model.location import Location
from capture.model.packet import Packet
from capture.model.ruleset import (
    ALL_BITS,
    MANGLE,
    NAT,
    OUTPUT,
    Accept,
    Chain,
    Drop,
    Jump,
    Redirect,
    Return,
    Rule,
    Table,
    TransparentProxy,
    only,
)
from capture.netlink.interfaces import IFF_LOOPBACK, IFF_LOWER_UP, IFF_UP, Link
from capture.netlink.rtnetlink import AF_INET, AF_INET6
from capture.netlink.sock_diag import Listener
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.rules.foreign import foreign_verdict
from support.rules.traced import trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.analysis.captured_pod import Ports
    from capture.analysis.outcome import Outcome
    from capture.model.addresses import Family
    from capture.model.location import Cause

CAPTURE_PACKAGE = Path(capture.__file__).parent
TELL_CAUSES = (
    "analysis/causes",
    "analysis/pod_causes",
    "analysis/envoy_listeners",
    "operations/connection",
    "operations/diagnosis",
    "operations/exclusions",
    "operations/drift_causes",
    "system/pod_network",
)
FROM_DICTIONARIES = dict.fromkeys(("family", "other", "any_address", "bound", "arrive", "mode", "transparent"), "x")
"""Words that causes take from dictionaries."""
PROXY = 1337
PORTS: Ports = tuple(
    (outcome, family, port)
    for family in FAMILIES
    for outcome, port in ((PROXY_OUTBOUND, 15001), (PROXY_INBOUND, 15006))
)
CAPTURE = Capture(PORTS, (only(PROXY),), (only(PROXY),), is_transparent=False, families=FAMILIES)
IPV4_ONLY = CAPTURE.replace(ports=PORTS[:2], families=("ipv4",))
ETH0 = Link(2, "eth0", IFF_UP | IFF_LOWER_UP)
AT_INBOUND = "tcp port 15006"
FACTS = PodFacts((ETH0,), (parse_address("10.0.0.1"), parse_address("fd00::1")), (), {})


def listener(port: int, *, family: int = AF_INET, uid: int = PROXY, inode: int = 1, **more: bool) -> Listener:
    return Listener(IPPROTO_TCP, family, bytes(16 if family == AF_INET6 else 4), port, uid, inode=inode, **more)


def kinds(causes: Iterable[Cause]) -> list[str]:
    return [cause.kind for cause in causes]


@pytest.mark.parametrize(
    ("tracked", "found"), [(0, []), (900, []), (950, ["conntrack-nearly-full"]), (1000, ["conntrack-full"])]
)
def test_a_full_conntrack_table(tracked: int, found: list[str]) -> None:
    assert kinds(causes_of_pod(FACTS.replace(tracked=tracked, max_tracked=1000), CAPTURE)) == found
    assert kinds(causes_of_pod(FACTS.replace(tracked=tracked, max_tracked=0), CAPTURE)) == []
    assert kinds(causes_of_pod(FACTS.replace(tracked=tracked), CAPTURE)) == []
    assert kinds(causes_of_pod(FACTS.replace(max_tracked=1), CAPTURE)) == []
    (full,) = causes_of_pod(FACTS.replace(tracked=1, max_tracked=1), CAPTURE)
    assert full == cause("conntrack-full", where="net.netfilter.nf_conntrack_max", tracked=1, max_tracked=1)


@pytest.mark.parametrize(("name", "found"), [("eth0", ["interface-down"]), ("eth1", ["not-listening"])])
def test_packets_by_an_interface_that_is_down(name: str, found: list[str]) -> None:
    packet = Packet("tcp", parse_address("10.0.0.1"), 8080, source=parse_address("10.0.0.9"), in_interface=name)
    traced = trace(build_ruleset(CaptureConfig()), packet)
    down = FACTS.replace(links=(Link(2, "eth0", 0), Link(3, "eth1", IFF_UP)))
    assert kinds(causes_of_connection(traced, None, down, CAPTURE, shown_rule)) == found


@pytest.mark.parametrize(("name", "found"), [("eth0", []), ("net1", ["interface-missing"]), ("net+", [])])
def test_an_excluded_interface_that_does_not_exist_is_a_cause(name: str, found: list[str]) -> None:
    assert kinds(causes_of_pod(FACTS, CAPTURE.replace(excluded_interfaces=(name,)))) == found


def test_one_listener_for_both_families_serves_both() -> None:
    both = tuple(listener(port, family=AF_INET6, is_dual=True) for port in (15001, 15006))
    assert kinds(causes_of_proxy(FACTS.replace(listeners=both), CAPTURE)) == []
    only_ipv6 = tuple(each.replace(is_dual=False) for each in both)
    assert kinds(causes_of_proxy(FACTS.replace(listeners=only_ipv6), CAPTURE)) == ["not-listening"]


def test_a_proxy_on_other_ports_is_named_with_them() -> None:
    facts = FACTS.replace(listeners=(listener(15006), listener(15001), listener(8080, uid=1000)))
    expected = CAPTURE.replace(ports=(("proxy-outbound", "ipv4", 16001), ("proxy-inbound", "ipv4", 16006)))
    (cause,) = causes_at_port(facts, expected, "proxy-outbound", 16001, "ipv4")
    assert cause.message.endswith("; the proxy's user listens on 15001, 15006")
    assert "-p PORT -z PORT`" in cause.remedy


@pytest.mark.parametrize("ports", [(15006,), (15021, 15090), (15000, 15006)])
def test_a_proxy_that_has_opened_only_some_of_its_ports_needs_no_others(ports: tuple[int, ...]) -> None:
    facts = FACTS.replace(listeners=tuple(map(listener, ports)))
    (cause,) = causes_at_port(facts, CAPTURE, "proxy-outbound", 15001, "ipv4")
    assert cause.message.endswith(f"; the proxy runs, and listens on tcp {', '.join(map(str, ports))}")
    assert "kubectl logs" in cause.remedy
    assert "-p PORT" not in cause.remedy


def test_a_family_without_an_address_needs_no_listener() -> None:
    facts = FACTS.replace(addresses=(parse_address("10.0.0.1"),), listeners=(listener(15001), listener(15006)))
    assert kinds(causes_of_proxy(facts, CAPTURE)) == []


def test_a_pod_with_lo_alone_needs_a_listener_for_what_it_sends() -> None:
    facts = FACTS.replace(links=(), addresses=())
    assert set(kinds(causes_of_proxy(facts, CAPTURE))) == {"not-listening"}
    assert kinds(causes_of_proxy(facts.replace(listeners=(listener(15001),)), IPV4_ONLY)) == []


def test_a_proxy_of_the_right_group_may_have_another_user() -> None:
    facts = FACTS.replace(listeners=(listener(15001, uid=0, inode=7),))
    assert kinds(causes_at_port(facts, CAPTURE, "proxy-outbound", 15001, "ipv4")) == ["proxy-wrong-user"]
    of_group = facts.replace(gids_by_inode={7: PROXY})
    assert kinds(causes_at_port(of_group, CAPTURE, "proxy-outbound", 15001, "ipv4")) == []


def test_root_whose_group_is_out_of_sight_is_not_blamed_under_tproxy() -> None:
    facts = FACTS.replace(listeners=(listener(15001, uid=0), listener(15002, uid=2000)))
    transparent = CAPTURE.replace(is_transparent=True)
    assert kinds(causes_at_port(facts, transparent, "proxy-outbound", 15001, "ipv4")) == []
    (cause,) = causes_at_port(facts, transparent, "proxy-outbound", 15002, "ipv4")
    assert cause.kind == "proxy-wrong-user"
    assert cause.remedy == "Run the proxy as root, with group 1337 (runAsUser, runAsGroup)."


def test_a_transparent_proxy_of_another_group_is_one_fault_whatever_it_listens_on() -> None:
    both = (listener(15001, uid=0, inode=7), listener(15006, uid=0, inode=7, transparent=True))
    facts = FACTS.replace(addresses=FACTS.addresses[:1], listeners=both, gids_by_inode={7: 0})
    (fault,) = set(causes_of_proxy(facts, IPV4_ONLY.replace(is_transparent=True)))
    ports = "tcp port 15001 and tcp port 15006"
    what = f"what listens on {ports} runs with group 0, and TPROXY leaves out group 1337"
    assert (fault.where, fault.message.partition(":")[0]) == (ports, what)


def test_listeners_that_cannot_be_listed_are_not_blamed() -> None:
    assert kinds(causes_of_proxy(FACTS.replace(listeners=None), CAPTURE)) == []


def test_dns_needs_a_listener_of_udp() -> None:
    served = (listener(15001), listener(15006), Listener(IPPROTO_UDP, AF_INET, bytes(4), 15053, PROXY))
    assert kinds(causes_of_proxy(FACTS.replace(listeners=served), DNS_OF_IPV4)) == []
    assert kinds(causes_of_proxy(FACTS.replace(listeners=served[:2]), DNS_OF_IPV4)) == ["not-listening"]


# --- one connection ------------------------------------------------------------------------------

OUT = Packet("tcp", parse_address("192.0.2.1"), 443, uid=1000, gid=1000, out_interface="eth0")
IN = Packet("tcp", parse_address("10.0.0.1"), 8080, source=parse_address("10.0.0.9"), in_interface="eth0")
TO_POD = OUT.replace(destination=parse_address("10.0.0.1"), out_interface="lo")
LOOK_UP = OUT.replace(protocol="udp", port=53)
FOREIGN = Step(NAT, OUTPUT, 1, Rule(Accept()))
ENTRY = Step(NAT, OUTPUT, 2, Rule(Jump("ISTIO_OUTPUT")))
OWN = Step(NAT, "ISTIO_OUTPUT", 3, Rule(Return(), why="loops end"))
UNTRACKED = Step("raw", OUTPUT, 4, Rule(foreign_verdict("CT --notrack")))
DIVERTED = Step(MANGLE, "ISTIO_INBOUND", 5, Rule(Return()))
TO_SOCKET = Step("ip other", "x", 1, Rule(TransparentProxy(1, 1, ALL_BITS)))
MOVED = Translate(parse_address("10.0.0.9"), 81)
DNS_CAPTURE = CAPTURE.replace(ports=(*PORTS, (DNS, "ipv4", 15053)))
DNS_OF_IPV4 = IPV4_ONLY.replace(ports=(*PORTS[:2], (DNS, "ipv4", 15053)))
ETH0_DOWN = FACTS.replace(links=(Link(2, "eth0", 0),))
FOREIGN_DROPS, FOREIGN_REJECTS = (f"a foreign rule {what} the packet" for what in ("drops", "rejects"))
AT_FOREIGN, AT_OWN = Location(NAT, OUTPUT, 1), Location(NAT, "ISTIO_OUTPUT", 3)


def way(
    packet: Packet, outcome: Outcome, *path: Step, port: int = 0, to: Translate | None = None, by_policy: bool = False
) -> Trace:
    """Return a packet's way, on which the last rule decides, unless that is a policy."""
    step = path[-1] if path and not by_policy else None
    is_tracked = all(each.table != "raw" for each in path)
    return Trace(packet, outcome, port or packet.port, step, path, translated=to, is_tracked=is_tracked)


def found(traced: Trace, desired: Trace | None = None, capture: Capture = CAPTURE, facts: PodFacts = FACTS) -> Cause:
    (only_one,) = causes_of_connection(traced, desired, facts, capture, shown_rule)
    return only_one


REROUTED = MarkRoute("ipv4", 5, ALL_BITS, is_inverted=False, words="100: from all fwmark 0x5 blackhole", targets=())
DROPS = FOREIGN.replace(rule=Rule(Drop(), why="drop it"))
DROPS_PLAINLY = FOREIGN.replace(rule=Rule(Drop()))
REJECTS = FOREIGN.replace(rule=Rule(foreign_verdict("REJECT"), why="no"))
POLICY = BaseChain(
    "inet firewall", FAMILIES, "OUTPUT", 0, is_nat=False, contents=Table(MANGLE, (Chain("out", (), "DROP"),))
)


@pytest.mark.parametrize(
    ("traced", "expected"),
    [
        (way(OUT, "direct", FOREIGN), cause("foreign-rule", where=AT_FOREIGN)),
        (
            way(OUT, "direct", FOREIGN, to=MOVED, port=81),
            cause("nat-first", where=AT_FOREIGN, to="10.0.0.9 port 81"),
        ),
        (
            way(OUT, "direct", OWN, FOREIGN, to=MOVED, port=81),
            cause("nat-first", "behind", where=AT_FOREIGN, to="10.0.0.9 port 81"),
        ),
        (way(OUT, "direct", OWN, FOREIGN), cause("excluded", where=AT_OWN, reason=": loops end")),
        (way(OUT, "direct", ENTRY, FOREIGN), cause("excluded", "no rule")),
        (way(OUT, "direct", ENTRY, OWN, FOREIGN), cause("excluded", where=AT_OWN, reason=": loops end")),
        (way(OUT, "direct", DIVERTED, FOREIGN), cause("foreign-rule", where=AT_FOREIGN)),
        (
            way(OUT, "direct", UNTRACKED, OWN),
            cause(
                "foreign-rule",
                "untracked",
                where=Location("raw", OUTPUT, 4),
                what="nat rules see tracked connections only",
            ),
        ),
        (
            way(OUT, "direct", UNTRACKED.replace(chain="ISTIO_OUTPUT"), OWN),
            cause("excluded", where=AT_OWN, reason=": loops end"),
        ),
        (way(OUT, "direct", OWN), cause("excluded", where=AT_OWN, reason=": loops end")),
        (way(OUT, "direct", OWN.replace(rule=Rule(Return()))), cause("excluded", where=AT_OWN, reason="")),
        (way(TO_POD, "direct", OWN), cause("excluded", "over lo", where=AT_OWN, reason=": loops end")),
        (way(OUT, "direct", ENTRY), cause("excluded", where=Location(NAT, OUTPUT, 2), reason="")),
        (way(OUT, "direct", OWN, by_policy=True), cause("excluded", "no rule")),
        (way(OUT.replace(port=53), "direct", OWN), cause("excluded", where=AT_OWN, reason=": loops end")),
        (way(OUT.replace(protocol="udp"), "direct", OWN), cause("not-tcp", protocol="udp")),
        (way(IN.replace(protocol="udp", port=53), "direct", OWN), cause("not-tcp", protocol="udp")),
        (way(LOOK_UP, "direct", OWN), cause("dns-not-captured")),
        (way(OUT.replace(uid=PROXY), "direct", OWN), cause("proxy-user", uid=PROXY, gid=1000)),
        (way(OUT.replace(gid=PROXY), "direct", OWN), cause("proxy-user", uid=1000, gid=PROXY)),
        (
            way(OUT, "proxy-outbound", OWN.replace(table="ip nat2"), port=1),
            cause("second-set", "decides", where=Location("ip nat2", "ISTIO_OUTPUT", 3), port=1),
        ),
        (way(OUT, "redirected", OWN, port=1), cause("second-set", "decides", where=AT_OWN, port=1)),
        (way(OUT, "redirected", OWN, FOREIGN, port=1), cause("nat-first", "behind", where=AT_FOREIGN, to="port 1")),
        (way(OUT, "redirected", FOREIGN, port=1), cause("nat-first", where=AT_FOREIGN, to="port 1")),
        (
            way(IN, "redirected", TO_SOCKET, port=1),
            cause("foreign-rule", "transparent", where=TO_SOCKET.location, port=1),
        ),
        (
            way(OUT, "direct", OWN).replace(lost_reply=way(IN, "dropped", FOREIGN.replace(rule=Rule(Drop())))),
            cause("filtered", where=AT_FOREIGN, filter="a foreign rule drops its answers: -j DROP"),
        ),
        (way(OUT, "no-route"), cause("no-route", address="192.0.2.1", flag="")),
        (way(OUT, "dropped", DROPS), cause("filtered", where=AT_FOREIGN, filter=f"{FOREIGN_DROPS}: drop it")),
        (
            way(OUT, "dropped", DROPS_PLAINLY),
            cause("filtered", where=AT_FOREIGN, filter=f"{FOREIGN_DROPS}: -j DROP"),
        ),
        (way(OUT, "dropped", REJECTS), cause("filtered", where=AT_FOREIGN, filter=f"{FOREIGN_REJECTS}: no")),
        (way(OUT, "dropped", OWN), cause("excluded", "drop", where=AT_OWN, reason="loops end")),
        (
            way(OUT, "dropped", OWN.replace(rule=Rule(Drop()))),
            cause("excluded", "drop", where=AT_OWN, reason="by its settings"),
        ),
        *(
            (
                way(OUT, "dropped", step).replace(reroute=REROUTED, mark=5),
                cause("rerouted", where=AT_FOREIGN, mark=5, rule=REROUTED.words, words=words),
            )
            for step, words in ((DROPS, "drop it"), (DROPS_PLAINLY, "-j DROP"))
        ),
        (
            way(OUT, "dropped").replace(policy=POLICY),
            cause(
                "filtered",
                where=POLICY.location("out"),
                filter="no rule accepts the packet, and the chain's policy is DROP",
            ),
        ),
        (way(OUT, "dropped"), cause("filtered", filter="a foreign rule or policy drops the packet")),
    ],
)  # fmt: skip
def test_why_a_connection_does_not_come_to_the_proxy(traced: Trace, expected: Cause) -> None:
    assert found(traced) == expected


@pytest.mark.parametrize(
    ("traced", "desired", "expected"),
    [
        (way(OUT, "direct", FOREIGN), way(OUT, "direct", FOREIGN), cause("excluded", where=AT_FOREIGN, reason="")),
        (way(OUT, "direct", FOREIGN), way(OUT, "direct", OWN), cause("foreign-rule", where=AT_FOREIGN)),
        (way(OUT, "direct", FOREIGN), way(OUT, "direct"), cause("foreign-rule", where=AT_FOREIGN)),
        (way(OUT, "direct"), way(OUT, "direct", OWN), cause("excluded", "no rule")),
        *(
            (way(OUT, "direct"), way(OUT, outcome, OWN), cause("rule-missing", "any", outcome=f"{outcome} 443"))
            for outcome in ("proxy-outbound", "proxy-inbound", "dns")
        ),
        (
            way(OUT, "proxy-outbound", OWN, port=16001),
            way(OUT, "proxy-inbound", OWN, port=15006),
            cause("rule-missing", "any", outcome="proxy-inbound 15006"),
        ),
    ],
)  # fmt: skip
def test_the_outcome_of_the_recorded_rules_counts(traced: Trace, desired: Trace, expected: Cause) -> None:
    assert found(traced, desired) == expected


def test_look_ups_and_families_that_the_settings_leave_out() -> None:
    to_ipv6 = OUT.replace(destination=parse_address("2001:db8::1"))
    server = cause("dns-not-captured", "server", server="192.0.2.1")

    assert found(way(LOOK_UP, "direct", OWN), capture=DNS_CAPTURE) == server
    assert found(way(IN.replace(protocol="udp", port=53), "direct", OWN), capture=DNS_CAPTURE).kind == "not-tcp"
    assert found(way(LOOK_UP.replace(port=54), "direct", OWN), capture=DNS_CAPTURE).kind == "not-tcp"
    expected = cause("family-not-captured", where="IPv6", family="IPv6")
    assert found(way(to_ipv6, "direct", OWN), capture=IPV4_ONLY) == expected


@pytest.mark.parametrize(("packet", "kind"), [(IN, "excluded"), (OUT, "foreign-rule")])
def test_tproxy_has_met_inbound_packets_in_mangle(packet: Packet, kind: str) -> None:
    traced = way(packet, "direct", DIVERTED, FOREIGN)
    assert found(traced, capture=CAPTURE.replace(is_transparent=True)).kind == kind
    assert found(traced).kind == "foreign-rule"


TO_INBOUND = Step(NAT, "ISTIO_IN_REDIRECT", 1, Rule(Redirect(15006)))
TO_OUTBOUND = Step(NAT, "ISTIO_REDIRECT", 1, Rule(Redirect(15001)))


@pytest.mark.parametrize(
    ("traced", "others", "what"),
    [
        (way(IN, "dropped", TO_INBOUND, DROPS), [], "what goes to port 15006"),
        (way(OUT, "dropped", TO_OUTBOUND, DROPS), [], "what goes to port 15001"),
        (way(OUT, "dropped", TO_INBOUND, DROPS), [], "the packet"),  # the proxy calls its own pod
        (
            way(OUT, "dropped", TO_OUTBOUND, DROPS),
            [way(IN, "dropped", TO_INBOUND, DROPS.replace(family=family)) for family in ("ipv4", "ipv6", "ipv6")],
            "what goes to ports 15001 and 15006",
        ),
        (
            way(OUT, "dropped", TO_OUTBOUND, DROPS),
            [way(IN, "dropped", TO_INBOUND, DROPS.replace(position=9)), way(IN, "proxy-inbound", TO_INBOUND, DROPS)],
            "what goes to port 15001",
        ),
    ],
)
def test_a_filter_behind_the_redirect_names_the_redirected_port(traced: Trace, others: list[Trace], what: str) -> None:
    ports = what.partition("what goes to ")[2]
    expected = cause(
        "filtered", "redirected" if ports else "", where=AT_FOREIGN, filter=f"a foreign rule drops {what}: drop it",
        port=ports,
    )  # fmt: skip
    assert drop_cause(traced, shown_rule, others) == expected


BOUND = listener(15006).replace(address=bytes((10, 0, 0, 1)))


@pytest.mark.parametrize(
    ("traced", "served", "expected"),
    [
        (way(IN, "proxy-inbound", OWN, port=15006), BOUND, None),
        (
            way(TO_POD, "proxy-inbound", OWN, port=15006),
            BOUND,
            cause("not-listening", "address", where="tcp port 15006", port="tcp port 15006", kind="inbound",
                  bound="10.0.0.1", arrive="127.0.0.1", any_address="0.0.0.0"),
        ),
        (
            way(OUT, "proxy-outbound", OWN, port=15001),
            BOUND.replace(port=15001),
            cause("not-listening", "address", where="tcp port 15001", port="tcp port 15001", kind="outbound",
                  bound="10.0.0.1", arrive="127.0.0.1", any_address="0.0.0.0"),
        ),
        (
            way(LOOK_UP, "dns", OWN, port=15053),
            listener(15053, uid=0),
            cause("not-listening", where="udp port 15053", port="udp port 15053", kind="DNS"),
        ),
        (
            way(OUT, "proxy-outbound", OWN, port=15001),
            listener(15001, family=AF_INET6),
            cause("not-listening", "family", where="tcp port 15001", port="tcp port 15001", other="IPv6", family="IPv4",
                  any_address="0.0.0.0", alternative=""),
        ),
        (
            way(OUT, "proxy-outbound", OWN, port=15001),
            listener(15001, family=AF_INET6).replace(address=bytes((*[0] * 15, 1))),
            cause("not-listening", "address", where="tcp port 15001", port="tcp port 15001", kind="outbound",
                  bound="::1", arrive="127.0.0.1", any_address="0.0.0.0"),
        ),
        (
            way(OUT, "proxy-outbound", OWN, port=15001),
            listener(15001).replace(interface=2),
            cause("not-listening", "interface", where="tcp port 15001", port="tcp port 15001", kind="outbound",
                  bound="eth0", arrive="127.0.0.1", any_address="0.0.0.0"),
        ),
        (way(OUT, "proxy-outbound", OWN, port=15001), listener(15001).replace(interface=1), None),
        (way(IN, "proxy-inbound", OWN, port=15006), listener(15006).replace(interface=2), None),
        (
            way(LOOK_UP, "dns", OWN, port=15053),
            listener(15001),
            cause("not-listening", "DNS", where="udp port 15053", port="udp port 15053", others="15001"),
        ),
        (
            way(IN, "proxy-inbound", OWN, port=15006),
            listener(15006).replace(waiting=4097, backlog=4096),
            cause("not-listening", "full", where="tcp port 15006", port="tcp port 15006", waiting="4097 connections"),
        ),
        (way(IN, "proxy-inbound", OWN, port=15006), listener(15006).replace(waiting=4096, backlog=4096), None),
        (
            way(IN, "proxy-inbound", OWN, port=15006),
            listener(15006).replace(waiting=1),
            cause("not-listening", "full", where="tcp port 15006", port="tcp port 15006", waiting="1 connection"),
        ),
        (
            way(IN, "proxy-inbound", OWN, port=15006),
            listener(15006, transparent=True),
            cause("proxy-mode", where=AT_INBOUND, port=15006, mode="REDIRECT", other="TPROXY", kind="transparent"),
        ),
        (way(OUT, "proxy-outbound", OWN, port=15001), listener(15001, transparent=True), None),
        (
            way(OUT, "proxy-outbound", OWN, port=15001),
            listener(15001, uid=0),
            cause("proxy-wrong-user", where="tcp port 15001", port="tcp port 15001", uid=0, expected="1337"),
        ),
    ],
)  # fmt: skip
def test_the_listener_where_the_packet_arrives_decides(traced: Trace, served: Listener, expected: Cause | None) -> None:
    causes = list(causes_of_connection(traced, None, FACTS.replace(listeners=(served,)), CAPTURE, shown_rule))
    assert causes == ([expected] if expected else [])


def test_the_proxy_may_take_inbound_connections_at_the_address_of_the_pod() -> None:
    facts = FACTS.replace(listeners=(BOUND, listener(15001)))
    assert list(causes_of_proxy(facts, IPV4_ONLY)) == []


def test_one_of_two_sockets_that_share_a_port_is_full() -> None:
    port, full = "tcp port 15006", listener(15006).replace(waiting=2, backlog=1)
    shared = FACTS.replace(listeners=(listener(15006), full))
    causes = list(causes_of_connection(way(IN, "proxy-inbound", OWN, port=15006), None, shared, CAPTURE, shown_rule))
    assert causes == [
        cause("not-listening", "some full", where=port, port=port, full=1, sockets=2, waiting="2 connections")
    ]


def test_the_port_of_the_agent_is_one_of_udp() -> None:
    agent = Listener(IPPROTO_UDP, AF_INET, bytes(4), 15053, 7)
    (fault,) = causes_of_proxy(FACTS.replace(listeners=(agent,)), CAPTURE.replace(ports=((DNS, "ipv4", 15053),)))
    assert (fault.kind, fault.where) == ("proxy-wrong-user", "udp port 15053")


def test_the_process_behind_a_socket_is_stopped() -> None:
    port, served = "tcp port 15006", listener(15006).replace(inode=3)
    facts = FACTS.replace(listeners=(served,), stopped_by_inode=((3, "7"),))
    causes = list(causes_of_connection(way(IN, "proxy-inbound", OWN, port=15006), None, facts, CAPTURE, shown_rule))
    assert causes == [cause("not-listening", "stopped", where=port, port=port, process="7")]


def test_a_listener_of_ipv4_alone() -> None:
    where = "tcp port 15001"
    alone = ", or capture IPv4 alone: `capture apply --recorded --ip-families ipv4`"
    words = {"other": "IPv4", "family": "IPv6", "any_address": "::", "alternative": alone}
    expected = cause("not-listening", "family", where=where, port=where, **words)
    facts = FACTS.replace(listeners=(listener(15001),))
    assert list(causes_at_port(facts, CAPTURE, "proxy-outbound", 15001, "ipv6")) == [expected]


@pytest.mark.parametrize(
    ("traced", "bound", "found"),
    [
        (way(IN, "proxy-inbound", OWN, port=15006), "127.0.0.1", True),
        (way(IN, "proxy-inbound", OWN, port=15006), "10.0.0.1", False),
        (way(IN, "proxy-inbound", OWN, port=15006), "0.0.0.0", False),
        (way(OUT, "proxy-outbound", OWN, port=15001), "127.0.0.1", False),
    ],
)
def test_an_app_that_listens_on_loopback_alone_is_a_note(traced: Trace, bound: str, *, found: bool) -> None:
    app = listener(traced.packet.port, uid=1000).replace(address=parse_address(bound).first.to_bytes(4, "big"))
    expected = cause(
        "not-listening", "app", where=f"port {traced.packet.port}", port=traced.packet.port, bound=bound,
        arrive=address_text("ipv4", traced.packet.destination.first),
    )  # fmt: skip
    other = listener(9999, uid=1000)
    assert list(unreached_app_notes(traced, FACTS.replace(listeners=(app, other)))) == [expected] * found


def test_an_app_that_may_run_as_the_proxys_user_is_a_note() -> None:
    served = (listener(15001), listener(15090), listener(9000, uid=2), listener(8080), listener(80))
    (note,) = notes_on_proxy(FACTS.replace(listeners=served), CAPTURE)
    assert note == cause("proxy-user", "listener", where="user 1337", uid=1337, ports="80, 8080")
    assert not list(notes_on_proxy(FACTS.replace(listeners=served[:3]), DNS_CAPTURE))
    (by_group,) = notes_on_proxy(FACTS.replace(listeners=served[:3], gids_by_inode={1: PROXY}), CAPTURE)
    assert by_group == cause("proxy-user", "group", where="port 9000", gid=PROXY, uid=2, port=9000)
    client = Listener(IPPROTO_UDP, AF_INET, bytes(4), 43210, 2, inode=1)
    assert not list(notes_on_proxy(FACTS.replace(listeners=(client,), gids_by_inode={1: PROXY}), CAPTURE))


def test_one_port_for_both_directions_is_a_note() -> None:
    one_port = CAPTURE.replace(ports=tuple((outcome, family, 15001) for outcome, family, _ in PORTS))
    assert list(notes_on_proxy(FACTS, one_port)) == [
        cause("proxy-mode", "one port", where="tcp port 15001", port=15001)
    ]


def test_every_user_and_group_of_the_proxy_is_named() -> None:
    users = tuple(map(only, (1337, 1338)))
    facts, capture = FACTS.replace(listeners=(listener(15001, uid=2),)), CAPTURE.replace(uids=users, gids=users)
    where = "tcp port 15001"
    words = {"port": where, "uid": 2, "expected": "1337,1338", "group": "another group", "groups": "1337,1338"}
    for is_transparent, case in ((False, ""), (True, "TPROXY")):
        causes = causes_at_port(facts, capture.replace(is_transparent=is_transparent), "proxy-outbound", 15001, "ipv4")
        assert list(causes) == [cause("proxy-wrong-user", case, where=where, **words)]


def test_a_proxy_that_is_not_transparent_under_tproxy() -> None:
    facts = FACTS.replace(listeners=(listener(15006),))
    expected = cause(
        "proxy-mode", where="tcp port 15006", port=15006, mode="TPROXY", other="REDIRECT", kind="not transparent"
    )
    causes = causes_at_port(facts, CAPTURE.replace(is_transparent=True), "proxy-inbound", 15006, "ipv4")
    assert list(causes) == [expected]


# --- what is wrong with the pod, and whom it stops -----------------------------------------------

LO_DOWN, MISSING = cause("lo-down", where="lo"), cause("interface-missing", where="net1", name="net1", present="eth0")
FILTERED = cause("ingress-filter", where="eth0", name="eth0", target="tap0")


def test_faults_of_the_whole_pod() -> None:
    links = (Link(1, "lo", IFF_LOOPBACK), Link(2, "eth0", 0))
    facts = FACTS.replace(links=links, ingress_redirects=(IngressRedirect("eth0", "tap0"),))

    assert list(causes_of_pod(facts, CAPTURE)) == [LO_DOWN, FILTERED]
    up = facts.replace(links=(links[0].replace(flags=IFF_LOOPBACK | IFF_UP), ETH0), ingress_redirects=())
    assert list(causes_of_pod(up, CAPTURE)) == []
    without_net1 = CAPTURE.replace(excluded_interfaces=("net1",))
    assert list(causes_of_pod(FACTS.replace(links=(ETH0,)), without_net1)) == [MISSING]
    (nothing_else,) = causes_of_pod(FACTS.replace(links=()), without_net1)
    assert nothing_else == cause("interface-missing", where="net1", name="net1", present="none")


@pytest.mark.parametrize(
    ("cause_of_pod", "traced", "is_stopped"),
    [
        (LO_DOWN, None, True),
        (MISSING, None, False),
        (LO_DOWN, way(OUT, "direct"), False),
        (LO_DOWN, way(OUT, "proxy-outbound"), True),
        (LO_DOWN, way(IN, "proxy-inbound"), True),
        (LO_DOWN, way(IN, "direct"), False),
        (LO_DOWN, way(TO_POD, "direct"), True),
        (MISSING, way(OUT, "direct"), False),
        (MISSING, way(OUT.replace(out_interface="net1"), "direct"), True),
        (MISSING, way(IN.replace(in_interface="net1"), "direct"), True),
        (FILTERED, way(IN, "direct"), True),
        (FILTERED, way(OUT, "direct"), False),
        (cause("conntrack-full", tracked=1, max_tracked=1), way(OUT, "direct"), True),
        (cause("conntrack-nearly-full", tracked=95, max_tracked=100), way(OUT, "direct"), False),
    ],
)  # fmt: skip
def test_causes_of_the_pod_stop_the_connections_that_meet_them(
    cause_of_pod: Cause, traced: Trace | None, *, is_stopped: bool
) -> None:
    assert can_stop_connection(cause_of_pod, traced) is is_stopped


@pytest.mark.parametrize(
    ("links", "found"),
    [
        ((ETH0,), [cause("no-route", "address")]),
        ((ETH0.replace(flags=0),), []),
        ((Link(1, "lo", IFF_LOOPBACK | IFF_UP),), []),
    ],
)
def test_a_pod_with_an_interface_has_an_address(links: tuple[Link, ...], found: list[Cause]) -> None:
    assert list(default_route_causes(FACTS.replace(links=links, addresses=()), CAPTURE)) == found


IPV4_ROUTE, IPV6_ROUTE = (
    cause("no-route", "default", flag=flag, family=family) for flag, family in (("", "IPv4"), ("-6 ", "IPv6"))
)


@pytest.mark.parametrize(
    ("families_without_route", "addresses", "families", "expected"),
    [
        ((), ("10.0.0.1", "fd00::1"), ("ipv4", "ipv6"), None),
        (("ipv4",), ("10.0.0.1", "fd00::1"), ("ipv4", "ipv6"), IPV4_ROUTE),
        (("ipv6",), ("10.0.0.1", "fd00::1"), ("ipv4", "ipv6"), None),
        (("ipv4", "ipv6"), ("10.0.0.1", "fd00::1"), ("ipv4", "ipv6"), IPV4_ROUTE),
        (("ipv6",), ("fd00::1",), ("ipv4", "ipv6"), IPV6_ROUTE),
        (("ipv4",), ("10.0.0.1",), ("ipv6",), None),
    ],
)  # fmt: skip
def test_a_default_route_is_missing(
    families_without_route: tuple[Family, ...],
    addresses: tuple[str, ...],
    families: tuple[Family, ...],
    expected: Cause | None,
) -> None:
    facts = FACTS.replace(families_without_route=families_without_route, addresses=tuple(map(parse_address, addresses)))
    assert list(default_route_causes(facts, CAPTURE.replace(families=families))) == ([expected] if expected else [])


def test_routes_go_with_their_interface() -> None:
    down = cause("interface-down", where="eth0", name="eth0")
    assert found(way(OUT, "no-route"), facts=ETH0_DOWN) == down
    assert found(way(IN, "direct", FOREIGN), facts=ETH0_DOWN) == down
    assert found(way(OUT, "direct", FOREIGN), facts=ETH0_DOWN).kind == "foreign-rule"
    lo, tunnel = Link(1, "lo", IFF_LOOPBACK), Link(3, "tunl0", 0)
    net1 = FACTS.replace(links=(lo, tunnel, Link(2, "net1", IFF_UP)))
    assert found(way(OUT, "no-route"), facts=net1).kind == "no-route"
    all_down = FACTS.replace(links=(lo, tunnel, Link(2, "net1", 0)))
    assert found(way(OUT, "no-route"), facts=all_down).where == "tunl0"
    usual_down = FACTS.replace(links=(tunnel, Link(2, "eth0", 0), Link(3, "net1", IFF_UP)))
    assert found(way(OUT, "no-route"), facts=usual_down).where == "eth0"
    assert found(way(OUT, "no-route"), facts=FACTS.replace(families_without_route=("ipv4",))) == IPV4_ROUTE


def test_a_pod_of_a_family_that_is_not_captured() -> None:
    facts = FACTS.replace(addresses=(parse_address("fd00::1"),), listeners=())
    assert list(causes_of_proxy(facts, IPV4_ONLY)) == [cause("family-not-captured", "pod", where="IPv6", family="IPv6")]


def test_the_proxy_of_a_pod_listens_on_each_port() -> None:
    causes = causes_of_proxy(FACTS.replace(listeners=()), DNS_OF_IPV4)
    ports = "tcp port 15001, tcp port 15006 and udp port 15053"
    assert list(causes) == [cause("not-listening", where=ports, port=ports, kind="outbound, inbound and DNS")]


def test_a_proxy_on_loopback_alone_is_one_fault_with_all_that_it_misses() -> None:
    at_loopback = tuple(listener(port).replace(address=bytes((127, 0, 0, 1))) for port in (15001, 15006))
    ports = "tcp port 15006 and tcp port 15001"
    assert list(causes_of_proxy(FACTS.replace(listeners=at_loopback), CAPTURE)) == [
        cause("not-listening", "address", where=ports, port=ports, kind="inbound and outbound", bound="127.0.0.1",
              arrive="10.0.0.1, ::1 and fd00::1", any_address="0.0.0.0 and ::"),
    ]  # fmt: skip


def test_every_text_is_used_with_the_words_that_it_needs() -> None:
    """A word that is misspelt would show in the pod that is broken, and nowhere else."""
    sources = [(CAPTURE_PACKAGE / f"{name}.py").read_text() for name in TELL_CAUSES]
    names = {name for kind_and_case in CAUSE_TEXTS for name in kind_and_case}
    assert [name for name in names if not any(f'"{name}"' in source for source in sources)] == []
    for call in (each for source in sources for each in ast.walk(ast.parse(source))):
        match call:
            case ast.Call(func=ast.Name(id="cause"), args=[*arguments], keywords=words):
                filled: dict[str, Any] = FROM_DICTIONARIES | {
                    word.arg: 1 for word in words if word.arg not in (None, "where")
                }
                values = [each.value for each in arguments if isinstance(each, ast.Constant)]
                if len(values) == len(arguments):
                    assert "{" not in cause(*map(str, values), **filled).message


@pytest.mark.parametrize(
    ("kind", "case", "word"),
    [
        *(("filtered", case, "filter") for case in ("", "over lo", "redirected")), ("unjudged", "doubt", "doubt"),
        *((kind, case, "message") for kind, case in (
            ("route-missing", ""), ("rule-missing", "address"), ("rule-missing", "family"))),
        ("family-not-captured", "note", "note"),
    ],
)  # fmt: skip
def test_what_is_known_is_told_as_it_is(kind: str, case: str, word: str) -> None:
    text = "a foreign rule drops the packet: -j DROP"
    words: dict[str, Any] = {"port": 80, "consequence": "nothing", word: text}
    assert cause(kind, case, **words).message == text


def test_remedies_fit_a_machine_and_a_namespace_without_a_record() -> None:
    remedy = "Run `capture apply --recorded`, or recreate the pod."
    assert machine_remedy(remedy) == "Run `capture apply --recorded --allow-host`, or recreate the pod."
    assert remedy_without_record(remedy) == "Run `capture apply` with the pod's settings, or recreate the pod."
    change = "Run `capture apply --recorded --ip-families both`."
    assert machine_remedy(change) == "Run `capture apply --recorded --ip-families both --allow-host`."
    assert remedy_without_record(change) == "Run `capture apply` with the pod's settings and --ip-families both."
    with_remedy = cause("no-record", "no jump", what="", remedy="Recreate the pod.")
    assert with_remedy.remedy == "Recreate the pod."
