"""Interval decision diagrams: functions of numbered fields, exact for every assignment. A pure data structure.

A node tests one field and leads, by the interval that the field's number lies in, to another node or to a leaf
with a value. Fields are tested in one order, from level 0 on, and equal functions are one node::

    level 0   port    0-79 -> B | 80 -> A | 81-65535 -> B
    level 1   user    A: 0-1336 -> "captured" | 1337 -> "direct" | ...

So two functions are equal if their numbers are. This is the firewall decision diagram (Gouda and Liu,
"Structured firewall design", 2007), reduced, with memoised operations (Bryant 1986). Nodes are numbers into lists,
which is what makes it fast in Python.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from itertools import compress, repeat
from operator import ne

from capture.errors import CaptureError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence

    Splits = tuple[int, ...]

LEAF_LEVEL = 1 << 30
"""Below every field."""
MAX_EDGES = 12_000_000
"""More than any rule set of practice needs; some 200 MB."""


class TooLargeError(CaptureError):
    """The diagram of the function would be too large, so that nothing can be judged."""

    def __init__(self) -> None:
        super().__init__(
            f"the rules are too entangled to be judged exactly: more than {MAX_EDGES} intervals",
            "Fewer rules that combine several wide ranges each would help.",
        )


class Diagrams:
    """A store of diagrams, in which equal functions are one number."""

    def __init__(self) -> None:
        self._levels: list[int] = []
        self._bounds: list[Splits] = []
        """For each node the last number of each interval but the last."""
        self._children: list[tuple[int, ...]] = []
        self._values: dict[int, Hashable] = {}
        self._leaves: dict[tuple[type, Hashable], int] = {}
        self._unique: dict[tuple[int, Splits, tuple[int, ...]], int] = {}
        self._edges = 0
        self._chosen: dict[tuple[int, int, int], int] = {}
        self._memos: dict[Hashable, dict[Hashable, int]] = {}
        self.no = self.leaf(False)
        self.yes = self.leaf(True)

    # --- making nodes --------------------------------------------------------------------------

    def leaf(self, value: Hashable) -> int:
        """Return the constant function."""
        key = (type(value), value)
        node = self._leaves.get(key)
        if node is None:
            node = self._leaves[key] = self._add(LEAF_LEVEL, (), ())
            self._values[node] = value
        return node

    def node(self, level: int, bounds: Sequence[int], children: Sequence[int]) -> int:
        """Return the function that tests a field: ``children`` are those of its intervals, one more than bounds."""
        all_children = tuple(children)
        node = self._unique.get((level, tuple(bounds), all_children))
        if node is not None:
            return node
        differs = list(map(ne, all_children, all_children[1:]))
        own_bounds = tuple(compress(bounds, differs))
        if not own_bounds:
            return all_children[0]
        key = (level, own_bounds, (all_children[0], *compress(all_children[1:], differs)))
        node = self._unique.get(key)
        if node is None:
            node = self._unique[key] = self._add(*key)
        return node

    def _add(self, level: int, bounds: Splits, children: tuple[int, ...]) -> int:
        self._edges += len(children)
        if self._edges > MAX_EDGES:
            raise TooLargeError
        self._levels.append(level)
        self._bounds.append(bounds)
        self._children.append(children)
        return len(self._levels) - 1

    def in_ranges(
        self, level: int, ranges: Iterable[tuple[int, int]], low: int, high: int, answers: tuple[int, int] | None = None
    ) -> int:
        """Return whether a field of the domain ``low`` to ``high`` lies in ranges, which are in order and apart.

        With answers, the first of these functions where it does, and the second elsewhere.
        """
        inside, outside = answers or (self.yes, self.no)
        bounds: list[int] = []
        children: list[int] = []
        start = low
        for first, last in ranges:
            begin, end = max(first, low), min(last, high)
            if begin > end:
                continue
            if begin > start:
                bounds.append(begin - 1)
                children.append(outside)
            bounds.append(end)
            children.append(inside)
            start = end + 1
        if start <= high:
            children.append(outside)
        else:
            bounds.pop()
        return self.node(level, bounds, children)

    # --- looking at them -----------------------------------------------------------------------

    def level(self, node: int) -> int:
        """Return which field a node tests; LEAF_LEVEL for a leaf."""
        return self._levels[node]

    def is_leaf(self, node: int) -> bool:
        return self._levels[node] == LEAF_LEVEL

    def value(self, leaf: int) -> Hashable:
        return self._values[leaf]

    def edges(self, node: int) -> zip[tuple[int | None, int]]:
        """Return the intervals of a node, as the last number of each (None: the highest), and where they lead."""
        return zip((*self._bounds[node], None), self._children[node], strict=True)

    def child(self, node: int, number: int) -> int:
        """Return where a number of its field leads from a node."""
        return self._children[node][bisect_left(self._bounds[node], number)]

    def children(self, node: int) -> set[int]:
        """Return where a node leads."""
        return set(self._children[node])

    def leaves(self, node: int) -> list[int]:
        """Return the leaves that a function has, in the order in which they are met."""
        return [each for each in self._nodes_below(node) if self._levels[each] == LEAF_LEVEL]

    def levels(self, node: int) -> set[int]:
        """Return which fields a function tests."""
        return {self._levels[each] for each in self._nodes_below(node)} - {LEAF_LEVEL}

    def has_at_most_edges(self, count: int, node: int) -> bool:
        """Return whether a function has no more edges than so many."""
        edges = 0
        for below in self._nodes_below(node):
            edges += len(self._children[below])
            if edges > count:
                return False
        return True

    def _nodes_below(self, node: int) -> Iterator[int]:
        """Yield the node and all that it leads to, each once, in the order of the intervals."""
        seen: set[int] = set()
        ahead = [node]
        while ahead:
            current = ahead.pop()
            if current not in seen:
                seen.add(current)
                yield current
                ahead += reversed(dict.fromkeys(self._children[current]))

    # --- truth values --------------------------------------------------------------------------

    def negation(self, node: int) -> int:
        """Return what is true where a function is false."""
        return self.choose(node, self.no, self.yes)

    def both(self, first: int, second: int) -> int:
        """Return what is true where both are."""
        return self.choose(first, second, self.no)

    def either(self, first: int, second: int) -> int:
        """Return what is true where one is, or both."""
        return self.choose(first, self.yes, second)

    def all_of(self, conditions: Iterable[int]) -> int:
        """Return what is true where all are."""
        return functools.reduce(self.both, conditions, self.yes)

    def any_of(self, conditions: Iterable[int]) -> int:
        """Return what is true where at least one is."""
        return functools.reduce(self.either, conditions, self.no)

    def choose(self, condition: int, then: int, otherwise: int) -> int:
        """Return ``then`` where the condition is true, and ``otherwise`` elsewhere."""
        if condition == self.yes or then == otherwise:
            return then
        if condition == self.no:
            return otherwise
        if then == self.yes and otherwise == self.no:
            return condition
        key = (condition, then, otherwise)
        chosen = self._chosen.get(key)
        if chosen is None:
            level, bounds, columns = self.aligned(key)
            chosen = self._chosen[key] = self.node(level, bounds, [self.choose(*each) for each in columns])
        return chosen

    def aligned(self, nodes: tuple[int, ...]) -> tuple[int, Sequence[int], list[tuple[int, ...]]]:
        """Return the topmost level of some nodes, all their bounds there, and where each leads in each interval."""
        levels = [self._levels[node] for node in nodes]
        level = min(levels)
        distinct = {self._bounds[node] for node, at in zip(nodes, levels, strict=True) if at == level}
        bounds: Sequence[int] = distinct.pop() if len(distinct) == 1 else sorted(set().union(*distinct))
        columns = [
            self._column_of_node(node, bounds) if at == level else repeat(node)
            for node, at in zip(nodes, levels, strict=True)
        ]
        return level, bounds, list(zip(*columns, strict=False))

    def _column_of_node(self, node: int, cuts: Sequence[int]) -> Sequence[int]:
        bounds, children = self._bounds[node], self._children[node]
        if len(bounds) == len(cuts):
            return children
        return [*[children[bisect_left(bounds, cut)] for cut in cuts], children[-1]]

    # --- other operations ----------------------------------------------------------------------

    def combine(self, first: int, second: int, join: Callable[[int, int], int | None], name: Hashable) -> int:
        """Return a function of two others: ``join`` returns the node for two nodes, None to look deeper.

        For two leaves it has to know. ``name`` is that of the operation; results are kept under it.
        """
        memo = self._memos.setdefault(name, {})

        def result(pair: tuple[int, int]) -> int:
            known = join(*pair)
            if known is not None:
                return known
            node = memo.get(pair)
            if node is None:
                level, bounds, columns = self.aligned(pair)
                local = {each: result((each[0], each[1])) for each in set(columns)}
                node = memo[pair] = self.node(level, bounds, [local[each] for each in columns])
            return node

        return result((first, second))

    def difference(self, first: int, second: int) -> int:
        """Return None where two functions are equal, else the pair of their values."""
        same = self.leaf(None)

        def join(one: int, other: int) -> int | None:
            if one == other:
                return same
            if self.is_leaf(one) and self.is_leaf(other):
                return self.leaf((self._values[one], self._values[other]))
            return None

        return self.combine(first, second, join, "differing")

    def where_equal(self, first: int, second: int, otherwise: int) -> int:
        """Return what two functions are where they are equal; ``otherwise`` is a leaf."""

        def join(one: int, other: int) -> int | None:
            is_known = one == other or (self.is_leaf(one) and self.is_leaf(other))
            return (one if one == other else otherwise) if is_known else None

        return self.combine(first, second, join, ("common", otherwise))

    def rewritten(self, node: int, change: Callable[[int], int | None], name: Hashable) -> int:
        """Return a function with some nodes replaced; ``change`` returns the new one, None to look deeper.

        For a leaf it has to know. ``name`` is that of the operation; results are kept under it.
        """
        return self._rebuilt(node, change, self._with_children, self._memos.setdefault(name, {}))

    def _rebuilt(
        self,
        node: int,
        change: Callable[[int], int | None],
        make: Callable[[int, Sequence[int]], int],
        memo: dict[Hashable, int],
    ) -> int:
        """Return a function remade from below: ``make`` returns a node from the old one and its new children."""

        def result(node: int) -> int:
            replaced = change(node)
            if replaced is None:
                replaced = memo.get(node)
            if replaced is None:
                local = {child: result(child) for child in set(self._children[node])}
                replaced = memo[node] = make(node, [local[child] for child in self._children[node]])
            return replaced

        return result(node)

    def _with_children(self, node: int, children: Sequence[int]) -> int:
        return self.node(self._levels[node], self._bounds[node], children)

    def reaches(self, node: int, leaves: Collection[int]) -> int:
        """Return whether a function leads to one of some leaves. What is in between is not kept."""

        def change(node: int) -> int | None:
            if self._levels[node] != LEAF_LEVEL:
                return None
            return self.yes if node in leaves else self.no

        return self._rebuilt(node, change, self._with_children, {})

    def mapped(self, node: int, function: Callable[[Hashable], Hashable], name: Hashable) -> int:
        """Return a function with its values replaced."""

        def change(node: int) -> int | None:
            return self.leaf(function(self._values[node])) if self.is_leaf(node) else None

        return self.rewritten(node, change, ("mapped", name))

    def restricted(self, node: int, level: int, number: int) -> int:
        """Return the function with one field fixed."""

        def change(node: int) -> int | None:
            if self._levels[node] > level:
                return node
            return self.child(node, number) if self._levels[node] == level else None

        return self.rewritten(node, change, ("restricted", level, number))

    def renamed(self, node: int, levels: Mapping[int, int], name: Hashable) -> int:
        """Return the function that tests another field in place of each of ``levels``.

        Levels may move up or down, and onto each other.
        """
        lowest = max(levels)
        highest = min((*levels, *levels.values()))

        def make(node: int, children: Sequence[int]) -> int:
            level = self._levels[node]
            if level < highest:
                return self._with_children(node, children)
            return self._put_above(levels.get(level, level), self._bounds[node], children)

        return self._rebuilt(node, self._kept_below(lowest), make, self._memos.setdefault(("moved", name), {}))

    def _kept_below(self, lowest: int) -> Callable[[int], int | None]:
        """Return what keeps nodes below a level as they are."""
        return lambda each: each if self._levels[each] > lowest else None

    def _put_above(self, level: int, bounds: Splits, children: Sequence[int]) -> int:
        """Return a node whose children may test the fields above it."""
        if len(children) == 1:
            return children[0]
        half = len(children) // 2
        below = self.node(level, (bounds[half - 1],), (self.yes, self.no))
        parts = (bounds[: half - 1], children[:half]), (bounds[half:], children[half:])
        return self.choose(below, *(self._put_above(level, *part) for part in parts))

    def exists(self, node: int, levels: Collection[int]) -> int:
        """Return where a truth value is true for some numbers of the fields of ``levels``."""

        def make(node: int, children: Sequence[int]) -> int:
            if self._levels[node] not in levels:
                return self._with_children(node, children)
            return self.any_of(set(children))

        memo = self._memos.setdefault(("possible", frozenset(levels)), {})
        return self._rebuilt(node, self._kept_below(max(levels)), make, memo)

    def cases(self, node: int, functions: Mapping[int, int]) -> int:
        """Return a function with leaves replaced by functions, which may test any field."""

        def change(node: int) -> int | None:
            return functions.get(node, node) if self.is_leaf(node) else None

        def make(node: int, children: Sequence[int]) -> int:
            return self._put_above(self._levels[node], self._bounds[node], children)

        return self._rebuilt(node, change, make, {})

    def cofactor(self, node: int, level: int, number: int) -> int:
        """Return where a number of a field leads from a node, which may not test it."""
        return self.child(node, number) if self._levels[node] == level else node
