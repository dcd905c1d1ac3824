"""Which foreign rules are drift, which cannot be judged, and which are worth a note; the kernel's word is elsewhere."""

from collections.abc import Iterable

import pytest

from capture.analysis.base_chains import BaseChain, Situation
from capture.analysis.compare import Difference, differences
from capture.analysis.culprits import Obstacle
from capture.analysis.diagram import TooLargeError
from capture.analysis.effects import Effect
from capture.analysis.judgement import Judgement, judge, second_set_effect
from capture.analysis.own_effects import EFFECT_NOT_JUDGED, MAX_JUDGED
from capture.model.addresses import FAMILIES, Family, Network
from capture.model.chain_names import DASH
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    Accept,
    Chain,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Jump,
    Log,
    Match,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    Source,
    Table,
    TableName,
    UnknownVerdict,
    only,
)
from capture.rules import build_ruleset
from capture.settings import options as option
from capture.settings.config import CaptureConfig
from support.captures.fake_pod import ruleset_of
from support.rules.foreign import foreign_match, foreign_verdict
from support.rules.notation import rule_line

REDIRECT = ruleset_of({})
TPROXY = ruleset_of({option.INTERCEPTION_MODE: "TPROXY"})

UNKNOWN = foreign_match("-m statistic --mode random")
HTTPS = (Protocol("tcp"), DestinationPort((only(443),)))
TIME = (Protocol("udp"), DestinationPort((only(123),)))
TAKES_HTTPS = Rule(Accept(), HTTPS)
TAKES_TIME = Rule(Accept(), TIME)
MAY_ACCEPT_HTTPS = Rule(Accept(), (*HTTPS, UNKNOWN))


def judged(
    desired: Ruleset, table: TableName = NAT, chain: str = OUTPUT, *foreign: Rule, other_chains: BaseChain | None = None
) -> Judgement:
    """Return the judgement on rules at the top of one of our chains, and on a foreign chain."""
    tables = []
    for each in desired.tables:
        chains = [c.replace(rules=(*foreign, *c.rules)) if c.name == chain else c for c in each.chains]
        tables.append(each.replace(chains=tuple(chains)) if each.name == table else each)
    live = desired.replace(tables=tuple(tables))
    return judge(Situation(desired, (other_chains,) if other_chains else ()), live)


def lines(found: Iterable[Difference | Obstacle]) -> list[str]:
    """Return the rules of IPv4, and those of both families."""
    of_ipv4 = [each for each in found if not isinstance(each, Difference) or each.family == "ipv4"]
    return [rule_line(each.rule) if each.rule else "policy" for each in of_ipv4]


def outcomes(found: Iterable[Difference | Obstacle]) -> list[tuple[str, str]]:
    return [(each.effect.before.outcome, each.effect.after.outcome) for each in found if each.effect]


def effects_of(judgement: Judgement) -> list[Effect]:
    return [each.effect for each in judgement.differences if each.effect]


