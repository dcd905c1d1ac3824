"""The files of a configuration directory, and which of them a container runtime takes.

All runtimes read the files that end with .conflist, .conf and .json, by name, byte by byte (``ConfFiles`` in libcni).
Then they differ:

=============  =====================================================================================================
containerd     the first file. If that cannot be loaded, the node has no network (``loadFromConfDir`` in go-cni).
CRI-O          the first that can be loaded and whose plugins are all there; others are skipped. With
               ``cni_default_network`` the first of that name (``loadNetworks`` in ocicni).
libcni         who names a network (nerdctl, cnitool) gets the first list of that name, or else the first single
               plugin of that name (``LoadNetworkConf``).
=============  =====================================================================================================
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from capture.model.json_text import JsonError, decode_json
from capture.model.values import Value
from cni import atomic_files
from cni.atomic_files import Snapshot
from cni.install_error import InstallError, unexpected
from cni.protocol import version_number

RuntimeName = Literal["containerd", "crio", "libcni"]

PLUGIN = "capture-cni"
"""The type of the entry, and therefore (SPEC, "Network configuration format") the name of the executable."""

OWN_CONFIG_MARK = "own_config"
READ_BY_RUNTIMES = (".conflist", ".conf", ".json")

HALF_WRITTEN_TIMEOUT = 1.0
"""Seconds to wait for a file to become JSON: some programs write in place."""


class ConfigurationFile(Value):
    """A file that runtimes read, and the network configuration in it."""

    path: str
    file: Snapshot
    """What ``path`` names; if that is a symbolic link, the file that it leads to."""
    configuration: dict[str, Any]

    @property
    def is_list(self) -> bool:
        """Return whether the file holds a list of plugins; the other kinds hold a single one."""
        return _is_list(self.path)

    @property
    def name(self) -> str:
        """Return the name of the network; CRI-O takes the file's where there is none."""
        return str(self.configuration.get("name") or os.path.basename(self.path))

    @property
    def plugins(self) -> list[dict[str, Any]]:
        return self.configuration["plugins"] if self.is_list else [self.configuration]

    @property
    def version(self) -> str:
        """Return the version in which plugins are called: the newest of several (``ConfListFromBytes`` in libcni)."""
        versions_named = self.configuration.get("cniVersions")
        versions = [*versions_named] if self.is_list and isinstance(versions_named, list) else []
        known = [version for version in (*versions, self.configuration.get("cniVersion")) if isinstance(version, str)]
        return max(known, key=version_number, default="")

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [plugin for plugin in self.plugins if plugin.get("type") == PLUGIN]

    @property
    def is_our_own(self) -> bool:
        """Return whether the file is one that ``install`` made with ``own_config``."""
        return any(entry.get(OWN_CONFIG_MARK) is True for entry in self.entries)


class ListChoice(Value):
    """How a network is chosen: by which runtime's rules, and which name was given."""

    runtime: RuntimeName = "containerd"
    network: str = ""
    bin_dirs: tuple[str, ...] = ()
    """Where the plugins are; CRI-O takes no list of which one is missing. Empty: unknown."""


FIRST_BY_NAME = ListChoice()
"""As containerd chooses."""


class Candidate(Value):
    """A file that runtimes read: the network in it, or why there is none."""

    path: str
    network: ConfigurationFile | None
    problem: str = ""


class Chosen(Value):
    """The file that a runtime takes, if it takes any, and what it makes of each."""

    taken: Candidate | None
    reasons: tuple[tuple[str, str], ...]
    """Path and verdict, in the order in which they are read."""


def _is_list(path: str) -> bool:
    return path.endswith(".conflist")


def read_networks(conf_dir: str) -> Iterator[ConfigurationFile]:
    """Yield what runtimes read, in the order in which they do."""
    for path in paths_in(conf_dir):
        yield read_network(path)


def paths_in(conf_dir: str) -> list[str]:
    """Return the files that runtimes read, in the order in which they do."""
    names = sorted(os.listdir(conf_dir), key=os.fsencode)
    paths = [os.path.join(conf_dir, name) for name in names if name.endswith(READ_BY_RUNTIMES)]
    return [path for path in paths if not os.path.isdir(path)]


