"""A user in a namespace who connects."""

from __future__ import annotations

import socket
import struct

from pytest_netns.answers import KINDS, Answer, Kind, Outcome
from pytest_netns.kernel import as_user, make_transparent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_netns.namespace import Namespace


class Client:
    """A user in a namespace who connects. Made by ``Namespace.client``."""

    def __init__(self, namespace: Namespace, uid: int, gid: int) -> None:
        self.namespace = namespace
        self.uid = uid
        self.gid = gid

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """Return a new socket that belongs to the namespace and to the user; the caller closes it."""
        with self.namespace.entered(), as_user(self.uid, self.gid):
            return socket.socket(family, kind | socket.SOCK_CLOEXEC)

    def connect(
        self,
        address: str,
        port: int,
        protocol: str = "tcp",
        *,
        source: str = "",
        mark: int = 0,
        timeout: float = 1.0,
    ) -> Outcome:
        """Connect (or send a datagram), wait for a listener's answer, and return how it ended.

        ``source`` binds the local address; with a ``mark`` it may be another host's, as transparent proxies call.
        ``timeout`` is in seconds and bounds each step. TCP
        connections are ended by a reset, so that hundreds to one port leave no TIME_WAIT behind.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with self.open_socket(family, kind) as connection:
            connection.settimeout(timeout)
            try:
                if mark:
                    make_transparent(connection)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
                if source:
                    connection.bind((source, 0))
                if kind == socket.SOCK_DGRAM:
                    return self._exchange(connection, address, port)
                return self._listen(connection, address, port)
            except TimeoutError:
                return Outcome(Kind.TIMED_OUT)
            except OSError as error:
                if error.errno not in KINDS:
                    raise
                return Outcome(KINDS[error.errno])

    @staticmethod
    def _exchange(connection: socket.socket, address: str, port: int) -> Outcome:
        connection.connect((address, port))
        connection.send(b"?")
        return Outcome(Kind.ANSWERED, Answer.decode(connection.recv(4096)))

    @staticmethod
    def _listen(connection: socket.socket, address: str, port: int) -> Outcome:
        connection.connect((address, port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        explicit = b""
        try:
            while chunk := connection.recv(4096):
                explicit += chunk
        except TimeoutError:
            return Outcome(Kind.SILENT)
        try:
            return Outcome(Kind.ANSWERED, Answer.decode(explicit))
        except (ValueError, KeyError):
            return Outcome(Kind.SILENT)
