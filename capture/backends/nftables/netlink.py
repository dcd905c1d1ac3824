"""The default driver: nf_tables over a netlink socket, with nothing between us and the kernel."""

from __future__ import annotations

import errno

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import sets
from capture.backends.nf_tables.exact import has_exactly
from capture.backends.nf_tables.listing import FoundTable, read_rules, read_set, read_tables
from capture.backends.nf_tables.messages import TableMessages
from capture.backends.nf_tables.native import FIELD_SIZES, Among, NativeTable
from capture.backends.nftables import encode
from capture.backends.nftables.lower import lower, render_text
from capture.errors import KernelError
from capture.netlink.attributes import attribute, c_string, decode_fields, decode_number
from capture.netlink.nfnetlink import Change, open_nfnetlink, read_consistently, read_objects, transact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from capture.backends.nf_tables.names import Hook
    from capture.model.ruleset import Ruleset
    from capture.netlink.sockets import NetlinkSocket

    LiveHooks = Mapping[str, Mapping[str, Hook | None] | None]
    """The hooks of the live chains, by table and chain; None for a table that must go as a whole."""


class NftablesNetlinkDriver:
    """nf_tables by our own messages: one transaction for all tables and both families."""

    backend = "nftables"
    name = "netlink"

    def __init__(self) -> None:
        self._made: tuple[Ruleset, tuple[NativeTable, ...], Sequence[Change]] | None = None

    def render(self, ruleset: Ruleset) -> list[tuple[str, str]]:
        """Return the rule set as an nft script, which means the same as the messages and can be read."""
        script = render_text(ruleset)
        return [("nft -f -", script)] if script else []

    def read(self) -> Ruleset:
        """Return our tables as they are, foreign rules in them included."""
        from capture.backends.nf_tables.lift import lift  # not needed where all is as it should be

        with open_nfnetlink() as netfilter:
            tables, _ = read_consistently(
                netfilter,
                "read the rules of capture",
                lambda: [_read_table(netfilter, table) for table in _our_tables(netfilter)],
            )
        return lift(tables)

    def has_exactly(self, desired: Ruleset) -> bool:
        """Return whether our tables are to the byte what ``write`` makes; False means "read it"."""
        with open_nfnetlink() as netfilter:
            return _have_exactly(netfilter, *self._native_tables_and_rules(desired))

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        """Make our tables those of ``desired`` in one transaction; nothing foreign belongs in them."""
        del live, recorded
        native, rules = self._native_tables_and_rules(desired)

        def changes(live: LiveHooks) -> Iterator[Change]:
            yield from _table_removals(native, live)
            yield from encode.add_tables(native)
            yield from rules or encode.add_rules(native)

        transact("replace the rules of capture", read_live, changes)

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        del live, recorded
        transact("remove the rules of capture", read_live, lambda live: _table_removals((), live))

    def _native_tables_and_rules(self, desired: Ruleset) -> tuple[tuple[NativeTable, ...], Sequence[Change]]:
        """Return the native tables of a rule set, and the messages that make its rules if none of them needs a set.

        Such rules come back as they were sent. They are remembered: what is written is looked for right afterwards.
        """
        if self._made is None or self._made[0] is not desired:
            native = lower(desired)
            needs_sets = any(True for table in native for _ in encode.sets_of(table))
            self._made = desired, native, () if needs_sets else tuple(encode.add_rules(native))
        return self._made[1:]


def removals(desired: Sequence[NativeTable], live: LiveHooks) -> Iterator[tuple[str, str, str]]:
    """Yield what goes before the desired tables are written: "delete" or "flush", a table, and a chain of it or "".

    All of it is one transaction, and packets see either all of it or none. Base chains that stay are kept and
    only their rules are exchanged: the kernel decides once per base chain which generation of rules a packet sees, so
    deleting and adding such a chain would let a packet pass between the empty new and the emptied old one.
    A table that has more than chains and rules, or that sleeps, is none that we have written; it goes as a whole.
    """
    kept = {(table.name, chain.name, chain.hook) for table in desired for chain in table.chains}
    for table, chains in live.items():
        if chains is None or all(each.name != table for each in desired):
            yield "delete", table, ""
        else:
            yield "flush", table, ""
            yield from (("delete", table, name) for name, hook in chains.items() if (table, name, hook) not in kept)


