"""Which rules and chains are the capture's own, by their names, their places and a record; all others are foreign."""

import pytest

from capture.analysis.ownership import disturbance_test, may_divert, own_positions, without_foreign_rules
from capture.backends.iptables.families import merge_families
from capture.backends.iptables.parse import parse_save
from capture.backends.iptables.render import rule_text
from capture.model.addresses import IPV4, IPV6
from capture.model.chain_names import DASH, UNDERSCORE, is_own_chain
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    RAW,
    TABLES,
    ConnectionMark,
    Continue,
    Jump,
    Log,
    Mark,
    Match,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    TableName,
)
from support.rules.iptables_cases import FOREIGN, VERDICTS, Case


def live(**tables: str) -> Ruleset:
    """Return live rules; our own chains are those that jumps go to."""
    text = ""
    for table in TABLES:
        rules = [line.strip() for line in tables.get(table, "").strip().splitlines()]
        chains = dict.fromkeys(
            word for rule in rules for word in rule.split() if word.startswith(("ISTIO", "DOCKER")) and "_" in word
        )
        built_in = dict.fromkeys(rule.split()[0] for rule in rules if rule.split()[0].isalpha())
        text += "\n".join(
            [
                f"*{table}",
                *(f":{chain} ACCEPT [0:0]" for chain in built_in),
                *(f":{chain} - [0:0]" for chain in chains),
                *(f"-A {rule}" for rule in rules),
                "COMMIT\n",
            ]
        )
    return parse_save(text, IPV4)


def own(ruleset: Ruleset, table: TableName, chain: str, recorded: Ruleset | None = None) -> list[str]:
    """Return our own rules of a chain."""
    positions = own_positions(ruleset, IPV4, recorded).get((table, chain), frozenset())
    found = ruleset.table(table)
    assert found is not None
    present = found.chain(chain)
    assert present is not None
    return [rule_text(rule) for position, rule in enumerate(present.rules) if position in positions]


class TestNames:
    def test_chains_of_both_spellings_are_our_own(self) -> None:
        for names in (UNDERSCORE, DASH):
            for field in names.__match_args__:
                assert is_own_chain(getattr(names, field))

    @pytest.mark.parametrize(
        "name", ["OUTPUT", "ISTIO", "ISTIO_OTHER", "ISTIO-IN_REDIRECT", "istio_output", "MY_ISTIO_OUTPUT"]
    )
    def test_other_names_are_not(self, name: str) -> None:
        assert not is_own_chain(name)


@pytest.mark.parametrize("case", VERDICTS + FOREIGN, ids=lambda case: case.name)
def test_after_a_verdict_or_an_unknown_target_our_rules_may_never_be_met(case: Case) -> None:
    goes_on = isinstance(case.rule.verdict, SetMark | SaveMark | RestoreMark | Log | Continue)

    assert may_divert(case.rule) is not goes_on


@pytest.mark.parametrize(("match", "changed_by"), [(Mark(1), SetMark(1)), (ConnectionMark(1), SaveMark())])
def test_a_mark_matters_to_a_rule_that_packets_come_to_by_any_number_of_jumps(
    match: Match, changed_by: SetMark | SaveMark
) -> None:
    rules = {
        "first": [Rule(Jump("second"))],
        "second": [Rule(Jump("third"))],
        "third": [Rule(Jump("second")), Rule(Return(), (match,))],
    }
    marking = Rule(changed_by)

    def disturbs(chain: str, rule: Rule) -> bool:
        return disturbance_test([marking], chain, lambda name: rules.get(name, []))(rule)

    assert disturbs("first", marking)
    assert not disturbs("elsewhere", marking)
    assert not disturbs("first", Rule(RestoreMark() if match == ConnectionMark(1) else SaveMark()))


class TestJumps:
    def test_a_rule_that_jumps_to_our_chains_is_own_in_any_table_chain_and_spelling(self) -> None:
        there = live(
            nat="""
            OUTPUT -p tcp -j ISTIO_OUTPUT
            OUTPUT -p udp -m udp --dport 53 -j ISTIO-OUTPUT_
            OUTPUT -j DOCKER_OUTPUT
            OUTPUT -g ISTIO_REDIRECT
            DOCKER_OUTPUT -j ISTIO_REDIRECT
            DOCKER_OUTPUT -j RETURN
            """
        )

        assert own(there, NAT, OUTPUT) == ["-p tcp -j ISTIO_OUTPUT", "-g ISTIO_REDIRECT"]
        assert own(there, NAT, "DOCKER_OUTPUT") == ["-j ISTIO_REDIRECT"]

    def test_rules_in_our_own_chains_need_no_evidence(self) -> None:
        there = live(nat="OUTPUT -j ISTIO_OUTPUT\nISTIO_OUTPUT -j ISTIO_REDIRECT")

        assert own_positions(there, IPV4) == {(NAT, OUTPUT): frozenset({0})}


