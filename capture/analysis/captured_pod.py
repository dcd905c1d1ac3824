"""A pod as the search for causes sees it: the proxy that the rules expect, and the facts of the namespace. Values."""

from __future__ import annotations

from capture.model.addresses import FAMILIES, Family, Network
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.outcome import Outcome
    from capture.model.ruleset import Span
    from capture.netlink.interfaces import Link
    from capture.netlink.sock_diag import Listener

    Ports = tuple[tuple[Outcome, Family, int], ...]


class Capture(Value):
    """The proxy that the rules expect: ports, the users that are not captured, and the mode."""

    ports: Ports
    """Outcomes that connections of a family come to, each with its port. Nothing else is captured."""
    uids: tuple[Span, ...]
    gids: tuple[Span, ...]
    is_transparent: bool
    families: tuple[Family, ...]
    excluded_interfaces: tuple[str, ...] = ()

    def captures(self, outcome: Outcome, *families: Family) -> bool:
        """Return whether connections of one of these families, or of any, come to an outcome."""
        return any(each == outcome and family in (families or FAMILIES) for each, family, _ in self.ports)


class PodFacts(Value):
    """The facts of a namespace other than its rules.

    ``listeners`` is None where the kernel does not list them. ``gid_of`` has the group of the process behind a
    listener whose user is not the proxy's. ``tracked`` and ``max_tracked`` count connections; 0 is unknown.
    """

    links: tuple[Link, ...]
    addresses: tuple[Network, ...]
    listeners: tuple[Listener, ...] | None
    gid_of: dict[int, int]
    tracked: int = 0
    max_tracked: int = 0
    diverted: tuple[tuple[str, str], ...] = ()
    """Pairs of interfaces: what comes in by the first, filters send to the second, before any rule."""
    unrouted: tuple[Family, ...] = ()
    """Families of which no route leads out of the pod."""


def contains(number: int | None, spans: tuple[Span, ...]) -> bool:
    """Return whether a user or group is one of these."""
    return number is not None and any(span.first <= number <= span.last for span in spans)
