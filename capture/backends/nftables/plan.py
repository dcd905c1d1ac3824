"""What to change so that what is live becomes what is desired. Pure, and the same for every language.

All of it is one transaction, and packets see either all of it or none. Base chains that stay are kept and
only their rules are exchanged: the kernel decides once per base chain which generation of rules a packet sees, so
deleting and adding such a chain would let a packet pass between the empty new and the emptied old one.
A table that has more than chains and rules, or that sleeps, is none that we have written; it goes as a whole.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Protocol, TypeVar

    from capture.backends.nf_tables.hooks import Hook
    from capture.backends.nftables.native import NativeChain, NativeTable

    T_co = TypeVar("T_co", covariant=True)

    LiveTables = Mapping[str, Mapping[str, Hook | None] | None]
    """The hooks of the live chains, by table and chain; None for a table that must go as a whole."""

    class Language(Protocol[T_co]):
        """How changes are expressed: as netlink messages (``encode``) or as commands of libnftables."""

        def add_table(self, table: str, /) -> T_co: ...
        def delete_table(self, table: str, /) -> T_co: ...
        def flush_table(self, table: str, /) -> T_co: ...
        def add_chain(self, table: str, chain: NativeChain, /) -> T_co: ...
        def delete_chain(self, table: str, chain: str, /) -> T_co: ...
        def add_rules(self, tables: Iterable[NativeTable], /) -> Iterator[T_co]: ...

    T = TypeVar("T")


def replace(desired: Sequence[NativeTable], live: LiveTables, language: Language[T]) -> Iterator[T]:
    """Yield the changes that make the desired tables of what is live, and delete the other live ones."""
    for table in desired:
        chains = live.get(table.name)
        if chains is None and table.name in live:
            yield language.delete_table(table.name)
        yield language.add_table(table.name)
        if chains is not None:
            yield language.flush_table(table.name)
            hooks = {chain.name: chain.hook for chain in table.chains}
            for name, hook in chains.items():
                if name not in hooks or hooks[name] != hook:
                    yield language.delete_chain(table.name, name)
        for chain in table.chains:
            yield language.add_chain(table.name, chain)
    yield from language.add_rules(desired)
    yield from remove(live.keys() - {table.name for table in desired}, language)


def remove(tables: Iterable[str], language: Language[T]) -> Iterator[T]:
    """Yield the changes that delete tables, in an order that does not vary."""
    for table in sorted(tables):
        yield language.delete_table(table)
