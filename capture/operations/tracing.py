"""``trace``: what happens to a packet, by the live rules of a namespace or by those that settings would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from capture.analysis.base_chains import Situation
from capture.analysis.canonical import canonical_rule
from capture.analysis.captured_pod import proxy_owner_by_rules
from capture.analysis.cause_text import cause
from capture.analysis.outcome import TO_PROXY
from capture.analysis.pod_causes import refusal_cause
from capture.analysis.replies import loss_text, lost_later_packets, lost_reply
from capture.analysis.trace import Trace, trace_whole_path
from capture.backends import detect, load_driver
from capture.backends.detect import SetLocation
from capture.backends.nf_tables.names import REJECT_TABLE
from capture.backends.request import BackendRequest
from capture.errors import argument_error
from capture.model.addresses import FAMILIES, FAMILY_NAMES, IPV6, LOOPBACK_ADDRESSES, parse_address
from capture.model.conventions import MAX_ID, MAX_PORT, PROTOCOL_NUMBERS
from capture.model.location import Cause
from capture.model.packet import EPHEMERAL_PORT, LOOPBACK, Packet
from capture.model.ruleset import Chain, ProtocolName, Rule, Ruleset, TableName
from capture.netlink.interfaces import read_links
from capture.netlink.rtnetlink import open_rtnetlink
from capture.operations.arguments import Namespace, host_of, host_or_default
from capture.operations.situation import read_situation
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig, Host, resolve
from capture.settings.parsers import interface
from capture.settings.settings import Settings, require_settings
from capture.state import record, routes
from capture.state.impediments import impediments
from capture.system.netns import InNamespace
from capture.system.pod_network import NO_ROUTE, TO_LO, lost_by_routing, read_pod_network, refusing_route, with_route

IpAddress = IPv4Address | IPv6Address
Parsed = TypeVar("Parsed")

AN_ADDRESS = "an IP address"


def trace(
    packet: Packet, settings: Settings | None = None, namespace: Namespace = None, host: Host | None = None
) -> Trace:
    """Return what happens to a packet: by the live rules, or by those that the settings would give.

    A packet that the pod sends leaves by the interface, and from the address, of the namespace's routes, unless it
    names them. Of two sets at once the packet meets both, as in a kernel.
    """
    with InNamespace(namespace):
        if settings is None:
            situation = live_situation()
            return live_trace(packet, situation).replace(is_applied=situation.has_capture)
        situation = _desired_situation(settings, namespace, host)
        if packet.family not in situation.ruleset.families:
            situation = situation.replace(ruleset=Ruleset(FAMILIES, ()), network=read_pod_network())
        sent = with_route(packet)
        return trace_whole_path(_with_source_port(sent), situation).replace(packet=sent)


def live_trace(packet: Packet, situation: Situation) -> Trace:
    """Return what happens to a packet in the namespace we are in, whose situation has been read."""
    sent = with_route(packet)
    if sent.out_interface == NO_ROUTE:
        return Trace(sent, "no-route", sent.port, None, (), refusal=refusing_route(packet))
    traced = trace_whole_path(_with_source_port(sent), situation)
    stays = traced.outcome == "direct" and traced.address is None and sent.out_interface == LOOPBACK
    if stays and refusing_route(packet) == TO_LO:
        return traced.replace(packet=sent, outcome="no-route", refusal=TO_LO)
    return _with_impediments(traced.replace(lost_reply=_lost_reply(traced, situation)), situation).replace(packet=sent)


def _with_source_port(sent: Packet) -> Packet:
    return sent if sent.source_port else sent.replace(source_port=EPHEMERAL_PORT)


def _lost_reply(traced: Trace, situation: Situation) -> Trace | None:
    """Return the way of an answer that is certainly lost: of the proxy's, where the proxy gets the connection."""
    if traced.outcome not in TO_PROXY:
        return lost_reply(traced, situation)
    losses = lost_later_packets(traced, situation, proxy_owner_by_rules(situation.ruleset))
    return next((each for each in losses if each.is_certain and each.packet.is_reply), None)


def _with_impediments(traced: Trace, situation: Situation) -> Trace:
    """Return the trace with what loses a packet that is redirected over ``lo`` or comes in, or the answers to it."""
    return traced.replace(impediments=next(filter(None, _impediments(traced, situation)), ()))


