"""A text of iptables-save is read as the rule that iptables-restore would write, however it is spelled."""

import pytest

from capture.analysis.canonical import canonical_rule
from capture.backends.iptables.families import merge_families
from capture.backends.iptables.parse import parse_options, parse_rule, parse_save, split_words
from capture.model.addresses import IPV4, IPV6
from capture.model.ruleset import (
    FORWARD,
    MANGLE,
    NAT,
    RAW,
    Chain,
    Continue,
    Counters,
    Destination,
    DestinationPort,
    Jump,
    Return,
    Rule,
    Ruleset,
    Table,
    UnknownMatch,
    UnknownVerdict,
    only,
)
from support.rules.iptables_cases import CASES, TCP, TO_CHAIN, Case, networks

CHAINS = (TO_CHAIN,)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_printed_rule_is_the_one_that_was_written(case: Case) -> None:
    family = case.rule.family
    assert family is not None

    chain, rule = parse_rule(f"-A ISTIO_OUTPUT {case.text}".rstrip(), family, CHAINS)

    assert chain == "ISTIO_OUTPUT"
    assert canonical_rule(rule) == canonical_rule(case.rule)
    assert (rule.why, rule.family) == (case.rule.why, family)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-p udp --dport 53 -j RETURN", "-p udp -m udp --dport 53 -j RETURN"),
        ("-p 6 -j RETURN", "-p tcp -m tcp -j RETURN"),
        ("-p 17 -j RETURN", "-p udp -j RETURN"),
        ("-d 10.1.2.3/8 -j RETURN", "-d 10.0.0.0/8 -j RETURN"),
        ("-d 10.1.2.3 -j RETURN", "-d 10.1.2.3/32 -j RETURN"),
        ("-m mark --mark 1337 -j RETURN", "-m mark --mark 0x539/0xffffffff -j RETURN"),
        ("-j MARK --set-mark 1338", "-j MARK --set-xmark 0x53a/0xffffffff"),
        ("-j MARK --set-mark 0x5/0x3", "-j MARK --set-xmark 0x5/0x7"),
        ("-j CONNMARK --save-mark", "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"),
        ("-j CONNMARK --restore-mark --mask 0xffffffff", "-j CONNMARK --restore-mark"),
        (
            "-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN",
            "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        ),
        ("-m state --state INVALID -j RETURN", "-m conntrack --ctstate INVALID -j RETURN"),
        ("-p udp -j REDIRECT --to-port 15053", "-p udp -j REDIRECT --to-ports 15053"),
        (
            "-p tcp -j TPROXY --on-port 1 --tproxy-mark 0x1/0x1",
            "-p tcp -j TPROXY --tproxy-mark 1/1 --on-ip :: --on-port 1",
        ),
        ("-m owner --uid-owner 1 --gid-owner 2 -j RETURN", "-m owner --gid-owner 2 -m owner --uid-owner 1 -j RETURN"),
        ("-m owner ! --uid-owner 2 -m owner ! --uid-owner 1", "-m owner ! --uid-owner 1 -m owner ! --uid-owner 2"),
        (
            "-p tcp -m multiport ! --dports 1,2 -m multiport ! --dports 3",
            "-p tcp -m multiport ! --dports 3,2 -m tcp ! --dport 1",
        ),
        ("-m mark --mark 1 -m owner --uid-owner 1", "-m owner --uid-owner 1 -m mark --mark 1"),
    ],
)
def test_spellings_that_mean_the_same_are_the_same_rule(one: str, other: str) -> None:
    rules = [canonical_rule(_rule(text)) for text in (one, other)]

    assert rules[0] == rules[1]
    assert not any(isinstance(match, UnknownMatch) for rule in rules for match in rule.matches)
    assert not any(isinstance(rule.verdict, UnknownVerdict) for rule in rules)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-p tcp -m tcp --dport 53", "-p tcp -m tcp --sport 53"),
        ("-p tcp -m tcp --dport 53", "-p tcp -m tcp ! --dport 53"),
        ("-m mark --mark 1", "-m connmark --mark 1"),
        ("-m mark --mark 1/1", "-m mark --mark 1"),
        ("-i eth+", "-i eth"),
        ("-j ISTIO_REDIRECT", "-g ISTIO_REDIRECT"),
        ("-j REDIRECT --to-ports 1", "-j REDIRECT --to-ports 1 --random"),
        ("-m owner --uid-owner 1 -m owner --uid-owner 2", "-m owner --uid-owner 1-2"),
        (
            "-p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
            "-p tcp -j TPROXY --on-port 15006 --on-ip 10.0.0.1 --tproxy-mark 0x539/0xffffffff",
        ),
    ],
)
def test_other_meanings_are_other_rules(one: str, other: str) -> None:
    assert canonical_rule(_rule(one)) != canonical_rule(_rule(other))


