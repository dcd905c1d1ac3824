"""The inbound listener, which passes every connection on to where it was addressed to."""

from __future__ import annotations

from collections.abc import Iterable

from capture.model.addresses import ANY_ADDRESS, Family
from capture.model.conventions import PASSTHROUGH_SOURCE
from capture.settings.config import CaptureConfig
from sidecar.envoy import (
    BLACK_HOLE,
    LOOKS_LIKE_HTTP,
    Json,
    extension,
    http_manager,
    inspector,
    listening_on,
    original_destination,
    tcp_proxy,
    virtual_host,
)
from sidecar.objects import MeshPod, Service

CLUSTERS = {"ipv4": "InboundPassthroughClusterIpv4", "ipv6": "InboundPassthroughClusterIpv6"}


def inbound_clusters(config: CaptureConfig) -> list[Json]:
    """Return the clusters that reach the application; TPROXY keeps the client's address as the source."""
    return [original_destination(CLUSTERS[family], **_source_match(config, family)) for family in config.families]


def _source_match(config: CaptureConfig, family: Family) -> Json:
    if config.is_transparent:
        return {}
    return {"upstream_bind_config": {"source_address": {"address": PASSTHROUGH_SOURCE[family].shown, "port_value": 0}}}


def inbound_listener(config: CaptureConfig, tcp_ports: Iterable[int], logs: list[Json], timeout: str) -> Json:
    """Return the listener for inbound connections; at the TCP ports nothing waits for the client's first bytes."""
    port = config.inbound_capture_port
    trap = {
        "name": "virtualInbound-blackhole",
        "filter_chain_match": {"destination_port": port},
        "filters": tcp_proxy("virtualInbound-blackhole", BLACK_HOLE, logs),
    }
    return {
        "name": "virtualInbound",
        **listening_on(config.families, port),
        "traffic_direction": "INBOUND",
        "listener_filters": _listener_filters(config, sorted(set(tcp_ports))),
        "listener_filters_timeout": timeout,
        "continue_on_listener_filters_timeout": True,
        "filter_chains": [trap, *(chain for family in config.families for chain in _filter_chains(family, logs))],
    } | ({"transparent": True} if config.is_transparent else {})


def _listener_filters(config: CaptureConfig, tcp_ports: list[int]) -> list[Json]:
    ranges: list[Json] = [{"destination_port_range": {"start": port, "end": port + 1}} for port in tcp_ports]
    except_at: Json = {}
    if ranges:
        except_at = {"filter_disabled": ranges[0] if len(ranges) == 1 else {"or_match": {"rules": ranges}}}
    return [
        inspector("original_dst"),
        *([_client_source(config)] if config.is_transparent else []),
        inspector("tls_inspector", **except_at),
        inspector("http_inspector", **except_at),
    ]


def _client_source(config: CaptureConfig) -> Json:
    """Return the filter that calls the application from the client's address; the mark brings answers back."""
    kind = "extensions.filters.listener.original_src.v3.OriginalSrc"
    return extension("envoy.filters.listener.original_src", kind, mark=config.tproxy_mark)


def _filter_chains(family: Family, logs: list[Json]) -> list[Json]:
    """Return the chains of one family: HTTP, and anything else.

    Envoy does not go back from a chain that requires raw_buffer to one that does not, so each transport has its own.
    """
    name = CLUSTERS[family]
    match: Json = {"prefix_ranges": [{"address_prefix": ANY_ADDRESS[family], "prefix_len": 0}]}
    http: Json = {
        "name": f"virtualInbound-http-{family}",
        "filter_chain_match": match | LOOKS_LIKE_HTTP,
        "filters": http_manager(name, [virtual_host("inbound|http|0", ["*"], name)], logs),
    }
    others: list[Json] = [
        {
            "name": f"virtualInbound-{transport}-{family}",
            "filter_chain_match": match | {"transport_protocol": transport},
            "filters": tcp_proxy(name, name, logs),
        }
        for transport in ("raw_buffer", "tls")
    ]
    return [http, *others]


def declared_tcp_ports(services: Iterable[Service], pod: MeshPod) -> set[int]:
    """Return the ports of the pod that its services declare to be no HTTP."""
    targets = {
        port.target for service in services if service.selects(pod) for port in service.ports if port.protocol == "tcp"
    }
    return {pod.named_ports.get(target, 0) if isinstance(target, str) else target for target in targets} - {0}
