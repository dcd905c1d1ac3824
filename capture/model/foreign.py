"""What foreign rules do and test beyond our vocabulary: ``then`` of UnknownVerdict, and ``test`` of UnknownMatch.

Decoders make them where they read a rule; only what is certain has one. Everything else stays unknown.
"""

from __future__ import annotations

from capture.model.addresses import LOOPBACK_ADDRESSES
from capture.model.ruleset import AddressMatch, Drop, InterfaceMatch, Match, Redirect, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.model.addresses import Family, Network

# --- what they do --------------------------------------------------------------------------------


class Translate(Verdict):
    """Send the connection to another address, or another port, or both (``-j DNAT``); None stays as it is.

    A network replaces the first bits of the destination (``-j NETMAP``). With neither it goes to the pod itself
    (``-j REDIRECT`` without a port).
    """

    address: Network | None
    port: int | None

    def for_sent_packets(self, family: Family) -> Translate:
        """Return the same for packets that the pod sends."""
        return self if self.address or self.port else Translate(LOOPBACK_ADDRESSES[family], None)

    def destination(self, before: Network) -> Network:
        """Return where packets to an address go."""
        if self.address is None:
            return before
        return before.replace(first=self.address.first | before.first & (self.address.last - self.address.first))


class Either(Verdict):
    """Translate to the first or the last of several addresses or ports, which the kernel chooses."""

    ways: tuple[Redirect | Translate, Redirect | Translate]


class Untrack(Verdict):
    """Keep the packet out of connection tracking, then go on (``-j CT --notrack``): nat never sees it."""


class Reject(Drop):
    """Drop the packet, and answer the sender that it was. Not equal to Drop(): test with isinstance(verdict, Drop)."""


class TranslateSource(Drop):
    """Give packets another source (``-j SNAT``); to which of several addresses makes no difference.

    Packets that are redirected over ``lo`` are lost if that is another host's (``losing_rule``). Not equal to Drop().
    """

    address: Network | None


def translation_verdict(addresses: Sequence[Network], ports: Sequence[int]) -> Translate | Either | None:
    """Return the translation to the first or the last of some addresses and ports; None if there are none."""
    first, last = (Translate(addresses[end] if addresses else None, ports[end] if ports else None) for end in (0, -1))
    if first == last:
        return first if addresses or ports else None
    return Either((first, last))


def redirect_verdict(ports: Sequence[int]) -> Redirect | Translate | Either:
    """Return the redirect to the first or the last of some ports; with none, to the one that was called."""
    if not ports:
        return Translate(None, None)
    first, last = Redirect(ports[0]), Redirect(ports[-1])
    return first if first == last else Either((first, last))


# --- what they test ------------------------------------------------------------------------------


class Protocols(Match):
    """The transport protocol is one of these, by its name, or by its number if it has none."""

    names: tuple[str, ...]
    negated: bool = False


class IcmpType(Match):
    """The packet is of this type of ICMP or ICMPv6."""

    number: int
    negated: bool = False


class LaterFragment(Match):
    """The packet is a later fragment (``-f``)."""

    negated: bool = False


class MaskedAddress(Match):
    """An address is compared under a mask that is no prefix; ``kind`` is the match that a listing shows."""

    kind: type[AddressMatch]


class AllOf(Match):
    """Our own matches that mean the same together (``-m iprange``, ``-m owner --socket-exists``)."""

    matches: tuple[Match, ...]


class LocalAddress(Match):
    """An address is one of this namespace (``-m addrtype --dst-type LOCAL``)."""

    kind: type[AddressMatch]
    negated: bool = False


class InterfaceIndex(Match):
    """The interface has this number."""

    kind: type[InterfaceMatch]
    number: int
    negated: bool = False


class NoWayBack(Match):
    """No route leads to the source by the interface (``fib saddr . mark . iif oif missing``)."""

    negated: bool = False


class TcpFlags(Match):
    """The flags of TCP, under the mask, are this value."""

    mask: int
    value: int
    negated: bool = False


class ConnectionDirection(Match):
    """The packet is a reply of its connection, or is none."""

    is_reply: bool


class TranslatedConnection(Match):
    """nat has changed where the connection goes, or has not; without a connection neither holds."""

    negated: bool = False


class States(Match):
    """The connection is in one of these states, of which SNAT and DNAT are two; without one it is INVALID."""

    names: tuple[str, ...]
    negated: bool = False
