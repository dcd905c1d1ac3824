"""Settings change under load, again and again, and no new connection gets past the proxy."""

import random
from collections.abc import Iterator

import pytest

from capture import operations
from capture.backends import detect
from pytest_netns import NamespaceFactory
from support.captures.settings import APP_PORT, DRIVERS, VARIANTS, settings
from support.traffic.steady import UnderLoad, start_load

CHANGES = dict.fromkeys(DRIVERS, 20) | {"iptables-iptc": 5, "nftables-libnftables": 10}
"""How often the settings change; importing python-iptables takes half a second each time."""


@pytest.fixture
def under_load(netns: NamespaceFactory) -> UnderLoad:
    return UnderLoad(netns)


def changes(seed: str, length: int, drivers: list[str]) -> Iterator[tuple[str, str]]:
    """Yield variants and drivers at random, never the same variant twice in a row."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    variant = ""
    for _ in range(length):
        variant = chance.choice([each for each in VARIANTS if each != variant])
        yield variant, chance.choice(drivers)


@pytest.mark.parametrize("driver", DRIVERS)
def test_nothing_gets_past_while_settings_change(under_load: UnderLoad, driver: str) -> None:
    expect_no_escape_while_changing(under_load, [driver], CHANGES[driver])


def test_nothing_gets_past_while_the_way_changes_too(under_load: UnderLoad) -> None:
    quick = [driver for driver in DRIVERS if driver != "iptables-iptc"]
    expect_no_escape_while_changing(under_load, quick, 40)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_gets_past_for_long(under_load: UnderLoad, seed: int) -> None:
    expect_no_escape_while_changing(under_load, list(DRIVERS), 300, seed)


def expect_no_escape_while_changing(scene: UnderLoad, drivers: list[str], length: int, seed: int = 0) -> None:
    with scene.pod.entered():
        operations.apply(settings(VARIANTS["classic"], DRIVERS[drivers[0]]))
    scene.begin()
    with scene.pod.entered():
        for variant, driver in changes(f"{drivers}{seed}", length, drivers):
            operations.apply(settings(VARIANTS[variant], DRIVERS[driver]))
            assert len(drivers) == 1 or len(detect.find_live_sets()) == 1, "two sets at once"
    outbound, inbound = scene.end()

    assert set(outbound) == {"proxy, outbound"}, outbound
    assert set(inbound) == {"proxy, inbound"}, inbound
    assert scene.escaped() == 0


def test_a_gap_would_be_seen(under_load: UnderLoad) -> None:
    """The load itself, tested: cleaning before applying anew lets connections through."""
    pod = under_load.pod
    with pod.entered():
        operations.apply(settings(DRIVERS["nftables-netlink"]))
    under_load.begin()
    with pod.entered():
        for _ in range(20):
            operations.clean()
            operations.apply(settings(DRIVERS["nftables-netlink"]))
    outbound, inbound = under_load.end()

    assert outbound["outside"] > 0
    assert inbound["app"] > 0
    assert under_load.escaped() > 0


# Rules that take time, between the hooks of mangle and of nat: what lies there for a microsecond, lies there for long.
SLOW = "table ip slow {{\n chain slow {{\n{rules}}}\n chain prerouting {{\n {hook}\n {syn} jump slow\n }}\n}}\n"


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver != "iptables-iptc"])
def test_nothing_gets_past_between_mangle_and_nat(under_load: UnderLoad, driver: str) -> None:
    rules = SLOW.format(
        rules="meta mark 0xdead drop\n" * 5_000,
        hook="type filter hook prerouting priority -120;",
        syn="tcp flags & (syn | ack) == syn",
    )
    under_load.pod.run(["nft", "-f", "-"], stdin=rules)
    with under_load.pod.entered():
        operations.apply(settings(DRIVERS[driver]))
    into_pod = start_load(under_load.peer, (under_load.pod.ipv4, APP_PORT), per_second=1000)
    with under_load.pod.entered():
        for variant in ["TPROXY", "classic"] * 100:
            operations.apply(settings(VARIANTS[variant], DRIVERS[driver]))

    answered = into_pod.stop().answered()
    assert answered["proxy, inbound"] > 1000
    assert "app" not in answered  # some may be lost, since so many rules keep the machine busy
