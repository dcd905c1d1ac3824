"""One table of rules and how iptables-save prints them; both directions and every driver are tested with it.

Texts are those of iptables 1.8.9, both variants (`iptables -A ...; iptables-save`).
"""

import dataclasses

from capture.model.addresses import IPV4, IPV6, Family, Network, parse_network
from capture.model.ruleset import (
    MANGLE,
    NAT,
    RAW,
    Accept,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    DestinationPort,
    Drop,
    Goto,
    InInterface,
    Jump,
    Log,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    Rule,
    SaveMark,
    SetMark,
    SetZone,
    Source,
    SourcePort,
    Span,
    TableName,
    TransparentProxy,
    UnknownMatch,
    UnknownVerdict,
    only,
)

TCP = Protocol("tcp")
UDP = Protocol("udp")
TO_CHAIN = "ISTIO_REDIRECT"
"""A chain that exists in each table of the tests."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A rule of one family, what is printed after ``-A CHAIN``, and a table that takes it."""

    name: str
    rule: Rule
    text: str
    table: TableName = NAT

    @property
    def is_foreign(self) -> bool:
        return isinstance(self.rule.verdict, UnknownVerdict) or any(
            isinstance(match, UnknownMatch) for match in self.rule.matches
        )


def networks(*texts: str) -> tuple[Network, ...]:
    """Return networks by their texts."""
    return tuple(parse_network(text) for text in texts)


def _case(
    name: str, rule: Rule, text: str, table: TableName = NAT, families: tuple[Family, ...] = (IPV4, IPV6)
) -> list[Case]:
    return [Case(f"{name}-{family}", rule.replace(family=family), text, table) for family in families]


def _of(family: Family, name: str, rule: Rule, text: str, table: TableName = NAT) -> list[Case]:
    return _case(name, rule, text, table, (family,))


