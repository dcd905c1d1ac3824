"""The TCP sockets of the current namespace, by sock_diag(7).

linux/inet_diag.h::

    request   struct inet_diag_req_v2   family, protocol, extensions, pad, states(4), struct inet_diag_sockid(48)
    answer    struct inet_diag_msg      family, state, timer, retransmits, struct inet_diag_sockid(48), ...
    sockid    source port(2), destination port(2), source(16), destination(16), interface(4), cookie(8)
"""

from __future__ import annotations

from capture.model.values import Value
from capture.netlink.attributes import u32
from capture.netlink.rtnetlink import AF_INET, AF_INET6
from capture.netlink.sockets import NetlinkSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NETLINK_SOCK_DIAG = 4  # linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
IPPROTO_TCP = 6
SOCKID_SIZE = 48

# include/net/tcp_states.h
TCP_ESTABLISHED = 1
TCP_SYN_SENT = 2
TCP_SYN_RECV = 3
TCP_FIN_WAIT1 = 4
TCP_FIN_WAIT2 = 5
TCP_CLOSE_WAIT = 8
TCP_LAST_ACK = 9
TCP_LISTEN = 10
TCP_CLOSING = 11

IPV4_MAPPED = bytes(10) + b"\xff\xff"
"""How the address of an IPv4 connection begins in a socket of IPv6 (RFC 4291, 2.5.5.2)."""


class TcpSocket(Value):
    """One end of a connection, or a listener. Addresses are packed, 4 bytes for IPv4 whatever the socket's family."""

    state: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


def open_sock_diag() -> NetlinkSocket:
    """Open a sock_diag socket in the current namespace. Raise UnsupportedError if the kernel has none."""
    return NetlinkSocket.open(NETLINK_SOCK_DIAG, "open a sock_diag socket")


def read_tcp_sockets(diag: NetlinkSocket, states: Iterable[int]) -> Iterator[TcpSocket]:
    """Yield the TCP sockets of both families in these states.

    Raises KernelError, and UnsupportedError (as KernelError with ENOENT before Linux 5.12) without the module tcp_diag.
    """
    wanted = u32(sum(1 << state for state in states))
    for family in (AF_INET, AF_INET6):
        request = bytes((family, IPPROTO_TCP, 0, 0)) + wanted + bytes(SOCKID_SIZE)
        for body in diag.dump(SOCK_DIAG_BY_FAMILY, request, "list the TCP sockets"):
            yield decode_socket(body)


def decode_socket(body: bytes) -> TcpSocket:
    """Return the socket of a struct inet_diag_msg."""
    source, destination = body[8:24], body[24:40]
    if body[0] == AF_INET:
        source, destination = source[:4], destination[:4]
    elif destination.startswith(IPV4_MAPPED):
        source, destination = source[12:], destination[12:]
    return TcpSocket(body[1], source, int.from_bytes(body[4:6], "big"), destination, int.from_bytes(body[6:8], "big"))
