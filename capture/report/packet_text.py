"""A packet in words. Without click: the CNI plugin, which has no packages, describes packets too."""

from __future__ import annotations

from capture.model.addresses import address_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model.packet import Packet


def packet_text(packet: Packet) -> str:
    """Return what the packet is, in a line."""
    where = endpoint_text(address_text(packet.family, packet.destination.first), packet.port)
    source = ""
    if packet.source is not None:
        source = f" from {endpoint_text(address_text(packet.family, packet.source.first), packet.source_port)}"
    if packet.in_interface is not None:
        path = f"in via {packet.in_interface}"
    else:
        out = f"out via {packet.out_interface}, " if packet.out_interface not in (None, "none") else ""
        path = f"{out}of user {packet.uid}, group {packet.gid}"
    state = "" if packet.state == "NEW" else f", {packet.state}"
    mark = f", mark {packet.mark:#x}" if packet.mark else ""
    kept = f", connection mark {packet.connection_mark:#x}" if packet.connection_mark else ""
    return f"{packet.protocol} to {where}{source}, {path}{state}{mark}{kept}"


def endpoint_text(address: str, port: int | None) -> str:
    """Return address and port as people write them."""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
