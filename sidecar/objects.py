"""Objects of Kubernetes that a sidecar needs: pods, services and their endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from capture.model.addresses import FAMILIES, Family, Network, parse_address
from capture.model.values import Value
from sidecar.documents import Document
from sidecar.fields import Fields

Protocol = Literal["http", "http2", "tcp", "auto"]

DEFAULT_NAMESPACE = "default"
CLUSTER_DOMAIN = "cluster.local"
SERVICE_NAME = "kubernetes.io/service-name"

METADATA_FIELDS = (
    "name", "namespace", "labels", "annotations", "uid", "resourceVersion", "generation", "creationTimestamp",
    "deletionTimestamp", "deletionGracePeriodSeconds", "generateName", "ownerReferences", "finalizers",
    "managedFields", "selfLink",
)  # fmt: skip
"""ObjectMeta of meta/v1. Only name, namespace and labels matter here."""

SERVICE_SPEC_FIELDS = (
    "clusterIP", "clusterIPs", "selector", "ports", "type", "ipFamilies", "ipFamilyPolicy", "externalIPs",
    "externalName", "externalTrafficPolicy", "internalTrafficPolicy", "healthCheckNodePort", "loadBalancerClass",
    "loadBalancerIP", "loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "publishNotReadyAddresses",
    "sessionAffinity", "sessionAffinityConfig", "trafficDistribution",
)  # fmt: skip
"""ServiceSpec of core/v1. What is about kube-proxy and nodes has no meaning in a sidecar."""

PROTOCOL_OF_APP_PROTOCOL: Mapping[str, Protocol] = {
    **dict.fromkeys(("http", "grpc-web", "kubernetes.io/ws"), "http"),
    **dict.fromkeys(("http2", "grpc", "h2c", "kubernetes.io/h2c"), "http2"),
    **dict.fromkeys(("tcp", "tls", "https", "mongo", "mysql", "redis", "kubernetes.io/wss"), "tcp"),
}


class MeshPod(Value):
    """A pod: the one of the sidecar, or one whose labels put its endpoint into a subset."""

    namespace: str = DEFAULT_NAMESPACE
    name: str = "pod"
    labels: Mapping[str, str] = {}  # never changed
    named_ports: Mapping[str, int] = {}  # nor this

    @property
    def full_name(self) -> str:
        """Return ``NAMESPACE/NAME``."""
        return f"{self.namespace}/{self.name}"


class ServicePort(Value):
    """A TCP port of a service, and its protocol."""

    number: int
    name: str
    protocol: Protocol
    target: int | str


class Service(Value):
    """A service: its addresses, which no host needs to have, and its ports."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    selector: Mapping[str, str]

    @property
    def host(self) -> str:
        """Return its full name in DNS."""
        return f"{self.name}.{self.namespace}.svc.{CLUSTER_DOMAIN}"

    def selects(self, pod: MeshPod) -> bool:
        """Return whether the pod is one of its endpoints."""
        return bool(self.selector) and self.namespace == pod.namespace and includes(pod.labels, self.selector)


class Endpoint(Value):
    """An address and port that serves a port of a service, and the pod behind it if it is named."""

    address: str
    port: int
    pod: str = ""


class Slice(Value):
    """The ready endpoints of an EndpointSlice, by the name of the service's port."""

    namespace: str
    service: str
    family: Family
    endpoints: Mapping[str, tuple[Endpoint, ...]]


