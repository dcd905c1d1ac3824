"""``why``: whether a connection reaches a proxy that listens, and if not, why not.

The path of a question::

    comparison, else inference     what should be captured: given settings, recorded ones, or those of live rules
    tracing; system.pod_facts      what there is: rules and routes; interfaces, addresses, listeners
    connection                     for one connection: each check along its way (``CHECKS``)
    drift_causes, exclusions       for the pod: what ``verify`` finds, and what the settings leave out
    removal                        to each foreign rule that was found: the command that removes it

``analysis`` has what is pure: ``pod_causes``, ``causes`` and ``replies`` find causes, ``cause_text`` words them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial

from capture.analysis.base_chains import Situation
from capture.analysis.captured_pod import Capture
from capture.analysis.cause_text import REAPPLY_OR_RECREATE, cause, machine_remedy, remedy_without_record
from capture.analysis.causes import drop_cause, source_notes
from capture.analysis.outcome import PROXY_INBOUND, PROXY_OUTBOUND
from capture.analysis.pod_causes import (
    app_ports,
    can_stop_connection,
    causes_of_pod,
    causes_of_proxy,
    default_route_causes,
    notes_on_proxy,
    unjudged_programs,
)
from capture.analysis.replies import OUTSIDE
from capture.analysis.trace import Trace
from capture.backends import detect
from capture.backends.iptables.render import shown_rule
from capture.errors import argument_error
from capture.model.addresses import FAMILY_NAMES
from capture.model.conventions import APP_ID
from capture.model.location import Cause, Location
from capture.model.packet import Packet
from capture.model.values import Value
from capture.netlink.ipsec import IpsecPolicy
from capture.operations import host_of, read_reference, verify
from capture.operations.arguments import Namespace
from capture.operations.comparison import own_ruleset
from capture.operations.connection import (
    Connection,
    faults_of,
    ipsec_policies,
    is_doubtful,
    link_causes,
    notes_on,
    onward_causes,
    socket_lb_causes,
)
from capture.operations.drift_causes import drift_causes, unjudged_notes
from capture.operations.exclusions import (
    empty_capture_causes,
    exclusion_notes,
    is_proven_without_record,
    no_record_note,
    notes_without_record,
    other_servers_notes,
    ports_of,
    uncaptured_cause,
    uncaptured_directions,
    with_option_remedy,
)
from capture.operations.inference import inferred_config
from capture.operations.removal import with_removals
from capture.operations.results import Verified
from capture.operations.situation import ExaminedPod
from capture.operations.tracing import live_situation, live_trace
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from capture.settings.settings import Settings, require_settings
from capture.state import attachments
from capture.system.capabilities import escapes_of
from capture.system.netns import InNamespace, own_namespace
from capture.system.node import evidence_of_host
from capture.system.pod_facts import read_facts

NOT_CAPTURED = ("no-rules", "left-alone", "host-network", "family-not-captured", "excluded")
"""Causes for which nothing of a pod is captured; with any other something is, and breaks."""


USUAL_PORT = 80
"""That of a server outside, and of an app where none listens, to which usual connections go."""


class Diagnosis(Value):
    """The result of ``why``: ``causes`` break the connection (or, without one, the pod), ``notes`` do not.

    ``is_certain`` is whether everything could be judged; it counts where no cause was found. ``uncaptured`` is which
    connections of a captured pod its settings leave out, in words: "nothing outbound".
    """

    packet: Packet | None
    trace: Trace | None
    causes: tuple[Cause, ...]
    notes: tuple[Cause, ...] = ()
    is_certain: bool = True
    uncaptured: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Return the verdict on the connection, or on the pod."""
        if not self.causes:
            return "captured" if self.is_certain else "cannot be told"
        kinds = {each.kind for each in self.causes}
        if self.trace is None:
            is_captured = kinds.isdisjoint(NOT_CAPTURED)
        elif self.trace.outcome == "direct":
            is_captured = bool(self.trace.impediments)
        else:
            is_captured = self.trace.outcome != "redirected" or "second-set" in kinds
        return "broken" if is_captured else "not captured"

    def with_commands(self, changed: Callable[[str], str]) -> Diagnosis:
        """Return the diagnosis with other words for what to do, which messages may name, too."""

        def with_changed_words(causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
            return tuple(each.replace(message=changed(each.message), remedy=changed(each.remedy)) for each in causes)

        return self.replace(causes=with_changed_words(self.causes), notes=with_changed_words(self.notes))


def why(
    packet: Packet | None = None,
    settings: Settings | None = None,
    namespace: Namespace = None,
    *,
    process: int | None = None,
    is_machine: bool = False,
) -> Diagnosis:
    """Return why a connection does not reach the proxy; without one, everything that is wrong with the pod.

    ``settings`` are the reference; without them it is the recorded ones, else those that the live rules amount to.
    ``process`` is the one that opens the connection: a note names how it may leave the capture. ``is_machine``: the
    namespace is that of a captured machine, whose remedies are other commands. Raises CaptureError.
    """
    if packet is not None and not isinstance(packet, Packet):
        raise argument_error("why", "packet", packet, "the packet of what trace_packet() returns")
    settings = None if settings is None else require_settings(settings, "why")
    with InNamespace(namespace):
        live_sets = detect.find_live_sets()
        pod = _examine_pod(settings, namespace, live_situation(live_sets))
        is_recorded = settings is None and pod.reference is not None
        of_pod = list(causes_of_pod(pod.facts, pod.capture))
        if not live_sets:
            causes = [each for each in of_pod if packet is None and can_stop_connection(each)]
            causes.append(_no_rules_cause(is_machine=is_machine, is_recorded=is_recorded))
            diagnosis = Diagnosis(packet, None, tuple(causes), tuple(each for each in of_pod if each not in causes))
        elif packet is not None:
            diagnosis = _diagnose_connection(packet, pod, settings)
            diagnosis = diagnosis.replace(notes=(*diagnosis.notes, *_escape_notes(process)))
            diagnosis = diagnosis.replace(causes=with_removals(diagnosis.causes, live_sets[0].choice, namespace))
        else:
            verified = verify(settings, prefer_recorded=settings is None)
            diagnosis = _diagnose_pod(verified, pod, of_pod)
            diagnosis = diagnosis.replace(notes=(*diagnosis.notes, *other_servers_notes(pod.reference, namespace)))
            diagnosis = diagnosis.replace(causes=with_removals(diagnosis.causes, verified.choice, namespace))
        if is_machine and is_recorded:
            return diagnosis.with_commands(machine_remedy)
        return diagnosis if is_recorded else diagnosis.with_commands(remedy_without_record)


def check_proxy(url: str, settings: Settings | None = None, namespace: Namespace = None) -> tuple[Cause, ...]:
    """Return where Envoy's listeners, read from its admin interface, do not fit the capture. Raises CaptureError."""
    from capture.analysis.envoy_listeners import causes_of_listeners, listeners_of
    from capture.system.proxy_admin import read_config_dump

    with InNamespace(namespace):
        pod = _examine_pod(settings, namespace, live_situation())
        mark = (pod.reference.config if pod.reference else CaptureConfig()).tproxy_mark
        return tuple(causes_of_listeners(tuple(listeners_of(read_config_dump(url))), pod.capture, mark))


def _examine_pod(settings: Settings | None, namespace: Namespace, situation: Situation) -> ExaminedPod:
    """Return the pod with the rules and the proxy that the settings, or the recorded ones, expect; else live rules."""
    reference = read_reference(settings, host=host_of(namespace))
    own = own_ruleset(situation.ruleset)
    config = reference.config if reference else inferred_config(own)
    desired = build_ruleset(config) if reference else own
    facts = read_facts(config.proxy_uids)
    capture = Capture(
        ports_of(desired, facts),
        config.proxy_uids,
        config.proxy_gids,
        config.is_transparent,
        config.families,
        config.excluded_interfaces,
    )
    return ExaminedPod(situation, reference, desired, facts, capture)


def _diagnose_pod(verified: Verified, pod: ExaminedPod, of_pod: list[Cause]) -> Diagnosis:
    reference, facts, capture = pod.reference, pod.facts, pod.capture
    policies, unread = ipsec_policies()
    unread += unjudged_programs(facts)
    stopping = [each for each in of_pod if can_stop_connection(each)]
    traces = list(_usual_traces(pod))
    usual = _usual_causes(traces, pod, policies, verified)
    causes = (
        *stopping,
        *empty_capture_causes(reference, facts, capture),
        *default_route_causes(facts, capture),
        *causes_of_proxy(facts, capture),
        *usual,
        *drift_causes(verified, pod, {each.where for each in usual}),
        *(() if reference else (each for traced in traces for each in onward_causes(traced, pod, verify))),
    )
    notes = (
        *notes_on_proxy(facts, capture),
        *(
            exclusion_notes(reference, facts, capture, verified)
            if reference
            else notes_without_record(facts, capture, verified.desired)
        ),
        *socket_lb_causes(),
        *source_notes(pod.situation, shown_rule),
        *(note for each in traces for note in link_causes(each, are_recent=False)),
        *(each for each in of_pod if each not in stopping),
        *unjudged_notes(verified),
        *unread,
    )
    is_certain = reference is not None and verified.is_judged and not unread
    other_families = sorted({address.family for address in facts.addresses}.difference(capture.families))
    without = (
        *(what for _, _, what in uncaptured_directions(reference, facts, capture)),
        *(f"no {FAMILY_NAMES[family]}" for family in other_families),
    )
    return Diagnosis(None, None, tuple(dict.fromkeys(causes)), _notes_for(causes, notes), is_certain, without)


def _diagnose_connection(packet: Packet, pod: ExaminedPod, settings: Settings | None) -> Diagnosis:
    reference, desired = pod.reference, pod.desired
    policies, unread = ipsec_policies()
    traced = live_trace(packet, pod.situation)
    unread += unjudged_programs(pod.facts, traced)
    compare = cache(partial(verify, settings, prefer_recorded=settings is None))
    connection = Connection(traced, pod, tuple(policies), compare)
    faults = faults_of(connection)
    candidates = [each for each in faults if can_stop_connection(each, traced)]
    harmless = [each for each in faults if each not in candidates]
    if reference is not None:
        candidates = [with_option_remedy(candidate, traced.packet, reference) for candidate in candidates]
    else:
        is_proven = partial(is_proven_without_record, traced=traced, own=desired)
        candidates = [each if is_proven(each) else uncaptured_cause() for each in candidates]
    doubts = [candidate for candidate in candidates if candidate.kind == "unjudged" or candidate == uncaptured_cause()]
    causes = [each for each in dict.fromkeys(candidates) if each not in doubts]
    further = (*doubts, *(() if reference else [no_record_note(desired)]), *unread, *notes_on(connection), *harmless)
    is_certain = not (is_doubtful(traced, compare) or unread or doubts)
    return Diagnosis(traced.packet, traced, tuple(causes), _notes_for(causes, further), is_certain)


def _notes_for(causes: Iterable[Cause], notes: Iterable[Cause]) -> tuple[Cause, ...]:
    """Return the notes that no cause tells: what a rule may do is known, where it is the cause."""
    told = {each.where for each in causes if isinstance(each.where, Location)}
    unique = dict.fromkeys(each for each in notes if each not in causes)
    return tuple(each for each in unique if each.kind != "unjudged" or each.where not in told)


OF_ROUTES = ("no-route", "ipsec")


def _usual_causes(
    usual: list[Trace], pod: ExaminedPod, policies: list[IpsecPolicy], verified: Verified
) -> tuple[Cause, ...]:
    """Return what stops usual connections, by which a fault is better told than by the packet that one could think of.

    What stops the first packet, wherever it goes, is told by the traffic for which that is so; what stops what the pod
    sends is told before what stops answers to a client, which it does, too.
    """
    found: dict[Location | Cause, Cause] = {}
    for traced in usual:
        connection = Connection(traced, pod, tuple(policies), lambda: verified, is_usual=True)
        for fault in faults_of(connection):
            if fault.kind == "filtered" and traced.outcome == "dropped":
                told = drop_cause(traced, shown_rule, usual) if fault.words["port"] else None
            else:
                is_repeated = connection.is_inbound and any(each.kind == fault.kind for each in found.values())
                told = fault if fault.kind == "filtered" or (fault.kind in OF_ROUTES and not is_repeated) else None
            if told is not None:
                found.setdefault(told.where if isinstance(told.where, Location) else told, told)
    return tuple(found.values())


def _usual_traces(pod: ExaminedPod) -> Iterator[Trace]:
    """Yield the ways of captured connections to outside, and to each address of the pod, where apps listen."""
    facts, situation = pod.facts, pod.situation
    name = situation.network.interface if any(not link.is_loopback for link in facts.links) else None
    for address in facts.addresses:
        family = address.family
        outside = None if family in facts.families_without_route else OUTSIDE[family]
        if outside and pod.capture.captures(PROXY_OUTBOUND, family):
            yield live_trace(Packet("tcp", outside, USUAL_PORT, uid=APP_ID, gid=APP_ID), situation)
        if name and pod.capture.captures(PROXY_INBOUND, family):
            coming = Packet("tcp", address, USUAL_PORT, outside, in_interface=name)
            to_apps = (live_trace(coming.replace(port=port), situation) for port in app_ports(facts, pod.capture))
            yield from [each for each in to_apps if each.outcome == PROXY_INBOUND] or [live_trace(coming, situation)]


def _escape_notes(process: int | None) -> Iterator[Cause]:
    """Yield a note with the capabilities by which a process may escape; they do not show that it does so."""
    escapes = escapes_of(process) if process is not None else ()
    if escapes:
        yield cause("privileged", where=f"process {process}", process=process, escapes=", ".join(escapes))


LEFT_ALONE_BY = {attachments.EXCLUDED_NAMESPACE: "namespace", attachments.NOT_INJECTED: "not injected"}
"""Cases of the cause by the kind of the plugin's decision."""


def _no_rules_cause(*, is_machine: bool, is_recorded: bool) -> Cause:
    """Return why nothing is applied here: what the CNI plugin decided last, where that is known."""
    reason = cause("no-rules", "machine") if is_machine else _cause_in_pod()
    return reason.replace(remedy=REAPPLY_OR_RECREATE) if is_recorded and reason.kind == "no-rules" else reason


def _cause_in_pod() -> Cause:
    decided = attachments.decision_about(own_namespace())
    if decided is None:
        evidence = evidence_of_host()
        if evidence is None:
            return cause("no-rules")
        return cause("host-network", evidence=f": {evidence}" if evidence else "")
    time, reason = decided.time, decided.reason
    if decided.decision == attachments.LEFT_ALONE:
        return cause("left-alone", LEFT_ALONE_BY.get(decided.kind, ""), pod=decided.pod, time=time, reason=reason)
    return cause("no-rules", "refused", time=time, reason=reason) if reason else cause("no-rules")
