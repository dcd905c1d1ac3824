"""Envoy's bootstrap for one pod: from the capture's settings and the mesh's objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from capture.model.conventions import AGENT_DNS_PORT, HEALTH_PORT, METRICS_PORT
from capture.model.values import Value
from capture.settings.config import CaptureConfig
from capture.settings.options import INBOUND_CAPTURE_PORT, PROXY_PORT
from sidecar.access_log import envoy_logs
from sidecar.balancing import BalancingPolicy, DestinationRule, read_rule, rule_for
from sidecar.documents import Document
from sidecar.endpoints import file_endpoints, inline_endpoints
from sidecar.envoy import ADMIN_PORT, Json, socket_address
from sidecar.fields import FieldError
from sidecar.inbound import declared_tcp_ports, inbound_clusters, inbound_listener
from sidecar.mesh import Mesh, read_mesh
from sidecar.objects import MeshPod, Service, Slice, endpoints_of, read_pod, read_service, read_slice
from sidecar.outbound import Outbound, ServiceDestination, destination_cluster, fixed_clusters, outbound_listeners
from sidecar.own_listeners import admin_cluster, dns_clusters, dns_listeners, status_listeners
from sidecar.telemetry import Telemetry, access_logs, read_telemetry


class MeshObjects(Value):
    """The objects of the mesh that its documents define."""

    mesh: Mesh = Mesh()
    telemetries: tuple[Telemetry, ...] = ()
    services: tuple[Service, ...] = ()
    slices: tuple[Slice, ...] = ()
    rules: tuple[DestinationRule, ...] = ()
    pods: tuple[MeshPod, ...] = ()


def read_mesh_objects(documents: Sequence[Document]) -> MeshObjects:
    """Return what documents define; FieldError for what cannot be used, is not supported, or is there twice."""

    def of(kind: str) -> list[Document]:
        return [document for document in documents if document.kind == kind]

    _refuse_duplicates(documents)
    services = tuple(map(read_service, of("Service")))
    _refuse_shared_addresses(services)
    return MeshObjects(
        mesh=read_mesh(documents),
        telemetries=tuple(map(read_telemetry, of("Telemetry"))),
        services=services,
        slices=tuple(map(read_slice, of("EndpointSlice"))),
        rules=tuple(map(read_rule, of("DestinationRule"))),
        pods=tuple(map(read_pod, of("Pod"))),
    )


def _refuse_duplicates(documents: Sequence[Document]) -> None:
    seen: dict[str, str] = {}
    for document in documents:
        if document.name in seen:
            raise FieldError(document.origin, "metadata.name", f"given twice; the first is in {seen[document.name]}")
        if document.name:
            seen[document.name] = document.origin


def _refuse_shared_addresses(services: Iterable[Service]) -> None:
    """Raise FieldError for an address of two services: files of two clusters, of which Envoy can serve one."""
    seen: dict[str, str] = {}
    for service in services:
        for address in service.addresses:
            if seen.setdefault(address, service.host) != service.host:
                where = f"Service {service.namespace}/{service.name}"
                raise FieldError(where, "spec.clusterIP", f"{address} is the address of {seen[address]}, too")


def _refuse_taken_ports(config: CaptureConfig) -> None:
    """Raise FieldError for a port of the capture on which the proxy has a listener already."""
    taken = {ADMIN_PORT, HEALTH_PORT, METRICS_PORT, *((AGENT_DNS_PORT,) if config.captures_dns else ())}
    for option, port in ((PROXY_PORT, config.proxy_port), (INBOUND_CAPTURE_PORT, config.inbound_capture_port)):
        if port in taken:
            raise FieldError("options of the capture", option.name, _own_port_problem(port, taken))
        taken.add(port)


def _own_port_problem(port: int, own: Iterable[int]) -> str:
    return f"port {port} is one of the proxy's own ({', '.join(map(str, sorted(own)))})"


def render_bootstrap(
    config: CaptureConfig, objects: MeshObjects, pod: MeshPod, *, directory: str = "", resolvers: Sequence[str] = ()
) -> Json:
    """Return the bootstrap; with a directory, endpoints are read from its files, which ``endpoints.write`` makes."""
    _refuse_taken_ports(config)
    logs = envoy_logs(access_logs(objects.mesh, objects.telemetries, pod))
    reachable = destinations(config, objects, pod)
    plain, mesh = tuple(destination for destination in reachable if not destination.subset), objects.mesh
    outbound = Outbound(config, pod, plain, logs, mesh.registry_only, mesh.detection_timeout)
    inbound = inbound_listener(config, declared_tcp_ports(objects.services, pod), logs, mesh.detection_timeout)
    captures_dns = config.captures_dns
    return {
        "node": {"id": f"sidecar~{pod.name}.{pod.namespace}", "cluster": pod.labels.get("app", pod.name)},
        "admin": {"address": socket_address("127.0.0.1", ADMIN_PORT)},
        "static_resources": {
            "listeners": [
                *outbound_listeners(outbound),
                inbound,
                *status_listeners(config),
                *(dns_listeners(config, objects.services, resolvers) if captures_dns else ()),
            ],
            "clusters": [
                *fixed_clusters(),
                *(
                    destination_cluster(
                        destination,
                        file_endpoints(destination, directory) if directory else inline_endpoints(destination),
                    )
                    for destination in reachable
                ),
                *inbound_clusters(config),
                admin_cluster(),
                *(dns_clusters(resolvers) if captures_dns else ()),
            ],
        },
    }


def destinations(config: CaptureConfig, objects: MeshObjects, pod: MeshPod) -> tuple[ServiceDestination, ...]:
    """Return every port of every service, each followed by its subsets. FieldError for a port of the proxy."""
    own = {config.proxy_port, config.inbound_capture_port, HEALTH_PORT, METRICS_PORT}
    reachable = tuple(_mesh_destinations(config, objects, pod))
    for destination in reachable:
        if destination.port.number in own:
            raise FieldError(
                f"Service {destination.service.namespace}/{destination.service.name}",
                "spec.ports",
                _own_port_problem(destination.port.number, own),
            )
    return reachable


def _mesh_destinations(config: CaptureConfig, objects: MeshObjects, pod: MeshPod) -> Iterator[ServiceDestination]:
    pods = {other.full_name: other for other in objects.pods}
    for service in objects.services:
        rule = rule_for(service, objects.rules, pod, objects.mesh.root_namespace)
        policy = rule.policy or BalancingPolicy()
        for port in service.ports:
            endpoints = endpoints_of(service, port, objects.slices, config.families)
            yield ServiceDestination(service, port, policy, endpoints)
            for subset in rule.subsets:
                selected = tuple(endpoint for endpoint in endpoints if subset.includes(endpoint, pods))
                yield ServiceDestination(service, port, subset.policy or policy, selected, subset.name)
