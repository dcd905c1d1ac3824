"""One chain as a function: the fates of packets that enter it, from its last rule to its first.

Few rules are folded one by one. A run of many that do not change packets becomes a list of decisions first, and the
fates of each decision are put in its place.
"""

from __future__ import annotations

from capture.analysis.canonical import entries_of_match
from capture.analysis.diagram import TooLargeError
from capture.analysis.long_lists import Box
from capture.analysis.meaning import effective_verdict, modelled_matches
from capture.analysis.space import LEVEL_OF_MATCH
from capture.model import ruleset as model
from capture.model.foreign import Either, Translate, Untrack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from capture.analysis.base_chains import BaseChain
    from capture.analysis.compiler import PathCompiler, Stage
    from capture.analysis.outcome import Reason
    from capture.analysis.space import Ranges

UNKNOWN_FATE = "anything"
"""The value after a verdict that is not understood, which may have done anything."""
TRACKING_MATCHES = (model.ConnectionState, model.ConnectionMark)
CONNECTION_VERDICTS = (model.SaveMark, model.RestoreMark)  # idle before connection tracking
TRACKING_VERDICTS = (Untrack, model.SetZone)
CHANGED_MATCH: dict[type, type] = model.MARK_CHANGING_VERDICTS | dict.fromkeys(TRACKING_VERDICTS, model.ConnectionState)
"""Verdicts after which a packet goes on changed, each with the match that tests what it changes."""
CALLING_VERDICTS = (model.Jump, model.Goto)
DECIDING_VERDICTS = (
    model.Return, model.Accept, model.Drop, model.Redirect, model.TransparentProxy, model.Goto, Translate, Either,
)  # fmt: skip
MIN_RUN = 100
"""A run of fewer rules is folded rule by rule."""
MAX_RUN_CASES = 100_000
"""Different verdicts, or chains that are called, of one run of rules."""
MAX_LIST_ENTRIES = 8
"""A longer list of one rule is a run, too: rules behind it would be looked at in each of its pieces."""


