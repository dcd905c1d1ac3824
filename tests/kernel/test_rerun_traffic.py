"""Settings change under load, a hundred times, and no new connection gets past the proxy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from capture import program
from capture.backends import detect
from captures import APP_PORT, INBOUND_PORTS, OUTBOUND_PORTS, OUTSIDE, VARIANTS, WAYS, settings
from pytest_netns import NamespaceFactory
from traffic import Load, answer, start_load

pytestmark = pytest.mark.kernel

CHANGES = dict.fromkeys(WAYS, 100) | {"iptables-iptc": 6, "nftables-libnftables": 40}
"""How often the settings change; importing python-iptables takes half a second each time."""

# Counts the packets that begin a connection out of the pod and arrive outside, answered or not.
WITNESS = """
table inet witness {
    counter escaped { }
    chain arriving {
        type filter hook prerouting priority -400;
        iifname "eth0" tcp dport 80 tcp flags & (syn | ack) == syn counter name escaped
    }
}
"""


class UnderLoad:
    """A pod with a proxy and an app, and 200 new connections a second in each direction."""

    def __init__(self, netns: NamespaceFactory) -> None:
        self.pod, self.peer = netns.pod_pair()
        self.peer.own_every_address()
        self.peer.run(["nft", "-f", "-"], stdin=WITNESS)
        answer(self.peer, "outside", 80)
        answer(self.pod, "proxy, outbound", *OUTBOUND_PORTS, uid=1337)
        answer(self.pod, "proxy, inbound", *INBOUND_PORTS, uid=1337, transparent=True)
        answer(self.pod, "app", APP_PORT, uid=1000)
        self._loads: list[Load] = []

    def begin(self) -> None:
        """Start the load, out of the pod and into it."""
        inside = [(address, APP_PORT) for address in (self.pod.ipv4, self.pod.ipv6)]
        self._loads = [start_load(self.pod, *OUTSIDE, uid=1000), start_load(self.peer, *inside)]

    def end(self) -> tuple[Counter[str], Counter[str]]:
        """End the load; return who answered connections out, and connections in."""
        outbound, inbound = (load.stop().answered() for load in self._loads)
        return outbound, inbound

    def escaped(self) -> int:
        """Return how many packets that begin a connection have reached the outside."""
        listed = self.peer.run(["nft", "list", "counter", "inet", "witness", "escaped"]).stdout
        return int(listed.partition("packets")[2].split()[0])


@pytest.fixture
def under_load(netns: NamespaceFactory) -> UnderLoad:
    return UnderLoad(netns)


def changes(seed: str, length: int, ways: list[str]) -> Iterator[tuple[str, str]]:
    """Yield variants and ways at random, never the same variant twice in a row."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    variant = ""
    for _ in range(length):
        variant = chance.choice([each for each in VARIANTS if each != variant])
        yield variant, chance.choice(ways)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_gets_past_while_settings_change(under_load: UnderLoad, way: str) -> None:
    change_under_load(under_load, [way], CHANGES[way])


def test_nothing_gets_past_while_the_way_changes_too(under_load: UnderLoad) -> None:
    quick = [way for way in WAYS if way != "iptables-iptc"]
    change_under_load(under_load, quick, 60)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_gets_past_for_long(under_load: UnderLoad, seed: int) -> None:
    change_under_load(under_load, list(WAYS), 300, seed)


def change_under_load(scene: UnderLoad, ways: list[str], length: int, seed: int = 0) -> None:
    with scene.pod.entered():
        program.apply(settings(VARIANTS["classic"], WAYS[ways[0]]))
    scene.begin()
    with scene.pod.entered():
        for variant, way in changes(f"{ways}{seed}", length, ways):
            program.apply(settings(VARIANTS[variant], WAYS[way]))
            assert len(ways) == 1 or len(detect.leftovers()) == 1, "two sets at once"
    outbound, inbound = scene.end()

    assert set(outbound) == {"proxy, outbound"}, outbound
    assert set(inbound) == {"proxy, inbound"}, inbound
    assert scene.escaped() == 0


def test_a_gap_would_be_seen(under_load: UnderLoad) -> None:
    """The load itself, tested: whoever cleans before applying anew lets connections through."""
    pod = under_load.pod
    with pod.entered():
        program.apply(settings(WAYS["nftables-netlink"]))
    under_load.begin()
    with pod.entered():
        for _ in range(20):
            program.clean()
            program.apply(settings(WAYS["nftables-netlink"]))
    outbound, inbound = under_load.end()

    assert outbound["outside"] > 0
    assert inbound["app"] > 0
    assert under_load.escaped() > 0


# Rules that take time, between the hooks of mangle and of nat: what lies there for a microsecond, lies there for long.
SLOW = "table ip slow {{\n chain slow {{\n{rules}}}\n chain prerouting {{\n {hook}\n {syn} jump slow\n }}\n}}\n"


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", [way for way in WAYS if way != "iptables-iptc"])
def test_nothing_gets_past_between_mangle_and_nat(under_load: UnderLoad, way: str) -> None:
    rules = SLOW.format(
        rules="meta mark 0xdead drop\n" * 5_000,
        hook="type filter hook prerouting priority -120;",
        syn="tcp flags & (syn | ack) == syn",
    )
    under_load.pod.run(["nft", "-f", "-"], stdin=rules)
    with under_load.pod.entered():
        program.apply(settings(WAYS[way]))
    into_pod = start_load(under_load.peer, (under_load.pod.ipv4, APP_PORT), per_second=1000)
    with under_load.pod.entered():
        for variant in ["TPROXY", "classic"] * 100:
            program.apply(settings(VARIANTS[variant], WAYS[way]))

    assert set(into_pod.stop().answered()) == {"proxy, inbound"}
