"""A rule is written as iptables-save prints it, in each family that it is for."""

import re

import pytest

from capture.backends.iptables.expansion import check_writable, comment_text, expanded
from capture.backends.iptables.parse import parse_rule
from capture.backends.iptables.render import quoted, rule_text, save_text
from capture.model.addresses import IPV4, IPV6
from capture.model.ruleset import (
    NAT,
    Chain,
    Counters,
    Destination,
    DestinationPort,
    InInterface,
    Jump,
    Log,
    Match,
    OwnerUid,
    Return,
    Rule,
    Ruleset,
    SetMark,
    Source,
    SourcePort,
    Span,
    Table,
    UnknownMatch,
    UnknownVerdict,
    Verdict,
    only,
)
from support.rules.iptables_cases import CASES, FOREIGN, MATCHES, TCP, VERDICTS, Case, networks
from support.rules.vocabulary import kinds_of


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_rule_is_written_as_iptables_save_prints_it(case: Case) -> None:
    assert rule_text(case.rule) == case.text


def test_every_match_and_verdict_of_the_model_has_a_row() -> None:
    assert {type(match) for case in MATCHES + FOREIGN for match in case.rule.matches} == kinds_of(Match)
    assert {type(case.rule.verdict) for case in VERDICTS + FOREIGN} == kinds_of(Verdict)


def test_two_excluded_ports_are_printed_one_by_one() -> None:
    rule = Rule(Return(), (TCP, SourcePort((only(1),), negated=True), DestinationPort((only(2),), negated=True)), IPV4)

    assert rule_text(rule) == "-p tcp -m tcp ! --sport 1 -m tcp ! --dport 2 -j RETURN"


def test_to_exclude_every_network_takes_a_range() -> None:
    rule = Rule(Return(), (Source(networks("0.0.0.0/0"), negated=True),), IPV4)

    assert rule_text(rule) == "-m iprange ! --src-range 0.0.0.0-255.255.255.255 -j RETURN"
    assert parse_rule(f"-A OUTPUT {rule_text(rule)}", IPV4, ())[1] == rule


class TestExpanded:
    def test_a_rule_of_both_families_is_written_for_each(self) -> None:
        rule = Rule(Return(), (TCP,))

        assert [rule.family for rule in expanded([rule], IPV4)] == [IPV4]
        assert [rule.family for rule in expanded([rule], IPV6)] == [IPV6]

    def test_a_rule_of_the_other_family_is_left_out(self) -> None:
        assert not list(expanded([Rule(Return(), (TCP,), IPV6)], IPV4))

    def test_lists_become_one_rule_for_each_entry_in_order(self) -> None:
        rule = Rule(
            Return(),
            (
                Source(networks("10.0.0.0/8", "172.16.0.0/12")),
                Destination(networks("192.168.0.0/16", "10.9.0.0/16"), negated=True),
                OwnerUid((only(1), Span(5, 9))),
            ),
        )

        assert [rule_text(single) for single in expanded([rule], IPV4)] == [
            f"-s {network} ! -d 192.168.0.0/16 -m iprange ! --dst-range 10.9.0.0-10.9.255.255"
            f" -m owner --uid-owner {uids} -j RETURN"
            for uids in ("1", "5-9")
            for network in ("10.0.0.0/8", "172.16.0.0/12")
        ]

    def test_an_entry_given_twice_is_written_once(self) -> None:
        rule = Rule(
            Return(),
            (
                TCP,
                Source(networks("10.0.0.0/9", "10.1.0.0/16", "10.128.0.0/9")),
                SourcePort((only(3), Span(1, 2), only(3))),
            ),
        )

        assert [rule_text(single) for single in expanded([rule], IPV4)] == [
            "-s 10.0.0.0/8 -p tcp -m tcp --sport 1:3 -j RETURN"
        ]

    def test_a_few_ports_stay_together(self) -> None:
        rule = Rule(Return(), (TCP, DestinationPort((only(80), only(443)))))

        (single,) = expanded([rule], IPV4)

        assert rule_text(single) == "-p tcp -m multiport --dports 80,443 -j RETURN"

    def test_a_range_takes_two_of_the_fifteen_places_of_a_multiport(self) -> None:
        ports = DestinationPort(tuple(Span(port, port + 1) for port in range(10, 50, 4)))

        first, second = expanded([Rule(Return(), (TCP, ports))], IPV4)

        assert first.matches == (TCP, DestinationPort(ports.ports[:7]))
        assert second.matches == (TCP, DestinationPort(ports.ports[7:]))

    def test_many_ports_become_one_rule_each(self) -> None:
        rule = Rule(Return(), (TCP, DestinationPort(tuple(only(port) for port in range(1, 35, 2)))))

        assert len(list(expanded([rule], IPV4))) == 17

    def test_very_many_ports_are_15_to_a_rule(self) -> None:
        ports = tuple(only(port) for port in range(1, 1001, 2))

        rules = list(expanded([Rule(Return(), (TCP, DestinationPort(ports)))], IPV4))

        assert [rule.matches for rule in rules] == [
            (TCP, DestinationPort(ports[first : first + 15])) for first in range(0, 500, 15)
        ]

    def test_a_few_ports_stay_together_for_each_entry_of_another_list(self) -> None:
        rule = Rule(Return(), (TCP, DestinationPort((only(80), only(443))), OwnerUid((only(1), only(3)))))

        assert [rule_text(single) for single in expanded([rule], IPV4)] == [
            f"-p tcp -m multiport --dports 80,443 -m owner --uid-owner {uid} -j RETURN" for uid in (1, 3)
        ]

    def test_ports_become_single_where_a_list_before_them_changes_faster(self) -> None:
        sources = Source(networks("10.0.0.0/8", "172.16.0.0/12"))
        rule = Rule(Return(), (TCP, DestinationPort((only(80), only(443))), sources))

        assert [rule_text(single) for single in expanded([rule], IPV4)] == [
            f"-s {source} -p tcp -m tcp --dport {port} -j RETURN"
            for port in (80, 443)
            for source in ("10.0.0.0/8", "172.16.0.0/12")
        ]


