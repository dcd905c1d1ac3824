"""The plugin's files on a node: a single executable, or a bundle with everything that it needs.

The copy is tried where it lies, then gets the plugin's name, which an earlier entry may be calling. The previous bundle
stays until the next installation: the plugin may be running from it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator

from capture.errors import CaptureError
from capture.model.values import Value
from cni import atomic_files
from cni.install_error import InstallError
from cni.networks import PLUGIN

BUNDLE = f"{PLUGIN}.bundle-"
BUNDLE_MARK = "lib/ld.so"
"""The program that a bundle's launcher starts, next to it."""


class FileChange(Value):
    """The change of one file."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def install_plugin(source: str, bin_dir: str) -> list[FileChange]:
    """Copy the plugin, try the copy, and give it its name only then: an earlier entry may be calling that name.

    A bundle gets a name made from its content, and the plugin's name points into it. The plugin of the previous bundle
    may be running, and load its modules from there: that one stays until the next.
    """
    original = _source_root(source)
    is_bundle = os.path.isdir(original)
    digest = _content_digest(original)
    name, inside = (BUNDLE + digest, f"/{PLUGIN}") if is_bundle else (PLUGIN, "")
    copy, called = os.path.join(bin_dir, name), os.path.join(bin_dir, PLUGIN)
    previous = _bundle_in_use(bin_dir)
    if os.path.lexists(copy) and _content_digest(copy) == digest:
        _require_callable(copy + inside, called)
        if not is_bundle or previous == name:
            return []
    else:
        _copy_and_try(original, copy, inside, called)
    changes = [FileChange(copy, f"copied from {original}")]
    if is_bundle:
        atomic_files.replace_link(called, name + inside)
        changes.append(FileChange(called, f"points to {name}{inside}"))
    return changes + _remove_bundles(bin_dir, keep=(name, previous))


def _source_root(source: str) -> str:
    """Return what is to be copied: a bundle, also for a file in it, or an executable without one."""
    executable = os.path.join(source, PLUGIN) if os.path.isdir(source) else source
    if not os.path.isfile(executable) or not os.access(executable, os.X_OK):
        raise InstallError(executable, f"expected {PLUGIN}, or a directory with it", "Name it with --plugin PATH.")
    if os.path.isdir(source):
        return source
    file = os.path.realpath(source)
    bundle = os.path.dirname(file)
    return bundle if os.path.isfile(os.path.join(bundle, BUNDLE_MARK)) else file


def _require_callable(path: str, called: str) -> None:
    """Raise ``InstallError`` about ``called`` unless the plugin can be called where it lies."""
    from cni import trial

    try:
        trial.try_version(path)
    except CaptureError as error:
        raise InstallError(called, error.message, error.remedy) from None


def _copy_and_try(original: str, copy: str, inside: str, called: str) -> None:
    temporary = atomic_files.temporary_name(copy)
    try:
        _copy(original, temporary)
        _require_callable(temporary + inside, called)
        if inside and os.path.lexists(copy):  # a directory is not replaced by a rename
            os.rename(copy, atomic_files.temporary_name(copy))  # the next installer removes it
        os.rename(temporary, copy)
    except (OSError, InstallError) as error:
        if os.path.lexists(temporary):
            remove_tree(temporary)
        if isinstance(error, OSError) and str(error.filename or temporary).startswith(temporary):
            raise OSError(error.errno, error.strerror, copy) from error
        raise
    atomic_files.sync(os.path.dirname(copy))


def _bundle_in_use(bin_dir: str) -> str:
    """Return the name of the bundle that the plugin's name points into, or nothing if it is a file of its own."""
    link = os.path.join(bin_dir, PLUGIN)
    return os.path.dirname(os.readlink(link)) if os.path.islink(link) else ""


def _content_digest(original: str) -> str:
    """Return what distinguishes the content of a file or directory: names, modes, bytes and links."""
    import hashlib

    digest = hashlib.sha256()
    for path, status in _walk_tree(original):
        digest.update(f"{os.path.relpath(path, original)}\0{status.st_mode:o}\0".encode("utf-8", "surrogateescape"))
        if stat.S_ISREG(status.st_mode):
            content = atomic_files.snapshot(path).content
            digest.update(f"{len(content)}\0".encode() + content)
        elif stat.S_ISLNK(status.st_mode):
            digest.update(os.fsencode(os.readlink(path)) + b"\0")
    return digest.hexdigest()[:16]


def _walk_tree(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield a path and, if it is a directory, everything in it, sorted; each directory comes before what is in it."""
    status = os.lstat(path)
    yield path, status
    for name in sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else ():
        yield from _walk_tree(os.path.join(path, name))


def _copy(original: str, destination: str) -> None:
    """Copy a file or a directory, and wait until the disk has it."""
    directories = []
    for path, status in _walk_tree(original):
        copy = os.path.normpath(os.path.join(destination, os.path.relpath(path, original)))
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(copy, 0o700)
            directories.append((copy, mode))
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(path), copy)
        elif stat.S_ISREG(status.st_mode):
            atomic_files.write_new(copy, atomic_files.snapshot(path).content, mode)
        else:
            raise InstallError(path, "expected a file, a directory or a symbolic link", "Take it out of the bundle.")
    for directory, mode in directories:
        atomic_files.sync(directory)
        os.chmod(directory, mode)


def remove_plugin(bin_dir: str) -> list[FileChange]:
    """Remove the plugin and its bundles; return what was there."""
    path = os.path.join(bin_dir, PLUGIN)
    changes = []
    if os.path.lexists(path):
        os.unlink(path)
        changes.append(FileChange(path, "removed"))
    changes += _remove_bundles(bin_dir, keep=())
    atomic_files.sync(bin_dir)
    return changes


def _remove_bundles(bin_dir: str, keep: Container[str]) -> list[FileChange]:
    bundles = [name for name in sorted(os.listdir(bin_dir)) if name.startswith(BUNDLE) and name not in keep]
    for name in bundles:
        remove_tree(os.path.join(bin_dir, name))
    return [FileChange(os.path.join(bin_dir, name), "removed") for name in bundles]


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it, or a file."""
    import shutil

    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