def _table_removals(desired: tuple[NativeTable, ...], live: LiveHooks) -> Iterator[Change]:
    for action, table, chain in removals(desired, live):
        messages = TableMessages(nf.NFPROTO_INET, table)
        if chain:
            yield messages.delete_chain(chain)
        else:
            yield messages.flush_table() if action == "flush" else messages.delete_table()


def _our_tables(netfilter: NetlinkSocket) -> list[FoundTable]:
    return [table for table in read_tables(netfilter, nf.NFPROTO_INET) if table.flavour == "nftables"]


def _read_table(netfilter: NetlinkSocket, table: FoundTable) -> NativeTable:
    from capture.backends.nf_tables.decode import decode_table  # not needed where all is as it should be

    rules = read_rules(netfilter, table.family, table.name)
    return decode_table(table, rules, set_finder(netfilter, table.family, table.name))


def set_finder(netfilter: NetlinkSocket, family: int, table: str) -> Callable[[str], sets.NativeSet]:
    """Return what reads the sets of a table, each once."""
    known: dict[str, sets.NativeSet] = {}

    def find(name: str) -> sets.NativeSet:
        if name not in known:
            known[name] = sets.decode_set(*read_set(netfilter, family, table, name))
        return known[name]

    return find


def read_live(netfilter: NetlinkSocket) -> LiveHooks:
    """Return our live tables, with the hooks of their chains; None for one that must go as a whole."""
    live: dict[str, dict[str, Hook | None] | None] = {}
    for table in _our_tables(netfilter):
        rest = table.uses - len(table.chains)
        must_go = table.is_dormant or (rest and rest != _count_anonymous_sets(netfilter, table.name))
        live[table.name] = None if must_go else {chain.name: chain.hook for chain in table.chains}
    return live


def _count_anonymous_sets(netfilter: NetlinkSocket, table: str) -> int:
    """Return how many sets of a table belong to single rules, as those of our long lists do."""
    of_table = attribute(nf.NFTA_SET_TABLE, c_string(table))
    task = f"list the sets of table inet {table}"
    listed = read_objects(netfilter, nf.NFT_MSG_GETSET, nf.NFPROTO_INET, of_table, task)
    flags = (decode_number(decode_fields(each).get(nf.NFTA_SET_FLAGS, b"")) for _, each in listed)
    return sum(1 for each in flags if each & nf.NFT_SET_ANONYMOUS)


def _have_exactly(netfilter: NetlinkSocket, desired: tuple[NativeTable, ...], rules: Sequence[Change]) -> bool:
    """Return whether our live tables are the desired ones, to the byte; False does not mean that they differ."""
    listed = rules or [rule for table in desired for rule in encode.listed_rules(table)]
    messages = [*encode.add_tables(desired), *listed]
    try:
        return has_exactly(netfilter, "nftables", messages) and all(
            _is_same_set(netfilter, table.name, name, condition)
            for table in desired
            for name, condition in encode.sets_of(table)
        )
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
        return False  # a set went before it was read


def _is_same_set(netfilter: NetlinkSocket, table: str, name: str, desired: Among) -> bool:
    """Return whether a set is of the desired kind and holds the desired elements and no others.

    The elements of a set of intervals come in descending order (nft_rbtree_walk in net/netfilter/nft_set_rbtree.c),
    those of another in no order that we know.
    """
    description, messages = read_set(netfilter, nf.NFPROTO_INET, table, name)
    flags, size = (decode_number(description.get(kind, b"")) for kind in (nf.NFTA_SET_FLAGS, nf.NFTA_SET_KEY_LEN))
    if (flags, size) != (sets.set_flags(desired), FIELD_SIZES[desired.field]):
        return False
    live_elements = b"".join([decode_fields(message).get(nf.NFTA_SET_ELEM_LIST_ELEMENTS, b"") for message in messages])
    elements = sets.set_elements(desired)
    if flags & nf.NFT_SET_INTERVAL:
        return live_elements == b"".join(reversed(elements))
    length = len(elements[0])
    return sorted(live_elements[start : start + length] for start in range(0, len(live_elements), length)) == elements
