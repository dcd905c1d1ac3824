"""The container runtime of a node, as far as its files show: how it chooses a network, what it hands to plugins.

CRI-O's configuration (crio.conf(5), ``[crio.network]``) names directories and the default network, containerd's
(containerd-config.toml(5), and docs/cri/config.md there) the directories; k3s and MicroK8s have their own.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Any

from capture.model.values import Value
from capture.system.files import content_of, names_in
from cni.networks import ListChoice, RuntimeName

BIN_DIR, CONF_DIR = "/opt/cni/bin", "/etc/cni/net.d"
CONTAINERD_CONFIGURATION = "etc/containerd/config.toml"
CRI_PLUGINS = ("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
"""The section of plugins that has CNI's directories in versions 1, 2 and 3 of that file."""
CRIO_SOCKET, CRIO_CONFIGURATION = "run/crio/crio.sock", "etc/crio"
K3S, MICROK8S = "/var/lib/rancher/k3s", "/var/snap/microk8s/current"
CONTAINERDS = {
    "run/k3s/containerd/containerd.sock": (
        f"{K3S}/agent/etc/cni/net.d",
        f"{K3S}/data/cni",
        f"{K3S}/data/current/bin",  # before 1.31
    ),
    "var/snap/microk8s/common/run/containerd.sock": (f"{MICROK8S}/args/cni-network", f"{MICROK8S}/opt/cni/bin"),
}
"""Sockets of containerds that other products bring, each with its directories for networks and for plugins."""
CONTAINERD_SOCKET = "run/containerd/containerd.sock"
DOCKER_SHIM_SOCKET = "run/cri-dockerd.sock"
FIRST_CRIO_WITH_ANNOTATIONS = (1, 28)


class Runtime(Value):
    """The facts about a node's runtime."""

    name: RuntimeName
    evidence: str
    """The file or the flag that shows that it is this one; empty: nothing does."""
    network: str = ""
    """The network that its configuration names."""
    conf_dir: str = CONF_DIR
    bin_dirs: tuple[str, ...] = (BIN_DIR,)
    without_annotations: str = ""
    """Why it hands no annotations of pods to plugins; empty: it does, as far as is known."""

    def looks_in(self, bin_dir: str) -> bool:
        """Return whether the directory is one in which it looks for plugins, as far as is known."""
        return os.path.normpath(bin_dir) in map(os.path.normpath, self.bin_dirs)

    def choice(self, network: str, bin_dir: str) -> ListChoice:
        """Return how it chooses, if plugins lie in ``bin_dir``, too."""
        by_name: RuntimeName = "libcni" if self.name == "containerd" and network else self.name
        return ListChoice(by_name, network or self.network, tuple(dict.fromkeys((bin_dir, *self.bin_dirs))))


def detect(root: str = "/") -> Runtime:
    """Return the runtime of the node whose files are under ``root``; without evidence, one like containerd."""
    if os.path.exists(os.path.join(root, DOCKER_SHIM_SOCKET)):
        why = "cri-dockerd hands no annotations of pods to CNI plugins"
        return Runtime("containerd", f"/{DOCKER_SHIM_SOCKET}", without_annotations=why)
    if os.path.exists(os.path.join(root, CRIO_SOCKET)):
        return crio(root, f"/{CRIO_SOCKET}")
    for socket, (conf_dir, *bin_dirs) in CONTAINERDS.items():
        if os.path.exists(os.path.join(root, socket)):
            return Runtime("containerd", f"/{socket}", conf_dir=conf_dir, bin_dirs=tuple(bin_dirs))
    if os.path.exists(os.path.join(root, CONTAINERD_SOCKET)):
        return containerd(root, f"/{CONTAINERD_SOCKET}")
    if os.path.isdir(os.path.join(root, CRIO_CONFIGURATION)):
        return crio(root, f"/{CRIO_CONFIGURATION}")
    return containerd(root)


def containerd(root: str = "/", evidence: str = "") -> Runtime:
    """Return containerd as it is configured on the node; the evidence is that configuration if there is no other."""
    path = os.path.join(root, CONTAINERD_CONFIGURATION)
    configurations = [_read_toml(path)]
    for pattern in _text_list(configurations[0].get("imports")):
        imported = os.path.join(root, os.path.dirname(CONTAINERD_CONFIGURATION), pattern)
        if os.path.isabs(pattern):
            imported = os.path.join(root, pattern.lstrip("/"))
        configurations += map(_read_toml, sorted(glob.glob(imported)))
    settings: dict[str, Any] = {}
    for configuration in configurations:
        for plugin in CRI_PLUGINS:
            settings |= _toml_section(configuration, "plugins", plugin, "cni")
    return Runtime(
        "containerd",
        evidence or (f"/{CONTAINERD_CONFIGURATION}" if settings else ""),
        conf_dir=str(settings.get("conf_dir") or CONF_DIR),
        bin_dirs=tuple(_text_list(settings.get("bin_dirs")) or _text_list([settings.get("bin_dir")])) or (BIN_DIR,),
    )


def crio(root: str = "/", evidence: str = "") -> Runtime:
    """Return CRI-O as it is configured on the node."""
    settings: dict[str, Any] = {}
    directory = os.path.join(root, CRIO_CONFIGURATION)
    fragments = [f"crio.conf.d/{name}" for name in names_in(f"{directory}/crio.conf.d")]
    for name in ("crio.conf", *fragments):  # the later ones count (crio.conf.d(5))
        settings |= _toml_section(_read_toml(os.path.join(directory, name)), "crio", "network")
    return Runtime(
        "crio",
        evidence,
        network=str(settings.get("cni_default_network") or ""),
        conf_dir=str(settings.get("network_dir") or CONF_DIR),
        bin_dirs=tuple(_text_list(settings.get("plugin_dirs"))) or (BIN_DIR,),
        without_annotations=_too_old(root),
    )


def _read_toml(path: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(content_of(path).decode())
    except ValueError:
        return {}


def _toml_section(configuration: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        section = configuration.get(name)
        configuration = section if isinstance(section, dict) else {}
    return configuration


def _text_list(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str) and value] if isinstance(values, list) else []


def _too_old(root: str) -> str:
    """Return why this CRI-O hands over no annotations, if its version file shows it (crio(8), ``version_file``)."""
    for name in ("var/run/crio/version", "run/crio/version", "var/lib/crio/version"):
        version = content_of(os.path.join(root, name)).decode("ascii", "replace")
        numbers = re.match(r'"?(\d+)\.(\d+)', version)
        if numbers and tuple(map(int, numbers.groups())) < FIRST_CRIO_WITH_ANNOTATIONS:
            return f"CRI-O {numbers[0].strip(chr(34))} hands no annotations of pods to CNI plugins; 1.28 and later do"
    return ""
