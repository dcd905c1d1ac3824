"""One row for each thing that the model can express, and the words of nft(8) for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.model.addresses import FAMILIES, IPV4, IPV6, Network, parse_network
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    RAW,
    Accept,
    Chain,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    DestinationPort,
    Drop,
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
    Ruleset,
    SaveMark,
    SetMark,
    SetZone,
    Source,
    SourcePort,
    Span,
    Table,
    TransparentProxy,
    only,
)
from capture.model.values import Value

if TYPE_CHECKING:
    from capture.model.addresses import Family
    from capture.model.ruleset import Match, TableName

TCP = Protocol("tcp")
UDP = Protocol("udp")
OWN = "ISTIO_OURS"


def networks(*texts: str) -> tuple[Network, ...]:
    """Return networks from their texts."""
    return tuple(parse_network(text) for text in texts)


class Case(Value):
    """A rule, its place, and its text in the words of nft(8)."""

    name: str
    words: str
    rule: Rule
    table: TableName = NAT
    chain: str = OUTPUT
    families: tuple[Family, ...] = FAMILIES
    comments: bool = False

    @property
    def ruleset(self) -> Ruleset:
        """The smallest rule set with the rule in it."""
        chains = (Chain(self.chain, (self.rule,), "ACCEPT"), Chain(OWN))
        return Ruleset(self.families, (Table(self.table, chains),), has_comments=self.comments)


def matching(name: str, words: str, *matches: Match, family: Family | None = None, chain: str = OUTPUT) -> Case:
    """Return a case for matches: a rule of the table mangle, in which all of them make sense, that accepts."""
    return Case(name, f"{words} counter accept", Rule(Accept(), matches, family), MANGLE, chain)


MATCHES = (
    matching("tcp", "meta l4proto tcp", TCP),
    matching("udp", "meta l4proto udp", UDP),
    matching("one address", "meta nfproto ipv4 ip saddr 127.0.0.6", Source(networks("127.0.0.6")), family=IPV4),
    matching("one IPv6 address", "meta nfproto ipv6 ip6 daddr ::6", Destination(networks("::6")), family=IPV6),
    matching(
        "not one address",
        "meta nfproto ipv4 ip daddr != 127.0.0.1",
        Destination(networks("127.0.0.1"), negated=True),
        family=IPV4,
    ),
    matching(
        "a network of whole bytes",
        "meta nfproto ipv4 ip daddr 10.0.0.0/8",
        Destination(networks("10.0.0.0/8")),
        family=IPV4,
    ),
    matching(
        "a network of odd bits", "meta nfproto ipv4 ip saddr 10.0.0.0/9", Source(networks("10.0.0.0/9")), family=IPV4
    ),
    matching(
        "not a network",
        "meta nfproto ipv4 ip saddr != 10.0.0.0/12",
        Source(networks("10.0.0.0/12"), negated=True),
        family=IPV4,
    ),
    matching(
        "an IPv6 network of whole bytes",
        "meta nfproto ipv6 ip6 saddr fd00::/64",
        Source(networks("fd00::/64")),
        family=IPV6,
    ),
    matching(
        "an IPv6 network of odd bits",
        "meta nfproto ipv6 ip6 daddr != fe80::/10",
        Destination(networks("fe80::/10"), negated=True),
        family=IPV6,
    ),
    matching("every address", "meta nfproto ipv4 ip daddr 0.0.0.0/0", Destination(networks("0.0.0.0/0")), family=IPV4),
    matching(
        "no address at all",
        "meta nfproto ipv6 ip6 daddr != ::/0",
        Destination(networks("::/0"), negated=True),
        family=IPV6,
    ),
    matching(
        "networks",
        "meta nfproto ipv4 ip daddr { 10.0.0.0/8, 192.168.0.0/16 }",
        Destination(networks("192.168.0.0/16", "10.0.0.0/8")),
        family=IPV4,
    ),
    matching(
        "networks that overlap or touch",
        "meta nfproto ipv4 ip saddr { 10.0.0.0/8, 11.1.0.0-11.1.2.255 }",
        Source(networks("11.1.0.0/23", "10.1.0.0/16", "10.0.0.0/9", "10.128.0.0/9", "11.1.2.0/24")),
        family=IPV4,
    ),
    matching(
        "networks that make a range",
        "meta nfproto ipv4 ip saddr 11.1.0.0-11.1.2.255",
        Source(networks("11.1.0.0/23", "11.1.2.0/24")),
        family=IPV4,
    ),
    matching(
        "not in a range",
        "meta nfproto ipv4 ip saddr != 11.1.0.0-11.1.2.255",
        Source(networks("11.1.0.0/23", "11.1.2.0/24"), negated=True),
        family=IPV4,
    ),
    matching(
        "not in some IPv6 networks",
        "meta nfproto ipv6 ip6 daddr != { ::1, fd00::/8 }",
        Destination(networks("fd00::/8", "::1"), negated=True),
        family=IPV6,
    ),
    matching(
        "networks at both ends",
        "meta nfproto ipv4 ip daddr { 0.0.0.0/8, 255.255.255.255 }",
        Destination(networks("0.0.0.0/8", "255.255.255.255")),
        family=IPV4,
    ),
    matching(
        "source and destination",
        "meta nfproto ipv4 ip saddr 10.0.0.1 ip daddr 10.0.0.2",
        Destination(networks("10.0.0.2")),
        Source(networks("10.0.0.1")),
        family=IPV4,
    ),
    matching("one family", "meta nfproto ipv6", family=IPV6),
    matching("one family, one protocol", "meta nfproto ipv4 meta l4proto tcp", TCP, family=IPV4),
    matching("an interface", 'oifname "lo"', OutInterface("lo")),
    matching("not an interface", 'oifname != "lo"', OutInterface("lo", negated=True)),
    matching("interfaces that begin alike", 'iifname "eth*"', InInterface("eth+"), chain=PREROUTING),
    matching("other interfaces", 'iifname != "eth*"', InInterface("eth+", negated=True), chain=PREROUTING),
    matching("an interface with an asterisk", 'iifname "eth\\*"', InInterface("eth*"), chain=PREROUTING),
    matching("an interface of 15 bytes", 'iifname "abcdefghijklmno"', InInterface("abcdefghijklmno"), chain=PREROUTING),
    matching("a port", "meta l4proto tcp tcp dport 15008", DestinationPort((only(15008),)), TCP),
    matching("a source port", "meta l4proto udp udp sport 15053", UDP, SourcePort((only(15053),))),
    matching("not a port", "meta l4proto tcp tcp dport != 53", TCP, DestinationPort((only(53),), negated=True)),
    matching("a range of ports", "meta l4proto tcp tcp dport 8000-8100", TCP, DestinationPort((Span(8000, 8100),))),
    matching(
        "not a range of ports",
        "meta l4proto udp udp sport != 8000-8100",
        UDP,
        SourcePort((Span(8000, 8100),), negated=True),
    ),
    matching("ports", "meta l4proto tcp tcp dport { 53, 15008 }", TCP, DestinationPort((only(15008), only(53)))),
    matching(
        "none of some ports",
        "meta l4proto tcp tcp dport != { 53, 15008 }",
        TCP,
        DestinationPort((only(53), only(15008)), negated=True),
    ),
    matching(
        "ports and ranges up to the last",
        "meta l4proto tcp tcp dport { 1-7, 9, 65000-65535 }",
        TCP,
        DestinationPort((Span(65000, 65535), only(9), Span(1, 5), Span(4, 7))),
    ),
    matching(
        "ports at both ends",
        "meta l4proto tcp tcp sport 1 tcp dport 65535",
        TCP,
        DestinationPort((only(65535),)),
        SourcePort((only(1),)),
    ),
    matching(
        "neither of both ports",
        "meta l4proto tcp tcp sport != 1 tcp dport & 0x0000ffff != 0x00000002",
        TCP,
        SourcePort((only(1),), negated=True),
        DestinationPort((only(2),), negated=True),
    ),
    matching("a user", "meta skuid 1337", OwnerUid((only(1337),))),
    matching("not a user", "meta skuid != 1337", OwnerUid((only(1337),), negated=True)),
    matching("a range of users", "meta skuid 1000-2000", OwnerUid((Span(1000, 2000),))),
    matching("not a range of users", "meta skuid != 1000-2000", OwnerUid((Span(1000, 2000),), negated=True)),
    matching("users", "meta skuid { 3, 1337 }", OwnerUid((only(1337), only(3)))),
    matching("a group", "meta skgid 0", OwnerGid((only(0),))),
    matching(
        "none of some groups",
        "meta skgid != { 1-2, 4294967294 }",
        OwnerGid((only(4294967294), only(1), only(2)), negated=True),
    ),
    matching("a mark", "meta mark 0x00000539", Mark(1337)),
    matching("not a mark", "meta mark != 0x0000053a", Mark(1338, negated=True)),
    matching("bits of a mark", "meta mark & 0x00000fff == 0x00000539", Mark(1337, 0xFFF)),
    matching("not bits of a mark", "meta mark & 0xff00ff00 != 0x01000100", Mark(0x1000100, 0xFF00FF00, negated=True)),
    matching("leading bits of a mark", "meta mark & 0xffff0000 == 0x00010000", Mark(0x10000, 0xFFFF0000)),
    matching("a connection mark", "ct mark 0x00000539", ConnectionMark(1337)),
    matching(
        "not bits of a connection mark", "ct mark & 0x000000ff != 0x00000039", ConnectionMark(0x39, 0xFF, negated=True)
    ),
    matching("states", "ct state established,related", ConnectionState(("RELATED", "ESTABLISHED"))),
    matching("a state", "ct state invalid", ConnectionState(("INVALID",))),
    matching(
        "none of some states", "ct state & (new|untracked) == 0", ConnectionState(("NEW", "UNTRACKED"), negated=True)
    ),
    matching(
        "all at once",
        'oifname "lo" meta l4proto tcp meta nfproto ipv4 ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid 1337',
        OutInterface("lo"),
        Destination(networks("127.0.0.1"), negated=True),
        TCP,
        DestinationPort((only(15008),), negated=True),
        OwnerUid((only(1337),)),
        family=IPV4,
    ),
)

PROXIED = "tproxy to :15006 meta mark set 0x00000539 accept"

VERDICTS = (
    Case("continue", "counter", Rule(Continue())),
    Case("accept", "counter accept", Rule(Accept())),
    Case("return", "counter return", Rule(Return())),
    Case("drop", "counter drop", Rule(Drop()), RAW),
    Case("jump", "counter jump istio-ours", Rule(Jump(OWN))),
    Case("redirect", "meta l4proto tcp counter redirect to :15001", Rule(Redirect(15001), (TCP,))),
    Case(
        "redirect IPv6",
        "meta nfproto ipv6 meta l4proto udp counter redirect to :15053",
        Rule(Redirect(15053), (UDP,), IPV6),
    ),
    Case(
        "transparent proxy",
        f"meta l4proto tcp counter {PROXIED}\nmeta l4proto tcp counter drop",
        Rule(TransparentProxy(15006, 1337), (TCP,)),
        MANGLE,
        PREROUTING,
    ),
    Case(
        "transparent proxy of one family, bits of the mark",
        "meta l4proto tcp meta nfproto ipv6 ip6 daddr != ::1 counter "
        "tproxy ip6 to :15006 meta mark set meta mark & 0xffff0000 | 0x00000539 accept\n"
        "meta l4proto tcp meta nfproto ipv6 ip6 daddr != ::1 counter drop",
        Rule(TransparentProxy(15006, 1337, 0xFFFF), (TCP, Destination(networks("::1"), negated=True)), IPV6),
        MANGLE,
        PREROUTING,
    ),
    Case("set mark", "counter meta mark set 0x00000539", Rule(SetMark(1337)), MANGLE),
    Case(
        "set bits of the mark",
        "counter meta mark set meta mark & 0xffffff0f | 0x00000010",
        Rule(SetMark(0x10, 0xF0)),
        MANGLE,
    ),
    Case(
        "clear bits of the mark",
        "counter meta mark set meta mark & 0xffffff00 | 0x00000000",
        Rule(SetMark(0, 0xFF)),
        MANGLE,
    ),
    Case(
        "set all of some bits of the mark",
        "counter meta mark set meta mark & 0x0fffffff | 0xf0000000",
        Rule(SetMark(0xF0000000, 0xF0000000)),
        MANGLE,
    ),
    Case("save mark", "counter ct mark set meta mark", Rule(SaveMark()), MANGLE),
    Case("restore mark", "counter meta mark set ct mark", Rule(RestoreMark()), MANGLE),
    Case("set zone", "meta l4proto udp counter ct zone set 2", Rule(SetZone(2), (UDP,)), RAW),
    Case("log", 'counter log prefix "istio-output: "', Rule(Log("istio-output: "))),
)

SETTINGS = (
    Case("for IPv4 alone", "meta nfproto ipv4 counter return", Rule(Return()), families=(IPV4,)),
    Case(
        "for IPv6 alone",
        'meta nfproto ipv6 oifname "lo" counter return',
        Rule(Return(), (OutInterface("lo"),)),
        families=(IPV6,),
    ),
    Case(
        "with its reason",
        'counter return comment "what the proxy sends leaves as it is"',
        Rule(Return(), why="what the proxy\nsends leaves as it is"),
        comments=True,
    ),
    Case(
        "with quotes in its reason",
        "counter return comment \"it's 'quoted'\"",
        Rule(Return(), why='it\'s "quoted"'),
        comments=True,
    ),
)

CASES = MATCHES + VERDICTS + SETTINGS
