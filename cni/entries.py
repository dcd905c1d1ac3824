"""Puts the plugin's entry into one file of the network configuration, and takes it out again.

A file with a single plugin becomes a list. We keep what its owner wrote, and put it back when the entry goes, byte by
byte, unless it was changed since. If the owner writes it again meanwhile, the next installation begins with that one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from capture.errors import CaptureError
from capture.state.directory import make_private
from cni import atomic_files
from cni.atomic_files import ChangedMeanwhileError
from cni.install_error import InstallError, unexpected
from cni.networks import PLUGIN, ConfigurationFile, RuntimeName, read_network
from cni.plugin_files import FileChange
from cni.protocol import SUPPORTED_VERSIONS

SINGLE_PLUGIN_SUFFIXES = (".conf", ".json")
OWN_DIRECTORY = "istio-capture"
"""Our own directory in the parent of the configuration directory, where runtimes read nothing."""


def with_entry(
    plugins: list[dict[str, Any]], entry: dict[str, Any], replaced: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the plugins with ``entry`` among them once: where it was before, if that works, or at the end.

    Plugins of the types ``replaced`` are left out: they do the same job.
    """
    remaining = [plugin for plugin in plugins if plugin.get("type") not in (PLUGIN, *replaced)]
    before = next((index for index, plugin in enumerate(plugins) if plugin.get("type") == PLUGIN), len(plugins))
    position = min(before, len(remaining)) or len(remaining)
    return [*remaining[:position], entry, *remaining[position:]]


def add_entry(
    network: ConfigurationFile, entry: dict[str, Any], replaced: Sequence[str] = (), *, is_urgent: bool = False
) -> tuple[str, list[FileChange]]:
    """Put the entry into a file; return the file that has it then, and what has changed."""
    plugins = with_entry_after_others(network, entry, replaced)
    types = [plugin.get("type") for plugin in network.plugins]
    changes = [FileChange(network.path, f"entry of {name} replaced") for name in types if name in replaced]
    if network.is_list:
        change = "entry changed" if network.entries else "entry added"
        changes += rewrite(network, plugins, change, is_urgent=is_urgent)
        if not network.entries:
            _keep_original(network)
        return network.path, changes
    path, turned = _turn_into_list(network, plugins)
    return path, changes + turned


