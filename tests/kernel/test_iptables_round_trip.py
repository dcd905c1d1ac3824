"""Any rule set that capture could write, by each driver of iptables: read back as it was meant, listed as rendered."""

import re

import pytest
from hypothesis import given, settings

from capture.analysis.canonical import canonical
from capture.analysis.compare import differences
from capture.analysis.ownership import without_foreign_rules
from capture.backends.iptables.render import save_text
from capture.model.addresses import FAMILIES, Network
from capture.model.ruleset import Destination, OwnerGid, OwnerUid, Rule, Ruleset, Source
from pytest_netns import NamespaceFactory
from support.generators.rules import rulesets
from support.rules.iptables_drivers import DRIVERS, DriverCase

pytestmark = pytest.mark.kernel

EXAMPLES = {"netlink": 20, "restore-nft": 12, "restore-legacy": 15, "iptc": 4}


def rules_in(lines: list[str]) -> list[str]:
    """Return the rules of a listing; programs list tables in any order, and join what we write twice."""
    joined = (re.sub(r"-m (tcp|udp) (! --sport \S+) -m \1 (! --dport)", r"-m \1 \2 \3", line) for line in lines)
    return sorted(line for line in joined if line.startswith("-A "))


def as_people_write(ruleset: Ruleset) -> Ruleset:
    """Return the rule set without rules of more than the 4 kB that nf_tables takes (struct nft_rule, dlen)."""
    tables = []
    for table in ruleset.tables:
        chains = (chain.replace(rules=tuple(filter(is_usual, chain.rules))) for chain in table.chains)
        tables.append(table.replace(chains=tuple(chains)))
    return ruleset.replace(tables=tuple(tables))


def is_usual(rule: Rule) -> bool:
    """Return whether a rule excludes few entries: each network and id takes a match of its own.

    To exclude every network, which has no use, drivers have different words.
    """
    lists = [match for match in rule.matches if isinstance(match, Source | Destination | OwnerUid | OwnerGid)]
    excluded = [entry for match in lists if match.negated for entry in getattr(match, match.__match_args__[0])]
    return len(excluded) <= 8 and not any(isinstance(entry, Network) and entry.is_everything for entry in excluded)


@pytest.mark.parametrize("case", DRIVERS, ids=lambda case: case.name)
def test_written_rules_are_read_back(netns: NamespaceFactory, case: DriverCase) -> None:
    @settings(max_examples=EXAMPLES[case.name])
    @given(rulesets().map(as_people_write), rulesets().map(as_people_write))
    def check(first: Ruleset, second: Ruleset) -> None:
        with netns() as namespace, namespace.entered():
            driver = case.driver()
            for desired, recorded in ((first, None), (second, first)):
                driver.write(desired, driver.read(), recorded)
                live = driver.read()

                assert not differences(desired, live)
                own_chains = (chain for table in without_foreign_rules(desired).tables for chain in table.chains)
                written = (
                    rule for chain in own_chains for family in desired.families for rule in chain.rules_for(family)
                )
                has_reasons = any(rule.why for rule in written)
                assert live.comments == (desired.comments and has_reasons)
                for family in FAMILIES:
                    assert canonical(live, family) == canonical(desired, family)
                    rendered = save_text(live, family, comments=True).splitlines()
                    assert rules_in(case.saved(namespace, family)) == rules_in(rendered)

    check()
