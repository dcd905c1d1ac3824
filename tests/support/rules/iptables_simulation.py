"""Tables as a kernel keeps them: what the edits of a plan do, strictly, without a kernel."""

from collections.abc import Iterable

from capture.backends.iptables.expansion import expanded
from capture.backends.iptables.families import merge_families
from capture.backends.iptables.plan import TableEdit
from capture.model.addresses import FAMILIES, Family
from capture.model.ruleset import BUILT_IN_CHAINS, TABLES, Chain, Jump, Rule, Ruleset, Table, TableName

Chains = dict[str, list[Rule]]


class Tables:
    """The tables of both families in one namespace."""

    def __init__(self, *rulesets: Ruleset) -> None:
        self._tables: dict[tuple[Family, TableName], Chains] = {}
        for ruleset in rulesets:
            for family in ruleset.families:
                for table in ruleset.tables:
                    chains = self._table(family, table.name)
                    for chain in table.chains:
                        chains.setdefault(chain.name, []).extend(_plain(expanded(chain.rules, family)))

    def _table(self, family: Family, table: TableName) -> Chains:
        return self._tables.setdefault((family, table), {chain: [] for chain in BUILT_IN_CHAINS[table]})

    def execute(self, edits: Iterable[TableEdit]) -> None:
        """Do what a plan has, and refuse what a kernel would refuse."""
        for edit in edits:
            assert edit != TableEdit(edit.family, edit.table), "an edit that changes nothing is no edit"
            chains = self._table(edit.family, edit.table)
            _change(chains, edit)
            targets = {
                rule.verdict.chain for rules in chains.values() for rule in rules if isinstance(rule.verdict, Jump)
            }
            assert targets <= chains.keys(), "a jump leads nowhere"

    def read(self) -> Ruleset:
        """Return all that is live, as a driver reads it."""
        return merge_families([self._read(family) for family in FAMILIES])

    def _read(self, family: Family) -> Ruleset:
        tables = []
        for name in TABLES:
            if (family, name) in self._tables:
                chains = self._tables[family, name].items()
                built_in = BUILT_IN_CHAINS[name]
                in_model = (Chain(c, tuple(rules), "ACCEPT" if c in built_in else None) for c, rules in chains)
                tables.append(Table(name, tuple(in_model)))
        return Ruleset((family,), tuple(tables))


def _plain(rules: Iterable[Rule]) -> list[Rule]:
    return [rule.replace(why="") for rule in rules]


def _change(chains: Chains, edit: TableEdit) -> None:
    chains.update({chain: [] for chain in (*edit.rewritten_chains, *edit.dropped_chains)})
    for chain, rules in edit.rewritten_chains.items():
        chains[chain] = _plain(rules)
    for chain, position in edit.removals:
        chains[chain].pop(position)
    for chain, place, rule in edit.insertions:
        assert place is None or place < len(chains[chain])
        chains[chain].insert(len(chains[chain]) if place is None else place, rule.replace(why=""))
    for chain in edit.dropped_chains:
        assert not any(rule.verdict == Jump(chain) for rules in chains.values() for rule in rules)
        del chains[chain]
