"""Differences between the desired and the live rules, in words and as JSON."""

from __future__ import annotations

from capture.model.addresses import Family, Network, address_text
from capture.model.text import plural
from capture.report.packet_text import packet_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from capture.analysis.cause_text import Cause
    from capture.analysis.compare import Difference
    from capture.analysis.effects import Effect
    from capture.analysis.judgement import Obstacle
    from capture.analysis.trace import Fate
    from capture.model.ruleset import Rule, Ruleset
    from capture.operations import Other, Verified

WITHOUT_EFFECT = "foreign rule without effect on captured traffic"
UNJUDGED = "foreign rule may divert captured traffic, which cannot be judged"
MEANINGS = {
    "missing": "is missing",
    "unexpected": "is unexpected",
    "family": "captures a family that should not be captured",
}
NOTHING_RECORDED = "nothing is recorded here that this version reads; give the options of the pod"
NOTHING_APPLIED = "nothing is applied here: the namespace has no rules of the capture"
MAX_SINGLE = 20
"""More differences of one kind in a chain have one sentence together."""
MAX_MISSING = 3
"""So have more missing rules than these."""
MAX_REGIONS = 3


def difference_lines(verified: Verified) -> Iterator[str]:
    """Yield a sentence for each difference, or for several, the weightiest first; one where nothing is applied."""
    if verified.is_nothing_applied:
        yield NOTHING_APPLIED
        return
    yield from (f"{impediment.message}. {impediment.remedy}" for impediment in verified.impediments)
    yield from _grouped(verified.differences, difference_text, verified.live)
    yield from (need.message for need in verified.missing)
    yield from map(_second_set, verified.others)
    yield from map(_foreign, verified.obstacles)
    yield from verified.uncaptured


def doubt_lines(verified: Verified) -> Iterator[str]:
    """Yield a sentence for each thing that cannot be judged."""
    for each in verified.unjudged:
        yield f"{each.place}: {UNJUDGED}: {_rule(each)}{effect_text(each.effect)}"
    yield from verified.doubts


def note_lines(verified: Verified) -> Iterator[str]:
    """Yield a sentence for each foreign rule that is worth a note, and no difference."""
    yield from verified.notes
    yield from _grouped(verified.harmless_differences, _without_effect, verified.live)
    if len(verified.harmless_obstacles) <= MAX_SINGLE:
        yield from dict.fromkeys(map(_without_effect, verified.harmless_obstacles))
        return
    places = [each.place for each in verified.harmless_obstacles]
    yield from (f"{place}: {WITHOUT_EFFECT}: {places.count(place)} rules" for place in dict.fromkeys(places))


def _without_effect(each: Difference | Obstacle) -> str:
    return f"{each.place}: {WITHOUT_EFFECT}: {_rule(each)}"


def _grouped(found: Sequence[Difference], words: Callable[[Difference], str], live: Ruleset) -> Iterator[str]:
    """Yield a sentence for each difference, or with the weightiest for many of one kind in a chain."""
    groups: dict[tuple[str, ...], list[Difference]] = {}
    for each in sorted(found, key=lambda each: each.weight):
        groups.setdefault((each.family, each.table, each.chain, each.kind), []).append(each)
    for several in groups.values():
        first = several[0]
        chain = live.chain(first.table, first.chain)
        if len(several) <= (MAX_MISSING if first.kind == "missing" else MAX_SINGLE):
            yield from map(words, several)
        elif first.kind == "missing" and (chain is None or not any(chain.rules_for(first.family))):
            where = first.replace(rule=None).place
            yield f"{where}: all {len(several)} rules are missing{effect_text(first.effect)}"
        else:
            yield f"{words(first)} (and {len(several) - 1} more of this kind in this chain)"


def difference_text(difference: Difference) -> str:
    """Return a difference in a sentence."""
    if difference.kind == "foreign":
        return _foreign(difference)
    if difference.rule is None:
        found = f": the policy is {difference.policy}, and should be ACCEPT"
    else:
        found = f" {MEANINGS[difference.kind]}: {_rule(difference)}"
    return f"{difference.place}{found}{effect_text(difference.effect)}"


def _foreign(each: Difference | Obstacle) -> str:
    from capture.analysis.foreign_effects import what_foreign_does  # where something differs

    does = what_foreign_does(each.rule, each.effect)
    return f"{each.place}: {does}: {_rule(each)}{effect_text(each.effect)}"


def _rule(each: Difference | Obstacle) -> str:
    """Return the rule, that of a table of nf_tables in the words of nft(8), or the policy."""
    if each.rule is None:
        return "the policy DROP"
    return each.rule.why or text_of(each.rule, each.family)


def _second_set(other: Other) -> str:
    variant = f" {other.where.variant}" if other.where.variant else ""
    return f"a second set of capture rules is in {other.where.backend}{variant}{effect_text(other.effect)}"


def effect_text(effect: Effect | None) -> str:
    """Return what a difference does to which packets, with a witness, if it does anything."""
    if effect is None:
        return ""
    shown = effect.regions[:MAX_REGIONS]
    more = len(effect.regions) - len(shown)
    regions = "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
    after = fate_text(effect.after.fate) if effect.is_certain else "?"
    return f" ({regions}: {fate_text(effect.before.fate)} -> {after}; witness: {packet_text(effect.packet)})"


def fate_text(fate: Fate) -> str:
    """Return what happens to packets: "proxy-outbound 15001", "direct to 10.1.2.3:80", "dropped"."""
    where = ""
    if fate.address is not None:
        where = _address_text(fate.address)
        where = f" to [{where}]" if ":" in where and fate.port is not None else f" to {where}"
    if fate.port is not None:
        where += f":{fate.port}" if fate.address is not None else f" {fate.port}"
    if fate.interface is not None:
        where += f", out by {fate.interface}"
    return f"{fate.outcome}{where}{', marked for the proxy' if fate.marked and fate.outcome == 'direct' else ''}"


