"""A real Envoy in two pods, behind each way to write the rules: every way a connection can go.

::

    a  10.244.1.11  fd00:244:1::11  client, Envoy for REDIRECT
    b  10.244.1.12  fd00:244:1::12  apps, Envoy for the mode of the rules      all on one bridge of a node
    e  10.244.1.21, .22, .23        endpoints of the service details, no proxy

What is checked is what the app saw, and what Envoy logged: its access log has the destination as it was dialled, in
Istio's default format. The virtual addresses of services belong to no host, so that only Envoy can reach an endpoint.
"""

import contextlib
import dataclasses
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from capture import operations
from capture.settings import options as option
from pytest_netns import Client, Namespace, NamespaceFactory, Outcome, Pod, make_veth
from support.captures.settings import Texts, settings
from support.traffic.envoy_bootstrap import HEALTH_PORT, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, Service, Sidecar
from support.traffic.envoy_proxy import PROXY_UID, Envoy, LogLine, start_envoy
from support.traffic.proxies import APP_UID, echo, get, http_answer, start_app

HTTP, TCP, GRPC, UNDECLARED, NO_HOST = 9080, 3306, 9090, 7000, 9081
DETAILS = ("10.96.94.35", "fd00:96::35")
REVIEWS = "10.96.81.152"
ENDPOINTS = ("10.244.1.21", "10.244.1.22", "10.244.1.23")
SIZE = 20 << 20
GRPC_ECHO = Path(__file__).parents[1] / "support" / "traffic" / "grpc_echo.py"

WRITERS: dict[str, Texts] = {
    "nftables": {option.BACKEND: "nftables"},
    "iptables-nft": {option.BACKEND: "iptables", option.FORCE_IPTABLES_BINARY: "nft"},
    "iptables-legacy": {option.BACKEND: "iptables", option.FORCE_IPTABLES_BINARY: "legacy"},
}
WAYS = [(writer, mode) for mode in ("REDIRECT", "TPROXY") for writer in WRITERS]


def services() -> tuple[Service, ...]:
    protocols = {HTTP: "http", TCP: "tcp", GRPC: "http2", UNDECLARED: "auto"}
    details = [
        Service(
            host="details.default.svc.cluster.local",
            addresses=DETAILS,
            port=port,
            protocol=protocol,
            endpoints=ENDPOINTS,
        )
        for port, protocol in protocols.items()
    ]
    reviews = Service(
        host="reviews.default.svc.cluster.local",
        addresses=(REVIEWS,),
        port=HTTP,
        protocol="http",
        endpoints=("10.244.1.12",),
    )
    return (*details, reviews)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Captured pods, each with an Envoy."""

    a: Pod
    b: Pod
    envoy_a: Envoy
    envoy_b: Envoy
    transparent: bool

    @property
    def app_a(self) -> Client:
        return self.a.client(APP_UID)

    @property
    def app_b(self) -> Client:
        return self.b.client(APP_UID)

    @property
    def proxy_b(self) -> Client:
        """The user that the rules know as the proxy."""
        return self.b.client(0, PROXY_UID) if self.transparent else self.b.client(PROXY_UID)

    def source(self, client: Pod, address: str) -> str:
        """Return the address of the family that an app behind the proxy sees of a client."""
        if not self.transparent:
            return "::6" if ":" in address else "127.0.0.6"
        return client.ipv6 if ":" in address else client.ipv4

    def logged(self) -> tuple[LogLine, LogLine]:
        """Return the one line of each Envoy."""
        (at_a,), (at_b,) = self.envoy_a.log(1), self.envoy_b.log(1)
        return at_a, at_b


@pytest.fixture(scope="module")
def pods(module_netns: NamespaceFactory) -> Iterator[tuple[Pod, Pod]]:
    """Pods a and b; with the endpoints they are on the bridge of a node."""
    node = module_netns("node")
    node.ip("link add cni0 type bridge", "link set cni0 up")
    node.ip("address add 10.244.1.1/24 dev cni0", "address add fd00:244:1::1/64 dev cni0 nodad")
    with contextlib.ExitStack() as stack:
        numbers = {"a": 11, "b": 12, "e": 21}
        a, b, endpoints = (stack.enter_context(joined_pod(node, *pair)) for pair in numbers.items())
        for address in ENDPOINTS[1:]:
            endpoints.add_address(f"{address}/24")
        for pod in (b, endpoints):
            start_apps(pod)
        yield a, b


def joined_pod(node: Namespace, name: str, number: int) -> Pod:
    """Return a pod on the node's bridge."""
    pod = Pod(name, f"10.244.1.{number}/24", f"fd00:244:1::{number}/64")
    make_veth(pod, node, "eth0", f"veth{number}")
    node.ip(f"link set veth{number} master cni0")
    for address in pod.addresses:
        pod.add_address(address)
    pod.ip("route add default via 10.244.1.1", "route add default via fd00:244:1::1")
    return pod


