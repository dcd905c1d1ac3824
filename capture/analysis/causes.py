"""Why a connection does not reach a proxy that listens: causes, each with what to do about it. Pure.

A cause is looked for where a packet's way may break::

    address, route -> rules (own, foreign) -> a filter after the redirect -> a listener: port, family, user, mode

Causes of the whole pod (``lo`` down, a conntrack table that is nearly full, a missing interface) are in ``pod_causes``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from capture.analysis.base_chains import Situation, source_translations
from capture.analysis.canonical import canonical_rule
from capture.analysis.captured_pod import Capture, PodFacts
from capture.analysis.cause_text import cause
from capture.analysis.meaning import effective_verdict, is_in_spans, modelled_matches, rejects
from capture.analysis.outcome import DNS, PROXY_INBOUND, REDIRECTED_BY, TO_PROXY
from capture.analysis.pod_causes import causes_at_port, down_interface, no_route_cause
from capture.analysis.replies import handing_over, is_own_step, marking_step, untracked_text, untracking_step
from capture.analysis.trace import Step, Trace
from capture.model.addresses import FAMILY_NAMES, IPV4, Family, address_text
from capture.model.chain_names import is_own_chain
from capture.model.conventions import DNS_PORT, REJECT_REASON
from capture.model.foreign import TranslateSource
from capture.model.location import Cause, Location
from capture.model.packet import LOOPBACK, Packet
from capture.model.ruleset import MANGLE, NAT, POSTROUTING, TABLES, Drop, OutInterface, Redirect, Rule

TextOf = Callable[[Rule, Family], str]


def causes_of_connection(
    traced: Trace, desired: Trace | None, facts: PodFacts, capture: Capture, text_of: TextOf
) -> Iterator[Cause]:
    """Yield why the connection does not reach a proxy that listens; none where it does.

    ``traced`` is its path by live rules, ``desired`` that by recorded ones, if any. ``text_of`` words rules.
    """
    packet, step = traced.packet, traced.step
    second_set = _second_set_cause(traced, desired)
    if traced.outcome == "no-route":
        destination = address_text(packet.family, packet.destination.first)
        yield no_route_cause(facts, packet.family, destination, traced.refusal)
    elif packet.in_interface is not None and packet.in_interface == down_interface(facts):
        yield cause("interface-down", where=packet.in_interface, name=packet.in_interface)
    elif traced.outcome == "direct":
        lost = drop_of_connection(traced.lost_reply, text_of, subject="its answers") if traced.lost_reply else None
        yield untracked_cause(traced) or lost or _direct_cause(traced, desired, capture)
    elif traced.outcome == "dropped":
        yield drop_of_connection(traced, text_of)
    elif second_set is not None and second_set.case == "decides":
        yield second_set
    elif traced.outcome in TO_PROXY and desired and desired.outcome in TO_PROXY and traced.port != desired.port:
        is_foreign = step is not None and not is_own_step(step)
        yield _foreign_rule_cause(traced, is_behind=False) if is_foreign else missing_rule_cause(desired)
    elif traced.outcome in TO_PROXY and (capture.is_transparent or not handing_over(traced)):
        yield from filter(None, [second_set])
        arrival = traced.outcome, traced.port, packet.family, packet.protocol
        yield from causes_at_port(facts, capture, *arrival, is_over_lo=packet.in_interface is None)
    elif _own_steps_before(traced, capture):
        yield cause("nat-first", "behind", where=traced.location, to=_translation_text(traced))
    elif not is_translated(traced):
        yield cause("foreign-rule", "transparent", where=traced.location, port=traced.port)
    else:
        yield _foreign_rule_cause(traced, is_behind=False)


def _second_set_cause(traced: Trace, desired: Trace | None) -> Cause | None:
    """Return that another set of the capture decides: as ours does, or otherwise."""
    step = traced.step
    if step is None or not is_own_chain(step.chain) or (step.table in TABLES and traced.outcome in TO_PROXY):
        return None
    is_alike = desired is not None and traced.fate == desired.fate and traced.transparent == desired.transparent
    return cause("second-set", "alike" if is_alike else "decides", where=traced.location, port=traced.port)


def is_translated(traced: Trace) -> bool:
    """Return whether a foreign rule of nat sends a packet to an address or port, be that the proxy's."""
    is_by_nat = traced.step is not None and not handing_over(traced)
    return traced.address is not None or (traced.outcome in ("redirected", *TO_PROXY) and is_by_nat)


