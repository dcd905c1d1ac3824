"""One rule set of what iptables keeps by family: a table and its chains for IPv4, others for IPv6. Pure."""

from __future__ import annotations

from capture.analysis.ownership import jumps_to_own_chain
from capture.model.addresses import FAMILIES, Family
from capture.model.chain_names import is_own_chain
from capture.model.ruleset import TABLES, Chain, Ruleset, Table, TableName, in_listing_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def single_family_ruleset(family: Family, chains: Mapping[TableName, Iterable[Chain]]) -> Ruleset:
    """Return the rule set of one family from the chains of its tables, in any order.

    ``Ruleset.has_comments`` is whether our rules have any.
    """
    tables = tuple(Table(name, in_listing_order(name, chains[name])) for name in TABLES if name in chains)
    has_comments = any(
        rule.why and (is_own_chain(chain.name) or jumps_to_own_chain(rule))
        for table in tables
        for chain in table.chains
        for rule in chain.rules
    )
    return Ruleset((family,), tables, has_comments=has_comments)


def merge_families(rulesets: Sequence[Ruleset]) -> Ruleset:
    """Return one rule set of several families, each of which is there once; each rule keeps its family."""
    by_family = {family: ruleset for ruleset in rulesets for family in ruleset.families}
    if len(by_family) < 2:
        return rulesets[0]
    tables = []
    for name in TABLES:
        of_families = [table for family in FAMILIES if (table := by_family[family].table(name))]
        if of_families:
            names = dict.fromkeys(chain.name for table in of_families for chain in table.chains)
            chains = [
                _merged_chain(chain, *(by_family[family].chain(name, chain) for family in FAMILIES)) for chain in names
            ]
            tables.append(Table(name, in_listing_order(name, chains)))
    return Ruleset(tuple(by_family), tuple(tables), has_comments=any(ruleset.has_comments for ruleset in rulesets))


def _merged_chain(name: str, ipv4: Chain | None, ipv6: Chain | None) -> Chain:
    """Return one chain for both families; a built-in chain that one of them lacks accepts everything there."""
    known = [chain for chain in (ipv4, ipv6) if chain]
    absent = Chain(name, policy="ACCEPT" if any(chain.policy for chain in known) else None, state=known[0].state)
    of4, of6 = ipv4 or absent, ipv6 or absent
    return of4.replace(rules=of4.rules + of6.rules, ipv6_policy=of6.policy, ipv6_counters=of6.counters)
