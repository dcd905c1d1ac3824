"""Reasons for rules that were read from a kernel, which keeps none without --rule-comments."""

from __future__ import annotations

from capture.analysis.canonical import canonical_rule
from capture.model.ruleset import FAMILIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model.ruleset import Chain, Rule, Ruleset, TableName


def with_reasons(live: Ruleset, known: Ruleset) -> Ruleset:
    """Return the live rules, each with the reason of the same rule in a rule set that we built."""
    reasons: dict[tuple[TableName, str, Rule], str] = {}
    for table in known.tables:
        for chain in table.chains:
            for family in FAMILIES:
                for rule in chain.rules_for(family):
                    reasons.setdefault((table.name, chain.name, canonical_rule(rule)), rule.why)

    def told(table: TableName, chain: Chain) -> Chain:
        known = [rule.why or reasons.get((table, chain.name, canonical_rule(rule)), "") for rule in chain.rules]
        return chain.replace(rules=tuple(rule.replace(why=why) for rule, why in zip(chain.rules, known, strict=True)))

    return live.with_chains(told)
