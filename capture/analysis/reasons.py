"""Why packets fare as they do: the functions of ``compiler``, whose fates have a reason that is true of every packet.

The reason is the rule or policy that drops a packet, translates it, or lets nat leave it as it is; of a redirect, the
rule that chose it by a jump into one of our chains. A packet's way is compiled from its end, so a rule is the reason
unless one behind it has more to say.
"""

from __future__ import annotations

from capture.analysis.compiler import PathCompiler
from capture.analysis.meaning import Either, Goto, Translate, meaning
from capture.analysis.outcome import Fate, Reason
from capture.model import ruleset as model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from capture.analysis.base_chains import BaseChain
    from capture.analysis.compiler import Compiler, Direction, Stage
    from capture.analysis.meaning import Meaning

LETS_PASS, LETS_PASS_NAT, DECIDES = range(3)
CALLING = (model.Jump, Goto)


class ReasonCompiler(PathCompiler):
    """The fates of packets of one direction with their reasons; ``text_of`` gives a rule in words."""

    def __init__(self, compiler: Compiler, direction: Direction, text_of: Callable[[model.Rule], str]) -> None:
        super().__init__(compiler, direction)
        self._text_of = text_of

    def reason(self, base_chain: BaseChain, chain: str, place: str, rule: model.Rule) -> Reason:
        """Return a rule as a reason: its own words, or what it is; of a long list its place and its verdict."""
        if isinstance(meaning(rule), CALLING):
            return Reason(rule.why, DECIDES)
        is_passing = isinstance(rule.verdict, model.Return | model.Accept)
        rank = DECIDES if not is_passing else LETS_PASS_NAT if base_chain.table == model.NAT else LETS_PASS
        shown = rule if place.isdecimal() else rule.replace(matches=())
        return Reason(rule.why or f"{base_chain.table} {chain} {place}: {self._text_of(shown)}", rank)

    def with_reason(self, node: int, verdict: Meaning, reason: Reason | None) -> int:
        """Return the fates of packets that match a rule, with it as the reason of those for which it is one."""

        def explained(fate: Hashable) -> Hashable:
            if reason is None or not isinstance(fate, Fate):
                return fate
            if isinstance(verdict, CALLING):
                return _chosen(fate, reason)
            at = 1 if isinstance(verdict, model.Redirect | model.TransparentProxy) else 0
            return fate.replace(reason=reason.replace(chosen_at=at)) if _is_reason(verdict, reason.rank, fate) else fate

        found = self.diagrams.mapped(node, explained, ("because", verdict, reason))
        if not isinstance(verdict, model.SetMark):
            return found
        return self.diagrams.choose(self.space.marked("mark", verdict.value, verdict.mask), node, found)

    def enter_chain(self, base_chain: BaseChain, name: str, fall_through: int, stage: Stage) -> int:
        """Return the fates of packets that jump to a chain; what is behind the jump is a jump farther away there."""

        def farther(reason: Reason) -> int:
            return reason.chosen_at and reason.chosen_at + 1

        return super().enter_chain(base_chain, name, self._at(fall_through, farther, "farther"), stage)

    def _through_base_chain(self, base_chain: BaseChain, stage: Stage) -> int:
        return self._at(super()._through_base_chain(base_chain, stage), lambda _: 0, "not chosen")

    def _at(self, node: int, place: Callable[[Reason], int], name: str) -> int:
        """Return fates whose redirects are chosen at another place."""

        def placed(fate: Hashable) -> Hashable:
            if isinstance(fate, Fate) and fate.reason is not None:
                return fate.replace(reason=fate.reason.replace(chosen_at=place(fate.reason)))
            return fate

        return self.diagrams.mapped(node, placed, name)

    def _dropped(self, why: str) -> int:
        return self._fate(Fate("dropped", reason=Reason(why, DECIDES)))


def _chosen(fate: Fate, by: Reason) -> Fate:
    """Return a fate behind a jump, which has chosen a redirect in the chain that it leads to if it has words."""
    known = fate.reason
    if known is None or known.chosen_at == 0:
        return fate
    if known.chosen_at > 1:
        return fate.replace(reason=known.replace(chosen_at=known.chosen_at - 1))
    return fate.replace(reason=by) if by.text else fate


def _is_reason(verdict: Meaning, rank: int, fate: Fate) -> bool:
    """Return whether a rule with a verdict is the reason of a fate behind it."""
    known = fate.reason
    is_final = known is not None and known.rank == DECIDES
    match verdict:
        case model.Redirect(port=port) | model.TransparentProxy(port=port):
            return not is_final and fate.outcome != "dropped" and fate.port == port
        case Translate():
            return not is_final and fate.outcome in ("direct", "dropped")
        case Either():
            return any(_is_reason(way, rank, fate) for way in verdict.ways)
        case model.Return() | model.Accept():
            return known is None or known.rank < rank
        case model.Drop() | model.SetMark() | model.RestoreMark():
            return not is_final and fate.outcome == "dropped"
    return False
