"""The plugin after its uninstallation: it ends the pods that were started with it, then goes by itself.

CRI-O remembers the network configuration that a pod was started with, and calls every plugin of it when the pod ends
(libcni keeps it under /var/lib/cni/results). Without the plugin such a pod stays in Terminating for ever, also one
outside the mesh. containerd ends pods with the configuration that it has loaded by then. So the entry goes at once, and
the plugin with the last pod that remembers it.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

REMOVAL_FILE = "/run/istio-capture/leaving"
"""A file that holds the plugin's directory; it is there from the uninstallation until the plugin is gone."""
RESULTS = "/var/lib/cni/results"
"""The directory in which libcni keeps its calls (``CacheDir``): JSON with ``containerId``, and ``config`` in base64."""

LAST_POD_TIMEOUT, PAUSE = 20.0, 0.2
"""Seconds for a runtime to end a pod after it has called the plugin; the next pod that ends has as many again."""


def schedule_removal(bin_dir: str, removal_file: str = REMOVAL_FILE, results: str = RESULTS) -> list[str]:
    """Remove the plugin if libcni's results name no pod that remembers it, else later; return what was removed."""
    if any(_containers_with_plugin(results)) or not os.path.isdir(results):
        os.makedirs(os.path.dirname(removal_file), mode=0o700, exist_ok=True)
        with open(removal_file, "w", encoding="utf-8") as file:
            file.write(bin_dir)
        return []
    return _remove(bin_dir, removal_file)


def cancel_removal(removal_file: str = REMOVAL_FILE) -> None:
    """Take an uninstallation back: the plugin is installed again."""
    try:
        os.unlink(removal_file)
    except FileNotFoundError:
        pass


def on_container_end(removal_file: str = REMOVAL_FILE, results: str = RESULTS) -> None:
    """Note that a container ends: if the plugin is uninstalled, it goes once no pod remembers it any more.

    libcni forgets a pod after all plugins have been called, and several pods may end at once: so a process of its own
    waits for that, while the runtime goes on.
    """
    if not os.path.exists(removal_file) or os.fork():
        return
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # the runtime reads to the end of what the plugin prints
            os.dup2(nowhere, descriptor)
        remove_when_unused(removal_file, results)
    finally:
        os._exit(0)


def remove_when_unused(
    removal_file: str = REMOVAL_FILE, results: str = RESULTS, timeout: float = LAST_POD_TIMEOUT
) -> bool:
    """Remove the plugin when no pod remembers it; return whether that came within ``timeout`` seconds."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        if not any(_containers_with_plugin(results)):
            try:
                with open(removal_file, encoding="utf-8") as file:
                    _remove(file.read(), removal_file)
            except FileNotFoundError:  # it was installed again, or another one was quicker
                return False
            return True
        time.sleep(PAUSE)
    return False


def _remove(bin_dir: str, removal_file: str) -> list[str]:
    from cni.plugin_files import remove_plugin

    cancel_removal(removal_file)
    return [change.path for change in remove_plugin(bin_dir)]


def _containers_with_plugin(results: str) -> Iterator[str]:
    """Yield the containers whose configuration names the plugin, as libcni remembers them."""
    from binascii import a2b_base64

    from capture.model.json_text import JsonError, decode_json
    from capture.system.files import content_of, names_in

    for name in names_in(results):
        try:
            result = decode_json(content_of(os.path.join(results, name)).decode())
            if b'"capture-cni"' in a2b_base64(result["config"]):
                yield str(result["containerId"])
        except (ValueError, JsonError, KeyError, TypeError):
            continue  # another program's file, or one that has just gone