class TestInOurTables:
    def test_drift_with_an_effect(self) -> None:
        judgement = judged(REDIRECT, NAT, OUTPUT, TAKES_HTTPS)

        assert lines(judgement.differences) == [rule_line(TAKES_HTTPS)]
        assert {each.kind for each in judgement.differences} == {"foreign"}
        assert outcomes(judgement.differences)[0] == ("proxy-outbound", "direct")
        assert judgement.harmless_differences == judgement.unjudged == ()

    def test_the_effect_of_a_missing_rule_is_that_on_apps(self) -> None:
        """Calls of the proxy to its own pod are captured, too, and come first in no report."""
        desired = build_ruleset(CaptureConfig(excluded_outbound_ports=(only(9001),)))
        live = build_ruleset(CaptureConfig())
        judgement = judge(Situation(desired), live)

        assert set(outcomes(judgement.differences)) == {("direct", "proxy-outbound")}

    def test_a_loop_of_the_proxy_comes_first(self) -> None:
        """The rule moves calls of the proxy to its own pod, too, which harms less."""
        judgement = judged(REDIRECT, NAT, OUTPUT, Rule(Jump(DASH.redirect), HTTPS))

        assert {(each.before.outcome, each.after.outcome, each.packet.uid) for each in effects_of(judgement)} == {
            ("direct", "proxy-outbound", 1337)
        }

    @pytest.mark.parametrize("family", FAMILIES)
    def test_so_does_one_of_what_the_proxy_passes_on(self, family: Family) -> None:
        """A missing rule sends its calls to the app back to it; another one takes captured traffic past it."""

        def changed(_: TableName, chain: Chain) -> Chain:
            left = tuple(rule for rule in chain.rules if not any(isinstance(each, Source) for each in rule.matches))
            return chain.replace(rules=(*left[:-1], TAKES_HTTPS, *left[-1:])) if chain.name == DASH.output else chain

        live = REDIRECT.with_chains(changed)
        found = judge(Situation(REDIRECT), live).differences

        first, second = sorted((each for each in found if each.family == family), key=lambda each: each.weight)
        assert [(each.effect.before.outcome, each.effect.after.outcome) for each in (first, second) if each.effect] == [
            ("direct", "proxy-inbound"),
            ("proxy-outbound", "direct"),
        ]

    def test_a_note_where_nothing_captured_meets_it(self) -> None:
        judgement = judged(REDIRECT, NAT, OUTPUT, TAKES_TIME)

        assert judgement.differences == ()
        assert lines(judgement.harmless_differences) == [rule_line(TAKES_TIME)]

    def test_behind_what_may_do_the_same_it_counts(self) -> None:
        unknown = Rule(Accept(), (UNKNOWN,))
        judgement = judged(REDIRECT, NAT, OUTPUT, unknown, TAKES_HTTPS, TAKES_TIME)

        assert rule_line(unknown) in lines(judgement.unjudged)
        assert lines(judgement.differences) == [rule_line(TAKES_HTTPS)], "either takes HTTPS away, or both"

    def test_behind_what_may_do_anything_it_is_not_certain(self) -> None:
        unknown = Rule(foreign_verdict("NFQUEUE"))
        judgement = judged(REDIRECT, NAT, OUTPUT, unknown, TAKES_HTTPS, TAKES_TIME)

        assert lines(judgement.unjudged) == [rule_line(unknown), rule_line(TAKES_HTTPS)]
        assert judgement.differences == ()
        assert lines(judgement.harmless_differences) == [rule_line(TAKES_TIME)]

    def test_twins_are_blamed_both(self) -> None:
        """Without the first the second would do the same."""
        judgement = judged(REDIRECT, NAT, OUTPUT, TAKES_HTTPS, TAKES_HTTPS)
        assert lines(judgement.differences) == [rule_line(TAKES_HTTPS)] * 2

    def test_a_chain_of_nat_is_not_blamed_for_connections_that_never_meet_it(self) -> None:
        emptied = ("ISTIO-INBOUND", "ISTIO-OUTPUT")
        live = REDIRECT.with_chains(lambda _, chain: chain.replace(rules=()) if chain.name in emptied else chain)

        found = judge(Situation(REDIRECT), live).differences

        directions = {(each.chain, each.effect.direction) for each in found if each.effect}
        assert directions == {("ISTIO-INBOUND", "inbound"), ("ISTIO-OUTPUT", "outbound")}

    def test_our_own_rule_that_is_missing_counts_though_no_packet_notices(self) -> None:
        tables = [
            table.replace(chains=tuple(c.replace(rules=c.rules[:-1]) for c in table.chains))
            for table in REDIRECT.tables
        ]
        live = REDIRECT.replace(tables=tuple(tables))
        found = differences(REDIRECT, live)

        judgement = judge(Situation(REDIRECT), live)

        assert [d.rule for d in judgement.differences] == [d.rule for d in found]
        assert any(each.effect for each in judgement.differences)


class TestMarks:
    @pytest.mark.parametrize(
        ("chain", "rule"),
        [
            (PREROUTING, Rule(SetMark(1337), HTTPS)),
            (PREROUTING, Rule(RestoreMark())),
            (OUTPUT, Rule(SaveMark())),  # so that answers of the app do not come to the proxy
        ],
    )
    def test_a_rule_that_changes_our_mark_is_drift(self, chain: str, rule: Rule) -> None:
        judgement = judged(TPROXY, MANGLE, chain, rule)

        assert (lines(judgement.differences), judgement.harmless_differences) == ([rule_line(rule)], ())

    @pytest.mark.parametrize("rule", [Rule(SetMark(5), (InInterface("eth0"),)), Rule(SetMark(1337), TIME)])
    def test_a_note_where_our_rules_do_the_same(self, rule: Rule) -> None:
        judgement = judged(TPROXY, MANGLE, PREROUTING, rule)

        assert (judgement.differences, lines(judgement.harmless_differences)) == ((), [rule_line(rule)])


