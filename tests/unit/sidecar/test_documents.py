"""What documents mean, and what is refused: by the path of the field."""

import pytest

from capture.settings.config import CaptureConfig
from sidecar.bootstrap import MeshObjects, read_mesh_objects, render_bootstrap
from sidecar.documents import DocumentError, documents
from sidecar.fields import FieldError
from sidecar.objects import MeshPod, protocol_of


def mesh_objects(*texts: str) -> MeshObjects:
    return read_mesh_objects([one for text in texts for one in documents(text, "file.yaml")])


METADATA = "metadata: {name: x, namespace: n}"
SERVICES = f"kind: ServiceList\nitems: [{{{METADATA}, spec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]}}}}]"
"""As the API server lists them: no kind in each."""
RULE = f"kind: DestinationRule\n{METADATA}\nspec: "
MAGLEV = "{useSourceIp: true, maglev: {tableSize: 10}}"
SLICE = "kind: EndpointSlice\nmetadata: {name: x, labels: {kubernetes.io/service-name: s}}\n"


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("enableTracing: true", "enableTracing", "not supported; supported here: accessLogEncoding,"),
        ("mesh: {defaultConfig: {}}", "mesh.defaultConfig", "not supported"),
        (f"kind: ConfigMap\n{METADATA}\ndata: {{mesh: 'a: 1'}}", "data.mesh.a", "not supported"),
        ("accessLogFile: 3", "accessLogFile", "invalid value 3: expected a string"),
        ("accessLogEncoding: XML", "accessLogEncoding", "expected one of TEXT, JSON"),
        ("accessLogEncoding: JSON\naccessLogFormat: '['", "accessLogFormat", "expected a JSON object"),
        ("accessLogEncoding: JSON\naccessLogFormat: '{\"a\": NaN}'", "accessLogFormat", "expected a JSON object"),
        ('accessLogEncoding: JSON\naccessLogFormat: \'{"a": ["5%"]}\'', "accessLogFormat", "%% for a percent sign"),
        ("accessLogFormat: '%START_TIME(%F)% 100% %REQ(A?B):9%'", "accessLogFormat", "%% for a percent sign"),
        ("protocolDetectionTimeout: 9999999999h", "protocolDetectionTimeout", "expected a duration"),
        ("protocolDetectionTimeout: soon", "protocolDetectionTimeout", "expected a duration"),
        ("outboundTrafficPolicy: {mode: ALL}", "outboundTrafficPolicy.mode", "ALLOW_ANY, REGISTRY_ONLY"),
        ("extensionProviders: [{name: z, zipkin: {}}]", r"extensionProviders\[0\].zipkin", "not supported"),
        (f"kind: Telemetry\n{METADATA}\nspec: {{tracing: []}}", "spec.tracing", "not supported"),
        (
            f"kind: Telemetry\n{METADATA}\nspec: {{accessLogging: [{{}}, {{match: {{}}}}]}}",
            r"spec.accessLogging\[1\].match",
            "not supported",
        ),
        (f"{RULE}{{host: h, trafficPolicy: {{tls: {{}}}}}}", "spec.trafficPolicy.tls", "not supported"),
        (f"{RULE}{{host: h, exportTo: [.]}}", "spec.exportTo", "not supported"),
        (f"{RULE}{{}}", "spec.host", "missing"),
        (
            f"{RULE}{{host: h, trafficPolicy: {{loadBalancer: {{simple: FASTEST}}}}}}",
            "spec.trafficPolicy.loadBalancer.simple",
            "expected one of",
        ),
        (
            f"{RULE}{{host: h, subsets: [{{name: v, trafficPolicy: {{loadBalancer: {{consistentHash: {{}}}}}}}}]}}",
            r"spec.subsets\[0\].trafficPolicy.loadBalancer.consistentHash",
            "expected one of httpHeaderName",
        ),
        (
            f"{RULE}{{host: h, trafficPolicy: {{loadBalancer: {{consistentHash: {MAGLEV}}}}}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
            "prime",
        ),
        (
            f"{RULE}{{host: h, trafficPolicy: {{loadBalancer: {{consistentHash: {{httpHeaderName: ''}}}}}}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash.httpHeaderName",
            "expected a name",
        ),
        (
            f"{RULE}{{host: h, trafficPolicy: {{loadBalancer: {{consistentHash: {{httpCookie: {{ttl: 1s}}}}}}}}}}",
            "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name",
            "expected a name",
        ),
        (f"kind: Service\n{METADATA}\nspec: {{ports: [{{port: 8}}, {{port: 8}}]}}", "spec.ports", "same number"),
        (f"kind: Service\n{METADATA}\nspec: {{clusterIP: x}}", "spec.clusterIP", "x is no IP address"),
        (f"kind: Service\n{METADATA}\nspec: {{ports: [{{port: 0}}]}}", r"spec.ports\[0\].port", "from 1 to 65535"),
        (f"kind: Service\n{METADATA}\nspec: {{ports: [{{}}]}}", r"spec.ports\[0\].port", "missing"),
        (f"{SLICE}endpoints: [{{addresses: [a.b]}}]", "endpoints", "a.b is no IP address"),
        (f"{SLICE}endpoints: [{{addresses: [10.0.0.1, 'fd00::1']}}]", "addressType", "addresses of one family"),
        (f"kind: EndpointSlice\n{METADATA}", "metadata.labels", "kubernetes.io/service-name"),
        ("kind: Gateway", "kind", "Gateway is not supported"),
    ],
)
def test_an_unusable_field_is_named_by_its_path(text: str, path: str, problem: str) -> None:
    with pytest.raises(FieldError, match=rf"file.yaml.*: {path}: .*{problem}"):
        mesh_objects(text)


