"""What is a difference and what is not: laws, with the way of a packet as the judge of what matters."""

from collections import Counter
from collections.abc import Iterable
from random import Random

from hypothesis import assume, given
from hypothesis import strategies as st

from capture.analysis.canonical import CanonicalChain, canonical
from capture.analysis.compare import Difference, differences, is_applied
from capture.model.addresses import BITS, FAMILIES, Family, Network
from capture.model.chain_names import is_own_chain
from capture.model.packet import Packet
from capture.model.ruleset import (
    BUILT_IN_CHAINS,
    MANGLE,
    OUTPUT,
    Accept,
    Chain,
    Continue,
    Counters,
    Destination,
    DestinationPort,
    InInterface,
    Jump,
    Log,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    Source,
    Table,
    TableName,
    Verdict,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.generators.configurations import configs
from support.generators.rules import Place, rules, rulesets
from support.rules.foreign import foreign_match, foreign_verdict
from support.rules.traced import trace

KINDS = ("missing", "unexpected")
HARMLESS: list[Verdict] = [Continue(), Log("x")]
MARKING: list[Verdict] = [SetMark(7), RestoreMark(), SaveMark()]
TAKING: list[Verdict] = [Return(), Accept(), Jump("DOCKER"), foreign_verdict("DNAT --to-destination 10.0.0.1")]


def put(ruleset: Ruleset, table: TableName, chain: str, several: tuple[Rule, ...]) -> Ruleset:
    """Return the rule set with other rules in one chain, which may be new, as may the table."""
    there = ruleset.table(table) or Table(table, ())
    if there.chain(chain) is None:
        there = there.replace(chains=(*there.chains, Chain(chain)))
    changed = there.replace(
        chains=tuple(each.replace(rules=several) if each.name == chain else each for each in there.chains)
    )
    others = [each for each in ruleset.tables if each.name != table]
    return ruleset.replace(tables=(*others, changed))


def rules_in(ruleset: Ruleset, table: TableName, chain: str) -> tuple[Rule, ...]:
    there = ruleset.table(table)
    found = there.chain(chain) if there else None
    return found.rules if found else ()


def met(ruleset: Ruleset, place: tuple[TableName, str]) -> list[Rule]:
    """Return the rules of a chain that a packet of the rule set's families may meet."""
    return [rule for rule in rules_in(ruleset, *place) if rule.family in (None, *ruleset.families)]


def places(ruleset: Ruleset) -> list[tuple[TableName, str]]:
    return [(table.name, chain.name) for table in ruleset.tables for chain in table.chains]


def is_built_in(place: tuple[TableName, str]) -> bool:
    return place[1] in BUILT_IN_CHAINS[place[0]]


class TestNoDifference:
    @given(rulesets())
    def test_a_rule_set_does_not_differ_from_itself(self, ruleset: Ruleset) -> None:
        assert differences(ruleset, ruleset) == []
        assert is_applied(ruleset, ruleset)

    @given(rulesets())
    def test_the_form_that_a_kernel_reports_is_no_difference(self, ruleset: Ruleset) -> None:
        """Counters and reasons, a rule for each family, tables and chains in another order, and empty ones."""

        def reported(rule: Rule) -> list[Rule]:
            families = FAMILIES if rule.family is None else (rule.family,)
            return [rule.replace(family=family, why="", counters=Counters(7, 420)) for family in families]

        def reported_chain(chain: Chain) -> Chain:
            return chain.replace(
                rules=tuple(r for rule in chain.rules for r in reported(rule)), counters=Counters(1, 2)
            )

        tables = [t.replace(chains=tuple(map(reported_chain, reversed(t.chains)))) for t in reversed(ruleset.tables)]
        if not ruleset.table("raw"):
            tables.append(Table("raw", (Chain(OUTPUT, (), "ACCEPT"), Chain("ISTIO_OUTPUT"))))
        live = ruleset.replace(tables=tuple(tables))
        assert differences(ruleset, live) == []

    @given(configs, st.lists(rules(Place("nat", OUTPUT)), max_size=3), st.data())
    def test_foreign_rules_after_our_own_do_not_count(
        self, config: CaptureConfig, foreign: list[Rule], data: st.DataObject
    ) -> None:
        desired = build_ruleset(config)
        table, chain = data.draw(st.sampled_from([place for place in places(desired) if is_built_in(place)]))
        live = put(desired, table, chain, (*rules_in(desired, table, chain), *foreign))
        assert differences(desired, live) == []
        assert is_applied(desired, live)

    @given(configs, st.data())
    def test_foreign_rules_that_only_count_or_log_do_not_count(
        self, config: CaptureConfig, data: st.DataObject
    ) -> None:
        desired = build_ruleset(config)
        table, chain = data.draw(st.sampled_from([place for place in places(desired) if is_built_in(place)]))
        harmless = Rule(data.draw(st.sampled_from(HARMLESS)), (foreign_match("-m statistic"),))
        several = list(rules_in(desired, table, chain))
        several.insert(data.draw(st.integers(0, len(several))), harmless)
        live = put(desired, table, chain, tuple(several))
        assert differences(desired, live) == []
        assert is_applied(desired, live)

    @given(configs, st.data())
    def test_foreign_marks_do_not_count_where_our_rules_test_none(
        self, config: CaptureConfig, data: st.DataObject
    ) -> None:
        desired = build_ruleset(config)
        table, chain = data.draw(st.sampled_from([place for place in places(desired) if is_built_in(place)]))
        assume(table != MANGLE)
        several = list(rules_in(desired, table, chain))
        several.insert(data.draw(st.integers(0, len(several))), Rule(data.draw(st.sampled_from(MARKING))))
        assert differences(desired, put(desired, table, chain, tuple(several))) == []

    @given(configs, st.lists(rules(Place("mangle", OUTPUT)), max_size=3))
    def test_foreign_chains_and_tables_do_not_count(self, config: CaptureConfig, foreign: list[Rule]) -> None:
        desired = build_ruleset(config)
        live = put(desired, "nat", "DOCKER_OUTPUT", tuple(foreign))
        assert differences(desired, live) == []
        live = put(live, MANGLE, "FORWARD", tuple(foreign))
        assert differences(desired, live) == []


class TestTampering:
    """One thing changed in what is live: a difference, unless no packet shows it."""

    @given(configs, st.data())
    def test_a_rule_deleted_moved_duplicated_or_altered(self, config: CaptureConfig, data: st.DataObject) -> None:
        desired = build_ruleset(config)
        table, chain = data.draw(st.sampled_from([place for place in places(desired) if rules_in(desired, *place)]))
        before = rules_in(desired, table, chain)
        number = data.draw(st.integers(0, len(before) - 1))
        after = list(before)
        rule = after.pop(number)
        how = data.draw(st.sampled_from(["deleted", "moved", "duplicated", "altered"]))
        if how == "moved":
            after.insert(data.draw(st.integers(0, len(after))), rule)
        elif how == "duplicated":
            after.insert(number, rule)
            after.insert(data.draw(st.integers(0, len(after))), rule)
        elif how == "altered":
            after.insert(number, altered(rule, data))
        live = put(desired, table, chain, tuple(after))
        found = differences(desired, live)
        same = [canonical(live, family) == canonical(desired, family) for family in config.families]
        if found:
            assert not all(same), f"a difference between rules that mean the same: {found}"
            assert {(each.table, each.chain) for each in found} == {(table, chain)}
            for family in config.families if not is_built_in((table, chain)) else ():
                own = [each for each in found if each.family == family]
                assert_nothing_surplus(own, *(canonical(each, family).get((table, chain)) for each in (desired, live)))
            return
        assert all(same) or (how == "duplicated" and is_built_in((table, chain)))
        family = data.draw(st.sampled_from(config.families))
        for packet in packets(rule, family, data.draw(st.randoms())):
            assert outcome(live, packet) == outcome(desired, packet)

    @given(configs, rules(Place("nat", OUTPUT)), st.data())
    def test_a_rule_inserted_into_one_of_our_chains(
        self, config: CaptureConfig, rule: Rule, data: st.DataObject
    ) -> None:
        desired = build_ruleset(config)
        table, chain = data.draw(st.sampled_from([place for place in places(desired) if not is_built_in(place)]))
        several = list(rules_in(desired, table, chain))
        several.insert(data.draw(st.integers(0, len(several))), rule)
        live = put(desired, table, chain, tuple(several))
        same = [canonical(live, family) == canonical(desired, family) for family in config.families]
        assert bool(differences(desired, live)) == (not all(same))

    @given(configs, st.data())
    def test_a_foreign_rule_before_our_own_that_takes_packets_away(
        self, config: CaptureConfig, data: st.DataObject
    ) -> None:
        desired = build_ruleset(config)
        table, chain = data.draw(st.sampled_from([place for place in places(desired) if is_built_in(place)]))
        several = list(rules_in(desired, table, chain))
        verdict = data.draw(st.sampled_from(TAKING))
        foreign = Rule(verdict, (foreign_match("-m addrtype --dst-type LOCAL"),))
        place = data.draw(st.integers(0, len(several) - 1))
        live = put(desired, table, chain, (*several[:place], foreign, *several[place:]))
        families = {family for family in config.families if any(r.family in (None, family) for r in several[place:])}
        found = differences(desired, live)
        assert {(each.family, each.kind, each.position > 0) for each in found} == {
            (family, "foreign", True) for family in families
        }
        assert not any(each.is_own for each in found)

    @given(configs, st.data())
    def test_another_policy_is_a_difference(self, config: CaptureConfig, data: st.DataObject) -> None:
        desired = build_ruleset(config)
        name, chain = data.draw(st.sampled_from([place for place in places(desired) if is_built_in(place)]))
        table = desired.table(name)
        assert table is not None
        chains = tuple(each.replace(policy="DROP") if each.name == chain else each for each in table.chains)
        tables = tuple(table.replace(chains=chains) if each is table else each for each in desired.tables)
        found = differences(desired, desired.replace(tables=tables))
        assert [(each.family, each.table, each.chain, each.kind, each.policy) for each in found] == [
            (family, name, chain, "policy", "DROP") for family in config.families
        ]
        assert is_applied(desired, desired.replace(tables=tables)), "we write no policies"

    @given(configs)
    def test_a_family_that_is_lost(self, config: CaptureConfig) -> None:
        assume(len(config.families) == 2)
        desired = build_ruleset(config)
        for family in FAMILIES:
            found = differences(desired, desired.replace(families=(family,)))
            assert {each.family for each in found} == set(FAMILIES) - {family}
            assert {each.kind for each in found} == {"missing"}

    @given(configs)
    def test_a_family_that_is_captured_and_should_not_be(self, config: CaptureConfig) -> None:
        live = build_ruleset(config.replace(families=FAMILIES))
        for family in FAMILIES:
            desired = build_ruleset(config.replace(families=(family,)))
            found = differences(desired, live)
            assert {(each.kind, each.is_own) for each in found} == {("family", True)}
            assert {each.family for each in found} == set(FAMILIES) - {family}

    @given(configs)
    def test_the_other_spelling_next_to_our_own(self, config: CaptureConfig) -> None:
        """Two sets at once: our own, and one that an older version or upstream left."""
        spelling = "dash" if config.chain_names == "underscore" else "underscore"
        desired, other = build_ruleset(config), build_ruleset(config.replace(chain_names=spelling))
        live = desired
        for place in places(other):
            first = rules_in(live, *place) if is_built_in(place) else ()
            live = put(live, *place, first + rules_in(other, *place))
        found = differences(desired, live)
        assert {each.kind for each in found} == {"unexpected"}
        assert not is_applied(desired, live)
        where = {(each.table, each.chain) for each in found}
        own = {place for place in places(other) if not is_built_in(place) and met(other, place)}
        entered = {place for place in places(other) if any(isinstance(r.verdict, Jump) for r in met(other, place))}
        assert where >= own | entered

    @given(configs, configs, st.sampled_from(CaptureConfig.__match_args__))
    def test_two_configurations_are_the_same_exactly_if_their_forms_are(
        self, one: CaptureConfig, two: CaptureConfig, name: str
    ) -> None:
        """Those that differ in one value: often enough it has no effect on the rules."""
        desired, live = build_ruleset(one), build_ruleset(one.replace(**{name: getattr(two, name)}))
        are_same = all(canonical(desired, family) == canonical(live, family) for family in FAMILIES)
        assert are_same == (not differences(desired, live))

    @given(configs)
    def test_a_leftover_of_transparent_mode(self, config: CaptureConfig) -> None:
        desired = build_ruleset(config.replace(mode="REDIRECT", drops_invalid=False))
        transparent = build_ruleset(config.replace(mode="TPROXY", drops_invalid=False))
        mangle = transparent.table(MANGLE)
        assert mangle is not None
        live = desired.replace(tables=(*desired.tables, mangle))
        found = differences(desired, live)
        assert {each.family for each in found} == set(config.families)
        assert {(each.table, each.kind) for each in found} == {(MANGLE, "unexpected")}
        assert (MANGLE, OUTPUT) in {(each.table, each.chain) for each in found}
        assert not is_applied(desired, live)


class TestPositions:
    @given(configs, st.data())
    def test_a_moved_rule_is_missing_and_unexpected(self, config: CaptureConfig, data: st.DataObject) -> None:
        """And not one rule missing and another one unexpected; each is shown with its place."""
        family = config.families[0]
        desired = build_ruleset(config.replace(families=(family,)))
        tables = canonical(desired, family)
        long_chains = [place for place, chain in tables.items() if is_own_chain(place[1]) and len(chain.rules) > 1]
        assume(long_chains)
        place = data.draw(st.sampled_from(long_chains))
        before = tables[place].rules
        number = data.draw(st.integers(0, len(before) - 1))
        after = list(before[:number] + before[number + 1 :])
        after.insert(data.draw(st.integers(0, len(after))), before[number])
        live = put(desired, *place, tuple(after))
        found = differences(desired, live)
        missing = [each.rule for each in found if each.kind == "missing"]
        unexpected = [each.rule for each in found if each.kind == "unexpected"]
        now = canonical(live, family)[place].rules
        if now != before and sorted(map(repr, now)) == sorted(map(repr, before)) and len(set(now)) == len(now):
            assert len(missing) == 1
            assert missing == unexpected
        for each in found:
            there = before if each.kind == "missing" else now
            assert there[each.position - 1] == each.rule


def assert_nothing_surplus(
    found: list[Difference], desired: CanonicalChain | None, live: CanonicalChain | None
) -> None:
    """Compare the differences of one of our chains with the numbers of its rules: what moved cancels out."""
    desired_rules, live_rules = (Counter(chain.rules if chain else ()) for chain in (desired, live))
    missing, unexpected = (Counter(each.rule for each in found if each.kind == kind) for kind in KINDS)
    assert missing - unexpected == desired_rules - live_rules
    assert unexpected - missing == live_rules - desired_rules


# --- packets and alterations -------------------------------------------------------------------------


def altered(rule: Rule, data: st.DataObject) -> Rule:
    """Return the rule with one thing changed."""
    verdict = data.draw(st.sampled_from([Return(), Accept(), Jump("ISTIO_REDIRECT"), Log("x"), Continue()]))
    ways = [rule.replace(verdict=verdict)]
    for place, match in enumerate(rule.matches):
        ways.append(rule.replace(matches=rule.matches[:place] + rule.matches[place + 1 :]))
        if "negated" in match.__match_args__:
            other = match.replace(negated=not match.negated)
            ways.append(rule.replace(matches=(*rule.matches[:place], other, *rule.matches[place + 1 :])))
    return data.draw(st.sampled_from(ways))


def packets(rule: Rule, family: Family, random: Random) -> list[Packet]:
    """Return packets that a rule is about, more or less."""
    drawn = [packet_for(rule, family, random) for _ in range(10)]
    return [packet for packet in drawn if packet.family == family]


def packet_for(rule: Rule, family: Family, random: Random) -> Packet:
    bits = BITS[family]
    host = Network(family, random.getrandbits(bits), bits)
    port = random.choice([22, 53, 80, 15008, 40000])
    packet = Packet("tcp", host, port, source=host, source_port=40001, uid=1337, gid=7, out_interface="eth0")
    if random.random() < 0.5:
        packet = packet.replace(in_interface=random.choice(["lo", "eth0"]), out_interface=None)
    for match in rule.matches:
        packet = packet.replace(**wished(match))
    return packet


def wished(match: Match) -> dict[str, object]:
    """Return how a packet has to be, for a match to hold unless it is negated."""
    match match:
        case Protocol(name):
            return {"protocol": name}
        case Source(networks):
            return {"source": networks[0].replace(prefix=BITS[networks[0].family])}
        case Destination(networks):
            return {"destination": networks[0].replace(prefix=BITS[networks[0].family])}
        case DestinationPort(ports):
            return {"port": ports[0].first}
        case OwnerUid(ids):
            return {"uid": ids[0].first}
        case OwnerGid(ids):
            return {"gid": ids[0].first}
        case InInterface(name):
            return {"in_interface": name, "out_interface": None}
        case OutInterface(name):
            return {"in_interface": None, "out_interface": name}
    return {}


def outcome(ruleset: Ruleset, packet: Packet) -> tuple[str, int]:
    traced = trace(ruleset, packet)
    return traced.outcome, traced.port


@given(st.lists(st.integers(0, 6), max_size=12), st.lists(st.integers(0, 6), max_size=12))
def test_a_longest_common_sequence_is_found(desired: list[int], live: list[int]) -> None:
    """The judge is the table of all prefixes: simple, and quadratic."""
    common = [[0] * (len(live) + 1) for _ in range(len(desired) + 1)]
    for i, number in enumerate(desired):
        for j, there in enumerate(live):
            longest = max(common[i][j + 1], common[i + 1][j])
            common[i + 1][j + 1] = common[i][j] + 1 if number == there else longest

    found = differences(of_numbers(desired), of_numbers(live))

    assert len([d for d in found if d.kind == "missing"]) == len(desired) - common[-1][-1]
    assert len([d for d in found if d.kind == "unexpected"]) == len(live) - common[-1][-1]


def of_numbers(numbers: Iterable[int]) -> Ruleset:
    """Return one of our chains with a rule for each number."""
    rules = tuple(Rule(Jump(f"ISTIO-{number}")) for number in numbers)
    return Ruleset(("ipv4",), (Table("nat", (Chain("ISTIO-OUTPUT", rules),)),))
