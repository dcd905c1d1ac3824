"""What foreign rules do that the model has no value for, read from the text that both backends print.

Only what is certain is read: DNAT to one address, REJECT, goto, NOTRACK, targets that let a packet go on, and
matches of protocols that are neither TCP nor UDP, of ranges and the pod's own addresses, and of interfaces by index.
Everything else stays unknown.
"""

from __future__ import annotations

import re

from capture.analysis.connection_tests import holds_for_connection
from capture.model import ruleset as model
from capture.model.addresses import (
    LOOPBACK_ADDRESSES,
    LOOPBACK_NETWORKS,
    Family,
    Network,
    networks_in_range,
    parse_address,
    parse_network,
)
from capture.model.conventions import DNS_PORT
from capture.model.packet import LOOPBACK, Packet
from capture.model.values import Value
from capture.netlink.rtnetlink import LOOPBACK_INDEX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from capture.analysis.base_chains import PodNetwork


class Translate(Value):
    """Send the connection to another address, or another port, or both (``-j DNAT``); None stays as it is.

    A network replaces the first bits of the destination (``-j NETMAP``). With neither it goes to the pod itself
    (``-j REDIRECT`` without a port).
    """

    address: Network | None
    port: int | None

    def as_sent(self, family: Family) -> Translate:
        """Return the same for packets that the pod sends."""
        return self if self.address or self.port else Translate(LOOPBACK_ADDRESSES[family], None)

    def destination(self, before: Network) -> Network:
        """Return where packets to an address go."""
        if self.address is None:
            return before
        return before.replace(first=self.address.first | before.first & (self.address.last - self.address.first))


class Either(Value):
    """Translate to the first or the last of several addresses or ports, which the kernel chooses."""

    ways: tuple[model.Redirect | Translate, model.Redirect | Translate]


class Goto(Value):
    """Go through another chain, and from its end back to the chain that called this one (``-g``)."""

    chain: str


class Untrack(Value):
    """Keep the packet out of connection tracking, then go on (``-j CT --notrack``): nat never sees it."""


class Reject(model.Drop):
    """Drop the packet, and answer the sender that it was. It equals no Drop(): whether packets go is isinstance()."""


class TranslateSource(model.Drop):
    """Give packets the source of another host, which loses those that are redirected over ``lo``, and accept others.

    They go to 127.0.0.1, from where no answer has a route to another host: IPv4 lets no such source out of lo
    (ip_route_output_key_hash_rcu in net/ipv4/route.c). It equals no Drop().
    """

    address: Network

    def losing_rule(self, network: PodNetwork) -> model.Rule:
        """Return the rule that drops what is lost: nothing, if the address is one of this namespace."""
        states = () if network.is_local(self.address) else ("NEW",)
        loopback = model.Destination((LOOPBACK_NETWORKS[self.address.family],))
        return model.Rule(model.Drop(), (model.OutInterface(LOOPBACK), loopback, model.ConnectionState(states)))


class RedirectOfDns(model.Redirect):
    """A redirect of connections to port 53 alone. It equals no Redirect() to the same port."""


FOR_DNS = model.DestinationPort((model.only(DNS_PORT),))

if TYPE_CHECKING:
    Meaning = model.Verdict | Translate | Either | Goto | Untrack

PASSING_TARGETS = (
    *("NFLOG", "ULOG", "TRACE", "AUDIT", "CLASSIFY", "DSCP", "TOS", "TTL", "HL", "ECN", "CHECKSUM", "TCPMSS"),
    *("TCPOPTSTRIP", "LED", "IDLETIMER", "RATEEST", "SET"),
)
"""Targets after which a packet goes on unchanged in all that the model knows (XT_CONTINUE in net/netfilter/xt_*.c)."""
REJECT = ("REJECT", "reject", "[reject")
"""The third as a rule of nf_tables is read."""
DO_NOT_TRACK = ("NOTRACK", "CT --notrack", "notrack")
ADDRESS = r"([0-9.]+|[0-9a-fA-F:]+?:[0-9a-fA-F:]+|)"
DNAT = re.compile(
    rf"(?:DNAT --to-destination|dnat (?:ip6? )?to) \[?{ADDRESS}(?:-{ADDRESS})?\]?(?::(\d+)(?:-(\d+))?)?(?: |$)"
)
"""In iptables' words and in nft's; either half may be missing, and each may be a range."""
REDIRECTS = re.compile(r"(?:REDIRECT|redirect)(?: --to-ports (\d+)-(\d+)| to :(\d+)-(\d+)|$| --random)")
"""To one of several ports, or to the port that was called."""
NETMAP = "NETMAP --to "
SNAT = re.compile(r"(?:SNAT --to-source|snat (?:ip )?to) ([0-9]+\.[0-9.]+)")
PROTOCOLS = re.compile(r"(!)? ?-p (\S+)$|(?:meta l4proto|ip protocol|ip6 nexthdr) (!=)? ?(?:\{ (.+) \}|([^@ ]\S*))$")
NUMBERS = {"6": "tcp", "17": "udp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp"}


