"""``why``: whether a connection reaches a proxy that listens, and if not, why not."""

from __future__ import annotations

from capture.analysis.base_chains import Situation
from capture.analysis.captured_pod import Capture, PodFacts
from capture.analysis.cause_text import Cause, cause, for_machine, without_record
from capture.analysis.causes import (
    causes_of_connection,
    drop_cause,
    drop_of_connection,
    is_own,
    place_of,
    untracked_cause,
)
from capture.analysis.ipsec import policy_for
from capture.analysis.outcome import PROXY_OUTBOUND, TO_PROXY, Fate
from capture.analysis.pod_causes import (
    app_elsewhere,
    causes_of_pod,
    causes_of_proxy,
    default_route_causes,
    no_route_cause,
    notes_on_proxy,
    stops,
)
from capture.analysis.trace import Trace, trace_whole_path
from capture.backends import detect, load
from capture.errors import CaptureError
from capture.model.addresses import FAMILY_NAMES, FAMILY_NUMBERS, IPV4, IPV6, LOOPBACK_ADDRESSES, Network, address_text
from capture.model.conventions import APP_ID, PASSTHROUGH_SOURCE
from capture.model.packet import LOOPBACK, USUAL_SOURCE_PORT, Packet
from capture.model.routing import MissingRoute
from capture.model.ruleset import Ruleset
from capture.model.values import Value
from capture.netlink.interfaces import NUD_CONFIRMED, NUD_KNOWN, knows_neighbours
from capture.netlink.ipsec import IpsecPolicy, read_policies
from capture.netlink.rtnetlink import open_route
from capture.operations import host_of, reference, trace, verify
from capture.operations.comparison import families_with_rules, own_rules_of, reject_fault
from capture.operations.drift_causes import (
    SENT_ON,
    USUAL,
    delivery_causes,
    drift_cause,
    drift_causes,
    missing_route_cause,
    rule_of,
    unjudged_notes,
    usual_traces,
)
from capture.operations.exclusions import (
    empty_capture_causes,
    exclusion_notes,
    no_record_note,
    notes_without_record,
    ports_of,
    with_options,
)
from capture.operations.inference import inferred_settings
from capture.operations.no_rules import no_rules_cause
from capture.operations.tracing import live_situation
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig, resolve
from capture.state import routes
from capture.state.capabilities import escapes_of
from capture.state.impediments import impediments
from capture.state.netns import InNamespace
from capture.state.pod_facts import read_facts
from capture.state.pod_network import lost_by_routing
from capture.state.socket_lb import connect_programs, owner_of, translation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.operations import Reference
    from capture.operations.arguments import Namespace
    from capture.operations.results import Verified
    from capture.settings.settings import Settings

NEIGHBOUR = Network(IPV6, 0xFE80 << 112 | 1, 128)
"""A router on the link."""
MISSING_RULE = "rule-missing"
NOT_CAPTURED = ("no-rules", "left-alone", "host-network", "family-not-captured", "excluded")
"""Causes for which nothing of a pod is captured; with any other something is, and breaks."""


class Diagnosis(Value):
    """The result of ``why``: ``causes`` break the connection (or, without one, the pod), ``notes`` do not.

    ``is_certain`` is False where a rule on the way cannot be judged, and no cause was found.
    """

    packet: Packet | None
    trace: Trace | None
    causes: tuple[Cause, ...]
    notes: tuple[Cause, ...] = ()
    is_certain: bool = True

    @property
    def verdict(self) -> str:
        """Return the verdict on the connection, or on the pod."""
        if not self.causes:
            return "captured" if self.is_certain else "cannot be told"
        if self.trace is None:
            return "not captured" if any(each.kind in NOT_CAPTURED for each in self.causes) else "broken"
        is_second_set = any(each.kind == "second-set" for each in self.causes)
        if self.trace.outcome == "direct":
            return "broken" if self.trace.impediments else "not captured"
        goes_past = self.trace.outcome == "redirected" and not is_second_set
        return "not captured" if goes_past else "broken"

    def with_remedies(self, changed: Callable[[str], str]) -> Diagnosis:
        """Return the diagnosis with other words for what to do."""
        causes, notes = (tuple(e.replace(remedy=changed(e.remedy)) for e in each) for each in (self.causes, self.notes))
        return self.replace(causes=causes, notes=notes)


