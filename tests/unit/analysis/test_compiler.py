"""The compiled rules against ``trace``, packet by packet."""

from __future__ import annotations

from collections import Counter

import pytest

from capture.analysis import chains, long_lists
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler
from capture.analysis.outcome import Fate
from capture.analysis.space import PacketSpace
from capture.analysis.trace import trace_whole_path
from capture.model.packet import LOOPBACK
from capture.model.ruleset import RestoreMark
from support.generators.small_pools import Pools, numbers_of, value_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.trace import Trace

PACKETS = 40
SAMPLE = range(60)


def compared(seed: int, packets: int = PACKETS) -> Iterator[tuple[object, Fate, Trace]]:
    """Yield what the compiled rules make of packets, and what the trace does."""
    pools = Pools(seed)
    situation = pools.situation()
    fields = PacketSpace(pools.family, (situation,))
    compiled = Compiler(fields, situation)
    roots = {True: compiled.fates(INBOUND), False: compiled.fates(OUTBOUND)}
    for packet in pools.packets(packets):
        if packet.in_interface == LOOPBACK and not packet.is_reply:
            continue  # the compiled rules have it as the second part of an outbound way alone
        traced = trace_whole_path(packet, situation)
        yield (
            value_at(fields.diagrams, roots[packet.in_interface is not None], numbers_of(fields, packet)),
            traced.fate,
            traced,
        )


def wrong(seeds: range, packets: int = PACKETS) -> int:
    """Return of how many packets the compiler thinks otherwise than the trace."""
    return sum(found != fate for seed in seeds for found, fate, _ in compared(seed, packets))


def test_every_packet_has_the_outcome_of_its_trace() -> None:
    """Among them packets that come in again over lo, that a second nat chain would map, and that get a mark back."""
    met: Counter[str] = Counter()
    for seed in SAMPLE:
        for found, fate, traced in compared(seed):
            assert found == fate, seed
            hooks = [step.base_chain.chain for step in traced.path if step.base_chain]
            nats = {step.base_chain.table for step in traced.path if step.base_chain and step.base_chain.is_nat}
            went_out = traced.packet.in_interface is None
            met["over lo"] += went_out and len({id(entry) for entry in hooks}) > 1 and traced.path[-1].table != "nat"
            met["second nat"] += len(nats) > 1
            met["mark restored"] += any(isinstance(step.rule.verdict, RestoreMark) for step in traced.path)
            met["translated"] += traced.translated is not None
            met["other interface"] += traced.interface is not None
            met["refused by mark"] += traced.reroute is not None and traced.outcome == "dropped"
    assert len(met) == 6
    assert min(met.values()) > 10


def test_every_packet_does_with_long_lists_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "MIN_RUN", 2)
    monkeypatch.setattr(long_lists, "MAX_PUT_IN", 0)
    assert wrong(SAMPLE[::3], 20) == 0


@pytest.mark.long
@pytest.mark.parametrize("start", range(60, 1060, 50))
def test_compiler_and_trace_agree_in_a_thousand_situations(start: int) -> None:
    assert wrong(range(start, start + 50), 200) == 0
