"""A server in a namespace that reports how it was reached."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import ipaddress
import os
import selectors
import socket
import struct
import threading
from collections.abc import Sequence

from pytest_netns.answers import Answer, Endpoint
from pytest_netns.kernel import as_user, make_transparent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_netns.namespace import Namespace


SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and linux/netfilter_ipv6/ip6_tables.h
SOL_IPV6 = 41
IPV6_FREEBIND = 78  # linux/in6.h
IP_RECVORIGDSTADDR = 20  # linux/in.h; the ancillary message has the same type
IPV6_RECVORIGDSTADDR = 74  # linux/in6.h; likewise
IP_PKTINFO = 8  # linux/in.h; the ancillary message has the same type


@dataclasses.dataclass(frozen=True, slots=True)
class _Bound:
    """One socket of a listener."""

    socket: socket.socket
    family: int
    kind: int
    port: int


class Listener:
    """A thread that answers on a set of addresses and ports, as a user, in a namespace.

    Each TCP connection and each datagram is answered with an ``Answer``. Made by
    ``Namespace.listener``, ended by ``close`` or with its namespace.
    """

    def __init__(
        self,
        namespace: Namespace,
        endpoints: Sequence[tuple[str, int]],
        *,
        label: str,
        protocols: Sequence[str],
        uid: int,
        gid: int,
        transparent: bool,
    ) -> None:
        self.label = label
        self._transparent = transparent
        self._closed = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._bound: list[_Bound] = []
        try:
            with namespace.entered(), as_user(uid, gid):
                for address, port in endpoints:
                    for protocol in protocols:
                        self._bind(address, port, protocol)
        except OSError:
            self._release()
            raise
        self._thread = threading.Thread(
            target=self._serve, args=(namespace, uid, gid), name=f"listener {label}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering and give the ports back."""
        if not self._closed:
            self._closed = True
            os.eventfd_write(self._wake, 1)
            self._thread.join(timeout=5)
            self._release()

    def _release(self) -> None:
        for bound in self._bound:
            bound.socket.close()
        self._selector.close()
        os.close(self._wake)

    def _bind(self, address: str, port: int, protocol: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        listening = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._bound.append(_Bound(listening, family, kind, port))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # One family per socket: SO_ORIGINAL_DST is not answered for IPv4 on an IPv6 socket.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if self._transparent:
            make_transparent(listening)
        if kind == socket.SOCK_DGRAM and family == socket.AF_INET6:
            listening.setsockopt(SOL_IPV6, IPV6_RECVORIGDSTADDR, 1)
            listening.setsockopt(SOL_IPV6, IPV6_FREEBIND, 1)  # answer from an address of `own_every_address`
        elif kind == socket.SOCK_DGRAM:
            listening.setsockopt(socket.SOL_IP, IP_RECVORIGDSTADDR, 1)
        listening.bind((address, port))
        if kind == socket.SOCK_STREAM:
            listening.listen(512)
        self._selector.register(listening, selectors.EVENT_READ, self._bound[-1])

    def _serve(self, namespace: Namespace, uid: int, gid: int) -> None:
        # An accepted connection belongs to the thread that accepts it, as in a real server.
        with namespace.entered(), as_user(uid, gid):
            while True:
                for key, _ in self._selector.select():
                    if key.data is None:
                        return
                    with contextlib.suppress(ConnectionError, BlockingIOError):  # the client went away meanwhile
                        if key.data.kind == socket.SOCK_STREAM:
                            self._answer_connection(key.data)
                        else:
                            self._answer_datagram(key.data)

    def _answer_connection(self, bound: _Bound) -> None:
        connection, peer = bound.socket.accept()
        with connection:
            answer = Answer(
                label=self.label,
                port=bound.port,
                local=Endpoint(*connection.getsockname()[:2]),
                original=_original_destination(connection, bound.family),
                peer=Endpoint(*peer[:2]),
            )
            connection.send(answer.encode())

    def _answer_datagram(self, bound: _Bound) -> None:
        _, ancillary, _, peer = bound.socket.recvmsg(4096, 256)
        (_, _, destination) = ancillary[0]
        local = read_endpoint(destination, bound.family)
        answer = Answer(label=self.label, port=bound.port, local=local, original=None, peer=Endpoint(*peer[:2]))
        # A socket bound to every address would answer from the one that routing prefers, and NAT
        # recognises an answer only when it comes from where the question went.
        address = socket.inet_pton(bound.family, local.address)
        if bound.family == socket.AF_INET6:
            scope = peer[3] if ipaddress.ip_address(local.address).is_link_local else 0
            source = (SOL_IPV6, socket.IPV6_PKTINFO, address + struct.pack("i", scope))
        else:
            source = (socket.SOL_IP, IP_PKTINFO, struct.pack("i4s4x", 0, address))
        bound.socket.sendmsg([answer.encode()], [source], 0, peer)


def read_endpoint(address: bytes, family: int) -> Endpoint:
    """Return what a ``sockaddr_in`` or ``sockaddr_in6`` names."""
    (port,) = struct.unpack_from("!2xH", address)
    raw = address[8:24] if family == socket.AF_INET6 else address[4:8]
    return Endpoint(socket.inet_ntop(family, raw), port)


def _original_destination(connection: socket.socket, family: int) -> Endpoint | None:
    level, size = (SOL_IPV6, 28) if family == socket.AF_INET6 else (socket.SOL_IP, 16)
    try:
        return read_endpoint(connection.getsockopt(level, SO_ORIGINAL_DST, size), family)
    except OSError as error:
        # ENOENT: no conntrack entry. ENOPROTOOPT: this namespace tracks nothing.
        if error.errno not in (errno.ENOENT, errno.ENOPROTOOPT):
            raise
        return None
