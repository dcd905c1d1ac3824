"""Whether a packet fulfils the matches of a rule: yes, no, or what cannot be known here."""

from __future__ import annotations

from capture.analysis.meaning import flags_hold, holds_for, understood
from capture.model import ruleset as model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from capture.analysis.stations import PodNetwork
    from capture.model.addresses import Network
    from capture.model.packet import Packet


def judge(rule: model.Rule, packet: Packet, network: PodNetwork, *, is_native: bool = False) -> bool | None:
    """Return whether the packet fulfils all matches of the rule; None if that cannot be known.

    ``is_native`` is whether the rule has nf_tables' own expressions, which see no owner of a packet without a socket.
    """
    found: bool | None = True
    for match in rule.matches:
        known = understood(match.text, packet.family, network) if isinstance(match, model.UnknownMatch) else None
        holds = HOLDS[type(known or match)](known or match, packet, is_native)
        if holds is False:
            return False
        if holds is None:
            found = None
    return found


HOLDS: dict[type, Callable[[Any, Packet, bool], bool | None]] = {
    model.Protocol: lambda match, packet, _: packet.protocol == match.name,
    model.Source: lambda match, packet, _: (
        packet.source is not None and is_inside(packet.source, match.networks) != match.negated
    ),
    model.Destination: lambda match, packet, _: is_inside(packet.destination, match.networks) != match.negated,
    model.InInterface: lambda match, packet, _: _is_interface(match.name, packet.in_interface) != match.negated,
    model.OutInterface: lambda match, packet, _: _is_interface(match.name, packet.out_interface) != match.negated,
    model.SourcePort: lambda match, packet, _: (
        packet.source_port is not None and _among(packet.source_port, match.ports) != match.negated
    ),
    model.DestinationPort: lambda match, packet, _: _among(packet.port, match.ports) != match.negated,
    model.OwnerUid: lambda match, packet, is_native: _is_owner(packet.uid, match, is_native=is_native),
    model.OwnerGid: lambda match, packet, is_native: _is_owner(packet.gid, match, is_native=is_native),
    model.Mark: lambda match, packet, _: (packet.mark & match.mask == match.value) != match.negated,
    model.ConnectionMark: lambda match, packet, _: (
        (packet.connection_mark & match.mask == match.value) != match.negated
    ),
    model.ConnectionState: lambda match, packet, _: (packet.state in match.states) != match.negated,
    model.UnknownMatch: lambda match, packet, _: _known(
        holds_for(match.text, packet.protocol), flags_hold(match.text, packet.state)
    ),
}
"""Whether one match holds, by its kind; None for what cannot be judged."""


def _known(*answers: bool | None) -> bool | None:
    return next((answer for answer in answers if answer is not None), None)


def is_inside(address: Network, networks: tuple[Network, ...]) -> bool:
    """Return whether an address lies in one of the networks."""
    first, family = address.first, address.family
    for network in networks:  # noqa: SIM110  # any() makes a generator each time; chains have up to 60,000 rules
        if network.contains(first) and network.family == family:
            return True
    return False


def _among(number: int, spans: tuple[model.Span, ...]) -> bool:
    for span in spans:  # noqa: SIM110  # any() makes a generator each time; chains have up to 60,000 rules
        if span.first <= number <= span.last:
            return True
    return False


def _is_owner(number: int | None, match: model.OwnerUid | model.OwnerGid, *, is_native: bool) -> bool:
    """Return whether an owner match holds. A packet without a socket fulfils the negated one in iptables alone."""
    if number is None:
        return match.negated and not is_native  # owner_mt in xt_owner.c; nft_meta_get_eval_skugid in nft_meta.c
    return _among(number, match.ids) != match.negated


def _is_interface(pattern: str, name: str | None) -> bool:
    if name is None:
        return False
    if pattern.endswith("+"):
        return name.startswith(pattern[:-1])
    return name == pattern
