"""DestinationRule (networking.istio.io/v1): how the sidecar spreads calls over the endpoints of a service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from capture.model.values import Value
from sidecar.documents import Document
from sidecar.fields import FieldError, Fields
from sidecar.objects import CLUSTER_DOMAIN, Endpoint, MeshPod, Service, includes, metadata_of

SIMPLE = {
    "UNSPECIFIED": "LEAST_REQUEST",
    "LEAST_REQUEST": "LEAST_REQUEST",
    "LEAST_CONN": "LEAST_REQUEST",
    "ROUND_ROBIN": "ROUND_ROBIN",
    "RANDOM": "RANDOM",
    "PASSTHROUGH": "CLUSTER_PROVIDED",
}
HASH_KEYS = ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")
MAX_RING_SIZE = 8388608
"""Envoy's bound (config.cluster.v3.Cluster.RingHashLbConfig)."""
MAX_TABLE_SIZE = 5000011
"""Envoy's bound (config.cluster.v3.Cluster.MaglevLbConfig)."""


class BalancingPolicy(Value):
    """How calls are spread: Envoy's policy and its settings, and what is hashed of a request."""

    lb_policy: str = "LEAST_REQUEST"  # Istio's default
    settings: Mapping[str, object] = {}  # never changed
    hash_key: Mapping[str, object] | None = None

    @property
    def is_passthrough(self) -> bool:
        """Return whether calls go where they are addressed to."""
        return self.lb_policy == "CLUSTER_PROVIDED"

    @property
    def is_by_source(self) -> bool:
        """Return whether the client's address is hashed: the only key that a TCP connection has."""
        return self.hash_key is not None and "connection_properties" in self.hash_key


class Subset(Value):
    """Some endpoints of a service: those whose pods have the labels."""

    name: str
    labels: Mapping[str, str]
    policy: BalancingPolicy | None

    def includes(self, endpoint: Endpoint, pods: Mapping[str, MeshPod]) -> bool:
        """Return whether an endpoint is in it; one whose pod is not known is not."""
        pod = pods.get(endpoint.pod)
        return pod is not None and includes(pod.labels, self.labels)


class DestinationRule(Value):
    """A DestinationRule."""

    origin: str
    namespace: str
    host: str
    policy: BalancingPolicy | None = None
    subsets: tuple[Subset, ...] = ()

    def matches(self, host: str) -> bool:
        """Return whether it is about a host; ``*.`` matches any beginning."""
        return host == self.host or (self.host[:1] == "*" and host.endswith(self.host[1:]))


NO_DESTINATION_RULE = DestinationRule("", "", "")


def read_rule(document: Document) -> DestinationRule:
    """Return a DestinationRule; a host without a dot is in the rule's own namespace."""
    fields = document.fields("apiVersion", "kind", "metadata", "spec", "status")
    namespace, _, _ = metadata_of(fields)
    spec = fields.inner("spec", "host", "trafficPolicy", "subsets")
    host = spec.text("host")
    if not host:
        raise spec.error("host", "missing: expected the name of a service")
    if "." not in host and host != "*":
        host = f"{host}.{namespace}.svc.{CLUSTER_DOMAIN}"
    subsets = tuple(_read_subset(subset) for subset in spec.objects("subsets", "name", "labels", "trafficPolicy"))
    for subset, fields_of_it in zip(subsets, spec.objects("subsets"), strict=True):
        if [other.name for other in subsets].count(subset.name) > 1:
            raise fields_of_it.error("name", "two subsets have this name")
    return DestinationRule(document.origin, namespace, host, _read_policy(spec), subsets)


def _read_subset(fields: Fields) -> Subset:
    name = fields.text("name")
    if not name or "|" in name:
        raise fields.error("name", "expected a name without '|'")
    return Subset(name, fields.labels("labels"), _read_policy(fields))


def _read_policy(fields: Fields) -> BalancingPolicy | None:
    if "trafficPolicy" not in fields:
        return None
    traffic = fields.inner("trafficPolicy", "loadBalancer")
    balancer = traffic.inner("loadBalancer", "simple", "consistentHash")
    if "consistentHash" not in balancer:
        return BalancingPolicy(SIMPLE[balancer.one_of("simple", *SIMPLE)])
    if "simple" in balancer:
        raise balancer.error("consistentHash", "expected simple or consistentHash, not both")
    return _hashing_policy(balancer.inner("consistentHash", *HASH_KEYS, "ringHash", "maglev", "minimumRingSize"))


def _hashing_policy(fields: Fields) -> BalancingPolicy:
    key = _hash_key(fields)
    if "maglev" in fields.plain():
        if "ringHash" in fields.plain() or "minimumRingSize" in fields:
            raise fields.error("maglev", "expected ringHash or maglev, not both")
        maglev = fields.inner("maglev", "tableSize")
        size = maglev.number("tableSize", 0, 1, MAX_TABLE_SIZE)
        if "tableSize" in maglev and not _is_prime(size):
            raise maglev.error("tableSize", "expected a prime number")
        return BalancingPolicy("MAGLEV", {"maglev_lb_config": {"table_size": size}} if size else {}, key)
    ring = fields.inner("ringHash", "minimumRingSize") if "ringHash" in fields else fields
    size = ring.number("minimumRingSize", 1024, 1, MAX_RING_SIZE)
    return BalancingPolicy("RING_HASH", {"ring_hash_lb_config": {"minimum_ring_size": size}}, key)


def _hash_key(fields: Fields) -> Mapping[str, object]:
    """Return what is hashed, in the form of Envoy's routes (config.route.v3.RouteAction.HashPolicy)."""
    keys = [key for key in HASH_KEYS if key in fields]
    if len(keys) != 1:
        raise FieldError(fields.document, fields.path, f"expected one of {', '.join(HASH_KEYS)}")
    if keys == ["httpHeaderName"]:
        return {"header": {"header_name": fields.name("httpHeaderName")}}
    if keys == ["httpQueryParameterName"]:
        return {"query_parameter": {"name": fields.name("httpQueryParameterName")}}
    if keys == ["httpCookie"]:
        cookie = fields.inner("httpCookie", "name", "path", "ttl")
        cookie_key = {"name": cookie.name("name"), "ttl": cookie.duration("ttl", "0s")}
        return {"cookie": cookie_key | ({"path": cookie.text("path")} if "path" in cookie else {})}
    if not fields.flag("useSourceIp"):
        raise fields.error("useSourceIp", "expected true")
    return {"connection_properties": {"source_ip": True}}


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def rule_for(service: Service, rules: Iterable[DestinationRule], pod: MeshPod, root: str) -> DestinationRule:
    """Return the rule about a service, as Istio looks it up: from the client's namespace, the service's, the root.

    In each, an exact host beats a wildcard, a longer wildcard a shorter one. FieldError if two are equal.
    """
    fitting = [rule for rule in rules if rule.matches(service.host)]
    for namespace in (pod.namespace, service.namespace, root):
        here = sorted(
            (rule for rule in fitting if rule.namespace == namespace),
            key=lambda rule: (rule.host != service.host, -len(rule.host)),
        )
        if len(here) > 1 and here[0].host == here[1].host:
            raise FieldError(here[1].origin, "spec.host", f"{here[0].origin} is about the same host")
        if here:
            return here[0]
    return NO_DESTINATION_RULE