MATCHES: list[Case] = [
    *_case("protocol-tcp", Rule(Return(), (TCP,)), "-p tcp -j RETURN"),
    *_case("protocol-udp", Rule(Return(), (UDP,)), "-p udp -j RETURN"),
    *_of(IPV4, "source", Rule(Return(), (Source(networks("10.1.0.0/16")),)), "-s 10.1.0.0/16 -j RETURN"),
    *_of(IPV6, "source", Rule(Return(), (Source(networks("fd00:1::/32")),)), "-s fd00:1::/32 -j RETURN"),
    *_of(
        IPV4,
        "source-not-several",
        Rule(Return(), (Source(networks("10.0.0.0/8", "172.16.0.0/12"), negated=True),)),
        "! -s 10.0.0.0/8 -m iprange ! --src-range 172.16.0.0-172.31.255.255 -j RETURN",
    ),
    *_of(
        IPV4,
        "destination-not",
        Rule(Return(), (Destination(networks("127.0.0.1"), negated=True),)),
        "! -d 127.0.0.1/32 -j RETURN",
    ),
    *_of(
        IPV6, "destination-not", Rule(Return(), (Destination(networks("::1"), negated=True),)), "! -d ::1/128 -j RETURN"
    ),
    *_of(
        IPV6,
        "destination-not-several",
        Rule(Return(), (Destination(networks("fd00::/16", "fd02::/16", "fe80::/10"), negated=True),)),
        "! -d fd00::/16 -m iprange ! --dst-range fd02::-fd02:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        " -m iprange ! --dst-range fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff -j RETURN",
    ),
    *_case("in-interface", Rule(Return(), (InInterface("eth1"),)), "-i eth1 -j RETURN"),
    *_case("in-interfaces", Rule(Return(), (InInterface("tap+"),)), "-i tap+ -j RETURN"),
    *_case("in-interface-not", Rule(Return(), (InInterface("eth+", negated=True),)), "! -i eth+ -j RETURN"),
    *_case("in-longest-interface", Rule(Return(), (InInterface("fifteen-letters"),)), "-i fifteen-letters -j RETURN"),
    *_case("out-interface", Rule(Return(), (OutInterface("lo"),)), "-o lo -j RETURN"),
    *_case("out-interfaces-not", Rule(Return(), (OutInterface("net+", negated=True),)), "! -o net+ -j RETURN"),
    *_case("sport", Rule(Return(), (UDP, SourcePort((only(53),)))), "-p udp -m udp --sport 53 -j RETURN"),
    *_case(
        "sport-range-not",
        Rule(Return(), (TCP, SourcePort((Span(1024, 65535),), negated=True))),
        "-p tcp -m tcp ! --sport 1024:65535 -j RETURN",
    ),
    *_case("dport", Rule(Return(), (TCP, DestinationPort((only(15008),)))), "-p tcp -m tcp --dport 15008 -j RETURN"),
    *_case(
        "dport-range",
        Rule(Return(), (TCP, DestinationPort((Span(8000, 8100),)))),
        "-p tcp -m tcp --dport 8000:8100 -j RETURN",
    ),
    *_case(
        "dport-not",
        Rule(Return(), (TCP, DestinationPort((only(53),), negated=True))),
        "-p tcp -m tcp ! --dport 53 -j RETURN",
    ),
    *_case(
        "dports",
        Rule(Return(), (TCP, DestinationPort((only(80), Span(8000, 8100))))),
        "-p tcp -m multiport --dports 80,8000:8100 -j RETURN",
    ),
    *_case(
        "dports-not",
        Rule(Return(), (TCP, DestinationPort((only(53), only(15008)), negated=True))),
        "-p tcp -m multiport ! --dports 53,15008 -j RETURN",
    ),
    *_case(
        "sports-not",
        Rule(Return(), (UDP, SourcePort((only(53), only(5353)), negated=True))),
        "-p udp -m multiport ! --sports 53,5353 -j RETURN",
    ),
    *_case(
        "more-ports-not-than-one-multiport-takes",
        Rule(Return(), (TCP, DestinationPort((Span(1, 2), *(only(port) for port in range(10, 40, 2))), negated=True))),
        "-p tcp -m multiport ! --dports 1:2,10,12,14,16,18,20,22,24,26,28,30,32,34"
        " -m multiport ! --dports 36,38 -j RETURN",
    ),
    *_case(
        "sport-and-dports",
        Rule(Return(), (TCP, DestinationPort((only(1), only(2)), negated=True), SourcePort((only(7),)))),
        "-p tcp -m tcp --sport 7 -m multiport ! --dports 1,2 -j RETURN",
    ),
    *_case(
        "sport-and-dport",
        Rule(Return(), (TCP, SourcePort((only(7),), negated=True), DestinationPort((Span(1, 9),)))),
        "-p tcp -m tcp ! --sport 7 --dport 1:9 -j RETURN",
    ),
    *_case("uid", Rule(Return(), (OwnerUid((only(1337),)),)), "-m owner --uid-owner 1337 -j RETURN"),
    *_case("uid-not", Rule(Return(), (OwnerUid((only(0),), negated=True),)), "-m owner ! --uid-owner 0 -j RETURN"),
    *_case("uids", Rule(Return(), (OwnerUid((Span(1000, 2000),)),)), "-m owner --uid-owner 1000-2000 -j RETURN"),
    *_case(
        "highest-uid", Rule(Return(), (OwnerUid((only(4294967294),)),)), "-m owner --uid-owner 4294967294 -j RETURN"
    ),
    *_case("gid", Rule(Return(), (OwnerGid((only(1337),)),)), "-m owner --gid-owner 1337 -j RETURN"),
    *_case(
        "gids-not",
        Rule(Return(), (OwnerGid((only(3), Span(5, 9)), negated=True),)),
        "-m owner ! --gid-owner 3 -m owner ! --gid-owner 5-9 -j RETURN",
    ),
    *_case(
        "uid-and-gid",
        Rule(Return(), (OwnerUid((only(1),)), OwnerGid((only(2),), negated=True))),
        "-m owner --uid-owner 1 -m owner ! --gid-owner 2 -j RETURN",
    ),
    *_case("mark", Rule(Return(), (Mark(1337),)), "-m mark --mark 0x539 -j RETURN"),
    *_case("no-mark", Rule(Return(), (Mark(0),)), "-m mark --mark 0x0 -j RETURN"),
    *_case("mark-not", Rule(Return(), (Mark(1338, negated=True),)), "-m mark ! --mark 0x53a -j RETURN"),
    *_case("mark-masked", Rule(Return(), (Mark(0x5, 0xFF),)), "-m mark --mark 0x5/0xff -j RETURN"),
    *_case("connection-mark", Rule(Return(), (TCP, ConnectionMark(1337))), "-p tcp -m connmark --mark 0x539 -j RETURN"),
    *_case(
        "connection-mark-not-masked",
        Rule(Return(), (ConnectionMark(0x100, 0xF00, negated=True),)),
        "-m connmark ! --mark 0x100/0xf00 -j RETURN",
    ),
    *_case(
        "connection-state",
        Rule(Return(), (ConnectionState(("RELATED", "ESTABLISHED")),)),
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    ),
    *_case(
        "connection-state-not",
        Rule(Return(), (ConnectionState(("NEW", "UNTRACKED"), negated=True),)),
        "-m conntrack ! --ctstate NEW,UNTRACKED -j RETURN",
    ),
    *_case(
        "connection-invalid",
        Rule(Return(), (ConnectionState(("INVALID",)),)),
        "-m conntrack --ctstate INVALID -j RETURN",
    ),
    *_of(
        IPV4,
        "everything-together",
        Rule(
            Jump(TO_CHAIN),
            (
                Source(networks("10.0.0.0/8"), negated=True),
                Destination(networks("192.168.1.1")),
                OutInterface("lo"),
                TCP,
                SourcePort((Span(1, 1024),)),
                DestinationPort((only(53), only(15008)), negated=True),
                OwnerUid((only(3),)),
                Mark(1),
                ConnectionMark(2),
                ConnectionState(("NEW",)),
            ),
            why='the proxy\'s "calls" to its own pod \\ back',
        ),
        "! -s 10.0.0.0/8 -d 192.168.1.1/32 -o lo -p tcp -m tcp --sport 1:1024 -m multiport ! --dports 53,15008"
        " -m owner --uid-owner 3 -m mark --mark 0x1 -m connmark --mark 0x2 -m conntrack --ctstate NEW"
        ' -m comment --comment "the proxy\\\'s \\"calls\\" to its own pod \\\\ back" -j ISTIO_REDIRECT',
    ),
    *_case(
        "comment-of-one-word",
        Rule(Return(), (TCP,), why="no-quotes_needed"),
        "-p tcp -m comment --comment no-quotes_needed -j RETURN",
    ),
    *_case("comment-like-an-option", Rule(Return(), (TCP,), why="-j"), "-p tcp -m comment --comment -j -j RETURN"),
    *_case(
        "comment-of-other-letters",
        Rule(Return(), (), why="größer als 日本語"),
        '-m comment --comment "größer als 日本語" -j RETURN',
    ),
    *_case("longest-comment", Rule(Return(), (), why="x" * 255), f"-m comment --comment {'x' * 255} -j RETURN"),
]

