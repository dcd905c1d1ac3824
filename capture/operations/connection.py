"""Why one connection does not reach a proxy that listens: what is looked at on its way, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from capture.analysis.base_chains import Situation
from capture.analysis.captured_pod import proxy_owner
from capture.analysis.cause_text import cause
from capture.analysis.causes import (
    causes_of_connection,
    drop_cause,
    drop_of_connection,
    mark_cause,
    missing_rule_cause,
    source_notes,
    untracked_cause,
)
from capture.analysis.foreign_effects import DISCOVERY
from capture.analysis.meaning import effective_verdict
from capture.analysis.outcome import DNS, TO_PROXY, Fate
from capture.analysis.pod_causes import (
    can_stop_connection,
    causes_of_pod,
    no_route_cause,
    refusal_cause,
    unreached_app_notes,
)
from capture.analysis.replies import (
    OUTSIDE,
    SENT_ON,
    handing_over,
    is_own_step,
    lost_later_packets,
    marking_step,
    onward_packet,
    replies_of_receiver,
    replies_on_way,
    zone_conflict,
)
from capture.analysis.rerouting import MarkRoute
from capture.analysis.trace import Step, Trace, trace_whole_path
from capture.backends.iptables.render import shown_rule
from capture.errors import CaptureError
from capture.model.addresses import IPV4, IPV6, LOOPBACK_ADDRESSES, Network
from capture.model.chain_names import is_own_chain
from capture.model.conventions import PASSTHROUGH_SOURCE, PROTOCOL_NUMBERS
from capture.model.location import Cause
from capture.model.packet import EPHEMERAL_PORT, LOOPBACK, Packet
from capture.model.routing import MissingRoute
from capture.model.ruleset import Drop
from capture.model.values import Value
from capture.netlink.ipsec import IpsecPolicy, policy_for, read_policies
from capture.operations.comparison import reject_fault
from capture.operations.drift_causes import drift_cause, missing_route_cause
from capture.operations.results import Verified
from capture.operations.situation import ExaminedPod
from capture.operations.tracing import answers_cause, arrival_cause, live_trace
from capture.state import routes
from capture.state.impediments import LO_DOWN, impediments
from capture.system.pod_network import NO_ROUTE, knows_neighbour, refuses_user, silent_next_hop, with_route
from capture.system.socket_lb import connect_programs, owner_of, socket_translation

OF_CAPTURED = ("later packets of captured traffic", "answers to captured traffic")


class Connection(Value):
    """A connection on its way by the live rules, and what is known of its namespace."""

    traced: Trace
    pod: ExaminedPod
    policies: tuple[IpsecPolicy, ...]
    verify: Callable[[], Verified]
    """Compares the namespace with the reference; takes long where rules are many."""
    is_usual: bool = False
    """Whether the pod is judged by it."""

    @property
    def is_inbound(self) -> bool:
        """Return whether it comes in."""
        return self.traced.packet.in_interface is not None

    @property
    def owner(self) -> tuple[int, int] | None:
        """Return the user and group of the proxy, if they are known."""
        return proxy_owner(self.pod.facts, self.pod.capture)

    @property
    def ipsec_policy(self) -> IpsecPolicy | None:
        """Return the policy that decides on it, or on its answers."""
        packets = (self.traced.packet, *replies_of_receiver(self.traced, self.pod.situation, self.owner))
        return next(filter(None, (policy_for(each, self.policies) for each in packets)), None)


def faults_of(connection: Connection) -> list[Cause]:
    """Return what is wrong on its way: why it does not reach a proxy that listens, and what cannot stop it alone."""
    faults = [*causes_of_pod(connection.pod.facts, connection.pod.capture)]
    for find, is_last_resort in CHECKS:
        if not (is_last_resort and any(can_stop_connection(each, connection.traced) for each in faults)):
            faults += find(connection)
    return faults


def notes_on(connection: Connection) -> Iterator[Cause]:
    """Yield what may be of interest, and does not break the connection."""
    traced = connection.traced
    if is_doubtful(traced, connection.verify):
        yield _unjudged_cause(traced, connection.verify)
    yield from unreached_app_notes(traced, connection.pod.facts)
    yield from _way_back_notes(traced.packet) if connection.is_inbound else _source_notes_on(connection)
    yield from _too_big_notes(traced.packet, connection.pod.situation)
    yield from link_causes(traced, are_recent=False)
    if connection.ipsec_policy is not None and not connection.ipsec_policy.is_blocking:
        yield cause("ipsec", "encrypted", policy=connection.ipsec_policy.words)


def _too_big_notes(packet: Packet, situation: Situation) -> Iterator[Cause]:
    """Yield a note if the pod does not learn that packets are too big for a link (RFC 8201): large ones are lost."""
    own, link = (
        packet.destination if packet.in_interface else packet.source,
        packet.in_interface or packet.out_interface,
    )
    if own is not None and own.family == IPV6 and link != LOOPBACK:
        error = DISCOVERY[0].replace(destination=own, port=2, in_interface=link, state="RELATED")  # RFC 4443 3.2
        traced = trace_whole_path(error, situation)
        if traced.outcome == "dropped" and traced.is_certain:
            yield drop_cause(traced, shown_rule, subject="what tells the pod that packets are too big (ICMPv6)")


def _way_back_notes(packet: Packet) -> Iterator[Cause]:
    """Yield a note if the answers to what comes in leave by another interface."""
    client = packet.source or packet.destination
    answer = Packet(packet.protocol, client, packet.source_port or 0, packet.destination, packet.port)
    name = with_route(answer).out_interface
    if packet.in_interface != LOOPBACK and name not in (packet.in_interface, LOOPBACK, NO_ROUTE):
        yield cause("no-route", "way back", where=name, name=name, came=packet.in_interface)


def is_doubtful(traced: Trace, verify: Callable[[], Verified]) -> bool:
    """Return whether a rule that cannot be judged may decide on a packet: one that drops it; others if drift may be."""
    doubtful = [step.rule for step in traced.path if not step.is_certain]
    may_drop = any(isinstance(effective_verdict(rule), Drop) for rule in doubtful)
    return may_drop or (not traced.is_certain and verify().conclusion != "in sync")


def _unjudged_cause(traced: Trace, verify: Callable[[], Verified]) -> Cause:
    """Return which rule on the way of a packet cannot be judged, or that it is one of ours, or of a second set."""
    step = next(step for step in traced.path if not step.is_certain)
    own = _second_set_cause(step) or (drift_cause(traced, verify()) if is_own_step(step) else None)
    case = "" if traced.is_order_known else "order"
    return own or cause("unjudged", case, where=step.location, rule=_rule_text(step))


def _doubts(traces: Iterable[Trace], verify: Callable[[], Verified]) -> Iterator[Cause]:
    return (_unjudged_cause(each, verify) for each in traces if is_doubtful(each, verify))


def _rule_text(step: Step) -> str:
    """Return a foreign rule as nft lists it where its table is nft's ("ip x"); elsewhere a reason is its comment."""
    in_nft = step.rule.why if " " in step.table else ""
    return in_nft or shown_rule(step.rule, step.family or IPV4)


