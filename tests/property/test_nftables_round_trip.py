"""Messages to nf_tables are the opposite of what is read there, for any rule set that capture could write."""

from hypothesis import given
from hypothesis import strategies as st

from capture.analysis.canonical import canonical
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.decode import decode_table
from capture.backends.nf_tables.lift import lift
from capture.backends.nf_tables.listing import chain_of, table_of
from capture.backends.nf_tables.names import model_chain, native_chain
from capture.backends.nf_tables.native import NativeTable
from capture.backends.nf_tables.sets import NativeSet, decode_set
from capture.backends.nftables.encode import add_rules, add_tables
from capture.backends.nftables.lower import lower
from capture.model.addresses import FAMILIES
from capture.model.ruleset import NAT, Ruleset
from capture.netlink.attributes import attribute, c_string, decode_attributes, decode_fields, decode_number, nested
from capture.netlink.nfnetlink import Change
from support.generators.rules import rulesets


def as_dumped(changes: list[Change]) -> NativeTable:
    """Return the table that the messages make, decoded as if the kernel had sent them back.

    The kernel numbers the anonymous sets; here their numbers in the batch are taken for that.
    """
    of_kind: dict[int, list[bytes]] = {}
    for change in changes:
        of_kind.setdefault(change.kind, []).append(change.attributes)
    sets: dict[str, NativeSet] = {}
    for description in of_kind.get(nf.NFT_MSG_NEWSET, []):
        number = decode_fields(description)[nf.NFTA_SET_ID]
        elements = [
            message
            for message in of_kind[nf.NFT_MSG_NEWSETELEM]
            if decode_fields(message)[nf.NFTA_SET_ELEM_LIST_SET_ID] == number
        ]
        sets[f"__set{decode_number(number)}"] = decode_set(decode_fields(description), elements)
    rules = [with_set_names(rule) for rule in of_kind.get(nf.NFT_MSG_NEWRULE, [])]
    (table,) = of_kind[nf.NFT_MSG_NEWTABLE]
    chains = tuple(chain_of(nf.NFPROTO_INET, each) for each in of_kind.get(nf.NFT_MSG_NEWCHAIN, []))
    return decode_table(table_of(nf.NFPROTO_INET, table).replace(chains=chains), rules, sets.__getitem__)


def with_set_names(rule: bytes) -> bytes:
    """Return a rule whose lookups name their sets, as the kernel lists them."""
    parts = []
    for kind, payload in decode_attributes(rule):
        if kind != nf.NFTA_RULE_EXPRESSIONS:
            parts.append(attribute(kind, payload))
            continue
        parts.append(nested(kind, *(nested(1, with_set_name(each)) for _, each in decode_attributes(payload))))
    return b"".join(parts)


def with_set_name(expression: bytes) -> bytes:
    outer = decode_fields(expression)
    if outer[nf.NFTA_EXPR_NAME] != c_string("lookup"):
        return expression
    fields = decode_fields(outer[nf.NFTA_EXPR_DATA])
    number = decode_number(fields[nf.NFTA_LOOKUP_SET_ID])
    fields[nf.NFTA_LOOKUP_SET] = c_string(f"__set{number}")
    data = nested(nf.NFTA_EXPR_DATA, *(attribute(kind, payload) for kind, payload in fields.items()))
    return attribute(nf.NFTA_EXPR_NAME, outer[nf.NFTA_EXPR_NAME]) + data


def through_bytes(ruleset: Ruleset) -> Ruleset:
    tables = lower(ruleset)
    rules = list(add_rules(tables))
    dumped = []
    for table in tables:
        of_table = [
            rule for rule in rules if decode_fields(rule.attributes)[nf.NFTA_RULE_TABLE] == c_string(table.name)
        ]
        dumped.append(as_dumped([*add_tables([table]), *of_table]))
    return lift(dumped)


@given(rulesets())
def test_decode_is_the_inverse_of_encode(ruleset: Ruleset) -> None:
    read = through_bytes(ruleset)

    for family in FAMILIES:
        assert canonical(read, family) == canonical(ruleset, family)


@given(rulesets())
def test_rules_that_were_read_are_written_the_same_again(ruleset: Ruleset) -> None:
    read = through_bytes(ruleset)

    assert lower(read) == lower(ruleset.replace(has_comments=read.has_comments))


@given(st.text("ISTIO-_istoAB", min_size=1, max_size=8) | st.text(min_size=1))
def test_names_of_chains_are_one_to_one(name: str) -> None:
    assert model_chain(NAT, native_chain(name), None) in ((name, ""), (native_chain(name), "not hooked"))
