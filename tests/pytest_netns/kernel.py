"""The calling thread: which network namespace it is in, and as which user it opens sockets."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000  # linux/sched.h

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
