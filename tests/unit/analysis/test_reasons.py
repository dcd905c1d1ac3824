"""The reasons of ``explain`` against ``trace``: the rule that decides on a packet, packet by packet."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from capture.analysis import chains, long_lists
from capture.analysis.base_chains import BaseChain, Situation
from capture.analysis.compiler import INBOUND, OUTBOUND, REPLIES_TO_PROXY, Compiler
from capture.analysis.explanation import DECIDES_FATE, NO_RULE_DECIDES, ReasonCompiler
from capture.analysis.meaning import effective_verdict
from capture.analysis.outcome import Fate
from capture.analysis.space import PacketSpace
from capture.analysis.trace import Step, Trace, trace_whole_path
from capture.model.addresses import parse_address
from capture.model.packet import LOOPBACK
from capture.model.ruleset import (
    NAT,
    OUTPUT,
    Chain,
    Drop,
    Goto,
    Jump,
    Protocol,
    Redirect,
    Rule,
    Table,
    TableName,
    TransparentProxy,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.generators.small_pools import Pools, numbers_of, value_at
from support.rules.foreign import foreign_verdict

SAMPLE = range(30)
PACKETS = 40


def worded(situation: Situation) -> Situation:
    """Return a situation in which every other rule of our tables has words of its own."""

    def with_words(table: TableName, chain: Chain) -> Chain:
        rules = (
            rule.replace(why=f"{table} {chain.name} {at}") if at % 2 else rule for at, rule in enumerate(chain.rules)
        )
        return chain.replace(rules=tuple(rules))

    return situation.replace(ruleset=situation.ruleset.with_chains(with_words))


def shown(rule: Rule) -> str:
    return "rule" if rule.matches else "rule for all"


def in_words(step: Step) -> str:
    return step.rule.why or f"{step.table} {step.chain} {step.position}: {shown(step.rule)}"


def reason(traced: Trace) -> str:
    """Return the rule that decides; of a redirect, the rule with words that led to its chain."""
    step, statements = traced.step, traced.policy
    if statements is not None:
        return f"the policy DROP of {statements.table} {statements.chain.name}"
    if (
        traced.outcome == "dropped"
        and traced.reroute is None
        and not (step and isinstance(effective_verdict(step.rule), Drop))
    ):
        return REPLIES_TO_PROXY
    if step is None:
        return NO_RULE_DECIDES
    if isinstance(step.rule.verdict, Redirect | TransparentProxy):
        return next((in_words(each) for each in callers(step, traced) if each.rule.why), in_words(step))
    return in_words(step)


def callers(step: Step, traced: Trace) -> Iterator[Step]:
    """Yield the rules that led to a step, the innermost first."""
    depth = step.depth
    last = max(at for at, each in enumerate(traced.path) if each == step)
    for each in reversed(traced.path[:last]):
        if depth and each.depth < depth and isinstance(effective_verdict(each.rule), Jump | Goto):
            depth = each.depth
            yield each


def compared(seed: int) -> Iterator[tuple[str, str, Trace]]:
    """Yield the reason of packets as it is compiled, and as it is traced."""
    pools = Pools(seed)
    situation = worded(pools.situation())
    space = PacketSpace(pools.family, (situation,))
    compiler = Compiler(space, situation)
    roots = {
        direction: space.switches.expanded(ReasonCompiler(compiler, direction, shown).root())
        for direction in (INBOUND, OUTBOUND)
    }
    for packet in pools.packets(PACKETS):
        if packet.in_interface == LOOPBACK and not packet.is_reply:
            continue  # the compiled rules have it as the second part of an outbound way alone
        traced = trace_whole_path(packet, situation)
        direction = INBOUND if packet.in_interface is not None else OUTBOUND
        fate = value_at(space.diagrams, roots[direction], numbers_of(space, packet))
        assert isinstance(fate, Fate)
        assert fate.replace(reason=None) == traced.fate
        yield fate.reason[1] if fate.reason else NO_RULE_DECIDES, reason(traced), traced


@pytest.mark.parametrize(
    "seeds", [SAMPLE, pytest.param(range(30, 200), marks=pytest.mark.long)], ids=["sample", "more"]
)
def test_every_packet_has_the_reason_of_its_trace(seeds: range) -> None:
    met: Counter[str] = Counter()
    for seed in seeds:
        for found, expected, traced in compared(seed):
            assert found == expected, seed
            met[traced.outcome] += 1
            met["chosen"] += traced.step is not None and found != in_words(traced.step)
            met["policy"] += traced.policy is not None
            met["none"] += found == NO_RULE_DECIDES
    assert len(met) == 8
    assert min(met.values()) > 10, met


def test_a_translation_to_one_of_several_addresses_is_the_reason_of_each() -> None:
    rule = Rule(foreign_verdict("DNAT --to-destination 10.0.0.1-10.0.0.9"), (Protocol("tcp"),))
    foreign = BaseChain("ip other", ("ipv4",), OUTPUT, -110, True, Table(NAT, (Chain("x", (rule,), "ACCEPT"),)))
    situation = Situation(build_ruleset(CaptureConfig()), (foreign,))
    space = PacketSpace("ipv4", (situation,))
    root = ReasonCompiler(Compiler(space, situation), OUTBOUND, lambda _: "rule").root()

    fates = map(space.diagrams.value, space.diagrams.leaves(space.switches.expanded(root)))

    reasons = {fate.address: fate.reason for fate in fates if isinstance(fate, Fate) and fate.address}
    ends = parse_address("10.0.0.1"), parse_address("10.0.0.9")
    assert reasons == dict.fromkeys(ends, (DECIDES_FATE, "ip other x 1: rule"))


def test_rules_of_a_long_list_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "MIN_RUN", 2)
    monkeypatch.setattr(long_lists, "MAX_PUT_IN", 0)
    together = 0
    for seed in SAMPLE[::2]:
        for found, expected, _ in compared(seed):
            if found != expected:
                span = re.fullmatch(r"(.+) (\d+)-(\d+): rule for all", found)
                single = re.fullmatch(r"(.+) (\d+): rule(?: for all)?", expected)
                assert span
                assert single
                assert span[1] == single[1]
                assert int(span[2]) <= int(single[2]) <= int(span[3])
                together += 1
    assert together > 10
