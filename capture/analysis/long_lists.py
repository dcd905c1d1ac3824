"""Long lists of rules as functions of their own, so that their effect is computed once for each of their verdicts.

A list is a diagram whose values are the verdicts that a packet meets, in order, up to one that stops it.

Rules are boxes: for some fields the ranges that they must lie in. A list is built field by field, since rule by rule
takes time by the square of its length. The ends of all ranges cut the field, and a piece has only the rules that reach
it. Where rules overlap so much that this costs more than it saves, the list is cut in two, and the halves are joined.

The function of a list of 60,000 rules has as many nodes, and every operation would visit all of them. So the list is
kept aside. In its place is a switch: a field above all others, whose number is that of the verdicts that a
packet meets in the list::

    switch   0 -> dropped | 1 -> what comes after the list          one node
    aside    port 80, to 10.0.0.1 -> 0 | ... -> 0 | else -> 1       60,000

Functions with switches combine like others. A field that is fixed is fixed in the lists, too. At the end the lists are
put in.
"""

from __future__ import annotations

from bisect import insort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from capture.analysis.diagram import Diagrams
    from capture.analysis.outcome import Reason
    from capture.analysis.space import Ranges
    from capture.model.ruleset import Verdict

    ListedVerdict = tuple[Verdict, Reason | None]
    """A verdict, and the reason that it is for the fate of packets."""
    Indexes = tuple[int, ...]

MAX_MEAN_OVERLAP = 8
"""How many rules may reach each piece of a field, on average, before the list is cut in two instead."""
FREE_BUDGET = 2000


class Box:
    """A rule: its ranges by level, in order and apart; ``rest`` is a diagram of what else must hold, further down.

    There may be many thousands, so this is no Value. ``weight`` is how many ranges it has: what looking at it costs.
    """

    __slots__ = ("ranges", "rest", "verdict", "weight")

    def __init__(self, ranges: dict[int, Ranges], rest: int, verdict: ListedVerdict) -> None:
        self.ranges = ranges
        self.rest = rest
        self.verdict = verdict
        self.weight = sum(map(len, ranges.values()))