class TestInterfaces:
    def test_left_alone_directly_before_our_jump_is_own(self) -> None:
        there = live(nat="OUTPUT -o eth1 -j RETURN\nOUTPUT -o eth2 -j RETURN\nOUTPUT -j ISTIO_OUTPUT")

        assert len(own(there, NAT, OUTPUT)) == 3

    @pytest.mark.parametrize(
        "rules",
        [
            "OUTPUT -o eth1 -j RETURN\nOUTPUT -p icmp -j ACCEPT\nOUTPUT -j ISTIO_OUTPUT",
            "OUTPUT -j ISTIO_OUTPUT\nOUTPUT -o eth1 -j RETURN",
            "OUTPUT ! -o eth1 -j RETURN\nOUTPUT -j ISTIO_OUTPUT",
            "OUTPUT -o eth1 -p tcp -j RETURN\nOUTPUT -j ISTIO_OUTPUT",
            "OUTPUT -o eth1 -j ACCEPT\nOUTPUT -j ISTIO_OUTPUT",
            "PREROUTING -o eth1 -j RETURN\nPREROUTING -j ISTIO_INBOUND",
        ],
    )
    def test_anything_else_is_foreign(self, rules: str) -> None:
        there = live(nat=rules)
        chain = rules.split(maxsplit=1)[0]

        assert own(there, NAT, chain) == [f"-j {'ISTIO_OUTPUT' if chain == OUTPUT else 'ISTIO_INBOUND'}"]

    def test_siblings_show_our_rules_in_a_chain_without_others(self) -> None:
        there = live(
            nat="""
            OUTPUT -o eth1 -j RETURN
            OUTPUT -o eth2 -j RETURN
            OUTPUT -j ISTIO_OUTPUT
            PREROUTING -i eth9 -j RETURN
            PREROUTING -i eth1 -j RETURN
            PREROUTING -i eth2 -j RETURN
            PREROUTING
            PREROUTING -i eth1 -j RETURN
            """
        )

        assert own_positions(there, IPV4)[NAT, PREROUTING] == frozenset({1, 2})

    def test_siblings_tell_of_later_ones_after_other_own_rules(self) -> None:
        there = live(
            nat="""
            OUTPUT -o eth1 -j RETURN
            OUTPUT -j ISTIO_OUTPUT
            PREROUTING -i tap0 -j ISTIO_REDIRECT
            PREROUTING -i tap0 -j RETURN
            PREROUTING -i eth1 -j RETURN
            PREROUTING -i eth1 -j RETURN
            """
        )

        assert own_positions(there, IPV4)[NAT, PREROUTING] == frozenset({0, 1, 2})

    def test_siblings_in_another_table_may_be_of_another_transaction(self) -> None:
        there = live(
            mangle="PREROUTING -i eth1 -j RETURN\nPREROUTING -p tcp -j ISTIO_INBOUND",
            nat="PREROUTING -i eth1 -j RETURN",
        )

        assert (NAT, PREROUTING) not in own_positions(there, IPV4)

    def test_rerouted_ones_return_right_after_our_jump(self) -> None:
        there = live(
            nat="""
            PREROUTING -i tap0 -j ISTIO_REDIRECT
            PREROUTING -i tap1 -j ISTIO_REDIRECT
            PREROUTING -i tap0 -j RETURN
            PREROUTING -i tap1 -j RETURN
            PREROUTING -i tap0 -j RETURN
            PREROUTING -i eth9 -j RETURN
            """
        )

        assert own_positions(there, IPV4)[NAT, PREROUTING] == frozenset({0, 1, 2, 3})

    def test_one_of_two_equal_rules_is_foreign(self) -> None:
        there = live(
            nat="""
            OUTPUT -o eth1 -j RETURN
            OUTPUT -o eth1 -j RETURN
            OUTPUT -j ISTIO_OUTPUT
            PREROUTING -i eth1 -j RETURN
            PREROUTING -i eth1 -j RETURN
            """
        )

        assert own_positions(there, IPV4) == {(NAT, OUTPUT): frozenset({1, 2}), (NAT, PREROUTING): frozenset({0})}

    def test_the_raw_table_has_none(self) -> None:
        there = live(raw="OUTPUT -o eth1 -j RETURN\nOUTPUT -j ISTIO_OUTPUT")

        assert own(there, RAW, OUTPUT) == ["-j ISTIO_OUTPUT"]


