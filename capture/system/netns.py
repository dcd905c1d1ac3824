"""Network namespaces: entering one, coming back, and telling the host's own from a pod's.

A namespace is entered by the calling thread alone (setns(2)); sockets and child processes made while in
it stay there.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys

from capture.errors import CaptureError, HostNamespaceError, NamespaceError, PrivilegeError, UnsupportedError, os_error
from capture.system.files import content_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

Path = str | os.PathLike[str]

CLONE_NEWNET, CLONE_NEWUSER = 0x4000_0000, 0x1000_0000
"""linux/sched.h"""

SO_NETNS_COOKIE = 71
"""asm-generic/socket.h"""

NS_GET_USERNS = 0xB701
"""linux/nsfs.h"""

SOCKET_COUNTS = ("/proc/thread-self/net/sockstat", "/proc/thread-self/net/sockstat6")
CURRENT = "/proc/thread-self/ns/net"
CURRENT_USER = "/proc/thread-self/ns/user"
ONLY_ON_HOST = "/proc/sys/net/core/netdev_budget"
"""A setting of the whole machine: the kernel shows it in its first namespace only (net/core/sysctl_net_core.c)."""


class InNamespace:
    """A context in which the calling thread is in the namespace at ``path``; without a path, where it is.

    Raises NamespaceError if there is no namespace at the path, PrivilegeError without CAP_SYS_ADMIN. Every verb works
    in such a context: an OSError that leaves it becomes a CaptureError.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = None if path is None else _path_text(path)
        self._home = -1

    def __enter__(self) -> Self:
        if self.path is None:
            return self
        home = _open_namespace(CURRENT)
        try:
            _enter_namespace(_open_namespace(self.path), self.path)
        except CaptureError:
            os.close(home)
            raise
        self._home = home
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._home >= 0:
            home, self._home = self._home, -1
            _enter_namespace(home, CURRENT)
        if isinstance(error, OSError):
            raise os_error(error) from error


def enter_each(paths: Iterable[str]) -> Iterator[str]:
    """Enter one namespace after the other, yielding its path each time, and come home at the end.

    That takes a third of what ``InNamespace`` takes for each. One that has ended, or may not be opened, is left out.
    """
    home = _open_namespace(CURRENT)
    has_left = False
    try:
        for path in paths:
            try:
                target = _open_namespace(path)
            except CaptureError:
                continue
            has_left = True
            _enter_namespace(target, path)
            yield path
    finally:
        if has_left:  # coming home needs privileges, too
            _enter_namespace(home, CURRENT)
        else:
            os.close(home)


def own_namespace() -> os.stat_result:
    """Return what identifies the namespace we are in: its device and inode. Raises UnsupportedError without /proc."""
    try:
        return os.stat(CURRENT)
    except FileNotFoundError:
        raise _no_proc() from None


def _no_proc() -> UnsupportedError:
    return UnsupportedError(f"{CURRENT} is missing: /proc is not mounted here", "Mount it: `mount -t proc proc /proc`.")


