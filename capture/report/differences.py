"""Differences between what was asked for and what stands, in words and as JSON."""

from __future__ import annotations

from capture.backends.iptables.entries import expanded
from capture.backends.iptables.render import rule_text
from capture.model.ruleset import LoopbackAddress, RestoreMark, SaveMark, SetMark
from capture.report.packet_words import packet_in_words
from capture.settings.families import FAMILY_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.compare import Difference
    from capture.analysis.examples import Example
    from capture.analysis.findings import Obstacle
    from capture.model.addresses import Family
    from capture.model.ruleset import PolicyRoute, Rule
    from capture.operations import Other, Verified

TAKES_AWAY = "belongs to somebody else, and takes traffic away before it reaches ours"
CHANGES_MARKS = "belongs to somebody else, and changes a mark by which ours tell packets apart"
TAKES_NOTHING = "belongs to somebody else, and takes no traffic away from us"
MARKING = (SetMark, SaveMark, RestoreMark)
MEANINGS = {
    "missing": "is missing",
    "unexpected": "should not be there",
    "family": "captures a family that should not be captured",
}


def in_words(verified: Verified) -> Iterator[str]:
    """Yield a sentence for each difference."""
    for difference in verified.differences:
        yield difference_in_words(difference)
    for need in verified.missing:
        yield f"{_need(need)} is missing"
    for impediment in verified.impediments:
        yield impediment.says
    for other in verified.others:
        yield f"{_second_set(other)}{_example_in_words(other.example)}"
    for obstacle in verified.obstacles:
        yield f"{_obstacle(obstacle)}{_example_in_words(obstacle.example)}"
    yield from verified.uncaptured


def notes_in_words(verified: Verified) -> Iterator[str]:
    """Yield a sentence for each rule of somebody else that is worth a note, and no difference."""
    for note in verified.notes:
        if note.rule is not None:
            rule = text_of(note.rule, note.family)
            yield f"{_place(note)} {TAKES_NOTHING}: {rule}"
    for obstacle in verified.harmless:
        yield f"{_place_beside(obstacle)} {TAKES_NOTHING}: {_rule_beside(obstacle)}"
    yield from verified.remarks


def difference_in_words(difference: Difference) -> str:
    """Return a difference in a sentence."""
    if difference.rule is None:
        where = f"{FAMILY_NAMES[difference.family]} {difference.table} {difference.chain}"
        return f"{where}: the policy is {difference.policy}, and should be ACCEPT"
    rule = text_of(difference.rule, difference.family)
    return f"{_place(difference)} {_meaning(difference)}: {rule}{_example_in_words(difference.example)}"


def _meaning(difference: Difference) -> str:
    if difference.kind == "foreign" and difference.rule is not None:
        return CHANGES_MARKS if isinstance(difference.rule.verdict, MARKING) else TAKES_AWAY
    return MEANINGS[difference.kind]


def _place(difference: Difference) -> str:
    where = f"{FAMILY_NAMES[difference.family]} {difference.table} {difference.chain}"
    return f"{where}: rule {difference.position}" if difference.position else f"{where}: a rule"


def _second_set(other: Other) -> str:
    variant = f" {other.where.variant}" if other.where.variant else ""
    return f"a second set of rules stands in {other.where.backend}{variant}"


def _obstacle(obstacle: Obstacle) -> str:
    meaning = CHANGES_MARKS if obstacle.rule and isinstance(obstacle.rule.verdict, MARKING) else TAKES_AWAY
    return f"{_place_beside(obstacle)} {meaning}: {_rule_beside(obstacle)}"


def _place_beside(obstacle: Obstacle) -> str:
    there = obstacle.foreign_chain
    return f"table {there.table}, chain {there.entry.name} ({there.hook}, priority {there.priority}): a rule"


def _rule_beside(obstacle: Obstacle) -> str:
    """Return the rule in the words of nft(8), if they are known."""
    if obstacle.rule is None:
        return "the policy DROP"
    return obstacle.rule.why or text_of(obstacle.rule, obstacle.rule.family or obstacle.foreign_chain.families[0])


def _example_in_words(example: Example | None) -> str:
    """Return what a difference does to some packet, if a packet was found to which it does anything."""
    if example is None:
        return ""
    packet = packet_in_words(example.packet)
    return f" (so that {packet}: {example.live.outcome} instead of {example.asked.outcome})"


def text_of(rule: Rule, family: Family) -> str:
    """Return a rule as iptables-save would print it; a list that takes many rules there by the first of them."""
    of_family = rule.replace(family=family, why="")
    single, *others = expanded([of_family], family)
    try:
        text = rule_text(single) or "(any packet)"
    except ValueError as error:  # live rules may have what iptables has no words for
        return f"({error})"
    return f"{text} (and {len(others)} more like it)" if others else text


def _need(need: LoopbackAddress | PolicyRoute) -> str:
    if isinstance(need, LoopbackAddress):
        return f"the address {need.network} on lo"
    option = "-6 " if need.family == "ipv6" else ""
    return (
        f"`ip {option}rule add fwmark {need.mark} lookup {need.table}`"
        f" or `ip {option}route add local default dev lo table {need.table}`"
    )


def as_plain(verified: Verified) -> list[dict[str, object]]:
    """Return the differences as plain values for JSON."""
    found: list[dict[str, object]] = [
        {
            "kind": difference.kind,
            "family": difference.family,
            "table": difference.table,
            "chain": difference.chain,
            "position": difference.position or None,
            "rule": text_of(difference.rule, difference.family) if difference.rule else None,
            "policy": difference.policy or None,
            "example": _example_as_plain(difference.example),
            "message": difference_in_words(difference),
        }
        for difference in verified.differences
    ]
    found += [{"kind": "plumbing", "message": f"{_need(need)} is missing"} for need in verified.missing]
    found += [
        {"kind": each.kind, "family": each.family, "message": each.says, "remedy": each.remedy}
        for each in verified.impediments
    ]
    found += [
        {"kind": "second set", "example": _example_as_plain(other.example), "message": _second_set(other)}
        for other in verified.others
    ]
    found += [
        {
            "kind": "foreign",
            "table": obstacle.foreign_chain.table,
            "chain": obstacle.foreign_chain.entry.name,
            "rule": _rule_beside(obstacle),
            "example": _example_as_plain(obstacle.example),
            "message": f"{_obstacle(obstacle)}{_example_in_words(obstacle.example)}",
        }
        for obstacle in verified.obstacles
    ]
    found += [{"kind": "uncaptured family", "message": sentence} for sentence in verified.uncaptured]
    return found


def _example_as_plain(example: Example | None) -> dict[str, str] | None:
    if example is None:
        return None
    return {
        "packet": packet_in_words(example.packet),
        "asked": example.asked.outcome,
        "live": example.live.outcome,
    }