def meaning(rule: model.Rule) -> Meaning:
    """Return what the verdict of a rule does; itself if the model has it, or if it stays unknown."""
    verdict = rule.verdict
    if isinstance(verdict, model.SetZone):
        # Those of DNS capture, for UDP alone, set zones both ways; what a zone does to TCP is not followed.
        is_for_udp = any(isinstance(match, model.Protocol) and match.name == "udp" for match in rule.matches)
        return verdict if is_for_udp else model.UnknownVerdict(f"CT --zone {verdict.zone}")
    if not isinstance(verdict, model.UnknownVerdict):
        if isinstance(verdict, model.Redirect) and FOR_DNS in rule.matches:
            return RedirectOfDns(verdict.port)
        return verdict
    if verdict.then is not None:
        return verdict.then
    words = verdict.text
    first = words.split(" ", 1)[0]
    if first in REJECT:
        return Reject()
    if first == "TARPIT":
        return model.Drop()
    if words.startswith(DO_NOT_TRACK):
        return Untrack()
    if first in ("-g", "goto"):
        return Goto(words.split(" ")[1])
    if first in PASSING_TARGETS:
        return model.Continue()
    translated = _redirection(words) or _translation(words) or _network_translation(words)
    return translated or _source_translation(words) or verdict


def rejects(rule: model.Rule) -> bool:
    """Return whether a rule drops packets and answers that it does."""
    return isinstance(meaning(rule), Reject)


def has_no_effect(verdict: Meaning, *, is_certain: bool, is_tracked: bool) -> bool:
    """Return whether a rule is of no concern: if it may log does not matter, and what is tracked stays so."""
    may_log = isinstance(verdict, (*model.VERDICTS_WITHOUT_EFFECT, model.SetZone)) and not is_certain
    return may_log or (isinstance(verdict, Untrack) and is_tracked)


def _network_translation(words: str) -> Translate | None:
    try:
        return Translate(parse_network(words.removeprefix(NETMAP)), None) if words.startswith(NETMAP) else None
    except ValueError:
        return None


def _translation(words: str) -> Translate | Either | None:
    """Return where a DNAT leads: to one address and one port at most, or to one of several."""
    matched = DNAT.match(words)
    if matched is None or not any(matched.groups()):
        return None
    address, last, port, last_port = matched.groups()
    try:
        ends = [parse_address(each) if each else None for each in (address, last or address)]
    except ValueError:
        return None
    ports = [int(each) if each else None for each in (port, last_port or port)]
    first, other = map(Translate, ends, ports)
    return first if first == other else Either((first, other))


def _source_translation(words: str) -> TranslateSource | model.Accept | None:
    """Return what a rule does that translates sources; to which of several addresses makes no difference."""
    matched = SNAT.match(words)
    if matched is not None:
        return TranslateSource(parse_address(matched[1]))
    return model.Accept() if words.startswith(("SNAT", "snat", "MASQUERADE", "[masq")) else None


def _redirection(words: str) -> Translate | Either | None:
    matched = REDIRECTS.match(words)
    if matched is None:
        return None
    first, last = matched[1] or matched[3], matched[2] or matched[4]
    return Either((model.Redirect(int(first)), model.Redirect(int(last)))) if first else Translate(None, None)


def holds_for_protocol(words: str, protocol: model.ProtocolName) -> bool | None:
    """Return whether a match that the model lacks holds for every packet of a protocol, or for none; else None."""
    matched = PROTOCOLS.match(words)
    if matched is None:
        return None
    not_before, option, not_behind, several_states, single = matched.groups()
    names = [name.strip() for name in (several_states or single or option).split(",")]
    if any("-" in name and name[0].isdigit() for name in names):
        return None
    return (protocol in [NUMBERS.get(name, name) for name in names]) != bool(not_before or not_behind)


FLAGS_OF_IPTABLES = re.compile(r"-m tcp (! )?--tcp-flags (\S+) (\S+)$")
FLAGS_OF_NFT = re.compile(r"tcp flags & (0x[0-9a-f]{2}) (==|!=) (0x[0-9a-f]{2})$")
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << index for index in range(8))  # RFC 9293 3.1
FLAGS = {"NONE": 0, "ALL": 0x3F, "FIN": FIN, "SYN": SYN, "RST": RST, "PSH": PSH, "ACK": ACK, "URG": URG}
FLAGS_BY_STATE = {
    "NEW": (SYN, SYN | ECE | CWR),
    "ESTABLISHED": tuple(
        flags | more for flags in (SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, ACK | URG) for more in (0, ECE)
    ),
}
FLAGS_BY_STATE["RELATED"] = FLAGS_BY_STATE["NEW"]
"""Flags of the packets of a TCP connection; all others are INVALID (tcp_valid_flags in nf_conntrack_proto_tcp.c).

A connection whose beginning the kernel did not see may be NEW with others, which is nothing that a pod begins."""