def _rule(text: str) -> Rule:
    return parse_rule(f"-A CHAIN {text}", IPV4, CHAINS)[1]


class TestForeign:
    def test_the_name_of_our_chain_in_a_text_is_no_jump(self) -> None:
        rule = _rule('-m comment --comment "-j ISTIO_REDIRECT" -j ACCEPT')

        assert rule.why == "-j ISTIO_REDIRECT"
        assert not isinstance(rule.verdict, Jump)

    def test_a_target_that_is_no_chain_is_an_extensions(self) -> None:
        assert _rule("-j ISTIO_OUTPUT").verdict == UnknownVerdict("ISTIO_OUTPUT")

    @pytest.mark.parametrize(
        "text",
        [
            "-m",
            "!",
            "-j",
            "-s",
            "-s nonsense -j RETURN",
            "-i",
            "-p tcp -m tcp --dport x -j RETURN",
            "-p tcp -m multiport --dports 1,,2",
            "-m mark --mark",
            "-m mark --mark zz",
            "-m owner --uid-owner root",
            "-m owner --uid-owner 01337",
            "-m owner --uid-owner 10000000000",
            "-m owner junk",
            "-m conntrack --ctstate NEW,LATER",
            "-m rpfilter -j DROP",
            "-m iprange --src-range -",
            "-m iprange --src-range 10.0.0.9-10.0.0.1",
            "-m iprange --src-range 10.0.0.9-fd00::1",
            '-m comment --comment "never closed',
            "-j REDIRECT",
            "-j REDIRECT --to-ports",
            "-j REDIRECT --to-ports 1 --to-ports 2 --to-port 3",
            "-j TPROXY --on-ip 10.0.0.1 --on-port 1",
            "-j TPROXY",
            "-j MARK",
            "-j MARK --and-mark 0x1",
            "-j CONNMARK --set-mark 1",
            "-j CONNMARK --save-mark --mask 0xf",
            "-j CT --zone x",
            "-j CT --helper ftp",
            "-j RETURN --really",
            "--stray",
        ],
    )
    def test_no_words_are_too_strange(self, text: str) -> None:
        rule = _rule(text)

        unknown = [match for match in rule.matches if isinstance(match, UnknownMatch)]
        assert unknown or isinstance(rule.verdict, UnknownVerdict) or rule == Rule(Continue(), (), IPV4)

    def test_flags_of_tcp_are_a_condition_next_to_ports(self) -> None:
        rule = _rule("-p tcp -m tcp --dport 80 ! --tcp-flags SYN,ACK SYN -j DROP")
        _, port, flags = rule.matches
        assert (port, flags) == (DestinationPort((only(80),)), UnknownMatch("-m tcp ! --tcp-flags SYN,ACK SYN"))

    def test_a_line_that_is_no_rule_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="not a rule as iptables-save prints them: '-N FOO'"):
            parse_rule("-N FOO", IPV4, ())