def untracked_cause(traced: Trace) -> Cause | None:
    """Return that a packet is kept out of connection tracking, if it is: so nat does not translate it, or back."""
    step = untracking_step(traced)
    return cause("foreign-rule", "untracked", where=step.location, what=untracked_text(traced)) if step else None


def _direct_cause(traced: Trace, desired: Trace | None, capture: Capture) -> Cause:
    packet, step = traced.packet, traced.step
    is_look_up = packet.port == DNS_PORT and packet.in_interface is None
    if packet.protocol != "tcp" and not is_look_up:
        return cause("not-tcp", protocol=packet.protocol)
    if packet.protocol != "tcp" and not capture.captures(DNS):
        return cause("dns-not-captured")
    # The desired rules may decide by the same rule, which need not be in one of our chains.
    at_desired = desired.step if desired else None
    is_desired = at_desired and step and canonical_rule(at_desired.rule) == canonical_rule(step.rule)
    if step is not None and not is_own_step(step) and not is_desired:
        own_steps = _own_steps_before(traced, capture)
        if not own_steps or traced.address is not None:
            return _foreign_rule_cause(traced, is_behind=bool(own_steps))
        step = own_steps[-1] if is_own_chain(own_steps[-1].chain) else None  # which has left it out before
    if packet.family not in capture.families:
        name = FAMILY_NAMES[packet.family]
        is_ipv4 = packet.family == IPV4  # which each capture has
        return cause("rule-missing", "IPv4") if is_ipv4 else cause("family-not-captured", where=name, family=name)
    if desired is not None and desired.outcome in TO_PROXY:
        return missing_rule_cause(desired)
    if is_in_spans(packet.uid, capture.uids) or is_in_spans(packet.gid, capture.gids):
        return cause("proxy-user", uid=packet.uid, gid=packet.gid)
    if packet.protocol != "tcp":
        return cause("dns-not-captured", "server", server=address_text(packet.family, packet.destination.first))
    return _excluded_cause(step, packet)


def missing_rule_cause(desired: Trace) -> Cause:
    """Return that live rules lack one that leads a packet to the proxy, whichever."""
    return cause("rule-missing", "any", outcome=f"{desired.outcome} {desired.port}")


def _excluded_cause(step: Step | None, packet: Packet) -> Cause:
    if step is None:
        return cause("excluded", "no rule")
    case = "over lo" if packet.out_interface == LOOPBACK else ""
    return cause("excluded", case, where=step.location, reason=f": {step.rule.why}" if step.rule.why else "")


def _own_steps_before(traced: Trace, capture: Capture) -> list[Step]:
    """Return our rules that the packet met before the deciding one, where they redirect it."""
    is_transparent = capture.is_transparent and traced.packet.in_interface is not None
    before = traced.path[: traced.path.index(traced.step)] if traced.step in traced.path else ()
    return [step for step in before if is_own_step(step) and step.table == (MANGLE if is_transparent else NAT)]


def _foreign_rule_cause(traced: Trace, *, is_behind: bool) -> Cause:
    if not is_translated(traced):
        return cause("foreign-rule", where=traced.location)
    return cause("nat-first", "behind" if is_behind else "", where=traced.location, to=_translation_text(traced))


def _translation_text(traced: Trace) -> str:
    """Return to which address and port rules send a packet; that of a range, or of a choice, is one of several."""
    address = f"{address_text(traced.address.family, traced.address.first)} " if traced.address else ""
    return f"{address}port {traced.port}{'' if traced.is_certain else ', or elsewhere'}"


