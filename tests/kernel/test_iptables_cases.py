"""Each match and verdict, written by each driver, as the kernel's own listing shows it."""

import pytest

from capture.analysis.canonical import canonical
from capture.backends.iptables.iptc_driver import IptcDriver
from capture.backends.iptables.restore import RestoreDriver
from capture.model.addresses import FAMILIES, IPV4, Family
from capture.model.ruleset import (
    NAT,
    TABLES,
    Chain,
    Destination,
    DestinationPort,
    Match,
    Return,
    Rule,
    Ruleset,
    Source,
    SourcePort,
    Table,
    only,
)
from pytest_netns import NamespaceFactory
from support.rules.iptables_cases import OWN, TCP, TO_CHAIN, Case, networks
from support.rules.iptables_drivers import DRIVERS, DriverCase

CHAIN = "ISTIO_OUTPUT"


def cases_of(table: str, family: Family) -> list[Case]:
    return [case for case in OWN if case.table == table and case.rule.family == family]


def ruleset_of_all_cases() -> Ruleset:
    tables = tuple(
        Table(
            table,
            (Chain(CHAIN, tuple(case.rule for case in OWN if case.table == table)), Chain(TO_CHAIN, (Rule(Return()),))),
        )
        for table in TABLES
    )
    return Ruleset(FAMILIES, tables, has_comments=True)


@pytest.mark.parametrize("case", DRIVERS, ids=lambda case: case.name)
def test_written_rules_are_listed_and_read(netns: NamespaceFactory, case: DriverCase) -> None:
    namespace, driver, desired = netns(), case.driver(), ruleset_of_all_cases()

    with namespace.entered():
        driver.write(desired, driver.read(), None)
        live = driver.read()

    assert live.has_comments
    for family in FAMILIES:
        lines = case.saved(namespace, family)
        for table in TABLES:
            of_table = lines[lines.index(f"*{table}") :]
            of_table = of_table[: of_table.index("COMMIT")]
            listed = [line.removeprefix(f"-A {CHAIN}").strip() for line in of_table if line.startswith(f"-A {CHAIN}")]
            assert listed == [case.text for case in cases_of(table, family)]
        assert canonical(live, family) == canonical(desired, family)


@pytest.mark.parametrize("case", DRIVERS, ids=lambda case: case.name)
@pytest.mark.parametrize(
    "matches",
    [
        (Source(networks("0.0.0.0/0"), negated=True),),
        (Destination(networks("0.0.0.0/0", "10.0.0.0/8"), negated=True),),
        (TCP, SourcePort((only(1),), negated=True), DestinationPort((only(2),), negated=True)),
    ],
    ids=["no source", "no destination", "two ports"],
)
def test_rules_that_iptables_prints_wrongly_are_printed_right(
    netns: NamespaceFactory, case: DriverCase, matches: tuple[Match, ...]
) -> None:
    chain = Chain(CHAIN, (Rule(Return(), matches, IPV4),))
    desired, driver = Ruleset((IPV4,), (Table(NAT, (chain,)),)), case.driver()
    with netns().entered():
        driver.write(desired, driver.read(), None)

        assert canonical(driver.read(), IPV4) == canonical(desired, IPV4)


def test_python_iptables_makes_the_same_state_as_iptables_restore(netns: NamespaceFactory) -> None:
    states = []
    for case in (case for case in DRIVERS if case.variant == "legacy"):
        namespace, driver = netns(case.name), case.driver()
        with namespace.entered():
            driver.write(ruleset_of_all_cases(), driver.read(), None)
        states.append(case.saved_in_both(namespace))

    assert states[0] == states[1]


def test_python_iptables_reads_the_same_as_iptables_save(netns: NamespaceFactory) -> None:
    with netns().entered():
        writer = RestoreDriver("legacy")
        writer.write(ruleset_of_all_cases(), writer.read(), None)

        assert IptcDriver().read() == writer.read()