def _second_set_cause(step: Step) -> Cause | None:
    location = step.base_chain and step.base_chain.place
    if not location or not (is_own_chain(step.chain) or is_own_chain(getattr(step.rule.verdict, "chain", ""))):
        return None
    place = "-".join(filter(None, location))
    return cause("second-set", where=place, place=place)


def _zone_causes(connection: Connection) -> Iterator[Cause]:
    """Yield a cause if the agent's answer to a look-up is tracked in another zone: it never reaches the client."""
    conflict = zone_conflict(connection.traced, connection.pod.situation, connection.owner)
    if conflict is None:
        return
    answer, step = conflict
    by_drift = (drift_cause(trace, connection.verify(), "zone") for trace in (connection.traced, answer))
    foreign = step and cause("foreign-rule", "zone", where=step.location, rule=_rule_text(step))
    yield next(filter(None, by_drift), None) or foreign or cause("rule-missing", "zone, any")


def _later_causes(connection: Connection) -> Iterator[Cause]:
    """Yield the first reason why later packets or answers are lost; where none is certain, each that may be one."""
    traced = connection.traced
    if traced.outcome not in TO_PROXY:
        return
    following = list(lost_later_packets(traced, connection.pod.situation, connection.owner))
    certain = (each for each in following if each.is_certain)
    later, answers = OF_CAPTURED if connection.is_usual else ("its later packets", "its answers")
    lost = [_loss_cause(each, answers if each.packet.is_reply else later) for each in certain]
    yield from lost[:1] or _doubts(following, connection.verify)


def _discovery_causes(connection: Connection) -> Iterable[Cause]:
    packet = connection.traced.packet
    if connection.traced.outcome not in TO_PROXY:
        return ()
    at_link = packet.destination if connection.is_inbound else packet.source
    return discovery_causes(at_link, packet.in_interface or packet.out_interface, connection.pod.situation)


