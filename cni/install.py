"""Puts the CNI plugin on a node and into its network configuration, and takes both out again.

A node's pods start or fail by the file that is edited here, so: the plugin is there before the entry that calls it,
and goes after it; the configuration is always whole, with its owner's latest changes; and what cannot be understood
is left alone, with an error that names it.

Container runtimes read the files of the configuration directory that end with .conflist, .conf and .json, and use
the one whose name sorts first, byte by byte (``ConfFiles`` in libcni, and its users in containerd and CRI-O).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from functools import partial

from capture.errors import CaptureError
from capture.model.values import Value
from capture.state.directory import tighten
from capture.state.json_text import JsonError, decode
from capture.state.record import STATE_DIRECTORY
from cni import atomic_files
from cni.atomic_files import ChangedMeanwhileError, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from typing import Any, TypeVar

    T = TypeVar("T")

PLUGIN = "capture-cni"
"""The type of the entry, and therefore (SPEC, "Network configuration format") the name of the executable."""

OWN_CONFIG = "00-capture.conflist"
OWN_CONFIG_MARK = "own_config"
BUNDLE = f"{PLUGIN}.bundle-"
BUNDLE_MARK = "lib/ld.so"
"""What a bundle's launcher starts, beside it: without that it is nothing."""
READ_BY_RUNTIMES = (".conflist", ".conf", ".json")

PATIENCE = 5.0
"""Seconds to go on while other programs change the same files."""

HALF_WRITTEN_PATIENCE = 1.0
"""Seconds to wait for a file to become JSON: some programs write in place."""


