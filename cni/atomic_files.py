"""Changes files that other programs write, too: whole or not at all, and never over another program's change.

A new content is written to a temporary file next to the old one and made durable; then the two change places
(``renameat2(2)`` with RENAME_EXCHANGE). A program that opens the file by its name, at any moment, killed or not, finds
the whole old content or the whole new one. What comes out of the exchange is compared with what was read before:
if it is not the same, another program has written in between, and it is put back.

One gap is left: a program that is killed in the microseconds between exchange and putting back has replaced the other's
change. On file systems that cannot exchange (NFS, some FUSE), the comparison comes before the rename, and live programs
have that gap, too.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress

from capture.model.values import Value

TEMPORARY = ".capture-tmp"
"""The ending of our temporary files, which container runtimes do not read."""

PRIVATE = 0o600
"""The mode of files that we make (CIS Kubernetes Benchmark, 1.1.9)."""

WRITERS_TIMEOUT = 1.0
"""Seconds to wait for a program that has a replaced file open for writing."""


class ChangedMeanwhileError(Exception):
    """Another program has changed the file since it was read: read it again, and decide again."""


class Snapshot(Value):
    """A file as it was at one moment; it is the same under another name."""

    not_compared = ("path",)
    path: str
    content: bytes
    mode: int
    uid: int
    gid: int
    version: tuple[int, int, int, int]
    """Device, inode, size, time of the last change in nanoseconds: no two versions of a file share them."""


def snapshot(path: str) -> Snapshot:
    """Return the file as it is; raise ``OSError`` if it cannot be read, or is no regular file and could block."""
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        while True:
            file.seek(0)
            before, content, after = os.fstat(file.fileno()), file.read(), os.fstat(file.fileno())
            if _file_version(before) == _file_version(after):
                return Snapshot(
                    path, content, stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid, _file_version(after)
                )


def _file_version(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def create(path: str, content: bytes) -> None:
    """Make a file of our own that is not there yet; raise ``FileExistsError`` if it is."""
    temporary = _write_temporary(path, content)
    try:
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    sync(os.path.dirname(path))


def write_if_changed(path: str, content: bytes) -> bool:
    """Let a file that no one else writes have this content, for root alone; return whether that was a change."""
    with suppress(FileNotFoundError):
        old = snapshot(path)
        if (old.content, old.mode) == (content, PRIVATE):
            return False
    os.rename(_write_temporary(path, content), path)
    sync(os.path.dirname(path))
    return True


def replace(old: Snapshot, content: bytes, *, is_urgent: bool = False) -> None:
    """Give the file another content, with the mode and owner it had.

    Where it is urgent, the disk gets the new content after the two have changed places, since a busy disk takes 20 ms
    and more: after a loss of power in that time the file may be cut off.
    Raise ``ChangedMeanwhileError``, and leave the file alone, if it is not that of ``old``.
    """
    temporary = _write_temporary(old.path, content, old.mode, (old.uid, old.gid), is_durable=not is_urgent)
    try:
        new = snapshot(temporary)
        if snapshot(old.path) != old:
            raise ChangedMeanwhileError(old.path)
        if try_to_exchange(temporary, old.path):
            _undo_unless_it_was(old, new, temporary)
        else:
            os.rename(temporary, old.path)
    except FileNotFoundError:
        raise ChangedMeanwhileError(old.path) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    if is_urgent:
        with suppress(FileNotFoundError):  # its owner has taken it away meanwhile
            sync(old.path)
    sync(os.path.dirname(old.path))


def _undo_unless_it_was(old: Snapshot, new: Snapshot, displaced: str) -> None:
    """Keep the exchange if the file that ``new`` took the place of is ``old``; else undo it, and raise.

    Another version may come during the undoing. The two change places until what comes back is what was put there:
    then the newest stays, and no content is lost.
    """
    _wait_for_writers(displaced)
    if snapshot(displaced) == old:
        return
    placed = new
    while True:
        back = snapshot(displaced)
        if not try_to_exchange(displaced, old.path) or snapshot(displaced) == placed:
            raise ChangedMeanwhileError(old.path)
        placed = back


def remove(old: Snapshot) -> None:
    """Remove the file; raise ``ChangedMeanwhileError``, and leave it, if it is not that of ``old``."""
    aside = temporary_name(old.path)
    try:
        os.rename(old.path, aside)
    except FileNotFoundError:
        raise ChangedMeanwhileError(old.path) from None
    _wait_for_writers(aside)
    if snapshot(aside) != old:
        with suppress(FileExistsError):  # there is a newer one by now
            os.link(aside, old.path)
        os.unlink(aside)
        raise ChangedMeanwhileError(old.path)
    os.unlink(aside)
    sync(os.path.dirname(old.path))


def set_aside(old: Snapshot, path: str) -> None:
    """Give the file another name, in place of what has that; raise ``ChangedMeanwhileError`` as ``remove`` does.

    It has both names for a moment, so that killed anywhere it has one. On another file system it is a copy.
    """
    link = temporary_name(path)
    try:
        os.link(old.path, link, follow_symlinks=False)
    except FileNotFoundError:
        raise ChangedMeanwhileError(old.path) from None
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP}:
            raise
        write_new(link, old.content, old.mode, (old.uid, old.gid))
    os.rename(link, path)
    with suppress(FileNotFoundError):  # of two names of one file, rename(2) leaves both
        os.unlink(link)
    remove(old)


def replace_link(path: str, target: str) -> None:
    """Make ``path`` a symbolic link to ``target``, in place of what it was."""
    temporary = temporary_name(path)
    os.symlink(target, temporary)
    try:
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    sync(os.path.dirname(path))


def sync(path: str) -> None:
    """Wait until the disk has a file, or the names in a directory; without this a crash can bring old ones back."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that have nothing to wait for return this
            raise
    finally:
        os.close(file)