def drop_cause(traced: Trace, text_of: TextOf, others: Iterable[Trace] = (), subject: str = "the packet") -> Cause:
    """Return why a packet is dropped: by the settings, or by a foreign rule or policy, which may drop others, too."""
    step, policy = traced.step, traced.policy
    words = (step.rule.why or text_of(step.rule, traced.packet.family)) if step is not None else ""
    if step is not None and traced.reroute is not None:
        return cause("rerouted", where=traced.location, mark=traced.mark, rule=traced.reroute.words, words=words)
    if step is not None and step.rule.why == REJECT_REASON:
        family = FAMILY_NAMES[traced.packet.family]
        return cause("family-not-captured", "rejected", where=traced.location, family=family)
    if step is not None and is_own_step(step):
        of_mark = None if isinstance(step.rule.verdict, Drop) else mark_cause(traced, text_of)
        return of_mark or cause("excluded", "drop", where=traced.location, reason=step.rule.why or "by its settings")
    ports = _redirect_ports(traced, others)
    over_lo = LOOPBACK in (traced.packet.in_interface, traced.packet.out_interface)
    case = "redirected" if ports else "over lo" if over_lo else "answers" if traced.packet.is_reply else ""
    subject = f"what goes to {ports}" if ports else subject
    text = f"a foreign rule or policy drops {subject}"
    if step is not None:
        text = f"a foreign rule {'rejects' if rejects(step.rule) else 'drops'} {subject}: {words}"
    elif policy is not None:
        text = f"no rule accepts {subject}, and the chain's policy is DROP"
    protocol = traced.packet.protocol
    return cause("filtered", case, where=traced.location, filter=text, port=ports, protocol=protocol)


def mark_cause(traced: Trace, text_of: TextOf) -> Cause | None:
    """Return that a foreign rule changes the mark by which the capture tells packets apart, if one does."""
    step = marking_step(traced)
    rule = step and (step.rule.why or text_of(step.rule, traced.packet.family))
    return cause("foreign-rule", "mark", where=step.location, rule=rule) if step else None


def source_notes(situation: Situation, text_of: TextOf, leaving: Trace | None = None) -> Iterator[Cause]:
    """Yield a note on each foreign rule that gives what leaves the pod, or one packet, the source of another host."""
    for base in situation.other_chains:
        for rule in source_translations(base.contents) if base.hook == POSTROUTING and not base.is_own else ():
            translated, network, family = effective_verdict(rule), situation.network, base.families[0]
            matches = modelled_matches(rule.matches, family, network)
            is_met = rule in [step.rule for step in leaving.path] if leaving else OutInterface(LOOPBACK) not in matches
            address = translated.address if isinstance(translated, TranslateSource) else None
            if is_met and address is not None and not network.is_local(address):
                yield cause("source-translated", where=base.table, rule=rule.why or text_of(rule, family))


def drop_of_connection(traced: Trace, text_of: TextOf, subject: str = "the packet") -> Cause:
    """Return why a packet is dropped; ``unjudged`` where a rule that cannot be judged may accept it before."""
    dropped = drop_cause(traced, text_of, subject=subject)
    return cause("unjudged", "drop", where=dropped.where, drop=dropped.message) if traced.may_be_spared else dropped


def _redirect_ports(traced: Trace, others: Iterable[Trace]) -> str:
    """Return to which ports packets were redirected that are dropped like this one; TPROXY leaves them as they are."""
    alike = [each for each in others if each.outcome == "dropped" and _dropped_at(each) == _dropped_at(traced)]
    ports = sorted({port for each in (traced, *alike) for port in _ports_of(each)})
    noun = "port" if len(ports) == 1 else "ports"
    return f"{noun} {' and '.join(map(str, ports))}" if ports else ""


def _dropped_at(traced: Trace) -> Location | None:
    return traced.location and traced.location.replace(family=None)


def _ports_of(traced: Trace) -> Iterator[int]:
    """Yield the port to which a client's or the app's packet was redirected; that of the proxy's own calls is not."""
    for step in traced.path:
        is_call_of_proxy = traced.packet.in_interface is None and REDIRECTED_BY.get(step.chain) == PROXY_INBOUND
        if isinstance(step.rule.verdict, Redirect) and not is_call_of_proxy:
            yield step.rule.verdict.port
