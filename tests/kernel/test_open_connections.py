"""Connections that are open when the first rules come stay as they are; later ones are captured."""

import contextlib
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from capture import operations
from capture.operations.applying import cut_by_cleaning
from capture.settings import options as option
from pytest_netns import Pod, PodPair
from support.captures.settings import DRIVERS, Texts, settings
from support.processes.waiting import wait_until
from support.traffic.transparent_proxy import TransparentProxy

APP = 8080
MODES: dict[str, Texts] = {
    "REDIRECT": {},
    "REDIRECT, drop invalid": {option.DROP_INVALID: "true", option.PROFILE: "current"},
    "TPROXY": {option.INTERCEPTION_MODE: "TPROXY", option.PROFILE: "current"},
    "TPROXY, drop invalid": {option.INTERCEPTION_MODE: "TPROXY", option.DROP_INVALID: "true"},
}
EACH = 10
"""Connections each way and family."""


class Echo:
    """Answers every connection to a port with its own text, in a thread of its own."""

    def __init__(self, pod: Pod, port: int = APP) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._waked = socket.socketpair()
        self._selector.register(self._waked, selectors.EVENT_READ)
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            listener = pod.client(uid=1000).open_socket(family, socket.SOCK_STREAM)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address, port))
            listener.listen(4096)
            self._selector.register(listener, selectors.EVENT_READ, data=listener)
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.send(b"x")
        self._thread.join()
        self._wake.close()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # all of them are sockets

    def _answer(self) -> None:
        while True:
            for key, _ in self._selector.select():
                one: socket.socket = key.fileobj  # type: ignore[assignment]  # all of them are sockets
                if one is self._waked:
                    return
                if one is key.data:
                    self._selector.register(one.accept()[0], selectors.EVENT_READ)
                    continue
                words = b""
                with contextlib.suppress(OSError):  # a connection that is cut has no words
                    words = one.recv(4096)
                    one.sendall(words)
                if not words:
                    self._selector.unregister(one)
                    one.close()


class Talk:
    """Connections that talk all the time, in a thread of their own; ``alive`` are those that never failed."""

    def __init__(self) -> None:
        self.alive: list[socket.socket] = []
        self.rounds = 0
        self._lost = 0
        self._over = False
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        for one in self.alive:
            one.close()

    @property
    def count(self) -> tuple[int, int]:
        """How many are alive, and how many are not."""
        return len(self.alive), self._lost

    def open(self, pod: Pod, address: str, count: int = 1) -> None:
        """Begin connections of uid 1000 that talk from now on."""
        for _ in range(count):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            one = pod.client(uid=1000).open_socket(family, socket.SOCK_STREAM)
            one.settimeout(2)
            try:
                one.connect((address, APP))
            except OSError:
                one.close()
                raise
            self.alive.append(one)

    def go_on(self, rounds: int = 5) -> None:
        """Return when each has talked some times more."""
        until = self.rounds + rounds + 1
        wait_until(lambda: self.rounds >= until)

    def _talk(self) -> None:
        while not self._over:
            for one in list(self.alive):
                try:
                    one.sendall(b"x")
                    answered = one.recv(10) == b"x"
                except OSError:
                    answered = False
                if not answered:
                    self.alive.remove(one)
                    one.close()
                    self._lost += 1
            self.rounds += 1
            time.sleep(0.001)


@pytest.fixture
def talk(pod_pair: PodPair) -> Iterator[Talk]:
    """Ten connections into the pod and ten out of it, of each family."""
    pod, peer = pod_pair
    with Echo(pod), Echo(peer), Talk() as talk:
        for to_pod, to_peer in ((pod.ipv4, peer.ipv4), (pod.ipv6, peer.ipv6)):
            talk.open(peer, to_pod, EACH)
            talk.open(pod, to_peer, EACH)
        yield talk


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("driver", ["nftables-netlink", "iptables-netlink", "iptables-legacy"])
def test_open_connections_stay(talk: Talk, pod_pair: PodPair, driver: str, mode: str) -> None:
    pod, peer = pod_pair
    with pod.entered():
        applied = operations.apply(settings(MODES[mode], DRIVERS[driver]))
    talk.go_on()
    assert applied.warnings == ()
    assert talk.count == (4 * EACH, 0)

    with captured(pod, transparent=mode.startswith("TPROXY")):
        for own, other in ((pod.ipv4, peer.ipv4), (pod.ipv6, peer.ipv6)):
            assert peer.client().connect(own, APP).label == "proxy"
            assert pod.client(uid=1000).connect(other, APP).label == "proxy"


