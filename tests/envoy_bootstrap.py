"""The configuration of an Envoy in a pod, in the shape that istiod gives it: pure functions from values to JSON.

::

    outbound   virtualOutbound [0.0.0.0 and ::]:15001 hands each connection to the listener of its original destination:
                 0.0.0.0_PORT   an HTTP service: the Host header chooses the cluster, an unknown host passes through
                 VIP_PORT       another service: its own cluster
                 neither        PassthroughCluster, to the original destination
    inbound    virtualInbound [0.0.0.0 and ::]:15006, to the original destination
                 REDIRECT       from 127.0.0.6 or ::6
                 TPROXY         from the client's own address, with mark 1337
    own ports  15000 admin, 15021 health, 15090 metrics

Each request gets the header ``x-capture-proxy`` with the side that it passed. Connections to 15001 and 15006 themselves
end in a cluster without endpoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

HEADER = "x-capture-proxy"
"""Added to each request: "outbound" or "inbound"; twice when a request passed both sides."""

OUTBOUND_PORT, INBOUND_PORT = 15001, 15006
ADMIN_PORT, HEALTH_PORT, METRICS_PORT = 15000, 15021, 15090
DETECTION_TIMEOUT = "0.2s"
"""After which a client that says nothing speaks TCP. Istio's default, 0s, waits for ever."""

ACCESS_LOG_FORMAT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% '
    '%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
"""Istio's default."""

