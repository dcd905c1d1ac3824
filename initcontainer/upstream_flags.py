"""Flags of upstream's programs that ask for nothing here: accepted, so that an injected pod starts.

Sources: istio/istio, ``pkg/log/options.go`` and ``pkg/log/klog.go`` (flags that pilot-agent gives to all of its
commands), ``tools/istio-iptables/pkg/cmd/root.go`` of the releases 1.4 to 1.31.
"""

from __future__ import annotations

from capture.model.values import Value


class UpstreamFlag(Value):
    """A flag that is accepted and has no effect."""

    takes_value: bool
    because: str = ""
    """Why nobody needs it any more, for a warning; empty: no word about it."""


_VALUE = UpstreamFlag(takes_value=True)

PERSISTENT = {
    "log_target": _VALUE,
    "log_caller": _VALUE,
    "log_stacktrace_level": _VALUE,
    "log_rotate": _VALUE,
    "log_rotate_max_age": _VALUE,
    "log_rotate_max_size": _VALUE,
    "log_rotate_max_backups": _VALUE,
    "vklog": _VALUE,
}
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

UPSTREAM_FLAGS = PERSISTENT | PAST
SHORT = {"f": "restore-format"}
