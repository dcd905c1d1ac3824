"""rtnetlink, the netlink protocol of interfaces and routes: what its users here have in common."""

from __future__ import annotations

import _socket

from capture.errors import KernelError
from capture.netlink.sockets import NETLINK_ROUTE, NetlinkSocket

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10  # linux/socket.h
ADDRESS_BITS = {AF_INET: 32, AF_INET6: 128}

LOOPBACK_INDEX = 1  # LOOPBACK_IFINDEX in include/net/flow.h: the same in every namespace

# linux/rtnetlink.h, enum rt_scope_t: the distance to a destination
RT_SCOPE_UNIVERSE, RT_SCOPE_HOST = 0, 254


def open_rtnetlink() -> NetlinkSocket:
    """Open an rtnetlink socket in the current namespace."""
    return NetlinkSocket.open(NETLINK_ROUTE, "open a routing socket")


def pack_address(address: str) -> tuple[int, bytes]:
    """Return family and bytes of an address in text form. Raise OSError if it is none."""
    family = AF_INET6 if ":" in address else AF_INET
    return family, _socket.inet_pton(family, address)


def packed_address_text(family: int, packed: bytes | None) -> str:
    """Return the canonical text of an address; the empty text for None."""
    return "" if packed is None else _socket.inet_ntop(family, packed)


def request_change(rtnetlink: NetlinkSocket, kind: int, flags: int, body: bytes, task: str, *unneeded: int) -> bool:
    """Request a change; return False if the kernel answers with an error that means that it is not needed."""
    try:
        rtnetlink.request(kind, flags, body, task)
    except KernelError as error:
        if error.errno in unneeded:
            return False
        raise
    return True
