"""The installer on disks without room, without free names, and read-only."""

import os
from pathlib import Path

from pytest_netns import require
from support.processes.private_mounts import OWN_MOUNTS
from support.processes.system_calls import run_alone

DISKS = Path(__file__).with_name("installer_disks.py")


def test_a_full_or_read_only_disk_keeps_what_it_has(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "mounting small disks needs root")
    done = run_alone(DISKS, str(tmp_path), through=OWN_MOUNTS)
    full, read_only = "No space left on device", "Read-only file system"
    assert done == {
        "room": [full] * 5 + ["done"] * 3,  # four pages for the plugin, one for the new list
        "names": [full] * 2 + ["done"] * 2,  # one temporary file at a time, and the plugin's own
        "read_only": [read_only, "done", "done", read_only],
        "read_only_configuration": read_only,
        "noexec": "cannot be started: the file system that it is on is mounted noexec",
    }
