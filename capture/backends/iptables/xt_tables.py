"""The tables of iptables-nft as the kernel has them, and as the rule set that they are. Pure.

Two views of one thing: rules by their meaning, and the handles by which the kernel knows them.
"""

from __future__ import annotations

from capture.backends.iptables.families import merged, of_one_family
from capture.backends.nf_tables.hooks import HOOKS
from capture.model.ruleset import BUILT_IN_CHAINS, Chain, Counters
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from capture.backends.iptables.xt_decode import FoundChain, FoundRule
    from capture.model.addresses import Family
    from capture.model.ruleset import Ruleset, TableName

NOT_COUNTED = Counters(0, 0)


class LiveTable(Value):
    """A live table: how many chains, sets and other things are in it, and its chains by the model's names."""

    uses: int
    chains: Mapping[str, FoundChain]


if TYPE_CHECKING:
    LiveTables = Mapping[tuple[Family, TableName], LiveTable]


def live_table(table: TableName, uses: int, chains: Iterable[FoundChain], rules: Iterable[FoundRule]) -> LiveTable:
    """Return a table from what was found of it, in the kernel's order."""
    by_chain: dict[str, list[FoundRule]] = {}
    for rule in rules:
        by_chain.setdefault(rule.chain, []).append(rule)
    live = (chain.replace(rules=tuple(by_chain.get(chain.name, ()))) for chain in chains)
    return LiveTable(uses, {model_name(table, chain): chain for chain in live})


def model_name(table: TableName, chain: FoundChain) -> str:
    """Return the name of a chain, with a remark if it looks like a built-in chain and is none.

    The kernel enters ``PREROUTING(nat prerouting -5)`` elsewhere, and ``PREROUTING(not hooked)`` not at all.
    """
    if chain.name not in BUILT_IN_CHAINS[table] or chain.hook == HOOKS[table, chain.name]:
        return chain.name
    return f"{chain.name}({chain.hook or 'not hooked'})"


def ruleset_of(families: Sequence[Family], live: LiveTables) -> Ruleset:
    """Return the rule set of all families."""
    of_each = (
        of_one_family(family, {name: _chains(name, table) for (of, name), table in live.items() if of == family})
        for family in families
    )
    return merged(list(of_each))


def _chains(name: TableName, table: LiveTable) -> Iterator[Chain]:
    """Yield the chains of a table as iptables lists them: built-in ones even if they are not there, others by name."""
    built_in = BUILT_IN_CHAINS[name]
    for chain in (*built_in, *sorted(table.chains.keys() - set(built_in))):
        live = table.chains.get(chain)
        if live is None:
            yield Chain(chain, (), "ACCEPT", NOT_COUNTED)
        else:
            yield Chain(chain, tuple(rule.rule for rule in live.rules), live.policy, live.counters)
