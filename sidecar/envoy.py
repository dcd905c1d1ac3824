"""Envoy's words: the pieces that a bootstrap is made of, as plain data (https://www.envoyproxy.io/docs, API v3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from capture.model.addresses import ANY_ADDRESS, Family

Json = dict[str, Any]

TYPE_PREFIX = "type.googleapis.com/envoy."
ADMIN_PORT = 15000
BLACK_HOLE = "BlackHoleCluster"
PASSTHROUGH = "PassthroughCluster"

NO_LIMIT = 4294967295
UNLIMITED = {
    "thresholds": [dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), NO_LIMIT)]
}
"""Without it Envoy allows 1024 connections to a cluster; all outbound traffic of a pod may be one cluster."""

HTTP_PROTOCOLS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
LOOKS_LIKE_HTTP: Json = {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]}


def extension(name: str, kind: str, **fields: object) -> Json:
    """Return an extension: its name, and its configuration with its type."""
    return {"name": name, "typed_config": {"@type": TYPE_PREFIX + kind, **fields}}


def socket_address(host: str, port: int, **fields: object) -> Json:
    """Return an address of a socket."""
    return {"socket_address": {"address": host, "port_value": port, **fields}}


def listening_on(families: Iterable[Family], port: int) -> Json:
    """Return the address fields of a listener on a port of every address of each family."""
    first, *others = [socket_address(ANY_ADDRESS[family], port) for family in families]
    return {"address": first} | ({"additional_addresses": [{"address": other} for other in others]} if others else {})


# --- clusters ------------------------------------------------------------------------------------


def cluster(name: str, kind: str, *, http2: bool | None = None, **fields: Any) -> Json:
    """Return a cluster; ``http2`` None: upstream has the protocol of downstream."""
    if http2 is None:
        options: Json = {"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}
    else:
        options = {"explicit_http_config": {"http2_protocol_options" if http2 else "http_protocol_options": {}}}
    options["@type"] = f"type.googleapis.com/{HTTP_PROTOCOLS}"
    return {
        "name": name,
        "type": kind,
        "connect_timeout": "10s",
        "circuit_breakers": UNLIMITED,
        "typed_extension_protocol_options": {HTTP_PROTOCOLS: options},
        **fields,
    }


def original_destination(name: str, **fields: Any) -> Json:
    """Return a cluster that goes where the connection was addressed to before it was captured."""
    return cluster(name, "ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED", **fields)


def load_assignment(name: str, addresses: Iterable[tuple[str, int]]) -> Json:
    """Return the endpoints of a cluster (config.endpoint.v3.ClusterLoadAssignment)."""
    endpoints = [{"endpoint": {"address": socket_address(host, port)}} for host, port in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


# --- filters -------------------------------------------------------------------------------------


def inspector(kind: str, **fields: object) -> Json:
    """Return a listener filter: tls_inspector, http_inspector or original_dst."""
    title = "".join(part.capitalize() for part in kind.split("_"))
    return extension(f"envoy.filters.listener.{kind}", f"extensions.filters.listener.{kind}.v3.{title}") | fields


def tcp_proxy(name: str, to: str, logs: list[Json], **fields: object) -> list[Json]:
    """Return the filters of a connection that is passed to a cluster as it is."""
    kind = "extensions.filters.network.tcp_proxy.v3.TcpProxy"
    return [extension("envoy.filters.network.tcp_proxy", kind, stat_prefix=name, cluster=to, access_log=logs, **fields)]


def http_manager(name: str, hosts: list[Json], logs: list[Json]) -> list[Json]:
    """Return the filters of a connection that carries HTTP, with its virtual hosts."""
    return [
        extension(
            "envoy.filters.network.http_connection_manager",
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix=name,
            codec_type="AUTO",
            route_config={"name": name, "virtual_hosts": hosts, "validate_clusters": True},
            http_filters=[extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")],
            access_log=logs,
            use_remote_address=False,
            server_name="istio-envoy",
            normalize_path=True,
            upgrade_configs=[{"upgrade_type": "websocket"}],
        )
    ]


def virtual_host(name: str, domains: list[str], to: str, hash_key: Mapping[str, object] | None = None) -> Json:
    """Return a virtual host whose requests all go to one cluster, without a time limit."""
    route: Json = {"cluster": to, "timeout": "0s"} | ({"hash_policy": [hash_key]} if hash_key else {})
    return {"name": name, "domains": domains, "routes": [{"name": "default", "match": {"prefix": "/"}, "route": route}]}
