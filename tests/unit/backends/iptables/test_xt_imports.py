"""What the netlink driver of iptables costs a process that starts cold: only what it needs is imported."""

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[4]

EXPENSIVE = {
    *("typing", "dataclasses", "enum", "re", "json", "ipaddress", "socket", "logging", "subprocess", "pathlib"),
    *("shutil", "tempfile", "functools", "contextlib", "collections.abc", "struct", "ctypes", "click", "pyroute2"),
}
ONLY_WHEN_NEEDED = {
    "capture.backends.iptables.parse",
    "capture.backends.iptables.programs",
    "capture.backends.iptables.refusals",
    "capture.backends.iptables.restore",
    "capture.backends.iptables.xt_decode",
    "capture.backends.iptables.xt_text",
}

PROGRAM = f"""
import sys
sys.path.insert(0, {str(CHECKOUT)!r})
before = set(sys.modules)
import capture.backends.iptables.netlink
print(*sorted(set(sys.modules) - before))
"""


def test_nothing_heavy_is_imported() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", "-c", PROGRAM], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "capture.backends.iptables.xt_encode" in imported
    assert not imported & EXPENSIVE
    assert not imported & ONLY_WHEN_NEEDED
