"""Diagrams against the functions that they are, number by number."""

from __future__ import annotations

from itertools import combinations, product
from random import Random

import pytest

from capture.analysis.diagram import Diagrams
from capture.analysis.long_lists import Box, DecisionList
from capture.model.ruleset import Accept, Drop, Jump, Return
from support.generators.small_pools import value_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from capture.analysis.space import Ranges

    Function = Callable[[tuple[int, ...]], Any]

HIGH = 5
FIELDS = 3
ALL = list(product(range(HIGH + 1), repeat=FIELDS))


class Drawn:
    """Random functions of three small fields, each as a diagram and as what it is."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311  # no secret
        self.diagrams = Diagrams()

    def truth(self) -> tuple[int, Function]:
        """Return whether fields lie in random ranges."""
        node, function = self._range()
        for _ in range(self.random.randrange(3)):
            other, is_other = self._range()
            join = self.random.choice((self.diagrams.both, self.diagrams.either))
            node = join(node, other)
            function = _joined(function, is_other, either=join == self.diagrams.either)
        return node, function

    def _range(self) -> tuple[int, Function]:
        level = self.random.randrange(FIELDS)
        first = self.random.randint(0, HIGH)
        last = self.random.randint(first, HIGH)
        return self.diagrams.in_ranges(level, [(first, last)], 0, HIGH), lambda at: first <= at[level] <= last

    def values(self) -> tuple[int, Function]:
        """Return a function with three values."""
        (one, is_one), (two, is_two) = self.truth(), self.truth()
        node = self.diagrams.choose(one, self.diagrams.leaf("a"), self.diagrams.leaf("b"))
        node = self.diagrams.choose(two, node, self.diagrams.leaf("c"))
        return node, lambda at: ("a" if is_one(at) else "b") if is_two(at) else "c"

    def same(self, node: int, function: Function) -> bool:
        """Return whether a diagram is a function."""
        return all(value_at(self.diagrams, node, at) == function(at) for at in ALL)


def _joined(one: Function, other: Function, *, either: bool) -> Function:
    return lambda at: bool(one(at) or other(at)) if either else bool(one(at) and other(at))


SEEDS = pytest.mark.parametrize("seed", range(40))


@SEEDS
def test_truth_values_combine_as_functions_do(seed: int) -> None:
    drawn = Drawn(seed)
    node, function = drawn.truth()

    assert drawn.same(node, function)
    assert drawn.same(drawn.diagrams.negation(node), lambda at: not function(at))


@SEEDS
def test_equal_functions_are_one_node(seed: int) -> None:
    drawn = Drawn(seed)
    (node, function), (other, is_other) = drawn.truth(), drawn.truth()

    assert (node == other) == all(function(at) == is_other(at) for at in ALL)
    assert drawn.diagrams.negation(drawn.diagrams.negation(node)) == node


@SEEDS
def test_differing_shows_where_two_functions_differ_and_how(seed: int) -> None:
    drawn = Drawn(seed)
    (one, first), (two, second) = drawn.values(), drawn.values()

    def difference(at: tuple[int, ...]) -> object:
        return None if first(at) == second(at) else (first(at), second(at))

    assert drawn.same(drawn.diagrams.difference(one, two), difference)


@SEEDS
def test_fixed_and_moved_fields(seed: int) -> None:
    drawn = Drawn(seed)
    node, function = drawn.values()
    level, other, number = seed % FIELDS, (seed + 1) % FIELDS, seed % HIGH

    def fixed(at: tuple[int, ...]) -> object:
        return function((*at[:level], number, *at[level + 1 :]))

    def moved(at: tuple[int, ...]) -> object:
        return function((*at[:level], at[other], *at[level + 1 :]))

    assert drawn.same(drawn.diagrams.restricted(node, level, number), fixed)
    assert drawn.same(drawn.diagrams.renamed(node, {level: other}, (level, other)), moved)


@SEEDS
def test_possible_for_some_number(seed: int) -> None:
    drawn = Drawn(seed)
    node, function = drawn.truth()
    levels = {seed % FIELDS, seed // 2 % FIELDS}

    def possible(at: tuple[int, ...]) -> bool:
        others = product(*[range(HIGH + 1) if level in levels else (at[level],) for level in range(FIELDS)])
        return any(function(other) for other in others)

    assert drawn.same(drawn.diagrams.exists(node, levels), possible)


@SEEDS
def test_leaves_replaced_by_functions(seed: int) -> None:
    drawn = Drawn(seed)
    node, function = drawn.values()
    put = {value: drawn.truth() for value in "ab"}
    leaves = {drawn.diagrams.leaf(value): each for value, (each, _) in put.items()}

    def replaced(at: tuple[int, ...]) -> object:
        value = function(at)
        return put[value][1](at) if isinstance(value, str) and value in put else value

    assert drawn.same(drawn.diagrams.cases(node, leaves), replaced)


@pytest.mark.parametrize("count", [3, 30, 300])
@pytest.mark.parametrize("seed", range(6))
def test_a_list_of_rules_is_what_each_packet_meets_of_it(seed: int, count: int) -> None:
    drawn = Drawn(seed)
    random = drawn.random
    rules = []
    for _ in range(count):
        wanted: dict[int, Ranges] = {}
        for level in random.sample(range(FIELDS - 1), random.randrange(FIELDS)):
            first = random.randint(0, HIGH)
            wanted[level] = [(first, random.randint(first, HIGH))]
        rest = drawn.diagrams.in_ranges(2, [(0, random.randint(0, HIGH))], 0, HIGH)
        rules.append((wanted, rest, (random.choice((Return(), Drop(), Accept(), Jump("a"), Jump("b"))), None)))
    lists = DecisionList(drawn.diagrams, lambda _: (0, HIGH), lambda act: not isinstance(act[0], Jump))

    node = lists.diagram([Box(wanted, rest, act) for wanted, rest, act in rules])

    def met(at: tuple[int, ...]) -> tuple[object, ...]:
        found: list[object] = []
        for wanted, rest, act in rules:
            inside = all(first <= at[level] <= last for level, ((first, last),) in wanted.items())
            if inside and value_at(drawn.diagrams, rest, at) is True:
                found.append(act)
                if not isinstance(act[0], Jump):
                    break
        return tuple(found)

    assert drawn.same(node, met)


def test_of_ranges_that_reach_beyond_a_field_the_rest_counts() -> None:
    diagrams = Diagrams()
    for first, last, then, end in combinations(range(-2, HIGH + 4), 4):
        ranges = [(first, last - 1), (then, end)]
        found = diagrams.in_ranges(0, ranges, 0, HIGH)
        for number in range(HIGH + 1):
            assert value_at(diagrams, found, (number,)) is any(low <= number <= high for low, high in ranges)


@pytest.mark.parametrize("seed", range(4))
def test_edges_are_counted_no_further_than_needed(seed: int) -> None:
    drawn = Drawn(seed)
    node, _ = drawn.values()
    ahead, inner = {node}, set()
    while ahead:
        inner |= ahead
        ahead = {
            child for each in ahead for child in drawn.diagrams.children(each) if not drawn.diagrams.is_leaf(child)
        } - inner
    edges = sum(len(drawn.diagrams.aligned((each,))[2]) for each in inner)
    assert [drawn.diagrams.has_at_most_edges(count, node) for count in range(edges + 2)] == [False] * edges + [True] * 2
