"""Which process holds the lock of a namespace, for a person who wonders why it was not given back."""

from __future__ import annotations

from capture.model.text import printable
from capture.state.files import content_of, open_files, processes

UNIX_SOCKETS = "/proc/thread-self/net/unix"
"""Columns by proc(5): the inode is the seventh, the name the eighth; an abstract name begins with @."""


def holder_of(name: bytes) -> str:
    """Return the process that holds an abstract unix socket of our network namespace, in words."""
    columns = (line.split() for line in content_of(UNIX_SOCKETS).splitlines())
    targets = {f"socket:[{each[6].decode()}]" for each in columns if each[7:] == [b"@" + name[1:]]}
    for process in processes():
        if not targets.isdisjoint(open_files(process)):
            command = content_of(f"/proc/{process}/cmdline")[:200].replace(b"\0", b" ").decode("utf-8", "replace")
            return f"process {process} ({printable(command.strip()) or '?'})"
    return "a process that is not visible from here"
