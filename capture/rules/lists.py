"""Short lists are one rule an entry, so that each has a counter of its own; long ones are one rule."""

from __future__ import annotations

from capture.model.addresses import FAMILIES, Family, Network
from capture.model.ruleset import MAX_SINGLE_RULES, Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")


def grouped(entries: tuple[T, ...]) -> list[tuple[T, ...]]:
    """Return the entries one by one, or all together if they are many."""
    if len(entries) > MAX_SINGLE_RULES:
        return [entries]
    return [(entry,) for entry in entries]


def per_entry(entries: tuple[T, ...], rule: Callable[[tuple[T, ...]], Rule]) -> Iterator[Rule]:
    """Yield one rule for each entry of a short list, and one for all entries of a long list."""
    for some in grouped(entries):
        yield rule(some)


def of_family(networks: tuple[Network, ...], family: Family) -> tuple[Network, ...]:
    """Return the networks of one family."""
    return tuple([network for network in networks if network.family == family])


def per_network(networks: tuple[Network, ...], rule: Callable[[Family, tuple[Network, ...]], Rule]) -> Iterator[Rule]:
    """Yield the rules for networks of both families, those of IPv4 first."""
    for family in FAMILIES:
        for some in grouped(of_family(networks, family)):
            yield rule(family, some)