def start_apps(pod: Pod) -> None:
    """Start what answers: over HTTP, as a server that sends first, over gRPC."""
    start_app(pod, HTTP, label=pod.name)
    greeters = [(address, port) for address in ("0.0.0.0", "::") for port in (TCP, UNDECLARED)]
    pod.listener(*greeters, label=pod.name, protocols=("tcp",))
    pod.popen(
        [sys.executable, GRPC_ECHO, "serve", pod.name, str(GRPC)], uid=APP_UID, ports=[GRPC], reads_everything=True
    )


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def shared(pods: tuple[Pod, Pod], request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Both pods captured in one way, each with an Envoy."""
    writer, mode = request.param
    a, b = pods
    for pod in pods:
        with pod.entered():
            operations.apply(settings(WRITERS[writer], {option.INTERCEPTION_MODE: mode}))
    transparent = mode == "TPROXY"
    sidecar = Sidecar(services=services(), http_ports=(NO_HOST,), tcp_ports=(TCP,), transparent=transparent)
    envoy_a, envoy_b = (start_envoy(pod, sidecar) for pod in pods)
    yield Scene(a=a, b=b, envoy_a=envoy_a, envoy_b=envoy_b, transparent=transparent)
    for pod, envoy in ((a, envoy_a), (b, envoy_b)):
        envoy.process.stop()
        with pod.entered():
            operations.clean()


@pytest.fixture
def scene(shared: Scene) -> Scene:
    """The same with logs that begin here."""
    shared.envoy_a.forget()
    shared.envoy_b.forget()
    return shared


def address_of(pod: Pod, family: str) -> str:
    return pod.ipv4 if family == "ipv4" else pod.ipv6


def at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def host_of(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")


def call(pod: Pod, target: str) -> str:
    """Make two gRPC calls as the app."""
    return pod.run([sys.executable, GRPC_ECHO, "call", target], uid=APP_UID, reads_everything=True).stdout.strip()


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_http_passes_both_proxies_and_each_knows_where_it_goes(scene: Scene, family: str) -> None:
    here, there = address_of(scene.a, family), address_of(scene.b, family)
    seen = get(scene.app_a, there, HTTP)
    assert (seen.label, seen.passed) == ("b", ("outbound", "inbound"))
    assert seen.peer.address == scene.source(scene.a, there)
    at_a, at_b = scene.logged()
    assert (at_a.request, at_a.code, at_a.cluster) == ("GET / HTTP/1.1", "200", "PassthroughCluster")
    assert at_a.upstream == at_a.downstream_local == at_b.upstream == at_b.downstream_local == at(there, HTTP)
    assert host_of(at_a.downstream_remote) == here
    assert at_b.downstream_remote == at_a.upstream_local
    assert at_b.cluster == f"InboundPassthroughClusterIpv{family[-1]}"
    assert host_of(at_b.upstream_local) == scene.source(scene.a, there)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_server_may_send_first_where_the_port_is_declared(scene: Scene, family: str) -> None:
    there = address_of(scene.b, family)
    outcome = scene.app_a.connect(there, TCP)
    assert (outcome.label, peer_of(outcome)) == ("b", scene.source(scene.a, there))
    at_a, at_b = scene.logged()
    assert (at_a.request, at_a.cluster) == ("- - -", "PassthroughCluster")
    assert (at_b.request, at_b.cluster) == ("- - -", f"InboundPassthroughClusterIpv{family[-1]}")


def peer_of(outcome: Outcome) -> str:
    assert outcome.answer
    return outcome.answer.peer.address


def test_a_server_that_speaks_first_undeclared_waits_for_the_inspectors(scene: Scene) -> None:
    started = time.monotonic()
    assert scene.app_a.connect(scene.b.ipv4, UNDECLARED).label == "b"
    assert time.monotonic() - started > 0.15
    assert scene.logged()[1].cluster == "InboundPassthroughClusterIpv4"


def test_calls_of_grpc_pass_both_proxies(scene: Scene) -> None:
    assert call(scene.a, f"ipv4:{scene.b.ipv4}:{GRPC}") == "b got hello, 01234"
    assert [line.request for line in scene.envoy_b.log(2)] == [
        "POST /demo.Echo/Say HTTP/2",
        "POST /demo.Echo/Count HTTP/2",
    ]


@pytest.mark.parametrize("address", DETAILS)
def test_a_service_with_an_address_that_no_host_has(scene: Scene, address: str) -> None:
    """The log line is [Shell 3] of the description that this project starts from, field for field."""
    seen = [get(scene.app_a, address, HTTP, "/details/0", host=f"details:{HTTP}") for _ in ENDPOINTS]
    assert {each.local.address for each in seen} == set(ENDPOINTS)
    assert {each.peer.address for each in seen} == {scene.a.ipv4}
    here = scene.a.ipv6 if ":" in address else scene.a.ipv4
    for line in scene.envoy_a.log(3):
        assert (line.request, line.cluster) == (
            "GET /details/0 HTTP/1.1",
            "outbound|9080||details.default.svc.cluster.local",
        )
        assert line.downstream_local == at(address, HTTP)
        assert (host_of(line.upstream_local), host_of(line.downstream_remote)) == (scene.a.ipv4, here)


def test_a_service_over_tcp_and_over_grpc(scene: Scene) -> None:
    assert scene.app_a.connect(DETAILS[0], TCP).label == "e"
    assert call(scene.a, f"ipv4:{DETAILS[0]}:{GRPC}") == "e got hello, 01234"
    assert {line.cluster.partition(".")[0] for line in scene.envoy_a.log(3)} == {
        f"outbound|{TCP}||details",
        f"outbound|{GRPC}||details",
    }


def test_a_pod_reaches_itself_without_its_proxy(scene: Scene) -> None:
    for address in (scene.b.ipv4, scene.b.ipv6, "127.0.0.1", "::1"):
        seen = get(scene.app_b, address, HTTP)
        assert (seen.label, seen.passed, seen.peer.address) == ("b", (), address)
    scene.proxy_b.connect("127.0.0.1", TCP)
    assert get(scene.proxy_b, scene.b.ipv4, HTTP, "/last").passed == ("inbound",)
    assert [line.request for line in scene.envoy_b.log(1)] == ["GET /last HTTP/1.1"]


def test_a_pod_reaches_itself_by_its_service_through_the_proxy_twice(scene: Scene) -> None:
    seen = get(scene.app_b, REVIEWS, HTTP, host="reviews")
    assert (seen.label, seen.passed) == ("b", ("outbound", "inbound"))
    assert seen.peer.address == scene.source(scene.b, scene.b.ipv4)
    lines = {line.flow.side: line for line in scene.envoy_b.log(2)}
    assert lines["outbound"].downstream_local == at(REVIEWS, HTTP)
    assert lines["inbound"].downstream_local == at(scene.b.ipv4, HTTP)


def test_packets_of_the_proxys_user_to_its_own_pod_come_in_once(scene: Scene) -> None:
    assert get(scene.proxy_b, scene.b.ipv4, HTTP).passed == ("inbound",)
    (line,) = scene.envoy_b.log(1)
    assert line.cluster == "InboundPassthroughClusterIpv4"


def test_the_proxys_own_ports_lead_nowhere(scene: Scene) -> None:
    with pytest.raises(ConnectionError):
        get(scene.app_a, scene.b.ipv4, INBOUND_PORT)
    with pytest.raises(ConnectionError):
        get(scene.app_b, "127.0.0.1", OUTBOUND_PORT)
    assert get(scene.app_a, scene.b.ipv4, HTTP).label == "b"


def test_health_and_metrics_are_reached_from_elsewhere(scene: Scene) -> None:
    assert http_answer(scene.app_a, scene.b.ipv4, HEALTH_PORT, "/healthz/ready") == (200, "LIVE\n")
    status, metrics = http_answer(scene.app_a, scene.b.ipv4, METRICS_PORT, "/stats/prometheus")
    assert status == 200
    assert "envoy_cluster_upstream_rq" in metrics


def test_a_port_on_which_no_process_listens(scene: Scene) -> None:
    assert http_answer(scene.app_a, scene.b.ipv4, NO_HOST)[0] == 503
    assert scene.envoy_a.log(1)[0].cluster == "PassthroughCluster"


def test_many_bytes_both_ways(scene: Scene) -> None:
    listener = scene.b.client(APP_UID).open_socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener, scene.app_a.open_socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        listener.bind(("0.0.0.0", 5000))
        listener.listen()
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        connection.settimeout(20)
        connection.connect((scene.b.ipv4, 5000))
        sender = threading.Thread(target=send_all, args=(connection,), daemon=True)
        sender.start()
        count = 0
        while piece := connection.recv(1 << 20):
            count += len(piece)
        sender.join()
    assert count == SIZE


def send_all(connection: socket.socket) -> None:
    connection.sendall(bytes(SIZE))
    connection.shutdown(socket.SHUT_WR)


def test_nothing_gets_past_a_proxy_that_died(scene: Scene) -> None:
    there = scene.b.ipv4
    with scene.app_a.open_socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        held.settimeout(5)
        held.connect((there, HTTP))
        assert status_line(held) == b"HTTP/1.1 200 OK"
        scene.envoy_b.kill()
        assert status_line(held) != b"HTTP/1.1 200 OK"
        with pytest.raises(ConnectionError, match="503"):
            get(scene.app_a, there, HTTP)
    scene.envoy_b.start_again()
    assert get(scene.app_a, there, HTTP).label == "b"


def status_line(connection: socket.socket) -> bytes:
    """Send a request on an open connection and return how it is answered; nothing, if the connection has ended."""
    try:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n")
        return connection.recv(65536).partition(b"\r\n")[0]
    except ConnectionError:
        return b""


def test_verify_finds_both_pods_in_sync(scene: Scene) -> None:
    for pod in (scene.a, scene.b):
        with pod.entered():
            assert operations.verify().conclusion == "in sync"


def test_the_format_is_that_of_the_description() -> None:
    """The first line of [Shell 3]."""
    line = LogLine.parse(  # without the rest of the browser's name after the first words
        '[2025-05-04T17:22:18.230Z] "GET /details/0 HTTP/1.1" 200 - via_upstream - "-" 0 178 151 124 "-" '
        '"Mozilla/5.0 (Macintosh)" "23a37732-e001-9302-b72f-284faaf8f7cc" "details:9080" "10.244.1.14:9080" '
        "outbound|9080||details.default.svc.cluster.local 10.244.2.19:38918 10.96.94.35:9080 10.244.2.19:39068 "
        "- default"
    )
    assert line
    assert (line.upstream, line.downstream_local) == ("10.244.1.14:9080", "10.96.94.35:9080")