def _ipsec_causes(connection: Connection) -> Iterator[Cause]:
    if connection.ipsec_policy is not None and connection.ipsec_policy.is_blocking:
        yield cause("ipsec", policy=connection.ipsec_policy.words)


def _delivery_causes(connection: Connection) -> Iterator[Cause]:
    """Yield what the rules need and the namespace lacks, by which captured packets are lost."""
    family, is_inbound = connection.traced.packet.family, connection.is_inbound
    if not is_inbound and connection.traced.outcome not in TO_PROXY:
        return
    direction = "inbound" if is_inbound else "outbound"
    desired = connection.pod.desired
    found = impediments(desired, (PROTOCOL_NUMBERS[connection.traced.packet.protocol], connection.traced.port))
    of_family = (each for each in found if each.family in (None, family) and each != LO_DOWN)
    yield from (impediment for impediment in of_family if direction in impediment.directions)
    for need in routes.missing_parts(desired) if is_inbound else ():
        if need.family == family and (LO_DOWN not in found or isinstance(need, MissingRoute)):  # addresses go with lo
            yield missing_route_cause(need)


def _reject_table_causes(connection: Connection) -> Iterator[Cause]:
    """Yield a cause if TCP of a family that is not captured is to be rejected, and is not."""
    traced, packet, reference = connection.traced, connection.traced.packet, connection.pod.reference
    if reference is None or packet.family in reference.config.families:
        return
    is_let_pass = packet.protocol == "tcp" and traced.outcome == "direct" and traced.step is None
    if is_let_pass and packet.out_interface != LOOPBACK:
        fault = reject_fault(reference.config.families, reference.settings, has_table=False)
        yield from [cause("rule-missing", "family", message=fault)] if fault else []


def _rule_causes(connection: Connection) -> Iterator[Cause]:
    """Yield why rules do not lead a packet to a proxy that listens: foreign ones, and those that differ."""
    traced = connection.traced
    if not traced.is_order_known:
        yield from (each for each in (_unjudged_cause(traced, connection.verify),) if each.kind == "second-set")
        return
    complete = traced.packet.replace(source_port=traced.packet.source_port or EPHEMERAL_PORT)
    desired = trace_whole_path(complete, Situation(connection.pod.desired))
    causes = list(causes_of_connection(traced, desired, connection.pod.facts, connection.pod.capture, shown_rule))
    missing = missing_rule_cause(desired)
    is_diverted = desired.outcome in TO_PROXY and traced.outcome in ("direct", "redirected")
    is_diverted |= any(is_own_step(step) and not step.is_certain for step in traced.path)
    by_drift = drift_cause(traced, connection.verify()) if is_diverted or missing in causes else None
    yield from (each for each in causes if by_drift is None or each != missing)
    if by_drift is not None:
        yield by_drift


def _sent_on_causes(connection: Connection, find: Callable[[Trace], Iterable[Cause]]) -> Iterator[Cause]:
    """Yield why what the proxy sends on is lost. Which server an agent that captures all DNS asks is unknown."""
    traced, reference = connection.traced, connection.pod.reference
    packet, servers = traced.packet, reference.config.name_servers if reference else ()
    causes = [*find(traced)]
    if causes and traced.outcome == DNS and packet.destination not in servers:
        elsewhere = packet.replace(destination=OUTSIDE[packet.family], source=None, out_interface=None)
        if not [*find(live_trace(elsewhere, connection.pod.situation))]:
            causes = [cause("unjudged", "agent", where=each.where, lost=each.message) for each in causes]
    yield from causes


def _routing_causes(connection: Connection) -> Iterator[Cause]:
    """Yield why routing loses what the proxy sends, or the answers to a connection that comes in."""
    traced, owner = connection.traced, connection.owner
    unrouted = list(_sent_on_causes(connection, lambda each: unrouted_proxy_causes(each, connection.pod)))
    yield from unrouted
    yield from link_causes(traced)
    lost = None if unrouted else answers_cause(traced, owner[0] if owner else None)
    if lost is not None:
        yield no_route_cause(connection.pod.facts, traced.packet.family, str(lost.words["address"]), "answers")


RECENT = 30
"""Seconds after which it cannot be told of a neighbour whether it answers: Envoy waits no longer between attempts."""