class DecisionList:
    """How boxes become a diagram; ``stops`` returns whether a verdict keeps packets from the rules behind it."""

    def __init__(
        self, diagrams: Diagrams, domain: Callable[[int], tuple[int, int]], stops: Callable[[ListedVerdict], bool]
    ) -> None:
        self.diagrams = diagrams
        self.domain = domain
        self.stops = stops
        self.nothing = diagrams.leaf(())

    def diagram(self, boxes: Sequence[Box]) -> int:
        """Return the function from packets to the tuple of verdicts that they meet."""
        levels = sorted({level for box in boxes for level in box.ranges})
        return self._diagram_of(boxes, tuple(range(len(boxes))), levels)

    def _diagram_of(self, boxes: Sequence[Box], indexes: Indexes, levels: Sequence[int]) -> int:
        """Return the diagram of some of the boxes, as far as these levels are concerned."""
        if not indexes:
            return self.nothing
        if len(indexes) == 1:
            return self._diagram_of_one(boxes[indexes[0]], levels)
        if not levels:
            return self._diagram_of_rests([boxes[index] for index in indexes])
        level = levels[0]
        testing = [index for index in indexes if level in boxes[index].ranges]
        if not testing:
            return self._diagram_of(boxes, indexes, levels[1:])
        pieces = self._split_boxes(boxes, indexes, testing, level)
        if pieces is None:
            half = len(indexes) // 2
            halves = (self._diagram_of(boxes, each, levels) for each in (indexes[:half], indexes[half:]))
            return self._joined_nodes(*halves)
        known: dict[Indexes, int] = {}
        bounds, children = [], []
        for end, active in pieces:
            if active not in known:
                known[active] = self._diagram_of(boxes, active, levels[1:])
            bounds.append(end)
            children.append(known[active])
        return self.diagrams.node(level, bounds[:-1], children)

    def _diagram_of_one(self, box: Box, levels: Sequence[int]) -> int:
        node = self.diagrams.choose(box.rest, self.diagrams.leaf((box.verdict,)), self.nothing)
        for level in reversed(levels):
            if level in box.ranges:
                node = self.diagrams.in_ranges(level, box.ranges[level], *self.domain(level), (node, self.nothing))
        return node

    def _split_boxes(
        self, boxes: Sequence[Box], indexes: Indexes, testing: list[int], level: int
    ) -> list[tuple[int, Indexes]] | None:
        """Return the pieces of a field, as the last number of each, and which boxes reach it; None if too many do."""
        anywhere = [index for index in indexes if level not in boxes[index].ranges]
        weight_anywhere = sum([boxes[index].weight for index in anywhere])
        budget = MAX_MEAN_OVERLAP * (weight_anywhere + sum([boxes[index].weight for index in testing])) + FREE_BUDGET
        pieces = []
        for end, active in self._sweep(boxes, testing, level):
            budget -= weight_anywhere + sum([boxes[index].weight for index in active])
            if budget < 0 and len(indexes) > 1:
                return None
            pieces.append((end, tuple(sorted((*anywhere, *active)) if anywhere else active)))
        return pieces

    def _sweep(self, boxes: Sequence[Box], testing: list[int], level: int) -> Iterator[tuple[int, list[int]]]:
        """Yield the last number of each piece with the boxes that test it and reach it."""
        low, high = self.domain(level)
        begins: dict[int, list[int]] = {}
        ends: dict[int, list[int]] = {}
        for index in testing:
            for first, last in boxes[index].ranges[level]:
                if last >= low and first <= high:
                    begins.setdefault(max(first, low), []).append(index)
                    ends.setdefault(min(last, high) + 1, []).append(index)
        active: list[int] = []
        cuts = sorted({low, *begins, *ends} - {high + 1})
        for cut, following in zip(cuts, [*cuts[1:], high + 1], strict=True):
            for index in ends.get(cut, ()):
                active.remove(index)
            for index in begins.get(cut, ()):
                insort(active, index)
            yield following - 1, active

    def _diagram_of_rests(self, boxes: Sequence[Box]) -> int:
        """Return the diagram of boxes that are all reached, by what else they test."""
        node = self.nothing
        for box in reversed(boxes[: self._first_stop(boxes) + 1]):
            node = self.diagrams.choose(box.rest, self._followed_by(box.verdict, node), node)
        return node

    def _first_stop(self, boxes: Sequence[Box]) -> int:
        """Return the index of the first box that lets nothing come to those behind it."""
        for index, box in enumerate(boxes):
            if box.rest == self.diagrams.yes and self.stops(box.verdict):
                return index
        return len(boxes)

    def _followed_by(self, verdict: ListedVerdict, behind: int) -> int:
        """Return the verdict alone if it stops, else followed by those behind it."""
        if self.stops(verdict):
            return self.diagrams.leaf((verdict,))
        return self._joined_nodes(self.diagrams.leaf((verdict,)), behind)

    def _joined_nodes(self, first: int, second: int) -> int:
        diagrams = self.diagrams

        def join(one: int, other: int) -> int | None:
            if self.nothing in (one, other):
                return other if one == self.nothing else one
            if not diagrams.is_leaf(one):
                return None
            if self.stops(self.verdicts(one)[-1]):
                return one
            return diagrams.leaf((*self.verdicts(one), *self.verdicts(other))) if diagrams.is_leaf(other) else None

        return diagrams.combine(first, second, join, "joined lists")

    def verdicts(self, leaf: int) -> tuple[ListedVerdict, ...]:
        """Return what packets meet that come to a leaf."""
        verdicts = self.diagrams.value(leaf)
        return verdicts if isinstance(verdicts, tuple) else ()


# --- long lists as one field each ----------------------------------------------------------------

