"""Packets, and what rules do to them, in words and as JSON.

Without click: the CNI plugin, which has no packages, describes packets too.
"""

from __future__ import annotations

from capture.model.addresses import address_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.effects import Effect
    from capture.analysis.outcome import Fate
    from capture.model.packet import Packet

MAX_SHOWN_REGIONS = 3


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


def fate_text(fate: Fate) -> str:
    """Return what happens to packets: "proxy-outbound 15001", "direct to 10.1.2.3:80", "dropped"."""
    where = ""
    if fate.address is not None:
        where = fate.address.shown
        where = f" to [{where}]" if ":" in where and fate.port is not None else f" to {where}"
    if fate.port is not None:
        where += f":{fate.port}" if fate.address is not None else f" {fate.port}"
    if fate.interface is not None:
        where += f", out via {fate.interface}"
    return f"{fate.outcome}{where}{', marked for the proxy' if fate.is_marked and fate.outcome == 'direct' else ''}"


def effect_text(effect: Effect | None, effect_context: str = "") -> str:
    """Return what a difference does to which packets, with a witness, if it does anything.

    ``effect_context`` is, in words, which other difference it takes for that, or why that is not known.
    """
    if effect is None:
        return f" ({effect_context})" if effect_context else ""
    shown = effect.regions[:MAX_SHOWN_REGIONS]
    unshown = len(effect.regions) - len(shown)
    regions = "; ".join(shown) + (f"; and {unshown} more" if unshown > 0 else "")
    hangs = ", and hangs" if effect.after.lost_reply else ""
    elsewhere = ", or elsewhere" if effect.after.translated and not effect.after.is_certain else ""
    after = f"{fate_text(effect.after.fate)}{elsewhere}{hangs}" if effect.is_certain else "?"
    packets = f"{effect_context}: {regions}" if effect_context else regions
    return f" ({packets}: {fate_text(effect.before.fate)} -> {after}; witness: {packet_text(effect.packet)})"


def effect_as_plain(effect: Effect | None) -> dict[str, object] | None:
    """Return what a difference does, for JSON: to which packets, and what happens to them before and after it."""
    if effect is None:
        return None
    return {
        "direction": effect.direction,
        "packets": list(effect.regions),
        "witness": packet_text(effect.packet),
        "before": fate_as_plain(effect.before.fate),
        "after": fate_as_plain(effect.after.fate) if effect.is_certain else None,
        "hangs": effect.after.lost_reply is not None,
    }


def fate_as_plain(fate: Fate | None) -> dict[str, object]:
    """Return what happens to packets, for JSON: port and address are null where they stay; all is, if it is unknown."""
    if fate is None:
        return dict.fromkeys(("outcome", "port", "address", "interface"))
    address = fate.address and fate.address.shown  # of packets to many that are translated alike, the network
    return {"outcome": fate.outcome, "port": fate.port, "address": address, "interface": fate.interface}