def text_of(rule: Rule, family: Family) -> str:
    """Return a rule as iptables-save would print it; a list that takes many rules there by the first of them."""
    from capture.backends.iptables.render import shown_rule  # where something differs

    return shown_rule(rule, family)


def verified_lines(verified: Verified) -> Iterator[str]:
    """Yield the conclusion, with each difference and what cannot be judged; then notes."""
    yield from conclusion_lines(verified)
    if verified.is_nothing_applied:
        return
    if not verified.has_reference and verified.live.tables:
        from capture.operations.inference import inferred_flags

        yield f"the live rules amount to: {' '.join(inferred_flags(verified.desired)) or 'no capture'}"
    for sentence in note_lines(verified):
        yield f"note: {sentence}"


def conclusion_lines(verified: Verified) -> Iterator[str]:
    """Yield whether the live rules are as desired, then each difference, and what cannot be judged."""
    compared_with = reference_text(verified)
    yield {
        "nothing applied": NOTHING_APPLIED,
        "drift": _drift_text(verified),
        "in sync": f"in sync{_only(verified)}: live rules match the {compared_with}",
        "cannot be judged": f"not judged in full: our rules match the {compared_with}; foreign ones may divert traffic",
        "no reference": f"no reference: {NOTHING_RECORDED}",
    }[verified.conclusion]
    if verified.is_nothing_applied:
        return
    yield from (f"  {sentence}" for sentence in difference_lines(verified))
    if not verified.has_reference and verified.conclusion != "no reference":
        yield f"not judged: {NOTHING_RECORDED}"
    yield from (f"not judged: {sentence}" for sentence in doubt_lines(verified))


def _only(verified: Verified) -> str:
    return f", {verified.part_text} alone" if verified.part_text else ""


def _drift_text(verified: Verified) -> str:
    number = len(verified.drift)
    if not verified.has_reference:
        return f"drift: {plural(number, 'fault')}, by the live rules alone"
    return f"drift: {plural(number, 'difference')} from the {reference_text(verified)}"


def reference_text(verified: Verified) -> str:
    """Return what the live rules were compared with."""
    if not verified.has_reference:
        return "live rules of the capture"
    return "applied configuration" if verified.from_record else "configuration of the options"


def verified_as_plain(verified: Verified, causes: Sequence[Cause]) -> dict[str, object]:
    """Return what verify found, for JSON."""
    from capture.operations.inference import inferred_flags
    from capture.report.diagnosis_text import cause_as_plain  # which words differences, too

    return {
        "as_asked": verified.holds,
        "certain": verified.is_certain,
        "compared_with": reference_text(verified),
        "differences": differences_as_plain(verified),
        "not_judged": [*([] if verified.has_reference else [NOTHING_RECORDED]), *doubt_lines(verified)],
        "notes": list(note_lines(verified)),
        "live_settings": None if verified.has_reference else inferred_flags(verified.desired),
        "proxy": [cause_as_plain(cause) for cause in causes],
    }


def differences_as_plain(verified: Verified) -> list[dict[str, object]]:
    """Return the differences as plain values for JSON."""
    found: list[dict[str, object]] = [
        {
            "kind": difference.kind,
            "family": difference.family,
            "table": difference.table,
            "chain": difference.chain,
            "position": difference.position or None,
            "rule": _rule(difference) if difference.rule else None,
            "policy": difference.policy or None,
            **_with_effect(difference.effect, difference_text(difference)),
        }
        for difference in verified.differences
    ]
    found += [{"kind": "plumbing", "message": need.message} for need in verified.missing]
    found += [
        {"kind": each.kind, "family": each.family, "message": each.message, "remedy": each.remedy}
        for each in verified.impediments
    ]
    found += [{"kind": "second set", **_with_effect(other.effect, _second_set(other))} for other in verified.others]
    found += [
        {
            "kind": "foreign",
            "table": each.foreign_chain.table,
            "chain": each.foreign_chain.chain.name,
            "rule": _rule(each),
            **_with_effect(each.effect, _foreign(each)),
        }
        for each in verified.obstacles
    ]
    found += [{"kind": "uncaptured family", "message": sentence} for sentence in verified.uncaptured]
    return found


def _with_effect(effect: Effect | None, message: str) -> dict[str, object]:
    example = effect and {
        "packet": packet_text(effect.packet),
        "asked": effect.before.outcome,
        "asked_port": effect.before.port,
        "live": effect.after.outcome,
        "live_port": effect.after.port,
    }
    return {"example": example, "effect": effect_as_plain(effect), "message": message}


def effect_as_plain(effect: Effect | None) -> dict[str, object] | None:
    """Return what a difference does, for JSON: to which packets, and what happens to them before and after it."""
    if effect is None:
        return None
    return {
        "direction": effect.direction,
        "packets": list(effect.regions),
        "witness": packet_text(effect.packet),
        "before": fate_as_plain(effect.before.fate),
        "after": fate_as_plain(effect.after.fate) if effect.is_certain else None,
    }


FATE = ("outcome", "port", "address", "interface")
"""The keys of a fate."""


def fate_as_plain(fate: Fate) -> dict[str, object]:
    """Return what happens to packets, for JSON; port and address are null where they stay as addressed."""
    address = fate.address and _address_text(fate.address)
    return {"outcome": fate.outcome, "port": fate.port, "address": address, "interface": fate.interface}


def _address_text(address: Network) -> str:
    """Return an address; of packets to many addresses that are translated alike, the network."""
    return address_text(address.family, address.first) if address.is_address else str(address)
