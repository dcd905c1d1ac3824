"""The log of one call of the plugin, as its network configuration names it."""

from __future__ import annotations

from cni import keys
from cni.log import LEVELS, Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.protocol import Request


def log_of(request: Request) -> Log:
    """Return the log for a request; its lines name the command and the pod. Raises ``CniError``."""
    return Log(
        log_file(request.configuration),
        log_level(request.configuration),
        about={
            "command": request.command,
            "namespace": request.arguments.get("K8S_POD_NAMESPACE", ""),
            "pod": request.arguments.get("K8S_POD_NAME", ""),
            "container": request.container_id,
            "interface": request.interface,
        },
    )


def log_file(configuration: Mapping[str, Any]) -> str:
    """Return the path of the log; a device could be standard output, which belongs to the protocol."""
    path = keys.path(configuration, "log_file")
    if path.startswith(("/dev/", "/proc/", "/sys/")):
        raise keys.unusable("log_file", path, "a file, no device: standard output belongs to the CNI protocol")
    return path


def log_level(configuration: Mapping[str, Any]) -> str:
    """Return the least level that is logged."""
    return keys.word(configuration, "log_level", tuple(LEVELS), "info")
