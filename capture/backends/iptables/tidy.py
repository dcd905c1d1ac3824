"""Taking empty tables of iptables-nft away, so that a namespace reads as before we came.

iptables-nft makes tables and built-in chains when a rule needs them, and never removes one. What is left
behind is more than untidy: the kernel goes on tracking connections for a nat table without rules. There is
no command for it, but a message of nf_tables. (A legacy table stays as long as its namespace.)

Only what our edits touched is looked at, and only if nothing is in it: the batch is made for the generation
of the ruleset that was read, and refused by the kernel if anything has changed since.
"""

from __future__ import annotations

from capture.backends.iptables.plan import DropChain, RemoveRule
from capture.backends.nf_tables.constants import (
    NFT_MSG_DELCHAIN,
    NFT_MSG_DELTABLE,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETTABLE,
    NFTA_CHAIN_HOOK,
    NFTA_CHAIN_NAME,
    NFTA_CHAIN_POLICY,
    NFTA_CHAIN_TABLE,
    NFTA_TABLE_NAME,
)
from capture.model.addresses import IPV4, IPV6
from capture.model.values import Value
from capture.netlink.attributes import attribute, decode_fields, decode_number, decode_text, text
from capture.netlink.batch import Change, RulesetChangedError, commit
from capture.netlink.nfnetlink import NFPROTO_UNSPEC, open_netfilter, read_generation, read_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.backends.iptables.plan import TableEdit
    from capture.model.addresses import Family
    from capture.netlink.sockets import NetlinkSocket

PROTOCOL_FAMILIES: dict[Family, int] = {IPV4: 2, IPV6: 10}  # linux/netfilter.h

# linux/netfilter/nf_tables.h
NFTA_TABLE_USE = 3
NFTA_CHAIN_USE = 6
NF_ACCEPT = 1

ATTEMPTS = 3


class _Chain(Value):
    """A chain of nf_tables: a built-in one that holds nothing and accepts is ``idle``."""

    family: int
    table: str
    name: str
    idle: bool


def tidy(edits: Iterable[TableEdit]) -> None:
    """Remove built-in chains that the edits have left empty, and tables that have no other chains.

    If others keep changing the ruleset meanwhile, what is empty stays. Raises as ``netlink.batch.commit``.
    """
    touched: dict[tuple[int, str], set[str]] = {
        (PROTOCOL_FAMILIES[edit.family], edit.table): {c.chain for c in edit.edits if isinstance(c, RemoveRule)}
        for edit in edits
        if any(isinstance(change, RemoveRule | DropChain) for change in edit.edits)
    }
    if not touched:
        return
    with open_netfilter() as netfilter:
        for _ in range(ATTEMPTS):
            generation = read_generation(netfilter)
            try:
                commit(netfilter, list(_removals(netfilter, touched)), generation, "remove empty tables of iptables")
            except RulesetChangedError:
                continue
            return


def _removals(netfilter: NetlinkSocket, touched: dict[tuple[int, str], set[str]]) -> Iterator[Change]:
    chains = list(_chains(netfilter))
    for (family, table), uses in _tables(netfilter):
        if (family, table) not in touched:
            continue
        present = [chain for chain in chains if (chain.family, chain.table) == (family, table)]
        idle = [chain for chain in present if chain.idle and chain.name in touched[family, table]]
        if len(idle) == len(present) == uses:
            yield Change(NFT_MSG_DELTABLE, family, attribute(NFTA_TABLE_NAME, text(table)), f"remove the table {table}")
            continue
        for chain in idle:
            named = attribute(NFTA_CHAIN_TABLE, text(table)) + attribute(NFTA_CHAIN_NAME, text(chain.name))
            yield Change(NFT_MSG_DELCHAIN, family, named, f"remove the chain {chain.name} of the table {table}")


def _tables(netfilter: NetlinkSocket) -> Iterator[tuple[tuple[int, str], int]]:
    """Yield each table with how many chains, sets and other things it has."""
    for family, attributes in read_objects(netfilter, NFT_MSG_GETTABLE, NFPROTO_UNSPEC, b"", "list the tables"):
        fields = decode_fields(attributes)
        yield (family, decode_text(fields[NFTA_TABLE_NAME])), decode_number(fields[NFTA_TABLE_USE])


def _chains(netfilter: NetlinkSocket) -> Iterator[_Chain]:
    for family, attributes in read_objects(netfilter, NFT_MSG_GETCHAIN, NFPROTO_UNSPEC, b"", "list the chains"):
        fields = decode_fields(attributes)
        accepts = NFTA_CHAIN_HOOK in fields and decode_number(fields.get(NFTA_CHAIN_POLICY, b"")) == NF_ACCEPT
        idle = accepts and decode_number(fields.get(NFTA_CHAIN_USE, b"")) == 0
        yield _Chain(family, decode_text(fields[NFTA_CHAIN_TABLE]), decode_text(fields[NFTA_CHAIN_NAME]), idle)
