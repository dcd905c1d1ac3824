"""Whether our native tables are exactly what we would write (``nf_tables.exact``), and their sets hold the elements.

The elements of a set of intervals come in descending order (nft_rbtree_walk in net/netfilter/nft_set_rbtree.c), those
of another in no order that we know.
"""

from __future__ import annotations

import errno

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.exact import chains_are, rules_are
from capture.backends.nf_tables.listing import read_set, read_tables
from capture.backends.nftables import encode, sets
from capture.backends.nftables.names import MODEL_TABLES
from capture.backends.nftables.native import SIZES
from capture.errors import KernelError
from capture.netlink.attributes import decode_fields, decode_number, decode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.nftables.native import Among, NativeTable
    from capture.netlink.sockets import NetlinkSocket


def holds_exactly(netfilter: NetlinkSocket, wanted: tuple[NativeTable, ...]) -> bool:
    """Return whether our live tables are the wanted ones, to the byte; False does not mean that they differ."""
    flags = {
        decode_text(fields[nf.NFTA_TABLE_NAME]): decode_number(fields.get(nf.NFTA_TABLE_FLAGS, b""))
        for _, fields in read_tables(netfilter, nf.NFPROTO_INET)
    }
    own = {name: of_table for name, of_table in flags.items() if name in MODEL_TABLES}
    if own.keys() != {table.name for table in wanted} or any(each & nf.NFT_TABLE_F_DORMANT for each in own.values()):
        return False
    chains = (encode.add_chain(table.name, chain) for table in wanted for chain in table.chains)
    try:
        return chains_are(netfilter, (nf.NFPROTO_INET,), own, chains) and all(
            _table_is(netfilter, table) for table in wanted
        )
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return False  # a set went before it was read


def _table_is(netfilter: NetlinkSocket, table: NativeTable) -> bool:
    """Return whether a table holds the wanted rules, and its sets what they look up there."""
    lists = dict(encode.sets_of(table))
    names = iter(lists)
    rules = {
        chain.name: [
            (encode.conditions_of(rule, names), encode.actions_of(rule), encode.comment_of(rule))
            for rule in chain.rules
        ]
        for chain in table.chains
    }
    return rules_are(netfilter, nf.NFPROTO_INET, table.name, rules) and all(
        _set_is(netfilter, table.name, name, condition) for name, condition in lists.items()
    )


def _set_is(netfilter: NetlinkSocket, table: str, name: str, wanted: Among) -> bool:
    """Return whether a set is of the wanted kind and holds the wanted elements and no others."""
    description, messages = read_set(netfilter, nf.NFPROTO_INET, table, name)
    flags, size = (decode_number(description.get(kind, b"")) for kind in (nf.NFTA_SET_FLAGS, nf.NFTA_SET_KEY_LEN))
    if (flags, size) != (sets.flags_of(wanted), SIZES[wanted.field]):
        return False
    found = b"".join([decode_fields(each).get(nf.NFTA_SET_ELEM_LIST_ELEMENTS, b"") for each in messages])
    if flags & nf.NFT_SET_INTERVAL:
        return found == sets.elements_descending(wanted)
    elements = sets.elements_of(wanted)
    length = len(elements[0])
    return sorted(found[start : start + length] for start in range(0, len(found), length)) == elements
