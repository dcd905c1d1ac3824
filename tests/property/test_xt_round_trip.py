"""What is written for iptables-nft is read back, for every rule; and no bytes are too strange to be read."""

from hypothesis import given
from hypothesis import strategies as st

from capture.analysis.canonical import canonical_rule
from capture.backends.iptables.expansion import comment_text, expanded
from capture.backends.iptables.xt_decode import RuleReader
from capture.backends.iptables.xt_encode import encode_rule
from capture.backends.iptables.xt_text import EXTENSION_TEXTS, extension_text
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.messages import TableMessages
from capture.model.addresses import FAMILIES, FAMILY_NUMBERS, Family
from capture.model.ruleset import MANGLE, NAT, OUTPUT, PREROUTING, RAW, Continue, Rule, TableName
from capture.netlink.attributes import attribute, c_string, decode_attributes, nested, u64be
from support.generators.rules import Place, rules

TABLES: list[TableName] = [NAT, MANGLE, RAW]
PLACES = [Place(table, side, ("ISTIO_OUTPUT",)) for table in TABLES for side in (PREROUTING, OUTPUT)]

families = st.sampled_from(FAMILIES)
written = st.sampled_from(PLACES).flatmap(rules)


@given(rule=written, family=families, table=st.sampled_from(TABLES))
def test_a_rule_is_read_as_it_was_written(rule: Rule, family: Family, table: TableName) -> None:
    reader = RuleReader(family)
    for single in expanded([rule], family):
        message = TableMessages(FAMILY_NUMBERS[family], table).add_rule("ISTIO_OUTPUT", encode_rule(single, family))
        found = reader.read(message.attributes + attribute(nf.NFTA_RULE_HANDLE, u64be(7)))

        assert (found.chain, found.handle) == ("ISTIO_OUTPUT", 7)
        assert found.rule.family == family
        assert canonical_rule(found.rule) == canonical_rule(single)
        assert found.rule.why == comment_text(single.why)


NAMES = st.sampled_from(
    [
        *("meta", "payload", "cmp", "range", "bitwise", "immediate", "counter", "match", "target", "limit"),
        *("lookup", "ct", "nat", "redir", "log", "notrack", "whatever"),
    ]
)
attributes = st.recursive(
    st.builds(attribute, st.integers(1, 9), st.binary(max_size=20)),
    lambda inner: st.builds(lambda kind, parts: nested(kind, *parts), st.integers(1, 9), st.lists(inner, max_size=4)),
    max_leaves=8,
)


@given(st.lists(st.tuples(NAMES, st.lists(attributes, max_size=5)), max_size=6), families)
def test_strange_expressions_are_shown_and_nothing_else(parts: list[tuple[str, list[bytes]]], family: Family) -> None:
    expressions = [
        nested(nf.NFTA_LIST_ELEM, attribute(nf.NFTA_EXPR_NAME, c_string(name)), nested(nf.NFTA_EXPR_DATA, *inside))
        for name, inside in parts
    ]
    where = attribute(nf.NFTA_RULE_CHAIN, c_string("OUTPUT")) + attribute(nf.NFTA_RULE_HANDLE, u64be(1))
    found = RuleReader(family).read(where + nested(nf.NFTA_RULE_EXPRESSIONS, *expressions))
    assert list(decode_attributes(where))
    assert found.chain == "OUTPUT"
    if not parts:
        assert found.rule == Rule(Continue(), (), family)


LARGEST = 168
"""Bytes of a conntrack match; the kernel hands out structures in full."""


@given(st.data())
def test_any_structure_has_words(data: st.DataObject) -> None:
    structure = data.draw(st.binary(min_size=LARGEST, max_size=LARGEST))
    family = data.draw(families)
    name, revision = data.draw(st.sampled_from([*EXTENSION_TEXTS, ("recent", 1), ("TCPMSS", 0)]))
    assert extension_text(name, revision, structure, family).startswith(name)
