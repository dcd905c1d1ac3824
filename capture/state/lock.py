"""Our programs that change a namespace take turns.

Each step of a change is safe by itself, but two programs that both see "nothing there" would write two sets, and
one that has read the rules may be overtaken before it writes. So a program that changes a namespace holds a name
in it: an abstract unix socket (unix(7)). It belongs to the network namespace, is no file, and the kernel releases it
however its holder ends. The programs of iptables that the holder starts inherit it: so the name is held until the last
of them ends, also where one outlives its holder and still has rules to write.
"""

from __future__ import annotations

import _socket
import errno
import time

from capture.model.text import printable
from capture.system.files import content_of, open_files, process_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

LOCK_NAME = b"\0istio-capture"
LOCK_TIMEOUT = 10.0
"""Seconds; then we go on: any process in the pod can hold the name, which must not keep the pod uncaptured."""
LOCK_PAUSE = 0.005
UNIX_SOCKETS = "/proc/thread-self/net/unix"
"""Columns by proc(5): the inode is the seventh, the name the eighth; an abstract name begins with @."""

_held: set[int] = set()


def held_descriptors() -> tuple[int, ...]:
    """Return the locked descriptors, which every program that we start meanwhile has to inherit."""
    return tuple(_held)


class NamespaceLock:
    """A context in which none of our other programs changes the network namespace that we are in.

    If the lock is not released in time, ``warnings`` names its holder, and that we went on without it.
    """

    def __init__(self, timeout: float = LOCK_TIMEOUT) -> None:
        self.warnings: tuple[str, ...] = ()
        self._timeout = timeout

    def __enter__(self) -> Self:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
        give_up = time.monotonic() + self._timeout
        while not self._try_to_take():
            if time.monotonic() >= give_up:
                lock = f"the lock of this network namespace (unix socket @{LOCK_NAME[1:].decode()})"
                fault = f"was not released within {self._timeout:g} s: {_describe_holder()} holds it"
                self.warnings = (f"{lock} {fault}; continued without the lock: check with `capture verify`",)
                break
            time.sleep(LOCK_PAUSE)
        _held.add(self._socket.fileno())
        return self

    def _try_to_take(self) -> bool:
        try:
            self._socket.bind(LOCK_NAME)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            self._socket.close()
            raise
        return True

    def __exit__(self, *_: object) -> None:
        _held.discard(self._socket.fileno())
        self._socket.close()


def _describe_holder() -> str:
    columns = (line.split() for line in content_of(UNIX_SOCKETS).splitlines())
    targets = {f"socket:[{fields[6].decode()}]" for fields in columns if fields[7:] == [b"@" + LOCK_NAME[1:]]}
    for process in process_ids():
        if not targets.isdisjoint(open_files(process)):
            command = content_of(f"/proc/{process}/cmdline")[:200].replace(b"\0", b" ").decode("utf-8", "replace")
            return f"process {process} ({printable(command.strip()) or '?'})"
    return "a process that is not visible from here"
