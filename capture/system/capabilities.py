"""The effective capabilities of a thread (proc(5), CapEff)."""

from __future__ import annotations

from capture.system.files import content_of

CAPABILITY_NUMBERS = {"SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_ADMIN": 21}
"""linux/capability.h"""
ESCAPES = {
    "NET_ADMIN": "can change the rules",
    "NET_RAW": "can send frames past the rules (AF_PACKET)",
    "SETUID": "can take over the proxy's user",
    "SETGID": "can take over the proxy's group",
    "SYS_ADMIN": "can get every other capability (by mounts, namespaces or BPF)",
}
"""Capabilities by which a process may leave the capture; tests/kernel/test_escapes.py tries the first four."""


def missing_capabilities(*names: str) -> list[str]:
    """Return which of these capabilities this thread lacks."""
    effective = _effective_capabilities("thread-self")
    return [name for name in names if name not in effective]


def escapes_of(process: int) -> tuple[str, ...]:
    """Return the capabilities by which a process may leave the capture; none if it has ended."""
    effective = _effective_capabilities(str(process))
    return tuple(f"{name} (it {text})" for name, text in ESCAPES.items() if name in effective)


def _effective_capabilities(process: str) -> list[str]:
    lines = content_of(f"/proc/{process}/status").splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith(b"CapEff:")), 0)
    return [name for name, number in CAPABILITY_NUMBERS.items() if effective >> number & 1]
