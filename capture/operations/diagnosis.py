"""``why``: whether a connection reaches a proxy that listens, and if not, why not."""

from __future__ import annotations

from capture.analysis.captured_pod import Capture, PodFacts
from capture.analysis.cause_text import REAPPLY_OR_RECREATE, Cause, cause, for_machine, without_record
from capture.analysis.ipsec import policy_for
from capture.analysis.outcome import PROXY_OUTBOUND
from capture.analysis.pod_causes import (
    causes_of_pod,
    causes_of_proxy,
    default_route_causes,
    no_route_cause,
    notes_on_proxy,
    stops,
)
from capture.backends import detect, load
from capture.model.addresses import FAMILY_NAMES, IPV4, IPV6, address_text
from capture.model.ruleset import Ruleset
from capture.model.values import Value
from capture.operations import host_of, reference, trace, verify
from capture.operations.comparison import own_rules_of
from capture.operations.connection import (
    Connection,
    causes_of,
    discovery_causes,
    ipsec_policies,
    notes_on,
    onward_causes,
    socket_lb_causes,
    unrouted_proxy_causes,
)
from capture.operations.drift_causes import USUAL_PACKET, drift_causes, unjudged_notes, usual_traces
from capture.operations.exclusions import (
    empty_capture_causes,
    exclusion_notes,
    is_explicit,
    left_out,
    no_record_note,
    notes_without_record,
    ports_of,
    unexplained,
    with_options,
)
from capture.operations.inference import inferred_config
from capture.operations.removal import with_removals
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from capture.state import attachments
from capture.state.capabilities import escapes_of
from capture.state.netns import InNamespace, own_namespace
from capture.state.node import evidence_of_host
from capture.state.pod_facts import read_facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.analysis.trace import Trace
    from capture.model.packet import Packet
    from capture.netlink.ipsec import IpsecPolicy
    from capture.operations import Reference
    from capture.operations.arguments import Namespace
    from capture.operations.results import Verified
    from capture.settings.settings import Settings

NOT_CAPTURED = ("no-rules", "left-alone", "host-network", "family-not-captured", "excluded")
"""Causes for which nothing of a pod is captured; with any other something is, and breaks."""


