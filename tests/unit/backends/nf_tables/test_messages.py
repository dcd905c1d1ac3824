"""The messages that change a table of nf_tables: what they say that they do, and where a rule goes."""

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.listing import decode_hook
from capture.backends.nf_tables.messages import TableMessages, encode_hook
from capture.backends.nf_tables.names import HOOKS, Hook
from capture.model.addresses import FAMILY_NUMBERS
from capture.model.ruleset import NAT, OUTPUT
from capture.netlink.attributes import attribute, c_string, decode_fields
from capture.netlink.messages import NLM_F_APPEND, NLM_F_NONREC

MESSAGES = TableMessages(FAMILY_NUMBERS["ipv6"], NAT)


def test_errors_say_what_was_tried() -> None:
    done = [
        MESSAGES.add_table(),
        MESSAGES.delete_table(),
        MESSAGES.flush_table(),
        MESSAGES.add_chain("OUTPUT", None),
        MESSAGES.delete_chain("OUTPUT"),
        MESSAGES.flush_chain("OUTPUT"),
        MESSAGES.delete_rule("OUTPUT", 7),
        MESSAGES.add_rule("OUTPUT", b"", name="rule 3"),
        TableMessages(nf.NFPROTO_INET, "istio-proxy-nat").add_table(),
    ]
    assert [change.task for change in done] == [
        "add table ip6 nat",
        "delete table ip6 nat",
        "flush table ip6 nat",
        "add chain OUTPUT to table ip6 nat",
        "delete chain OUTPUT of table ip6 nat",
        "flush chain OUTPUT of table ip6 nat",
        "delete the rule with handle 7 of chain OUTPUT of table ip6 nat",
        "add rule 3 to chain OUTPUT of table ip6 nat",
        "add table inet istio-proxy-nat",
    ]
    assert [change.family for change in done] == [10] * 8 + [1]


def test_a_deletion_may_be_of_empty_tables_and_chains_alone() -> None:
    deleted = [MESSAGES.delete_table(), MESSAGES.delete_table(only_empty=True), MESSAGES.delete_chain("OUTPUT")]
    assert [change.flags for change in deleted] == [0, NLM_F_NONREC, NLM_F_NONREC]


def test_a_base_chain_has_a_hook_and_a_policy() -> None:
    base = decode_fields(MESSAGES.add_chain("OUTPUT", HOOKS[NAT, OUTPUT], "DROP").attributes)
    other = decode_fields(MESSAGES.add_chain("ISTIO_OUTPUT", None).attributes)
    assert nf.NFTA_CHAIN_HOOK in base
    assert base[nf.NFTA_CHAIN_POLICY] == bytes(4)
    assert not {nf.NFTA_CHAIN_HOOK, nf.NFTA_CHAIN_POLICY} & other.keys()


def test_a_hook_is_read_as_it_was_written() -> None:
    for hook in {*HOOKS.values()}:
        fields = decode_fields(encode_hook(hook) + attribute(nf.NFTA_CHAIN_TYPE, c_string(hook.kind)))
        assert decode_hook(fields) == hook
        del fields[nf.NFTA_CHAIN_TYPE]
        assert decode_hook(fields) == Hook("filter", hook.name, hook.priority), "the type of a chain without one"
    assert decode_hook({}) is None


def test_a_rule_goes_to_the_end_or_before_another() -> None:
    last, inserted = MESSAGES.add_rule("OUTPUT", b""), MESSAGES.add_rule("OUTPUT", b"", before=7)
    assert last.flags & NLM_F_APPEND
    assert not inserted.flags & NLM_F_APPEND
    assert nf.NFTA_RULE_POSITION not in decode_fields(last.attributes)
    assert decode_fields(inserted.attributes)[nf.NFTA_RULE_POSITION] == (7).to_bytes(8, "big")
