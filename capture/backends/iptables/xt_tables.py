"""The tables of iptables-nft as they stand in the kernel, and as the rule set that they are. Pure.

Two views of one thing: rules by their meaning, and the handles by which the kernel knows them.
"""

from __future__ import annotations

from capture.backends.nftables.names import HOOKS
from capture.model import BUILT_IN_CHAINS, TABLES, Chain, Counters, Ruleset, Table
from capture.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from capture.addresses import Family
    from capture.backends.iptables.xt_decode import FoundChain, FoundRule
    from capture.model import TableName

NOT_COUNTED = Counters(0, 0)


class StandingChain(Value):
    """A chain that stands, with its rules in order."""

    found: FoundChain
    rules: tuple[FoundRule, ...] = ()


class StandingTable(Value):
    """A table that stands: how many chains, sets and other things are in it, and its chains by the model's names."""

    uses: int
    chains: Mapping[str, StandingChain]


if TYPE_CHECKING:
    Standing = Mapping[tuple[Family, TableName], StandingTable]


def standing_table(
    table: TableName, uses: int, chains: Iterable[FoundChain], rules: Iterable[FoundRule]
) -> StandingTable:
    """Return a table from what was found of it, in the kernel's order."""
    by_chain: dict[str, list[FoundRule]] = {}
    for rule in rules:
        by_chain.setdefault(rule.chain, []).append(rule)
    return StandingTable(
        uses,
        {model_name(table, chain): StandingChain(chain, tuple(by_chain.get(chain.name, ()))) for chain in chains},
    )


def model_name(table: TableName, chain: FoundChain) -> str:
    """Return the name of a chain, which says so if it looks like a built-in chain and is none.

    The kernel enters ``PREROUTING(nat prerouting -5)`` elsewhere, and ``PREROUTING(not hooked)`` not at all.
    """
    if chain.name not in BUILT_IN_CHAINS[table] or chain.hook == HOOKS[table, chain.name]:
        return chain.name
    hook = chain.hook
    return f"{chain.name}({f'{hook.kind} {hook.place} {hook.priority}' if hook else 'not hooked'})"


def ruleset_of(families: Sequence[Family], standing: Standing) -> Ruleset:
    """Return the rule set of all families. A table has all of its built-in chains, as iptables lists them."""
    tables = []
    has_comments = False
    for name in TABLES:
        of_families = [standing[family, name] for family in families if (family, name) in standing]
        if of_families:
            chains = tuple(_chains(name, of_families))
            tables.append(Table(name, chains))
            has_comments = has_comments or any(rule.why for chain in chains for rule in chain.rules)
    return Ruleset(tuple(families), tuple(tables), comments=has_comments)


def _chains(table: TableName, of_families: Sequence[StandingTable]) -> Iterator[Chain]:
    """Yield built-in chains in their order, then the others by name, those of both families as one."""
    built_in = BUILT_IN_CHAINS[table]
    others = {name for standing in of_families for name in standing.chains if name not in built_in}
    for name in (*built_in, *sorted(others)):
        standing = [table.chains[name] for table in of_families if name in table.chains]
        rules = tuple(found.rule for chain in standing for found in chain.rules)
        policies = {chain.found.policy for chain in standing} - {None}
        policy = "DROP" if "DROP" in policies else "ACCEPT" if policies or name in built_in else None
        yield Chain(name, rules, policy, _counters(standing) if policy else None)


def _counters(chains: Iterable[StandingChain]) -> Counters:
    counted = [chain.found.counters for chain in chains if chain.found.counters]
    if not counted:
        return NOT_COUNTED
    return Counters(sum(counters.packets for counters in counted), sum(counters.bytes for counters in counted))
