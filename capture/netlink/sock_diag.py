"""The TCP sockets of the current namespace, by sock_diag(7).

linux/inet_diag.h::

    request   struct inet_diag_req_v2   family, protocol, extensions, pad, states(4), struct inet_diag_sockid(48)
    answer    struct inet_diag_msg      family, state, timer, retransmits, struct inet_diag_sockid(48), ...
    sockid    source port(2), destination port(2), source(16), destination(16), interface(4), cookie(8)
"""

from __future__ import annotations

from capture.model.conventions import IPPROTO_TCP
from capture.model.values import Value
from capture.netlink.attributes import decode_fields, decode_host_number, u32
from capture.netlink.rtnetlink import AF_INET, AF_INET6, LOOPBACK_INDEX
from capture.netlink.sockets import NetlinkSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NETLINK_SOCK_DIAG = 4  # linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
SOCKID_SIZE = 48
ANY_COOKIE = b"\xff" * 8
"""INET_DIAG_NOCOOKIE: a socket is named by its addresses alone."""
UID_OFFSET, MESSAGE_SIZE = 64, 72
"""In struct inet_diag_msg: after the sockid come expires, rqueue and wqueue, then uid and inode, then attributes."""
INET_DIAG_SKV6ONLY, INET_DIAG_SOCKOPT = 11, 22
SOCKOPT_TRANSPARENT = 1 << 5
"""In the first byte of struct inet_diag_sockopt; bit fields begin with the lowest bit on little-endian machines."""

# include/net/tcp_states.h
TCP_ESTABLISHED, TCP_SYN_SENT, TCP_SYN_RECV, TCP_FIN_WAIT1, TCP_FIN_WAIT2 = 1, 2, 3, 4, 5
TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_LISTEN, TCP_CLOSING = 7, 8, 9, 10, 11
OPEN_STATES = (
    TCP_SYN_RECV, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING,
)  # fmt: skip
"""Those of a connection that its server has taken, half-closed ones included."""

IPV4_MAPPED = bytes(10) + b"\xff\xff"
"""How the address of an IPv4 connection begins in a socket of IPv6 (RFC 4291, 2.5.5.2)."""


class TcpSocket(Value):
    """One end of a connection, or a listener. Addresses are packed, 4 bytes for IPv4 in sockets of both families."""

    state: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


class Listener(Value):
    """A socket that takes TCP connections, or an unconnected UDP socket, and the user who made it.

    ``address`` is packed; all zero is any address. ``is_dual`` is whether one of IPv6 takes IPv4 as well. ``inode``
    is its number in /proc/PID/fd. ``waiting`` connections of TCP are not accepted yet, of ``backlog`` at most.
    """

    protocol: int
    family: int
    address: bytes
    port: int
    uid: int
    transparent: bool = False
    is_dual: bool = False
    inode: int = 0
    waiting: int = 0
    backlog: int = 0
    interface: int = 0
    """The index of the only interface whose connections it takes (SO_BINDTODEVICE, socket(7)); 0 is any."""

    not_compared = ("inode", "waiting", "backlog")

    @property
    def is_full(self) -> bool:
        """Return whether the kernel takes no further connection (sk_acceptq_is_full, include/net/sock.h)."""
        return self.waiting > self.backlog

    def takes_over(self, *, lo: bool) -> bool:
        """Return whether connections over lo, or over another interface, reach it."""
        return not self.interface or (self.interface == LOOPBACK_INDEX) == lo

    def takes(self, family: int) -> bool:
        """Return whether connections of the family, AF_INET or AF_INET6, reach it."""
        return self.family == family or self.is_dual


def open_sock_diag() -> NetlinkSocket:
    """Open a sock_diag socket in the current namespace. Raise UnsupportedError if the kernel has none."""
    return NetlinkSocket.open(NETLINK_SOCK_DIAG, "open a sock_diag socket")


