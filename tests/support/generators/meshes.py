"""Random meshes: services, endpoints, destination rules, telemetry and mesh config, and one call that must succeed."""

import dataclasses
import json
import random
from typing import Any

from support.traffic.sidecar_lab import APP_PORT, ENDPOINTS

NAMESPACES = ("default", "other", "istio-system")
PORT_NAMES = ("http", "http-web", "http2", "grpc-api", "tcp", "tcp-db", "mysql", "redis", "https", "", "metrics")
BALANCERS: tuple[dict[str, Any], ...] = (
    {"simple": "ROUND_ROBIN"},
    {"simple": "LEAST_REQUEST"},
    {"simple": "LEAST_CONN"},
    {"simple": "RANDOM"},
    {"simple": "UNSPECIFIED"},
    {},
    {"consistentHash": {"httpHeaderName": "x-user"}},
    {"consistentHash": {"httpHeaderName": "x-user", "ringHash": {"minimumRingSize": 64}}},
    {"consistentHash": {"httpQueryParameterName": "user", "maglev": {}}},
    {"consistentHash": {"httpCookie": {"name": "user", "ttl": "60s", "path": "/"}, "maglev": {"tableSize": 65537}}},
    {"consistentHash": {"httpCookie": {"name": "user"}}},
    {"consistentHash": {"useSourceIp": True}},
)
FORMATS = ("%START_TIME% %RESPONSE_CODE%", '"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%" %RESPONSE_FLAGS%\n')


@dataclasses.dataclass(frozen=True, slots=True)
class Mesh:
    """The documents of a mesh, and a call to one of its services: an address, a port and a Host header."""

    text: str
    address: str
    port: int
    host: str


def random_mesh(seed: int) -> Mesh:
    """Return the mesh of a seed. Its documents are JSON, which is YAML."""
    draw = random.Random(seed)  # noqa: S311  # a test case, and the same every time
    services = [_service(draw, number) for number in range(draw.randint(1, 5))]
    target = draw.choice(services)
    port = _callable_port(draw, target)
    objects: list[dict[str, Any]] = [_mesh_config(draw), {"kind": "Pod", **_metadata("productpage", "default")}]
    objects[-1]["metadata"]["labels"] = {"app": "productpage"}
    for service in services:
        objects += [service, _slice(draw, service)]
        if draw.random() < 0.7:
            objects.append(_rule(draw, service))
    objects += _telemetries(draw)
    draw.shuffle(objects)
    name, namespace = target["metadata"]["name"], target["metadata"]["namespace"]
    addresses = [address for address in target["spec"]["clusterIPs"] if address != "None"]
    full = f"{name}.{namespace}.svc.cluster.local"
    hosts = [full, f"{full}:{port}", f"{name}.{namespace}", *([name] if namespace == "default" else [])]
    text = "\n---\n".join(json.dumps(one) for one in objects)
    return Mesh(text, draw.choice(addresses or ["192.0.2.1"]), port, draw.choice(hosts))


def _metadata(name: str, namespace: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}}


def _service(draw: random.Random, number: int) -> dict[str, Any]:
    ports: dict[int, dict[str, Any]] = {}
    for index in range(draw.randint(1, 4)):
        port = draw.choice((80, 443, 3306, 8080, 9080, 9090, 50051))
        ports[port] = {"port": port, "name": f"{draw.choice(PORT_NAMES)}-{index}".removeprefix("-")}
        if draw.random() < 0.2:
            ports[port]["appProtocol"] = draw.choice(("http", "kubernetes.io/h2c", "tcp", "HTTPS", "mine.example/x"))
        if draw.random() < 0.3:
            ports[port]["targetPort"] = draw.choice((APP_PORT, "web"))
    ipv4, ipv6 = f"10.96.{number}.35", f"fd00:96::{number:x}:35"
    addresses = draw.choice(([ipv4], [ipv6], [ipv4, ipv6], [ipv6, ipv4], ["None"]))
    selector = draw.choice(({"app": "productpage"}, {"app": "details"}, {}))
    return {
        "kind": "Service",
        **_metadata(draw.choice(("details", "reviews", "a", "b")) + str(number), draw.choice(NAMESPACES)),
        "spec": {"clusterIPs": addresses, "selector": selector, "ports": list(ports.values())},
    }


