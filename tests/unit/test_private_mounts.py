"""What tests keep under /run is gone with their process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from pytest_netns import require
from support.processes import private_mounts

KILLED = """
import os, pathlib, signal
from support.processes import private_mounts
private_mounts.make_private()
for place in private_mounts.PLACES:
    pathlib.Path(place, "left-by-a-killed-run").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_by_a_run_that_is_killed() -> None:
    require(os.geteuid() == 0, "only root may have a mount namespace")
    before = {place: os.listdir(place) for place in private_mounts.PLACES}
    path = Path(private_mounts.__file__).parents[2]

    killed = subprocess.run([sys.executable, "-c", KILLED], env={**os.environ, "PYTHONPATH": str(path)}, check=False)

    assert killed.returncode == -signal.SIGKILL
    assert {place: os.listdir(place) for place in private_mounts.PLACES} == before


def test_this_process_has_places_of_its_own() -> None:
    require(os.geteuid() == 0, "only root may have a mount namespace")

    assert all(os.path.ismount(place) for place in private_mounts.PLACES)