def read_tcp_sockets(diag: NetlinkSocket, states: Iterable[int]) -> Iterator[TcpSocket]:
    """Yield the TCP sockets of both families in these states.

    Raises KernelError, and UnsupportedError (as KernelError with ENOENT before Linux 5.12) without the module tcp_diag.
    """
    yield from map(decode_socket, _dumped_sockets(diag, IPPROTO_TCP, states, "list the TCP sockets"))


def _dumped_sockets(diag: NetlinkSocket, protocol: int, states: Iterable[int], task: str) -> Iterator[bytes]:
    states_mask = u32(sum(1 << state for state in states))
    for family in (AF_INET, AF_INET6):
        request = bytes((family, protocol, 0, 0)) + states_mask + bytes(SOCKID_SIZE)
        yield from diag.dump(SOCK_DIAG_BY_FAMILY, request, task)


def decode_socket(body: bytes) -> TcpSocket:
    """Return the socket of a struct inet_diag_msg."""
    source, destination = body[8:24], body[24:40]
    if body[0] == AF_INET:
        source, destination = source[:4], destination[:4]
    elif destination.startswith(IPV4_MAPPED):
        source, destination = source[12:], destination[12:]
    return TcpSocket(body[1], source, int.from_bytes(body[4:6], "big"), destination, int.from_bytes(body[6:8], "big"))


def read_listeners(diag: NetlinkSocket, protocol: int) -> Iterator[Listener]:
    """Yield the sockets of a protocol, IPPROTO_TCP or IPPROTO_UDP, that wait for connections or datagrams.

    Raises as ``read_tcp_sockets``, without the module tcp_diag or udp_diag.
    """
    state = TCP_LISTEN if protocol == IPPROTO_TCP else TCP_CLOSE  # an unconnected UDP socket shows the latter
    for body in _dumped_sockets(diag, protocol, (state,), "list the listening sockets"):
        yield decode_listener(body, protocol)


def read_owners(diag: NetlinkSocket, ports: Iterable[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """Return who listens on TCP ports, each with a family: user and inode, as bytes that can be compared.

    The kernel looks each up as for a connection to the loopback address, which costs microseconds; a list of all
    listeners visits a table of the whole machine. A port without a listener is left out; without the module tcp_diag
    every port is.
    """
    endpoints = tuple(ports)
    requests = [_listener_request(family, port) for family, port in endpoints]
    return {
        endpoints[number]: message.body[UID_OFFSET : UID_OFFSET + 8]
        for number, message in diag.request_each(SOCK_DIAG_BY_FAMILY, 0, requests, "look who listens")
        if message.kind == SOCK_DIAG_BY_FAMILY
    }


def _listener_request(family: int, port: int) -> bytes:
    """Return the request for the listener of a port at the loopback address (inet_diag_find_one_icsk, inet_diag.c)."""
    loopback = b"\x7f\0\0\1".ljust(16, b"\0") if family == AF_INET else bytes(15) + b"\1"
    socket = port.to_bytes(2, "big") + bytes(2) + loopback + bytes(16) + bytes(4) + ANY_COOKIE
    return bytes((family, IPPROTO_TCP, 0, 0)) + u32(1 << TCP_LISTEN) + socket


def decode_listener(body: bytes, protocol: int) -> Listener:
    """Return the listener of a struct inet_diag_msg and its attributes."""
    family = body[0]
    attributes = decode_fields(body[MESSAGE_SIZE:])
    options = attributes.get(INET_DIAG_SOCKOPT, b"\0")[0]
    queues = body[UID_OFFSET - 8 : UID_OFFSET] if protocol == IPPROTO_TCP else b""  # those of UDP count bytes
    return Listener(
        protocol,
        family,
        body[8:24] if family == AF_INET6 else body[8:12],
        int.from_bytes(body[4:6], "big"),
        decode_host_number(body[UID_OFFSET : UID_OFFSET + 4]),
        bool(options & SOCKOPT_TRANSPARENT),
        family == AF_INET6 and attributes.get(INET_DIAG_SKV6ONLY) == b"\0",
        decode_host_number(body[UID_OFFSET + 4 : UID_OFFSET + 8]),
        decode_host_number(queues[:4]),
        decode_host_number(queues[4:]),
        decode_host_number(body[40:44]),
    )