def read_network(path: str, timeout: float | None = None) -> ConfigurationFile:
    """Return the network in a file, waiting a moment if another program seems to be writing it.

    Raises InstallError, or OSError.
    """
    if os.path.islink(path) and not os.path.exists(path):
        raise unexpected(path, "a file; it is a symbolic link to nothing")
    deadline = time.monotonic() + (HALF_WRITTEN_TIMEOUT if timeout is None else timeout)
    while True:
        file = atomic_files.snapshot(os.path.realpath(path) if _is_list(path) else path)
        try:
            return ConfigurationFile(path, file, _checked_list(path, decode_json(file.content.decode())))
        except (JsonError, UnicodeDecodeError) as wrong:
            if time.monotonic() > deadline:
                expected = "a network configuration, but it is empty" if not file.content.strip() else f"JSON: {wrong}"
                raise unexpected(path, expected) from None
            time.sleep(0.02)


def _checked_list(path: str, configuration: object) -> dict[str, Any]:
    if not isinstance(configuration, dict):
        raise unexpected(path, "an object")
    if not _is_list(path):
        if not isinstance(configuration.get("type"), str):
            raise unexpected(path, "a plugin with a 'type'; a list of plugins belongs in a file ending with .conflist")
        return configuration
    plugins = configuration.get("plugins")
    if not isinstance(plugins, list) or not plugins or not all(isinstance(plugin, dict) for plugin in plugins):
        raise unexpected(path, "'plugins', a list of objects")
    if not all(isinstance(plugin.get("type"), str) and plugin["type"] for plugin in plugins):
        raise unexpected(path, "a 'type' in each of 'plugins'")
    if not isinstance(configuration.get("name"), str):
        raise unexpected(path, "a 'name' of the network")
    return configuration


def read_candidates(conf_dir: str, timeout: float | None = None) -> list[Candidate]:
    """Return the files that runtimes read, with what is in them."""
    return [_read_candidate(path, timeout) for path in paths_in(conf_dir)]


def _read_candidate(path: str, timeout: float | None) -> Candidate:
    try:
        return Candidate(path, read_network(path, timeout))
    except InstallError as error:
        return Candidate(path, None, error.problem)
    except OSError as error:
        return Candidate(path, None, error.strerror or str(error))


def choose_network(candidates: Sequence[Candidate], choice: ListChoice) -> Chosen:
    """Return the file that a runtime takes; pure but for looking whether plugins are there."""
    if choice.runtime == "containerd" and not choice.network:
        return _choose_as_containerd(candidates)
    skipped = {candidate.path: _why_skipped(candidate, choice) for candidate in candidates}
    in_order = sorted(candidates, key=lambda candidate: choice.runtime != "crio" and not _is_list(candidate.path))
    taken = next((candidate for candidate in in_order if not skipped[candidate.path]), None)
    reasons = {
        path: f"skipped: {reason}" if reason else "not taken: another one comes before it"
        for path, reason in skipped.items()
    }
    if taken is not None:
        rank = f"the first of the name {choice.network}" if choice.network else "the first usable"
        reasons[taken.path] = f"taken: {rank}"
    return Chosen(taken, tuple(reasons.items()))


def _choose_as_containerd(candidates: Sequence[Candidate]) -> Chosen:
    if not candidates:
        return Chosen(None, ())
    first, *others = candidates
    verdict = f"{first.problem}; the node has no network" if first.problem else "taken: it sorts first"
    rest = [(other.path, "not read: only the file that sorts first is") for other in others]
    return Chosen(None if first.problem else first, ((first.path, verdict), *rest))


def _why_skipped(candidate: Candidate, choice: ListChoice) -> str:
    network = candidate.network
    if network is None:
        return candidate.problem
    if choice.runtime == "crio" and (missing := missing_plugins(network, choice.bin_dirs)):
        return f"the plugin {', '.join(missing)} is missing in {', '.join(choice.bin_dirs)}"
    if choice.network and network.name != choice.network:
        return f"its name is {network.name}, not {choice.network}"
    return ""


def missing_plugins(network: ConfigurationFile, bin_dirs: tuple[str, ...]) -> list[str]:
    """Return the types of the network's plugins that are in none of these directories."""
    types = [str(plugin.get("type")) for plugin in network.plugins]
    present = {name for name in types for directory in bin_dirs if os.path.isfile(os.path.join(directory, name))}
    return [name for name in types if bin_dirs and name not in present]
