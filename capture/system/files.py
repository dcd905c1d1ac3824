"""Files that may be missing or unreadable, as most of /proc; and writing one whole or not at all."""

from __future__ import annotations

import errno
import os

S_IFREG, S_IFMT = 0o100000, 0o170000
"""S_IFREG and S_IFMT of inode(7); the module ``stat`` has more than is needed here."""


def content_of(path: str) -> bytes:
    """Return what a file holds; nothing if it cannot be read, or is a FIFO, which could wait for ever.

    A file object would cost four system calls more, in a process that reads a dozen files of /proc.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(descriptor, 1 << 16), b""))
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def read_file(path: str, limit: int) -> bytes:
    """Return the content of a regular file: a FIFO, which a configuration may name by mistake, could wait for ever.

    Raises OSError, also for one that is not regular, or has more than ``limit`` bytes.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if os.fstat(file).st_mode & S_IFMT != S_IFREG:
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        content = bytearray()
        while chunk := os.read(file, 1 << 16):
            content += chunk
            if len(content) > limit:
                raise OSError(errno.EFBIG, f"it is longer than {limit} bytes", path)
        return bytes(content)
    finally:
        os.close(file)


def names_in(directory: str) -> list[str]:
    """Return the names in a directory, in order; none if it cannot be listed."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def remove_file(path: str) -> None:
    """Remove a file, if it is there and that is permitted."""
    try:
        os.unlink(path)
    except OSError:
        pass


def process_ids() -> list[str]:
    """Return the numbers of the processes that we see, as /proc calls them."""
    return [name for name in names_in("/proc") if name.isdecimal()]


def open_files(process: str) -> list[str]:
    """Return what the descriptors of a process lead to, ``socket:[INODE]`` and the like; nothing if it has ended."""
    directory = f"/proc/{process}/fd"
    targets = []
    for number in names_in(directory):
        try:
            targets.append(os.readlink(f"{directory}/{number}"))
        except OSError:  # closed meanwhile, or unreadable for us
            continue
    return targets


def write_whole(path: str, content: bytes) -> None:
    """Write a file for this user alone: readers see the old content or the new one, whole. Raises OSError."""
    temporary = f"{path}.{os.urandom(6).hex()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        remove_file(temporary)
        raise