def why(
    packet: Packet | None = None,
    settings: Settings | None = None,
    namespace: Namespace = None,
    *,
    process: int | None = None,
    is_machine: bool = False,
) -> Diagnosis:
    """Return why a connection does not reach the proxy; without one, everything that is wrong with the pod.

    ``process`` is the one that opens the connection: a note names how it may leave the capture. The reference are the
    settings, else the recorded ones, else those that the live rules amount to. A machine is captured itself, and is no
    node with pods. Raises CaptureError.
    """
    with InNamespace(namespace):
        known, facts, capture = _expected(settings, namespace)
        is_recorded = settings is None and known is not None
        of_pod = list(causes_of_pod(facts, capture))
        if not detect.find_live_sets():
            causes = [each for each in of_pod if packet is None and stops(each, capture)]
            causes.append(no_rules_cause(is_machine=is_machine, is_recorded=is_recorded))
            found = Diagnosis(packet, None, tuple(causes), tuple(each for each in of_pod if each not in causes))
        elif packet is not None:
            found = _of_connection(packet, settings, known, facts, capture, of_pod)
            found = found.replace(notes=(*found.notes, *_escape_notes(process)))
        else:
            found = _of_pod(verify(settings, prefer_recorded=settings is None), known, facts, capture, of_pod)
        if is_machine and is_recorded:
            return found.with_remedies(for_machine)
        return found if is_recorded else found.with_remedies(without_record)


def check_proxy(url: str, settings: Settings | None = None, namespace: Namespace = None) -> tuple[Cause, ...]:
    """Return where Envoy's listeners, read from its admin interface, do not fit the capture. Raises CaptureError."""
    from capture.analysis.envoy_listeners import causes_of_listeners, listeners_of
    from capture.state.proxy_admin import read_config_dump

    with InNamespace(namespace):
        known, _, capture = _expected(settings, namespace)
        mark = (known.config if known else CaptureConfig()).tproxy_mark
        return tuple(causes_of_listeners(tuple(listeners_of(read_config_dump(url))), capture, mark))


def _expected(settings: Settings | None, namespace: Namespace) -> tuple[Reference | None, PodFacts, Capture]:
    """Return the settings, or the recorded ones, and what they expect of the proxy; else what the live rules expect."""
    known = reference(settings, host=host_of(namespace))
    config = known.config if known else _inferred_config(namespace)
    facts = read_facts(config.proxy_uids)
    capture = Capture(
        ports_of(_desired(known), facts),
        config.proxy_uids,
        config.proxy_gids,
        config.is_transparent,
        config.families,
        config.excluded_interfaces,
    )
    return known, facts, capture


def _desired(known: Reference | None) -> Ruleset:
    """Return the desired rules; without a reference our own live ones."""
    return build_ruleset(known.config) if known else own_rules_of(_live())


def _inferred_config(namespace: Namespace) -> CaptureConfig:
    try:
        own = own_rules_of(_live())
        config, _ = resolve(inferred_settings(own), host_of(namespace))
        return config.replace(families=families_with_rules(own) or config.families)
    except CaptureError:
        return CaptureConfig()


def _of_pod(
    verified: Verified, known: Reference | None, facts: PodFacts, capture: Capture, of_pod: list[Cause]
) -> Diagnosis:
    policies, unread = _ipsec_policies()
    stopping = [each for each in of_pod if stops(each, capture)]
    causes = (
        *stopping,
        *empty_capture_causes(known, facts, capture),
        *default_route_causes(facts, capture),
        *causes_of_proxy(facts, capture),
        *drift_causes(verified, facts),
        *_usual_causes(facts, capture, policies),
        *(() if known else _circles(facts, capture)),
    )
    if not causes and IPV6 in capture.families:
        own = next((address for address in facts.addresses if address.family == IPV6), None)
        causes = tuple(_discovery_causes(own, next((link.name for link in facts.links if not link.is_loopback), None)))
    notes = (
        *notes_on_proxy(facts, capture),
        *(
            exclusion_notes(known, facts, capture, verified)
            if known
            else notes_without_record(
                facts, capture, ports_of(build_ruleset(_inferred_config(None)), facts), _desired(known)
            )
        ),
        *_socket_lb_causes(),
        *(each for each in of_pod if each not in stopping),
        *unjudged_notes(verified),
        *unread,
    )
    is_certain = known is not None and verified.is_judged and not unread
    return Diagnosis(None, None, tuple(dict.fromkeys(causes)), notes, is_certain)


