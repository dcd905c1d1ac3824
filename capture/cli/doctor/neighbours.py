"""Other programs that capture pods on this node: their entries in the network configuration lists.

Two programs that write rules for the same pods undo each other's work, at each change anew.
"""

from __future__ import annotations

import os

from capture.state.input import InputError, read_input
from capture.state.json_text import JsonError, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATIONS = (
    "/etc/cni/net.d",
    "/etc/cni/multus/net.d",
    "/var/lib/rancher/k3s/agent/etc/cni/net.d",
    "/var/snap/microk8s/current/args/cni-network",
)
ISTIO, OWN = "istio-cni", "capture-cni"
MAX_BYTES = 1024 * 1024


BOTH_REMEDY = (
    "Keep one: uninstall Istio's DaemonSet istio-cni-node, or run `capture cni uninstall`."
    " A taint cni.istio.io/not-ready that it left keeps pods from the node."
)


def both_capture(plugins: dict[str, str]) -> str:
    """Return in words that Istio's plugin captures pods in addition to ours; "" if it does not."""
    if ISTIO not in plugins or OWN not in plugins:
        return ""
    return f"Istio's plugin {ISTIO} is in {plugins[ISTIO]}, and {OWN} in {plugins[OWN]}: both write rules for each pod"


def capturing_plugins(directories: tuple[str, ...] = CONFIGURATIONS) -> dict[str, str]:
    """Return which of Istio's plugin and ours are in the network configuration of this node, each with one file."""
    found: dict[str, str] = {}
    for path in _files(directories):
        for kind in _types(path):
            if kind in (ISTIO, OWN):
                found.setdefault(kind, path)
    return found


def _files(directories: tuple[str, ...]) -> Iterator[str]:
    """Yield the files that a runtime reads: others, such as backups, count for nothing."""
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        yield from (f"{directory}/{name}" for name in names if name.endswith((".conflist", ".conf", ".json")))


def _types(path: str) -> Iterator[str]:
    try:
        plain = decode(read_input(path, MAX_BYTES, patience=0))
    except (InputError, JsonError):  # what no runtime can read, either
        return
    if not isinstance(plain, dict):
        return
    plugins = plain.get("plugins")
    for entry in plugins if isinstance(plugins, list) else [plain]:
        if isinstance(entry, dict) and isinstance(entry.get("type"), str):
            yield entry["type"]