def chain(
    *rules: Rule, hook: str = OUTPUT, priority: int = -200, is_nat: bool = False, policy: str = "ACCEPT"
) -> BaseChain:
    """Return a foreign chain, whose rules may jump to one that drops HTTPS, and to some that may accept it, or all."""
    more = Chain("more", (Rule(Accept(), TIME), Rule(Drop(), HTTPS)))
    doubtful = Chain("may accept HTTPS", (MAY_ACCEPT_HTTPS,)), Chain("may accept all", (Rule(Accept(), (UNKNOWN,)),))
    leading = Chain("leads to it", (Rule(Jump("may accept all")),))
    table = Table(NAT if is_nat else MANGLE, (Chain("x", rules, policy), more, *doubtful, leading))
    return BaseChain("inet other", FAMILIES, hook, priority, is_nat, table)


class TestNextToOurs:
    @pytest.mark.parametrize(
        ("there", "outcome"),
        [
            (chain(Rule(Drop(), HTTPS)), "dropped"),
            (chain(Rule(Redirect(1), HTTPS), is_nat=True), "redirected"),
            (chain(Rule(Redirect(1), HTTPS), is_nat=True, priority=-100), "redirected"),
            (chain(Rule(foreign_verdict("DNAT --to-destination 10.0.0.9:1"), HTTPS), is_nat=True), "direct"),
            (chain(Rule(Jump("more"))), "dropped"),
            (chain(Rule(Accept(), TIME), policy="DROP"), "dropped"),
            (chain(Rule(Drop(), (InInterface("lo"),)), hook=PREROUTING), "dropped"),
        ],
    )
    def test_a_rule_that_diverts_captured_traffic_is_drift(self, there: BaseChain, outcome: str) -> None:
        judgement = judged(REDIRECT, other_chains=there)

        assert [after for _, after in outcomes(judgement.obstacles)] == [outcome]
        assert all(before != "direct" for before, _ in outcomes(judgement.obstacles))
        assert judgement.harmless_obstacles == judgement.unjudged == ()

    @pytest.mark.parametrize("rule", [Rule(Accept()), Rule(Log("seen")), Rule(Accept(), (UNKNOWN,))])
    def test_a_rule_that_accepts_is_not_worth_a_word(self, rule: Rule) -> None:
        judgement = judged(REDIRECT, other_chains=chain(rule))

        assert judgement.obstacles == judgement.harmless_obstacles == judgement.unjudged == ()

    @pytest.mark.parametrize(
        ("rule", "is_judged"),
        [
            (Rule(Drop(), TIME), True),
            (Rule(SetMark(1337)), True),
            (Rule(Jump("nowhere")), True),
            (Rule(UnknownVerdict("queue to 1"), TIME), True),
            (Rule(UnknownVerdict("queue to 1"), HTTPS), False),
            (Rule(Drop(), (UNKNOWN,)), False),
        ],
    )
    def test_a_rule_is_a_note_unless_it_may_meet_captured_traffic(self, rule: Rule, *, is_judged: bool) -> None:
        judgement = judged(REDIRECT, other_chains=chain(rule))
        notes, unjudged = lines(judgement.harmless_obstacles), lines(judgement.unjudged)

        assert (judgement.obstacles, notes, unjudged) == (
            ((), [rule_line(rule)], []) if is_judged else ((), [], [rule_line(rule)])
        )

    def test_a_mark_by_which_a_transparent_capture_tells_packets_apart(self) -> None:
        there = chain(Rule(SetMark(1337), HTTPS), hook=PREROUTING)

        assert ("proxy-inbound", "dropped") in outcomes(judged(TPROXY, other_chains=there).obstacles)

    def test_a_family_that_is_not_captured(self) -> None:
        desired = REDIRECT.replace(families=("ipv4",))

        assert judged(desired, other_chains=chain(Rule(Drop(), HTTPS, "ipv6"))).obstacles == ()

    def test_an_uncertain_rule_is_no_obstacle_where_what_follows_drops_as_well(self) -> None:
        uncertain, certain = Rule(Drop(), (UNKNOWN,)), Rule(Drop())
        judgement = judged(REDIRECT, other_chains=chain(uncertain, certain, policy="DROP"))

        assert lines(judgement.obstacles) == [rule_line(certain), "policy"]
        assert lines(judgement.unjudged) == [rule_line(uncertain)]

    @pytest.mark.parametrize("drops", [chain(policy="DROP"), chain(Rule(Drop()))], ids=["policy", "rule"])
    @pytest.mark.parametrize("accepts", [Rule(Accept(), (UNKNOWN,)), Rule(Jump("may accept all"))])
    def test_a_drop_behind_what_may_accept_is_no_drift(self, drops: BaseChain, accepts: Rule) -> None:
        there = drops.with_chain(drops.chain.replace(rules=(accepts, *drops.chain.rules)))
        judgement = judged(REDIRECT, other_chains=there)

        assert judgement.obstacles == judgement.harmless_obstacles == ()
        assert len(judgement.unjudged) == 2
        assert not any(each.effect is None or each.effect.is_certain for each in judgement.unjudged)

    def test_a_drop_behind_two_chains_that_may_accept_is_no_drift(self) -> None:
        jumps = Rule(Jump("may accept HTTPS")), Rule(Jump("leads to it"))
        judgement = judged(REDIRECT, other_chains=chain(*jumps, policy="DROP"))

        assert judgement.obstacles == judgement.harmless_obstacles == ()
        assert not any(each.effect is None or each.effect.is_certain for each in judgement.unjudged)

    def test_the_packets_of_a_policy_are_those_that_no_other_rule_accepts(self) -> None:
        (found,) = judged(REDIRECT, other_chains=chain(TAKES_HTTPS, policy="DROP")).obstacles

        assert found.effect is not None
        assert found.effect.regions[0].startswith("tcp, port other than 443")

    @pytest.mark.parametrize("accepts", [MAY_ACCEPT_HTTPS, Rule(Jump("may accept HTTPS"))])
    def test_the_packets_of_a_drop_are_those_that_nothing_may_accept(self, accepts: Rule) -> None:
        judgement = judged(REDIRECT, other_chains=chain(accepts, Rule(Drop(), (Protocol("tcp"),))))

        (found,) = judgement.obstacles
        assert judgement.harmless_obstacles == ()
        assert found.effect is not None
        assert found.effect.regions[0].startswith("tcp, port other than 443")

    def test_the_policy_that_drops_has_no_rule(self) -> None:
        (found,) = judged(REDIRECT, other_chains=chain(policy="DROP")).obstacles
        assert (found.rule, found.family) == (None, "ipv4")

    @pytest.mark.parametrize(("unknown", "kind"), [((), "obstacles"), ((UNKNOWN,), "unjudged")])
    def test_a_rule_that_counts_in_one_family_is_no_note_for_the_other(
        self, unknown: tuple[Match, ...], kind: str
    ) -> None:
        desired = ruleset_of({option.EXCLUDED_OUTBOUND_NETWORKS: "::/0"})
        there = chain(Rule(Drop(), (*HTTPS, OwnerUid((only(1000),)), *unknown)))

        found = judged(desired, other_chains=there)

        assert {name: len(getattr(found, name)) for name in ("obstacles", "unjudged", "harmless_obstacles")} == {
            "obstacles": 0, "unjudged": 0, "harmless_obstacles": 0, kind: 1
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("rule", "families", "family"),
        [(Rule(Drop()), FAMILIES, "ipv4"), (Rule(Drop(), family="ipv6"), FAMILIES, "ipv6"), (None, ("ipv6",), "ipv6")],
    )
    def test_the_family_of_an_obstacle(self, rule: Rule | None, families: tuple[Family, ...], family: Family) -> None:
        found = Obstacle(chain().replace(families=families), rule)
        assert found.family == family
        (effect, *_) = [each.effect for each in judged(REDIRECT, other_chains=chain(Rule(Drop(), HTTPS))).obstacles]
        assert found.replace(effect=effect) == found, "what it does is no part of what it is"