ANY = {4: "0.0.0.0", 6: "::"}
PASSTHROUGH_SOURCE = {4: "127.0.0.6", 6: "::6"}
MARK = 1337
IS_HTTP: Json = {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service that only the proxy knows: its virtual addresses belong to no host."""

    host: str
    addresses: tuple[str, ...]
    port: int
    protocol: str
    """``http``, ``http2``, ``tcp``, or ``auto`` where Envoy looks at the first bytes."""
    endpoints: tuple[str, ...]

    @property
    def cluster(self) -> str:
        """Istio's name for where it goes."""
        return f"outbound|{self.port}||{self.host}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What differs between one pod's Envoy and another's."""

    transparent: bool = False
    """For TPROXY."""
    services: tuple[Service, ...] = ()
    http_ports: tuple[int, ...] = ()
    """Ports elsewhere on which HTTP is looked for, besides those of HTTP services."""
    tcp_ports: tuple[int, ...] = ()
    """Ports of the pod that are declared TCP: Envoy does not wait for the client's first bytes there."""
    log: str = "/dev/stdout"

    def bootstrap(self) -> Json:
        """Return the whole configuration."""
        listeners = [_virtual_outbound(self), *_service_listeners(self), _virtual_inbound(self), *_own_listeners()]
        return {
            "node": {"id": "sidecar", "cluster": "sidecar"},
            "admin": {"address": _address("127.0.0.1", ADMIN_PORT)},
            "static_resources": {"listeners": listeners, "clusters": list(_clusters(self))},
        }

    @property
    def access_log(self) -> list[Json]:
        """Return where connections are logged, in Istio's default format."""
        text = {"text_format_source": {"inline_string": ACCESS_LOG_FORMAT}}
        return [_typed("access_loggers.file", "access_loggers.file.v3.FileAccessLog", path=self.log, log_format=text)]


def _typed(name: str, kind: str, **fields: object) -> Json:
    return {
        "name": f"envoy.{name}",
        "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields},
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _both_families(port: int, **fields: object) -> Json:
    """Return a listener on every address of both families, as Istio makes one for pods that have both."""
    return {"address": _address(ANY[4], port), "additional_addresses": [{"address": _address(ANY[6], port)}], **fields}


# --- filters ---------------------------------------------------------------------------------------

ORIGINAL_DESTINATION = _typed("filters.listener.original_dst", "filters.listener.original_dst.v3.OriginalDst")
ORIGINAL_SOURCE = _typed("filters.listener.original_src", "filters.listener.original_src.v3.OriginalSrc", mark=MARK)
TLS_INSPECTOR = _typed("filters.listener.tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector")
HTTP_INSPECTOR = _typed("filters.listener.http_inspector", "filters.listener.http_inspector.v3.HttpInspector")
ROUTER = _typed("filters.http.router", "filters.http.router.v3.Router")
DETECTION = {"listener_filters_timeout": DETECTION_TIMEOUT, "continue_on_listener_filters_timeout": True}


def _tcp(cluster: str, log: list[Json]) -> list[Json]:
    kind = "filters.network.tcp_proxy.v3.TcpProxy"
    return [_typed("filters.network.tcp_proxy", kind, stat_prefix=cluster, cluster=cluster, access_log=log)]


def _http(name: str, hosts: list[Json], log: list[Json], side: str = "") -> list[Json]:
    """Return the filters of an HTTP listener; ``side`` is what the header says, if it is added."""
    mark = {"header": {"key": HEADER, "value": side}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}
    routes = {"name": name, "virtual_hosts": hosts, "request_headers_to_add": [mark] if side else []}
    manager = "filters.network.http_connection_manager"
    return [
        _typed(
            manager,
            f"{manager}.v3.HttpConnectionManager",
            stat_prefix=name,
            route_config=routes,
            http_filters=[ROUTER],
            access_log=log,
            use_remote_address=False,
        )
    ]


def _virtual_host(name: str, cluster: str, domains: Iterable[str] = ("*",)) -> Json:
    route = {"name": "default", "match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    return {"name": name, "domains": list(domains), "routes": [route]}


# --- listeners -------------------------------------------------------------------------------------


def _virtual_outbound(sidecar: Sidecar) -> Json:
    log = sidecar.access_log
    trap = {"filter_chain_match": {"destination_port": OUTBOUND_PORT}, "filters": _tcp("BlackHoleCluster", log)}
    rest = {"filters": _tcp("PassthroughCluster", log)}
    chains = [{"name": "virtualOutbound-blackhole", **trap}, {"name": "virtualOutbound-catchall-tcp", **rest}]
    return _both_families(OUTBOUND_PORT, name="virtualOutbound", use_original_dst=True, filter_chains=chains)


def _service_listeners(sidecar: Sidecar) -> Iterable[Json]:
    """Listeners that only ``virtualOutbound`` reaches: they are bound to no port."""
    log = sidecar.access_log
    inspect = {"listener_filters": [TLS_INSPECTOR, HTTP_INSPECTOR], "bind_to_port": False, **DETECTION}
    by_port: dict[int, list[Json]] = {}
    for service in sidecar.services:
        if service.protocol in ("http", "http2"):
            names = [service.host, service.host.partition(".")[0], *map(_bracketed, service.addresses)]
            domains = [domain for name in names for domain in (name, f"{name}:{service.port}")]
            by_port.setdefault(service.port, []).append(_virtual_host(service.cluster, service.cluster, domains))
            continue
        for address in service.addresses:
            fields: Json = {"default_filter_chain": {"filters": _tcp(service.cluster, log)}, "bind_to_port": False}
            if service.protocol == "auto":
                http = _http(service.cluster, [_virtual_host("all", service.cluster)], log, "outbound")
                fields |= {"filter_chains": [{"filter_chain_match": IS_HTTP, "filters": http}], **inspect}
            name = f"{address}_{service.port}"
            yield {"name": name, "address": _address(address, service.port), **fields}
    for port in sorted({*sidecar.http_ports, *by_port}):
        hosts = [*by_port.get(port, ()), _virtual_host("allow_any", "PassthroughCluster")]
        chain = {"filter_chain_match": IS_HTTP, "filters": _http(str(port), hosts, log, "outbound")}
        rest = {"filters": _tcp("PassthroughCluster", log)}
        yield _both_families(port, name=f"0.0.0.0_{port}", filter_chains=[chain], default_filter_chain=rest, **inspect)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _virtual_inbound(sidecar: Sidecar) -> Json:
    log = sidecar.access_log
    trap = {"filter_chain_match": {"destination_port": INBOUND_PORT}, "filters": _tcp("BlackHoleCluster", log)}
    chains: list[Json] = [{"name": "virtualInbound-blackhole", **trap}]
    for version, host in ANY.items():
        cluster = f"InboundPassthroughClusterIpv{version}"
        family: Json = {"prefix_ranges": [{"address_prefix": host, "prefix_len": 0}]}
        http = _http("inbound", [_virtual_host("inbound|http|0", cluster)], log, "inbound")
        chains.append({"name": f"http-{version}", "filter_chain_match": {**family, **IS_HTTP}, "filters": http})
        # A chain is chosen without going back: having matched raw_buffer, Envoy looks at no chain that leaves it open.
        for transport in ("raw_buffer", "tls"):
            match = {**family, "transport_protocol": transport}
            chains.append(
                {"name": f"{transport}-{version}", "filter_chain_match": match, "filters": _tcp(cluster, log)}
            )
    quiet = _not_on(sidecar.tcp_ports)
    filters = [ORIGINAL_DESTINATION, *([ORIGINAL_SOURCE] if sidecar.transparent else [])]
    filters += [{**TLS_INSPECTOR, **quiet}, {**HTTP_INSPECTOR, **quiet}]
    mode = {"transparent": True} if sidecar.transparent else {}
    return _both_families(
        INBOUND_PORT, name="virtualInbound", listener_filters=filters, filter_chains=chains, **DETECTION, **mode
    )


def _not_on(ports: tuple[int, ...]) -> Json:
    """Return what turns a listener filter off for connections to these ports."""
    rules = [{"destination_port_range": {"start": port, "end": port + 1}} for port in ports]
    if not rules:
        return {}
    return {"filter_disabled": rules[0] if len(rules) == 1 else {"or_match": {"rules": rules}}}


def _own_listeners() -> Iterable[Json]:
    """Health and metrics, answered by the admin interface."""
    for port, path, asked in ((HEALTH_PORT, "/healthz/ready", "/ready"), (METRICS_PORT, "/stats/prometheus", "")):
        route = {"match": {"path": path}, "route": {"cluster": "admin", "prefix_rewrite": asked or path}}
        host = {"name": "admin", "domains": ["*"], "routes": [route]}
        yield _both_families(port, name=str(port), filter_chains=[{"filters": _http(str(port), [host], [])}])


# --- clusters --------------------------------------------------------------------------------------


def _clusters(sidecar: Sidecar) -> Iterable[Json]:
    yield {"name": "BlackHoleCluster", "type": "STATIC"}
    yield _cluster("PassthroughCluster", "ORIGINAL_DST")
    for version, source in PASSTHROUGH_SOURCE.items():
        bind = {} if sidecar.transparent else {"upstream_bind_config": {"source_address": _source(source)}}
        yield _cluster(f"InboundPassthroughClusterIpv{version}", "ORIGINAL_DST", **bind)
    yield _cluster("admin", "STATIC", **_endpoints("admin", _address("127.0.0.1", ADMIN_PORT)))
    for service in sidecar.services:
        where = _endpoints(service.cluster, *(_address(each, service.port) for each in service.endpoints))
        yield _cluster(service.cluster, "STATIC", **where)


def _source(address: str) -> Json:
    return {"address": address, "port_value": 0}


def _endpoints(name: str, *addresses: Json) -> Json:
    endpoints = [{"endpoint": {"address": address}} for address in addresses]
    return {"load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}}


def _cluster(name: str, kind: str, **fields: object) -> Json:
    """Return a cluster that is spoken to as the client speaks: HTTP/1.1 or HTTP/2."""
    same: Json = {"http_protocol_options": {}, "http2_protocol_options": {}}
    protocols = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "use_downstream_protocol_config": same,
    }
    return {
        "name": name,
        "type": kind,
        "lb_policy": "CLUSTER_PROVIDED" if kind == "ORIGINAL_DST" else "ROUND_ROBIN",
        "connect_timeout": "0.5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocols},
        **fields,
    }
