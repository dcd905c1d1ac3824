"""Which container runtime a node has, as far as its files show: how it chooses a network, and what it hands to plugins.

CRI-O's configuration (crio.conf(5), ``[crio.network]``) names directories and the default network; containerd's own
is queried over CRI by the node's agent, and has the usual directories otherwise: those of k3s and MicroK8s are others.
"""

from __future__ import annotations

import os
import re
from typing import Any

from capture.model.values import Value
from capture.state.files import content_of, names_in
from cni.networks import Choice, RuntimeName

BIN_DIR, CONF_DIR = "/opt/cni/bin", "/etc/cni/net.d"
CRIO_SOCKET, CRIO_CONFIGURATION = "run/crio/crio.sock", "etc/crio"
K3S, MICROK8S = "/var/lib/rancher/k3s", "/var/snap/microk8s/current"
CONTAINERDS = {
    "run/k3s/containerd/containerd.sock": (
        f"{K3S}/agent/etc/cni/net.d",
        f"{K3S}/data/cni",
        f"{K3S}/data/current/bin",  # before 1.31
    ),
    "var/snap/microk8s/common/run/containerd.sock": (f"{MICROK8S}/args/cni-network", f"{MICROK8S}/opt/cni/bin"),
    "run/containerd/containerd.sock": (CONF_DIR, BIN_DIR),
}
"""The sockets of containerd, with the directories that it has then for networks and for plugins."""
DOCKER_SHIM_SOCKET = "run/cri-dockerd.sock"
FIRST_CRIO_WITH_ANNOTATIONS = (1, 28)


class Runtime(Value):
    """What is known about a node's runtime."""

    name: RuntimeName
    evidence: str
    """The file that shows that it is this one; empty: none does."""
    network: str = ""
    """The network that its configuration names."""
    conf_dir: str = CONF_DIR
    bin_dirs: tuple[str, ...] = (BIN_DIR,)
    without_annotations: str = ""
    """Why it hands no annotations of pods to plugins; empty: it does, as far as is known."""

    def choice(self, network: str, bin_dir: str) -> Choice:
        """Return how it chooses, if plugins lie in ``bin_dir``, too."""
        by_name: RuntimeName = "libcni" if self.name == "containerd" and network else self.name
        return Choice(by_name, network or self.network, tuple(dict.fromkeys((bin_dir, *self.bin_dirs))))


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
    if os.path.isdir(os.path.join(root, CRIO_CONFIGURATION)):
        return crio(root, f"/{CRIO_CONFIGURATION}")
    return Runtime("containerd", "")


def crio(root: str = "/", evidence: str = "") -> Runtime:
    """Return CRI-O as it is configured on the node."""
    settings: dict[str, Any] = {}
    directory = os.path.join(root, CRIO_CONFIGURATION)
    fragments = [f"crio.conf.d/{name}" for name in names_in(f"{directory}/crio.conf.d")]
    for name in ("crio.conf", *fragments):  # the later ones count (crio.conf.d(5))
        settings |= _network_settings(os.path.join(directory, name))
    directories = [each for each in settings.get("plugin_dirs") or [] if isinstance(each, str) and each]
    return Runtime(
        "crio",
        evidence,
        network=str(settings.get("cni_default_network") or ""),
        conf_dir=str(settings.get("network_dir") or CONF_DIR),
        bin_dirs=tuple(directories) or (BIN_DIR,),
        without_annotations=_too_old(root),
    )


def _network_settings(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            network = tomllib.load(file).get("crio", {}).get("network", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return network if isinstance(network, dict) else {}


def _too_old(root: str) -> str:
    """Return why this CRI-O hands over no annotations, if its version file shows it (crio(8), ``version_file``)."""
    for name in ("var/run/crio/version", "run/crio/version", "var/lib/crio/version"):
        version = content_of(os.path.join(root, name)).decode("ascii", "replace")
        found = re.match(r'"?(\d+)\.(\d+)', version)
        if found and tuple(map(int, found.groups())) < FIRST_CRIO_WITH_ANNOTATIONS:
            return f"CRI-O {found[0].strip(chr(34))} hands no annotations of pods to CNI plugins; 1.28 and later do"
    return ""
