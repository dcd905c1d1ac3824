"""Installs onto disks that are full or read-only; a script, run in a mount namespace of its own.

``installer_disks.py DIRECTORY`` prints what happened as JSON, or ends with what was wrong.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cni.install import DesiredConfiguration, install, uninstall
from cni.install_error import InstallError
from support.runtimes.fake_plugin import SCRIPT

MAIN = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}
ENTERED = {**MAIN, "plugins": [{"type": "bridge"}, {"type": "capture-cni"}]}
PAGE = os.sysconf("SC_PAGE_SIZE")
PLUGIN = SCRIPT.encode() + b"#" * 3 * PAGE


@contextmanager
def disk(root: Path, options: str) -> Iterator[Path]:
    """Mount a small file system with the directories of a node on it."""
    mounted = root / "disk"
    mounted.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "capture-test", str(mounted)], check=True)
    try:
        (mounted / "bin").mkdir()
        (mounted / "net.d").mkdir()
        (mounted / "net.d" / "10-main.conflist").write_text(json.dumps(MAIN))
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def act(root: Path, mounted: Path, *, remove: bool = False) -> str:
    """Install or uninstall; return "done", or the error about the disk. Nothing is half done either way."""
    before = json.loads((mounted / "net.d" / "10-main.conflist").read_text())
    outcome = "done"
    try:
        if remove:
            uninstall(str(mounted / "bin"), str(mounted / "net.d"))
        else:
            install(str(root / "capture-cni"), str(mounted / "bin"), DesiredConfiguration(str(mounted / "net.d"), {}))
    except InstallError as error:
        named = os.path.relpath(error.path, mounted)
        assert named in ("bin/capture-cni", "net.d/10-main.conflist"), f"{named}: no file that people know"
        outcome = error.message.removeprefix(f"{error.path}: ") if error.remedy else "an error without a remedy"
    network = json.loads((mounted / "net.d" / "10-main.conflist").read_text())
    assert network == (before if outcome != "done" else MAIN if remove else ENTERED), network
    assert os.listdir(mounted / "net.d") == ["10-main.conflist"]
    if network == ENTERED:
        assert (mounted / "bin" / "capture-cni").read_bytes() == PLUGIN
    assert set(os.listdir(mounted / "bin")) <= {"capture-cni"}, os.listdir(mounted / "bin")
    return outcome


def with_room_for(root: Path, pages: int) -> str:
    with disk(root, "size=64k") as mounted:
        filler = mounted / "filler"
        room = os.statvfs(mounted).f_bavail - pages
        filler.write_bytes(b"x" * room * PAGE)
        return act(root, mounted)


def with_names_for(root: Path, files: int) -> str:
    with disk(root, f"size=1m,nr_inodes={4 + files}") as mounted:  # the root, two directories and the list
        return act(root, mounted)


def read_only(root: Path) -> list[str]:
    with disk(root, "size=1m") as mounted:
        outcomes = []
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        outcomes.append(act(root, mounted))
        subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
        outcomes.append(act(root, mounted))
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        outcomes.append(act(root, mounted))
        outcomes.append(act(root, mounted, remove=True))
        return outcomes


def read_only_configuration(root: Path) -> str:
    with disk(root, "size=1m") as mounted:
        directory = str(mounted / "net.d")
        subprocess.run(["mount", "--bind", "-o", "ro", directory, directory], check=True)
        try:
            return act(root, mounted)
        finally:
            subprocess.run(["umount", directory], check=True)


def noexec(root: Path) -> str:
    with disk(root, "size=1m") as mounted:
        subprocess.run(["mount", "-o", "remount,noexec", str(mounted)], check=True)
        return act(root, mounted)


def main(root: Path) -> None:
    """Try all disks."""
    (root / "capture-cni").write_bytes(PLUGIN)
    (root / "capture-cni").chmod(0o755)
    outcomes = {
        "room": [with_room_for(root, pages) for pages in range(8)],
        "names": [with_names_for(root, files) for files in range(4)],
        "read_only": read_only(root),
        "read_only_configuration": read_only_configuration(root),
        "noexec": noexec(root),
    }
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
