"""Every match and verdict in the words of nft(8)."""

import pytest

from capture.backends.nf_tables.native import Among, Named, NativeRule
from capture.backends.nf_tables.render import described, quoted, rule_text
from capture.backends.nftables.lower import lower, render_text
from capture.model.addresses import FAMILIES
from capture.model.ruleset import (
    NAT,
    OUTPUT,
    Chain,
    Jump,
    Log,
    Match,
    Return,
    Rule,
    Ruleset,
    Table,
    UnknownMatch,
    UnknownVerdict,
    Verdict,
)
from support.rules.nftables_cases import CASES, MATCHES, VERDICTS, Case
from support.rules.vocabulary import kinds_of

NEVER_WRITTEN = {UnknownMatch, UnknownVerdict}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rules_read_as_nft_reads_them(case: Case) -> None:
    (table,) = lower(case.ruleset)

    assert "\n".join(map(rule_text, table.chains[0].rules)) == case.words


def test_no_match_is_forgotten() -> None:
    tested = {type(match) for case in MATCHES for match in case.rule.matches}

    assert tested == kinds_of(Match) - NEVER_WRITTEN


def test_no_verdict_is_forgotten() -> None:
    assert {type(case.rule.verdict) for case in VERDICTS} == kinds_of(Verdict) - NEVER_WRITTEN


def test_a_rule_set_is_a_script() -> None:
    own = Chain("ISTIO_OUTPUT", (Rule(Return()),))
    nat = Table(NAT, (Chain(OUTPUT, (Rule(Jump("ISTIO_OUTPUT")),), "ACCEPT"), own))

    assert render_text(Ruleset(FAMILIES, (nat,))) == (
        "table inet istio-proxy-nat {\n"
        "\tchain output {\n"
        "\t\ttype nat hook output priority -100; policy accept;\n"
        "\t\tcounter jump istio-output\n"
        "\t}\n"
        "\n"
        "\tchain istio-output {\n"
        "\t\tcounter return\n"
        "\t}\n"
        "}\n"
    )


def test_nothing_is_no_script() -> None:
    assert render_text(Ruleset(FAMILIES, ())) == ""


def test_a_text_that_cannot_be_quoted_is_refused() -> None:
    with pytest.raises(ValueError, match="nft cannot write"):
        quoted('a"b')
    assert quoted("a\nb") == '"a\\nb"'


def test_a_name_cannot_end_its_quotes() -> None:
    with pytest.raises(ValueError, match="nft cannot write"):
        rule_text(NativeRule((Named("iifname", 'lo" drop comment "'),), ()))


def test_a_log_prefix_cannot_name_a_variable() -> None:
    with pytest.raises(ValueError, match="dollar"):
        rule_text(NativeRule((), (Log("$HOME"),)))


def test_a_range_of_marks_has_both_ends() -> None:
    """Two rules with other ranges would be taken for one test of the packet, if their words were the same."""
    assert described(Among("ct mark", ((1, 5),))) == "ct mark 0x00000001-0x00000005"
    assert described(Among("meta mark", ((1, 1), (3, 5)))) == "meta mark { 0x00000001, 0x00000003-0x00000005 }"
