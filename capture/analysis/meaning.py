"""What a rule does, a foreign one too, and whether a packet fulfils its matches. Pure."""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.addresses import IPV4, IPV6, LOOPBACK_NETWORKS, Family, Network
from capture.model.conventions import DNS_PORT
from capture.model.foreign import (
    AllOf,
    ConnectionDirection,
    IcmpType,
    InterfaceIndex,
    LaterFragment,
    LocalAddress,
    NoWayBack,
    Protocols,
    Reject,
    States,
    TcpFlags,
    TranslatedConnection,
    TranslateSource,
    Untrack,
)
from capture.model.packet import LOOPBACK, Packet
from capture.netlink.rtnetlink import LOOPBACK_INDEX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from capture.analysis.base_chains import PodNetwork


class RedirectOfDns(model.Redirect):
    """A redirect of connections to port 53 alone. Not equal to a Redirect() to the same port."""


FOR_DNS = model.DestinationPort((model.only(DNS_PORT),))


def effective_verdict(rule: model.Rule) -> model.Verdict:
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
    then = verdict.then
    if isinstance(then, TranslateSource) and (then.address is None or then.address.family == IPV6):
        return model.Accept()
    return then or verdict


def losing_rule(verdict: TranslateSource, network: PodNetwork) -> model.Rule:
    """Return the rule that drops what a new source loses; it matches nothing if that is an address of this namespace.

    Redirected packets go to 127.0.0.1, from where no answer has a route to another host: IPv4 lets no such source out
    of ``lo`` (ip_route_output_key_hash_rcu in net/ipv4/route.c).
    """
    states = () if verdict.address is None or network.is_local(verdict.address) else ("NEW",)
    loopback = model.Destination((LOOPBACK_NETWORKS[IPV4],))
    return model.Rule(model.Drop(), (model.OutInterface(LOOPBACK), loopback, model.ConnectionState(states)))


def rejects(rule: model.Rule) -> bool:
    """Return whether a rule drops packets and answers that it does."""
    return isinstance(effective_verdict(rule), Reject)


def has_no_effect(verdict: model.Verdict, *, is_certain: bool, is_tracked: bool) -> bool:
    """Return whether a rule changes nothing: one that perhaps logs or sets a zone, or untracks what is tracked."""
    may_log = isinstance(verdict, (*model.VERDICTS_WITHOUT_EFFECT, model.SetZone)) and not is_certain
    return may_log or (isinstance(verdict, Untrack) and is_tracked)


def modelled_matches(matches: Iterable[model.Match], family: Family, network: PodNetwork) -> Iterator[model.Match]:
    """Yield matches; in place of one that the model lacks, those that mean the same, where there are such."""
    for match in matches:
        test = match.test if isinstance(match, model.UnknownMatch) else None
        if isinstance(test, AllOf):
            yield from test.matches
        else:
            yield (test and _match_of_pod(test, family, network)) or match


def _match_of_pod(test: model.Match, family: Family, network: PodNetwork) -> model.Match | None:
    """Return the model's match for a local address, a way back, or an interface's index; None if it is unknown.

    A local address is in the table of local routes, for iptables and nft(8) (inet_addr_type in net/ipv4/fib_frontend.c;
    for IPv6 match_lookup_rt6 in xt_addrtype.c and __nft_fib6_eval_type in nft_fib_ipv6.c).
    """
    match test:
        case LocalAddress(kind, negated) if network.local is not None:
            own = tuple(address for address in (*network.own, *network.local) if address.family == family)
            # The network is in the kernel's table of local routes as soon as ``lo`` is up.
            return kind((LOOPBACK_NETWORKS[family], *own), negated)
        case NoWayBack(negated) if family in network.families_with_return_route:
            return model.ConnectionState((), negated)  # no packet that comes in, or each
        case InterfaceIndex(kind, number, negated):
            names = {LOOPBACK_INDEX: LOOPBACK, **dict(network.names or ())}
            if network.names is not None or number in names:
                return kind(names.get(number, ""), negated)
    return None


# --- whether a packet fulfils the matches of a rule ----------------------------------------------


