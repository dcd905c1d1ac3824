"""The effective capabilities of a thread (proc(5), CapEff)."""

from __future__ import annotations

from capture.state.files import content_of

NUMBERS = {"SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_ADMIN": 21}
"""linux/capability.h"""
WAYS_OUT = {
    "NET_ADMIN": "changes the rules",
    "NET_RAW": "sends frames that meet no rule",
    "SETUID": "becomes the proxy's user",
    "SETGID": "becomes the proxy's group",
    "SYS_ADMIN": "enters other namespaces",
}
"""Capabilities by which a process may leave the capture; tests/kernel/test_escapes.py tries the first four."""


def missing(*names: str) -> list[str]:
    """Return which of these capabilities this thread lacks."""
    held = _held("thread-self")
    return [name for name in names if name not in held]


def ways_out(process: int) -> tuple[str, ...]:
    """Return the capabilities by which a process may leave the capture, in words; none if it has ended."""
    held = _held(str(process))
    return tuple(f"{name} ({words})" for name, words in WAYS_OUT.items() if name in held)


def _held(process: str) -> list[str]:
    lines = content_of(f"/proc/{process}/status").splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith(b"CapEff:")), 0)
    return [name for name, number in NUMBERS.items() if effective >> number & 1]
