"""What ``verify`` finds, as causes of ``why``; ``capture verify`` has each difference."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from capture.analysis.base_chains import Situation
from capture.analysis.canonical import canonical_rule
from capture.analysis.cause_text import cause
from capture.analysis.causes import drop_cause, is_translated
from capture.analysis.compare import Difference, DifferenceKind
from capture.analysis.culprits import Foreign
from capture.analysis.diagram import TooLargeError
from capture.analysis.effects import Comparison, Effect
from capture.analysis.foreign_effects import consequence, foreign_effect_text, other_consequences
from capture.analysis.judgement import family_ruleset
from capture.analysis.replies import SENT_ON
from capture.analysis.trace import Trace, trace_whole_path
from capture.backends.iptables.render import differing_rule, shown_rule
from capture.model.location import Cause, Location
from capture.model.packet import LOOPBACK, Packet
from capture.model.routing import LoopbackAddress, MissingRoute
from capture.model.ruleset import Ruleset, SetZone
from capture.model.text import plural
from capture.operations.results import Verified
from capture.operations.situation import ExaminedPod
from capture.operations.tracing import live_trace
from capture.state.impediments import LO_DOWN


def drift_causes(verified: Verified, pod: ExaminedPod, told: Collection[Location | str] = ()) -> Iterator[Cause]:
    """Yield what differs from the desired rules as causes, but for what is ``told``; `capture verify` has it all."""
    own = [difference for difference in verified.differences if difference.is_own]
    if own:
        felt = {effect: _is_felt(effect, pod, verified) for effect in {each.effect for each in own} if effect}
        with_effect = [difference for difference in own if difference.effect and felt[difference.effect]]
        heaviest = min(with_effect or own, key=lambda difference: (difference.weight, difference.kind == "missing"))
        result = f", so that {consequence(heaviest.effect)}" if heaviest.effect else ""
        result = MADE_UP_FOR if result and not with_effect else result
        first, further = _in_words(heaviest, own, verified.live, result)
        others = f", and {plural(len(further), 'more difference')}" if further else ""
        others += other_consequences(heaviest.effect, (difference.effect for difference in with_effect))
        chain = heaviest.location.chain_location
        yield cause(_rule_cause_kind(heaviest), "drift", where=chain, first=first, others=others)
    yield from _foreign_rule_causes(verified, told)
    for other in verified.second_sets:
        yield cause("second-set", where=other.choice.place_text, place=other.choice.place_text)
    yield from map(missing_route_cause, verified.missing)
    yield from (each for each in verified.impediments if each != LO_DOWN)  # which is a fact of the pod already
    for message in verified.uncaptured:
        yield cause("rule-missing", "family", message=message)


MADE_UP_FOR = ", which other rules make up for"


def _is_felt(effect: Effect, pod: ExaminedPod, verified: Verified) -> bool:
    """Return whether packets may fare otherwise by all live rules, too: the witness, or others that fared like it."""
    if live_trace(effect.packet, pod.situation).fate != effect.before.fate:
        return True
    family, live = effect.family, pod.situation
    reference = Situation(family_ruleset(verified.desired, family), (), live.is_native, live.network)
    try:
        whole = Comparison(family, reference, live.replace(ruleset=family_ruleset(live.ruleset, family)))
        return any(change.before == effect.change.before for change in whole.changes(effect.direction))
    except TooLargeError:
        return True


def _in_words(heaviest: Difference, own: list[Difference], live: Ruleset, result: str) -> tuple[str, list[Difference]]:
    """Return a difference in words and with what it does, a chain without rules as one; and the other differences."""
    chain = live.chain(heaviest.table, heaviest.chain)
    elsewhere = [
        difference for difference in own if difference.location.chain_location != heaviest.location.chain_location
    ]
    is_empty = heaviest.kind == "missing" and not (chain and any(chain.rules_for(heaviest.family)))
    if is_empty and len(own) - len(elsewhere) > 1:
        return f"missing: all rules of {heaviest.chain}{result}", elsewhere
    kind = "not as applied" if heaviest.kind == "family" else heaviest.kind
    others = [each for each in own if each is not heaviest]
    return f"{kind}: {shown_rule(heaviest.rule, heaviest.family)}{result}", others


def drift_cause(traced: Trace, verified: Verified, case: str = "", **words: object) -> Cause | None:
    """Return the rule that decides on a packet and was not applied; else the applied one that is missing for it."""
    unexpected = next(_differences_on_path(traced, verified, "unexpected"), None)
    difference = unexpected or _missing_rule(traced.packet, verified)
    if difference is None:
        return None
    rule = shown_rule(difference.rule, difference.family)
    return cause(_rule_cause_kind(difference), case, where=difference.location, rule=rule, **words)


def _rule_cause_kind(difference: Difference) -> str:
    return "rule-missing" if difference.kind == "missing" else "rule-unexpected"


def _missing_rule(packet: Packet, verified: Verified) -> Difference | None:
    """Return the first missing rule on a packet's desired way that decides its fate; else the first."""

    def trace_without(*missing: Difference) -> Trace:
        return trace_whole_path(packet, Situation(family_ruleset(verified.desired, packet.family, *missing)))

    desired = trace_without()
    on_path = [*_differences_on_path(desired, verified, "missing")]
    decisive = (missing for missing in on_path if trace_without(missing).fate != desired.fate)
    return next(decisive, on_path[0] if on_path else None)


