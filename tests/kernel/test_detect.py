"""Detection in a real namespace: it sees what is live, decides the same each time, and makes nothing."""

import pytest

from capture import operations
from capture.backends.detect import detect, find_live_sets
from capture.backends.host_facts import gather_facts
from capture.backends.iptables.restore import RestoreDriver
from capture.backends.iptables.tables import legacy_tables
from capture.backends.nf_tables.names import REJECT_TABLE
from capture.backends.nftables.netlink import NftablesNetlinkDriver as NativeDriver
from capture.backends.request import BackendRequest
from capture.errors import CaptureError
from capture.model.addresses import FAMILIES, IPV4
from capture.model.ruleset import Ruleset
from capture.rules import build_ruleset
from capture.settings import options as option
from capture.settings.config import CaptureConfig
from pytest_netns import Namespace
from support.captures.settings import settings
from support.rules.iptables_drivers import DRIVERS, DriverCase

DESIRED = build_ruleset(CaptureConfig(captures_dns=True, captures_all_dns=True))
NOTHING = Ruleset(FAMILIES, ())
BY_VARIANT = {case.variant: case for case in DRIVERS}


def everything(namespace: Namespace) -> list[str]:
    """Return what a detection could have made."""
    return [namespace.run(["nft", "list", "ruleset"]).stdout, *(str(legacy_tables(family)) for family in FAMILIES)]


def test_detection_makes_nothing(here: Namespace) -> None:
    before = everything(here)

    for _ in range(3):
        gather_facts()
        find_live_sets()
        detect(BackendRequest())

    assert everything(here) == before == ["", "()", "()"]


@pytest.mark.parametrize("case", DRIVERS, ids=lambda case: case.name)
def test_five_times_the_same_answer_and_one_set_of_rules(here: Namespace, case: DriverCase) -> None:
    driver = case.driver()
    driver.write(DESIRED, driver.read(), None)
    before = everything(here)
    decisions = {detect(BackendRequest()).choice for _ in range(5)}

    (choice,) = decisions
    assert choice.variant == case.variant
    (found,) = find_live_sets()
    assert (found.choice.variant, set(found.families)) == (case.variant, set(FAMILIES))
    assert everything(here) == before


def test_a_legacy_table_that_was_only_listed_changes_no_answer(here: Namespace) -> None:
    before = detect(BackendRequest()).choice
    here.run(["iptables-legacy", "-t", "nat", "-S"])

    assert legacy_tables(IPV4) == ("nat",)
    assert detect(BackendRequest()).choice == before


def test_foreign_legacy_rules_do(here: Namespace) -> None:
    here.run(["iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "icmp", "-j", "ACCEPT"])

    assert detect(BackendRequest()).choice.variant == "legacy"
    here.run(["iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "icmp", "-j", "ACCEPT"])
    assert detect(BackendRequest()).choice.variant == "nft"


def test_sets_in_every_place_are_found(here: Namespace) -> None:
    for case in (BY_VARIANT["nft"], BY_VARIANT["legacy"]):
        driver = case.driver()
        driver.write(DESIRED, driver.read(), None)
    native = NativeDriver()
    native.write(DESIRED, native.read(), None)

    assert [found.choice.place for found in find_live_sets()] == [
        ("iptables", "nft"),
        ("iptables", "legacy"),
        ("nftables", ""),
    ]


def test_chains_of_upstream_in_either_spelling_are_found(here: Namespace) -> None:
    here.run(["iptables-nft", "-t", "nat", "-N", "ISTIO_REDIRECT"])
    here.run(["ip6tables-nft", "-t", "mangle", "-N", "ISTIO-DIVERT"])

    (found,) = find_live_sets()
    assert set(found.families) == set(FAMILIES)


UNUSABLE = {
    "the table is dormant": "flags dormant;",
    "another priority": "chain OUTPUT { type nat hook output priority -110; }",
    "another type": "chain PREROUTING { type filter hook prerouting priority -100; }",
    "no hook": "chain OUTPUT { }",
}


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE)
def test_tables_that_iptables_cannot_use_are_left_alone(here: Namespace, content: str) -> None:
    here.run(["nft", "-f", "-"], stdin=f"table ip nat {{\n{content}\n}}\n")
    before = here.run(["nft", "list", "table", "ip", "nat"]).stdout
    by_iptables = settings({option.BACKEND: "iptables"})

    with pytest.raises(CaptureError, match=r"`nft (add table|delete chain) ip nat"):
        operations.apply(by_iptables)
    assert operations.apply(settings({})).choice.backend == "nftables"
    assert operations.verify().holds
    assert here.run(["nft", "list", "table", "ip", "nat"]).stdout == before


@pytest.mark.parametrize("driver", ["netlink", "restore"])
def test_a_table_that_falls_asleep_is_drift_and_mended(here: Namespace, driver: str) -> None:
    by_iptables = settings({option.BACKEND: "iptables", option.DRIVER: driver})
    operations.apply(by_iptables)
    here.run(["nft", "add table ip nat { flags dormant; }"])

    assert not operations.verify().holds
    with pytest.raises(CaptureError, match="`nft add table ip nat`"):
        operations.apply(by_iptables)
    assert operations.apply(settings({})).changed
    assert operations.verify().holds
    assert operations.clean()
    assert everything(here)[0] == ""


def test_rules_leave_a_dormant_table_by_restore(here: Namespace) -> None:
    driver = RestoreDriver("nft")
    driver.write(DESIRED, driver.read(), None)
    here.run(["nft", "add table ip nat { flags dormant; }"])

    driver.clean(driver.read(), DESIRED)
    assert "ISTIO" not in here.run(["nft", "list", "ruleset"]).stdout


def test_a_rejecting_table_that_falls_asleep_is_drift_and_mended(here: Namespace) -> None:
    chosen = settings({option.IP_FAMILIES: "ipv4", option.OTHER_FAMILY: "reject"})
    operations.apply(chosen)
    here.run(["nft", f"add table inet {REJECT_TABLE} {{ flags dormant; }}"])

    assert operations.verify().uncaptured
    assert operations.apply(chosen).changed
    assert operations.verify().holds
