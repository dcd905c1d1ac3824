"""Records of namespaces that have ended, and what killed writers left: found and removed."""

from __future__ import annotations

import os
import time

from capture.state.directory import STATE_DIRECTORY, is_private
from capture.state.files import names_in

ABANDONED_AFTER = 60_000_000_000
"""Nanoseconds. A record is written within a millisecond: a writer that began a minute ago was killed."""


def forget_ended(directory: str = STATE_DIRECTORY) -> None:
    """Remove records of namespaces that are known to have ended, and what killed writers left.

    No two namespaces share an inode number at one time. So of several records with one inode, all but the last one
    written are of ended namespaces. (Cookies do not show it: each processor counts its
    own, see gen_cookie_next in linux/cookie.h.) No cheap look shows which others have ended.
    """
    names = names_in(directory) if is_private(directory) else []
    written: dict[str, dict[str, int]] = {}
    for name in names:
        inode = _inode(name)
        if inode:
            written.setdefault(inode, {})[name] = _written(f"{directory}/{name}")
    ended = [name for of_one in written.values() for name, when in of_one.items() if when < max(of_one.values())]
    long_ago = time.time_ns() - ABANDONED_AFTER
    # A file that was never renamed to the record that it was to be.
    abandoned = [name for name in names if ".json." in name and _written(f"{directory}/{name}") < long_ago]
    for name in (*ended, *abandoned):
        try:
            os.unlink(f"{directory}/{name}")
        except OSError:
            pass


def _inode(name: str) -> str:
    """Return the inode in the name of a record; nothing if it is none."""
    inode, dash, cookie = name.removesuffix(".json").partition("-")
    return inode if name.endswith(".json") and dash and inode.isdecimal() and cookie.isdecimal() else ""


def _written(path: str) -> int:
    """Return when a record was written, in nanoseconds; one that goes meanwhile was never."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
