"""A pod as the search for causes sees it: the proxy that the rules expect, and the facts of the namespace. Values."""

from __future__ import annotations

from capture.analysis.meaning import is_in_spans
from capture.analysis.outcome import PROXY_INBOUND, REDIRECTED_BY, Outcome
from capture.model.addresses import FAMILIES, Family, Network
from capture.model.ruleset import Jump, OwnerGid, OwnerUid
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.model.ruleset import Ruleset, Span
    from capture.netlink.interfaces import Link
    from capture.netlink.sock_diag import Listener

Ports = tuple[tuple[Outcome, Family, int], ...]

ROOT = 0
"""The user of a transparent proxy: it needs CAP_NET_ADMIN."""


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


class IngressRedirect(Value):
    """A filter that sends what comes in by an interface to another one, before any rule."""

    interface: str
    target: str


class AttachedProgram(Value):
    """What may drop packets of an interface where no rule sees them, and the command that shows it."""

    interface: str
    kind: str
    shown_by: str


class PodFacts(Value):
    """The facts of a namespace other than its rules.

    ``listeners`` is None where the kernel does not list them. ``gids_by_inode`` has the group of the process behind a
    listener whose user is not the proxy's. ``tracked`` and ``max_tracked`` count connections; 0 is unknown.
    """

    links: tuple[Link, ...]
    addresses: tuple[Network, ...]
    listeners: tuple[Listener, ...] | None
    gids_by_inode: dict[int, int]
    tracked: int = 0
    max_tracked: int = 0
    ingress_redirects: tuple[IngressRedirect, ...] = ()
    families_without_route: tuple[Family, ...] = ()
    """Families of which no route leads out of the pod."""
    programs: tuple[AttachedProgram, ...] = ()
    stopped_by_inode: tuple[tuple[int, str], ...] = ()
    """Listeners of which the process is stopped, each with its number in /proc."""
    bridged: tuple[str, ...] = ()
    """Interfaces with addresses that are ports of a bridge."""


def proxy_owner(facts: PodFacts, capture: Capture) -> tuple[int, int] | None:
    """Return the user and group of what the proxy sends; None if the settings name none.

    A transparent proxy runs as none of the users that the settings name: as root, unless another user has its listener.
    """
    if not capture.uids or not capture.gids:
        return None
    gid = capture.gids[0].first
    if not capture.is_transparent:
        return capture.uids[0].first, gid
    transparent = (listener for listener in facts.listeners or () if listener.transparent)
    listener = next((each for each in transparent if not is_in_spans(each.uid, capture.uids)), None)
    return (listener.uid, facts.gids_by_inode.get(listener.inode, gid)) if listener else (ROOT, gid)


def proxy_id_ranges(ruleset: Ruleset, kind: type[OwnerUid | OwnerGid]) -> Iterator[tuple[int, int]]:
    """Yield the users, or groups, of the proxy: those whose calls to their own pod are captured."""
    for rule in ruleset.rules:
        if isinstance(rule.verdict, Jump) and REDIRECTED_BY.get(rule.verdict.chain) == PROXY_INBOUND:
            for match in rule.matches:
                if isinstance(match, kind) and not match.negated:
                    yield from ((span.first, span.last) for span in match.ids)


def proxy_owner_by_rules(ruleset: Ruleset) -> tuple[int, int] | None:
    """Return the user and group of what the proxy sends, by the rules of a capture; None if they name none."""
    uids, gids = ([first for first, _ in proxy_id_ranges(ruleset, kind)] for kind in (OwnerUid, OwnerGid))
    return (ROOT if ruleset.transparent_verdicts else uids[0], gids[0]) if uids and gids else None