def _of_connection(
    packet: Packet,
    settings: Settings | None,
    known: Reference | None,
    facts: PodFacts,
    capture: Capture,
    of_pod: list[Cause],
) -> Diagnosis:
    live = trace(packet)
    causes = [each for each in of_pod if stops(each, capture, live)]
    is_inbound = packet.in_interface is not None
    direction = "inbound" if is_inbound else "outbound"
    desired = _desired(known)
    found = [*causes, *(() if is_inbound else _socket_lb_causes(packet))]
    found += _reject_causes(live, known)
    found += _rule_causes(live, desired, settings, facts, capture)
    found += _causes_behind_the_proxy(live, settings, capture)
    following = [] if found or live.outcome not in TO_PROXY else list(_following(live, capture))
    found += [_loss(each) for each in following if each.certain][:1]
    if is_inbound and not found:
        found += _routing_causes(live, facts)
    if not found and live.outcome in TO_PROXY:
        at_link = live.packet.destination if is_inbound else live.packet.source
        found += _discovery_causes(at_link, live.packet.in_interface or live.packet.out_interface)
    policies, unread = _ipsec_policies()
    policy = next(filter(None, (policy_for(each, policies) for each in (live.packet, *_answers(live, capture)))), None)
    if policy is not None and policy.is_blocking:
        found.append(cause("ipsec", policy=policy.words))
    if is_inbound or live.outcome in TO_PROXY:
        here = (each for each in impediments(desired) if each.family in (None, packet.family))
        found += delivery_causes(each for each in here if direction in each.directions)
        missing = (need for need in routes.missing(desired) if isinstance(need, MissingRoute) and is_inbound)
        found += [missing_route_cause(need) for need in missing if need.family == packet.family]
    if known is not None:
        found = [with_options(each, live.packet, known) for each in found]
    doubts = [each for each in found if each.kind == "unjudged"]
    notes = [*doubts] if known else [*doubts, no_record_note(desired)]
    unsure = next((step for step in live.path if not step.certain), None)
    if unsure is not None:
        words = unsure.rule.why or rule_of(unsure.rule, packet.family)
        name = "unjudged" if live.is_order_known else "unjudged: order"
        notes.append(cause(name, place_of(unsure), rule=words))
    notes += [*unread, *app_elsewhere(live, facts), *(each for each in of_pod if each not in causes)]
    if policy is not None and not policy.is_blocking:
        notes.append(cause("ipsec: encrypted", policy=policy.words))
    is_certain = live.certain and not (unread or doubts) and all(each.certain for each in following)
    causes = [each for each in found if each not in doubts]
    return Diagnosis(live.packet, live, tuple(causes), tuple(notes), is_certain)


def _routing_causes(live: Trace, facts: PodFacts) -> Iterator[Cause]:
    """Yield why routing loses a connection that comes in, or the answers to it."""
    packet = live.packet
    client = address_text(packet.family, packet.source.first) if packet.source else ""
    lost = lost_by_routing(packet, is_redirected=live.outcome in TO_PROXY and not live.transparent)
    if lost == "answers":
        yield no_route_cause(facts, packet.family, client)
    elif lost:
        flag, family = "-6 " if packet.family == IPV6 else "", FAMILY_NAMES[packet.family]
        name = {"interface": "no-route: interface", "inbound": "no-route: inbound"}[lost]
        yield cause(name, name=packet.in_interface, family=family, address=client, flag=flag)


