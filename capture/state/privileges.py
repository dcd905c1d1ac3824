"""By what a process may leave the capture: its capabilities, as /proc shows them."""

from __future__ import annotations

from capture.state.files import content_of

WAYS_OUT = {
    12: "NET_ADMIN (changes the rules)",
    13: "NET_RAW (sends frames that meet no rule)",
    7: "SETUID (becomes the proxy's user)",
    6: "SETGID (becomes the proxy's group)",
    21: "SYS_ADMIN (enters other namespaces)",
}
"""Capabilities by their number (linux/capability.h); tests/kernel/test_escapes.py tries the first four."""


def ways_out(process: int) -> tuple[str, ...]:
    """Return the effective capabilities by which a process may leave the capture, in words; none if it has ended."""
    for line in content_of(f"/proc/{process}/status").splitlines():
        name, _, value = line.partition(b":")
        if name == b"CapEff":
            held = int(value, 16)
            return tuple(words for number, words in WAYS_OUT.items() if held >> number & 1)
    return ()