def rule_matches(
    rule: model.Rule, packet: Packet, network: PodNetwork, *, is_native: bool = False, is_tracked: bool = True
) -> bool | None:
    """Return whether the packet fulfils all matches of the rule; None if that cannot be known.

    ``is_native`` is whether the rule has nf_tables' own expressions, which see no owner of a packet without a socket,
    ``is_tracked`` whether connection tracking has seen the packet.
    """
    tests = MATCH_TESTS if is_tracked else MATCH_TESTS_BEFORE_TRACKING
    result: bool | None = True
    for match in modelled_matches(rule.matches, packet.family, network):
        holds = tests[type(match)](match, packet, is_native)
        if holds is False:
            return False
        if holds is None:
            result = None
    return result


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
    model.UnknownMatch: lambda match, packet, _: _foreign_test_holds(
        match.test, packet, is_translated=packet.is_translated
    ),
}
"""Whether one match holds, by its kind; None for what cannot be judged."""
MATCH_TESTS_BEFORE_TRACKING = MATCH_TESTS | {
    model.UnknownMatch: lambda match, packet, _: _foreign_test_holds(match.test, packet, is_translated=None),
    model.ConnectionMark: lambda *_: False,
    model.ConnectionState: lambda match, packet, _: (
        ((packet.state if packet.state == "UNTRACKED" else "INVALID") in match.states) != match.negated
    ),
}


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


# --- tests of foreign rules that the model lacks --------------------------------------------------

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << index for index in range(8))  # RFC 9293 3.1
FLAGS_BY_STATE = {
    "NEW": (SYN, SYN | ECE | CWR),
    "ESTABLISHED": tuple(
        flags | more for flags in (SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, ACK | URG) for more in (0, ECE)
    ),
}
FLAGS_BY_STATE["RELATED"] = FLAGS_BY_STATE["NEW"]
"""Flags of the packets of a TCP connection; all others are INVALID (tcp_valid_flags in nf_conntrack_proto_tcp.c).

A connection whose beginning the kernel did not see may be NEW with others, which is nothing that a pod begins."""


def holds_for_protocol(test: model.Match | None, protocol: model.ProtocolName, port: int = 0) -> bool | None:
    """Return whether a test of the protocol holds for one, or a test of ICMPv6's type, which is its port; else None.

    No rule meets a later fragment where connections are tracked: nf_defrag (-400) puts packets together before.
    """
    if isinstance(test, LaterFragment):
        return test.negated
    if isinstance(test, IcmpType) and protocol == "ipv6-icmp":
        return (port == test.number) != test.negated
    return (protocol in test.names) != test.negated if isinstance(test, Protocols) else None


def holds_in_state(
    test: model.Match | None,
    state: str,
    *,
    flags: int | None = None,
    is_translated: bool | None,
    is_reply: bool | None = None,
) -> bool | None:
    """Return whether a test of TCP's flags, or of a connection, holds for all packets in a state, or for none.

    None is where neither is certain. Known flags are tested alone. ``is_translated`` is whether nat has translated the
    packets, None before connection tracking. A later packet may be a reply, and of a translated connection, unless nat
    has translated this one, or ``is_reply`` is known. Without a connection nothing holds but the state (conntrack_mt
    in xt_conntrack.c, nft_ct_get_eval in nft_ct.c).
    """
    if isinstance(test, TcpFlags):
        possible = FLAGS_BY_STATE.get(state, ()) if flags is None else (flags,)
        answers = {(each & test.mask == test.value) != test.negated for each in possible}
        return answers.pop() if len(answers) == 1 else None
    if is_translated is None:
        return None
    is_known = is_translated or state != "ESTABLISHED" or is_reply is not None
    is_missing = state in ("INVALID", "UNTRACKED")
    match test:
        case ConnectionDirection(of_replies):
            return (bool(is_reply) == of_replies and not is_missing) if is_known else None
        case TranslatedConnection(negated):
            return (is_translated != negated and not is_missing) if is_known else None
        case States(names, negated):
            if state in names or (is_translated and not is_missing and "DNAT" in names):
                return not negated
            may_be = "SNAT" in names or ("DNAT" in names and not is_known)
            return None if may_be and not is_missing else negated
    return None


def _foreign_test_holds(test: model.Match | None, packet: Packet, *, is_translated: bool | None) -> bool | None:
    of_protocol = holds_for_protocol(test, packet.protocol, packet.port)
    if of_protocol is not None:
        return of_protocol
    return holds_in_state(test, packet.state, flags=packet.flags, is_translated=is_translated, is_reply=packet.is_reply)