def link_causes(traced: Trace, *, are_recent: bool = True) -> Iterator[Cause]:
    """Yield why what the pod sends comes to nothing outside: by its source, or by a next hop that does not answer.

    If it did not answer earlier, that is a note, yielded alone. For answers it means nothing: who calls the pod mostly
    asks for it first, and is known from then on (arp_process).
    IPv6 takes ::6 as the source where no address of the interface is in use (ipv6_get_saddr_eval in addrconf.c).
    """
    packet, name = traced.packet, traced.packet.out_interface
    if packet.in_interface or name == LOOPBACK or traced.outcome not in (*TO_PROXY, "direct"):
        return
    address, flag = packet.destination.shown, "-6 " if packet.family == IPV6 else ""
    if are_recent and packet.source == PASSTHROUGH_SOURCE[packet.family]:
        yield cause("no-route", "source", where=name, name=name, address=address)
    silent, seconds = silent_next_hop(packet)
    if silent and are_recent == (seconds <= RECENT):
        case = "neighbour" if are_recent else "neighbour, earlier"
        yield cause("no-route", case, where=name, name=name, address=silent, flag=flag, seconds=seconds)


def unrouted_proxy_causes(traced: Trace, pod: ExaminedPod) -> Iterator[Cause]:
    """Yield a cause if routing loses what the proxy sends on, the answers to that, or its answers to what comes in."""
    packet = traced.packet
    destination = packet.destination if packet.in_interface is None else packet.source
    if traced.outcome not in TO_PROXY or destination is None or not pod.capture.uids:
        return
    uid = next((each.uid for each in pod.facts.listeners or () if each.port == traced.port), pod.capture.uids[0].first)
    if refuses_user(packet.replace(destination=destination), uid):
        flag = "-6 " if packet.family == IPV6 else ""
        yield cause("no-route", "proxy", uid=uid, address=destination.shown, flag=flag)
    elif packet.in_interface is None and packet.out_interface != LOOPBACK:
        came = replies_on_way(traced.replace(outcome="direct", port=packet.port), pod.situation)
        yield from filter(None, (arrival_cause(trace_whole_path(each, pod.situation)) for each in came))


def _source_notes_on(connection: Connection) -> Iterator[Cause]:
    situation, owner = connection.pod.situation, connection.owner
    sent_on = onward_packet(connection.traced, *owner) if owner else None
    yield from source_notes(situation, shown_rule, live_trace(sent_on, situation) if sent_on else connection.traced)


def socket_lb_causes(packet: Packet | None = None) -> Iterator[Cause]:
    """Yield whose programs translate the packet's destination at connect(); without one, whose may do so."""
    names = connect_programs(packet.family if packet else IPV4)
    translated = socket_translation(packet) if names and packet else None
    if not names or (packet and translated is None):
        return
    owner = owner_of(names)
    if translated is None:
        yield cause("translated-before", "may", where=names[0], owner=owner)
    else:
        address, port = translated
        yield cause("translated-before", where=names[0], owner=owner, address=address, port=port)


def onward_causes(traced: Trace, pod: ExaminedPod, verify: Callable[[], Verified]) -> Iterator[Cause]:
    """Yield a cause if what the proxy sends on, to others or to the app, is dropped, or would come back to it."""
    owner, situation = proxy_owner(pod.facts, pod.capture), pod.situation
    packet = onward_packet(traced, *owner) if owner else None
    if packet is None or (handing_over(traced) and not pod.capture.is_transparent):  # it gets none of these
        return
    sent, is_over_lo = live_trace(packet, situation), packet.out_interface == LOOPBACK
    call = packet.replace(out_interface=None, source=None, source_port=None)  # whatever its ends are
    answers = [trace_whole_path(each, situation) for each in replies_on_way(sent, situation)]
    if sent.outcome == "dropped":
        yield drop_of_connection(sent, shown_rule, SENT_ON)
    elif sent.outcome == traced.outcome:
        yield _loop_cause(sent, verify)
    elif sent.reroute is not None and (step := marking_step(sent)):
        yield _rerouted_cause(sent.reroute, sent, step, SENT_ON)
    elif sent.outcome == "no-route" or (is_over_lo and with_route(call).out_interface == NO_ROUTE):
        refusal = "to app" if is_over_lo else sent.refusal
        yield refusal_cause(packet.family, packet.destination.shown, refusal)
    elif is_over_lo and sent.is_marked != traced.transparent:
        # The mark of its calls stays with the connection, and leads the answers of the app to a transparent proxy.
        yield from filter(None, [mark_cause(sent, shown_rule) or drift_cause(sent, verify(), "mark")])
    elif traced.transparent and answers and answers[0].outcome != "dropped" and answers[0].mark != sent.connection_mark:
        yield from filter(None, [mark_cause(answers[0], shown_rule) or drift_cause(answers[0], verify(), "mark")])
    elif is_over_lo and sent.fate.replace(is_marked=False) != Fate("direct"):
        yield _diverted_cause(sent, verify)
    elif sent.outcome == "direct":
        following = list(lost_later_packets(sent, situation, owner))
        certain = [later for later in following if later.is_certain and (is_over_lo or later.outcome == "dropped")]
        lost = [_loss_cause(loss, f"answers to {SENT_ON}" if loss.packet.is_reply else SENT_ON) for loss in certain]
        yield from lost[:1] or _doubts((sent, *following), verify)
        marked = (each for each in answers if pod.capture.is_transparent and each.is_marked and not is_over_lo)
        yield from filter(None, [mark_cause(reply, shown_rule) for reply in marked])