class ChainCompiler:
    """One chain, from its last rule to its first."""

    def __init__(
        self, path: PathCompiler, base_chain: BaseChain, chain: model.Chain, fall_through: int, stage: Stage
    ) -> None:
        self.path = path
        self.compiler = path.compiler
        self.space = path.space
        self.diagrams = path.diagrams
        self.base_chain = base_chain
        self.chain = chain
        self.fall_through = fall_through
        self.stage = stage
        self.is_tracked = base_chain.is_tracked or stage.leg == "lo"
        self.is_translated = stage.pending.translated is not None if self.is_tracked else None

    def node(self) -> int:
        """Return the fates of packets that enter the chain."""
        rules = list(enumerate(self.chain.rules_for(self.space.family), 1))
        node = self.fall_through
        while rules:
            start = len(rules)
            tested: set[type] = set()
            while start and self._may_be_listed(rules[start - 1][1], tested):
                start -= 1
                tested.update(map(type, rules[start][1].matches))
            end = min(start, len(rules) - 1)
            if len(rules) - start >= MIN_RUN:
                node = self._fates_of_run(rules[start:], node)
            else:
                for rule_before in reversed(rules[end:]):
                    node = self._fates_at_rule(*rule_before, node)
            del rules[end:]
        return node

    def _may_be_listed(self, rule: model.Rule, tested: set[type]) -> bool:
        """Return whether a rule changes nothing that later rules match, so that all can be judged at once."""
        verdict = effective_verdict(rule)
        if any(len(entries_of_match(match)) > MAX_LIST_ENTRIES for match in rule.matches):
            return False
        if isinstance(verdict, model.Jump):
            return tested.isdisjoint(self.compiler.changes(self.base_chain.contents, verdict.chain))
        return isinstance(verdict, (*DECIDING_VERDICTS, *model.VERDICTS_WITHOUT_EFFECT))

    def _fates_at_rule(self, position: int, rule: model.Rule, after: int) -> int:
        """Return the fates of packets that come to a rule; ``after`` are those of packets that come past it."""
        verdict = effective_verdict(rule)
        idle = TRACKING_VERDICTS if self.is_tracked else CONNECTION_VERDICTS
        if isinstance(verdict, (*model.VERDICTS_WITHOUT_EFFECT, *idle)):
            return after  # what is tracked stays so (xt_ct_target in xt_CT.c, nft_notrack_eval in nft_ct.c)
        if isinstance(verdict, model.UnknownVerdict):
            may = self.space.unknown(("verdict", self._occurrence_key(position)), rule)
            then = self.diagrams.choose(may, self.diagrams.leaf(UNKNOWN_FATE), after)
        elif isinstance(verdict, TRACKING_VERDICTS):
            then = self._tracking_fates(verdict, after)
        elif type(verdict) in CHANGED_MATCH:
            reason = self.path.reason(self, f"{position}", rule)
            then = self.path.with_reason(self.path.changed(verdict, after), verdict, reason)
        else:
            then = self._fates_by_verdict(verdict, self.path.reason(self, f"{position}", rule), after)
        occurrence, is_native = self._occurrence_key(position), self.base_chain.is_native
        early = [match for match in rule.matches if isinstance(match, TRACKING_MATCHES) and not self.is_tracked]
        later = rule.replace(matches=tuple(each for each in rule.matches if each not in early)) if early else rule
        matched = self.space.rule(later, occurrence, is_native=is_native, translated=self.is_translated)
        return self.diagrams.choose(self.diagrams.all_of((matched, *map(self._holds_untracked, early))), then, after)

    def _tracking_fates(self, verdict: model.Verdict, after: int) -> int:
        """Return the fates of packets whose tracking a rule decides on, if none before has given them a zone.

        A zone of nf_tables undoes that they are not tracked (nft_ct_set_zone_eval in nft_ct.c); one of iptables
        does not (xt_ct_target in xt_CT.c).
        """
        choose, path = self.diagrams.choose, self.path
        if isinstance(verdict, Untrack):
            return choose(path.has_zone, after, path.with_flag(after, path.is_untracked, 1))
        zoned = path.with_flag(after, path.has_zone, 1)
        is_native = self.base_chain.is_native
        return path.with_flag(zoned, path.is_untracked, 0) if is_native else choose(path.is_untracked, after, zoned)

    def _holds_untracked(self, match: model.Match) -> int:
        """Return packets that fulfil a match before they are tracked: INVALID, or UNTRACKED by a rule, without a mark.

        Sources: conntrack_mt in xt_conntrack.c, connmark_mt in xt_connmark.c, nft_ct_get_eval in nft_ct.c.
        """
        if not isinstance(match, model.ConnectionState):
            return self.diagrams.no
        states = ("INVALID", "UNTRACKED")
        invalid, untracked = (self.diagrams.leaf((state in match.states) != match.negated) for state in states)
        return self.diagrams.choose(self.path.is_untracked, untracked, invalid)

    def _fates_by_verdict(self, verdict: model.Verdict, reason: Reason | None, after: int) -> int:
        stage = self.stage
        if isinstance(verdict, CALLING_VERDICTS) and reason and reason[1]:
            stage = stage.replace(chosen_by=reason[1])
        if isinstance(verdict, model.Jump):
            return self.path.enter_chain(self.base_chain, verdict.chain, after, stage)
        then = self.path.apply_verdict(verdict, self.chain.name, self.fall_through, stage, self.base_chain)
        return self.path.with_reason(then, verdict, reason)

    def _occurrence_key(self, position: int) -> Hashable:
        return self.stage.leg, self.base_chain.table, self.chain.name, position

    def _fates_of_run(self, rules: Sequence[tuple[int, model.Rule]], after: int) -> int:
        """Return the fates of packets that come to many rules in a row.

        The last ones may be for packets of every address and port; they would be in each piece of the list.
        """
        end = len(rules)
        while end and not any(type(match) in LEVEL_OF_MATCH for match in rules[end - 1][1].matches):
            end -= 1
            after = self._fates_at_rule(*rules[end], after)
        if end == 0:
            return after
        lists = self._decision_list(rules[:end])
        functions: dict[int, int] = {}
        leaves = self.diagrams.leaves(lists)
        if len(leaves) > MAX_RUN_CASES:
            raise TooLargeError
        for leaf in leaves:
            node = after
            for verdict, reason in reversed(self.compiler.lists.verdicts(leaf)):
                node = self._fates_by_verdict(verdict, reason, node)
            functions[leaf] = node
        return self.space.switches.choose(lists, functions)

    def _decision_list(self, rules: Sequence[tuple[int, model.Rule]]) -> int:
        """Return the list of decisions, which is the same for every way that leads here."""
        is_known = not any(isinstance(match, model.UnknownMatch) for _, rule in rules for match in rule.matches)
        first = rules[0][0]
        where = (self.base_chain.table, self.chain.name, first, self.is_tracked)
        key = self.stage.chosen_by, where if is_known else (self._occurrence_key(first), self.is_translated)
        lists = self.compiler.decision_lists.get(key)
        if lists is None:
            deciding = [
                pair for pair in rules if not isinstance(effective_verdict(pair[1]), model.VERDICTS_WITHOUT_EFFECT)
            ]
            positions = f"{first}-{rules[-1][0]}"
            boxes = [self._box(position, rule, self.path.reason(self, positions, rule)) for position, rule in deciding]
            lists = self.compiler.decision_lists[key] = self.compiler.lists.diagram(boxes)
        return lists

    def _box(self, position: int, rule: model.Rule, reason: Reason | None) -> Box:
        ranges: dict[int, Ranges] = {}
        rest = self.diagrams.yes
        for match in modelled_matches(rule.matches, self.space.family, self.space.network):
            known = self.space.ranges(match, is_native=self.base_chain.is_native)
            if isinstance(match, TRACKING_MATCHES) and not self.is_tracked:
                rest = self.diagrams.both(rest, self._holds_untracked(match))
            elif known is None:
                occurrence = self._occurrence_key(position)
                holds = self.space.other(match, rule, occurrence, translated=self.is_translated)
                rest = self.diagrams.both(rest, holds)
            else:
                level, inside = known
                ranges[level] = _common_ranges(ranges[level], inside) if level in ranges else inside
        return Box(ranges, rest, (effective_verdict(rule), reason))


def is_about_tracking(rule: model.Rule) -> bool:
    """Return whether a rule may decide whether packets are tracked, or depends on that."""
    decides = isinstance(rule.verdict, (model.UnknownVerdict, model.SetZone))
    return decides or any(isinstance(match, TRACKING_MATCHES) for match in rule.matches)


def _common_ranges(ranges: Ranges, other_ranges: Ranges) -> Ranges:
    common = ((max(a, c), min(b, d)) for a, b in ranges for c, d in other_ranges)
    return sorted((first, last) for first, last in common if first <= last)
