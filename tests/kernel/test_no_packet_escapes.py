"""What each driver reads back captures exactly the packets that the written rules do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from capture.analysis.effects import Comparison
from capture.analysis.judgement import of_family
from capture.analysis.stations import Situation
from capture.backends import load
from capture.backends.detect import Decision
from capture.model.addresses import FAMILIES
from capture.model.ruleset import Ruleset
from capture.rules import build_ruleset
from documented_settings import DOCUMENTED
from pytest_netns import NamespaceFactory

if TYPE_CHECKING:
    from capture.settings.config import CaptureConfig

pytestmark = pytest.mark.kernel

DRIVERS = {
    "nftables-netlink": Decision("nftables", "netlink", ""),
    "nftables-libnftables": Decision("nftables", "libnftables", ""),
    "iptables-netlink": Decision("iptables", "netlink", "nft"),
    "iptables-nft": Decision("iptables", "restore", "nft"),
    "iptables-legacy": Decision("iptables", "restore", "legacy"),
    "iptables-iptc": Decision("iptables", "iptc", "legacy"),
}
SHARE = 6
"""Each driver is tried with one in so many settings, another one each time; all of them where there is time."""


def escapes(netns: NamespaceFactory, decision: Decision, configs: list[CaptureConfig]) -> list[str]:
    """Return what packets fare otherwise by what is read back."""
    namespace = netns()
    found = []
    with namespace.entered():
        driver = load(decision)
        live = Ruleset(FAMILIES, ())
        for config in configs:
            desired = build_ruleset(config)
            driver.write(desired, live, None)
            live = driver.read()
            for family in FAMILIES:
                pair = [Situation(of_family(each, family, desired)) for each in (desired, live)]
                found += [effect.regions[0] for effect in Comparison(family, *pair).effects()]
    return found


@pytest.mark.parametrize("name", DRIVERS)
def test_no_packet_escapes_what_a_driver_reads_back(netns: NamespaceFactory, name: str) -> None:
    offset = list(DRIVERS).index(name)
    assert escapes(netns, DRIVERS[name], list(DOCUMENTED.values())[offset % SHARE :: SHARE]) == []


@pytest.mark.long
@pytest.mark.parametrize("name", DRIVERS)
def test_of_any_setting(netns: NamespaceFactory, name: str) -> None:
    assert escapes(netns, DRIVERS[name], list(DOCUMENTED.values())) == []