def _callable_port(draw: random.Random, service: dict[str, Any]) -> int:
    """Give the service an HTTP port, which a call can reach in any case, and return its number."""
    port = draw.choice((80, 8000, 9081))
    ports = [other for other in service["spec"]["ports"] if other["port"] != port]
    service["spec"]["ports"] = [*ports, {"port": port, "name": draw.choice(("http", "http-call"))}]
    return port


def _slice(draw: random.Random, service: dict[str, Any]) -> dict[str, Any]:
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    addresses = draw.sample(ENDPOINTS, draw.randint(1, len(ENDPOINTS)))
    endpoints: list[dict[str, Any]] = [
        {"addresses": [address], "conditions": draw.choice(({}, {"ready": True}))} for address in addresses
    ]
    endpoints.append({"addresses": ["10.77.0.99"], "conditions": {"ready": False}})
    metadata = _metadata(f"{name}-x", namespace)
    metadata["metadata"]["labels"] = {"kubernetes.io/service-name": name}
    ports = [{"name": port["name"], "port": APP_PORT} for port in service["spec"]["ports"]]
    return {"kind": "EndpointSlice", **metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}


def _rule(draw: random.Random, service: dict[str, Any]) -> dict[str, Any]:
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    spec: dict[str, Any] = {"host": draw.choice((name, f"{name}.{namespace}.svc.cluster.local"))}
    if draw.random() < 0.9:
        spec["trafficPolicy"] = {"loadBalancer": draw.choice(BALANCERS)}
    if draw.random() < 0.4:
        spec["subsets"] = [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "trafficPolicy": {}}]
    return {"kind": "DestinationRule", **_metadata(f"{name}-rule", namespace), "spec": spec}


def _mesh_config(draw: random.Random) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if draw.random() < 0.6:
        config["accessLogFile"] = draw.choice(("/dev/stdout", "/dev/stderr", "/dev/null", ""))
    if draw.random() < 0.4:
        config["accessLogEncoding"] = draw.choice(("TEXT", "JSON"))
    if draw.random() < 0.4:
        is_json = config.get("accessLogEncoding") == "JSON"
        config["accessLogFormat"] = json.dumps({"code": "%RESPONSE_CODE%"}) if is_json else draw.choice(FORMATS)
    if draw.random() < 0.5:
        config["outboundTrafficPolicy"] = {"mode": draw.choice(("ALLOW_ANY", "REGISTRY_ONLY"))}
    if draw.random() < 0.5:
        config["protocolDetectionTimeout"] = draw.choice(("0s", "0.2s", "200ms", "5s", "1m30s"))
    formats = draw.choice(
        ({}, {"text": FORMATS[0]}, {"labels": {"path": "%REQ(:PATH)%", "nested": {"a": "%PROTOCOL%"}}})
    )
    file = {"path": draw.choice(("/dev/stdout", "/dev/null")), "logFormat": formats}
    config["extensionProviders"] = [{"name": "mine", "envoyFileAccessLog": file}]
    shape = draw.randrange(3)
    if shape == 0:
        return config
    if shape == 1:
        return {"mesh": json.dumps(config)}
    return {"kind": "ConfigMap", **_metadata("istio", "istio-system"), "data": {"mesh": json.dumps(config)}}


def _telemetries(draw: random.Random) -> list[dict[str, Any]]:
    """Return at most one Telemetry of each scope."""
    scopes: tuple[tuple[str, dict[str, str]], ...] = (
        ("istio-system", {}),
        ("default", {}),
        ("default", {"app": "productpage"}),
    )
    made = []
    for number, (namespace, labels) in enumerate(scopes):
        if draw.random() < 0.4:
            spec: dict[str, Any] = {"accessLogging": [_entry(draw)]}
            if labels:
                spec["selector"] = {"matchLabels": labels}
            made.append({"kind": "Telemetry", **_metadata(f"t{number}", namespace), "spec": spec})
    return made


def _entry(draw: random.Random) -> dict[str, Any]:
    entry: dict[str, Any] = draw.choice(
        ({}, {"providers": [{"name": "envoy"}]}, {"providers": [{"name": "mine"}, {"name": "envoy"}]})
    )
    expressions = ("response.code >= 400", "'x-user' in request.headers", "connection.mtls == false")
    if draw.random() < 0.3:
        entry = entry | {"filter": {"expression": draw.choice(expressions)}}
    return entry | draw.choice(({}, {"disabled": True}, {"disabled": False}))
