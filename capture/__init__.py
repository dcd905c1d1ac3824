"""Capture of a pod's traffic for Istio's sidecar proxy, as a library.

    from capture import apply, make_settings

    applied = apply(make_settings(proxy_port=15001, excluded_outbound_networks=["10.96.0.0/12"]), "/run/netns/pod")
    print(applied.changed, applied.decision.backend)

The names below are the interface; docs/library.md shows each at work. They are imported when they are used,
because the CNI plugin imports this package once per pod.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.errors import CaptureError, ConfigurationError
    from capture.operations import (
        apply,
        clean,
        dump,
        render,
        trace_packet,
        verify,
    )
    from capture.settings.host import PodFromInside, PodFromOutside
    from capture.settings.keywords import make_settings
    from capture.settings.settings import Settings

__all__ = [
    "CaptureError",
    "ConfigurationError",
    "PodFromInside",
    "PodFromOutside",
    "Settings",
    "apply",
    "clean",
    "dump",
    "make_settings",
    "render",
    "trace_packet",
    "verify",
]

_HOMES = {
    "CaptureError": "capture.errors",
    "ConfigurationError": "capture.errors",
    "PodFromInside": "capture.settings.host",
    "PodFromOutside": "capture.settings.host",
    "Settings": "capture.settings.options",
    "apply": "capture.operations",
    "clean": "capture.operations",
    "dump": "capture.operations",
    "make_settings": "capture.settings.keywords",
    "render": "capture.operations",
    "trace_packet": "capture.settings.keywords",
    "verify": "capture.operations",
}


def __getattr__(name: str) -> object:
    """Import a name of the interface when it is used for the first time (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'capture' has no attribute {name!r}")
    import sys

    __import__(home)
    found = globals()[name] = getattr(sys.modules[home], name)
    return found


def __dir__() -> list[str]:
    return __all__
