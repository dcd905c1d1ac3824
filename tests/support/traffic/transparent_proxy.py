"""A proxy in Envoy's place in TPROXY mode, which leaves both addresses of a connection as they are.

It accepts what is addressed to others (IP_TRANSPARENT), and calls the app from the client's own address, with
the mark by which the answers find back. As upstream injects it in this mode, it
runs as root (it needs CAP_NET_ADMIN) and is known by its group.
"""

import contextlib
import select
import socket
import threading
from dataclasses import dataclass, field
from typing import Self

from pytest_netns import Endpoint, Pod
from pytest_netns.kernel import make_transparent

PORT = 15006
UID, GID = 0, 1337
MARK = 1337


@dataclass(frozen=True)
class Passed:
    """A connection that the proxy took: the two ends as it saw them."""

    client: Endpoint
    destination: Endpoint


@dataclass
class TransparentProxy:
    """Runs in threads of this process until it is closed; a context manager."""

    pod: Pod
    port: int = PORT
    mark: int = MARK
    passed: list[Passed] = field(default_factory=list)
    _listeners: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            listener = self._socket(family)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, self.port))
            listener.listen(128)
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _socket(self, family: int) -> socket.socket:
        """Return a socket of the proxy's user that may have addresses of others."""
        made = self.pod.client(UID, GID).open_socket(family, socket.SOCK_STREAM)
        make_transparent(made)
        return made

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._pass_on, args=(connection,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, self._socket(client.family) as app, contextlib.suppress(ConnectionError, TimeoutError):
            source, destination = client.getpeername()[:2], client.getsockname()[:2]
            self.passed.append(Passed(Endpoint(*source), Endpoint(*destination)))
            app.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
            app.settimeout(2)
            app.bind((source[0], 0))
            app.connect(destination)
            pump(client, app)


def pump(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both ends have closed."""
    other_of = {one: other, other: one}
    open_ends = [one, other]
    while open_ends:
        readable, _, _ = select.select(open_ends, [], [], 5)
        if not readable:
            return
        for end in readable:
            piece = end.recv(65536)
            if piece:
                other_of[end].sendall(piece)
            else:
                open_ends.remove(end)
                other_of[end].shutdown(socket.SHUT_WR)
