"""What two situations do differently, for all packets: the cases that a search for examples overlooked, and laws."""

from collections.abc import Iterable
from typing import Any

import pytest

from capture.analysis.base_chains import BaseChain, PodNetwork, Situation
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler
from capture.analysis.culprits import Culprits
from capture.analysis.effects import Comparison, Effect
from capture.analysis.possible_packets import possible_packets
from capture.analysis.rerouting import MarkRoute
from capture.analysis.trace import trace_whole_path
from capture.model.addresses import FAMILIES, Family, parse_address, parse_network
from capture.model.ruleset import (
    ALL_BITS,
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    Accept,
    Chain,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    DestinationPort,
    Drop,
    Jump,
    Mark,
    OwnerUid,
    Protocol,
    Redirect,
    Return,
    Rule,
    Ruleset,
    SetMark,
    SetZone,
    Table,
    TableName,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from capture.settings.parsers import Selection, UidPorts
from support.generators.small_pools import Pools, numbers_of, value_at
from support.rules.foreign import foreign_match, foreign_verdict

TCP = Protocol("tcp")
UDP = Protocol("udp")
HTTPS = (TCP, DestinationPort((only(443),)))
PROXY = OwnerUid((only(1337),))
PROXY_RETURNS = Rule(Return(), (PROXY,))
UNKNOWN = foreign_match("-m statistic --mode random")
DEFAULT = build_ruleset(CaptureConfig())
TPROXY = build_ruleset(CaptureConfig(mode="TPROXY"))

GROUPS = tuple(only(5000 + 10 * number) for number in range(64))
NETWORKS = tuple(parse_network(f"20.{number}.0.0/24") for number in range(64))


def ports(count: int) -> tuple:  # type: ignore[type-arg]  # of spans
    return tuple(only(10000 + 3 * number) for number in range(count))


def before(ruleset: Ruleset, rules: Iterable[Rule], table: TableName = NAT, chain: str = OUTPUT) -> Ruleset:
    """Return a rule set with foreign rules at the top of a built-in chain."""
    tables = []
    for each in ruleset.tables:
        chains = [c.replace(rules=(*rules, *c.rules)) if c.name == chain else c for c in each.chains]
        tables.append(each.replace(chains=tuple(chains)) if each.name == table else each)
    return ruleset.replace(tables=tuple(tables))


def effects(ruleset: Ruleset, *rules: Rule, table: TableName = NAT, chain: str = OUTPUT) -> list[Effect]:
    """Return what foreign rules at the top of a chain do to captured packets of IPv4."""
    return found(Situation(ruleset), Situation(before(ruleset, rules, table, chain)))


def found(desired: Situation, live: Situation, family: Family = "ipv4") -> list[Effect]:
    """Return what differs, and see that every witness truly fares so."""
    effects = list(Comparison(family, desired, live).effects(only_captured=True))
    for effect in effects:
        assert not effect.is_certain or effect.before.fate != effect.after.fate
        assert trace_whole_path(effect.packet, live).fate == effect.after.fate
    return effects


def lines(effects: list[Effect]) -> list[str]:
    return [f"{effect.regions[0]}: {effect.before.outcome} -> {effect.after.outcome}" for effect in effects]


def foreign_chain(
    *rules: Rule, hook: str = OUTPUT, priority: int = -200, is_nat: bool = False, **more: Any
) -> BaseChain:
    contents = Table(NAT if is_nat else MANGLE, (Chain("x", rules, "ACCEPT"),))
    return BaseChain("ip other", FAMILIES, hook, priority, is_nat, contents, **more)


class TestOverlookedBefore:
    """Rules that take the proxy's traffic to its own pod, or that of apps, and were called harmless."""

    @pytest.mark.parametrize(
        "config",
        [
            CaptureConfig(owner_groups=Selection(entries=GROUPS), excluded_outbound_ports=ports(11)),
            CaptureConfig(excluded_outbound_ports=ports(496)),
            CaptureConfig(excluded_outbound_ports=ports(3000)),
            CaptureConfig(
                uid_port_exclusions=tuple(UidPorts("tcp", (each,), (each,)) for each in GROUPS),
                excluded_outbound_ports=ports(64),
                excluded_outbound_networks=NETWORKS,
            ),
        ],
    )
    def test_the_proxy_calls_its_own_pod(self, config: CaptureConfig) -> None:
        (effect,) = effects(build_ruleset(config), PROXY_RETURNS)

        assert (effect.before.fate.port, effect.after.outcome) == (15006, "direct")
        assert effect.packet.uid == 1337

    def test_the_last_of_many_networks(self) -> None:
        drops = Rule(Drop(), (Destination((*NETWORKS, parse_network("20.64.0.0/24"))),))
        ruleset = build_ruleset(CaptureConfig(excluded_outbound_networks=NETWORKS))

        assert "tcp to 20.64.0.0/24, user other than 1337, group other than 1337: proxy-outbound -> dropped" in lines(
            effects(ruleset, drops)
        )

    def test_a_drop_in_a_table_of_its_own_is_an_effect(self) -> None:
        users = tuple(UidPorts("tcp", (each,), (only(2000 + each.first),)) for each in ports(21))
        ruleset = build_ruleset(CaptureConfig(uid_port_exclusions=users, excluded_outbound_ports=ports(40)))

        outcomes = found(Situation(ruleset), Situation(ruleset, (foreign_chain(Rule(Drop(), (PROXY,))),)))

        assert ("proxy-inbound", "dropped") in [(each.before.outcome, each.after.outcome) for each in outcomes]
        assert ("direct", "dropped") in [(each.before.outcome, each.after.outcome) for each in outcomes]


class TestHarmless:
    @pytest.mark.parametrize(
        "rules",
        [
            (Rule(Return(), (UDP,)),),
            (Rule(Accept(), (UDP, UNKNOWN)),),
            (Rule(Drop(), (UDP, DestinationPort((only(123),)))),),
            (Rule(foreign_verdict("NFQUEUE --queue-num 1"), (UDP,)),),
            (Rule(Drop(), (foreign_match("-p icmp"),)),),
            (Rule(foreign_verdict("NFLOG --nflog-group 1")),),
            (Rule(SetMark(7)),),
            (Rule(Jump("nowhere")),),
        ],
    )
    def test_harmless_rules_have_no_effect_on_any_packet(self, rules: tuple[Rule, ...]) -> None:
        assert effects(DEFAULT, *rules) == []

    def test_behind_what_covers_it(self) -> None:
        """The difference is the first rule's alone."""
        with_both = before(DEFAULT, (Rule(Return(), HTTPS), Rule(Drop(), HTTPS)))
        assert found(Situation(before(DEFAULT, (Rule(Return(), HTTPS),))), Situation(with_both)) == []

    def test_an_unknown_question_about_what_is_left_alone_anyway(self) -> None:
        ruleset = build_ruleset(CaptureConfig(excluded_outbound_ports=(only(443),)))
        of_apps = OwnerUid((only(1000),))
        assert effects(ruleset, Rule(Return(), (*HTTPS, of_apps, UNKNOWN))) == []


class TestUnjudged:
    def test_an_unknown_match_leaves_other_effects_certain(self) -> None:
        certain, unjudged = effects(DEFAULT, Rule(Return(), (TCP, PROXY)), Rule(Return(), (*HTTPS, UNKNOWN)))

        assert certain.is_certain
        assert not unjudged.is_certain
        assert lines([unjudged])[0].startswith("tcp, port 443, user other than 1337, group other than 1337: ")

    def test_whatever_an_unknown_verdict_does(self) -> None:
        assert {each.is_certain for each in effects(DEFAULT, Rule(foreign_verdict("NFQUEUE"), HTTPS))} == {False}

    def test_rules_for_both_answers_of_a_match_are_certain(self) -> None:
        """Whatever holds, one of the two takes the packet."""
        wanted = foreign_match("-m mac --mac-source 00:00:00:00:00:01")
        always = (Rule(Return(), (*HTTPS, wanted)), Rule(Return(), HTTPS))
        assert {each.is_certain for each in effects(DEFAULT, *always)} == {True}

    def test_two_throws_of_the_dice_are_two(self) -> None:
        dice = Rule(Return(), (*HTTPS, UNKNOWN))
        assert found(Situation(before(DEFAULT, (dice,))), Situation(before(DEFAULT, (dice, dice)))) != []

    @pytest.mark.parametrize(("is_of_any_age", "outcome"), [(False, [True]), (True, [False])])
    def test_the_order_of_chains_of_one_priority(self, outcome: list[bool], *, is_of_any_age: bool) -> None:
        there = foreign_chain(Rule(Redirect(1), HTTPS), priority=-100, is_nat=True, is_age_unknown=is_of_any_age)

        captured = [
            each
            for each in found(Situation(DEFAULT), Situation(DEFAULT, (there,)))
            if each.before.outcome == "proxy-outbound"
        ]

        assert [each.is_certain for each in captured] == outcome


class TestWhatAKernelCanShow:
    def test_no_mark_of_a_connection_that_no_rule_saves(self) -> None:
        assert effects(DEFAULT, Rule(Drop(), (ConnectionMark(7),)), table=NAT) == []
        kept = Rule(Drop(), (ConnectionMark(1337), ConnectionState(("ESTABLISHED",))))
        assert effects(TPROXY, kept, table=MANGLE) != []
        other = Rule(Drop(), (ConnectionMark(7), ConnectionState(("ESTABLISHED",))))
        assert effects(TPROXY, other, table=MANGLE) == []

    def test_a_negated_owner_match_without_a_socket(self) -> None:
        """Of a packet that no process sends, such as the answer of a closed connection: iptables lets it hold."""
        drops = Rule(Drop(), (OwnerUid((only(0),), negated=True), OwnerUid((only(1),), negated=True)))
        known = foreign_chain(drops, hook=OUTPUT, priority=-150, is_native=False)
        native = known.replace(is_native=True)
        (effect, *_) = [
            each
            for each in Comparison("ipv4", Situation(DEFAULT, (native,)), Situation(DEFAULT, (known,))).effects()
            if each.direction == "outbound"
        ]
        assert (effect.packet.uid, effect.after.outcome) == (None, "dropped")

    def test_established_packets_only_where_first_ones_fare_alike(self) -> None:
        new, *others = effects(DEFAULT, Rule(Drop(), HTTPS))
        assert {each.packet.state for each in (new, *others)} == {"NEW"}
        drops = Rule(Drop(), (*HTTPS, ConnectionState(("ESTABLISHED",))))
        late = found(Situation(DEFAULT), Situation(DEFAULT, (foreign_chain(drops, hook=PREROUTING, priority=-150),)))
        assert [each.packet.state for each in late] == ["ESTABLISHED"] * len(late) != []

    def test_packets_with_a_mark_where_only_they_fare_so_and_a_policy_rule_routes_by_it(self) -> None:
        marks = [Rule(Continue(), (Mark(mark),)) for mark in (1, 2)]
        assert {each.packet.mark for each in effects(DEFAULT, *marks, Rule(Drop(), HTTPS))} == {0}
        rules = (*marks, Rule(Drop(), (*HTTPS, Mark(1))))
        assert effects(DEFAULT, *rules) == []
        route = MarkRoute("ipv4", 1, ALL_BITS, is_inverted=False, words="", targets=())
        routed = Situation(DEFAULT, network=PodNetwork(mark_routes=(route,)))
        marked = found(routed, routed.replace(ruleset=before(DEFAULT, rules, NAT, OUTPUT)))
        assert {each.packet.mark for each in marked} == {1}

    def test_no_packet_to_the_pod_by_another_way_than_lo(self) -> None:
        own = Destination((parse_address("192.0.2.2"),))
        assert {each.packet.out_interface for each in effects(DEFAULT, Rule(Drop(), (own,)))} == {"lo"}

    def test_rules_without_effect_can_be_read_twice(self) -> None:
        whole = Situation(DEFAULT, (foreign_chain(Rule(Accept(), HTTPS), priority=-150),))
        culprits = Culprits("ipv4", Situation(DEFAULT), whole, ())
        assert [*culprits.without_effect] == [*culprits.without_effect] != []

    def test_a_nat_chain_before_mangle_comes_after_it(self) -> None:
        """Of priority -160, but the kernel calls all chains of type nat at -100."""
        redirects = foreign_chain(Rule(Redirect(9), HTTPS), priority=-160, is_nat=True)
        sees = foreign_chain(Rule(Drop(), (TCP, DestinationPort((only(9),)))), priority=-150)
        drops = Situation(DEFAULT, (redirects, sees))
        assert {each.packet.port for each in found(Situation(DEFAULT, (redirects,)), drops)} == {9}

    def test_a_loop_of_jumps_ends(self) -> None:
        live = before(DEFAULT, (Rule(Jump("round")),))
        nat = live.tables[0]
        round_and_round = Chain("round", (Rule(Jump("round")), Rule(Return(), HTTPS)))
        live = live.replace(tables=(nat.replace(chains=(*nat.chains, round_and_round)), *live.tables[1:]))
        assert found(Situation(DEFAULT), Situation(live)) == []


@pytest.mark.parametrize(
    ("words", "address", "port"),
    [("DNAT --to-destination 10.1.2.3", "10.1.2.3/32", 443), ("DNAT --to-destination :8443 --random", "None", 8443)],
)
def test_dnat_of_a_foreign_rule_decides(words: str, address: str, port: int) -> None:
    """The first mapping of nat is the only one."""
    translates = Rule(foreign_verdict(words), HTTPS)

    captured = [each for each in effects(DEFAULT, translates) if each.before.outcome == "proxy-outbound"]

    assert [(each.after.outcome, str(each.after.address), each.after.port) for each in captured] == [
        ("direct", address, port)
    ]


def test_dnat_to_several_addresses_bypasses_the_proxy() -> None:
    captured = effects(DEFAULT, Rule(foreign_verdict("DNAT --to-destination 10.1.2.3-10.1.2.9"), HTTPS))
    of_app = [each for each in captured if each.before.outcome == "proxy-outbound"]
    assert of_app
    assert {(each.after.outcome, each.is_certain) for each in of_app} == {("direct", True)}


def test_a_zone_for_tcp_is_not_judged() -> None:
    """A connection whose answers are in another zone than its first packet is lost."""
    assert effects(DEFAULT, Rule(SetZone(5), (UDP,))) == []
    zoned = Rule(SetZone(5), HTTPS)
    assert [each.is_certain for each in effects(DEFAULT, zoned) if each.before.outcome == "proxy-outbound"] == [False]


@pytest.mark.parametrize("seed", [*range(12), *[pytest.param(n, marks=pytest.mark.long) for n in range(12, 500)]])
def test_a_difference_is_found_exactly_if_a_packet_shows_it(seed: int) -> None:
    """Two situations, the second with one foreign chain less; every packet of the pools that a kernel can show."""
    pools = Pools(seed)
    situation = pools.situation(chains=6)
    others = situation.replace(other_chains=situation.other_chains[1:])
    comparison = Comparison(pools.family, situation, others)
    diagrams, space = comparison.diagrams, comparison.space
    difference = [comparison.difference(direction) for direction in (INBOUND, OUTBOUND)]
    possible = [*possible_packets(space, [Compiler(space, each) for each in (situation, others)]).values()]

    shown = 0
    for packet in pools.packets(300):
        numbers, direction = numbers_of(space, packet), 0 if packet.in_interface is not None else 1
        differs = trace_whole_path(packet, situation).fate != trace_whole_path(packet, others).fate
        if value_at(diagrams, possible[direction], numbers) is True:
            shown += differs
            assert (value_at(diagrams, difference[direction], numbers) is not None) == differs
    for effect in comparison.effects():
        assert value_at(diagrams, possible[effect.direction == OUTBOUND], numbers_of(space, effect.packet)) is True
        assert effect.before.fate != effect.after.fate or not effect.is_certain
    if shown:
        assert list(comparison.effects())
