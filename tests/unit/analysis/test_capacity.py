"""Rule sets of a size that others write: judged exactly, in time that grows with their length and no faster."""

from __future__ import annotations

import subprocess
import sys

import pytest

from capture.analysis.foreign import ForeignChain
from capture.analysis.judgement import judge
from capture.analysis.stations import PodNetwork
from capture.model.addresses import Network
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    Chain,
    Destination,
    DestinationPort,
    Drop,
    Jump,
    Protocol,
    Rule,
    SetMark,
    Source,
    Table,
    UnknownMatch,
    UnknownVerdict,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.judgement import Judgement
    from capture.model.addresses import Family
    from capture.model.ruleset import Match, ProtocolName

IP: tuple[Family, ...] = ("ipv4",)
SERVICES = 0x0A60_0000
"""10.96.0.0"""
GROWTH = 20
"""How many times as long ten times as many rules may take: a search of pairs would take a hundred times."""
MEMORY = 2
"""How many times the memory of 60,000 foreign rules it may take to judge them."""


def judged(chain: ForeignChain) -> Judgement:
    desired = build_ruleset(CaptureConfig())
    return judge(desired, desired, (), (chain,), PodNetwork(), is_native=False)


def drops(count: int, protocol: ProtocolName = "tcp", priority: int = -200) -> ForeignChain:
    """Return a chain that drops to an address and a port of its own with each rule."""
    rules = tuple(Rule(Drop(), (Protocol(protocol), *_to(7 * i, 1 + 13 * i % 60_000)), "ipv4") for i in range(count))
    return ForeignChain("ip x", IP, OUTPUT, priority, False, Table(MANGLE, (Chain("out", rules),)))


def _to(address: int, port: int) -> tuple[Match, ...]:
    return Destination((Network("ipv4", SERVICES + address, 32),)), DestinationPort((only(port),))


def services(count: int) -> ForeignChain:
    """Return what kube-proxy writes: for each service a chain that leads to one of two endpoints by chance."""
    chains = list(_services(count))
    heads = tuple(
        Rule(Jump(chain.name), (Protocol("tcp"), *_to(3 * number, 80 + number % 5)))
        for number, chain in enumerate(chain for chain in chains if chain.name.startswith("KUBE-SVC"))
    )
    mark = Chain("KUBE-MARK-MASQ", (Rule(SetMark(0x4000, 0x4000)),))
    entry = Chain(OUTPUT, (Rule(Jump("KUBE-SERVICES")),))
    table = Table(NAT, (entry, Chain("KUBE-SERVICES", heads), mark, *chains))
    return ForeignChain("ip nat", IP, OUTPUT, -100, True, table, is_native=False)


def _services(count: int) -> Iterator[Chain]:
    masquerade = Jump("KUBE-MARK-MASQ")
    pods = Source((Network("ipv4", 0x0A80_0000, 9),), negated=True)
    for i in range(count):
        half = UnknownMatch("-m statistic --mode random --probability 0.5")
        first, second = (f"KUBE-SEP-{i}-{number}" for number in (1, 2))
        yield Chain(f"KUBE-SVC-{i}", (Rule(masquerade, (pods,)), Rule(Jump(first), (half,)), Rule(Jump(second))))
        for number, name in enumerate((first, second)):
            address = f"10.{128 + number}.{i // 250}.{i % 250 + 1}"
            yield Chain(name, (Rule(UnknownVerdict(f"DNAT --to-destination {address}:8080"), (Protocol("tcp"),)),))


def test_services_of_kube_proxy_are_judged_exactly() -> None:
    judgement = judged(services(2000))  # 10,000 rules in 6,000 chains

    (obstacle,) = judgement.obstacles
    assert obstacle.effect is not None
    assert obstacle.effect.after.address is not None
    assert len(obstacle.effect.regions) == 5, "one for each port"
    assert (judgement.unjudged, judgement.doubts) == ((), ())


@pytest.mark.parametrize(("count", "named"), [(1, 1), (15, 15), (400, 20), (6000, 4)])
def test_of_many_that_divert_some_are_named_and_none_is_called_harmless(count: int, named: int) -> None:
    judgement = judged(drops(count))

    assert len(judgement.obstacles) == named
    assert judgement.harmless == ()
    assert bool(judgement.doubts) == (count > named)


def test_many_that_do_nothing_to_captured_traffic_are_notes() -> None:
    judgement = judged(drops(6000, "udp"))

    assert (judgement.obstacles, judgement.unjudged, judgement.doubts) == ((), (), ())
    assert len(judgement.harmless) == 6000


@pytest.mark.long
@pytest.mark.parametrize("about", ["", ", 'udp'", ", priority=0"])
def test_sixty_thousand(about: str) -> None:
    script = (
        "import time; from test_capacity import *\n"
        "def peak():\n"  # ru_maxrss begins with that of the process that started this one (exec_mmap in fs/exec.c)
        "    return int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])\n"
        "def seconds(chain):\n"
        "    begin = time.process_time(); judged(chain); return time.process_time() - begin\n"
        f"loaded = peak(); chain = drops(60_000{about}); built = peak()\n"
        "many = seconds(chain); judging = peak() - built\n"
        f"print(many / seconds(drops(6_000{about})), judging / (built - loaded))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="tests/unit/analysis", capture_output=True, check=True)
    growth, memory = map(float, done.stdout.split())

    assert growth < GROWTH
    assert memory < MEMORY