MAX_PUT_IN = 2000
"""A list of no more edges is put in at once."""
MAX_SWITCHES = 6
"""If more long lists than this are in one rule set, the further ones are put in at once: switches multiply."""
MAX_SINGLE_CHOICES = 6
"""So many functions are put in one after the other, which is faster than case by case."""


class Switches:
    """The switches of a store of diagrams. Their levels are negative, and each is above those that were there."""

    def __init__(self, diagrams: Diagrams) -> None:
        self.diagrams = diagrams
        self._lists: list[int] = []
        self._leaves: list[list[int]] = []
        """The leaves of each list, in the order of the switch's numbers."""
        self._levels: dict[int, int] = {}
        self._memos: dict[Hashable, dict[int, int]] = {}

    def choose(self, decision_list: int, functions: Mapping[int, int]) -> int:
        """Return what is, for each packet, the function of the leaf to which a list leads it."""
        if len(self._lists) >= MAX_SWITCHES or self.diagrams.has_at_most_edges(MAX_PUT_IN, decision_list):
            return self._put_in(decision_list, functions)
        level = self._levels.get(decision_list, 0)
        if level >= min(0, *map(self.diagrams.level, functions.values())):  # none that is above what it leads to
            self._lists.append(decision_list)
            self._leaves.append(self.diagrams.leaves(decision_list))
            level = self._levels[decision_list] = -len(self._lists)
        children = [functions[leaf] for leaf in self._leaves[-level - 1]]
        return self.diagrams.node(level, range(len(children) - 1), children)

    def restricted(self, node: int, level: int, number: int) -> int:
        """Return the function with one field fixed."""
        return self._with_changed_lists(
            node, lambda each: self.diagrams.restricted(each, level, number), ("restricted", level, number)
        )

    def renamed(self, node: int, levels: Mapping[int, int], name: Hashable) -> int:
        """Return the function that tests another field in place of each of ``levels``."""
        return self._with_changed_lists(node, lambda each: self.diagrams.renamed(each, levels, name), ("moved", name))

    def expanded(self, node: int) -> int:
        """Return the function with all lists put in."""
        memo = self._memos.setdefault("expanded", {})

        def result(node: int) -> int:
            if self.diagrams.level(node) >= 0:
                return node
            if node not in memo:
                decision_list, functions = self.list_and_targets(node)
                memo[node] = self._put_in(decision_list, {leaf: result(child) for leaf, child in functions.items()})
            return memo[node]

        return result(node)

    def _put_in(self, decision_list: int, functions: Mapping[int, int]) -> int:
        """Return the function of the leaf to which a list leads."""
        node, *others = dict.fromkeys(functions.values())
        if len(others) > MAX_SINGLE_CHOICES:
            return self.diagrams.cases(decision_list, functions)
        for other in others:
            leaves = {leaf for leaf, child in functions.items() if child == other}
            node = self.diagrams.choose(self.diagrams.reaches(decision_list, leaves), other, node)
        return node

    def _with_changed_lists(self, node: int, change: Callable[[int], int], name: Hashable) -> int:
        """Return the function with its fields changed, those that lists test among them."""
        memo = self._memos.setdefault(name, {})

        def result(node: int) -> int:
            if self.diagrams.level(node) >= 0:
                return change(node)
            if node not in memo:
                decision_list, functions = self.list_and_targets(node)
                decision_list = change(decision_list)
                reached = self.diagrams.leaves(decision_list)
                memo[node] = self.choose(decision_list, {leaf: result(functions[leaf]) for leaf in reached})
            return memo[node]

        return result(node)

    def list_and_targets(self, node: int) -> tuple[int, dict[int, int]]:
        """Return the list of a switch, and where each of its leaves leads."""
        index = -self.diagrams.level(node) - 1
        leaves = self._leaves[index]
        return self._lists[index], {leaf: self.diagrams.child(node, number) for number, leaf in enumerate(leaves)}