def _impediments(traced: Trace, situation: Situation) -> Iterator[tuple[str, ...]]:
    """Yield impediments, each time those that what was yielded before may bring about."""
    if lost := arrival_cause(traced):
        yield (lost.message,)
    yield _impediments_of_lo(traced)
    owner = proxy_owner_by_rules(situation.ruleset)
    if lost := answers_cause(traced, owner[0] if owner else None):
        yield (lost.message,)
    if traced.lost_reply is not None:
        yield (loss_text(traced.lost_reply),)


def _impediments_of_lo(traced: Trace) -> tuple[str, ...]:
    packet = traced.packet
    if packet.in_interface is not None or traced.outcome in ("direct", "dropped"):
        return ()
    impeding = impediments(Ruleset(FAMILIES, ()), (PROTOCOL_NUMBERS[packet.protocol], traced.port))
    return tuple(each.message for each in impeding if each.family in (None, packet.family))


def arrival_cause(traced: Trace) -> Cause | None:
    """Return what loses a packet that comes in, whatever rules do with it: its interface is down, or by routing."""
    packet, name = traced.packet, traced.packet.in_interface
    if name is None:
        return None
    with open_rtnetlink() as rtnetlink:
        if any(link.name == name and not link.is_up for link in read_links(rtnetlink)):
            return cause("interface-down", where=name, name=name)
    lost = lost_in_routing(traced)
    if lost in ("", "answers"):
        return None
    family, flag = FAMILY_NAMES[packet.family], "-6 " if packet.family == IPV6 else ""
    client = packet.source.shown if packet.source else ""
    return cause("no-route", lost, name=name, family=family, address=client, flag=flag)


def answers_cause(traced: Trace, uid: int | None) -> Cause | None:
    """Return that routing loses the answers of the proxy, a user, to a captured connection."""
    client = traced.packet.source
    if client is None or traced.outcome not in TO_PROXY or lost_in_routing(traced, uid) != "answers":
        return None
    return refusal_cause(client.family, client.shown, "answers")


def lost_in_routing(traced: Trace, uid: int | None = None) -> str:
    """Return what routing loses of a connection, as a case of the cause; ``uid`` answers it."""
    packet, is_redirected = traced.packet, traced.outcome in TO_PROXY and not traced.transparent
    if packet.in_interface == LOOPBACK or traced.outcome == "dropped":
        return ""  # what comes in over lo has its route already
    if packet.in_interface is None and is_redirected:
        packet = packet.replace(destination=LOOPBACK_ADDRESSES[packet.family])
    marks = (0, traced.mark) if traced.transparent else (traced.mark,)
    port = traced.port if is_redirected else packet.port
    lost = lost_by_routing(packet, marks, port, uid, is_redirected=is_redirected)
    is_elsewhere = (lost, traced.outcome) == ("inbound", "direct") and not packet.is_reply  # it need not be for the pod
    return "" if is_elsewhere else lost


def impediments_of(situation: Situation, namespace: Namespace = None) -> tuple[str, ...]:
    """Return the impediments of packets that live rules send somewhere, lost routes among them, in words."""
    with InNamespace(namespace):
        texts = [f"{route.consequence}; {route.message}" for route in situation.missing_routes]
        if any(each.is_own for each in situation.other_chains):
            from capture.backends.other_family import read_reject_table  # few captures reject anything

            wrong = read_reject_table().fault
            texts += [f"table inet {REJECT_TABLE} {wrong}: it may drop answers to what it lets pass"] if wrong else []
        return (*texts, *(impediment.message for impediment in impediments(situation.ruleset)))


def situation_of(settings: Settings | None = None, namespace: Namespace = None) -> Situation:
    """Return all that decides on packets: what is live, or the rules alone that the settings would give."""
    with InNamespace(namespace):
        if settings is None:
            return live_situation()
        return _desired_situation(settings, namespace).replace(network=read_pod_network())


