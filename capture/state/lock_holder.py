"""Which process holds the lock of a namespace, for a person who wonders why it was not given back."""

from __future__ import annotations

import os

from capture.model.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

UNIX_SOCKETS = "/proc/thread-self/net/unix"
"""Columns by proc(5): the inode is the seventh, the name the eighth; an abstract name begins with @."""


def holder_of(name: bytes) -> str:
    """Return the process that holds an abstract unix socket of our network namespace, in words."""
    shown = "@" + name[1:].decode("ascii")
    inodes = {columns[6] for columns in _sockets() if columns[7:] == [shown]}
    targets = {f"socket:[{inode}]" for inode in inodes}
    for process in filter(str.isdecimal, _listed("/proc")):
        if any(_target(f"/proc/{process}/fd/{number}") in targets for number in _listed(f"/proc/{process}/fd")):
            return f"process {process} ({_command(process)})"
    return "a process that is not visible from here"


def _sockets() -> Iterator[list[str]]:
    try:
        with open(UNIX_SOCKETS, encoding="utf-8", errors="replace") as lines:
            yield from (line.split() for line in lines)
    except OSError:
        return


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # it has ended, or we may not look
        return []


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _command(process: str) -> str:
    try:
        with open(f"/proc/{process}/cmdline", "rb") as words:
            line = words.read(200).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return "?"
    return printable(line) or "?"
