"""What goes from the live tables before the desired ones are written. Pure, and the same for both drivers.

All of it is one transaction, and packets see either all of it or none. Base chains that stay are kept and
only their rules are exchanged: the kernel decides once per base chain which generation of rules a packet sees, so
deleting and adding such a chain would let a packet pass between the empty new and the emptied old one.
A table that has more than chains and rules, or that sleeps, is none that we have written; it goes as a whole.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from capture.backends.nf_tables.hooks import Hook
    from capture.backends.nf_tables.native import NativeTable

    LiveHooks = Mapping[str, Mapping[str, Hook | None] | None]
    """The hooks of the live chains, by table and chain; None for a table that must go as a whole."""


def removals(desired: Iterable[NativeTable], live: LiveHooks) -> Iterator[tuple[str, str, str]]:
    """Yield "delete" or "flush", a table, and the chain of it that is meant, or ""."""
    hooks_of = {table.name: {chain.name: chain.hook for chain in table.chains} for table in desired}
    for table, chains in live.items():
        if chains is None or table not in hooks_of:
            yield "delete", table, ""
            continue
        yield "flush", table, ""
        hooks = hooks_of[table]
        yield from (("delete", table, name) for name, hook in chains.items() if hooks.get(name, NO_HOOK) != hook)


NO_HOOK = object()
"""That of a chain which is not desired; one without a hook has None."""
