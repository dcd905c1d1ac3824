"""Rule sets of a size that others write: judged exactly, in time that grows with their length and no faster."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time

import pytest

from capture.analysis.base_chains import BaseChain, Situation
from capture.analysis.compare import differences
from capture.analysis.judgement import judge
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
    OwnerUid,
    Protocol,
    Return,
    Rule,
    Ruleset,
    SetMark,
    Source,
    Table,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from capture.settings.parsers import Selection
from support.rules.foreign import foreign_match, foreign_verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from capture.analysis.judgement import Judgement
    from capture.model.addresses import Family
    from capture.model.ruleset import Match, ProtocolName, Span

IP: tuple[Family, ...] = ("ipv4",)
SERVICES = 0x0A60_0000
"""10.96.0.0"""
GROWTH = 20
"""How many times as long ten times as many rules may take: a search of pairs would take a hundred times."""
MEGABYTES = 200
"""What a judgement may take, with the rules."""


def judged(chain: BaseChain) -> Judgement:
    desired = build_ruleset(CaptureConfig())
    return judge(Situation(desired, (chain,)), desired)


def judged_in_our_chain(rules: tuple[Rule, ...], config: CaptureConfig) -> Judgement:
    """Return the judgement on rules at the top of nat OUTPUT, in the table of our own."""
    desired = build_ruleset(config)
    tables = [
        table.replace(
            chains=tuple(
                chain.replace(rules=(*rules, *chain.rules)) if (table.name, chain.name) == (NAT, OUTPUT) else chain
                for chain in table.chains
            )
        )
        for table in desired.tables
    ]
    live = desired.replace(tables=tuple(tables))
    return judge(Situation(desired), live)


def drops(count: int, protocol: ProtocolName = "tcp", priority: int = -200) -> BaseChain:
    """Return a chain that drops to an address and a port of its own with each rule."""
    return BaseChain("ip x", IP, OUTPUT, priority, False, Table(MANGLE, (Chain("out", dropping(count, protocol)),)))


def dropping(count: int, protocol: ProtocolName = "tcp") -> tuple[Rule, ...]:
    to = [_to(7 * i, 1 + 13 * i % 60_000) for i in range(count)]
    return tuple([Rule(Drop(), (address, Protocol(protocol), port), "ipv4") for address, port in to])


def _to(address: int, port: int) -> tuple[Match, ...]:
    return Destination((Network("ipv4", SERVICES + address, 32),)), DestinationPort((only(port),))


def services(count: int) -> BaseChain:
    """Return what kube-proxy writes: for each service a chain that leads to one of two endpoints by chance."""
    chains = list(_services(count))
    heads = tuple(
        Rule(Jump(chain.name), (Protocol("tcp"), *_to(3 * number, 80 + number % 5)))
        for number, chain in enumerate(chain for chain in chains if chain.name.startswith("KUBE-SVC"))
    )
    mark = Chain("KUBE-MARK-MASQ", (Rule(SetMark(0x4000, 0x4000)),))
    entry = Chain(OUTPUT, (Rule(Jump("KUBE-SERVICES")),))
    table = Table(NAT, (entry, Chain("KUBE-SERVICES", heads), mark, *chains))
    return BaseChain("ip nat", IP, OUTPUT, -100, True, table, is_native=False)


def _services(count: int) -> Iterator[Chain]:
    masquerade = Jump("KUBE-MARK-MASQ")
    pods = Source((Network("ipv4", 0x0A80_0000, 9),), negated=True)
    for i in range(count):
        half = foreign_match("-m statistic --mode random --probability 0.5")
        first, second = (f"KUBE-SEP-{i}-{number}" for number in (1, 2))
        yield Chain(f"KUBE-SVC-{i}", (Rule(masquerade, (pods,)), Rule(Jump(first), (half,)), Rule(Jump(second))))
        for number, name in enumerate((first, second)):
            address = f"10.{128 + number}.{i // 250}.{i % 250 + 1}"
            yield Chain(name, (Rule(foreign_verdict(f"DNAT --to-destination {address}:8080"), (Protocol("tcp"),)),))


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
    assert judgement.harmless_obstacles == ()
    assert bool(judgement.doubts) == (count > named)


def test_many_that_do_nothing_to_captured_traffic_are_notes() -> None:
    judgement = judged(drops(6000, "udp"))

    assert (judgement.obstacles, judgement.unjudged, judgement.doubts) == ((), (), ())
    assert len(judgement.harmless_obstacles) == 6000


def bypassed(config: CaptureConfig) -> None:
    """Judge a rule that takes the proxy's own traffic away, which long lists must not hide."""
    judgement = judged_in_our_chain((Rule(Return(), (OwnerUid((only(1337),)),)),), config)

    assert [each.rule.verdict for each in judgement.differences if each.rule] == [Return(), Return()]
    assert (judgement.unjudged, judgement.doubts) == ((), ())


