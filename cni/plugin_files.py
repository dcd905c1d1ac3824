"""The plugin's files on a node: a single executable, or a bundle with everything that it needs.

The copy is tried where it lies, then gets the plugin's name, which an earlier entry may be calling. The previous bundle
stays until the next installation: the plugin may be running from it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator

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


def put_plugin(source: str, bin_dir: str) -> list[FileChange]:
    """Copy the plugin, try the copy, and give it its name only then: an earlier entry may be calling that name."""
    if os.path.isdir(source):
        return _install_bundle(source, bin_dir)
    _check_executable(source)
    bundle = os.path.dirname(os.path.realpath(source))
    if os.path.isfile(os.path.join(bundle, BUNDLE_MARK)):
        return _install_bundle(bundle, bin_dir)
    path = os.path.join(bin_dir, PLUGIN)
    if _is_copy(path, source):
        _try(path, path)
        return []
    previous = _bundle_in_use(bin_dir)
    _copy_file(source, path)
    return [FileChange(path, f"copied from {source}"), *_remove_bundles(bin_dir, keep=(previous,))]


def _try(path: str, called: str) -> None:
    """Raise ``InstallError`` about ``called`` unless the plugin can be called where it lies."""
    from cni import trial

    tried = trial.run(path)
    if tried.problem:
        raise InstallError(called, tried.problem, tried.remedy)


def _copy_file(source: str, path: str) -> None:
    temporary = atomic_files.temporary_name(path)
    try:
        atomic_files.copy_durably(source, temporary, stat.S_IMODE(os.stat(source).st_mode))
        _try(temporary, path)
        os.rename(temporary, path)
        atomic_files.sync(os.path.dirname(path))
    except (OSError, InstallError):
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _check_executable(path: str) -> None:
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise InstallError(
            path, f"expected the executable {PLUGIN}, or a directory with it", "Name it with --plugin PATH."
        )


def _is_copy(path: str, source: str) -> bool:
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    there, new = atomic_files.snapshot(path), atomic_files.snapshot(source)
    return (there.content, there.mode) == (new.content, new.mode)


def _install_bundle(source: str, bin_dir: str) -> list[FileChange]:
    """Copy a directory under a name made from its content, and let the plugin's name point into it.

    The plugin of the previous bundle may be running, and load its modules from there: that one stays until the next.
    """
    _check_executable(os.path.join(source, PLUGIN))
    name = BUNDLE + _digest(source)
    bundle, link = os.path.join(bin_dir, name), os.path.join(bin_dir, PLUGIN)
    target = os.path.join(name, PLUGIN)
    previous = _bundle_in_use(bin_dir)
    is_whole = os.path.isdir(bundle) and _digest(bundle) == name.removeprefix(BUNDLE)
    if is_whole:
        _try(os.path.join(bundle, PLUGIN), link)
        if previous == name:
            return []
    else:
        _copy_bundle(source, bundle)
    atomic_files.replace_link(link, target)
    changes = [FileChange(bundle, f"copied from {source}"), FileChange(link, f"points to {target}")]
    return changes + _remove_bundles(bin_dir, keep=(name, previous))


def _copy_bundle(source: str, bundle: str) -> None:
    bin_dir = os.path.dirname(bundle)
    temporary = atomic_files.temporary_name(bundle)
    os.mkdir(temporary, 0o700)
    try:
        _copy_tree(source, temporary)
        _try(os.path.join(temporary, PLUGIN), os.path.join(bin_dir, PLUGIN))
        if os.path.lexists(bundle):
            os.rename(bundle, atomic_files.temporary_name(bundle))  # the next installer removes it
        os.rename(temporary, bundle)
    except (OSError, InstallError):
        remove_tree(temporary)
        raise
    atomic_files.sync(bin_dir)


def _bundle_in_use(bin_dir: str) -> str:
    """Return the name of the bundle that the plugin's name points into, or nothing if it is a file of its own."""
    link = os.path.join(bin_dir, PLUGIN)
    return os.path.dirname(os.readlink(link)) if os.path.islink(link) else ""


def _digest(directory: str) -> str:
    """Return what distinguishes the content of a directory: names, modes, bytes and links."""
    import hashlib

    digest = hashlib.sha256()
    for path, status in _tree(directory):
        digest.update(f"{os.path.relpath(path, directory)}\0{status.st_mode:o}\0".encode("utf-8", "surrogateescape"))
        if stat.S_ISREG(status.st_mode):
            content = atomic_files.snapshot(path).content
            digest.update(f"{len(content)}\0".encode() + content)
        elif stat.S_ISLNK(status.st_mode):
            digest.update(os.fsencode(os.readlink(path)) + b"\0")
    return digest.hexdigest()[:16]


def _tree(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything in a directory, sorted, each directory before what is in it."""
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        status = os.lstat(path)
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _tree(path)


def _copy_tree(source: str, destination: str) -> None:
    directories = [(destination, stat.S_IMODE(os.stat(source).st_mode))]
    for path, status in _tree(source):
        copy = os.path.join(destination, os.path.relpath(path, source))
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(copy, 0o700)
            directories.append((copy, mode))
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(path), copy)
        elif stat.S_ISREG(status.st_mode):
            atomic_files.copy_durably(path, copy, mode)
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
