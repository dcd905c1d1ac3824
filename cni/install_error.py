"""Errors of the installation: the file or directory in the way, and what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from capture.errors import CaptureError

REMEDY_BY_ERRNO = {
    errno.ENOSPC: "Free some space there (or inodes: `df -i`), and try again.",
    errno.EDQUOT: "Raise the quota or free some space, and try again.",
    errno.EROFS: "The file system is mounted read-only: mount it writable (in a pod: hostPath without readOnly), "
    "or name another directory.",
    errno.EACCES: "Run as root; if you do, look for a denial of SELinux or AppArmor (`ausearch -m avc -ts recent`).",
    errno.EPERM: "Run as root; if you do, look whether the file is immutable (`lsattr`).",
    errno.ENOENT: "Name the container runtime's directories by --bin-dir and --conf-dir; they are in its configuration "
    "(containerd: bin_dir and conf_dir of the CRI plugin's cni; CRI-O: plugin_dirs and network_dir).",
    errno.ENOTDIR: "Expected a directory; the container runtime's configuration names it.",
}


class InstallError(CaptureError):
    """The plugin could not be installed or removed; ``path`` is the file or directory in the way."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}", remedy)
        self.path = path
        self.problem = problem


def unexpected(path: str, expected: str) -> InstallError:
    """Return the error for a file that is not as it should be, and is left as it is."""
    return InstallError(path, f"expected {expected}", "It was not changed. Repair or remove it, then install again.")


def install_error_for(error: OSError, directory: str) -> InstallError:
    """Return an error of the operating system as one with a remedy."""
    path = os.fsdecode(error.filename) if error.filename else directory
    remedy = REMEDY_BY_ERRNO.get(error.errno or 0, "The files of others are as they were.")
    return InstallError(path, error.strerror or str(error), remedy)


@contextmanager
def explained_errors(directory: str) -> Iterator[None]:
    """A context in which an error of the operating system becomes one with a remedy."""
    try:
        yield
    except OSError as error:
        raise install_error_for(error, directory) from error