def namespace_id() -> str:
    """Return what distinguishes the namespace we are in from every other since the machine started.

    Its inode number is used again after its end, its cookie is not (SO_NETNS_COOKIE, socket(7), Linux 5.14; older
    kernels give the inode alone).
    """
    inode = own_namespace().st_ino
    probe = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, 0)
    try:
        cookie = int.from_bytes(probe.getsockopt(_socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)
    except OSError:
        return f"{inode}"
    finally:
        probe.close()
    return f"{inode}-{cookie}"


def is_own_user_namespace() -> bool:
    """Return whether the network namespace we are in belongs to the user namespace we are in.

    That of a pod with ``hostUsers: false`` belongs to the pod's. Kernels without that call have no such pods.
    """
    try:
        owner = open_owner()
    except OSError as error:
        return error.errno != errno.EPERM
    try:
        return os.path.samestat(os.fstat(owner), os.stat(CURRENT_USER))
    finally:
        os.close(owner)


def open_owner() -> int:
    """Return a descriptor of the user namespace that the network namespace we are in belongs to.

    NS_GET_USERNS, ioctl_ns(2), Linux 4.9. Raises OSError: EPERM if that is no descendant of our own.
    """
    import fcntl  # nothing else on the way of a pod needs it

    network = os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(network, NS_GET_USERNS)
    finally:
        os.close(network)


def refuse_host(*, allowed: bool, verb: str = "capture") -> None:
    """Raise HostNamespaceError if we are in the host's own network namespace, unless that is allowed."""
    if not allowed and is_host():
        raise HostNamespaceError(verb=verb)


def is_host() -> bool:
    """Return whether we are in the host's own network namespace. Raises UnsupportedError without /proc."""
    own_namespace()  # without /proc nothing would identify the host
    return os.path.exists(ONLY_ON_HOST)


def has_tcp_sockets() -> bool:
    """Return whether the namespace we are in has any TCP socket.

    That costs microseconds, where sock_diag visits all hash tables. The files have lines like ``TCP: inuse 5 orphan 0``
    (sockstat_seq_show in net/ipv4/proc.c; ``inuse`` counts by namespace); without /proc there may be any.
    """
    lines = b"".join(map(content_of, SOCKET_COUNTS)).splitlines()
    counts = [line.split()[2] for line in lines if line.startswith((b"TCP:", b"TCP6:"))]
    return any(count != b"0" for count in counts) or not counts


CONNTRACK_SYSCTLS = "/proc/sys/net/netfilter/nf_conntrack_"
"""``count`` is the namespace's; ``max`` holds for each (Documentation/networking/nf_conntrack-sysctl.rst)."""


def read_connection_counts() -> tuple[int, int]:
    """Return how many connections are tracked here, and how many can be; 0 for what the kernel does not report."""
    return int(content_of(f"{CONNTRACK_SYSCTLS}count") or 0), int(content_of(f"{CONNTRACK_SYSCTLS}max") or 0)


def path_of_process(pid: int) -> str:
    """Return the path of the network namespace of a process."""
    return f"/proc/{pid}/ns/net"


def _path_text(path: Path) -> str:
    try:
        text = os.fspath(path)
        os.fsencode(text)
    except (TypeError, UnicodeEncodeError):
        raise NamespaceError(repr(path), "is not a path") from None
    if not isinstance(text, str) or "\0" in text:
        raise NamespaceError(repr(text), "is not a path")
    return text


def _open_namespace(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait for a writer
    except FileNotFoundError:
        if path == CURRENT:
            raise _no_proc() from None
        raise _missing_namespace(path) from None
    except PermissionError:
        remedy = "Run as root with the capability SYS_PTRACE, in the user namespace of that process or above (proc(5))."
        raise PrivilegeError(f"open {path}", remedy if path.startswith("/proc/") else "") from None
    except OSError as error:
        is_limit = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no fault of the path
        raise os_error(error) if is_limit else NamespaceError(path, os.strerror(error.errno or 0)) from None


def _missing_namespace(path: str) -> NamespaceError:
    pid = path.removeprefix("/proc/").removesuffix("/ns/net")
    if not pid.isdigit() or path != path_of_process(int(pid)):
        return NamespaceError(path, "does not exist")
    is_zombie = os.path.exists(f"/proc/{pid}")  # which has no namespaces any more
    reason = f"process {pid} has ended" if is_zombie else f"no process {pid}"
    return NamespaceError(path, reason, "`ps -e` or `lsns -t net`")


def _enter_namespace(descriptor: int, path: str) -> None:
    try:
        call_setns(descriptor, CLONE_NEWNET)
    except PermissionError:
        raise PrivilegeError(f"enter {path}") from None
    except OSError as error:
        words = "is not a network namespace" if error.errno == errno.EINVAL else os.strerror(error.errno or 0)
        raise NamespaceError(path, words) from None
    finally:
        os.close(descriptor)


def call_setns(descriptor: int, kind: int) -> None:
    """Call setns(2); ``os`` has it from Python 3.12 on. Raises OSError."""
    setns = getattr(os, "setns", None)
    if setns is not None:
        setns(descriptor, kind)
        return
    # ctypes costs 3 ms at import, its C half 0.4 ms; the first is needed only to learn errno.
    import _ctypes

    library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # None is the program itself, as for dlopen(3)
    if _ctypes.call_function(_ctypes.dlsym(library, "setns"), (descriptor, kind)):
        import ctypes

        if ctypes.CDLL(None, use_errno=True).setns(descriptor, kind):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
