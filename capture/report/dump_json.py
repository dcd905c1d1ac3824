"""From what ``capture dump --format json`` printed back to rules: its inverse, but for counters."""

from __future__ import annotations

from capture.backends.iptables.parse import parse_save
from capture.model.ruleset import Ruleset, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from capture.model.addresses import Family
    from capture.model.ruleset import Chain, TableName


def ruleset_of_dump(plain: dict[str, Any]) -> Ruleset:
    """Return the rule set of a dump. Raises KeyError, TypeError or ValueError for what is none."""
    found: dict[TableName, list[Chain]] = {}
    families: list[Family] = []
    for part in plain["tables"]:
        family = part["family"]
        families += [family] if family not in families else []
        lines = [f"*{part['table']}"]
        lines += [f":{chain['chain']} {chain.get('policy', '-')} [0:0]" for chain in part["chains"]]
        for chain in part["chains"]:
            texts = [text for rule in chain["rules"] for text in (rule["rule"].partition(" (and ")[0], *rule["more"])]
            lines += [f"-A {chain['chain']} {text}" for text in texts]
        parsed = parse_save("\n".join([*lines, "COMMIT", ""]), family)
        for table in parsed.tables:
            chains = found.setdefault(table.name, [])
            for chain_read in table.chains:
                _add_chain(chains, chain_read, family)
    return Ruleset(tuple(families), tuple(Table(name, tuple(chains)) for name, chains in found.items()))


def _add_chain(chains: list[Chain], read: Chain, family: Family) -> None:
    """Add a chain of one family to those of both."""
    rules = tuple(rule.replace(family=family) for rule in read.rules)
    for place, known in enumerate(chains):
        if known.name == read.name:
            chains[place] = known.replace(rules=known.rules + rules)
            return
    chains.append(read.replace(rules=rules))
