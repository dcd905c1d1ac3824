"""The table of ``--other-family reject`` as it is written, decoded: one description for the kernel and for people."""

from __future__ import annotations

from capture.backends import other_family
from capture.backends.nf_tables import constants as nf
from capture.backends.nftables.decode import decode_table
from capture.backends.nftables.render import table_text
from capture.netlink.attributes import decode_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.nftables.native import NativeTable
    from capture.backends.nftables.sets import NativeSet


def written_table() -> NativeTable:
    """Return the table that the messages of ``other_family`` make."""
    sent: dict[int, list[bytes]] = {}
    for change in other_family.changes():
        sent.setdefault(change.kind, []).append(change.attributes)
    chains = map(decode_fields, sent[nf.NFT_MSG_NEWCHAIN])
    return decode_table(decode_fields(sent[nf.NFT_MSG_NEWTABLE][0]), chains, sent[nf.NFT_MSG_NEWRULE], _no_set)


def written_text() -> str:
    """Return the table as ``nft -f`` takes it."""
    return table_text(written_table(), with_counters=False)


def _no_set(name: str) -> NativeSet:
    raise LookupError(name)
