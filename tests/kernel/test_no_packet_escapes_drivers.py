"""The rules that each driver reads back capture exactly the packets that the written ones do."""

import pytest
from hypothesis import HealthCheck, given, settings

from capture.analysis.base_chains import Situation
from capture.analysis.effects import Comparison
from capture.analysis.judgement import family_ruleset
from capture.backends import load_driver
from capture.backends.detect import BackendChoice
from capture.model.addresses import FAMILIES
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from pytest_netns import Namespace, NamespaceFactory
from support.captures.documented import DOCUMENTED
from support.generators.agreement import configs

DRIVERS = {
    "nftables-netlink": BackendChoice("nftables", "netlink", ""),
    "nftables-libnftables": BackendChoice("nftables", "libnftables", ""),
    "iptables-netlink": BackendChoice("iptables", "netlink", "nft"),
    "iptables-nft": BackendChoice("iptables", "restore", "nft"),
    "iptables-legacy": BackendChoice("iptables", "restore", "legacy"),
    "iptables-iptc": BackendChoice("iptables", "iptc", "legacy"),
}
SHARE = 6
"""Each driver is tried with one in so many settings, another one each time; all of them where there is time."""


def escapes(namespace: Namespace, choice: BackendChoice, several: list[CaptureConfig]) -> list[str]:
    """Return the packets that the rules read back treat in another way."""
    found = []
    with namespace.entered():
        driver = load_driver(choice)
        live = driver.read()
        for config in several:
            desired = build_ruleset(config)
            driver.write(desired, live, None)
            live = driver.read()
            for family in FAMILIES:
                rules = (
                    family_ruleset(each, family).replace(policy_routes=desired.policy_routes)
                    for each in (desired, live)
                )
                pair = map(Situation, rules)
                found += [effect.regions[0] for effect in Comparison(family, *pair).effects()]
    return found


@pytest.mark.parametrize("name", DRIVERS)
def test_no_packet_escapes_what_a_driver_reads_back(netns: NamespaceFactory, name: str) -> None:
    offset = list(DRIVERS).index(name)
    assert escapes(netns(), DRIVERS[name], list(DOCUMENTED.values())[offset % SHARE :: SHARE]) == []


@pytest.fixture(scope="module")
def namespaces(module_netns: NamespaceFactory) -> dict[str, Namespace]:
    return {name: module_netns() for name in DRIVERS}


RANDOM = {name: 2 if name == "iptables-iptc" else 6 for name in DRIVERS}
"""How many random settings each driver is tried with; python-iptables takes a second for each."""


@pytest.mark.parametrize("name", DRIVERS)
def test_no_packet_escapes_by_random_settings(namespaces: dict[str, Namespace], name: str) -> None:
    expect_no_escape(namespaces[name], name, RANDOM[name])


@pytest.mark.long
@pytest.mark.parametrize("name", DRIVERS)
def test_no_packet_escapes_by_many_random_settings(namespaces: dict[str, Namespace], name: str) -> None:
    expect_no_escape(namespaces[name], name, 84)


def expect_no_escape(namespace: Namespace, name: str, examples: int) -> None:
    """Check that no packet escapes a driver's rules, with as many random settings."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(configs())
    def check(config: CaptureConfig) -> None:
        assert escapes(namespace, DRIVERS[name], [config]) == []

    check()


@pytest.mark.long
@pytest.mark.parametrize("name", DRIVERS)
def test_no_packet_escapes_by_any_documented_setting(netns: NamespaceFactory, name: str) -> None:
    assert escapes(netns(), DRIVERS[name], list(DOCUMENTED.values())) == []