def _write_temporary(
    path: str, content: bytes, mode: int = PRIVATE, owner: tuple[int, int] | None = None, *, is_durable: bool = True
) -> str:
    temporary = temporary_name(path)
    try:
        write_new(temporary, content, mode, owner, is_durable=is_durable)
    except OSError as error:
        with suppress(OSError):  # on a read-only file system, not even one that is not there can be removed
            os.unlink(temporary)
        raise OSError(error.errno, error.strerror, path) from error
    return temporary


def write_new(
    path: str, content: bytes, mode: int, owner: tuple[int, int] | None = None, *, is_durable: bool = True
) -> None:
    """Write a new file, and wait until the disk has it, if it is to be durable."""
    with open(path, "xb", opener=lambda path, flags: os.open(path, flags, PRIVATE)) as file:
        file.write(content)
        file.flush()
        if owner:
            os.fchown(file.fileno(), *owner)
        os.fchmod(file.fileno(), mode)  # after fchown, which clears the set-uid bits
        if is_durable:
            os.fsync(file.fileno())


def temporary_name(path: str) -> str:
    """Return a new name next to the path, by which leftovers of a killed program are known."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.{os.urandom(6).hex()}{TEMPORARY}")


def _wait_for_writers(path: str) -> None:
    """Wait until no process has the file open for writing, or WRITERS_TIMEOUT has passed.

    Programs that write in place may have opened it before it was replaced. The kernel grants a read lease only
    while no program does (``fcntl(2)``, F_SETLEASE); without leases there is no waiting. A program that opens the
    file during the lease makes the kernel send a signal: not SIGIO, which would end us, but one that is ignored.
    """
    import fcntl
    import signal

    deadline = time.monotonic() + WRITERS_TIMEOUT
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        while time.monotonic() < deadline:
            try:
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except BlockingIOError:
                time.sleep(0.005)
            else:
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
                return
    except OSError:
        return
    finally:
        os.close(file)


def try_to_exchange(first: str, second: str) -> bool:
    """Let two files change places, at once; return False where kernel or file system cannot."""
    import ctypes

    at_fdcwd, rename_exchange = -100, 2  # linux/fcntl.h, linux/fs.h
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library older than glibc 2.28 or musl 1.2.6
        return False
    if renameat2(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), rename_exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
        return False
    raise OSError(number, os.strerror(number), first, None, second)