def _differences_on_path(traced: Trace, verified: Verified, kind: DifferenceKind) -> Iterator[Difference]:
    """Yield the rules on a packet's way that differ, in its order: those that were not applied, or are missing."""
    of_kind = [each for each in verified.differences if (each.kind, each.family) == (kind, traced.packet.family)]
    for step in traced.path:
        met = (step.table, step.chain, canonical_rule(step.rule))
        yield from (each for each in of_kind if (each.table, each.chain, each.rule) == met)


def _foreign_rule_causes(verified: Verified, told: Collection[Location | str]) -> Iterator[Cause]:
    """Yield foreign rules by their effect on captured packets: each that drops them, and the heaviest of each chain."""
    rules: list[Foreign] = [*(each for each in verified.differences if not each.is_own), *verified.obstacles]
    diverting: dict[tuple[str, Location], list[Foreign]] = {}
    for foreign in sorted(rules, key=lambda each: (each.effect is None, *(each.effect.weight if each.effect else ()))):
        effect, chain = foreign.effect, foreign.location.chain_location
        if effect is None or not _is_dropping(effect):
            is_by_nat = effect is not None and is_translated(effect.after) and not effect.change.is_loop
            kind = "nat-first" if is_by_nat else "foreign-rule"  # as for one connection
            diverting.setdefault((kind, chain), []).append(foreign)
            continue
        is_inbound = effect.packet.in_interface is not None
        region = f" ({effect.regions[0]})" if is_inbound and effect.regions else ""
        is_of_proxy = effect.before.outcome in ("direct", *([] if is_inbound else ["proxy-inbound"]))
        subject = SENT_ON if is_of_proxy else f"captured traffic{region}"
        subject = f"answers to {subject}" if effect.packet.is_reply else subject
        dropped, by_rule = drop_cause(effect.after, shown_rule, subject=subject), effect.after.step is not None
        # An effect is that of its rule alone: in its base chain other rules, and their numbers, are missing.
        is_called = by_rule and isinstance(dropped.where, Location) and dropped.where.chain_location != chain
        dropped = dropped if is_called else dropped.replace(where=foreign.location)
        yield from [] if dropped.where in told else [dropped]
    for (kind, _), (first, *others) in diverting.items():
        effect_text = foreign_effect_text(first.rule, first.effect)
        rest = f", and {plural(len(others), 'more rule')} of this chain" if others else ""
        rest += other_consequences(first.effect, (each.effect for each in others))
        yield cause(kind, "pod", where=first.location, effect=effect_text, rule=differing_rule(first), others=rest)


def unjudged_notes(verified: Verified) -> Iterator[Cause]:
    """Yield what may divert captured packets, and cannot be judged."""
    of_rules = (cause("unjudged", where=each.location, rule=differing_rule(each)) for each in verified.unjudged)
    yield from dict.fromkeys(of_rules)  # a rule for both families is one difference of each
    yield from (cause("unjudged", "doubt", doubt=doubt) for doubt in verified.doubts)


def _is_dropping(effect: Effect | None) -> bool:
    if effect is None or (effect.after.step and isinstance(effect.after.step.rule.verdict, SetZone)):
        return False
    return effect.is_certain and effect.after.outcome == "dropped"


def missing_route_cause(need: LoopbackAddress | MissingRoute) -> Cause:
    """Return the cause for a route or an address that the rules need and the namespace lacks."""
    if isinstance(need, LoopbackAddress):
        return cause("rule-missing", "address", where=LOOPBACK, message=need.message)
    table = f"table {need.policy.table}"
    words = {"message": need.message, "consequence": need.consequence, "command": need.commands[-1]}
    return cause("route-missing", "taken" if need.is_taken else "", where=table, **words)