@pytest.mark.parametrize("driver", ["nftables-netlink", "iptables-netlink"])
def test_connections_that_begin_meanwhile_stay_too(pod_pair: PodPair, driver: str) -> None:
    """They are opened, and talk, from before the first look until the rules refuse the next one."""
    pod, peer = pod_pair
    began = threading.Event()

    def open_and_open(talking: Talk) -> None:
        with contextlib.suppress(OSError):
            while len(talking.alive) < 500:
                talking.open(pod, peer.ipv4)
                began.set()
                time.sleep(0.001)

    with Echo(pod), Echo(peer), Talk() as talking:
        opener = threading.Thread(target=open_and_open, args=(talking,), daemon=True)
        opener.start()
        assert began.wait(5)
        with pod.entered():
            operations.apply(settings(DRIVERS[driver]))
        opener.join(5)
        talking.go_on()
        opened, lost = talking.count
        assert opened
        assert lost == 0


HOLD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
address, count = sys.argv[1], int(sys.argv[2])
if address == "listen":
    listener = socket.create_server(("0.0.0.0", 8080), backlog=4096)
    print("ready", flush=True)
    held = [listener.accept()[0] for _ in range(count)]
    for one in held:
        one.sendall(one.recv(1))
else:
    held = [socket.create_connection((address, 8080)) for _ in range(count)]
    print("ready", flush=True)
    sys.stdin.readline()
    for one in held:
        one.sendall(b"x")
        one.settimeout(5)
        assert one.recv(1) == b"x"
    print("alive", flush=True)
"""


@pytest.mark.long
@pytest.mark.parametrize("driver", ["nftables-netlink", "iptables-netlink"])
def test_ten_thousand_connections_stay(pod_pair: PodPair, driver: str) -> None:
    pod, peer = pod_pair
    run = [sys.executable, "-c", HOLD]
    with contextlib.ExitStack() as started:

        def start(where: Pod, *arguments: str) -> subprocess.Popen[str]:
            with where.entered():
                process = subprocess.Popen([*run, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.enter_context(process)
            started.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            return process

        server = start(peer, "listen", "10000")
        client = start(pod, peer.ipv4, "10000")
        with pod.entered():
            operations.apply(settings(DRIVERS[driver]))
        assert client.communicate("go\n", timeout=30)[0] == "alive\n"
        assert server.wait(timeout=10) == 0


@pytest.mark.parametrize("driver", ["nftables-netlink", "iptables-netlink"])
def test_clean_counts_the_connections_that_it_cuts(pod_pair: PodPair, driver: str) -> None:
    """Those through the proxy, once each; not those that are older than the rules, nor those that have ended."""
    pod, peer = pod_pair
    with Echo(pod), Echo(peer), Echo(pod, 15001), Echo(pod, 15006), Talk() as talk:
        talk.open(peer, pod.ipv4)
        with pod.entered():
            operations.apply(settings(DRIVERS[driver]))
            for to_pod, to_peer in ((pod.ipv4, peer.ipv4), (pod.ipv6, peer.ipv6)):
                talk.open(peer, to_pod, 2)
                talk.open(pod, to_peer, 2)
            peer.client().connect(pod.ipv4, APP, timeout=0.1)  # answered by nothing, and ended by a reset
            assert operations.captured_connections() == 8
            assert cut_by_cleaning(None) == ["8 connections through the proxy will be cut"]
            operations.clean()
            assert operations.captured_connections() == 0
        talk.go_on()
        assert talk.count == (1, 8)


def test_clean_counts_connections_through_a_transparent_proxy_by_their_mark(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    with Echo(pod), TransparentProxy(pod), Talk() as talk, pod.entered():
        operations.apply(settings(MODES["TPROXY"]))
        talk.open(peer, pod.ipv4, 2)
        talk.open(peer, pod.ipv6, 2)
        talk.go_on()
        assert operations.captured_connections() == 4


def test_a_redirected_connection_is_not_redirected_for_ever(pod_pair: PodPair) -> None:
    """Tracking remembers connections for days, even those that ended while no rule let it look."""
    pod, peer = pod_pair
    with Echo(pod), Echo(peer), Echo(pod, 15001), Talk() as talk, pod.entered():
        operations.apply(settings())
        with opened(pod, peer.ipv4) as redirected:
            source = redirected.getsockname()
            operations.clean()
        talk.alive.append(opened(pod, peer.ipv4, source))
        operations.apply(settings())
        talk.go_on()
        assert talk.count == (1, 0)


def opened(pod: Pod, address: str, source: tuple[str, int] = ("", 0)) -> socket.socket:
    """Connect, from an address and port; closed, it leaves nothing behind that would keep the port."""
    one = pod.client(uid=1000).open_socket(socket.AF_INET, socket.SOCK_STREAM)
    one.settimeout(2)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.bind(source)
    one.connect((address, APP))
    return one


@contextlib.contextmanager
def captured(pod: Pod, *, transparent: bool) -> Iterator[None]:
    outbound = pod.listener(("0.0.0.0", 15001), ("::", 15001), label="proxy", uid=1337)
    inbound = pod.listener(("0.0.0.0", 15006), ("::", 15006), label="proxy", transparent=transparent)
    yield
    outbound.close()
    inbound.close()
