"""The configuration of an Envoy in a pod: what ``capture sidecar`` renders, and a header that shows what passed it.

Each request gets the header ``x-capture-proxy`` with the side that it passed.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from capture.model.conventions import HEALTH_PORT, METRICS_PORT
from capture.settings.config import CaptureConfig
from sidecar.balancing import BalancingPolicy, DestinationRule
from sidecar.bootstrap import MeshObjects, render_bootstrap
from sidecar.envoy import ADMIN_PORT
from sidecar.mesh import FileLog, Mesh
from sidecar.objects import Endpoint, MeshPod, ServicePort, Slice
from sidecar.objects import Service as ServiceObject

__all__ = ["ADMIN_PORT", "HEADER", "HEALTH_PORT", "INBOUND_PORT", "METRICS_PORT", "OUTBOUND_PORT", "Service", "Sidecar"]

Json = dict[str, Any]

HEADER = "x-capture-proxy"
"""Added to each request: "outbound" or "inbound"; twice when a request passed both sides."""

OUTBOUND_PORT, INBOUND_PORT = 15001, 15006
DETECTION_TIMEOUT = "0.2s"
"""After which a silent client counts as TCP. Istio's default, 0s, waits for ever."""

CONNECT_TIMEOUT = "0.5s"
"""After which a peer that drops what it is sent counts as dead. Istio's default, 10s, is longer than a test waits."""

POD = MeshPod("default", "sidecar", {"app": "sidecar"})


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
    """The settings in which the Envoys of two pods differ."""

    transparent: bool = False
    """For TPROXY."""
    services: tuple[Service, ...] = ()
    http_ports: tuple[int, ...] = ()
    """Ports elsewhere on which HTTP is looked for, apart from those of HTTP services."""
    tcp_ports: tuple[int, ...] = ()
    """Ports of the pod that are declared TCP: Envoy does not wait for the client's first bytes there."""
    log: str = "/dev/stdout"

    def bootstrap(self) -> Json:
        """Return the whole configuration."""
        config = CaptureConfig(mode="TPROXY" if self.transparent else "REDIRECT")
        plain = render_bootstrap(config, self._mesh_objects(), POD)
        for listener in plain["static_resources"]["listeners"]:
            _mark(listener)
        for cluster in plain["static_resources"]["clusters"]:
            cluster["connect_timeout"] = CONNECT_TIMEOUT
        return plain

    def _mesh_objects(self) -> MeshObjects:
        elsewhere = tuple(ServicePort(port, str(port), "http", port) for port in self.http_ports)
        own = tuple(ServicePort(port, str(port), "tcp", port) for port in self.tcp_ports)
        policy = BalancingPolicy("ROUND_ROBIN")
        return MeshObjects(
            mesh=Mesh(logs_to_file=True, own_log=FileLog(self.log), detection_timeout=DETECTION_TIMEOUT),
            services=(
                *_objects(self.services),
                ServiceObject("elsewhere", "http", (), elsewhere, {}),
                ServiceObject("default", "sidecar", (), own, POD.labels),
            ),
            slices=tuple(_slice(service) for service in self.services),
            rules=tuple(DestinationRule("test", "default", host, policy) for host in _hosts(self.services)),
        )


def _hosts(services: Iterable[Service]) -> list[str]:
    return list(dict.fromkeys(service.host for service in services))


def _objects(services: tuple[Service, ...]) -> list[ServiceObject]:
    """Return the services as objects: one for each host, with all its ports."""
    made = []
    for host in _hosts(services):
        those = [service for service in services if service.host == host]
        name, namespace = host.split(".")[:2]
        ports = tuple(
            ServicePort(service.port, str(service.port), service.protocol, service.port)  # type: ignore[arg-type]
            for service in those
        )
        made.append(ServiceObject(namespace, name, those[0].addresses, ports, {}))
    return made


def _slice(service: Service) -> Slice:
    name, namespace = service.host.split(".")[:2]
    endpoints = tuple(Endpoint(address, service.port) for address in service.endpoints)
    return Slice(namespace, name, "ipv4", {str(service.port): endpoints})


def _mark(listener: Json) -> None:
    """Let every request that passes a listener carry that in a header; the pod's own ports are no side."""
    side = listener.get("traffic_direction", "").lower()
    chains = [*listener.get("filter_chains", ()), *filter(None, [listener.get("default_filter_chain")])]
    mark = {"header": {"key": HEADER, "value": side}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}
    for chain in chains if side else ():
        for network_filter in chain["filters"]:
            if "route_config" in network_filter["typed_config"]:
                network_filter["typed_config"]["route_config"]["request_headers_to_add"] = [mark]
