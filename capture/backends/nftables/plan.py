"""The changes that make the desired tables of the live ones. Pure, and the same for every language.

All of it is one transaction, and packets see either all of it or none. Base chains that stay are kept and
only their rules are exchanged: the kernel decides once per base chain which generation of rules a packet sees, so
deleting and adding such a chain would let a packet pass between the empty new and the emptied old one.
A table that has more than chains and rules, or that sleeps, is none that we have written; it goes as a whole.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Protocol, TypeVar

    from capture.backends.nf_tables.hooks import Hook
    from capture.backends.nf_tables.native import NativeTable

    T_co = TypeVar("T_co", covariant=True)

    LiveHooks = Mapping[str, Mapping[str, Hook | None] | None]
    """The hooks of the live chains, by table and chain; None for a table that must go as a whole."""

    class TableLanguage(Protocol[T_co]):
        """How changes of a table are expressed: as netlink messages, or as commands of libnftables."""

        def add_table(self) -> T_co: ...
        def delete_table(self) -> T_co: ...
        def flush_table(self) -> T_co: ...
        def add_chain(self, chain: str, hook: Hook | None, policy: str | None) -> T_co: ...
        def delete_chain(self, chain: str) -> T_co: ...

    T = TypeVar("T")
    Language = Callable[[str], TableLanguage[T]]


def table_changes(desired: Iterable[NativeTable], live: LiveHooks, language: Language[T]) -> Iterator[T]:
    """Yield the changes that make of what is live the desired tables, still without rules, and no others."""
    unchanged = set()
    for table in desired:
        unchanged.add(table.name)
        changed, chains = language(table.name), live.get(table.name)
        if chains is None and table.name in live:
            yield changed.delete_table()
        yield changed.add_table()
        if chains is not None:
            yield changed.flush_table()
            hooks = {chain.name: chain.hook for chain in table.chains}
            for name, hook in chains.items():
                if name not in hooks or hooks[name] != hook:
                    yield changed.delete_chain(name)
        for chain in table.chains:
            yield changed.add_chain(chain.name, chain.hook, chain.policy)
    for name in sorted(live.keys() - unchanged):
        yield language(name).delete_table()
