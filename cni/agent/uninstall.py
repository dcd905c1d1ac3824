"""Removes all that the agent has put on a node; pods that run stay captured and can be ended."""

from __future__ import annotations

import os
import time

from capture.errors import CaptureError
from cni import deferred_removal
from cni import install as installer
from cni.agent import credentials
from cni.http_response import NOT_FOUND
from cni.networks import PLUGIN
from cni.plugin_files import remove_plugin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lightkube import Client

    from cni.agent.options import Options
    from cni.agent.runtime import RuntimeClient

PODS_TIMEOUT = 240.0
UNLOAD_TIMEOUT = 10.0
"""Seconds for a runtime to load the network configuration without the plugin."""
CALLS_END_SECONDS = 2.0
"""Seconds for calls that had begun before."""
LOOK_AT_PODS = "Look at its pods; a node that is gone for good holds its pod: delete that with --force."


def uninstall(
    options: Options, runtime: RuntimeClient | None = None, is_replaced: Callable[[], bool] = lambda: False
) -> list[str]:
    """Remove entry and credentials at once, and the plugin when nothing calls it any more; return what has changed.

    containerd ends pods with the configuration that it has loaded, so the plugin goes as soon as that is without it.
    Runtimes that do not report what they have loaded (CRI-O) end a pod with the one that it was started with: the
    plugin goes with the last such pod. It stays if another agent acts on this node now (``is_replaced``). Raises
    InstallError and OSError.
    """
    changes = [str(change) for change in installer.uninstall(options.bin_dir, options.conf_dir, keep_plugin=True)]
    changes += [f"{path}: removed" for path in credentials.remove(options)]
    if not os.path.lexists(os.path.join(options.bin_dir, PLUGIN)):
        return changes
    is_unloaded = runtime is not None and _is_unloaded(runtime, is_replaced)
    if is_unloaded:
        time.sleep(CALLS_END_SECONDS)
    if is_replaced():
        return [*changes, f"{options.bin_dir}/{PLUGIN}: stays, since another agent has come to this node"]
    if is_unloaded:
        return changes + [str(change) for change in remove_plugin(options.bin_dir)]
    removed = deferred_removal.schedule_removal(options.bin_dir)
    changes += [f"{path}: removed" for path in removed]
    if not removed:
        changes.append(f"{options.bin_dir}/{PLUGIN}: stays until the last pod that was started with it ends")
    return changes


def _is_unloaded(runtime: RuntimeClient, is_replaced: Callable[[], bool]) -> bool:
    """Wait until the runtime has loaded a configuration without the plugin; return False if it does not report that."""
    until = time.monotonic() + UNLOAD_TIMEOUT
    while time.monotonic() < until and not is_replaced():
        try:
            loaded = runtime.loaded()
        except OSError:
            return False
        if loaded is None:
            return False
        if PLUGIN not in loaded.plugins:
            return True
        time.sleep(0.2)
    return False


def uninstall_from_all_nodes(client: Client, daemon_set: str, timeout: float = PODS_TIMEOUT) -> None:
    """Delete the agents' DaemonSet, whose agents then uninstall, and wait until the last of them has ended.

    Foreground deletion: the DaemonSet is there, marked as deleted, for as long as one of its pods is.
    Raises CaptureError.
    """
    from lightkube.types import CascadeType

    from cni.agent import api

    namespace, _, name = daemon_set.partition("/")
    until = time.monotonic() + timeout
    try:
        client.delete(api.DaemonSet, name, namespace=namespace, cascade=CascadeType.FOREGROUND)
        while time.monotonic() < until:
            client.get(api.DaemonSet, name, namespace=namespace)
            time.sleep(1)
    except api.API_ERRORS as error:
        if api.http_status(error) == NOT_FOUND:
            return
        raise CaptureError(f"DaemonSet {daemon_set}: {api.error_text(error)}", LOOK_AT_PODS) from None
    raise CaptureError(
        f"DaemonSet {daemon_set} is still there after {timeout:g} s: its pods have not ended", LOOK_AT_PODS
    )


def is_gone(client: Client, daemon_set: str, node: str) -> bool:
    """Return whether the agent's DaemonSet has been deleted, is about to be, or does not choose this node any more.

    In doubt it is not: an API server that does not answer, or refuses since the account went first, proves nothing.
    """
    from cni.agent import api

    namespace, _, name = daemon_set.partition("/")
    try:
        daemon_set_object = client.get(api.DaemonSet, name, namespace=namespace)
    except api.API_ERRORS as error:
        return api.http_status(error) == NOT_FOUND
    if (daemon_set_object.get("metadata") or {}).get("deletionTimestamp"):
        return True
    template = (daemon_set_object.get("spec") or {}).get("template") or {}
    chosen = (template.get("spec") or {}).get("nodeSelector") or {}
    try:
        labels = api.node_labels(client, node) if chosen else {}
    except api.API_ERRORS:
        return False
    return any(labels.get(key) != value for key, value in chosen.items())
