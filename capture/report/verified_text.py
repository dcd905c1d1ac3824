"""What ``verify`` found, in words and as JSON: the conclusion, differences, what cannot be judged, notes."""

from __future__ import annotations

from capture.model.conventions import NOTHING_APPLIED
from capture.model.routing import LoopbackAddress, MissingRoute
from capture.model.text import plural
from capture.report.output import VerdictLine
from capture.report.packet_text import effect_as_plain, effect_text, packet_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from capture.analysis.compare import Difference
    from capture.analysis.culprits import Obstacle
    from capture.analysis.effects import Effect
    from capture.model.location import Cause, Location
    from capture.model.ruleset import Ruleset
    from capture.operations import SecondSet, Verified

UNJUDGED = "foreign rule may divert captured traffic, which cannot be judged"
MEANINGS = {"missing": "is missing", "unexpected": "is unexpected", "family": "is for a family that is not captured"}
MAX_SHOWN_SINGLY = 20
"""Up to this many differences of one kind in a chain have a sentence each."""
MAX_MISSING_SHOWN = 3
"""Up to this many missing rules of a chain have a sentence each."""


# --- the conclusion -------------------------------------------------------------------------------


def verified_lines(verified: Verified) -> Iterator[str]:
    """Yield the conclusion, with each difference and what cannot be judged; then notes."""
    yield from conclusion_lines(verified)
    if verified.is_nothing_applied:
        return
    if not verified.has_reference and verified.live.tables:
        yield _inferred_text(verified.desired)
    for sentence in note_lines(verified):
        yield f"note: {sentence}"


def _inferred_text(own: Ruleset) -> str:
    from shlex import join  # where no one waits for a pod

    from capture.operations.inference import count_misfits, inferred_flags

    flags = join(inferred_flags(own))
    if flags and (count := count_misfits(own)):
        return f"these settings fit the live rules best, with {plural(count, 'difference')}: {flags}"
    return f"the live rules amount to: {flags or 'no capture'}"


def conclusion_lines(verified: Verified) -> Iterator[str]:
    """Yield whether the live rules are as desired, then each difference, and what cannot be judged."""
    yield VerdictLine(_conclusion_text(verified))
    if verified.is_nothing_applied:
        return
    yield from (f"  {sentence}" for sentence in difference_lines(verified))
    if verified.missing or any(each.kind in MEANINGS for each in verified.differences):
        yield f"  {_reapply_text(verified)}"
    if not verified.has_reference and verified.conclusion != "no reference":
        yield VerdictLine(f"not judged: {_no_reference(verified)}")
    yield from (VerdictLine(f"not judged: {sentence}") for sentence in doubt_lines(verified))


def _conclusion_text(verified: Verified) -> str:
    conclusion, compared_with = verified.conclusion, reference_text(verified)
    if conclusion == "nothing applied":
        return NOTHING_APPLIED
    if conclusion == "in sync":
        part = f", {verified.part_text} alone" if verified.part_text else ""
        return f"in sync{part}: live rules match the {compared_with}"
    if conclusion == "cannot be judged":
        return f"not judged in full: our rules match the {compared_with}; foreign ones may divert traffic"
    if conclusion == "no reference":
        return f"no reference: {_no_reference(verified)}"
    if not verified.has_reference:
        return f"drift: {plural(len(verified.drift), 'fault')}, by the live rules alone"
    return f"drift: {plural(len(verified.drift), 'difference')} from the {compared_with}"


def _no_reference(verified: Verified) -> str:
    return f"{verified.record_fault or 'nothing is recorded here'}; give the options of the pod"


def reference_text(verified: Verified) -> str:
    """Return what the live rules were compared with."""
    if not verified.has_reference:
        return "live rules of the capture"
    return "applied configuration" if verified.from_record else "configuration of the options"


# --- what differs ---------------------------------------------------------------------------------


def difference_lines(verified: Verified) -> Iterator[str]:
    """Yield a sentence for each difference, or for several, the heaviest first; one where nothing is applied."""
    if verified.is_nothing_applied:
        yield NOTHING_APPLIED
        return
    yield from (f"{impediment.message}. {impediment.remedy}" for impediment in verified.impediments)
    yield from _grouped(verified.differences, difference_text, verified.live)
    yield from (need.message for need in verified.missing)
    yield from map(_second_set_text, verified.second_sets)
    yield from map(_foreign_text, verified.obstacles)
    yield from (f"{message}. {_reapply_text(verified)}" for message in verified.uncaptured)


def _reapply_text(verified: Verified) -> str:
    from capture.analysis.cause_text import REAPPLY_OR_RECREATE, remedy_without_record  # where something differs

    return REAPPLY_OR_RECREATE if verified.from_record else remedy_without_record(REAPPLY_OR_RECREATE)


def doubt_lines(verified: Verified) -> Iterator[str]:
    """Yield a sentence for each thing that cannot be judged."""
    for foreign in verified.unjudged:
        yield f"{foreign.location}: {UNJUDGED}: {_rule_text(foreign)}{effect_text(foreign.effect)}"
    yield from verified.doubts


def note_lines(verified: Verified) -> Iterator[str]:
    """Yield a sentence for each foreign rule that is worth a note, and no difference."""
    yield from verified.notes
    yield from _grouped(verified.harmless_differences, _harmless_text, verified.live)
    if len(verified.harmless_obstacles) <= MAX_SHOWN_SINGLY:
        yield from dict.fromkeys(map(_harmless_text, verified.harmless_obstacles))
        return
    from capture.analysis.foreign_effects import WITHOUT_EFFECT  # where there are foreign rules

    chains = [obstacle.location.chain_location for obstacle in verified.harmless_obstacles]
    yield from (f"{chain}: {WITHOUT_EFFECT}: {chains.count(chain)} rules" for chain in dict.fromkeys(chains))


