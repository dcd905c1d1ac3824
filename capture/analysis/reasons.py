"""Why packets fare as they do: the functions of ``compiler``, whose fates have a reason that is true of every packet.

The reason is the rule or policy that drops a packet, translates it, or lets nat leave it as it is; of a redirect, the
rule that chose it by a jump into one of our chains. A packet's way is compiled from its end, so a rule is the reason
unless one behind it has more to say.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from capture.analysis.chains import CALLING_VERDICTS, ChainCompiler
from capture.analysis.compiler import Compiler, Direction, PathCompiler
from capture.analysis.meaning import effective_verdict
from capture.analysis.outcome import Fate, Reason
from capture.model import ruleset as model
from capture.model.foreign import Either, Translate

LETS_PASS, LETS_PASS_NAT, DECIDES_FATE = range(1, 4)
REDIRECTS = (model.Redirect, model.TransparentProxy)


class ReasonCompiler(PathCompiler):
    """The fates of packets of one direction with their reasons; ``text_of`` gives a rule in words."""

    def __init__(self, compiler: Compiler, direction: Direction, text_of: Callable[[model.Rule], str]) -> None:
        super().__init__(compiler, direction)
        self._text_of = text_of

    def reason(self, chain: ChainCompiler, positions: str, rule: model.Rule) -> Reason:
        """Return a rule as a reason: its own words, or what it is; of a long list its positions and its verdict."""
        if chain.stage.chosen_by and isinstance(rule.verdict, REDIRECTS):
            return DECIDES_FATE, chain.stage.chosen_by
        is_native_foreign = chain.base_chain.is_native and not chain.base_chain.is_own
        if isinstance(effective_verdict(rule), CALLING_VERDICTS) or (rule.why and not is_native_foreign):
            text = rule.why
        else:
            shown = rule if positions.isdecimal() else rule.replace(matches=())
            text = f"{chain.base_chain.table} {chain.chain.name} {positions}: {rule.why or self._text_of(shown)}"
        is_passing = isinstance(rule.verdict, model.Return | model.Accept)
        rank = LETS_PASS_NAT if chain.base_chain.table == model.NAT else LETS_PASS
        return rank if is_passing else DECIDES_FATE, text

    def with_reason(self, node: int, verdict: model.Verdict, reason: Reason | None) -> int:
        """Return the fates of packets that match a rule, with it as the reason of those for which it is one."""

        def explained(fate: Hashable) -> Hashable:
            is_reason = reason is not None and isinstance(fate, Fate) and _is_reason(verdict, reason[0], fate)
            return fate.replace(reason=reason) if isinstance(fate, Fate) and is_reason else fate

        fates = self.diagrams.mapped(node, explained, ("because", verdict, reason))
        if not isinstance(verdict, model.SetMark):
            return fates
        return self.diagrams.choose(self.space.has_mark("mark", verdict.value, verdict.mask), node, fates)

    def _dropped_fate(self, why: str) -> int:
        return self._fate_node(Fate("dropped", reason=(DECIDES_FATE, why)))


def _is_reason(verdict: model.Verdict, rank: int, fate: Fate) -> bool:
    """Return whether a rule with a verdict is the reason of a fate behind it."""
    known = fate.reason[0] if fate.reason else 0
    match verdict:
        case model.Return() | model.Accept():
            return known < rank
        case _ if known == DECIDES_FATE:
            return False
        case model.Redirect(port=port) | model.TransparentProxy(port=port):
            return fate.port == port
        case Translate():
            return fate.outcome in ("direct", "dropped")
        case Either():
            return any(_is_reason(way, rank, fate) for way in verdict.ways)
        case model.Drop() | model.SetMark() | model.RestoreMark():
            return fate.outcome == "dropped"
    return False