VERDICTS: list[Case] = [
    *_case("jump", Rule(Jump(TO_CHAIN), (TCP,)), "-p tcp -j ISTIO_REDIRECT"),
    *_case("return", Rule(Return()), "-j RETURN"),
    *_case("accept", Rule(Accept()), "-j ACCEPT", MANGLE),
    *_case("drop", Rule(Drop()), "-j DROP", MANGLE),
    *_case("redirect", Rule(Redirect(15001), (TCP,)), "-p tcp -j REDIRECT --to-ports 15001"),
    *_of(
        IPV4,
        "tproxy",
        Rule(TransparentProxy(15006, 1337), (TCP,)),
        "-p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
        MANGLE,
    ),
    *_of(
        IPV6,
        "tproxy-masked",
        Rule(TransparentProxy(15006, 1, 0xF), (UDP,)),
        "-p udp -j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x1/0xf",
        MANGLE,
    ),
    *_case("set-mark", Rule(SetMark(1338)), "-j MARK --set-xmark 0x53a/0xffffffff", MANGLE),
    *_case("set-mark-masked", Rule(SetMark(0, 0x10)), "-j MARK --set-xmark 0x0/0x10", MANGLE),
    *_case(
        "save-mark",
        Rule(SaveMark(), (TCP, Mark(1337))),
        "-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        MANGLE,
    ),
    *_case(
        "restore-mark",
        Rule(RestoreMark()),
        "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        MANGLE,
    ),
    *_case("zone", Rule(SetZone(2), (UDP,)), "-p udp -j CT --zone 2", RAW),
    *_case("no-zone", Rule(SetZone(0)), "-j CT", RAW),
    *_case("log", Rule(Log("ISTIO_INBOUND "), (TCP,)), '-p tcp -j LOG --log-prefix "ISTIO_INBOUND "'),
    *_case("log-of-one-word", Rule(Log("in-")), "-j LOG --log-prefix in-"),
    *_case("log-without-prefix", Rule(Log("")), "-j LOG"),
    *_case("continue", Rule(Continue(), (TCP,)), "-p tcp"),
    *_case("continue-always", Rule(Continue()), ""),
]

