"""Whether the kernel holds exactly what we would write, to the byte: a quick "yes", or "look closer".

What comes back from the kernel is what was sent, in the same order of attributes, but for counters. So nothing
has to be decoded to see that all is well, which is how it nearly always is. The elements of a set of intervals
come in descending order (nft_rbtree_walk in net/netfilter/nft_set_rbtree.c), those of another in no order that we
know. Where a kernel does something of this differently, the answer is "look closer", every time.
"""

from __future__ import annotations

import errno

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.exact import compared_of_chain, rule_is
from capture.backends.nftables import encode, sets
from capture.backends.nftables.native import SIZES
from capture.errors import KernelError
from capture.netlink.attributes import attribute, decode_fields, decode_number, decode_text, text
from capture.netlink.nfnetlink import NFGENMSG_SIZE, message_type, nfgenmsg, read_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.backends.nftables.native import Among, NativeRule, NativeTable
    from capture.netlink.sockets import NetlinkSocket

    FoundRules = dict[tuple[str, str], list[dict[int, bytes]]]
    """The attributes of rules, by their table and chain."""


def holds_exactly(netfilter: NetlinkSocket, wanted: Iterable[NativeTable], our_tables: frozenset[str]) -> bool:
    """Return whether our live tables are the wanted ones, to the byte; False does not mean that they differ."""
    try:
        return _hold_exactly(netfilter, tuple(wanted), our_tables)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return False  # a set went before it was read


def _hold_exactly(netfilter: NetlinkSocket, wanted: tuple[NativeTable, ...], our_tables: frozenset[str]) -> bool:
    expected = {(table.name, chain.name) for table in wanted for chain in table.chains}
    found = _chains(netfilter, our_tables)
    if found is None or found.keys() != expected or not _chains_are(wanted, found):
        return False
    rules = _rules(netfilter, our_tables)
    return all(_table_is(netfilter, table, rules) for table in wanted)


def _table_is(netfilter: NetlinkSocket, table: NativeTable, found: FoundRules) -> bool:
    """Return whether a table holds the wanted rules, and its sets what they look up there."""
    lists = dict(encode.sets_of(table))
    names = iter(lists)
    return all(
        _rules_are(chain.rules, found.get((table.name, chain.name), []), names) for chain in table.chains
    ) and all(_set_is(netfilter, table.name, name, condition) for name, condition in lists.items())


def _chains(netfilter: NetlinkSocket, our_tables: frozenset[str]) -> dict[tuple[str, str], dict[int, bytes]] | None:
    """Return what is compared of our chains, by table and name; None where one of our tables holds none or sleeps."""
    tables = {text(name): name for name in our_tables}
    listed = read_objects(netfilter, nf.NFT_MSG_GETTABLE, nf.NFPROTO_INET, b"", "read the tables of nf_tables")
    own: set[str] = set()
    for _, attributes in listed:
        fields = decode_fields(attributes)
        table = tables.get(fields[nf.NFTA_TABLE_NAME])
        if table is not None:
            if decode_number(fields.get(nf.NFTA_TABLE_FLAGS, b"")) & nf.NFT_TABLE_F_DORMANT:
                return None
            own.add(table)
    chains: dict[tuple[str, str], dict[int, bytes]] = {}
    if own:
        listed = read_objects(netfilter, nf.NFT_MSG_GETCHAIN, nf.NFPROTO_INET, b"", "read the chains of nf_tables")
        for _, attributes in listed:
            fields = decode_fields(attributes)
            table = tables.get(fields[nf.NFTA_CHAIN_TABLE])
            if table is not None:
                chains[table, decode_text(fields[nf.NFTA_CHAIN_NAME])] = compared_of_chain(fields)
    return chains if own == {table for table, _ in chains} else None


def _chains_are(wanted: Iterable[NativeTable], found: dict[tuple[str, str], dict[int, bytes]]) -> bool:
    return all(
        compared_of_chain(decode_fields(encode.add_chain(table.name, chain).attributes))
        == found[table.name, chain.name]
        for table in wanted
        for chain in table.chains
    )


def _rules(netfilter: NetlinkSocket, our_tables: frozenset[str]) -> FoundRules:
    """Return the attributes of the rules of our tables, by table and chain, in order."""
    tables = {text(name): name for name in our_tables}
    rules: FoundRules = {}
    for _, attributes in read_objects(
        netfilter, nf.NFT_MSG_GETRULE, nf.NFPROTO_INET, b"", "read the rules of nf_tables"
    ):
        fields = decode_fields(attributes)
        table = tables.get(fields[nf.NFTA_RULE_TABLE])
        if table is not None:
            rules.setdefault((table, decode_text(fields[nf.NFTA_RULE_CHAIN])), []).append(fields)
    return rules


def _rules_are(wanted: tuple[NativeRule, ...], found: list[dict[int, bytes]], set_names: Iterator[str]) -> bool:
    return len(wanted) == len(found) and all(_rule_is(*both, set_names) for both in zip(wanted, found, strict=True))


def _rule_is(wanted: NativeRule, found: dict[int, bytes], set_names: Iterator[str]) -> bool:
    """Return whether a rule came back as it was sent: conditions, a counter of any value, actions, comment."""
    before, after = encode.conditions_of(wanted, set_names), encode.actions_of(wanted)
    return rule_is(found, before, after, encode.comment_of(wanted))


# --- sets ----------------------------------------------------------------------------------------


def _set_is(netfilter: NetlinkSocket, table: str, name: str, wanted: Among) -> bool:
    """Return whether a set is of the wanted kind and holds the wanted elements and no others."""
    doing = f"read the set {name} of table inet {table}"
    of_set = attribute(nf.NFTA_SET_TABLE, text(table)) + attribute(nf.NFTA_SET_NAME, text(name))
    (body,) = netfilter.request(message_type(nf.NFT_MSG_GETSET), 0, nfgenmsg(nf.NFPROTO_INET) + of_set, doing)
    description = decode_fields(body[NFGENMSG_SIZE:])
    flags, size = (decode_number(description.get(kind, b"")) for kind in (nf.NFTA_SET_FLAGS, nf.NFTA_SET_KEY_LEN))
    if (flags, size) != (sets.flags_of(wanted), SIZES[wanted.field]):
        return False
    messages = read_objects(netfilter, nf.NFT_MSG_GETSETELEM, nf.NFPROTO_INET, of_set, doing)
    found = b"".join([decode_fields(each).get(nf.NFTA_SET_ELEM_LIST_ELEMENTS, b"") for _, each in messages])
    if flags & nf.NFT_SET_INTERVAL:
        return found == sets.elements_descending(wanted)
    elements = sets.elements_of(wanted)
    length = len(elements[0])
    return sorted(found[start : start + length] for start in range(0, len(found), length)) == elements