def _rule_causes(
    live: Trace, desired: Ruleset, settings: Settings | None, facts: PodFacts, capture: Capture
) -> Iterator[Cause]:
    """Yield why rules do not lead a packet to a proxy that listens: foreign ones, and those that differ."""
    if not live.is_order_known:
        return
    sent = live.packet.replace(source_port=live.packet.source_port or USUAL_SOURCE_PORT)
    as_desired = trace_whole_path(sent, Situation(desired))
    found = list(causes_of_connection(live, as_desired, facts, capture, rule_of))
    is_diverted = as_desired.outcome in TO_PROXY and live.outcome in ("direct", "redirected")
    is_drift = is_diverted or MISSING_RULE in [each.kind for each in found]
    by_drift = drift_cause(live, verify(settings, prefer_recorded=settings is None)) if is_drift else None
    yield from (each for each in found if by_drift is None or each.kind != MISSING_RULE)
    if by_drift is not None:
        yield by_drift


def _reject_causes(live: Trace, known: Reference | None) -> Iterator[Cause]:
    """Yield a cause if TCP of a family that is not captured is to be rejected, and is not."""
    sent = live.packet
    is_let_pass = sent.protocol == "tcp" and live.outcome == "direct" and live.step is None
    if known and is_let_pass and sent.family not in known.config.families and sent.out_interface != LOOPBACK:
        fault = reject_fault(known.config.families, known.settings, has_table=False)
        yield from [cause("rule-missing: family", message=fault)] if fault else []


def _ipsec_policies() -> tuple[list[IpsecPolicy], list[Cause]]:
    """Return the IPsec policies, or the note that they cannot be read."""
    try:
        return read_policies(), []
    except CaptureError as error:
        return [], [cause("unjudged: IPsec", reason=error.message)]


def _usual_causes(facts: PodFacts, capture: Capture, policies: list[IpsecPolicy]) -> Iterator[Cause]:
    """Yield what stops connections to outside though there is a default route: a policy rule, or IPsec."""
    if IPV4 in facts.unrouted or all(address.family != IPV4 for address in facts.addresses):
        return
    live = trace(USUAL)
    if live.outcome == "no-route" and capture.captures(PROXY_OUTBOUND, IPV4):
        yield no_route_cause(facts, IPV4, address_text(IPV4, USUAL.destination.first))
    policy = policy_for(live.packet, policies)
    if policy is not None and policy.is_blocking:
        yield cause("ipsec", policy=policy.words)


def _escape_notes(process: int | None) -> Iterator[Cause]:
    """Yield a note with the capabilities by which a process may escape; they do not show that it does so."""
    escapes = escapes_of(process) if process is not None else ()
    if escapes:
        yield cause("privileged", f"process {process}", process=process, escapes=", ".join(escapes))


def _live() -> Ruleset:
    """Return the first set of live rules; an empty one without any."""
    return next((load(found.choice).read() for found in detect.find_live_sets()), Ruleset((), ()))


def _socket_lb_causes(packet: Packet | None = None) -> Iterator[Cause]:
    """Yield whose programs translate the packet's destination at connect(); without one, whose may do so."""
    names = connect_programs(packet.family if packet else IPV4)
    found = translation(packet) if names and packet else None
    if not names or (packet and found is None):
        return
    owner = owner_of(names)
    if found is None:
        yield cause("translated-before: may", names[0], owner=owner)
    else:
        yield cause("translated-before", names[0], owner=owner, address=found.address, port=found.port)


def _causes_behind_the_proxy(live: Trace, settings: Settings | None, capture: Capture) -> Iterator[Cause]:
    """Yield a cause if what the proxy sends on, to others or to the app, is dropped, or would come back to it."""
    packet = live.packet
    if not capture.uids or not capture.gids:
        return
    uid, gid = capture.uids[0].first, capture.gids[0].first
    if live.outcome == "proxy-inbound" and packet.in_interface is not None and not live.transparent:
        packet = packet.replace(source=PASSTHROUGH_SOURCE[packet.family], in_interface=None, out_interface=LOOPBACK)
    elif live.outcome != "proxy-outbound" or packet.in_interface is not None:
        return
    sent_on = trace(packet.replace(uid=uid, gid=gid))
    if sent_on.outcome == "dropped":
        yield drop_of_connection(sent_on, rule_of, SENT_ON)
    elif packet.out_interface == LOOPBACK and sent_on.fate not in (Fate("direct"), Fate(live.outcome, live.port)):
        to = f"{address_text(packet.family, (sent_on.address or packet.destination).first)} port {sent_on.port}"
        yield cause("nat-first: sent on", place_of(sent_on.step), to=to)
    elif packet.out_interface == LOOPBACK:
        yield from [_loss(each, SENT_ON) for each in _following(sent_on, capture) if each.certain][:1]
    if sent_on.outcome != live.outcome:
        return
    step = sent_on.step
    if step is None or is_own(step):
        verified = verify(settings, prefer_recorded=settings is None)
        by_drift = drift_cause(sent_on, verified, ("rule-unexpected: circle", "rule-missing: circle"), uid=uid)
        yield by_drift or cause("rule-missing: circle, any", uid=uid)
    else:
        rule = step.rule.why or rule_of(step.rule, live.packet.family)
        yield cause("foreign-rule: circle", place_of(step), uid=uid, rule=rule)


