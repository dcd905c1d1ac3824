"""The proxy's own listeners: health, metrics, and DNS where it is captured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from capture.model.addresses import LOOPBACK_ADDRESSES, Family
from capture.model.conventions import AGENT_DNS_PORT, HEALTH_PORT, METRICS_PORT
from capture.settings.config import CaptureConfig
from sidecar.envoy import (
    ADMIN_PORT,
    Json,
    cluster,
    extension,
    http_manager,
    listening_on,
    load_assignment,
    socket_address,
    tcp_proxy,
)
from sidecar.objects import Service

ADMIN = "admin"
DNS_UPSTREAM = "dns"
PATHS = ((HEALTH_PORT, "/healthz/ready", "/ready"), (METRICS_PORT, "/stats/prometheus", "/stats/prometheus"))


def admin_cluster() -> Json:
    """Return the cluster of Envoy's own administration, which only the pod itself can reach."""
    where = load_assignment(ADMIN, [("127.0.0.1", ADMIN_PORT)])
    return cluster(ADMIN, "STATIC", http2=False, load_assignment=where)


def status_listeners(config: CaptureConfig) -> list[Json]:
    """Return the listeners for kubelet's probes and for Prometheus."""
    return [_status_listener(config, port, path, to) for port, path, to in PATHS]


def _status_listener(config: CaptureConfig, port: int, path: str, to: str) -> Json:
    route = {"match": {"path": path}, "route": {"cluster": ADMIN, "prefix_rewrite": to}}
    host = {"name": ADMIN, "domains": ["*"], "routes": [route]}
    return {
        "name": str(port),
        **listening_on(config.families, port),
        "bypass_overload_manager": True,
        "filter_chains": [{"filters": http_manager(str(port), [host], [])}],
    }


# --- DNS: the rules send it to 15053 -------------------------------------------------------------


def dns_clusters(resolvers: Sequence[str]) -> list[Json]:
    """Return the cluster of the name servers, for DNS over TCP."""
    where = load_assignment(DNS_UPSTREAM, [(resolver, 53) for resolver in resolvers])
    return [cluster(DNS_UPSTREAM, "STATIC", load_assignment=where)] if resolvers else []


def dns_listeners(config: CaptureConfig, services: Iterable[Service], resolvers: Sequence[str]) -> list[Json]:
    """Return the listeners for DNS: over UDP services are answered here, and all else by the name servers.

    Over TCP, which Envoy's filter does not support, the name servers answer everything. Without resolvers, UDP queries
    those of the pod's resolv.conf(5), and TCP is refused.
    """
    table = _dns_table(services)
    listeners = [_dns_udp(family, table, resolvers) for family in config.families]
    if resolvers:
        listeners += [_dns_tcp(family) for family in config.families]
    return listeners


def _dns_udp(family: Family, table: Json, resolvers: Sequence[str]) -> Json:
    name = f"dns-udp-{family}"
    addresses = {"resolvers": [socket_address(resolver, 53) for resolver in resolvers]} if resolvers else {}
    resolver = extension(
        "envoy.network.dns_resolver.cares",
        "extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        **addresses,
    )
    answers = extension(
        "envoy.filters.udp.dns_filter",
        "extensions.filters.udp.dns_filter.v3.DnsFilterConfig",
        stat_prefix=name,
        server_config={"inline_dns_table": table},
        client_config={"resolver_timeout": "2s", "typed_dns_resolver_config": resolver, "max_pending_lookups": 256},
    )
    return {
        "name": name,
        "address": socket_address(LOOPBACK_ADDRESSES[family].shown, AGENT_DNS_PORT, protocol="UDP"),
        "udp_listener_config": {},
        "listener_filters": [answers],
    }


def _dns_tcp(family: Family) -> Json:
    name = f"dns-tcp-{family}"
    return {
        "name": name,
        "address": socket_address(LOOPBACK_ADDRESSES[family].shown, AGENT_DNS_PORT),
        "filter_chains": [{"filters": tcp_proxy(name, DNS_UPSTREAM, [])}],
    }


def _dns_table(services: Iterable[Service]) -> Json:
    domains = [
        {"name": name, "endpoint": {"address_list": {"address": list(service.addresses)}}}
        for service in services
        if service.addresses
        for name in (service.host, f"{service.name}.{service.namespace}.svc", f"{service.name}.{service.namespace}")
    ]
    return {"external_retry_count": 1, "virtual_domains": domains}