@pytest.mark.parametrize("name", ["--comment", "--log-prefix", "--nflog-prefix", "--string"])
def test_a_text_that_looks_like_an_option_is_a_value(name: str) -> None:
    options = parse_options(split_words(f"--first 4 ! {name} --dport --last 5 6"))
    assert [(each.name, each.values, each.negated) for each in options] == [
        ("--first", ("4",), False),
        (name, ("--dport",), True),
        ("--last", ("5", "6"), False),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  -A   OUTPUT ", ["-A", "OUTPUT"]),
        ('--comment "a b"', ["--comment", "a b"]),
        ('--comment "a \\"b\\" \\\\ \\\'c"', ["--comment", 'a "b" \\ \'c']),
        ('a"b c"d', ["ab cd"]),
        ('""', [""]),
        ("it's\\fine", ["it's\\fine"]),
        ('"unclosed', ["unclosed"]),
    ],
)
def test_words_are_read_as_iptables_restore_reads_them(line: str, words: list[str]) -> None:
    assert [word.text for word in split_words(line)] == words


class TestSave:
    text = """\
# Generated by iptables-nft-save v1.8.9 (nf_tables) on Sun Nov 22 14:08:36 2026
*security
:INPUT ACCEPT [0:0]
-A INPUT -j ACCEPT
COMMIT
*nat
:OUTPUT ACCEPT [12:720]
:PREROUTING ACCEPT [1:60]
:ISTIO_OUTPUT - [0:0]
:DOCKER - [0:0]
# iptables-restore ignores such a line anywhere.
[3:180] -A OUTPUT -p tcp -j ISTIO_OUTPUT
-A OUTPUT -j ACCEPT
[7:420] -A ISTIO_OUTPUT -d 127.0.0.1/32 -m comment --comment localhost -j RETURN
COMMIT
# Completed on Sun Nov 22 14:08:36 2026
# Table `raw' is incompatible, use 'nft' tool.
*mangle
:FORWARD DROP [5:300]
COMMIT
# Warning: iptables-legacy tables present, use iptables-legacy-save to see them
"""

    def test_tables_chains_policies_and_counters(self) -> None:
        ruleset = parse_save(self.text, IPV4)

        assert ruleset.families == (IPV4,)
        assert [table.name for table in ruleset.tables] == [MANGLE, NAT]
        assert ruleset.tables[0] == Table(MANGLE, (Chain(FORWARD, (), "DROP"),))
        nat = ruleset.tables[1]
        assert [chain.name for chain in nat.chains] == ["PREROUTING", "OUTPUT", "ISTIO_OUTPUT", "DOCKER"]
        output = nat.chains[1]
        assert output.counters == Counters(12, 720)
        assert [rule.counters for rule in output.rules] == [Counters(3, 180), None]
        assert nat.chains[2].rules == (Rule(Return(), (Destination(networks("127.0.0.1")),), IPV4),)

    def test_comments_count_if_they_are_our_own(self) -> None:
        assert parse_save(self.text, IPV4).has_comments
        others = self.text.replace("-A ISTIO_OUTPUT -d", "-A DOCKER -d")
        assert not parse_save(others, IPV4).has_comments

    def test_an_empty_namespace(self) -> None:
        assert parse_save("", IPV6) == Ruleset((IPV6,), ())


class TestMerged:
    ipv4 = """\
*nat
:OUTPUT ACCEPT [1:2]
:ISTIO_OUTPUT - [0:0]
-A OUTPUT -p tcp -j ISTIO_OUTPUT
COMMIT
"""
    ipv6 = """\
*raw
:OUTPUT ACCEPT [0:0]
COMMIT
*nat
:OUTPUT DROP [3:4]
-A OUTPUT -j ACCEPT
COMMIT
"""

    def test_each_rule_keeps_its_family(self) -> None:
        both = merge_families([parse_save(self.ipv4, IPV4), parse_save(self.ipv6, IPV6)])

        assert both.families == (IPV4, IPV6)
        assert [table.name for table in both.tables] == [RAW, NAT]
        output, output_chain = both.tables[1].chains
        assert (output.policy_for(IPV4), output.counters_for(IPV4)) == ("ACCEPT", Counters(1, 2))
        assert (output.policy_for(IPV6), output.counters_for(IPV6)) == ("DROP", Counters(3, 4))
        assert [rule.family for rule in output.rules] == [IPV4, IPV6]
        assert list(output.rules_for(IPV4)) == [Rule(Jump("ISTIO_OUTPUT"), (TCP,), IPV4)]
        assert output_chain == Chain("ISTIO_OUTPUT")