class InstallError(CaptureError):
    """The plugin could not be installed or removed; ``path`` is the file or directory in the way."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}", remedy)
        self.path = path


class Change(Value):
    """What became of one file."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class Network(Value):
    """A file that runtimes read, and the network configuration in it."""

    path: str
    file: Snapshot
    """What ``path`` names; if that is a symbolic link, the file that it leads to."""
    configuration: dict[str, Any]

    @property
    def is_list(self) -> bool:
        """Whether the file holds a list of plugins; the other kinds hold a single one."""
        return self.path.endswith(".conflist")

    @property
    def plugins(self) -> list[dict[str, Any]]:
        """The plugins, in the order in which they are called."""
        return self.configuration["plugins"] if self.is_list else [self.configuration]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Those of the plugins that are ours."""
        return [plugin for plugin in self.plugins if plugin.get("type") == PLUGIN]

    @property
    def is_our_own(self) -> bool:
        """Whether the file is one that ``install`` made with ``own_config``."""
        return any(entry.get(OWN_CONFIG_MARK) is True for entry in self.entries)


# --- the verbs -------------------------------------------------------------------------------------------------


def install(
    plugin: str,
    bin_dir: str,
    conf_dir: str,
    entry: dict[str, Any],
    supported_versions: Container[str],
    own_config: str = "",
) -> list[Change]:
    """Put the plugin into ``bin_dir`` and ``entry`` into the network configuration; return what has changed.

    ``plugin`` is an executable, or a directory that has one called ``capture-cni`` and everything it needs; of a file
    in such a directory the whole directory is taken. It has to answer VERSION where it lies before it gets its name.
    ``entry`` goes into the list that sorts first in ``conf_dir``, or, as the last entry, into a copy of that list
    called ``own_config``, which has to sort before it. Doing it again changes nothing.
    Raise ``InstallError`` if that cannot be done; the network configuration is then what it was.
    """
    with _Lock(conf_dir, bin_dir):
        _clean_up(conf_dir, bin_dir)
        changes = _make_state_private() + _install_plugin(plugin, bin_dir)
        return changes + _put_entry(conf_dir, entry, supported_versions, own_config)


def enter(
    conf_dir: str, entry: dict[str, Any], supported_versions: Container[str], own_config: str = ""
) -> list[Change]:
    """Put ``entry`` into the network configuration as ``install`` does, for a plugin that is in its place already.

    It costs a millisecond: nothing is hashed. Raises ``InstallError``.
    """
    with _Lock(conf_dir):
        return _put_entry(conf_dir, entry, supported_versions, own_config)


def _put_entry(
    conf_dir: str, entry: dict[str, Any], supported_versions: Container[str], own_config: str
) -> list[Change]:
    entry = {"type": PLUGIN} | entry

    def put() -> tuple[str, list[Change]]:
        if own_config:
            return _write_own_list(conf_dir, own_config, entry, supported_versions)
        return _enter(conf_dir, entry, supported_versions)

    target, changes = _retry_on_conflict(put, conf_dir)
    return changes + _take_out(conf_dir, all_but=target)


def _make_state_private() -> list[Change]:
    """Mend what an older version made too wide; the plugin would refuse it, and with it every pod of the mesh."""
    mended = tighten(STATE_DIRECTORY)
    return [Change(STATE_DIRECTORY, "made private, mode 0700")] if mended else []


def uninstall(bin_dir: str, conf_dir: str, grace: float = 0.0, *, keep_plugin: bool = False) -> list[Change]:
    """Take the entry out of the network configuration, then remove the plugin; return what has changed.

    Runtimes may still call the plugin for pods that end just now: ``grace`` seconds pass before it goes, or it
    stays (``keep_plugin``).
    """
    with _Lock(conf_dir, bin_dir):
        _clean_up(conf_dir, bin_dir)
        changes = _take_out(conf_dir)
        if keep_plugin:
            return changes
        if changes:
            time.sleep(grace)
        return changes + remove_plugin(bin_dir)


# --- the network configuration: which file ----------------------------------------------------------------------


def networks(conf_dir: str) -> Iterator[Network]:
    """Yield what runtimes read, in the order in which they do."""
    for path in _read_by_runtimes(conf_dir):
        yield _network(path)


def _read_by_runtimes(conf_dir: str) -> list[str]:
    names = sorted(os.listdir(conf_dir), key=os.fsencode)
    paths = [os.path.join(conf_dir, name) for name in names if name.endswith(READ_BY_RUNTIMES)]
    return [path for path in paths if not os.path.isdir(path)]


def _network(path: str) -> Network:
    """Return the network in a file, waiting a moment if somebody seems to be writing it."""
    if os.path.islink(path) and not os.path.exists(path):
        raise _unexpected(path, "a file; it is a symbolic link to nothing")
    deadline = time.monotonic() + HALF_WRITTEN_PATIENCE
    while True:
        file = atomic_files.snapshot(os.path.realpath(path) if path.endswith(".conflist") else path)
        try:
            return Network(path, file, _checked(path, decode(file.content.decode())))
        except (JsonError, UnicodeDecodeError) as wrong:
            if time.monotonic() > deadline:
                expected = "a network configuration, but it is empty" if not file.content.strip() else f"JSON: {wrong}"
                raise _unexpected(path, expected) from None
            time.sleep(0.02)


def _checked(path: str, configuration: object) -> dict[str, Any]:
    if not isinstance(configuration, dict):
        raise _unexpected(path, "an object")
    if not path.endswith(".conflist"):
        if not isinstance(configuration.get("type"), str):
            raise _unexpected(
                path, "a plugin with a 'type'; a list of plugins belongs into a file ending with .conflist"
            )
        return configuration
    plugins = configuration.get("plugins")
    if not isinstance(plugins, list) or not plugins or not all(isinstance(plugin, dict) for plugin in plugins):
        raise _unexpected(path, "'plugins', a list of objects")
    return configuration


def _unexpected(path: str, expected: str) -> InstallError:
    return InstallError(path, f"expected {expected}", "It is left as it is; mend or remove it, then install again.")


def _first(conf_dir: str, networks: Iterator[Network]) -> Network:
    for network in networks:
        return network
    raise InstallError(
        conf_dir,
        f"no network configuration in it; expected a file ending with {', '.join(READ_BY_RUNTIMES)}",
        "Install after the main network plugin has written its own, or name the directory that the container runtime "
        "reads (containerd: conf_dir of the CRI plugin's cni; CRI-O: network_dir).",
    )


# --- the network configuration: what changes --------------------------------------------------------------------


def with_entry(plugins: list[dict[str, Any]], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the plugins with ``entry`` among them once: where ours stood before, if that works, or at the end."""
    others = [plugin for plugin in plugins if plugin.get("type") != PLUGIN]
    before = 0
    while before < len(plugins) and plugins[before].get("type") != PLUGIN:
        before += 1
    position = before or len(others)
    return [*others[:position], entry, *others[position:]]


