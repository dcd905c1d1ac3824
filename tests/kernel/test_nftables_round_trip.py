"""Random rule sets in a real kernel: what we write is what we read, and what nft makes of the same rules."""

import pytest
from hypothesis import HealthCheck, given, settings

from capture.analysis.canonical import canonical
from capture.backends.nftables.libnftables import LibnftablesDriver
from capture.backends.nftables.lower import lower, render_text
from capture.backends.nftables.netlink import NftablesNetlinkDriver
from capture.model.addresses import FAMILIES
from capture.model.ruleset import Ruleset
from pytest_netns import Namespace, NamespaceFactory
from support.generators.rules import rulesets
from support.rules.libnftables_listing import Listing

Driver = NftablesNetlinkDriver | LibnftablesDriver

NOTHING = Ruleset(FAMILIES, ())

# A namespace for a whole module: each example replaces the rules of the one before, which is a law of its own.
in_one_namespace = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def written(module_netns: NamespaceFactory) -> Namespace:
    return module_netns("written")


@pytest.fixture(scope="module")
def loaded(module_netns: NamespaceFactory) -> Namespace:
    return module_netns("loaded")


@pytest.fixture(params=[NftablesNetlinkDriver, LibnftablesDriver], ids=lambda kind: kind.name)
def driver(request: pytest.FixtureRequest) -> Driver:
    made: Driver = request.param()
    return made


def listing(namespace: Namespace) -> str:
    return namespace.run(["nft", "list", "ruleset"]).stdout


@in_one_namespace
@given(ruleset=rulesets(), other=rulesets())
def test_every_reader_reads_written_rules_and_knows_them_again_to_the_byte(
    written: Namespace, driver: Driver, ruleset: Ruleset, other: Ruleset
) -> None:
    written.call(driver.write, ruleset, NOTHING, None)

    if driver.name == NftablesNetlinkDriver.name:
        assert written.call(driver.has_exactly, ruleset)
        assert lower(other) == lower(ruleset) or not written.call(driver.has_exactly, other)
    for reader in (NftablesNetlinkDriver(), Listing()):
        live = written.call(reader.read)
        for family in FAMILIES:
            assert canonical(live, family) == canonical(ruleset, family), (reader.name, family)


@in_one_namespace
@given(ruleset=rulesets())
def test_nft_lists_what_it_would_have_made(
    written: Namespace, loaded: Namespace, driver: Driver, ruleset: Ruleset
) -> None:
    written.call(driver.clean, NOTHING, None)  # what stays keeps its place in the listing
    written.call(driver.write, ruleset, NOTHING, None)
    loaded.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{render_text(ruleset)}")

    assert listing(written) == listing(loaded)
    assert written.call(NftablesNetlinkDriver().read) == loaded.call(NftablesNetlinkDriver().read)