class TestOurOwn:
    def live(self) -> Ruleset:
        """Return the default rules with some missing, some unexpected ones and another policy."""
        tables = []
        for table in REDIRECT.tables:
            chains = []
            for each in table.chains:
                rules = each.rules if each.name == OUTPUT else (TAKES_TIME, *each.rules[1:])
                chains.append(each.replace(rules=rules, policy="DROP" if each.name == OUTPUT else each.policy))
            tables.append(table.replace(chains=tuple(chains)))
        return REDIRECT.replace(tables=tuple(tables))

    def test_without_a_reference_no_rule_is_missing(self) -> None:
        kinds = [
            {each.kind for each in found.differences}
            for has_reference in (True, False)
            for found in [judge(Situation(REDIRECT), self.live(), has_reference=has_reference)]
        ]
        assert kinds == [{"missing", "unexpected", "policy"}, {"policy"}]

    @pytest.mark.parametrize(("desired", "other"), [("ipv4", "ipv6"), ("ipv6", "ipv4")])
    def test_a_family_that_should_not_be_captured_comes_first(self, desired: Family, other: Family) -> None:
        found = judge(Situation(REDIRECT.replace(families=(desired,))), self.live()).differences

        assert found[0].family == other
        assert [each.family for each in found] == sorted((each.family for each in found), reverse=other == "ipv6")
        assert {each.family for each in found} == set(FAMILIES)

    def test_of_very_many_differences_the_first_get_an_effect(self) -> None:
        places = [(Destination((Network("ipv4", 0x0A600000 + 7 * port, 32),)), only(port)) for port in range(80, 182)]
        rules = [Rule(Return(), (to, Protocol("tcp"), DestinationPort((port,)))) for to, port in places]
        found = judged(REDIRECT.replace(families=("ipv4",)), NAT, "ISTIO-OUTPUT", *rules).differences

        assert len(found) == len(rules) == MAX_JUDGED + 2 == 102
        assert [each.effect is not None for each in found] == [True] * MAX_JUDGED + [False] * 2
        assert [each.effect_context for each in found][-3:] == ["", EFFECT_NOT_JUDGED, EFFECT_NOT_JUDGED]

    def test_rules_that_are_too_entangled_leave_a_doubt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("capture.analysis.diagram.MAX_EDGES", 50)

        found = judge(Situation(REDIRECT), self.live())

        assert found.doubts == (str(TooLargeError().message),)
        assert found.differences == tuple(differences(REDIRECT, self.live()))
        assert second_set_effect(Situation(REDIRECT, (chain(),))) is None


