"""Reports in which network namespaces of the node rules, addresses or routes change, at once and without entering any.

A netlink socket in the node's own namespace hears the events of all namespaces that have an id there, as those of pods
have whose veth has its other end in the node (NETLINK_LISTEN_ALL_NSID, netlink(7), Linux 4.3). Legacy iptables sends no
events; the audit looks from time to time.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
import time

from capture.errors import CaptureError
from capture.netlink.attributes import attribute, decode_fields, u32
from capture.netlink.sockets import NETLINK_NETFILTER, NETLINK_ROUTE, SOL_NETLINK, NetlinkSocket

# linux/netlink.h
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_LISTEN_ALL_NSID = 8
# linux/netfilter/nfnetlink.h, linux/rtnetlink.h
NFNLGRP_NFTABLES = 7
RTNLGRP_LINK = 1
RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR = 5, 9
RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE = 7, 11
RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE = 8, 19
# linux/rtnetlink.h, linux/net_namespace.h
RTM_GETNSID = 90
NETNSA_NSID, NETNSA_FD = 1, 3
RTGENMSG_SIZE = 4

MULTICAST_GROUPS = {
    NETLINK_NETFILTER: (NFNLGRP_NFTABLES,),
    NETLINK_ROUTE: (
        RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE,
        RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE,
    ),
}  # fmt: skip
EVERYWHERE = -2
"""In place of a namespace's id: events were lost, and any namespace may have changed."""


class KernelEvents:
    """Listens in the namespace in which it was made. Raises OSError without a capability or a kernel for it."""

    def __init__(self) -> None:
        self._sockets = [_listening_socket(protocol, groups) for protocol, groups in MULTICAST_GROUPS.items()]

    def wait(self, seconds: float) -> set[int]:
        """Return the ids of the namespaces in which something has changed, after ``seconds`` at the latest.

        A change in the own namespace is about no pod, and is ignored.
        """
        until = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select(self._sockets, [], [], max(0.0, until - time.monotonic()))
            changed = set[int]().union(*map(_drained_namespaces, ready))
            if changed or not ready or time.monotonic() >= until:
                return changed

    def close(self) -> None:
        for socket in self._sockets:
            socket.close()


def namespace_number(path: str) -> int | None:
    """Return the id that the current namespace has for the one at a path; None if it has none, or the path is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with NetlinkSocket.open(NETLINK_ROUTE, "request the id of a namespace") as rtnetlink:
            body = bytes(RTGENMSG_SIZE) + attribute(NETNSA_FD, u32(descriptor))
            answers = rtnetlink.request(RTM_GETNSID, 0, body, "request the id of a namespace")
    except CaptureError:
        return None
    finally:
        os.close(descriptor)
    if not answers:
        return None
    (number,) = struct.unpack("=i", decode_fields(answers[0][RTGENMSG_SIZE:])[NETNSA_NSID][:4])
    return None if number < 0 else int(number)


def _listening_socket(protocol: int, groups: tuple[int, ...]) -> _socket.socket:
    socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
    try:
        socket.setblocking(False)
        socket.bind((0, 0))  # without a number of its own a socket hears nothing (do_one_broadcast, af_netlink.c)
        socket.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        for group in groups:
            socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except OSError:
        socket.close()
        raise
    return socket


def _drained_namespaces(socket: _socket.socket) -> set[int]:
    """Read all that is waiting and return the namespaces that it comes from, as numbers; the content does not count."""
    changed: set[int] = set()
    while True:
        try:
            _, ancillary, _, _ = socket.recvmsg(0, _socket.CMSG_SPACE(4))  # a datagram's rest is thrown away
        except BlockingIOError:
            return changed
        except OSError:  # ENOBUFS: more came than there was room for
            changed.add(EVERYWHERE)
            continue
        changed |= {
            struct.unpack("=i", content[:4])[0]
            for level, kind, content in ancillary
            if (level, kind) == (SOL_NETLINK, NETLINK_LISTEN_ALL_NSID)
        }
