"""The state directory: root's alone, since its records decide what is verified and removed.

Other users who could write there could make us remove or believe things: links name files that DEL unlinks, records
name our policy routes. So a directory with another owner, or one that others may enter, is refused.
"""

from __future__ import annotations

import os
import stat

from capture.errors import StateDirectoryError

STATE_DIRECTORY = "/run/istio-capture"
PRIVATE = 0o700


def ensure(path: str) -> None:
    """Make the directory, and those above it that are missing, for this user alone; the umask plays no part.

    Raises StateDirectoryError if it exists and is not private, OSError if it cannot be made.
    """
    try:
        _require_private(path, os.lstat(path))
        return
    except FileNotFoundError:
        above = os.path.dirname(path)
    if above and not os.path.isdir(above):
        ensure(above)
    try:
        os.mkdir(path, PRIVATE)
    except FileExistsError:  # made by another process meanwhile
        _require_private(path, os.lstat(path))
        return
    os.chmod(path, PRIVATE)  # a umask may have taken away what the owner needs; others got nothing at any moment


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


def tighten(path: str) -> bool:
    """Give an existing directory of this user's the mode 0700 and return whether that was needed.

    An older version made it with 0755. Raises StateDirectoryError if others own it or could write into it.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if is_own and status.st_mode & 0o077 and not status.st_mode & 0o022:
        os.chmod(path, PRIVATE)
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