def holds_for_flags(words: str, state: str, known: int | None = None) -> bool | None:
    """Return whether a test of TCP's flags holds for every packet in a state, or for none; else None.

    Known flags are tested alone.
    """
    matched = FLAGS_OF_IPTABLES.match(words)
    if matched is not None:
        mask, value = (sum(FLAGS.get(name, 0) for name in matched[index].split(",")) for index in (2, 3))
        is_negated = bool(matched[1])
    else:
        matched = FLAGS_OF_NFT.match(words)
        if matched is None:
            return None
        mask, value, is_negated = int(matched[1], 0), int(matched[3], 0), matched[2] == "!="
    possible = FLAGS_BY_STATE.get(state, ()) if known is None else (known,)
    answers = {(flags & mask == value) != is_negated for flags in possible}
    return answers.pop() if len(answers) == 1 else None


IS_LOCAL = re.compile(r"-m addrtype (! )?--(src|dst)-type LOCAL$|fib (s|d)addr type (!= )?local$")
IS_INDEX = re.compile(r"(iif|oif) (!= )?(\d+)$")
IS_IN_RANGE = re.compile(r"(! )?--(src|dst)-range ([^ -]+)-(\S+)")
HAS_NO_WAY_BACK = re.compile(r"\[fib 1=\w+ 2=00000001 3=000000(?:09|0d|29|2d)\] (==|!=) 0x00000000$")
"""``fib saddr . mark . iif oif missing``, with or without the mark (NFTA_FIB_F_* in linux/netfilter/nf_tables.h)."""
TRANSLATABLE = ("-m addrtype", "fib ", "[fib ", "iif ", "oif ", "-m iprange")


def modelled_matches(matches: Iterable[model.Match], family: Family, network: PodNetwork) -> Iterator[model.Match]:
    """Yield matches, those that the model lacks as others that together mean the same, where there are such."""
    for match in matches:
        if isinstance(match, model.UnknownMatch) and match.text.startswith(TRANSLATABLE):
            ranges = IS_IN_RANGE.findall(match.text)
            for negated, end, first, last in ranges:
                ends = (parse_address(each).first for each in (first, last))
                yield ADDRESS_MATCHES[end[0]](tuple(networks_in_range(family, *ends)), bool(negated))
            if not ranges:
                yield _match_of_pod(match.text, family, network) or match
        else:
            yield match


ADDRESS_MATCHES: dict[str, type[model.AddressMatch]] = {"s": model.Source, "d": model.Destination}


def _match_of_pod(words: str, family: Family, network: PodNetwork) -> model.Match | None:
    """Return the model's match for one that tests an address for being the pod's, or an interface by its index.

    Both look into the table of local routes (inet_addr_type in net/ipv4/fib_frontend.c; for IPv6 match_lookup_rt6 in
    xt_addrtype.c and __nft_fib6_eval_type in nft_fib_ipv6.c). None where the network of the pod would have to be known.
    """
    matched = IS_LOCAL.match(words)
    if matched is not None and network.local is not None:
        kind = ADDRESS_MATCHES[(matched[2] or matched[3])[0]]
        own = tuple(each for each in (*network.own, *network.local) if each.family == family)
        # The network is in the kernel's table of local routes as soon as ``lo`` is up.
        return kind((LOOPBACK_NETWORKS[family], *own), bool(matched[1] or matched[4]))
    matched = HAS_NO_WAY_BACK.match(words)
    if matched is not None and family in network.families_with_return_route:
        return model.ConnectionState((), negated=matched[1] == "!=")  # no packet that comes in, or each
    matched = IS_INDEX.match(words)
    if matched is None:
        return None
    number = int(matched[3])
    names = {LOOPBACK_INDEX: LOOPBACK, **dict(network.names or ())}
    if network.names is None and number not in names:
        return None
    return (model.InInterface if matched[1] == "iif" else model.OutInterface)(names.get(number, ""), bool(matched[2]))


def is_pure(words: str) -> bool:
    """Return whether a match that the model lacks gives one answer for one packet, wherever it is evaluated."""
    return not any(each in words for each in IMPURE)


IMPURE = (
    *("statistic", "limit", "recent", "quota", "connlimit", "connbytes", "time", "random", "numgen", "hashlimit"),
    *("rateest", "u32", "bpf", "nth", "ct count", "meta hour", "meta day", "jhash"),
)
"""Words of matches that count, or look at the time."""


