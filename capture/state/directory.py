"""The state directory: root's alone, since its records decide what is verified and removed. Old files go.

Other users who could write there could make us remove or believe things: links name files that DEL unlinks, records
name our policy routes. So a directory with another owner, or one that others may enter, is refused.
"""

from __future__ import annotations

import os
import stat
import time

from capture.errors import StateDirectoryError
from capture.system.files import names_in, remove_file

STATE_DIRECTORY = "/run/istio-capture"
PRIVATE_MODE = 0o700
ABANDONED_AFTER = 60_000_000_000
"""Nanoseconds. A record is written within a millisecond: a writer that began a minute ago was killed."""


def make_private(path: str) -> None:
    """Make the directory, and those above it that are missing, for this user alone; the umask plays no part.

    Raises StateDirectoryError if it exists and is not private, OSError if it cannot be made.
    """
    try:
        _require_private(path, os.lstat(path))
        return
    except FileNotFoundError:
        above = os.path.dirname(path)
    if above and not os.path.isdir(above):
        make_private(above)
    try:
        os.mkdir(path, PRIVATE_MODE)
    except FileExistsError:  # made by another process meanwhile
        _require_private(path, os.lstat(path))
        return
    os.chmod(path, PRIVATE_MODE)  # a umask may have taken away what the owner needs; others got nothing at any moment


def require_private(path: str) -> None:
    """Raise StateDirectoryError if the directory exists and is not private; one that is missing holds nothing."""
    try:
        status = os.lstat(path)
    except OSError:
        return
    _require_private(path, status)


def is_private(path: str) -> bool:
    """Return whether what is in the directory can be relied on."""
    try:
        require_private(path)
    except StateDirectoryError:
        return False
    return True


def narrow_mode(path: str) -> bool:
    """Give an existing directory of this user's the mode 0700 and return whether that was needed.

    Kubelet makes one that is missing with 0755, for the agent's volume (hostPath, DirectoryOrCreate).
    Raises StateDirectoryError if others own it or could write into it.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if is_own and status.st_mode & 0o077 and not status.st_mode & 0o022:
        os.chmod(path, PRIVATE_MODE)
        return True
    _require_private(path, status)
    return False


def _require_private(path: str, status: os.stat_result) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise StateDirectoryError(path, "expected a directory")
    if status.st_uid not in (0, os.geteuid()):  # others than root may look, and find that they cannot
        raise StateDirectoryError(path, f"its owner is uid {status.st_uid}; expected uid {os.geteuid()}")
    if status.st_mode & 0o077:
        raise StateDirectoryError(path, f"its mode is {stat.S_IMODE(status.st_mode):04o}; expected 0700")


def forget_ended_namespaces(directory: str = STATE_DIRECTORY) -> None:
    """Remove records of namespaces that are known to have ended, and what killed writers left.

    No two namespaces share an inode number at one time. So of several records with one inode, all but the last one
    written are of ended namespaces. (Cookies do not show it: each processor counts its own, see gen_cookie_next in
    linux/cookie.h.) No cheap look shows which others have ended.
    """
    names = names_in(directory) if is_private(directory) else []
    times: dict[str, dict[str, int]] = {}
    for name in names:
        inode = _inode_of_record(name)
        if inode:
            times.setdefault(inode, {})[name] = _time_of_change(f"{directory}/{name}")
    ended = [name for of_one in times.values() for name, when in of_one.items() if when < max(of_one.values())]
    long_ago = time.time_ns() - ABANDONED_AFTER
    # A file that was never renamed to the record that it was to be.
    abandoned = [name for name in names if ".json." in name and _time_of_change(f"{directory}/{name}") < long_ago]
    for name in (*ended, *abandoned):
        remove_file(f"{directory}/{name}")


def _inode_of_record(name: str) -> str:
    """Return the inode in the name of a record; nothing if it is none."""
    inode, dash, cookie = name.removesuffix(".json").partition("-")
    return inode if name.endswith(".json") and dash and inode.isdecimal() and cookie.isdecimal() else ""


def _time_of_change(path: str) -> int:
    """Return when a record was written, in nanoseconds; one that goes meanwhile was never."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
