"""The kernel reports which process wrote into the directory of network configurations."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.agent.writers import UNKNOWN_PROGRAM, ConfigurationWriters, name_of_rival

RIVAL = """
import pathlib, sys
new = pathlib.Path(sys.argv[1], "new")
new.write_text("{}")
new.rename(sys.argv[2])
input()
"""


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[ConfigurationWriters]:
    listening = ConfigurationWriters()
    assert listening.watch(str(tmp_path))
    yield listening
    listening.close()


def test_a_program_that_renames_a_list_in_is_named(writers: ConfigurationWriters, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("this process does not count")
    with subprocess.Popen(
        [sys.executable, "-c", RIVAL, tmp_path, tmp_path / "10-pods.conflist"], stdin=subprocess.PIPE
    ) as rival:
        while not (found := writers.new_writers()):
            time.sleep(0.001)
        assert set(found) == {rival.pid}
        while not (tmp_path / "10-pods.conflist").exists():
            time.sleep(0.001)
        writers.new_writers()
        (tmp_path / "10-pods.conflist").touch()
        subprocess.run(["touch", tmp_path / "another"], check=True)  # has ended: its name is unknown now
        assert name_of_rival(str(tmp_path), writers) == UNKNOWN_PROGRAM
        rival.communicate(b"\n")


def test_without_a_directory_no_writer_is_known(writers: ConfigurationWriters, tmp_path: Path) -> None:
    assert not writers.watch(str(tmp_path / "missing"))
    assert writers.new_writers() == []