class TestSecondSet:
    @pytest.mark.parametrize(
        ("rule", "before"),
        [
            (Rule(Redirect(16001), HTTPS), "proxy-outbound"),
            (Rule(Redirect(16001), HTTPS, "ipv6"), "proxy-outbound"),
            (Rule(Redirect(16001), TIME), "direct"),
            (Rule(Log("seen"), HTTPS), None),
        ],
    )
    def test_a_second_set_of_unknown_age_counts_as_the_newer_one(self, rule: Rule, before: str | None) -> None:
        there = chain(rule, is_nat=True, priority=-100).replace(is_older=True, is_age_unknown=True)

        effect = second_set_effect(Situation(REDIRECT, (there,)))

        assert outcomes([Obstacle(there, rule, effect)]) == ([(before, "redirected")] if before else [])

    def test_rules_too_entangled_in_one_family_are_judged_in_the_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        places = [(Destination((Network("ipv4", 0x0A600000 + 7 * port, 32),)), only(port)) for port in range(80, 380)]
        entangled = [Rule(Drop(), (to, Protocol("tcp"), DestinationPort((port,))), "ipv4") for to, port in places]
        there = chain(*entangled), chain(Rule(Redirect(16001), HTTPS, "ipv6"), is_nat=True, priority=-100)
        monkeypatch.setattr("capture.analysis.diagram.MAX_EDGES", 4000)

        effect = second_set_effect(Situation(REDIRECT, there))

        assert effect is not None
        assert effect.family == "ipv6"
