"""Whether the kernel holds exactly what we would write, to the byte: a quick "yes", or "look closer".

What comes back from the kernel is what was sent, in the same order of attributes, but for counters. So nothing
has to be decoded to see that all is well, which is how it nearly always is. A rule with a set is looked
up by a name that the kernel chose: there the answer is always "look closer".
"""

from __future__ import annotations

from capture.backends.nftables import constants as nf
from capture.backends.nftables import encode
from capture.netlink.attributes import attribute, decode_fields, decode_number, decode_text, text
from capture.netlink.nfnetlink import read_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.backends.nftables.native import NativeRule, NativeTable
    from capture.netlink.sockets import NetlinkSocket

COMPARED_OF_CHAIN = (nf.NFTA_CHAIN_HOOK, nf.NFTA_CHAIN_TYPE, nf.NFTA_CHAIN_POLICY)


def stands_exactly(netfilter: NetlinkSocket, wanted: Iterable[NativeTable], our_tables: frozenset[str]) -> bool:
    """Return whether our tables that stand are the wanted ones, to the byte; False does not mean that they differ."""
    wanted = tuple(wanted)
    expected = {(table.name, chain.name): chain.rules for table in wanted for chain in table.chains}
    found = _chains(netfilter, our_tables)
    if found is None or found.keys() != expected.keys() or not _chains_are(wanted, found):
        return False
    rules = _rules(netfilter, our_tables)
    return all(_rules_are(expected[place], rules.get(place, [])) for place in expected)


def _chains(netfilter: NetlinkSocket, our_tables: frozenset[str]) -> dict[tuple[str, str], dict[int, bytes]] | None:
    """Return what is compared of our chains, by table and name; None where one of our tables holds none or sleeps."""
    tables = {text(name): name for name in our_tables}
    stand = read_objects(netfilter, nf.NFT_MSG_GETTABLE, nf.NFPROTO_INET, b"", "read the tables of nf_tables")
    ours: set[str] = set()
    for _, attributes in stand:
        fields = decode_fields(attributes)
        table = tables.get(fields[nf.NFTA_TABLE_NAME])
        if table is not None:
            if decode_number(fields.get(nf.NFTA_TABLE_FLAGS, b"")) & nf.NFT_TABLE_F_DORMANT:
                return None
            ours.add(table)
    chains: dict[tuple[str, str], dict[int, bytes]] = {}
    if ours:
        listed = read_objects(netfilter, nf.NFT_MSG_GETCHAIN, nf.NFPROTO_INET, b"", "read the chains of nf_tables")
        for _, attributes in listed:
            fields = decode_fields(attributes)
            table = tables.get(fields[nf.NFTA_CHAIN_TABLE])
            if table is not None:
                chains[table, decode_text(fields[nf.NFTA_CHAIN_NAME])] = _compared(fields)
    return chains if ours == {table for table, _ in chains} else None


def _compared(fields: dict[int, bytes]) -> dict[int, bytes]:
    return {kind: fields[kind] for kind in COMPARED_OF_CHAIN if kind in fields}


def _chains_are(wanted: Iterable[NativeTable], found: dict[tuple[str, str], dict[int, bytes]]) -> bool:
    return all(
        _compared(decode_fields(encode.add_chain(table.name, chain).attributes)) == found[table.name, chain.name]
        for table in wanted
        for chain in table.chains
    )


def _rules(netfilter: NetlinkSocket, our_tables: frozenset[str]) -> dict[tuple[str, str], list[dict[int, bytes]]]:
    """Return the attributes of the rules of our tables, by table and chain, in order."""
    tables = {text(name): name for name in our_tables}
    rules: dict[tuple[str, str], list[dict[int, bytes]]] = {}
    for _, attributes in read_objects(
        netfilter, nf.NFT_MSG_GETRULE, nf.NFPROTO_INET, b"", "read the rules of nf_tables"
    ):
        fields = decode_fields(attributes)
        table = tables.get(fields[nf.NFTA_RULE_TABLE])
        if table is not None:
            rules.setdefault((table, decode_text(fields[nf.NFTA_RULE_CHAIN])), []).append(fields)
    return rules


def _rules_are(wanted: tuple[NativeRule, ...], found: list[dict[int, bytes]]) -> bool:
    return len(wanted) == len(found) and all(map(_rule_is, wanted, found))


def _rule_is(wanted: NativeRule, found: dict[int, bytes]) -> bool:
    """Return whether a rule came back as it was sent: conditions, a counter of any value, actions, comment."""
    before, after = encode.conditions_of(wanted), encode.actions_of(wanted)
    if before is None:
        return False
    expressions = found[nf.NFTA_RULE_EXPRESSIONS]
    comment = attribute(nf.NFTA_RULE_USERDATA, found[nf.NFTA_RULE_USERDATA]) if nf.NFTA_RULE_USERDATA in found else b""
    return (
        len(expressions) == len(before) + len(encode.COUNTER) + len(after)
        and expressions.startswith(before + COUNTER_HEAD)
        and expressions.endswith(after)
        and comment == encode.comment_of(wanted)
    )


COUNTER_HEAD = encode.COUNTER[: encode.COUNTER.index(b"counter\0") + len(b"counter\0")]
"""The counter expression up to its name; what follows are its values."""