def _circles(facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield a cause if the proxy's part of a usual connection is lost, whatever was applied."""
    for live in usual_traces(facts):
        yield from _causes_behind_the_proxy(live, None, capture)


def _following(live: Trace, capture: Capture) -> Iterator[Trace]:
    """Yield how later packets and answers of a connection to the proxy, or to the app, are dropped, or may be."""
    situation = live_situation()
    mark = live.packet.mark
    for packet in (live.packet.replace(state="ESTABLISHED"), *_answers(live, capture)):
        traced = trace_whole_path(
            packet.replace(mark=mark if packet.in_interface == LOOPBACK else packet.mark), situation
        )
        mark = traced.mark  # which an answer keeps over lo
        is_lost = traced.outcome == "dropped" or not (live.transparent or untracked_cause(traced) is None)
        is_lost |= packet.is_answer and traced.outcome in TO_PROXY  # whose socket is not transparent
        if is_lost or not traced.certain:
            yield traced


def _loss(traced: Trace, what: str = "the packet") -> Cause:
    """Return why a later packet or an answer of a connection is lost."""
    if traced.outcome in TO_PROXY:
        return cause("rule-missing: answers", place_of(traced.step))
    return untracked_cause(traced) or drop_cause(traced, rule_of, what=what)


def _discovery_causes(own: Network | None, link: str | None) -> Iterator[Cause]:
    """Yield what drops neighbour discovery (RFC 4861), without which no IPv6 packet finds its way over a link.

    As long as the kernel still knows a neighbour there, connections are possible; where its own answers are dropped,
    one that has answered shortly before.
    """
    if own is None or own.family != IPV6 or link is None or link == LOOPBACK:
        return
    for packet, states in (
        (Packet("ipv6-icmp", own, 0, source=NEIGHBOUR, in_interface=link, state="UNTRACKED"), NUD_KNOWN),
        (Packet("ipv6-icmp", NEIGHBOUR, 0, source=own, out_interface=link, state="UNTRACKED"), NUD_CONFIRMED),
    ):
        traced = trace_whole_path(packet, live_situation())
        with open_route() as route:
            is_lost = traced.outcome == "dropped" and traced.certain
            if is_lost and not knows_neighbours(route, FAMILY_NUMBERS[IPV6], link, states):
                yield drop_cause(traced, rule_of, what="neighbour discovery (ICMPv6)")
                return


def _answers(live: Trace, capture: Capture) -> Iterator[Packet]:
    """Yield an answer to a connection as it leaves, and as one over lo comes in again, from whom was called."""
    sent, uids, gids = live.packet, capture.uids, capture.gids
    if sent.source is None or not uids or not gids:
        return
    back = Packet(
        sent.protocol, sent.source, sent.source_port or USUAL_SOURCE_PORT, state="ESTABLISHED", is_answer=True
    )
    is_of_proxy = live.outcome in TO_PROXY
    own = LOOPBACK_ADDRESSES[sent.family] if is_of_proxy and not sent.in_interface else sent.destination
    port = sent.port if live.transparent else live.port
    uid, gid = (uids[0].first, gids[0].first) if is_of_proxy else (APP_ID, APP_ID)
    owner = back.replace(source=own, source_port=port, uid=uid, gid=gid)
    if sent.in_interface:
        yield owner.replace(out_interface=sent.in_interface)
        return
    yield owner.replace(out_interface=LOOPBACK)
    yield back.replace(source=sent.destination, source_port=sent.port, in_interface=LOOPBACK)