def networks(count: int) -> tuple[Network, ...]:
    """Return as many of either family, no two of which touch."""
    of_ipv4 = [Network("ipv4", 0x1400_0000 + 512 * i, 24) for i in range(count)]
    return (*of_ipv4, *[Network("ipv6", (0xFD00 << 112) + (i << 65), 64) for i in range(count)])


LONG: dict[str, Callable[[int], object]] = {
    "networks": lambda count: bypassed(CaptureConfig(excluded_outbound_networks=networks(count))),
    "ports": lambda count: bypassed(CaptureConfig(excluded_outbound_ports=spans(count // 3, 9))),
    "groups, ports and networks": lambda count: bypassed(
        CaptureConfig(
            owner_groups=Selection(spans(count // 150, 10)),
            excluded_outbound_ports=spans(count // 150, 10),
            excluded_outbound_networks=networks(count // 10),
        )
    ),
    "rules that are others": lambda count: differences(named(range(12 * count)), named(range(12 * count, 24 * count))),
    "rules in another order": lambda count: differences(named(range(12 * count)), named(range(12 * count - 1, -1, -1))),
    "rules": lambda count: judged(drops(6 * count)),
    "rules for udp": lambda count: judged(drops(6 * count, "udp")),
    "rules behind": lambda count: judged(drops(6 * count, priority=0)),
    "rules in our chain": lambda count: judged_in_our_chain(dropping(6 * count), CaptureConfig()),
    "rules in our chain for udp": lambda count: judged_in_our_chain(dropping(6 * count, "udp"), CaptureConfig()),
}
"""What is judged, by a number of entries."""


def named(numbers: Iterable[int]) -> Ruleset:
    """Return one of our chains with a rule for each number."""
    rules = tuple(Rule(Jump(f"ISTIO-{number}")) for number in numbers)
    return Ruleset(IP, (Table(NAT, (Chain("ISTIO-OUTPUT", rules),)),))


def spans(count: int, distance: int) -> tuple[Span, ...]:
    return tuple(only(5000 + distance * i) for i in range(count))


def seconds(about: str, count: int) -> float:
    """Return how long the processor works on a judgement."""
    begin = time.process_time()
    LONG[about](count)
    return time.process_time() - begin


QUICK = dict.fromkeys(("networks", "ports", "groups, ports and networks"), 200)
QUICK |= {"rules in our chain": 40, "rules that are others": 50, "rules in another order": 50}
"""How many entries are short, for the comparison with ten times as many."""


def calls(about: str, count: int) -> int:
    """Return how many functions a judgement calls, of Python and of C: its work, whatever else the machine does."""
    made = itertools.count()

    def note(_frame: object, event: str, _function: object) -> None:
        if event in ("call", "c_call"):
            next(made)

    sys.setprofile(note)
    try:
        LONG[about](count)
    finally:
        sys.setprofile(None)
    return next(made)


@pytest.mark.parametrize(("about", "few"), QUICK.items())
def test_work_grows_as_length_does(about: str, few: int) -> None:
    LONG[about](10)  # what is loaded, and kept, once
    assert calls(about, 10 * few) < 12 * calls(about, few)


@pytest.mark.long
@pytest.mark.parametrize("about", LONG)
def test_ten_thousand_entries_and_sixty_thousand_rules(about: str) -> None:
    script = (
        "import gc, resource; from capture.cli import ALLOCATIONS; from test_capacity import *\n"
        "gc.set_threshold(ALLOCATIONS)\n"
        f"many = seconds({about!r}, 10_000)\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        f"print(many / seconds({about!r}, 1000), peak, many)"
    )
    paths = {"PYTHONPATH": os.pathsep.join(("tests", "tests/unit/analysis"))}
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | paths, capture_output=True, check=True)
    growth, megabytes, _ = map(float, done.stdout.split())

    assert growth < GROWTH
    assert megabytes < MEGABYTES
