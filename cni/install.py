"""Puts the CNI plugin on a node and into its network configuration, and takes both out again.

A node's pods start or fail by the file that is edited here. So the plugin is there, and tried, before the entry that
calls it, and goes after it. The configuration is always whole, with its owner's latest changes. A file that cannot
be understood is left alone, with an error that names it.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

from capture.errors import CaptureError
from capture.model.values import Value
from capture.state.directory import STATE_DIRECTORY, narrow_mode
from cni import atomic_files, entries, networks
from cni.install_error import InstallError
from cni.install_lock import clean_up, installer_lock, retry_on_conflict
from cni.networks import FIRST_BY_NAME, PLUGIN, Candidate, ConfigurationFile, ListChoice
from cni.plugin_files import FileChange, install_plugin, remove_plugin

OWN_CONFIG_NAME = "00-capture.conflist"


class DesiredConfiguration(Value):
    """The desired part of a node's network configuration."""

    conf_dir: str
    entry: dict[str, Any]
    """The plugin's, without its type."""
    own_config: str = ""
    """The name of a list of our own, which must sort before the one that it is made from; empty: there is none."""
    choice: ListChoice = FIRST_BY_NAME
    replaced: tuple[str, ...] = ()
    """Types of plugins that do the same job, and leave the list."""


def install(plugin: str, bin_dir: str, desired: DesiredConfiguration) -> list[FileChange]:
    """Put the plugin into ``bin_dir`` and its entry into the network configuration; return what has changed.

    ``plugin`` is an executable, or a directory that has one called ``capture-cni`` and everything it needs; of a file
    in such a directory the whole directory is taken. It has to answer VERSION where it lies before it gets its name.
    The entry goes into the list that a runtime takes (``choice``), or, as the last one, into a copy of that list.
    Doing it again changes nothing.
    Raise ``InstallError`` if that cannot be done; the network configuration is then what it was, and no plugin is left
    where none was.
    """
    with installer_lock(desired.conf_dir, bin_dir):
        clean_up(desired.conf_dir, bin_dir)
        # Kubelet made it too wide for the agent; the plugin would refuse it, and with it every pod of the mesh.
        is_tightened = narrow_mode(STATE_DIRECTORY)
        changes = [FileChange(STATE_DIRECTORY, "made private, mode 0700")] if is_tightened else []
        is_first = not os.path.lexists(os.path.join(bin_dir, PLUGIN))
        changes += install_plugin(plugin, bin_dir)
        try:
            return changes + _put_entry(desired)
        except (CaptureError, OSError):
            if is_first:
                remove_plugin(bin_dir)
            raise


def put_entry(desired: DesiredConfiguration, *, is_urgent: bool = False) -> list[FileChange]:
    """Put the entry into the network configuration as ``install`` does, for a plugin that is in its place already.

    It costs a millisecond: nothing is hashed, and where it is urgent, the disk is waited for afterwards.
    Raises ``InstallError``.
    """
    with installer_lock(desired.conf_dir):
        return _put_entry(desired, is_urgent=is_urgent)


def uninstall(bin_dir: str, conf_dir: str, grace: float = 0.0, *, keep_plugin: bool = False) -> list[FileChange]:
    """Take the entry out of the network configuration, then remove the plugin; return what has changed.

    Runtimes may still call the plugin for pods that end just now: ``grace`` seconds pass before it goes, or it
    stays (``keep_plugin``).
    """
    with installer_lock(conf_dir, bin_dir):
        clean_up(conf_dir, bin_dir)
        changes = _remove_entries(conf_dir)
        entries.forget_originals(conf_dir)
        if keep_plugin:
            return changes
        if changes:
            time.sleep(grace)
        return changes + remove_plugin(bin_dir)