class TestTransparentProxy:
    rules = live(
        mangle="""
        PREROUTING -i eth1 -j RETURN
        PREROUTING -p tcp -j ISTIO_INBOUND
        PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark
        PREROUTING -p tcp -m mark --mark 0x7 -j CONNMARK --save-mark
        OUTPUT -o eth1 -j RETURN
        OUTPUT -o lo -p tcp -m mark --mark 0x539 -j RETURN
        OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
        OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --gid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
        OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark
        OUTPUT -p tcp -m connmark --mark 0x7 -j CONNMARK --restore-mark
        OUTPUT -o lo -p tcp -m mark --mark 0x7 -j RETURN
        OUTPUT -o lo -p tcp -m owner --gid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
        OUTPUT -p tcp -m mark --mark 0x539 -j LOG
        OUTPUT -p udp -m connmark --mark 0x539 -j CONNMARK --restore-mark
        ISTIO_INBOUND -p tcp -m mark --mark 0x539 -j RETURN
        """
    )

    def test_marks_that_our_chains_match_are_own(self) -> None:
        assert own_positions(self.rules, IPV4) == {
            (MANGLE, PREROUTING): frozenset({0, 1, 2}),
            (MANGLE, OUTPUT): frozenset({0, 1, 2, 3, 4}),
        }


class TestOlderUpstream:
    def test_dns_rules_in_the_built_in_chains(self) -> None:
        there = live(
            nat="""
            OUTPUT -p tcp -j ISTIO_OUTPUT
            OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j RETURN
            OUTPUT -p udp -m udp --dport 53 -m owner --gid-owner 1337 -j RETURN
            OUTPUT -d 10.96.0.10/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053
            OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 0 -j RETURN
            OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 53
            OUTPUT -s 10.0.0.1/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053
            """,
            raw="""
            OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
            OUTPUT -p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2
            OUTPUT -p udp -m udp --dport 53 -m owner --gid-owner 1337 -j CT --zone 1
            OUTPUT -p udp -m udp --sport 15053 -m owner --gid-owner 1337 -j CT --zone 2
            OUTPUT -d 10.96.0.10/32 -p udp -m udp --dport 53 -j CT --zone 2
            OUTPUT -p udp -m udp --sport 53 --dport 53 -j CT --zone 2
            OUTPUT -p udp -m udp --dport 53 -j CT --zone 3
            OUTPUT -p udp -m udp --dport 67 -j CT --zone 2
            OUTPUT -p tcp -m tcp --dport 53 -j CT --zone 2
            PREROUTING -s 10.96.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1
            PREROUTING -p udp -m udp --sport 5353 -j CT --zone 1
            PREROUTING -i eth0 -p udp -m udp --sport 53 -j CT --zone 1
            PREROUTING -p tcp -m tcp --sport 53 -j CT --zone 1
            """,
        )

        assert own_positions(there, IPV4) == {
            (NAT, OUTPUT): frozenset({0, 1, 2, 3}),
            (RAW, OUTPUT): frozenset({0, 1, 2, 3, 4}),
            (RAW, PREROUTING): frozenset({0}),
        }

    def test_dropping_what_is_invalid(self) -> None:
        before_own = live(
            mangle="PREROUTING -m conntrack --ctstate INVALID -j DROP\nPREROUTING -p tcp -j ISTIO_INBOUND"
        )
        alone = live(mangle="PREROUTING -m conntrack --ctstate INVALID -j DROP\nPREROUTING -p icmp -j ACCEPT")

        assert len(own(before_own, MANGLE, PREROUTING)) == 2
        assert not own(alone, MANGLE, PREROUTING)


