"""Flags of upstream's programs that change nothing here: accepted, so that an injected pod starts.

Sources: istio/istio, ``pkg/log/options.go`` and ``pkg/log/klog.go`` (flags that pilot-agent gives to all of its
commands), ``tools/istio-iptables/pkg/cmd/root.go`` of the releases 1.4 to 1.31.
"""

from __future__ import annotations

from capture.settings import options
from capture.settings.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from capture.settings.settings import Settings

PERSISTENT_FLAGS = (
    "log_target", "log_caller", "log_stacktrace_level", "log_rotate", "log_rotate_max_age", "log_rotate_max_size",
    "log_rotate_max_backups", "vklog",
)  # fmt: skip
"""Flags of pilot-agent that every command of it has. Two more have a meaning here: they are in the option table."""

_RULES_ARE_SHOWN = "the rules are always shown, and --dry-run shows them without writing any"


def _ignored_flag(flag: str, short: str = "", *, is_switch: bool = False) -> Option[str]:
    return Option(flag, "", str, "a value", "", short, is_switch=is_switch)


IGNORED_FLAGS: dict[Option[Any], str] = {
    **{_ignored_flag(flag): "" for flag in PERSISTENT_FLAGS},
    _ignored_flag("restore-format", "f", is_switch=True): _RULES_ARE_SHOWN,
    _ignored_flag("output-paths"): _RULES_ARE_SHOWN,
    _ignored_flag("iptables-trace-logging", is_switch=True): "--rule-logs logs what the rules meet",
    _ignored_flag("iptables-version"): "the version is detected",
    _ignored_flag("host-nsenter-exec", is_switch=True): "namespaces are entered without nsenter",
    _ignored_flag("inbound-capture-port-v6"): "both families are sent to --inbound-capture-port",
}
"""Those, and flags of some versions between 1.1 and today, with the reason why they are not needed any more."""

NEWER_THAN_CLASSIC: dict[Option[Any], str] = {
    options.LOG_OUTPUT_LEVEL: "1.15",
    options.DUAL_STACK: "1.16",
    options.FORCE_APPLY: "1.24",
    options.RECONCILE: "1.24",
    options.NATIVE_NFTABLES: "1.27",
    options.FORCE_IPTABLES_BINARY: "1.28",
}
"""Options that injection gives to the init container, and the version of Istio that began to."""


def newer_mesh(settings: Settings) -> str:
    """Return a warning if the rules are those of 1.8 by default, and what was given shows a newer Istio; else ""."""
    shown = next((option for option in NEWER_THAN_CLASSIC if option in settings.explicit), None)
    if shown is None or options.PROFILE in settings.explicit:
        return ""
    flag, port = options.PROFILE.name, settings[options.INBOUND_CAPTURE_PORT]
    evidence = f"{shown.name} ({settings.origin(shown)}) shows Istio {NEWER_THAN_CLASSIC[shown]} or later"
    return (
        f"{evidence}, but the rules are those of {settings[options.PROFILE]} ({flag}, default): inbound port 22 is not"
        f" captured, and what the proxy sends to its own tunnel port goes to port {port};"
        f" {flag} current has today's layout"
    )
