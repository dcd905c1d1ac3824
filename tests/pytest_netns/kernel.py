"""The calling thread: which network namespace it is in, and as which user it opens sockets."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000  # linux/sched.h

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20  # linux/netlink.h, linux/sock_diag.h
NLMSG_ERROR, NLM_F_REQUEST, NLM_F_DUMP = 2, 0x1, 0x300  # linux/netlink.h
STATES = {"tcp": 10, "udp": 7}
"""TCP_LISTEN, and TCP_CLOSE (include/net/tcp_states.h), which an unconnected UDP socket shows."""

USERS_OF_A_NAMESPACE = 65536
"""How many ids a pod gets from kubelet with ``hostUsers: false``."""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(status: int, task: str) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{task}: {os.strerror(code)}")


def open_current() -> int:
    """Return a descriptor of the calling thread's namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_new() -> int:
    """Make a network namespace and return a descriptor that holds it; the calling thread stays where it is."""
    home = open_current()
    try:
        _checked(_libc.unshare(CLONE_NEWNET), "unshare")
        try:
            return open_current()
        finally:
            _checked(_libc.setns(home, CLONE_NEWNET), "setns back")
    finally:
        os.close(home)


def open_new_of(first_user: int) -> int:
    """Return a descriptor of a new network namespace that belongs to a new user namespace.

    Its user 0 is ``first_user`` here.
    """
    with subprocess.Popen(
        ["unshare", "--user", "--net", "sh", "-c", "echo made; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        for ids in ("uid_map", "gid_map"):
            with open(f"/proc/{owner.pid}/{ids}", "w", encoding="ascii") as mapping:
                mapping.write(f"0 {first_user} {USERS_OF_A_NAMESPACE}")
        return os.open(f"/proc/{owner.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def in_namespace(descriptor: int) -> Iterator[None]:
    """Put the calling thread into a namespace for the length of a block."""
    home = open_current()
    try:
        _checked(_libc.setns(descriptor, CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            _checked(_libc.setns(home, CLONE_NEWNET), "setns back")
    finally:
        os.close(home)


def _set_filesystem_user(uid: int, gid: int) -> None:
    """Make the calling thread open files and sockets as this user. setfsuid(2) reports no errors."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    # An invalid id changes nothing and returns the one that is in force.
    if _libc.setfsuid(-1) != uid or _libc.setfsgid(-1) != gid:
        raise PermissionError(f"cannot open sockets as uid {uid} and gid {gid}")


@contextlib.contextmanager
def as_user(uid: int, gid: int) -> Iterator[None]:
    """Let the calling thread open sockets as a user for the length of a block."""
    try:
        _set_filesystem_user(uid, gid)
        yield
    finally:
        _set_filesystem_user(os.geteuid(), os.getegid())


def make_transparent(made: socket.socket) -> None:
    """Let a socket use addresses of other hosts (ip(7), ipv6(7))."""
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT, linux/in6.h
    else:
        made.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT, linux/in.h


def has_listener(family: int, protocol: str, port: int) -> bool:
    """Return whether a socket listens on a port, by sock_diag(7): /proc/net/tcp takes milliseconds to read.

    That goes through the machine's whole table of connections, whichever namespace they are in.
    """
    number = socket.IPPROTO_TCP if protocol == "tcp" else socket.IPPROTO_UDP
    flags, states = NLM_F_REQUEST | NLM_F_DUMP, 1 << STATES[protocol]
    # struct nlmsghdr, struct inet_diag_req_v2 (linux/inet_diag.h)
    request = struct.pack("=IHHIIBBxxI", 72, SOCK_DIAG_BY_FAMILY, flags, 0, 0, family, number, states)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as diag:
        diag.send(request + port.to_bytes(2, "big") + bytes(46))
        answer = diag.recv(1 << 16)
    kind, first = int.from_bytes(answer[4:6], sys.byteorder), int.from_bytes(answer[16:20], sys.byteorder, signed=True)
    if kind == NLMSG_ERROR:
        raise OSError(-first, f"sock_diag: {os.strerror(-first)}")
    return kind == SOCK_DIAG_BY_FAMILY