def test_an_address_of_two_services_is_refused() -> None:
    first = "kind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.0.0.1}"
    with pytest.raises(FieldError, match=r"Service default/b: spec.clusterIP: 10.0.0.1 is the address of a.default"):
        mesh_objects(first, first.replace("name: a", "name: b"))


@pytest.mark.parametrize("port", [15000, 15001, 15021])
def test_a_port_of_the_capture_on_which_the_proxy_listens_is_refused(port: int) -> None:
    with pytest.raises(FieldError, match=f"--inbound-capture-port: port {port} is one of the proxy's own"):
        render_bootstrap(CaptureConfig(inbound_capture_port=port), MeshObjects(), MeshPod("default", "web"))


def test_a_file_that_is_no_yaml_is_named_with_its_line() -> None:
    with pytest.raises(DocumentError, match=r"file.yaml, line 2, column \d+: not YAML: [a-z ]+"):
        mesh_objects("a: 1\n b: {\n")
    with pytest.raises(DocumentError, match=r"file.yaml, line 2: not YAML: unacceptable character #x0001"):
        mesh_objects("a: 1\nb: \x01\n")


def test_objects_as_the_api_server_prints_them_are_read() -> None:
    found = mesh_objects(
        """
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: s, namespace: n, uid: u, resourceVersion: "1", creationTimestamp: "2026-01-01T00:00:00Z"}
  spec:
    {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack,
     internalTrafficPolicy: Cluster, sessionAffinity: None, type: ClusterIP, selector: {app: s},
     ports: [{name: grpc, port: 80, protocol: TCP, targetPort: web}, {name: dns, port: 53, protocol: UDP}]}
  status: {loadBalancer: {}}
""",
        SLICE.replace("name: x,", "name: x, namespace: n,")
        + """addressType: IPv6
ports: [{name: grpc, port: 8080, protocol: TCP}]
endpoints: [{addresses: ["fd00::1"], conditions: {ready: true, serving: true, terminating: false}, nodeName: node,
             targetRef: {kind: Pod, name: p, namespace: n, uid: u}}]
""",
    )

    (service,) = found.services
    assert (service.host, service.addresses) == ("s.n.svc.cluster.local", ("10.0.0.1",))
    assert [(port.number, port.protocol, port.target) for port in service.ports] == [(80, "http2", "web")]
    (piece,) = found.slices
    assert [(one.address, one.port, one.pod) for one in piece.endpoints["grpc"]] == [("fd00::1", 8080, "n/p")]
    assert [service.host for service in mesh_objects(SERVICES).services] == ["x.n.svc.cluster.local"]


def test_an_object_that_is_given_twice_is_refused() -> None:
    with pytest.raises(FieldError, match=r"Pod default/p .*given twice"):
        mesh_objects("kind: Pod\nmetadata: {name: p}\n---\nkind: Pod\nmetadata: {name: p, namespace: default}")
    with pytest.raises(FieldError, match=r"Pod default/p .*given twice"):
        mesh_objects("kind: Pod\nmetadata: {name: p}", "kind: Pod\nmetadata: {name: p}")  # one file twice
    with pytest.raises(FieldError, match="a second mesh config"):
        mesh_objects("mesh: {}\n---\naccessLogFile: a")


@pytest.mark.parametrize(
    ("name", "app_protocol", "protocol"),
    [
        ("http", "", "http"),
        ("http-web", "", "http"),
        ("grpc-web", "", "http"),
        ("grpc-api", "", "http2"),
        ("mysql", "", "tcp"),
        ("https-x", "", "tcp"),
        ("", "", "auto"),
        ("httpx", "", "auto"),
        ("mysql", "HTTP2", "http2"),
        ("http", "mine.example/x", "auto"),
        ("http", "kubernetes.io/h2c", "http2"),
    ],
)
def test_a_port_declares_its_protocol(name: str, app_protocol: str, protocol: str) -> None:
    assert protocol_of(name, app_protocol) == protocol