def _harmless_text(foreign: Difference | Obstacle) -> str:
    from capture.analysis.foreign_effects import harmless_text  # where there are foreign rules

    return f"{foreign.location}: {harmless_text(foreign.rule)}: {_rule_text(foreign)}"


def _grouped(differences: Sequence[Difference], words: Callable[[Difference], str], live: Ruleset) -> Iterator[str]:
    """Yield a sentence for each difference; one, with the heaviest, for many of one kind in a chain."""
    groups: dict[tuple[Location, str], list[Difference]] = {}
    for difference in sorted(differences, key=lambda each: each.weight):
        groups.setdefault((difference.location.chain_location, difference.kind), []).append(difference)
    for (location, kind), alike in groups.items():
        first = alike[0]
        chain = live.chain(first.table, first.chain)
        if len(alike) <= (MAX_MISSING_SHOWN if kind == "missing" else MAX_SHOWN_SINGLY):
            yield from map(words, alike)
        elif kind == "missing" and (chain is None or not any(chain.rules_for(first.family))):
            from capture.analysis.own_effects import EMPTIED  # where whole chains are missing

            effect_context = first.effect_context if first.effect_context != EMPTIED else ""
            yield f"{location}: all {len(alike)} rules are missing{effect_text(first.effect, effect_context)}"
        else:
            yield f"{words(first)} (and {len(alike) - 1} more of this kind in this chain)"


def difference_text(difference: Difference) -> str:
    """Return a difference in a sentence."""
    if difference.kind == "foreign":
        return _foreign_text(difference)
    if difference.rule is None:
        words = f": the policy is {difference.policy}, and should be ACCEPT"
    else:
        words = f" {MEANINGS[difference.kind]}: {_rule_text(difference)}"
    return f"{difference.location}{words}{effect_text(difference.effect, difference.effect_context)}"


def _foreign_text(foreign: Difference | Obstacle) -> str:
    from capture.analysis.foreign_effects import foreign_effect_text  # where something differs

    effect = foreign_effect_text(foreign.rule, foreign.effect)
    return f"{foreign.location}: {effect}: {_rule_text(foreign)}{effect_text(foreign.effect)}"


def _rule_text(differing: Difference | Obstacle) -> str:
    from capture.backends.iptables.render import differing_rule  # where something differs

    return differing_rule(differing)


def _second_set_text(other: SecondSet) -> str:
    return f"a second set of capture rules is in {other.choice.place_text}{effect_text(other.effect)}"


# --- as JSON --------------------------------------------------------------------------------------


def verified_as_plain(verified: Verified, causes: Sequence[Cause]) -> dict[str, object]:
    """Return what verify found, for JSON."""
    from capture.operations.inference import count_misfits, inferred_flags
    from capture.report.diagnosis_text import cause_as_plain  # which words differences, too

    return {
        "as_asked": verified.holds,
        "certain": verified.is_certain,
        "compared_with": reference_text(verified),
        "differences": differences_as_plain(verified),
        "not_judged": [*([] if verified.has_reference else [_no_reference(verified)]), *doubt_lines(verified)],
        "notes": list(note_lines(verified)),
        "live_settings": None if verified.has_reference else inferred_flags(verified.desired),
        "live_settings_differences": None if verified.has_reference else count_misfits(verified.desired),
        "proxy": [cause_as_plain(cause) for cause in causes],
    }


def differences_as_plain(verified: Verified) -> list[dict[str, object]]:
    """Return the differences as plain values for JSON."""
    plain: list[dict[str, object]] = [
        {
            "kind": difference.kind,
            "family": difference.family,
            "table": difference.table,
            "chain": difference.chain,
            "position": difference.position or None,
            "rule": _rule_text(difference) if difference.rule else None,
            "policy": difference.policy or None,
            "together": difference.effect_context or None,
            **_message_with_effect(difference.effect, difference_text(difference)),
        }
        for difference in verified.differences
    ]
    plain += [
        {name: getattr(impediment, name) for name in ("kind", "family", "message", "remedy")}
        for impediment in verified.impediments
    ]
    plain += [_missing_as_plain(need) for need in verified.missing]
    plain += [
        {"kind": "second set", **_message_with_effect(second_set.effect, _second_set_text(second_set))}
        for second_set in verified.second_sets
    ]
    plain += [
        {
            "kind": "foreign",
            "table": obstacle.foreign_chain.table,
            "chain": obstacle.foreign_chain.chain.name,
            "rule": _rule_text(obstacle),
            **_message_with_effect(obstacle.effect, _foreign_text(obstacle)),
        }
        for obstacle in verified.obstacles
    ]
    plain += [{"kind": "uncaptured family", "message": sentence} for sentence in verified.uncaptured]
    return plain


def _missing_as_plain(need: LoopbackAddress | MissingRoute) -> dict[str, object]:
    need_kind = "address" if isinstance(need, LoopbackAddress) else "route"
    return {"kind": "plumbing", "what": need_kind, "family": need.family, "message": need.message}


def _message_with_effect(effect: Effect | None, message: str) -> dict[str, object]:
    example = effect and {
        "packet": packet_text(effect.packet),
        "asked": effect.before.outcome,
        "asked_port": effect.before.port,
        "live": effect.after.outcome,
        "live_port": None if effect.after.outcome == "dropped" else effect.after.port,
    }
    return {"example": example, "effect": effect_as_plain(effect), "message": message}