class Diagnosis(Value):
    """The result of ``why``: ``causes`` break the connection (or, without one, the pod), ``notes`` do not.

    ``is_certain`` is False where a rule on the way cannot be judged, and no cause was found. ``left_out`` is which
    connections of a captured pod its settings leave out, in words: "nothing outbound".
    """

    packet: Packet | None
    trace: Trace | None
    causes: tuple[Cause, ...]
    notes: tuple[Cause, ...] = ()
    is_certain: bool = True
    left_out: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Return the verdict on the connection, or on the pod."""
        if not self.causes:
            return "captured" if self.is_certain else "cannot be told"
        if self.trace is None:
            return "not captured" if any(cause.kind in NOT_CAPTURED for cause in self.causes) else "broken"
        is_second_set = any(cause.kind == "second-set" for cause in self.causes)
        if self.trace.outcome == "direct":
            return "broken" if self.trace.impediments else "not captured"
        goes_past = self.trace.outcome == "redirected" and not is_second_set
        return "not captured" if goes_past else "broken"

    def with_commands(self, changed: Callable[[str], str]) -> Diagnosis:
        """Return the diagnosis with other words for what to do, which messages may name, too."""

        def of(causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
            return tuple(each.replace(message=changed(each.message), remedy=changed(each.remedy)) for each in causes)

        return self.replace(causes=of(self.causes), notes=of(self.notes))


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
        live_sets = detect.find_live_sets()
        if not live_sets:
            causes = [each for each in of_pod if packet is None and stops(each, capture)]
            causes.append(_no_rules_cause(is_machine=is_machine, is_recorded=is_recorded))
            diagnosis = Diagnosis(packet, None, tuple(causes), tuple(each for each in of_pod if each not in causes))
        elif packet is not None:
            diagnosis = _diagnose_connection(packet, settings, known, facts, capture)
            diagnosis = diagnosis.replace(notes=(*diagnosis.notes, *_escape_notes(process)))
            diagnosis = diagnosis.replace(causes=with_removals(diagnosis.causes, live_sets[0].choice, namespace))
        else:
            verified = verify(settings, prefer_recorded=settings is None)
            diagnosis = _diagnose_pod(verified, known, facts, capture, of_pod)
            diagnosis = diagnosis.replace(causes=with_removals(diagnosis.causes, verified.choice, namespace))
        if is_machine and is_recorded:
            return diagnosis.with_commands(for_machine)
        return diagnosis if is_recorded else diagnosis.with_commands(without_record)


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
    config = known.config if known else inferred_config(own_rules_of(_live()))
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


def _diagnose_pod(
    verified: Verified, known: Reference | None, facts: PodFacts, capture: Capture, of_pod: list[Cause]
) -> Diagnosis:
    policies, unread = ipsec_policies()
    stopping = [each for each in of_pod if stops(each, capture)]
    causes = (
        *stopping,
        *empty_capture_causes(known, facts, capture),
        *default_route_causes(facts, capture),
        *causes_of_proxy(facts, capture),
        *drift_causes(verified, facts),
        *_usual_causes(facts, capture, policies),
        *(() if known else _loop_causes(facts, capture)),
    )
    if not causes and IPV6 in capture.families:
        own = next((address for address in facts.addresses if address.family == IPV6), None)
        causes = tuple(discovery_causes(own, next((link.name for link in facts.links if not link.is_loopback), None)))
    notes = (
        *notes_on_proxy(facts, capture),
        *(
            exclusion_notes(known, facts, capture, verified)
            if known
            else notes_without_record(facts, capture, verified.desired)
        ),
        *socket_lb_causes(),
        *(each for each in of_pod if each not in stopping),
        *unjudged_notes(verified),
        *unread,
    )
    is_certain = known is not None and verified.is_judged and not unread
    other_families = sorted({address.family for address in facts.addresses}.difference(capture.families))
    without = (
        *(what for _, _, what in left_out(known, facts, capture)),
        *(f"no {FAMILY_NAMES[family]}" for family in other_families),
    )
    return Diagnosis(None, None, tuple(dict.fromkeys(causes)), notes, is_certain, without)


def _diagnose_connection(
    packet: Packet, settings: Settings | None, known: Reference | None, facts: PodFacts, capture: Capture
) -> Diagnosis:
    policies, unread = ipsec_policies()
    connection = Connection(trace(packet), known, _desired(known), settings, facts, capture, tuple(policies))
    live, desired, candidates = connection.live, connection.desired, causes_of(connection)
    if known is not None:
        candidates = [with_options(each, live.packet, known) for each in candidates]
    else:
        candidates = [each if is_explicit(each, live, desired) else unexplained() for each in candidates]
    doubts = [each for each in candidates if each.kind == "unjudged" or each == unexplained()]
    causes = [each for each in candidates if each not in doubts]
    found = (*doubts, *(() if known else [no_record_note(desired)]), *unread, *notes_on(connection))
    notes = tuple(each for each in dict.fromkeys(found) if each not in causes)
    is_certain = live.certain and not (unread or doubts)
    return Diagnosis(live.packet, live, tuple(causes), notes, is_certain)


def _usual_causes(facts: PodFacts, capture: Capture, policies: list[IpsecPolicy]) -> Iterator[Cause]:
    """Yield what stops connections to outside though there is a default route: a policy rule, or IPsec."""
    if IPV4 in facts.unrouted or all(address.family != IPV4 for address in facts.addresses):
        return
    live = trace(USUAL_PACKET)
    if live.outcome == "no-route" and capture.captures(PROXY_OUTBOUND, IPV4):
        yield no_route_cause(facts, IPV4, address_text(IPV4, USUAL_PACKET.destination.first), live.refusal)
    yield from unrouted_proxy_causes(live, facts, capture)
    policy = policy_for(live.packet, policies)
    if policy is not None and policy.is_blocking:
        yield cause("ipsec", policy=policy.words)


def _escape_notes(process: int | None) -> Iterator[Cause]:
    """Yield a note with the capabilities by which a process may escape; they do not show that it does so."""
    escapes = escapes_of(process) if process is not None else ()
    if escapes:
        yield cause("privileged", where=f"process {process}", process=process, escapes=", ".join(escapes))


def _live() -> Ruleset:
    """Return the first set of live rules; an empty one without any."""
    return next((load(live_set.choice).read() for live_set in detect.find_live_sets()), Ruleset((), ()))


def _loop_causes(facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield a cause if the proxy's part of a usual connection is lost, whatever was applied."""
    for live in usual_traces(facts):
        yield from onward_causes(live, verify, facts, capture)


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
