"""The compiled rules against ``trace``, packet by packet; and whether the packets would show a wrong compiler."""

from __future__ import annotations

from collections import Counter

import pytest

from capture.analysis import base_chains, chains, compiler, long_lists, space
from capture.analysis.base_chains import PRIORITIES
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler, PathCompiler
from capture.analysis.outcome import PROXY_INBOUND, Fate
from capture.analysis.space import NONE, Field, PacketSpace
from capture.analysis.trace import trace_whole_path
from capture.model.addresses import gaps
from capture.model.conventions import MAX_ID
from capture.model.packet import LOOPBACK
from capture.model.ruleset import RestoreMark, Return, TransparentProxy
from support.generators.small_pools import Pools, numbers_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.analysis.base_chains import BaseChain
    from capture.analysis.compiler import Stage
    from capture.analysis.meaning import Meaning
    from capture.analysis.outcome import PendingFate
    from capture.analysis.trace import Trace
    from capture.model.addresses import Family, Network

PACKETS = 40
SAMPLE = range(120)


def compared(seed: int, packets: int = PACKETS) -> Iterator[tuple[object, Fate, Trace]]:
    """Yield what the compiled rules make of packets, and what the trace does."""
    pools = Pools(seed)
    situation = pools.situation()
    fields = PacketSpace(pools.family, (situation,))
    compiled = Compiler(fields, situation)
    roots = {True: compiled.fates(INBOUND), False: compiled.fates(OUTBOUND)}
    for packet in pools.packets(packets):
        traced = trace_whole_path(packet, situation)
        yield (
            fields.diagrams.evaluate(roots[packet.in_interface is not None], numbers_of(fields, packet)),
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
    assert wrong(SAMPLE[::2], 20) == 0


@pytest.mark.long
@pytest.mark.parametrize("start", range(120, 1120, 50))
def test_compiler_and_trace_agree_in_a_thousand_situations(start: int) -> None:
    assert wrong(range(start, start + 50), 200) == 0


# --- wrong compilers -------------------------------------------------------------------------------

Patch = pytest.MonkeyPatch


def asks_nat_again(patch: Patch) -> None:
    right = PathCompiler._through_base_chain

    def base_chain(self: PathCompiler, at: BaseChain, stage: Stage) -> int:
        return right(self, at.replace(is_nat=False), stage) if stage.pending.translated else right(self, at, stage)

    patch.setattr(PathCompiler, "_through_base_chain", base_chain)


def keeps_the_port(patch: Patch) -> None:
    right = PathCompiler._redirected

    def redirected(self: PathCompiler, node: int, port: int, stage: Stage) -> int:
        restricted = self.diagrams.restricted

        def changed(node: int, level: int, number: int) -> int:
            return node if level == Field.PORT else restricted(node, level, number)

        with pytest.MonkeyPatch.context() as within:
            within.setattr(self.diagrams, "restricted", changed)
            return right(self, node, port, stage)

    patch.setattr(PathCompiler, "_redirected", redirected)


def sends_inbound_to_loopback(patch: Patch) -> None:
    def redirected(self: PathCompiler, node: int, port: int, _place: Stage) -> int:
        here = 0x7F000001 if self.space.family == "ipv4" else 1
        node = self.diagrams.restricted(node, Field.PORT, port)
        return self.diagrams.restricted(node, Field.DESTINATION, here)

    patch.setattr(PathCompiler, "_redirected", redirected)


def needs_an_interface(patch: Patch) -> None:
    patch.setattr(space, "gaps", lambda ranges, low, high: gaps(ranges, low if high == MAX_ID else 0, high))


def forgets_lo(patch: Patch) -> None:
    patch.setattr(PathCompiler, "_after_hook", lambda self, stage: self._end(stage.pending))


def asks_nat_over_lo(patch: Patch) -> None:
    right = base_chains.Situation.orders
    patch.setattr(base_chains.Situation, "orders", lambda self, hook, family, **_: right(self, hook, family))


def asks_nat_about_all(patch: Patch) -> None:
    patch.setattr(compiler, "NAT_STATES", ("NEW", "RELATED", "ESTABLISHED"))


def lets_return_pass_a_policy(patch: Patch) -> None:
    right = PathCompiler.apply_verdict

    def decided(
        self: PathCompiler, verdict: Meaning, chain: str, falls: int, stage: Stage, base_chain: base_chains.BaseChain
    ) -> int:
        is_base = isinstance(verdict, Return) and chain == base_chain.chain.name
        following = stage.replace(number=stage.number + 1)
        return self._at_base_chain(following) if is_base else right(self, verdict, chain, falls, stage, base_chain)

    patch.setattr(PathCompiler, "apply_verdict", decided)


def ignores_masks(patch: Patch) -> None:
    right = PacketSpace.with_mark
    patch.setattr(PacketSpace, "with_mark", lambda self, node, value, _mask: right(self, node, value, 0xFFFF_FFFF))


def swaps_marks(patch: Patch) -> None:
    right = PacketSpace.mark_levels
    patch.setattr(PacketSpace, "mark_levels", lambda self, old, new: right(self, new, old))


def takes_unknown_owners_alike(patch: Patch) -> None:
    right = PacketSpace.ranges
    patch.setattr(
        PacketSpace, "ranges", lambda self, match, is_native: right(self, match, is_native=not is_native)
    )  # swapped


def marks_nothing_for_the_proxy(patch: Patch) -> None:
    right = PathCompiler.apply_verdict

    def decided(
        self: PathCompiler, verdict: Meaning, chain: str, falls: int, stage: Stage, base_chain: base_chains.BaseChain
    ) -> int:
        if isinstance(verdict, TransparentProxy):
            held = stage.pending.replace(transparent=Fate(PROXY_INBOUND, verdict.port))
            return self._at_base_chain(stage.replace(number=stage.number + 1, pending=held))
        return right(self, verdict, chain, falls, stage, base_chain)

    patch.setattr(PathCompiler, "apply_verdict", decided)


def enters_nat_by_priority_alone(patch: Patch) -> None:
    right = base_chains.Situation.orders

    def key(base_chain: BaseChain) -> int:
        return base_chain.priority if not base_chain.is_own else PRIORITIES[base_chain.contents.name]

    def orders(self: base_chains.Situation, hook: str, family: Family, *, with_nat: bool = True) -> object:
        found = right(self, hook, family, with_nat=with_nat)
        return [(told, tuple(sorted(order, key=key))) for told, order in found]

    patch.setattr(base_chains.Situation, "orders", orders)


def leaves_the_pod_by_lo(patch: Patch) -> None:
    def routed(self: PathCompiler, held: PendingFate) -> int:
        leaves = self._at_hook("post", held)
        return (
            self.diagrams.restricted(leaves, Field.OUT, self.space.interface(LOOPBACK)) if held.translated else leaves
        )

    patch.setattr(PathCompiler, "_leaving", routed)


def shows_the_new_interface_at_output(patch: Patch) -> None:
    right = PathCompiler._translated

    def sent_on(self: PathCompiler, node: int, port: int | None, address: Network | None) -> int:
        found = right(self, node, port, address)
        return found if address is None else self.diagrams.restricted(found, Field.OUT, self.space.interface(LOOPBACK))

    patch.setattr(PathCompiler, "_translated", sent_on)


def forgets_input(patch: Patch) -> None:
    right = PathCompiler._at_hook
    patch.setattr(
        PathCompiler, "_at_hook", lambda self, leg, held: self._end(held) if leg == "input" else right(self, leg, held)
    )


def forgets_later_packets(patch: Patch) -> None:
    patch.setattr(PathCompiler, "_with_later_packets", lambda _self, node: node)


def keeps_the_socket_over_lo(patch: Patch) -> None:
    def over_lo(self: PathCompiler, held: PendingFate) -> int:
        found = self.diagrams.restricted(self._at_hook("lo", held), Field.IN, self.space.interface(LOOPBACK))
        return self.diagrams.restricted(found, Field.OUT, NONE)

    patch.setattr(PathCompiler, "_over_lo", over_lo)


def routes_again_behind_every_chain(patch: Patch) -> None:
    right = PathCompiler._after_base_chain

    def passed(self: PathCompiler, stage: Stage, base_chain: BaseChain) -> int:
        return right(self, stage, base_chain.replace(is_route=stage.leg == "out"))

    patch.setattr(PathCompiler, "_after_base_chain", passed)


MUTANTS: dict[Callable[[Patch], None], int] = {
    asks_nat_again: 6,
    keeps_the_port: 12,
    sends_inbound_to_loopback: 108,
    needs_an_interface: 4,
    forgets_lo: 0,
    asks_nat_over_lo: 17,
    asks_nat_about_all: 0,
    lets_return_pass_a_policy: 21,
    ignores_masks: 3,
    swaps_marks: 0,
    takes_unknown_owners_alike: 0,
    marks_nothing_for_the_proxy: 1,
    enters_nat_by_priority_alone: 110,
    leaves_the_pod_by_lo: 0,
    shows_the_new_interface_at_output: 6,
    forgets_input: 0,
    forgets_later_packets: 115,
    keeps_the_socket_over_lo: 51,
    routes_again_behind_every_chain: 3,
}
"""Wrong compilers, each with a seed whose packets have shown it: it is tried first, the others after it."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_compiler_is_seen(mutant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    seeds = (MUTANTS[mutant], *SAMPLE)
    assert any(found != fate for seed in seeds for found, fate, _ in compared(seed, 100))