class TestRecorded:
    recorded = live(nat="OUTPUT -o eth1 -j RETURN\nOUTPUT -j ISTIO_OUTPUT")

    def test_the_record_tells_our_rule_from_a_look_alike_in_front(self) -> None:
        there = live(nat="OUTPUT -o eth7 -j RETURN\nOUTPUT -o eth1 -j RETURN\nOUTPUT -j ISTIO_OUTPUT")

        assert len(own(there, NAT, OUTPUT)) == 3
        assert own(there, NAT, OUTPUT, self.recorded) == ["-o eth1 -j RETURN", "-j ISTIO_OUTPUT"]

    def test_of_two_equal_rules_the_one_next_to_our_own_is_our_own(self) -> None:
        there = live(
            nat="OUTPUT -o eth1 -j RETURN\nOUTPUT -p icmp -j LOG\nOUTPUT -o eth1 -j RETURN\nOUTPUT -j ISTIO_OUTPUT"
        )

        assert own_positions(there, IPV4, self.recorded)[NAT, OUTPUT] == frozenset({2, 3})

    def test_a_rule_in_between_does_not_hide_own_ones(self) -> None:
        there = live(nat="OUTPUT -o eth1 -j RETURN\nOUTPUT -p icmp -j ACCEPT\nOUTPUT -j ISTIO_OUTPUT")

        assert own_positions(there, IPV4, self.recorded)[NAT, OUTPUT] == frozenset({0, 2})

    def test_a_rule_in_between_does_not_hide_the_first_of_what_only_a_record_can_tell(self) -> None:
        recorded = live(nat="PREROUTING -i eth1 -j RETURN\nPREROUTING -i eth2 -j RETURN")
        there = live(nat="PREROUTING -i eth1 -j RETURN\nPREROUTING -p icmp -j LOG\nPREROUTING -i eth2 -j RETURN")

        assert not own_positions(there, IPV4)
        assert own_positions(there, IPV4, recorded) == {(NAT, PREROUTING): frozenset({0, 2})}

    def test_rules_in_one_piece_are_own_ones_and_not_a_look_alike_behind_them(self) -> None:
        recorded = live(nat="PREROUTING -i eth1 -j RETURN\nPREROUTING -i eth2 -j RETURN")
        there = live(nat="PREROUTING -i eth1 -j RETURN" + "\nPREROUTING -i eth2 -j RETURN" * 2)

        assert own_positions(there, IPV4, recorded) == {(NAT, PREROUTING): frozenset({0, 1})}

    def test_a_record_of_a_rule_that_is_gone_claims_no_other_in_its_place(self) -> None:
        there = live(nat="OUTPUT -p icmp -j ACCEPT\nOUTPUT -j ISTIO_OUTPUT")

        assert own(there, NAT, OUTPUT, self.recorded) == ["-j ISTIO_OUTPUT"]

    def test_rules_that_only_a_record_can_tell(self) -> None:
        recorded = live(nat="PREROUTING -i eth1 -j RETURN")
        there = live(nat="PREROUTING -i eth0 -j RETURN\nPREROUTING -i eth1 -j RETURN\nPREROUTING -p icmp -j ACCEPT")

        assert not own_positions(there, IPV4)
        assert own_positions(there, IPV4, recorded) == {(NAT, PREROUTING): frozenset({1})}

    def test_a_record_of_other_rules_than_the_live_ones_is_not_believed(self) -> None:
        there = live(nat="OUTPUT -o eth2 -j RETURN\nOUTPUT -j ISTIO_OUTPUT")

        assert len(own(there, NAT, OUTPUT, self.recorded)) == 2

    def test_a_record_of_another_family_says_nothing(self) -> None:
        there = live(nat="OUTPUT -o eth7 -j RETURN\nOUTPUT -o eth1 -j RETURN\nOUTPUT -j ISTIO_OUTPUT")
        recorded = self.recorded.replace(families=(IPV6,))

        assert len(own(there, NAT, OUTPUT, recorded)) == 3


class TestWithoutForeignRules:
    def test_foreign_rules_chains_and_tables_are_left_out(self) -> None:
        there = live(
            nat="OUTPUT -p icmp -j ACCEPT\nOUTPUT -j ISTIO_OUTPUT\nPREROUTING -j DOCKER_IN\nISTIO_OUTPUT -j RETURN",
            raw="OUTPUT -j ACCEPT",
        )

        mine = without_foreign_rules(there)

        assert [table.name for table in mine.tables] == [NAT]
        chains = {chain.name: [rule_text(rule) for rule in chain.rules] for chain in mine.tables[0].chains}
        assert chains == {OUTPUT: ["-j ISTIO_OUTPUT"], "ISTIO_OUTPUT": ["-j RETURN"]}

    def test_each_family_is_looked_at_by_itself(self) -> None:
        ipv4 = live(nat="OUTPUT -o eth1 -j RETURN\nOUTPUT -j ISTIO_OUTPUT")
        ipv6 = parse_save("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -o eth1 -j RETURN\nCOMMIT\n", IPV6)

        (table,) = without_foreign_rules(merge_families([ipv4, ipv6])).tables
        output = table.chain(OUTPUT)

        assert output is not None
        assert [rule.family for rule in output.rules] == [IPV4, IPV4]
