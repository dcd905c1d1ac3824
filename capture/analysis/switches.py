"""Long lists of rules as one field each, so that their effect is computed once for each of their verdicts.

The function of a list of 60,000 rules has as many nodes, and every operation would visit all of them. So the list is
kept aside. In its place is a switch: a field above all others, whose number is that of the verdicts that a
packet meets in the list::

    switch   0 -> dropped | 1 -> what comes after the list          one node
    aside    port 80, to 10.0.0.1 -> 0 | ... -> 0 | else -> 1       60,000

Functions with switches are chosen and combined like others. Where a field is fixed it is fixed in the list, too, and
at the end the lists are put in.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from capture.analysis.diagram import Diagrams

MAX_PUT_IN = 2000
"""A list of no more edges is put in at once."""
MAX_SWITCHES = 6
"""And so is every further list: of several, each of their verdicts is combined with each."""
FEW = 6
"""So many functions are put in one after the other, which is faster than case by case."""


class Switches:
    """The switches of a store of diagrams. Their levels are negative, and each is above those that were there."""

    def __init__(self, diagrams: Diagrams) -> None:
        self.diagrams = diagrams
        self._lists: list[int] = []
        self._leaves: list[list[int]] = []
        """Of each list, in the order of the switch's numbers."""
        self._levels: dict[int, int] = {}
        self._memos: dict[Hashable, dict[int, int]] = {}

    def chosen(self, lists: int, functions: Mapping[int, int]) -> int:
        """Return what is, for each packet, the function of the leaf to which a list leads it."""
        if len(self._lists) >= MAX_SWITCHES or self.diagrams.has_at_most(MAX_PUT_IN, lists):
            return self.diagrams.cases(lists, functions)
        level = self._level(lists, min(map(self.diagrams.level, functions.values())))
        kids = [functions[leaf] for leaf in self._leaves[-level - 1]]
        return self.diagrams.node(level, range(len(kids) - 1), kids)

    def _level(self, lists: int, below: int) -> int:
        """Return the level of a switch for a list: one that is there, if it is above what it leads to."""
        level = self._levels.get(lists, 0)
        if level >= min(below, 0):
            self._lists.append(lists)
            self._leaves.append(self.diagrams.leaves(lists))
            level = self._levels[lists] = -len(self._lists)
        return level

    def restricted(self, node: int, level: int, number: int) -> int:
        """Return the function with one field fixed."""
        return self._changed(
            node, lambda each: self.diagrams.restricted(each, level, number), ("restricted", level, number)
        )

    def moved(self, node: int, levels: Mapping[int, int], name: Hashable) -> int:
        """Return the function that tests another field in place of each of ``levels``."""
        return self._changed(node, lambda each: self.diagrams.moved(each, levels, name), ("moved", name))

    def expanded(self, node: int) -> int:
        """Return the function with all lists put in."""
        memo = self._memos.setdefault("expanded", {})

        def result(each: int) -> int:
            if self.diagrams.level(each) >= 0:
                return each
            if each not in memo:
                lists, functions = self.parts(each)
                memo[each] = self._put_in(lists, {leaf: result(kid) for leaf, kid in functions.items()})
            return memo[each]

        return result(node)

    def _put_in(self, lists: int, functions: Mapping[int, int]) -> int:
        """Return the function of the leaf to which a list leads."""
        found, *others = dict.fromkeys(functions.values())
        if len(others) > FEW:
            return self.diagrams.cases(lists, functions)
        for each in others:
            leads_there = self.diagrams.leads_to(lists, {leaf for leaf, kid in functions.items() if kid == each})
            found = self.diagrams.choose(leads_there, each, found)
        return found

    def _changed(self, node: int, change: Callable[[int], int], name: Hashable) -> int:
        """Return the function with its fields changed, those that lists test among them."""
        memo = self._memos.setdefault(name, {})

        def result(each: int) -> int:
            if self.diagrams.level(each) >= 0:
                return change(each)
            if each not in memo:
                lists, functions = self.parts(each)
                lists = change(lists)
                reached = self.diagrams.leaves(lists)
                memo[each] = self.chosen(lists, {leaf: result(functions[leaf]) for leaf in reached})
            return memo[each]

        return result(node)

    def parts(self, node: int) -> tuple[int, dict[int, int]]:
        """Return the list of a switch, and where each of its leaves leads."""
        place = -self.diagrams.level(node) - 1
        leaves = self._leaves[place]
        return self._lists[place], {leaf: self.diagrams.kid(node, number) for number, leaf in enumerate(leaves)}
