"""Whether Envoy's listeners are what the rules expect: ports, families, mode, original destination, mark. Pure.

The answer of Envoy's admin interface is ``/config_dump`` (envoy.admin.v3.ConfigDump); of it, the listeners count.
"""

from __future__ import annotations

from capture.analysis.causes import Cause
from capture.model.addresses import FAMILY_NAMES, IPV4, IPV6
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from capture.analysis.causes import Capture
    from capture.model.addresses import Family

    Json = Mapping[str, Any]

ORIGINAL_DESTINATION = "envoy.filters.listener.original_dst"
ORIGINAL_SOURCE = "envoy.filters.listener.original_src"


class EnvoyListener(Value):
    """How connections reach a listener of Envoy, by its configuration; ``mark`` is that of its own connections or 0."""

    name: str
    ports: tuple[tuple[Family, int], ...]
    is_transparent: bool
    restores_destination: bool
    """Whether it asks for the original destination, without which it cannot pass a redirected connection on."""
    mark: int = 0


def listeners_of(dump: Json) -> Iterator[EnvoyListener]:
    """Yield the listeners that are bound to ports, static ones and active dynamic ones."""
    for section in dump.get("configs", ()):
        for static in section.get("static_listeners", ()):
            yield from _listener(static.get("listener", {}))
        for dynamic in section.get("dynamic_listeners", ()):
            yield from _listener(dynamic.get("active_state", {}).get("listener", {}))


def _listener(plain: Json) -> Iterator[EnvoyListener]:
    if plain.get("bind_to_port", True) is False:
        return
    filters = {each.get("name"): each for each in plain.get("listener_filters", ())}
    addresses = [plain.get("address", {}), *(each.get("address", {}) for each in plain.get("additional_addresses", ()))]
    yield EnvoyListener(
        str(plain.get("name", "")),
        tuple(port for address in addresses for port in _ports(address.get("socket_address", {}))),
        bool(plain.get("transparent", False)),
        bool(plain.get("use_original_dst", False)) or ORIGINAL_DESTINATION in filters,
        int(filters.get(ORIGINAL_SOURCE, {}).get("typed_config", {}).get("mark", 0)),
    )


def _ports(socket: Json) -> Iterator[tuple[Family, int]]:
    address, port = str(socket.get("address", "")), int(socket.get("port_value", 0))
    yield (IPV6 if ":" in address else IPV4), port
    if ":" in address and socket.get("ipv4_compat", False):
        yield IPV4, port


def causes_of_listeners(listeners: tuple[EnvoyListener, ...], capture: Capture, mark: int) -> Iterator[Cause]:
    """Yield where Envoy's configuration and the capture do not fit; ``mark`` is that of TPROXY."""
    for port in (capture.outbound_port, capture.inbound_port):
        on_port = [each for each in listeners if port in {number for _, number in each.ports}]
        for family in capture.families:
            if not any((family, port) in each.ports for each in on_port):
                yield _absent(port, family)
        for each in on_port:
            if not each.restores_destination:
                yield _destination_lost(each, port)
            if port == capture.inbound_port:
                yield from _mode(each, capture, mark)


def _absent(port: int, family: Family) -> Cause:
    name = FAMILY_NAMES[family]
    return Cause(
        "not-listening",
        f"Envoy has no listener on tcp port {port} for {name}, which is captured",
        f"Give the listener an address of {name}, or capture the other family only (--ip-families).",
        f"tcp port {port}",
    )


def _destination_lost(listener: EnvoyListener, port: int) -> Cause:
    return Cause(
        "proxy-mode",
        f"Envoy's listener {listener.name} on port {port} does not ask for the original destination",
        f"Set use_original_dst on it, or add the filter {ORIGINAL_DESTINATION}.",
        f"tcp port {port}",
    )


def _mode(listener: EnvoyListener, capture: Capture, mark: int) -> Iterator[Cause]:
    where = f"tcp port {capture.inbound_port}"
    if listener.is_transparent != capture.is_transparent:
        wanted, found = ("TPROXY", "REDIRECT") if capture.is_transparent else ("REDIRECT", "TPROXY")
        yield Cause(
            "proxy-mode",
            f"the rules use {wanted}, and Envoy's listener {listener.name} is configured for {found}",
            f"Set transparent: {str(capture.is_transparent).lower()} on it, or apply the rules with -m {found}.",
            where,
        )
    elif capture.is_transparent and listener.mark not in (0, mark):
        yield Cause(
            "proxy-mode",
            f"Envoy marks its own connections with {listener.mark:#x}, and the rules expect {mark:#x}",
            "Set the same mark in the filter original_src and by --istio-inbound-tproxy-mark.",
            where,
        )
