"""TPROXY by traffic: the proxy sees the client's own address, and so does the app behind it."""

import socket
import threading
from collections.abc import Iterator

import pytest

from capture import operations
from capture.settings import options as option
from pytest_netns import Endpoint, Kind, Pod, PodPair
from support.captures.settings import DRIVERS, ONE_FOR_EACH_PLACE, Texts, settings
from support.traffic.proxies import echo, get, start_app
from support.traffic.transparent_proxy import GID, UID, TransparentProxy

APP = 8080
TPROXY: Texts = {option.INTERCEPTION_MODE: "TPROXY"}
OTHER_NUMBERS: Texts = {
    option.TPROXY_MARK: "0x4d4d",
    option.TPROXY_ROUTE_TABLE: "300",  # larger than what fits into the header of a route
    option.INBOUND_CAPTURE_PORT: "16006",
    option.PROFILE: "current",
}
SECOND = {"ipv4": "10.77.0.99", "ipv6": "fd77::99"}
"""Another address of the client's."""


@pytest.fixture(scope="module")
def pair(module_pod_pair: PodPair) -> PodPair:
    """A pod with an app, and a peer with two addresses of each family."""
    pod, peer = module_pod_pair
    start_app(pod, APP)
    peer.add_address(f"{SECOND['ipv4']}/24")
    peer.add_address(f"{SECOND['ipv6']}/64")
    return module_pod_pair


@pytest.fixture(params=ONE_FOR_EACH_PLACE)
def captured(pair: PodPair, request: pytest.FixtureRequest) -> Iterator[PodPair]:
    with pair.pod.entered():
        operations.apply(settings(TPROXY, DRIVERS[request.param]))
    yield pair
    with pair.pod.entered():
        operations.clean()


def addresses(pod: Pod) -> tuple[str, str]:
    return pod.ipv4, pod.ipv6


def test_proxy_and_app_see_the_client(captured: PodPair) -> None:
    pod, peer = captured
    with TransparentProxy(pod) as proxy:
        for to, own, second in zip(addresses(pod), addresses(peer), SECOND.values(), strict=True):
            for source in (own, second):
                proxy.passed.clear()
                outcome = reply_of(peer, to, source)

                assert outcome.startswith(f"{source} ")
                (passed,) = proxy.passed
                assert passed.client.address == source
                assert passed.destination == Endpoint(to, APP)


def reply_of(peer: Pod, address: str, source: str) -> str:
    """Send a request from one of the peer's addresses; return what the app saw, its client and itself."""
    seen = get(peer.client(), address, APP, source=source)
    return f"{seen.peer.address} {seen.local}"


def test_without_a_proxy_nothing_comes_in(captured: PodPair) -> None:
    pod, peer = captured
    for to in addresses(pod):
        assert peer.client().connect(to, APP, timeout=0.1).kind in (Kind.TIMED_OUT, Kind.REFUSED)


def test_calls_of_the_pod_to_itself_do_not_loop(captured: PodPair) -> None:
    """The app reaches itself directly; the proxy comes in through itself, once."""
    pod, _ = captured
    with TransparentProxy(pod) as proxy:
        for own, localhost in zip(addresses(pod), ("127.0.0.1", "::1"), strict=True):
            proxy.passed.clear()
            assert get(pod.client(uid=1000), own, APP).peer.address == own
            assert get(pod.client(uid=1000), localhost, APP).peer.address == localhost
            assert get(pod.client(UID, GID), localhost, APP).peer.address == localhost
            assert proxy.passed == []

            assert get(pod.client(UID, GID), own, APP).peer.address == own
            (passed,) = proxy.passed
            assert passed.destination == Endpoint(own, APP)


def test_excluded_connections_come_in_directly(captured: PodPair) -> None:
    pod, peer = captured
    listener = pod.listener(("0.0.0.0", 15020), ("::", 15020), label="agent")
    with TransparentProxy(pod) as proxy:
        for to in addresses(pod):
            assert peer.client().connect(to, 15020).label == "agent"
        assert proxy.passed == []
    listener.close()


def test_bytes_in_plenty_and_connections_at_once(captured: PodPair) -> None:
    """Not only the first packet finds its way, nor only one connection."""
    pod, peer = captured
    sink = pod.client(uid=1000).open_socket(socket.AF_INET, socket.SOCK_STREAM)
    sink.bind(("0.0.0.0", 9090))
    sink.listen(32)
    threads = [threading.Thread(target=echo, args=(sink,), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    with TransparentProxy(pod) as proxy:
        connections = [peer.client().open_socket(socket.AF_INET, socket.SOCK_STREAM) for _ in threads]
        for connection in connections:
            connection.settimeout(5)
            connection.connect((pod.ipv4, 9090))
        for connection in connections:
            with connection:
                assert echoed(connection, bytes(300_000)) == 300_000
        assert len(proxy.passed) == len(connections)
    sink.close()


def echoed(connection: socket.socket, explicit: bytes) -> int:
    """Return how many bytes come back."""

    def announce() -> None:
        connection.sendall(explicit)
        connection.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=announce)
    writer.start()
    heard = 0
    while piece := connection.recv(65536):
        heard += len(piece)
    writer.join()
    return heard


@pytest.mark.parametrize("driver", ONE_FOR_EACH_PLACE)
def test_other_marks_tables_and_ports(pair: PodPair, driver: str) -> None:
    pod, peer = pair
    with pod.entered():
        operations.apply(settings(TPROXY, OTHER_NUMBERS, DRIVERS[driver]))
    with TransparentProxy(pod, port=16006, mark=0x4D4D) as proxy:
        for to, own in zip(addresses(pod), addresses(peer), strict=True):
            assert reply_of(peer, to, own).startswith(f"{own} ")
        assert len(proxy.passed) == 2
    with pod.entered():
        operations.clean()
    assert "300" not in pod.run(["ip", "rule"]).stdout


def test_outbound_goes_to_the_proxy_as_ever(captured: PodPair) -> None:
    pod, peer = captured
    listener = pod.listener(("0.0.0.0", 15001), ("::", 15001), label="outbound", uid=1337)
    for to in addresses(peer):
        assert pod.client(uid=1000).connect(to, 80).label == "outbound"
    listener.close()
