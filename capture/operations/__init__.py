"""The verbs, such as apply, verify and trace. Init container, plugin and command line call these.

Each enters the namespace that it is given, and comes back. A verb is imported when it is used for the first time:
the CNI plugin, which starts once per pod, needs one of them, and takes it from its module.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.operations.applying import Applied, apply, captured_connections, clean, cut_by_cleaning
    from capture.operations.arguments import host_of, request_of
    from capture.operations.comparison import Reference, dump, read_reference, verify
    from capture.operations.diagnosis import Diagnosis, check_proxy, why
    from capture.operations.rendering import render
    from capture.operations.results import Dumped, LiveSet, SecondSet, Verified
    from capture.operations.tracing import impediments_of, situation_of, trace, trace_packet

HOMES = {
    "capture.operations.applying": ("Applied", "apply", "captured_connections", "clean", "cut_by_cleaning"),
    "capture.operations.comparison": ("Reference", "dump", "read_reference", "verify"),
    "capture.operations.diagnosis": ("Diagnosis", "check_proxy", "why"),
    "capture.operations.rendering": ("render",),
    "capture.operations.results": ("Dumped", "LiveSet", "SecondSet", "Verified"),
    "capture.operations.arguments": ("host_of", "request_of"),
    "capture.operations.tracing": ("impediments_of", "situation_of", "trace", "trace_packet"),
}
"""Where each name is defined."""

__all__ = [
    "Applied", "Diagnosis", "Dumped", "LiveSet", "Reference", "SecondSet", "Verified", "apply",
    "captured_connections", "check_proxy", "clean", "cut_by_cleaning", "dump", "host_of", "impediments_of",
    "read_reference", "render", "request_of", "situation_of", "trace", "trace_packet", "verify", "why",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a name when it is used for the first time (PEP 562)."""
    from capture.lazy import import_name  # the plugin takes the names from their homes

    return import_name(globals(), HOMES, name)