def test_a_line_end_begins_no_other_rule() -> None:
    assert rule_text(Rule(Return(), (InInterface("a\nb"),), IPV4)) == '-i "a\\\\nb" -j RETURN'
    assert rule_text(Rule(Log("a\nCOMMIT\r\0"), (), IPV4)) == '-j LOG --log-prefix "a\\\\nCOMMIT\\\\r\\\\0"'


class TestWhatCannotBeWritten:
    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            (Rule(Return(), (InInterface("!"),), IPV4), "cannot be named"),
            (Rule(Log("x" * 30), (), IPV4), "at most 29 bytes"),
            (Rule(Log("ü" * 15), (), IPV4), "at most 29 bytes"),
            (Rule(SetMark(0x10, 0xF), (), IPV4), "outside of its mask"),
            (Rule(Return(), (DestinationPort((only(1),)),), IPV4), "without a protocol"),
            (Rule(Return(), (TCP,)), "one family"),
        ],
    )
    def test_a_value_that_would_not_stay_a_value(self, rule: Rule, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            rule_text(rule)

    @pytest.mark.parametrize(
        ("chain", "rule"),
        [
            ("ISTIO_OUTPUT", Rule(Return(), (UnknownMatch("-p icmp"),))),
            ("ISTIO_OUTPUT", Rule(UnknownVerdict("MASQUERADE"))),
            ("ISTIO_OUTPUT", Rule(Jump("-F"))),
            ("ISTIO_OUTPUT", Rule(Jump("a b"))),
            ("", Rule(Return())),
            ("-X", Rule(Return())),
            ('a"b', Rule(Return())),
            ("x" * 29, Rule(Return())),
        ],
    )
    def test_words_of_others_and_names_that_are_no_chains(self, chain: str, rule: Rule) -> None:
        with pytest.raises(ValueError, match=r"kept, but not written|not the name of a chain"):
            check_writable(chain, [rule])

    def test_a_name_as_long_as_the_kernel_takes_is_one(self) -> None:
        check_writable("x" * 28, [Rule(Jump("y" * 28))])


class TestQuoting:
    @pytest.mark.parametrize("name", ['et"h0', "et'h0", "et\\h0", '"-j'])
    def test_an_interface_with_quotes_stays_one_word(self, name: str) -> None:
        text = rule_text(Rule(Return(), (InInterface(name),), IPV4))

        assert text == f"-i {quoted(name)} -j RETURN"
        assert re.fullmatch(r'-i "(\\.|[^"\\])*" -j RETURN', text)

    def test_an_interface_like_an_option_is_the_value_of_the_option_before_it(self) -> None:
        assert rule_text(Rule(Return(), (InInterface("-j"),), IPV4)) == "-i -j -j RETURN"


class TestComment:
    def test_line_breaks_become_blanks(self) -> None:
        assert comment_text("a\n-A OUTPUT\tb") == "a -A OUTPUT b"

    def test_a_long_text_is_cut_between_letters(self) -> None:
        assert comment_text("x" + "ü" * 200) == "x" + "ü" * 127
        assert comment_text("x" * 300) == "x" * 255


class TestSaveText:
    ruleset = Ruleset(
        (IPV4, IPV6),
        (
            Table(
                NAT,
                (
                    Chain("OUTPUT", (Rule(Jump("ISTIO_OUTPUT"), (TCP,), why="out", counters=Counters(3, 180)),)),
                    Chain("POSTROUTING", (), "DROP", Counters(1, 60)),
                    Chain("ISTIO_OUTPUT", (Rule(Return(), (Destination(networks("::1")),), IPV6),)),
                ),
            ),
        ),
    )

    def test_a_family_is_saved_as_iptables_save_prints_it(self) -> None:
        assert save_text(self.ruleset, IPV4).splitlines() == [
            "*nat",
            ":OUTPUT ACCEPT [0:0]",
            ":POSTROUTING DROP [1:60]",
            ":ISTIO_OUTPUT - [0:0]",
            "-A OUTPUT -p tcp -j ISTIO_OUTPUT",
            "COMMIT",
        ]

    def test_counters_and_comments_on_request(self) -> None:
        assert save_text(self.ruleset, IPV6, counters=True, comments=True).splitlines()[4:6] == [
            "[3:180] -A OUTPUT -p tcp -m comment --comment out -j ISTIO_OUTPUT",
            "[0:0] -A ISTIO_OUTPUT -d ::1/128 -j RETURN",
        ]