def selected_network(
    conf_dir: str, choice: ListChoice = FIRST_BY_NAME, *, but_own: bool = False
) -> ConfigurationFile | None:
    """Return the network that a runtime takes, or would take without a list of our own; None if it takes none.

    Raises ``InstallError``: the file that counts is broken.
    """
    if choice.runtime == "containerd" and not choice.network:
        allowed = (network for network in networks.read_networks(conf_dir) if not (but_own and network.is_our_own))
        return next(allowed, None)
    lists = _foreign_lists(conf_dir) if but_own else networks.read_candidates(conf_dir)
    taken = networks.choose_network(lists, choice).taken
    return taken.network if taken else None


def main_network(conf_dir: str, choice: ListChoice = FIRST_BY_NAME) -> ConfigurationFile:
    """Return the network that a runtime would take without a list of our own. Raises ``InstallError``."""
    taken = selected_network(conf_dir, choice, but_own=True)
    if taken is not None:
        return taken
    lists = _foreign_lists(conf_dir)
    if lists:
        verdicts = networks.choose_network(lists, choice).reasons
        reasons = "; ".join(f"{os.path.basename(path)} {why}" for path, why in verdicts)
        raise InstallError(conf_dir, f"the runtime would use none of these: {reasons}", "Repair one of them first.")
    raise InstallError(
        conf_dir,
        f"no network configuration in it; expected a file ending with {', '.join(networks.READ_BY_RUNTIMES)}",
        "Install after the main network plugin has written its own, or name the directory that the container runtime "
        "reads (containerd: conf_dir of the CRI plugin's cni; CRI-O: network_dir).",
    )


def _foreign_lists(conf_dir: str) -> list[Candidate]:
    return [each for each in networks.read_candidates(conf_dir) if each.network is None or not each.network.is_our_own]


def _put_entry(desired: DesiredConfiguration, *, is_urgent: bool = False) -> list[FileChange]:
    """Put the entry where it belongs, and take it out of all other files."""

    def put() -> tuple[tuple[str, ...], list[FileChange]]:
        source = main_network(desired.conf_dir, desired.choice)
        entries.check_callable(source, desired.choice.runtime)
        if not desired.own_config:
            path, changes = entries.add_entry(source, entry, desired.replaced, is_urgent=is_urgent)
            return (path,), changes
        path, changes = _write_own_list(desired, source, entry | {networks.OWN_CONFIG_MARK: True})
        if desired.choice.runtime != "crio":
            return (path,), changes
        # CRI-O skips a list whose plugin is missing, and takes the next one: that one must not lead past us.
        main_path, entered = entries.add_entry(source, entry, desired.replaced)
        return (path, main_path), changes + entered

    entry = {"type": PLUGIN} | desired.entry
    targets, changes = retry_on_conflict(put, desired.conf_dir)
    return changes + _remove_entries(desired.conf_dir, all_but=targets)


def _write_own_list(
    desired: DesiredConfiguration, source: ConfigurationFile, entry: dict[str, Any]
) -> tuple[str, list[FileChange]]:
    """Write a list of our own: what the runtime would read without it, and the entry."""
    path = os.path.join(desired.conf_dir, desired.own_config)
    if os.fsencode(source.path) < os.fsencode(path):
        raise InstallError(
            path,
            f"{os.path.basename(source.path)} sorts before it, so runtimes would not read it",
            "Name our list so that it sorts first, or remove the other one.",
        )
    configuration = entries.as_list(source, entries.with_entry_after_others(source, entry, desired.replaced))
    try:
        old = networks.read_network(path)
    except FileNotFoundError:
        atomic_files.create(path, entries.encode_configuration(path, configuration))
        return path, [FileChange(path, f"made from {os.path.basename(source.path)}, with the entry")]
    if old.configuration == configuration:
        return path, []
    atomic_files.replace(old.file, entries.encode_configuration(path, configuration))
    return path, [FileChange(path, f"made anew from {os.path.basename(source.path)}, with the entry")]


def _remove_entries(conf_dir: str, all_but: tuple[str, ...] = ()) -> list[FileChange]:
    paths = [path for path in networks.paths_in(conf_dir) if path not in all_but]
    return [change for path in paths for change in retry_on_conflict(partial(entries.remove_entries, path), path)]