FOREIGN: list[Case] = [
    *_of(IPV4, "icmp", Rule(Accept(), (UnknownMatch("-p icmp"),)), "-p icmp -j ACCEPT"),
    *_of(IPV4, "not-tcp", Rule(Return(), (UnknownMatch("! -p tcp"),)), "! -p tcp -j RETURN"),
    *_of(IPV4, "fragments", Rule(Return(), (UnknownMatch("-f"),)), "-f -j RETURN"),
    *_of(IPV4, "no-fragments", Rule(Return(), (UnknownMatch("! -f"),)), "! -f -j RETURN"),
    *_case(
        "statistic",
        Rule(Return(), (UnknownMatch("-m statistic --mode random --probability 0.50000000000"),)),
        "-m statistic --mode random --probability 0.50000000000 -j RETURN",
    ),
    *_case(
        "string",
        Rule(Return(), (UnknownMatch('-m string --string "GET / \\"x" --algo bm --to 65535'),)),
        '-m string --string "GET / \\"x" --algo bm --to 65535 -j RETURN',
    ),
    *_case(
        "flags",
        Rule(Return(), (TCP, UnknownMatch("-m tcp --tcp-flags SYN,RST SYN"))),
        "-p tcp -m tcp --tcp-flags SYN,RST SYN -j RETURN",
    ),
    *_case(
        "socket-exists",
        Rule(Return(), (UnknownMatch("-m owner --socket-exists"),)),
        "-m owner --socket-exists -j RETURN",
    ),
    *_of(
        IPV4,
        "no-network",
        Rule(Return(), (UnknownMatch("-d 10.0.0.1/255.0.0.255"),)),
        "-d 10.0.0.1/255.0.0.255 -j RETURN",
    ),
    *_of(
        IPV4,
        "range-that-is-no-network",
        Rule(Return(), (UnknownMatch("-m iprange --dst-range 10.0.0.1-10.0.0.3"),)),
        "-m iprange --dst-range 10.0.0.1-10.0.0.3 -j RETURN",
    ),
    *_case(
        "original-destination",
        Rule(Return(), (UnknownMatch("-m conntrack --ctstate SNAT"),)),
        "-m conntrack --ctstate SNAT -j RETURN",
    ),
    *_case("masquerade", Rule(UnknownVerdict("MASQUERADE"), (TCP,)), "-p tcp -j MASQUERADE"),
    *_case(
        "redirect-to-several",
        Rule(UnknownVerdict("REDIRECT --to-ports 1-9"), (TCP,)),
        "-p tcp -j REDIRECT --to-ports 1-9",
    ),
    *_case("flip-marks", Rule(UnknownVerdict("MARK --set-xmark 0x5/0x0")), "-j MARK --set-xmark 0x5/0x0", MANGLE),
    *_case(
        "save-part-of-mark",
        Rule(UnknownVerdict("CONNMARK --save-mark --nfmask 0xff --ctmask 0xffffffff")),
        "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xffffffff",
        MANGLE,
    ),
    *_case("no-tracking", Rule(UnknownVerdict("CT --notrack")), "-j CT --notrack", RAW),
    *_case("log-level", Rule(UnknownVerdict("LOG --log-level 7")), "-j LOG --log-level 7"),
    *_case("goto", Rule(UnknownVerdict("-g ISTIO_REDIRECT", Goto("ISTIO_REDIRECT"))), "-g ISTIO_REDIRECT"),
]

OWN = MATCHES + VERDICTS
CASES = OWN + FOREIGN
