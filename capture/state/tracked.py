"""How full the table of tracked connections is, of the namespace we are in."""

from __future__ import annotations

from capture.state.files import content_of

CONNTRACK_SYSCTLS = "/proc/sys/net/netfilter/nf_conntrack_"
"""``count`` is the namespace's; ``max`` holds for each (Documentation/networking/nf_conntrack-sysctl.rst)."""


def read_counts() -> tuple[int, int]:
    """Return how many connections are tracked here, and how many can be; 0 for what the kernel does not report."""
    return int(content_of(f"{CONNTRACK_SYSCTLS}count") or 0), int(content_of(f"{CONNTRACK_SYSCTLS}max") or 0)
