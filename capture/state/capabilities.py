"""What a thread may do beyond what its user may: its effective capabilities."""

from __future__ import annotations

NUMBERS = {"SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_ADMIN": 21}
"""linux/capability.h"""


def missing(*names: str) -> list[str]:
    """Return those of these capabilities that this thread has not (proc(5), CapEff)."""
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
        effective = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    return [name for name in names if not effective >> NUMBERS[name] & 1]
