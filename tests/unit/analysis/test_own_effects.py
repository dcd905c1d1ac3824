"""What each difference does by itself: laws over random sets of deleted, moved, changed, surplus and foreign rules."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random

import pytest

from capture.analysis.base_chains import Situation
from capture.analysis.compare import Difference
from capture.analysis.effects import Comparison
from capture.analysis.judgement import family_ruleset, judge
from capture.analysis.own_effects import CHANGED, MAX_GROUPS, MOVED, NOT_ALONE
from capture.analysis.trace import trace_whole_path
from capture.model.ruleset import (
    NAT,
    OUTPUT,
    Accept,
    Chain,
    DestinationPort,
    OwnerUid,
    Protocol,
    Redirect,
    Return,
    Rule,
    Ruleset,
    TableName,
    only,
)
from capture.report.packet_text import effect_text
from capture.report.verified_text import difference_text
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.rules.foreign import foreign_match

Rules = tuple[Rule, ...]

TCP = Protocol("tcp")
TAKES_80 = Rule(Accept(), (TCP, DestinationPort((only(80),))))
FOREIGN = (
    TAKES_80,
    Rule(Return(), (OwnerUid((only(1337),)),)),
    Rule(Accept(), (Protocol("udp"),)),
    Rule(Redirect(9), (TCP, DestinationPort((only(443),)))),
    Rule(Return(), (TCP, foreign_match("-m statistic --mode random"))),
)
"""Rules of other programs."""
CONFIGS = (
    CaptureConfig(families=("ipv4",)),
    CaptureConfig(families=("ipv4",), excluded_outbound_ports=(only(9001), only(9003))),
    CaptureConfig(families=("ipv4",), captures_dns=True, captures_all_dns=True, excluded_interfaces=("net1",)),
    CaptureConfig(families=("ipv4",), mode="TPROXY"),
)


def differences(desired: Ruleset, live: Ruleset) -> tuple[Difference, ...]:
    return judge(Situation(desired), live).differences


def changed(ruleset: Ruleset, place: tuple[str, str], change: Callable[[Rules], Sequence[Rule]]) -> Ruleset:
    """Return the rule set with the rules of one chain changed."""

    def formed(table: TableName, chain: Chain) -> Chain:
        return chain.replace(rules=tuple(change(chain.rules))) if (table, chain.name) == place else chain

    return ruleset.with_chains(formed)


def without(ruleset: Ruleset, places: Iterable[tuple[str, str, int]]) -> Ruleset:
    """Return the rule set without rules at some positions of chains."""
    for where in {place[:2] for place in places}:
        gone = {place[2] for place in places if place[:2] == where}
        ruleset = changed(ruleset, where, partial(_left, gone))
    return ruleset


def _left(gone: set[int], rules: Rules) -> list[Rule]:
    return [rule for position, rule in enumerate(rules, 1) if position not in gone]


def rules_of(ruleset: Ruleset, chain: str) -> Rules:
    found = ruleset.chain(NAT, chain)
    return found.rules if found else ()


def effects(desired: Ruleset, live: Ruleset) -> list[str]:
    comparison = Comparison("ipv4", Situation(desired), Situation(live))
    return [effect_text(each) for each in comparison.effects()]


@pytest.mark.parametrize("seed", range(24))
def test_a_missing_rule_has_the_effect_of_the_desired_rules_without_it_alone(seed: int) -> None:
    random = Random(seed)  # noqa: S311  # no secret
    desired = family_ruleset(build_ruleset(CONFIGS[seed % len(CONFIGS)]), "ipv4")
    places = [
        (table.name, chain.name, n)
        for table in desired.tables
        for chain in table.chains
        for n in range(len(chain.rules))
    ]
    live = without(desired, random.sample(places, random.randint(1, 5)))

    found = [each for each in differences(desired, live) if each.kind == "missing"]

    assert bool(effects(desired, live)) <= any(each.effect for each in found), "all together do something"
    for each in found:
        by_itself = without(desired, [(each.table, each.chain, each.position)])
        alone = effects(desired, by_itself)
        if each.effect is None or each.effect_context:
            assert alone == []
            continue
        assert effect_text(each.effect) in alone
        before, after = (trace_whole_path(each.effect.packet, Situation(rules)) for rules in (desired, by_itself))
        assert (before.fate, after.fate) == (each.effect.before.fate, each.effect.after.fate)
        assert before.fate != after.fate
    for group in {each.effect_context for each in found if each.effect_context}:
        assert group.startswith("not alone, but with ")


@pytest.mark.parametrize("seed", range(12))
def test_a_foreign_rule_is_judged_by_the_desired_rules_whatever_else_is_missing(seed: int) -> None:
    random = Random(seed)  # noqa: S311  # no secret
    desired = family_ruleset(build_ruleset(CONFIGS[seed % len(CONFIGS)]), "ipv4")
    foreign = random.sample(FOREIGN, 2)
    whole = changed(desired, (NAT, OUTPUT), lambda rules: [*foreign, *rules])
    places = [(table.name, chain.name) for table in desired.tables for chain in table.chains if chain.rules]
    live = whole
    for place in random.sample(places, min(2, len(places))):
        live = changed(live, place, lambda rules: [r for r in rules if r in foreign or random.random() < 0.5])

    judged = [judge(Situation(desired), each) for each in (whole, live)]

    first, second = [
        [
            (kind, each.rule, effect_text(each.effect))
            for kind in ("differences", "harmless_differences", "unjudged")
            for each in getattr(found, kind)
            if each.kind == "foreign"
        ]
        for found in judged
    ]
    assert first == second


def test_a_foreign_rule_counts_though_our_jump_is_missing() -> None:
    desired = build_ruleset(CaptureConfig(families=("ipv4",)))
    live = changed(desired, (NAT, OUTPUT), lambda _: [TAKES_80])

    jump, foreign = differences(desired, live)

    assert (jump.kind, foreign.kind) == ("missing", "foreign")
    assert "tcp, user other than 1337, group other than 1337: proxy-outbound 15001 -> direct" in effect_text(
        jump.effect
    )
    assert "tcp, port 80, user other than 1337" in effect_text(foreign.effect)


def test_two_missing_rules_have_an_effect_each() -> None:
    desired = family_ruleset(build_ruleset(CaptureConfig(families=("ipv4",))), "ipv4")
    live = without(desired, [(NAT, "ISTIO-OUTPUT", 3), (NAT, "ISTIO-OUTPUT", 4)])

    by_lo, of_proxy = differences(desired, live)

    of_group = "user other than 1337, group 1337, over lo: direct -> proxy-inbound 15006"
    assert of_group in effect_text(by_lo.effect)
    assert effect_text(of_proxy.effect).startswith(" (tcp, user 1337, group other than 1337: direct -> proxy-outbound")


def test_rules_for_the_same_packets_do_nothing_alone() -> None:
    """Of two rules for one port the loss of either is not noticed, that of both is."""
    once = build_ruleset(CaptureConfig(families=("ipv4",)))
    leaves = (
        Rule(Return(), (TCP, DestinationPort((only(9001),)))),
        Rule(Return(), (DestinationPort((only(9001),)),)),
    )
    desired = changed(once, (NAT, "ISTIO-OUTPUT"), lambda rules: [*leaves, *rules])

    first, second = differences(desired, once)

    assert first.effect_context == "not alone, but with IPv4 nat ISTIO-OUTPUT, rule 2"
    assert second.effect_context == "not alone, but with IPv4 nat ISTIO-OUTPUT, rule 1"
    assert first.effect == second.effect
    assert "port 9001" in effect_text(first.effect, first.effect_context)
    (alone,) = differences(desired, changed(desired, (NAT, "ISTIO-OUTPUT"), lambda rules: rules[1:]))
    assert (alone.effect, alone.effect_context) == (None, "")


def test_rules_that_do_something_in_groups_that_were_not_looked_for_say_so() -> None:
    once = build_ruleset(CaptureConfig(families=("ipv4",)))
    ports = [(DestinationPort((only(port),)),) for port in range(9001, 9001 + MAX_GROUPS + 1)]
    twins = [Rule(Return(), matches) for port in ports for matches in (port, (TCP, *port))]
    found = differences(changed(once, (NAT, "ISTIO-OUTPUT"), lambda rules: [*twins, *rules]), once)

    assert [bool(each.effect) for each in found].count(False) == 2
    assert {each.effect_context for each in found if not each.effect} == {NOT_ALONE}
    assert any(NOT_ALONE in difference_text(each) for each in found)


def test_only_rules_that_do_something_together_are_named_together() -> None:
    once = build_ruleset(CaptureConfig(families=("ipv4",)))
    leaves = [Rule(Return(), (*more, DestinationPort((only(port),)))) for port in (9001, 9002) for more in ((TCP,), ())]
    idle = Rule(Return(), (Protocol("udp"),))
    desired = changed(once, (NAT, "ISTIO-OUTPUT"), lambda rules: [leaves[0], idle, *leaves[1:], *rules])

    found = differences(desired, once)

    assert [each.effect_context.removeprefix("not alone, but with IPv4 nat ISTIO-OUTPUT, ") for each in found] == [
        "rule 3", "", "rule 1", "rule 5", "rule 4",
    ]  # fmt: skip
    assert found[1].effect is None
    assert ["port 9001" in effect_text(each.effect) for each in found] == [True, False, True, False, False]


def test_a_changed_and_a_moved_rule_are_one_change_each() -> None:
    desired = family_ruleset(build_ruleset(CaptureConfig(families=("ipv4",))), "ipv4")
    redirects = Redirect(15001)

    def altered(rules: Rules) -> list[Rule]:
        return [rule.replace(verdict=Redirect(16001)) if rule.verdict == redirects else rule for rule in rules]

    missing, unexpected = differences(desired, changed(desired, (NAT, "ISTIO-REDIRECT"), altered))
    assert (missing.kind, unexpected.kind) == ("missing", "unexpected")
    assert missing.effect_context == unexpected.effect_context == CHANGED
    assert missing.effect == unexpected.effect
    assert "proxy-outbound 15001 -> proxy-outbound 16001" in effect_text(missing.effect)

    moved = changed(desired, (NAT, "ISTIO-INBOUND"), lambda rules: [*rules[1:], rules[0]])
    found = differences(desired, moved)
    assert {each.effect_context for each in found} == {MOVED}
    assert {each.rule for each in found} == {rules_of(desired, "ISTIO-INBOUND")[0]}
    assert "port 15008: direct -> proxy-inbound 15006" in effect_text(found[0].effect)


def test_a_chain_without_rules_is_one_change() -> None:
    desired = build_ruleset(CaptureConfig(families=("ipv4",)))
    found = differences(desired, changed(desired, (NAT, "ISTIO-OUTPUT"), lambda _: ()))

    assert len({effect_text(each.effect) for each in found}) == 1
    assert {each.effect_context for each in found} == {"with all rules of the chain"}
