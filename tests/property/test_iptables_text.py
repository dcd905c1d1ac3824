"""The text of iptables-save: writing is the opposite of reading, and no value becomes an option or a rule."""

from hypothesis import given
from hypothesis import strategies as st

from capture.analysis.canonical import canonical
from capture.backends.iptables.expansion import comment_text
from capture.backends.iptables.parse import parse_rule, parse_save, split_words
from capture.backends.iptables.render import quoted, rule_text, save_text, word
from capture.model.addresses import IPV4
from capture.model.ruleset import Continue, InInterface, Log, Return, Rule, Ruleset
from support.generators.rules import rulesets

LINE = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]))
"""Text of one line."""


@given(rulesets())
def test_parse_is_the_opposite_of_render(ruleset: Ruleset) -> None:
    for family in ruleset.families:
        assert canonical(parse_save(save_text(ruleset, family), family), family) == canonical(ruleset, family)


@given(rulesets())
def test_rendering_what_was_parsed_changes_no_letter(ruleset: Ruleset) -> None:
    for family in ruleset.families:
        text = save_text(ruleset, family, comments=True)
        assert save_text(parse_save(text, family), family, comments=True) == text


@given(LINE)
def test_quoted_text_is_one_word_that_says_it(text: str) -> None:
    assert [each.text for each in split_words(f"before {quoted(text)} after")] == ["before", text, "after"]


@given(LINE.filter(bool))
def test_a_value_is_one_word_that_says_it(text: str) -> None:
    assert [each.text for each in split_words(f"before {word(text)} after")] == ["before", text, "after"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_reason_never_becomes_anything_but_a_comment(why: str) -> None:
    text = rule_text(Rule(Return(), (), IPV4, why))

    assert len(text.splitlines()) == 1
    rule = parse_rule(f"-A OUTPUT {text}", IPV4, ())[1]
    assert rule == Rule(Return(), (), IPV4)
    assert rule.why == comment_text(why)
    assert len(rule.why.encode()) <= 255


@given(
    LINE.filter(lambda text: text and len(text.encode()) <= 15 and text != "!"),
    LINE.filter(lambda text: len(text.encode()) <= 29),
)
def test_an_interface_and_a_log_prefix_never_become_an_option(name: str, prefix: str) -> None:
    rule = Rule(Log(prefix), (InInterface(name),), IPV4)

    assert parse_rule(f"-A OUTPUT {rule_text(rule)}", IPV4, ())[1] == rule


@given(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])))
def test_no_line_is_too_strange_to_be_kept(line: str) -> None:
    chain, rule = parse_rule(f"-A OUTPUT {line}", IPV4, ("ISTIO_OUTPUT",))

    assert chain == "OUTPUT"
    assert rule.matches or rule.why or not isinstance(rule.verdict, Continue) or not split_words(line)
