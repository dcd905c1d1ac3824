"""Which program rewrote the network configuration, as far as that can be told afterwards.

The kernel does not record who wrote a file. A process that has the directory or a file in it open is the best answer;
else the type of the list's first plugin names the network that it belongs to.
"""

from __future__ import annotations

import os

from capture.errors import CaptureError
from cni import install as installer

UNKNOWN = "an unknown program"


def name(conf_dir: str) -> str:
    """Return the program's name, or what its list says about it."""
    return _process_with_files_in(conf_dir) or _owner_of_list(conf_dir) or UNKNOWN


def _owner_of_list(conf_dir: str) -> str:
    try:
        network = next((each for each in installer.networks(conf_dir) if not each.is_our_own), None)
    except (CaptureError, OSError):
        return ""
    if network is None:
        return ""
    return f"the owner of {os.path.basename(network.path)} (plugin {network.plugins[0].get('type', '?')})"


def _process_with_files_in(conf_dir: str) -> str:
    own = str(os.getpid())
    for process in filter(str.isdecimal, os.listdir("/proc")):
        if process != own and _has_open(process, conf_dir):
            try:
                with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
                    return f"{file.read().strip()} (process {process})"
            except OSError:
                continue
    return ""


def _has_open(process: str, conf_dir: str) -> bool:
    folder = f"/proc/{process}/fd"
    try:
        return any(_target(f"{folder}/{each}").startswith(f"{conf_dir}/") for each in os.listdir(folder))
    except OSError:
        return False


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
