"""A list of rules as one function: at every number it is what going through the rules gives."""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

from capture.analysis import long_lists
from capture.analysis.diagram import Diagrams
from capture.analysis.long_lists import Box, DecisionList
from capture.model.addresses import merge_ranges
from support.generators.small_pools import value_at

DOMAINS = ((-1, 6), (0, 5))
REST = 2
"""A level below those of the ranges, for what else a rule tests."""


def drawn(chance: random.Random, diagrams: Diagrams) -> tuple[Box, Any]:
    """Return a box and whether it holds of numbers; its ranges may reach beyond the domain."""
    ranges: dict[int, Sequence[tuple[int, int]]] = {}
    for level, (low, high) in enumerate(DOMAINS):
        if chance.random() < 0.8:
            ends = [sorted(chance.choices(range(max(low - 1, -1), high + 3), k=2)) for _ in range(chance.randint(1, 2))]
            ranges[level] = merge_ranges((first, last) for first, last in ends)
    needs_rest = chance.random() < 0.3
    rest = diagrams.in_ranges(REST, [(1, 1)], 0, 1, (diagrams.yes, diagrams.no)) if needs_rest else diagrams.yes
    verdict: Any = chance.choice("abcDEF")

    def holds(numbers: tuple[int, ...]) -> bool:
        inside = (any(a <= numbers[level] <= b for a, b in ranges[level]) for level in ranges)
        return all(inside) and (numbers[REST] == 1 or not needs_rest)

    return Box(ranges, rest, verdict), holds


@pytest.mark.parametrize("mean_overlap", [0, long_lists.MAX_MEAN_OVERLAP])
@pytest.mark.parametrize("seed", range(30))
def test_a_list_is_what_going_through_its_rules_gives(
    seed: int, mean_overlap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capital letter ends the list. Where rules overlap too much, it is cut in two."""
    monkeypatch.setattr(long_lists, "MAX_MEAN_OVERLAP", mean_overlap)
    monkeypatch.setattr(long_lists, "FREE_BUDGET", 0)
    chance, diagrams = random.Random(seed), Diagrams()  # noqa: S311 - repeatable
    boxes = [drawn(chance, diagrams) for _ in range(chance.randint(0, 8))]
    decisions = DecisionList(diagrams, lambda level: DOMAINS[level], lambda verdict: str(verdict).isupper())
    found = decisions.diagram([box for box, _ in boxes])
    for numbers in product(*(range(low, high + 1) for low, high in DOMAINS), (0, 1)):
        met: list[Any] = []
        for box, holds in boxes:
            if holds(numbers) and not (met and met[-1].isupper()):
                met.append(box.verdict)
        assert value_at(diagrams, found, numbers) == tuple(met)
