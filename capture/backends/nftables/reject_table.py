"""The table of ``--other-family reject`` as it is written, decoded: one description for the kernel and for people."""

from __future__ import annotations

from capture.backends import other_family
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.listing import FoundTable, chain_of
from capture.backends.nftables.decode import decode_table
from capture.backends.nftables.names import REJECT_TABLE
from capture.backends.nftables.render import table_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.nftables.native import NativeTable
    from capture.backends.nftables.sets import NativeSet


def written_table() -> NativeTable:
    """Return the table that the messages of ``other_family`` make."""
    sent: dict[int, list[bytes]] = {}
    for change in other_family.changes():
        sent.setdefault(change.kind, []).append(change.attributes)
    chains = (chain_of(nf.NFPROTO_INET, each) for each in sent[nf.NFT_MSG_NEWCHAIN])
    return decode_table(FoundTable(nf.NFPROTO_INET, REJECT_TABLE), chains, sent[nf.NFT_MSG_NEWRULE], _no_set)


def written_text() -> str:
    """Return the table as ``nft -f`` takes it."""
    return table_text(written_table(), with_counters=False)


def _no_set(name: str) -> NativeSet:
    raise LookupError(name)
