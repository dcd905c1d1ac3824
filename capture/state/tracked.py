"""How full the table of tracked connections is, of the namespace we are in."""

from __future__ import annotations

CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack_"
"""``count`` is the namespace's; ``max`` holds for each (Documentation/networking/nf_conntrack-sysctl.rst)."""


def read_counts() -> tuple[int, int]:
    """Return how many connections are tracked here, and how many can be; 0 for what the kernel does not tell."""
    return _number("count"), _number("max")


def _number(name: str) -> int:
    try:
        with open(f"{CONNTRACK}{name}", "rb", buffering=0) as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return 0
