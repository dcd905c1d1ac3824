"""Outbound listeners: one hands each captured connection on by its original destination, to the others.

::

    captured -> 15001 -> VIP_PORT        a TCP port of a service, by its address
                      -> 0.0.0.0_PORT    an HTTP port, by the Host header; other hosts pass through
                      -> itself          anything else passes through (or ends, with REGISTRY_ONLY)
"""

from __future__ import annotations

from capture.model.values import Value
from capture.settings.config import CaptureConfig
from sidecar.balancing import BalancingPolicy
from sidecar.envoy import (
    BLACK_HOLE,
    LOOKS_LIKE_HTTP,
    PASSTHROUGH,
    Json,
    cluster,
    http_manager,
    inspector,
    listening_on,
    original_destination,
    socket_address,
    tcp_proxy,
    virtual_host,
)
from sidecar.objects import Endpoint, MeshPod, Service, ServicePort


class ServiceDestination(Value):
    """A port of a service, or a subset of it: a cluster with its endpoints."""

    service: Service
    port: ServicePort
    policy: BalancingPolicy
    endpoints: tuple[Endpoint, ...]
    subset: str = ""

    @property
    def name(self) -> str:
        """Return the name that the cluster has in access logs."""
        return f"outbound|{self.port.number}|{self.subset}|{self.service.host}"


class Outbound(Value):
    """The facts that outbound listeners depend on."""

    config: CaptureConfig
    pod: MeshPod
    destinations: tuple[ServiceDestination, ...]
    """Those that calls are sent to; subsets are not among them."""
    logs: list[Json]
    registry_only: bool
    timeout: str

    @property
    def catch_all(self) -> str:
        """Return the cluster for what is no service."""
        return BLACK_HOLE if self.registry_only else PASSTHROUGH


def fixed_clusters() -> list[Json]:
    """Return the clusters for what is no service: on to where it goes, or nowhere."""
    return [original_destination(PASSTHROUGH), {"name": BLACK_HOLE, "type": "STATIC"}]


def destination_cluster(destination: ServiceDestination, endpoints: Json) -> Json:
    """Return the cluster of a destination; ``endpoints`` is where it has its endpoints from."""
    if destination.policy.is_passthrough:
        return original_destination(destination.name)
    protocol = destination.port.protocol
    balancing = {"lb_policy": destination.policy.lb_policy, **destination.policy.settings}
    http2 = None if protocol == "auto" else protocol == "http2"
    return cluster(destination.name, http2=http2, **endpoints) | balancing


def outbound_listeners(outbound: Outbound) -> list[Json]:
    """Return the listener for captured connections, then those of the services."""
    by_port: dict[int, list[ServiceDestination]] = {}
    for destination in outbound.destinations:
        if destination.port.protocol in ("http", "http2"):
            by_port.setdefault(destination.port.number, []).append(destination)
    return [
        _capture_listener(outbound),
        *(
            _service_listener(outbound, destination, address)
            for destination in outbound.destinations
            if destination.port.protocol in ("tcp", "auto")
            for address in destination.service.addresses
        ),
        *(_http_listener(outbound, port, destinations) for port, destinations in by_port.items()),
    ]


def _capture_listener(outbound: Outbound) -> Json:
    port = outbound.config.proxy_port
    trap = {
        "name": "virtualOutbound-blackhole",
        "filter_chain_match": {"destination_port": port},
        "filters": tcp_proxy("virtualOutbound-blackhole", BLACK_HOLE, outbound.logs),
    }
    rest = {
        "name": "virtualOutbound-catchall-tcp",
        "filters": tcp_proxy(outbound.catch_all, outbound.catch_all, outbound.logs),
    }
    return {
        "name": "virtualOutbound",
        **listening_on(outbound.config.families, port),
        "traffic_direction": "OUTBOUND",
        "use_original_dst": True,
        "filter_chains": [trap, rest],
    }


def _service_listener(outbound: Outbound, destination: ServiceDestination, address: str) -> Json:
    """Return the listener of a TCP port; where nothing is declared, the first bytes show whether it is HTTP."""
    name, port = destination.name, destination.port
    by_source: Json = {"hash_policy": [{"source_ip": {}}]} if destination.policy.is_by_source else {}
    listener = {
        "name": f"{address}_{port.number}",
        "address": socket_address(address, port.number),
        "bind_to_port": False,
        "traffic_direction": "OUTBOUND",
        "default_filter_chain": {"name": "tcp", "filters": tcp_proxy(name, name, outbound.logs, **by_source)},
    }
    if port.protocol == "tcp":
        return listener
    host = virtual_host(f"{destination.service.host}:{port.number}", ["*"], name, destination.policy.hash_key)
    http = {"name": "http", "filter_chain_match": LOOKS_LIKE_HTTP, "filters": http_manager(name, [host], outbound.logs)}
    return listener | {"filter_chains": [http]} | _protocol_detection(outbound)


def _http_listener(outbound: Outbound, port: int, destinations: list[ServiceDestination]) -> Json:
    """Return the listener of an HTTP port, for any address; what is no HTTP passes through."""
    hosts = [
        virtual_host(
            f"{destination.service.host}:{port}",
            _service_domains(destination.service, port, outbound.pod),
            destination.name,
            destination.policy.hash_key,
        )
        for destination in destinations
    ]
    rest = virtual_host("block_all" if outbound.registry_only else "allow_any", ["*"], outbound.catch_all)
    http = {
        "name": "http",
        "filter_chain_match": LOOKS_LIKE_HTTP,
        "filters": http_manager(str(port), [*hosts, rest], outbound.logs),
    }
    other = {
        "name": "PassthroughFilterChain",
        "filters": tcp_proxy(outbound.catch_all, outbound.catch_all, outbound.logs),
    }
    return {
        "name": f"0.0.0.0_{port}",
        **listening_on(outbound.config.families, port),
        "bind_to_port": False,
        "traffic_direction": "OUTBOUND",
        "filter_chains": [http],
        "default_filter_chain": other,
        **_protocol_detection(outbound),
    }


def _protocol_detection(outbound: Outbound) -> Json:
    return {
        "listener_filters": [inspector("tls_inspector"), inspector("http_inspector")],
        "listener_filters_timeout": outbound.timeout,
        "continue_on_listener_filters_timeout": True,
    }


def _service_domains(service: Service, port: int, pod: MeshPod) -> list[str]:
    """Return the names of a service as a Host header has them: shorter ones where the pod's search list allows."""
    names = [service.host, f"{service.name}.{service.namespace}.svc", f"{service.name}.{service.namespace}"]
    if service.namespace == pod.namespace:
        names.append(service.name)
    names += [f"[{address}]" if ":" in address else address for address in service.addresses]
    return [domain for name in names for domain in (name, f"{name}:{port}")]
