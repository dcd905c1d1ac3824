"""Flags of upstream's programs that change nothing here: accepted, so that an injected pod starts.

Sources: istio/istio, ``pkg/log/options.go`` and ``pkg/log/klog.go`` (flags that pilot-agent gives to all of its
commands), ``tools/istio-iptables/pkg/cmd/root.go`` of the releases 1.4 to 1.31.
"""

from __future__ import annotations

from capture.model.values import Value
from capture.settings.options import (
    DUAL_STACK,
    FORCE_APPLY,
    FORCE_IPTABLES_BINARY,
    INBOUND_CAPTURE_PORT,
    LOG_OUTPUT_LEVEL,
    NATIVE_NFTABLES,
    PROFILE,
    RECONCILE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from capture.settings.options import Option
    from capture.settings.settings import Settings


class UpstreamFlag(Value):
    """A flag that is accepted and has no effect."""

    takes_value: bool
    because: str = ""
    """Why it is not needed any more, for a warning; empty: no warning."""


PERSISTENT = dict.fromkeys(
    (
        "log_target", "log_caller", "log_stacktrace_level", "log_rotate", "log_rotate_max_age", "log_rotate_max_size",
        "log_rotate_max_backups", "vklog",
    ),
    UpstreamFlag(takes_value=True),
)  # fmt: skip
"""Flags of pilot-agent that every command of it has. Two more have a meaning here: they are in the option table."""

_RULES_ARE_SHOWN = "the rules are always shown, and --dry-run shows them without writing any"

PAST = {
    "restore-format": UpstreamFlag(takes_value=False, because=_RULES_ARE_SHOWN),
    "output-paths": UpstreamFlag(takes_value=True, because=_RULES_ARE_SHOWN),
    "iptables-trace-logging": UpstreamFlag(takes_value=False, because="--rule-logs logs what the rules meet"),
    "iptables-version": UpstreamFlag(takes_value=True, because="the version is detected"),
    "host-nsenter-exec": UpstreamFlag(takes_value=False, because="namespaces are entered without nsenter"),
    "inbound-capture-port-v6": UpstreamFlag(
        takes_value=True, because="both families are sent to --inbound-capture-port"
    ),
}
"""Flags of some versions between 1.1 and today."""

NEWER_THAN_CLASSIC: dict[Option[Any], str] = {
    LOG_OUTPUT_LEVEL: "1.15",
    DUAL_STACK: "1.16",
    FORCE_APPLY: "1.24",
    RECONCILE: "1.24",
    NATIVE_NFTABLES: "1.27",
    FORCE_IPTABLES_BINARY: "1.28",
}
"""Options that injection gives to the init container, and the version of Istio that began to."""


def newer_mesh(settings: Settings) -> str:
    """Return a warning if the rules are those of 1.8 by default, and what was given shows a newer Istio; else ""."""
    shown = next((option for option in NEWER_THAN_CLASSIC if option in settings.explicit), None)
    if shown is None or PROFILE in settings.explicit:
        return ""
    evidence = f"{shown.name} ({settings.origin(shown)}) shows Istio {NEWER_THAN_CLASSIC[shown]} or later"
    return (
        f"{evidence}, but the rules are those of {settings[PROFILE]} ({PROFILE.name}, default): inbound port 22 is not"
        f" captured, and what the proxy sends to its own tunnel port goes to port {settings[INBOUND_CAPTURE_PORT]};"
        f" {PROFILE.name} current has today's layout"
    )


UPSTREAM_FLAGS = PERSISTENT | PAST
SHORT = {"f": "restore-format"}