# --- whether a packet fulfils the matches of a rule ----------------------------------------------


def rule_matches(
    rule: model.Rule, packet: Packet, network: PodNetwork, *, is_native: bool = False, is_tracked: bool = True
) -> bool | None:
    """Return whether the packet fulfils all matches of the rule; None if that cannot be known.

    ``is_native`` is whether the rule has nf_tables' own expressions, which see no owner of a packet without a socket,
    ``is_tracked`` whether connection tracking has seen the packet.
    """
    tests = MATCH_TESTS if is_tracked else MATCH_TESTS_BEFORE_TRACKING
    found: bool | None = True
    for match in modelled_matches(rule.matches, packet.family, network):
        holds = tests[type(match)](match, packet, is_native)
        if holds is False:
            return False
        if holds is None:
            found = None
    return found


def _comes_from(packet: Packet, match: model.Source) -> bool:
    """Return whether a packet has such a source. One that is not known is in no network but the one that has all."""
    if packet.source is None:
        return not match.negated and any(network.prefix == 0 for network in match.networks)
    return is_in_networks(packet.source, match.networks) != match.negated


MATCH_TESTS: dict[type, Callable[[Any, Packet, bool], bool | None]] = {
    model.Protocol: lambda match, packet, _: packet.protocol == match.name,
    model.Source: lambda match, packet, _: _comes_from(packet, match),
    model.Destination: lambda match, packet, _: is_in_networks(packet.destination, match.networks) != match.negated,
    model.InInterface: lambda match, packet, _: _is_interface(match.name, packet.in_interface) != match.negated,
    model.OutInterface: lambda match, packet, _: _is_interface(match.name, packet.out_interface) != match.negated,
    model.SourcePort: lambda match, packet, _: (
        packet.source_port is not None and is_in_spans(packet.source_port, match.ports) != match.negated
    ),
    model.DestinationPort: lambda match, packet, _: is_in_spans(packet.port, match.ports) != match.negated,
    model.OwnerUid: lambda match, packet, is_native: _is_owner(packet.uid, match, is_native=is_native),
    model.OwnerGid: lambda match, packet, is_native: _is_owner(packet.gid, match, is_native=is_native),
    model.Mark: lambda match, packet, _: (packet.mark & match.mask == match.value) != match.negated,
    model.ConnectionMark: lambda match, packet, _: (
        (packet.connection_mark & match.mask == match.value) != match.negated
    ),
    model.ConnectionState: lambda match, packet, _: (packet.state in match.states) != match.negated,
    model.UnknownMatch: lambda match, packet, _: _first_known(
        holds_for_protocol(match.text, packet.protocol),
        holds_for_flags(match.text, packet.state, packet.flags),
        holds_for_connection(match.text, packet.state, is_translated=packet.is_translated),
    ),
}
"""Whether one match holds, by its kind; None for what cannot be judged."""
MATCH_TESTS_BEFORE_TRACKING = MATCH_TESTS | {
    model.UnknownMatch: lambda match, packet, _: _first_known(
        holds_for_protocol(match.text, packet.protocol), holds_for_flags(match.text, packet.state, packet.flags)
    ),
    model.ConnectionMark: lambda *_: False,
    model.ConnectionState: lambda match, packet, _: (
        ((packet.state if packet.state == "UNTRACKED" else "INVALID") in match.states) != match.negated
    ),
}


def _first_known(*answers: bool | None) -> bool | None:
    return next((answer for answer in answers if answer is not None), None)


def is_in_networks(address: Network, networks: tuple[Network, ...]) -> bool:
    """Return whether an address lies in one of the networks."""
    first, family = address.first, address.family
    for network in networks:  # noqa: SIM110  # any() makes a generator each time; chains have up to 60,000 rules
        if network.contains(first) and network.family == family:
            return True
    return False


def is_in_spans(number: int | None, spans: Iterable[model.Span]) -> bool:
    """Return whether a port, user or group is one of these; None, which is unknown, is not."""
    if number is None:
        return False
    for span in spans:  # noqa: SIM110  # any() makes a generator each time; chains have up to 60,000 rules
        if span.first <= number <= span.last:
            return True
    return False


def _is_owner(number: int | None, match: model.OwnerMatch, *, is_native: bool) -> bool:
    """Return whether an owner match holds. A packet without a socket fulfils the negated one in iptables alone."""
    if number is None:
        return match.negated and not is_native  # owner_mt in xt_owner.c; nft_meta_get_eval_skugid in nft_meta.c
    return is_in_spans(number, match.ids) != match.negated


def _is_interface(pattern: str, name: str | None) -> bool:
    if name is None:
        return False
    if pattern.endswith("+"):
        return name.startswith(pattern[:-1])
    return name == pattern