def _enter(conf_dir: str, entry: dict[str, Any], supported: Container[str]) -> tuple[str, list[Change]]:
    """Put the entry into the first list that is not ours; return its path and what has changed."""
    network = _first(conf_dir, (network for network in networks(conf_dir) if not network.is_our_own))
    _check_version(network, supported)
    plugins = _after_others(network, entry)
    if network.is_list:
        return network.path, _rewrite(network, plugins, "entry changed" if network.entries else "entry added")
    return _turn_into_list(network, plugins)


def _after_others(network: Network, entry: dict[str, Any]) -> list[dict[str, Any]]:
    if len(network.entries) == len(network.plugins):
        raise _unexpected(network.path, f"a plugin that makes the network, for {PLUGIN} to stand behind")
    return with_entry(network.plugins, entry)


def _check_version(network: Network, supported: Container[str]) -> None:
    version = network.configuration.get("cniVersion")
    if version not in supported:
        raise InstallError(
            network.path,
            f"its cniVersion is {version!r}, in which {PLUGIN} could not be called",
            "Every pod of this node would fail to start, so nothing was changed. Change cniVersion, if the other "
            "plugins bear it.",
        )


def _rewrite(network: Network, plugins: list[dict[str, Any]], what: str) -> list[Change]:
    if plugins == network.plugins:
        return []
    atomic_files.replace(network.file, _written(network.path, as_list(network, plugins)))
    return [Change(network.path, what)]


def _turn_into_list(network: Network, plugins: list[dict[str, Any]]) -> tuple[str, list[Change]]:
    """Replace a file that holds one plugin by one that holds a list; that sorts after it, so it has to go.

    Killed in between, both are there and runtimes still read the old one; the next run begins with it again.
    """
    single = network.file
    path = os.path.splitext(single.path)[0] + ".conflist"
    content = _written(path, as_list(network, plugins))
    try:
        atomic_files.create(path, content, single.mode, single.uid, single.gid)
    except FileExistsError:
        stale = _network(path)
        if not stale.entries:
            raise InstallError(
                single.path,
                f"there is {path} too, and not from us; runtimes read only the first of the two",
                "Remove the one that the network plugin does not use, then install again.",
            ) from None
        atomic_files.replace(stale.file, content)
    atomic_files.remove(single)
    return path, [
        Change(path, f"made from {os.path.basename(single.path)}, with the entry"),
        Change(single.path, "removed"),
    ]


