"""Reads an entry of Istio's own plugin, so that our entry can replace it and keep what was configured there.

Two programs that write rules for the same pods undo each other's work, at each change anew.

Sources: ``Config`` in cni/pkg/plugin/plugin.go of istio/istio, today's and, for the ``kubernetes`` object, that of
1.24 and before; cni/pkg/constants for the name of the kubeconfig.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from capture.model.values import Value
from capture.report.terminal import Finding
from cni.log import LEVEL_NUMBERS
from cni.networks import PLUGIN, ConfigurationFile, read_candidates
from cni.runtimes import CONF_DIR, CONTAINERDS

ISTIO_CNI = "istio-cni"
ISTIO_KUBECONFIG = "istio-cni-kubeconfig"
LEVEL_OF_ISTIO_LEVEL = {**{level: level for level in LEVEL_NUMBERS}, "fatal": "error", "none": "error"}


class IstioEntry(Value):
    """The configuration of an entry of Istio's plugin, by the names of our keys."""

    entry: dict[str, Any]
    warnings: tuple[str, ...] = ()
    """What a person should know about the change."""
    must_stay: bool = False
    """Whether Istio's plugin also handles ambient pods, and must stay."""


NO_ENTRY = IstioEntry({})


def read_entry(network: ConfigurationFile) -> IstioEntry:
    """Return the entry of Istio's plugin in the list, or ``NO_ENTRY``."""
    plugin = next((plugin for plugin in network.plugins if plugin.get("type") == ISTIO_CNI), None)
    if plugin is None:
        return NO_ENTRY
    kubernetes = plugin.get("kubernetes")
    older: dict[str, Any] = kubernetes if isinstance(kubernetes, dict) else {}
    entry: dict[str, Any] = {}
    kubeconfig = _kubeconfig_path(plugin, older)
    if kubeconfig:
        entry["kubeconfig"] = kubeconfig
    namespaces = plugin.get("exclude_namespaces") or older.get("exclude_namespaces")
    if isinstance(namespaces, list) and namespaces:
        entry["exclude_namespaces"] = [str(each) for each in namespaces]
    level = str(plugin.get("plugin_log_level") or plugin.get("log_level") or "").rpartition(":")[2].lower()
    if level in LEVEL_OF_ISTIO_LEVEL:
        entry["log_level"] = LEVEL_OF_ISTIO_LEVEL[level]
    if plugin.get("native_nftables") is True:
        entry["backend"] = "nftables"
    return IstioEntry(entry, tuple(_lost_settings(plugin)), must_stay=plugin.get("ambient_enabled") is True)


def replaced_entry(network: ConfigurationFile, original: ConfigurationFile) -> IstioEntry:
    """Return the entry of Istio's plugin that our own has replaced, so that a second run keeps what the first one did.

    Istio's uninstallation removes its kubeconfig: what was made from it remains.
    """
    entry = read_entry(original).entry
    if "kubeconfig" in entry and not os.path.exists(entry["kubeconfig"]):
        entry["kubeconfig"] = network.entries[0].get("kubeconfig", "")
    return IstioEntry(entry)


def _kubeconfig_path(plugin: dict[str, Any], older: dict[str, Any]) -> str:
    named = older.get("kubeconfig") or plugin.get("kubeconfig")
    if isinstance(named, str) and named:
        return named
    folder = plugin.get("cni_agent_run_dir")
    usual = os.path.join(folder, ISTIO_KUBECONFIG) if isinstance(folder, str) and folder else ""
    return usual if usual and os.path.exists(usual) else ""


def _lost_settings(plugin: dict[str, Any]) -> list[str]:
    if plugin.get("ambient_enabled") is True:
        return [f"{ISTIO_CNI} stays in the list: it handles ambient pods, too (ambient_enabled), which we leave alone"]
    return [
        f"{ISTIO_CNI} leaves the list; remove its DaemonSet (or set cni.enabled=false), or it will put its entry back",
        "its kubeconfig is renewed by its DaemonSet only: give us a tokenFile that something else renews",
    ]


CONFIGURATIONS = (CONF_DIR, "/etc/cni/multus/net.d", *dict.fromkeys(folder for folder, *_ in CONTAINERDS.values()))
"""Where runtimes read networks, and Multus those that it delegates to."""


def rival_finding(directories: Iterable[str] = CONFIGURATIONS) -> Finding | None:
    """Return that Istio's plugin captures pods of this node: a warning if our own does, too; None if it does not."""
    rivals: dict[str, str] = {}
    for directory in filter(os.path.isdir, dict.fromkeys(directories)):
        for candidate in read_candidates(directory, timeout=0):
            for plugin in candidate.network.plugins if candidate.network else ():
                rivals.setdefault(str(plugin.get("type")), candidate.path)
    if ISTIO_CNI not in rivals:
        return None
    if PLUGIN not in rivals:
        message = f"Istio's plugin {ISTIO_CNI} is in {rivals[ISTIO_CNI]}: it captures the pods of this node"
        return Finding("host", ISTIO_CNI, "note", message)
    places = f"{ISTIO_CNI} is in {rivals[ISTIO_CNI]}, and {PLUGIN} in {rivals[PLUGIN]}"
    message = f"Istio's plugin {places}: both write rules for pods"
    remedy = "Keep one: uninstall Istio's DaemonSet istio-cni-node, or run `capture cni uninstall`."
    taint = "A taint cni.istio.io/not-ready that it left keeps pods from the node."
    return Finding("host", ISTIO_CNI, "warning", message, f"{remedy} {taint}")
