"""Whether Envoy's listeners are what the rules expect: ports, families, mode, original destination, mark. Pure.

The answer of Envoy's admin interface is ``/config_dump`` (envoy.admin.v3.ConfigDump); of it, the listeners count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from capture.analysis.captured_pod import Capture
from capture.analysis.cause_text import cause
from capture.analysis.outcome import DNS, PROXY_INBOUND
from capture.analysis.pod_causes import MODES
from capture.model.addresses import FAMILY_NAMES, IPV4, IPV6, Family
from capture.model.location import Cause
from capture.model.values import Value

Json = Mapping[str, Any]

ORIGINAL_DESTINATION = "envoy.filters.listener.original_dst"
ORIGINAL_SOURCE = "envoy.filters.listener.original_src"


class EnvoyListener(Value):
    """How connections reach a listener of Envoy, by its configuration; ``mark`` is that of its own connections or 0."""

    name: str
    ports: tuple[tuple[Family, int], ...]
    is_transparent: bool
    restores_destination: bool
    """Whether it restores the original destination, without which it cannot pass a connection on."""
    mark: int


def listeners_of(dump: Json) -> Iterator[EnvoyListener]:
    """Yield the listeners that are bound to ports, static ones and active dynamic ones."""
    for section in dump.get("configs", ()):
        for static in section.get("static_listeners", ()):
            yield from _parsed_listeners(static.get("listener", {}))
        for dynamic in section.get("dynamic_listeners", ()):
            yield from _parsed_listeners(dynamic.get("active_state", {}).get("listener", {}))


def _parsed_listeners(plain: Json) -> Iterator[EnvoyListener]:
    if plain.get("bind_to_port", True) is False:
        return
    filters = {each.get("name"): each for each in plain.get("listener_filters", ())}
    addresses = [plain.get("address", {}), *(each.get("address", {}) for each in plain.get("additional_addresses", ()))]
    yield EnvoyListener(
        str(plain.get("name", "")),
        tuple(port for address in addresses for port in _bound_ports(address.get("socket_address", {}))),
        bool(plain.get("transparent", False)),
        bool(plain.get("use_original_dst", False)) or ORIGINAL_DESTINATION in filters,
        int(filters.get(ORIGINAL_SOURCE, {}).get("typed_config", {}).get("mark", 0)),
    )


def _bound_ports(socket: Json) -> Iterator[tuple[Family, int]]:
    address, port = str(socket.get("address", "")), int(socket.get("port_value", 0))
    yield (IPV6 if ":" in address else IPV4), port
    if ":" in address and socket.get("ipv4_compat", False):
        yield IPV4, port


def causes_of_listeners(listeners: tuple[EnvoyListener, ...], capture: Capture, mark: int) -> Iterator[Cause]:
    """Yield where Envoy's configuration and the capture do not fit; ``mark`` is that of TPROXY."""
    of_inbound = {port for outcome, _, port in capture.ports if outcome == PROXY_INBOUND}
    for outcome, family, port in capture.ports:
        if outcome != DNS and not any((family, port) in listener.ports for listener in listeners):
            where = f"tcp port {port}"
            yield cause("not-listening", "Envoy", where=where, port=where, family=FAMILY_NAMES[family])
    for port in dict.fromkeys(port for outcome, _, port in capture.ports if outcome != DNS):
        where = f"tcp port {port}"
        for listener in (listener for listener in listeners if port in {number for _, number in listener.ports}):
            if not listener.restores_destination:
                yield cause("proxy-mode", "destination", where=where, name=listener.name, port=port)
            if port in of_inbound and listener.is_transparent != capture.is_transparent:
                mode, other = MODES[capture.is_transparent], MODES[listener.is_transparent]
                words = {"mode": mode, "other": other, "transparent": str(capture.is_transparent).lower()}
                yield cause("proxy-mode", "Envoy", where=where, name=listener.name, port=port, **words)
            elif port in of_inbound and capture.is_transparent and listener.mark not in (0, mark):
                yield cause("proxy-mode", "mark", where=where, port=port, mark=listener.mark, expected=mark)
