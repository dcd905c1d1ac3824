"""Which IPsec policy decides on a packet: of those that cover it, the one with the lowest priority. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from capture.model.addresses import BITS, Network
from capture.model.conventions import PROTOCOL_NUMBERS
from capture.model.packet import Packet
from capture.netlink.ipsec import IpsecPolicy


def policy_for(packet: Packet, policies: Iterable[IpsecPolicy]) -> IpsecPolicy | None:
    """Return the policy that drops a packet, or has it encrypted; None if it goes as it is."""
    policy = min(
        (each for each in policies if _covers_packet(each, packet)), key=lambda each: each.priority, default=None
    )
    return policy if policy and (policy.is_blocking or policy.has_template) else None


def _covers_packet(policy: IpsecPolicy, packet: Packet) -> bool:
    ports = ((packet.port, policy.destination_port), (packet.source_port, policy.source_port))
    return (
        policy.direction == ("out" if packet.in_interface is None else "in")
        and _holds_address(policy.destination, packet.destination)
        and (_holds_address(policy.source, packet.source) if packet.source else policy.source.prefix == 0)
        and all(mask == 0 if port is None else port & mask == number for port, (number, mask) in ports)
        and policy.protocol in (0, PROTOCOL_NUMBERS[packet.protocol])
    )


def _holds_address(network: Network, address: Network) -> bool:
    host_bits = BITS[network.family] - network.prefix
    return network.family == address.family and network.first >> host_bits == address.first >> host_bits