def with_entry_after_others(
    network: ConfigurationFile, entry: dict[str, Any], replaced: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the plugins with the entry. Raises InstallError if there is none that makes the network."""
    plugins = with_entry(network.plugins, entry, replaced)
    if len(plugins) == 1:
        raise unexpected(network.path, f"a plugin that makes the network, before {PLUGIN}")
    return plugins


def check_callable(network: ConfigurationFile, runtime: RuntimeName) -> None:
    """Raise InstallError if the plugin could not be called in this list."""
    if not network.configuration.get("name") and runtime != "crio":  # which takes the file's name
        raise unexpected(network.path, "a 'name' of the network, which must not be empty (CNI's SPEC)")
    if network.version not in SUPPORTED_VERSIONS:
        version = repr(network.version) if network.version else "missing"
        raise InstallError(
            network.path,
            f"its cniVersion is {version}, and {PLUGIN} supports {', '.join(SUPPORTED_VERSIONS)}",
            "Nothing was changed, since no pod of this node would start."
            " Change cniVersion if the other plugins support it.",
        )


def rewrite(
    network: ConfigurationFile, plugins: list[dict[str, Any]], change: str, *, is_urgent: bool = False
) -> list[FileChange]:
    """Give a list these plugins, unless it has them; return what was changed."""
    if plugins == network.plugins:
        return []
    content = encode_configuration(network.path, as_list(network, plugins))
    atomic_files.replace(network.file, content, is_urgent=is_urgent)
    return [FileChange(network.path, change)]


def _keep_original(network: ConfigurationFile) -> None:
    """Keep a list as its owner wrote it, if that can be done. A copy that is cut off is not used."""
    original = kept_original(network.path)
    with suppress(OSError, CaptureError):
        make_private(os.path.dirname(original))
        with open(original, "wb") as file:
            file.write(network.file.content)


def _turn_into_list(network: ConfigurationFile, plugins: list[dict[str, Any]]) -> tuple[str, list[FileChange]]:
    """Put a list in the place of a file that holds one plugin; the list sorts after it, so that one is set aside.

    Killed in between, both are there and runtimes still read the old one; the next run begins with it again.
    """
    single = network.file
    path = os.path.splitext(single.path)[0] + ".conflist"
    try:
        atomic_files.create(path, encode_configuration(path, as_list(network, plugins)))
    except FileExistsError:
        stale = read_network(path)
        if not stale.entries:
            raise InstallError(
                single.path,
                f"there is {path} too, written by another program; runtimes read only the first of the two",
                "Remove the one that the network plugin does not use, then install again.",
            ) from None
        atomic_files.replace(stale.file, encode_configuration(path, as_list(network, plugins)))
    make_private(os.path.dirname(kept_original(single.path)))
    atomic_files.set_aside(single, kept_original(single.path))
    return path, [
        FileChange(path, f"made from {os.path.basename(single.path)}, with the entry"),
        FileChange(single.path, "removed"),
    ]


def own_directory(conf_dir: str) -> str:
    """Return our directory next to a configuration directory."""
    return os.path.join(os.path.dirname(conf_dir.rstrip("/")), OWN_DIRECTORY)


def kept_original(path: str) -> str:
    """Return where an owner's file is kept that was turned into a list."""
    conf_dir, name = os.path.split(path)
    return os.path.join(own_directory(conf_dir), "originals", name)


def as_list(network: ConfigurationFile, plugins: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a network configuration list of ``plugins``, with everything else of ``network``."""
    if network.is_list:
        return network.configuration | {"plugins": plugins}
    of_the_list = {key: network.configuration[key] for key in ("cniVersion", "name") if key in network.configuration}
    if "name" not in of_the_list:
        raise unexpected(network.path, "a 'name' of the network")
    return of_the_list | {
        "plugins": [{key: value for key, value in plugin.items() if key not in of_the_list} for plugin in plugins]
    }


def encode_configuration(path: str, configuration: dict[str, Any]) -> bytes:
    """Return a configuration as JSON. Raises InstallError about ``path`` where JSON cannot hold it."""
    import json

    try:
        return json.dumps(configuration, indent=2, allow_nan=False).encode() + b"\n"
    except (ValueError, RecursionError):
        raise unexpected(path, "numbers of a usual size, and no very deep nesting") from None


def remove_entries(path: str) -> list[FileChange]:
    """Take our entries out of a file, or remove one with nothing but them; return what was changed."""
    try:
        if not os.path.isfile(path):  # a FIFO, a link to nothing: no runtime could read it, either
            return []
        network = read_network(path)
    except FileNotFoundError:
        return []
    except InstallError:
        if PLUGIN.encode() in atomic_files.snapshot(path).content:
            raise
        return []  # broken, and not our own
    if not network.entries:
        return []
    foreign = [plugin for plugin in network.plugins if plugin.get("type") != PLUGIN]
    if network.is_our_own or not foreign:
        atomic_files.remove(network.file)
        return [FileChange(path, "removed")]
    original = kept_original(path)
    if _is_made_from(network, foreign, original, path):
        atomic_files.replace(network.file, atomic_files.snapshot(original).content)
        return [FileChange(path, "entry removed")]
    return _restore_original(network, foreign) or rewrite(network, foreign, "entry removed")


def _restore_original(network: ConfigurationFile, foreign: list[dict[str, Any]]) -> list[FileChange]:
    """Let the owner's file take the place of the list that was made from it; nothing if the list has changed since."""
    for suffix in SINGLE_PLUGIN_SUFFIXES:
        owners = os.path.splitext(network.path)[0] + suffix
        saved = kept_original(owners)
        original = owners if os.path.lexists(owners) else saved
        if not os.path.lexists(original) or not _is_made_from(network, foreign, original, owners):
            continue
        if original == saved:
            shutil.move(saved, owners)  # runtimes read this one from now on
        try:
            atomic_files.remove(network.file)
        except ChangedMeanwhileError:
            if original == saved:
                shutil.move(owners, saved)  # another program changed the list: runtimes go on reading it
            raise
        return [FileChange(owners, "as it was"), FileChange(network.path, "removed")]
    return []


def _is_made_from(network: ConfigurationFile, foreign: list[dict[str, Any]], original: str, owners: str) -> bool:
    try:
        single = read_network(original, timeout=0).replace(path=owners)
        return as_list(single, single.plugins) == network.configuration | {"plugins": foreign}
    except (CaptureError, OSError):
        return False


def forget_originals(conf_dir: str) -> None:
    """Remove what is kept for lists that we no longer give back, and our directory if it is empty then."""
    originals = os.path.dirname(kept_original(os.path.join(conf_dir, "any")))
    shutil.rmtree(originals, ignore_errors=True)
    with suppress(OSError):  # it was never there, or has the plugin's credentials
        os.rmdir(os.path.dirname(originals))