def live_situation(own_sets: Sequence[SetLocation] | None = None) -> Situation:
    """Return all that decides on packets in the namespace we are in; ``own_sets`` are our sets, if they are known."""
    recorded = record.read()
    known = recorded.ruleset if recorded else build_ruleset(CaptureConfig())
    place = recorded and (recorded.backend, recorded.variant)
    located = detect.find_live_sets() if own_sets is None else own_sets
    live_sets = sorted(located, key=lambda each: each.choice.place != place)  # the recorded one first
    if live_sets:
        choice, is_empty = live_sets[0].choice, False
    else:
        detected = detect.detect(BackendRequest())
        choice, is_empty = detected.choice, detected.is_empty
    live = Ruleset(FAMILIES, ()) if is_empty else _with_reasons(load_driver(choice).read(), known)
    needs = recorded.ruleset if recorded else live.replace(policy_routes=routes.routes_of_marks(live))
    return read_situation(live, choice.place, needs)


def _with_reasons(live: Ruleset, known: Ruleset) -> Ruleset:
    """Return live rules with the reasons of a rule set that we built: a kernel keeps none without --rule-comments."""
    reasons: dict[tuple[TableName, str, Rule], str] = {}
    for table in known.tables:
        for chain in table.chains:
            for family in FAMILIES:
                for rule in chain.rules_for(family):
                    reasons.setdefault((table.name, chain.name, canonical_rule(rule)), rule.why)

    def explained(table: TableName, chain: Chain) -> Chain:
        known = (rule.why or reasons.get((table, chain.name, canonical_rule(rule)), "") for rule in chain.rules)
        return chain.replace(rules=tuple(rule.replace(why=why) for rule, why in zip(chain.rules, known, strict=True)))

    return live.with_chains(explained)


def _desired_situation(settings: Settings, namespace: Namespace, host: Host | None = None) -> Situation:
    settings = require_settings(settings, "trace_packet")
    config, _ = resolve(settings, host_or_default(host, host_of(namespace), "trace_packet"))
    if not config.rejects_ipv6:
        return Situation(build_ruleset(config))
    from capture.backends.foreign_chains import rejecting_chains  # few captures reject anything

    return Situation(build_ruleset(config), tuple(rejecting_chains()))


def trace_packet(  # noqa: PLR0913  # a packet has this many sides; all but the first two are named
    destination: str | IpAddress,
    port: int,
    settings: Settings | None = None,
    namespace: Namespace = None,
    host: Host | None = None,
    *,
    protocol: ProtocolName = "tcp",
    uid: int = 1000,
    gid: int | None = None,
    source: str | IpAddress | None = None,
    in_interface: str | None = None,
) -> Trace:
    """Return what happens to the first packet of a connection: the outcome, the port, and the rule that decides.

    By the live rules of the namespace, or by those that the settings would give. With ``in_interface`` the packet
    comes in, else a process with ``uid`` and ``gid`` (default: the same number) sends it. An address is a text or an
    object of ``ipaddress``. Raises ConfigurationError for one that is none, and for a number out of range.
    """
    is_outbound = in_interface is None
    if protocol not in ("tcp", "udp"):
        raise argument_error("trace_packet", "protocol", protocol, "tcp or udp")
    destination_address = _parsed("destination", destination, parse_address, AN_ADDRESS).unmapped
    source_address = None if source is None else _parsed("source", source, parse_address, AN_ADDRESS).unmapped
    interface_name = None if is_outbound else _parsed("in_interface", in_interface, interface, "an interface name")
    if source_address is not None and source_address.family != destination_address.family:
        raise argument_error("trace_packet", "source", str(source), "an address of the destination's family")
    packet = Packet(
        protocol,
        destination_address,
        _number("port", port, MAX_PORT),
        source=source_address,
        uid=_number("uid", uid, MAX_ID) if is_outbound else None,
        gid=_number("gid", uid if gid is None else gid, MAX_ID) if is_outbound else None,
        in_interface=interface_name,
    )
    return trace(packet, settings, namespace, host)


def _parsed(name: str, value: object, parse: Callable[[str], Parsed], expected: str) -> Parsed:
    try:
        return parse(str(value))
    except ValueError:
        raise argument_error("trace_packet", name, value, expected) from None


def _number(name: str, value: object, highest: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest:
        return value
    raise argument_error("trace_packet", name, value, f"an int from 0 to {highest}")
