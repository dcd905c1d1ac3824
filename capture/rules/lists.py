"""Short lists are one rule an entry, so that each has a counter of its own; long ones are one rule."""

from __future__ import annotations

from capture.model.addresses import FAMILIES, Family, Network
from capture.model.ruleset import MAX_SINGLE_RULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    T = TypeVar("T")


def entries_per_rule(entries: tuple[T, ...]) -> list[tuple[T, ...]]:
    """Return the entries one by one, or all together if they are many."""
    if len(entries) > MAX_SINGLE_RULES:
        return [entries]
    return [(entry,) for entry in entries]


def networks_of_family(networks: tuple[Network, ...], family: Family) -> tuple[Network, ...]:
    """Return the networks of one family."""
    return tuple([network for network in networks if network.family == family])


def networks_per_rule(networks: tuple[Network, ...]) -> Iterator[tuple[Family, tuple[Network, ...]]]:
    """Yield the networks of each family as ``entries_per_rule`` does, those of IPv4 first."""
    for family in FAMILIES:
        for entries in entries_per_rule(networks_of_family(networks, family)):
            yield family, entries
