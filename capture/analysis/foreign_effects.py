"""The effect of a foreign rule on captured traffic, in words: the same for every program. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from capture.analysis.base_chains import PodNetwork
from capture.analysis.effects import Effect
from capture.analysis.meaning import effective_verdict, rule_matches
from capture.analysis.outcome import DNS
from capture.analysis.replies import MARKING, untracked_text, untracking_step
from capture.model.addresses import IPV4, IPV6, Network
from capture.model.packet import Packet
from capture.model.ruleset import Drop, Rule, SetZone

DIVERTS = "foreign rule precedes ours and diverts captured traffic"
DIVERTS_BEHIND = "foreign rule meets connections behind ours and diverts them"
STOPS = "foreign rule meets connections behind the redirect and stops captured traffic"
LOOPS = "foreign rule sends what the proxy sends on back to it"
STOPS_SENT_ON = "foreign rule stops what the proxy sends on"
REROUTES = "foreign rule changes the mark, by which the policy rule `{rule}` routes captured traffic elsewhere"
POLICY = "foreign policy stops captured traffic"
UNTRACKS = "foreign rule keeps captured traffic out of connection tracking, and {loss}"
CHANGES_MARKS = "foreign rule changes a mark that the capture depends on"
CHANGES_ZONES = "foreign rule has look-ups tracked in another zone than their answers, so that no answer arrives"
WITHOUT_EFFECT = "foreign rule without effect on captured traffic"
STOPS_DISCOVERY = "foreign rule drops ICMPv6: unless another one accepts neighbour discovery, IPv6 fails"
NEIGHBOUR = Network(IPV6, 0xFE80 << 112 | 1, 128)
"""A router on the link."""
DISCOVERY = [Packet("ipv6-icmp", NEIGHBOUR, n, NEIGHBOUR, in_interface="eth0", state="UNTRACKED") for n in (135, 136)]
"""What asks for a neighbour, and what answers (RFC 4861)."""


def foreign_effect_text(rule: Rule | None, effect: Effect | None) -> str:
    """Return what a foreign rule does, or with None the policy of a foreign chain."""
    if effect is not None and effect.after.reroute is not None:
        return REROUTES.format(rule=effect.after.reroute.words)
    if rule is None:
        return POLICY
    if effect is not None and untracking_step(effect.after) is not None:
        return UNTRACKS.format(loss=untracked_text(effect.after))
    if isinstance(rule.verdict, MARKING):
        return CHANGES_MARKS
    if effect is not None and effect.after.step is not None and isinstance(effect.after.step.rule.verdict, SetZone):
        return CHANGES_ZONES
    if effect is not None and (effect.before.outcome, effect.after.outcome) == ("direct", "dropped"):
        return STOPS_SENT_ON
    if effect is not None and effect.change.is_loop:
        return LOOPS
    if effect is None or not is_behind(effect):
        return DIVERTS
    return STOPS if effect.after.outcome == "dropped" else DIVERTS_BEHIND


def harmless_text(rule: Rule | None) -> str:
    """Return what a foreign rule does that diverts no captured packet: it may keep them from finding their way."""
    is_drop = rule is not None and rule.family != IPV4 and isinstance(effective_verdict(rule), Drop)
    is_met = is_drop and rule and any(rule_matches(rule, packet, PodNetwork()) for packet in DISCOVERY)
    return STOPS_DISCOVERY if is_met else WITHOUT_EFFECT


def consequence(effect: Effect) -> str:
    """Return what packets do because of a difference, in a few words: "outbound connections bypass the proxy"."""
    if effect.change.is_loop:
        return "the proxy's own connections come back to it"
    before, after = effect.before.outcome, effect.after.outcome
    connections = "look-ups" if before == DNS else f"{effect.direction} connections"
    connections += " that should be direct" if before == "direct" else ""
    if not effect.is_certain:
        return f"{connections} may fare otherwise"
    if after == "direct":
        return f"{connections} bypass the {'agent' if before == DNS else 'proxy'}"
    return f"{connections} are dropped" if after == "dropped" else f"{connections} go to port {effect.after.port}"


def other_consequences(effect: Effect | None, others: Iterable[Effect | None]) -> str:
    """Return in brackets the consequences of differences that the first one does not have; "" if there are none."""
    first = {consequence(effect)} if effect else set()
    further = dict.fromkeys(consequence(each) for each in others if each is not None)
    return f" ({', '.join(each for each in further if each not in first)})" if {*further} - first else ""


def is_behind(effect: Effect) -> bool:
    """Return whether the packet meets the rule of ours that decides on it before the foreign one.

    Priorities alone do not tell that: nat is at -100, TPROXY at -150, and the hooks of INPUT come after both.
    """
    own, decides, path = effect.before.step, effect.after.step, effect.after.path
    before = path[: path.index(decides)] if decides in path else path
    return own is not None and (own.table, own.chain, own.rule) in [
        (step.table, step.chain, step.rule) for step in before
    ]
