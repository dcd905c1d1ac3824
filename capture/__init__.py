"""Capture of a pod's traffic for Istio's sidecar proxy, as a library.

    from capture import apply, make_settings

    applied = apply(make_settings(proxy_port=15001, excluded_outbound_networks=["10.96.0.0/12"]), "/run/netns/pod")
    print(applied)

The names below are the interface; docs/library.md shows each function at work. They are imported when they are used,
because the CNI plugin imports this package once per pod.
"""

from __future__ import annotations

__version__ = "0.1.0"
"""The version of everything here: of the package, whose metadata has it from this line, and of each program."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.compare import Difference
    from capture.analysis.trace import Step, Trace
    from capture.errors import (
        CaptureError,
        ConfigurationError,
        HostNamespaceError,
        KernelError,
        NamespaceError,
        PrivilegeError,
        ToolError,
        UnsupportedError,
        ValidationError,
    )
    from capture.model.location import Cause
    from capture.model.packet import Packet
    from capture.model.ruleset import Ruleset
    from capture.operations import (
        Applied,
        Diagnosis,
        Dumped,
        LiveSet,
        Verified,
        apply,
        captured_connections,
        clean,
        dump,
        render,
        trace_packet,
        verify,
        why,
    )
    from capture.settings.keywords import make_settings
    from capture.settings.settings import Settings
    from capture.system.pod_host import PodFromInside, PodFromOutside

_HOMES = {
    "capture.analysis.compare": ("Difference",),
    "capture.analysis.trace": ("Step", "Trace"),
    "capture.errors": (
        "CaptureError", "ConfigurationError", "HostNamespaceError", "KernelError", "NamespaceError", "PrivilegeError",
        "ToolError", "UnsupportedError", "ValidationError",
    ),
    "capture.model.location": ("Cause",),
    "capture.model.packet": ("Packet",),
    "capture.model.ruleset": ("Ruleset",),
    "capture.operations": (
        "Applied", "Diagnosis", "Dumped", "LiveSet", "Verified", "apply", "captured_connections", "clean", "dump",
        "render", "trace_packet", "verify", "why",
    ),
    "capture.system.pod_host": ("PodFromInside", "PodFromOutside"),
    "capture.settings.keywords": ("make_settings",),
    "capture.settings.settings": ("Settings",),
}  # fmt: skip
"""The interface: where each name is defined."""

__all__ = [
    "Applied", "CaptureError", "Cause", "ConfigurationError", "Diagnosis", "Difference", "Dumped", "HostNamespaceError",
    "KernelError", "LiveSet", "NamespaceError", "Packet", "PodFromInside", "PodFromOutside", "PrivilegeError",
    "Ruleset", "Settings", "Step", "ToolError", "Trace", "UnsupportedError", "ValidationError", "Verified", "apply",
    "captured_connections", "clean", "dump", "make_settings", "render", "trace_packet", "verify", "why",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a name of the interface when it is used for the first time (PEP 562)."""
    from capture.lazy import import_name

    return import_name(globals(), _HOMES, name)


def __dir__() -> list[str]:
    return __all__
