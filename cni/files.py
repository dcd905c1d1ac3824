"""Reads small files that a configuration names, without ever waiting for one.

A path may name a FIFO or a device, by mistake or on purpose: opening one can wait for ever (fifo(7)).
"""

from __future__ import annotations

import errno
import os

REGULAR, TYPE = 0o100000, 0o170000
"""S_IFREG and S_IFMT of inode(7); the module ``stat`` has more than is needed here."""


def read_file(path: str, limit: int) -> bytes:
    """Return the content of a regular file; raise OSError, also for one of more than ``limit`` bytes."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if os.fstat(file).st_mode & TYPE != REGULAR:
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        content = bytearray()
        while chunk := os.read(file, 1 << 16):
            content += chunk
            if len(content) > limit:
                raise OSError(errno.EFBIG, f"it is longer than {limit} bytes", path)
        return bytes(content)
    finally:
        os.close(file)