def as_list(network: Network, plugins: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a network configuration list of ``plugins``, with everything else that ``network`` says."""
    if network.is_list:
        return network.configuration | {"plugins": plugins}
    of_the_list = {key: network.configuration[key] for key in ("cniVersion", "name") if key in network.configuration}
    if "name" not in of_the_list:
        raise _unexpected(network.path, "a 'name' of the network")
    return of_the_list | {"plugins": [_without(plugin, of_the_list) for plugin in plugins]}


def _without(plugin: dict[str, Any], keys: Container[str]) -> dict[str, Any]:
    return {key: value for key, value in plugin.items() if key not in keys}


def _write_own_list(
    conf_dir: str, name: str, entry: dict[str, Any], supported: Container[str]
) -> tuple[str, list[Change]]:
    """Write a list of our own: what the runtime would read without it, and the entry."""
    path = os.path.join(conf_dir, name)
    source = _first(conf_dir, (network for network in networks(conf_dir) if not network.is_our_own))
    if os.fsencode(source.path) < os.fsencode(path):
        raise InstallError(
            path,
            f"{os.path.basename(source.path)} sorts before it, so runtimes would not read it",
            "Give our list a name that sorts first, or remove the other.",
        )
    _check_version(source, supported)
    plugins = _after_others(source, entry | {OWN_CONFIG_MARK: True})
    configuration = as_list(source, plugins)
    try:
        old = _network(path)
    except FileNotFoundError:
        file = source.file
        try:
            atomic_files.create(path, _written(path, configuration), file.mode, file.uid, file.gid)
        except FileExistsError:
            raise ChangedMeanwhileError(path) from None
        return path, [Change(path, f"made from {os.path.basename(source.path)}, with the entry")]
    if old.configuration == configuration:
        return path, []
    atomic_files.replace(old.file, _written(path, configuration))
    return path, [Change(path, f"made anew from {os.path.basename(source.path)}, with the entry")]


def _take_out(conf_dir: str, all_but: str = "") -> list[Change]:
    """Take our entries out of all files but one."""
    paths = [path for path in _read_by_runtimes(conf_dir) if path != all_but]
    return [change for path in paths for change in _retry_on_conflict(partial(_take_out_of, path), path)]


def _take_out_of(path: str) -> list[Change]:
    """Take our entries out of a file; if nothing but them is in it, it goes as a whole."""
    try:
        network = _network(path)
    except FileNotFoundError:
        return []
    except InstallError:
        if PLUGIN.encode() in atomic_files.snapshot(path).content:
            raise
        return []  # broken, and nothing of ours: not our business
    others = [plugin for plugin in network.plugins if plugin.get("type") != PLUGIN]
    if network.is_our_own or not others:
        atomic_files.remove(network.file)
        return [Change(path, "removed")]
    return _rewrite(network, others, "entry removed")


def _written(path: str, configuration: dict[str, Any]) -> bytes:
    import json

    try:
        return json.dumps(configuration, indent=2, allow_nan=False).encode() + b"\n"
    except (ValueError, RecursionError):
        raise _unexpected(path, "numbers of a usual size, and no very deep nesting") from None


# --- the plugin --------------------------------------------------------------------------------------------------


def _install_plugin(source: str, bin_dir: str) -> list[Change]:
    """Copy the plugin, try the copy, and give it its name only then: an entry of before may be calling that name."""
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
    return [Change(path, f"copied from {source}"), *_remove_bundles(bin_dir, keep=(previous,))]


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
        atomic_files.put_in_place(temporary, path)
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


def _install_bundle(source: str, bin_dir: str) -> list[Change]:
    """Copy a directory under a name that tells its content, and let the plugin's name point into it.

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
    changes = [Change(bundle, f"copied from {source}"), Change(link, f"points to {target}")]
    return changes + _remove_bundles(bin_dir, keep=(name, previous))


def _copy_bundle(source: str, bundle: str) -> None:
    """Copy a bundle and try the copy; what is left of a damaged one of the same name gives way."""
    bin_dir, name = os.path.split(bundle)
    temporary = atomic_files.temporary_directory_in(bin_dir, name)
    try:
        _copy_tree(source, temporary)
        _try(os.path.join(temporary, PLUGIN), os.path.join(bin_dir, PLUGIN))
        if os.path.lexists(bundle):
            os.rename(bundle, atomic_files.temporary_name(bundle))  # the next installer removes it
        os.rename(temporary, bundle)
    except (OSError, InstallError):
        _remove_tree(temporary)
        raise
    atomic_files.sync_directory(bin_dir)


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
        atomic_files.sync_directory(directory)
        os.chmod(directory, mode)


def remove_plugin(bin_dir: str) -> list[Change]:
    """Remove the plugin and its bundles; return what was there."""
    path = os.path.join(bin_dir, PLUGIN)
    changes = []
    if os.path.lexists(path):
        os.unlink(path)
        changes.append(Change(path, "removed"))
    changes += _remove_bundles(bin_dir, keep=())
    atomic_files.sync_directory(bin_dir)
    return changes


def _remove_bundles(bin_dir: str, keep: Container[str]) -> list[Change]:
    bundles = [name for name in sorted(os.listdir(bin_dir)) if name.startswith(BUNDLE) and name not in keep]
    for name in bundles:
        _remove_tree(os.path.join(bin_dir, name))
    return [Change(os.path.join(bin_dir, name), "removed") for name in bundles]


def _remove_tree(path: str) -> None:
    import shutil

    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


# --- others at the same time, and disks that fail ----------------------------------------------------------------


def _retry_on_conflict(attempt: Callable[[], T], conf_dir: str) -> T:
    """Return what ``attempt`` does, beginning anew as long as other programs come between, for some seconds."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except (ChangedMeanwhileError, FileNotFoundError) as changed:
            if time.monotonic() > deadline:
                raise InstallError(
                    conf_dir,
                    f"another program keeps changing it: {changed}",
                    "Look which one writes there, and install again when it has come to rest.",
                ) from None
            time.sleep(0.01)


class _Lock:
    """One installer at a time works on these directories, and what goes wrong there is explained.

    The locks are on the directories themselves, and end with the process.
    """

    def __init__(self, *directories: str) -> None:
        self._directories = directories
        self._locks: dict[tuple[int, int], int] = {}

    def __enter__(self) -> None:
        try:
            for directory in self._directories:
                self._lock(directory)
        except BaseException:
            self._unlock()
            raise

    def _lock(self, directory: str) -> None:
        import fcntl

        try:
            file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, directory) from None
        status = os.fstat(file)
        if (status.st_dev, status.st_ino) in self._locks:  # both are the same directory
            os.close(file)
            return
        self._locks[status.st_dev, status.st_ino] = file
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InstallError(
                        directory, "another installer is at work in it", "Wait for it to end, and try again."
                    ) from None
                time.sleep(0.02)
            else:
                return

    def _unlock(self) -> None:
        for file in self._locks.values():
            os.close(file)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._unlock()
        if isinstance(error, OSError):
            raise explained(error, self._directories[0]) from error


def _clean_up(*directories: str) -> None:
    """Remove what an installer has left that was killed."""
    for directory in directories:
        for leftover in atomic_files.leftovers(directory):
            _remove_tree(leftover)


REMEDIES = {
    errno.ENOSPC: "Free some space there (or inodes: `df -i`), and try again.",
    errno.EDQUOT: "Raise the quota or free some space, and try again.",
    errno.EROFS: "The file system is mounted read-only: mount it writable (in a pod: hostPath without readOnly), "
    "or name another directory.",
    errno.EACCES: "Run as root; if you do, look for a denial of SELinux or AppArmor (`ausearch -m avc -ts recent`).",
    errno.EPERM: "Run as root; if you do, look whether the file is immutable (`lsattr`).",
    errno.ENOENT: "Expected the directories that the container runtime uses; its configuration names them "
    "(containerd: bin_dir and conf_dir of the CRI plugin's cni; CRI-O: plugin_dirs and network_dir).",
    errno.ENOTDIR: "Expected a directory; the container runtime's configuration names it.",
}


def explained(error: OSError, directory: str) -> InstallError:
    """Return an error of the operating system as one that says what to do."""
    path = os.fsdecode(error.filename) if error.filename else directory
    remedy = REMEDIES.get(error.errno or 0, "The files of others are as they were.")
    return InstallError(path, error.strerror or str(error), remedy)
