"""Which program rewrote the network configuration.

The kernel names the process that wrote, where it is in sight (``writers``). Else the type of the list's first plugin
names the network that the list belongs to.
"""

from __future__ import annotations

import os

from capture.errors import CaptureError
from cni import install as installer
from cni.agent.writers import Writers

UNKNOWN = "an unknown program"


def name(conf_dir: str, writers: Writers) -> str:
    """Return the program's name, or how its list names it."""
    named = (_command(process) for process in reversed(writers.since()))
    return next(filter(None, named), "") or _owner_of_list(conf_dir) or UNKNOWN


def _command(process: int) -> str:
    """Return what a process is called (proc(5)); "" if it has ended."""
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _owner_of_list(conf_dir: str) -> str:
    try:
        network = next((each for each in installer.networks(conf_dir) if not each.is_our_own), None)
    except (CaptureError, OSError):
        return ""
    if network is None:
        return ""
    return f"the owner of {os.path.basename(network.path)} (plugin {network.plugins[0].get('type', '?')})"
