"""The results of ``verify`` and ``dump``."""

from __future__ import annotations

from capture.model.addresses import FAMILY_NAMES, IPV4, IPV6
from capture.model.chain_names import is_own_chain
from capture.model.conventions import NO_IPV4
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from capture.analysis.compare import Difference
    from capture.analysis.culprits import Obstacle
    from capture.analysis.effects import Effect
    from capture.backends.detect import BackendChoice
    from capture.model.addresses import Family
    from capture.model.routing import LoopbackAddress, MissingRoute
    from capture.model.ruleset import Ruleset, TableName
    from capture.state.impediments import Impediment

    Conclusion = Literal["nothing applied", "drift", "in sync", "cannot be judged", "no reference"]


class SecondSet(Value):
    """A second set, our own or upstream's, and what it does to captured packets, if that is known."""

    not_compared = ("effect",)

    choice: BackendChoice
    effect: Effect | None = None


class Verified(Value):
    """How the live rules compare with the desired ones.

    ``differences`` are drift in our own tables, ``obstacles`` foreign rules in others that divert captured traffic;
    ``harmless_differences`` and ``harmless_obstacles`` are those without effect on it, ``unjudged`` those that may have
    one, and ``doubts`` are what else cannot be judged, in words.
    """

    choice: BackendChoice
    desired: Ruleset
    live: Ruleset
    differences: tuple[Difference, ...] = ()
    missing: tuple[LoopbackAddress | MissingRoute, ...] = ()
    harmless_differences: tuple[Difference, ...] = ()
    second_sets: tuple[SecondSet, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    harmless_obstacles: tuple[Obstacle, ...] = ()
    unjudged: tuple[Difference | Obstacle, ...] = ()
    doubts: tuple[str, ...] = ()
    impediments: tuple[Impediment, ...] = ()
    """Faults that lose captured packets although the rules are in place."""
    from_record: bool = False
    """Whether ``desired`` is the recorded configuration, and not that of options."""
    has_reference: bool = True
    """Whether there is a reference for our rules; else ``desired`` are the live ones."""
    record_fault: str = ""
    """Why the record cannot be used; "" if there is none, or it can."""
    uncaptured: tuple[str, ...] = ()
    """Faults of a family as a whole, in words: it has an address and no rules, or is not rejected."""
    part_text: str = ""
    """What it is restricted to, in words; "" for the whole namespace."""
    notes: tuple[str, ...] = ()
    """Traffic of the pod that the settings leave uncaptured on purpose, in words."""

    @property
    def drift(self) -> tuple[object, ...]:
        """Return everything that is certain to differ."""
        in_tables = (*self.differences, *self.second_sets, *self.obstacles)
        return (*in_tables, *self.missing, *self.impediments, *self.uncaptured)

    @property
    def holds(self) -> bool:
        """Return whether the rules are applied, and nothing is certain to differ."""
        return self.conclusion not in ("nothing applied", "drift")

    @property
    def is_judged(self) -> bool:
        """Return whether it is known of each foreign rule, and of all else, what it does to captured packets."""
        return not self.unjudged and not self.doubts

    @property
    def is_certain(self) -> bool:
        """Return whether everything could be judged, our own rules by a reference."""
        return self.has_reference and self.is_judged

    @property
    def conclusion(self) -> Conclusion:
        """Return what follows from all of it."""
        if self.is_nothing_applied:
            return "nothing applied"
        if self.drift:
            return "drift"
        if self.is_certain:
            return "in sync"
        return "cannot be judged" if self.has_reference else "no reference"

    @property
    def is_nothing_applied(self) -> bool:
        """Return whether the namespace has none of our rules where they should be, though some are desired."""
        is_missing = any(difference.kind == "missing" for difference in self.differences) or not self.has_reference
        has_own = any(is_own_chain(chain.name) for table in self.live.tables for chain in table.chains)
        return is_missing and not has_own and not self.second_sets

    def part(self, family: Family | None, table: TableName | None) -> Verified:
        """Return what is about a family and a table; foreign tables are about none of our own."""
        if family is None and table is None:
            return self
        from capture.analysis.compare import Difference  # not when pods are made

        def concerns(families: tuple[Family | None, ...], named: TableName | None = None) -> bool:
            return table in (None, named) and (family is None or family in families)

        def is_part(foreign: Difference | Obstacle) -> bool:
            if isinstance(foreign, Difference):
                return concerns((foreign.family,), foreign.table)
            return concerns(foreign.foreign_chain.families)

        names = (FAMILY_NAMES[family] if family else "", f"table {table}" if table else "")
        judged = ("differences", "harmless_differences", "obstacles", "harmless_obstacles", "unjudged")
        return self.replace(
            **{name: tuple(filter(is_part, getattr(self, name))) for name in judged},
            part_text=", ".join(filter(None, names)),
            missing=tuple(need for need in self.missing if concerns((need.family,))),
            impediments=tuple(each for each in self.impediments if concerns((each.family or family,))),
            second_sets=(),
            uncaptured=tuple(each for each in self.uncaptured if concerns((IPV4 if each == NO_IPV4 else IPV6,))),
        )


class LiveSet(Value):
    """One of our sets in a namespace: where, and everything read there."""

    choice: BackendChoice
    live: Ruleset


class Dumped(Value):
    """All our sets in a namespace, and how they compare with the recorded configuration, if there is one."""

    live_sets: tuple[LiveSet, ...]
    verified: Verified | None = None
    rejects_ipv6: bool = False
    """Whether the table of --other-family reject is there, as it was written."""
    reject_fault: str = ""
    """What is wrong with that table, if it is there."""
    record_fault: str = ""
    """Why the record cannot be used; "" if there is none, or it can."""