def includes(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether all labels of the selector are there."""
    return selector.items() <= labels.items()


def metadata_of(fields: Fields) -> tuple[str, str, dict[str, str]]:
    """Return namespace, name and labels."""
    metadata = fields.inner("metadata", *METADATA_FIELDS)
    if "name" not in metadata and "generateName" not in metadata:
        raise metadata.error("name", "missing: expected the name of the object")
    name = metadata.text("name") or metadata.text("generateName")
    return metadata.text("namespace") or DEFAULT_NAMESPACE, name, metadata.labels("labels")


def read_pod(document: Document) -> MeshPod:
    """Return the settings of a Pod for its sidecar; its specification is for kubelet and is not checked here."""
    fields = document.fields("apiVersion", "kind", "metadata", "spec", "status")
    namespace, name, labels = metadata_of(fields)
    spec = fields.inner("spec")
    ports = {
        port.text("name"): port.port("containerPort")
        for key in ("initContainers", "containers")
        for container in spec.objects(key)
        for port in container.objects("ports")
        if "name" in port
    }
    return MeshPod(namespace, name, labels, ports)


def read_service(document: Document) -> Service:
    """Return a Service (core/v1) with its TCP ports."""
    fields = document.fields("apiVersion", "kind", "metadata", "spec", "status")
    namespace, name, _ = metadata_of(fields)
    spec = fields.inner("spec", *SERVICE_SPEC_FIELDS)
    listed = spec.texts("clusterIPs") or [spec.text("clusterIP")]
    addresses = [address for address in dict.fromkeys(listed) if address not in ("", "None")]
    for address in addresses:
        if not _address_family(address):
            raise spec.error("clusterIPs" if "clusterIPs" in spec else "clusterIP", f"{address} is no IP address")
    ports = [_service_port(port) for port in spec.objects("ports") if port.text("protocol", "TCP") == "TCP"]
    numbers = [port.number for port in ports]
    if len({*numbers}) < len(numbers):
        raise spec.error("ports", "two TCP ports have the same number")
    if spec.text("type") == "ExternalName":
        addresses, ports = [], []  # a name outside of the cluster: it passes through
    return Service(namespace, name, tuple(addresses), tuple(ports), spec.labels("selector"))


def _service_port(port: Fields) -> ServicePort:
    port.require_known("name", "port", "protocol", "targetPort", "appProtocol", "nodePort")
    number = port.port("port")
    target: int | str = number
    if "targetPort" in port:
        plain = port.plain()["targetPort"]
        target = plain if isinstance(plain, str) else port.port("targetPort")
    return ServicePort(number, port.text("name"), protocol_of(port.text("name"), port.text("appProtocol")), target)


def protocol_of(name: str, app_protocol: str) -> Protocol:
    """Return the protocol of a port by Istio's rule: ``appProtocol``, else the name up to its first dash.

    ``auto`` is found out from the first bytes of a connection.
    """
    words = [app_protocol.lower()] if app_protocol else [name, name.partition("-")[0]]
    return next((PROTOCOL_OF_APP_PROTOCOL[word] for word in words if word in PROTOCOL_OF_APP_PROTOCOL), "auto")


def read_slice(document: Document) -> Slice:
    """Return the ready endpoints of an EndpointSlice (discovery.k8s.io/v1)."""
    fields = document.fields("apiVersion", "kind", "metadata", "addressType", "ports", "endpoints")
    namespace, _, labels = metadata_of(fields)
    if SERVICE_NAME not in labels:
        raise fields.inner("metadata").error("labels", f"no label {SERVICE_NAME} that names the service")
    ready = [endpoint for endpoint in fields.objects("endpoints") if _is_ready(endpoint)]
    addresses = [(address, _pod_behind(endpoint)) for endpoint in ready for address in endpoint.texts("addresses")]
    families = {_address_family(address): address for address, _ in addresses}
    if "" in families:
        raise fields.error("endpoints", f"{families['']} is no IP address")
    if len(families) > 1 or fields.one_of("addressType", "IPv4", "IPv6", "FQDN") == "FQDN":
        raise fields.error("addressType", "expected addresses of one family, IPv4 or IPv6")
    family = next(iter(families), FAMILIES[0])
    endpoints = {
        port.text("name"): tuple(Endpoint(address, port.port("port"), pod) for address, pod in addresses)
        for port in fields.objects("ports", "name", "port", "protocol", "appProtocol")
        if port.text("protocol", "TCP") == "TCP"
    }
    return Slice(namespace, labels[SERVICE_NAME], family, endpoints)  # type: ignore[arg-type]  # "" was refused


ENDPOINT_FIELDS = (
    "addresses",
    "conditions",
    "hostname",
    "targetRef",
    "nodeName",
    "zone",
    "hints",
    "deprecatedTopology",
)


def _is_ready(endpoint: Fields) -> bool:
    conditions = endpoint.require_known(*ENDPOINT_FIELDS).inner("conditions", "ready", "serving", "terminating")
    return "ready" not in conditions or conditions.flag("ready")


def _pod_behind(endpoint: Fields) -> str:
    target = endpoint.inner("targetRef")
    return f"{target.text('namespace', DEFAULT_NAMESPACE)}/{target.text('name')}" if "name" in target else ""


def _address_family(address: str) -> Family | Literal[""]:
    try:
        network: Network = parse_address(address)
    except ValueError:
        return ""
    return network.family


def endpoints_of(
    service: Service, port: ServicePort, slices: Iterable[Slice], families: tuple[Family, ...]
) -> tuple[Endpoint, ...]:
    """Return the endpoints of a port, each pod once: in the first family of the proxy's that has any.

    A pod of two families has a slice for each.
    """
    own = [piece for piece in slices if (piece.namespace, piece.service) == (service.namespace, service.name)]
    for family in families:
        ready = [endpoint for piece in own if piece.family == family for endpoint in piece.endpoints.get(port.name, ())]
        if ready:
            return tuple(dict.fromkeys(ready))
    return ()