def _diverted_cause(sent: Trace, verify: Callable[[], Verified]) -> Cause:
    """Return which rule sends a call of the proxy to the app elsewhere: to another end, or to the proxy again."""
    step, case = sent.step, "circle" if sent.outcome in TO_PROXY else ""
    own = _second_set_cause(step) if step else None
    if own is None and step is not None and is_own_step(step):
        own = drift_cause(sent, verify(), case, uid=sent.packet.uid)
    called = sent.packet.destination if sent.outcome == "direct" else LOOPBACK_ADDRESSES[sent.packet.family]
    destination = f"{(sent.address or called).shown} port {sent.port}"
    return own or cause("nat-first", "sent on", where=sent.location, to=destination)


def _loop_cause(traced: Trace, verify: Callable[[], Verified]) -> Cause:
    step, uid = traced.step, traced.packet.uid
    if step is not None and not is_own_step(step):
        if second_set := _second_set_cause(step):
            return second_set
        return cause("foreign-rule", "circle", where=step.location, uid=uid, rule=_rule_text(step))
    known = mark_cause(traced, shown_rule) if traced.transparent else drift_cause(traced, verify(), "circle", uid=uid)
    return known or cause("rule-missing", "circle, any", uid=uid)


def _rerouted_cause(route: MarkRoute, sent: Trace, step: Step, subject: str) -> Cause:
    where, rule, by, name = step.location, _rule_text(step), route.words, sent.interface
    return cause(
        "foreign-rule", "elsewhere", where=where, rule=rule, mark=sent.mark, route=by, name=name, subject=subject
    )


def _loss_cause(traced: Trace, subject: str) -> Cause:
    if traced.outcome in TO_PROXY:
        return cause("rule-missing", "answers", where=traced.location)
    step = marking_step(traced)
    if traced.outcome == "direct" and traced.reroute is not None and step is not None:
        return _rerouted_cause(traced.reroute, traced, step, subject)
    return untracked_cause(traced) or drop_cause(traced, shown_rule, subject=subject)


def discovery_causes(own: Network | None, link: str | None, situation: Situation) -> Iterator[Cause]:
    """Yield what drops neighbour discovery (RFC 4861), without which no IPv6 packet finds its way over a link.

    Connections are possible while the kernel knows a neighbour there; where its own answers are dropped, only while
    one has answered shortly before.
    """
    if own is None or own.family != IPV6 or link is None or link == LOOPBACK:
        return
    for packet in (
        *(each.replace(destination=own, in_interface=link) for each in DISCOVERY),
        *(each.replace(source=own, in_interface=None, out_interface=link) for each in DISCOVERY),
    ):
        traced = trace_whole_path(packet, situation)
        is_lost = traced.outcome == "dropped" and traced.is_certain
        if is_lost and not knows_neighbour(link, is_confirmed=packet.source == own):
            yield drop_cause(traced, shown_rule, subject="neighbour discovery (ICMPv6)")
            return


def ipsec_policies() -> tuple[list[IpsecPolicy], list[Cause]]:
    """Return the IPsec policies, or the note that they cannot be read."""
    try:
        return read_policies(), []
    except CaptureError as error:
        return [], [cause("unjudged", "IPsec", reason=error.message)]


CHECKS: tuple[tuple[Callable[[Connection], Iterable[Cause]], bool], ...] = (
    (lambda each: () if each.is_inbound else socket_lb_causes(each.traced.packet), False),
    (_reject_table_causes, False),
    (lambda each: filter(None, [arrival_cause(each.traced)]), False),
    (_rule_causes, False),
    (lambda each: _sent_on_causes(each, lambda traced: onward_causes(traced, each.pod, each.verify)), False),
    (_zone_causes, True),
    (_later_causes, True),
    (_discovery_causes, True),
    (_delivery_causes, False),
    (_routing_causes, True),
    (_ipsec_causes, False),
)
"""The checks along the path of a connection, after those of the pod; with True, only if none has found a cause yet."""
