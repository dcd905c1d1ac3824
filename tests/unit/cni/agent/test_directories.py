from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.agent.directories import Directories


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Directories, Path]]:
    directory = tmp_path / "etc" / "net.d"
    directory.mkdir(parents=True)
    directories = Directories([str(directory)])
    yield directories, directory
    directories.close()


def test_quiet_directories_are_waited_for(watched: tuple[Directories, Path]) -> None:
    assert not watched[0].wait(0.01)


def test_a_file_that_is_renamed_in_is_noticed(watched: tuple[Directories, Path]) -> None:
    directories, directory = watched
    new = directory.parent.parent / "new"
    new.write_text("{}")
    threading.Timer(0.05, lambda: new.rename(directory / "10.conflist")).start()
    started = time.monotonic()
    assert directories.wait(5)
    assert time.monotonic() - started < 1


def test_a_change_next_to_the_directory_is_no_event(watched: tuple[Directories, Path]) -> None:
    """Records of pods come and go next to the agent's own folder."""
    directories, directory = watched
    (directory.parent / "neighbour").write_text("x")
    assert not directories.wait(0.05)


def test_a_directory_that_is_moved_away_and_made_again_is_watched_again(watched: tuple[Directories, Path]) -> None:
    directories, directory = watched
    directory.rename(directory.with_name("old"))
    assert directories.wait(1)
    while directories.wait(0.01):
        pass
    directory.mkdir()
    assert directories.wait(1)
    while directories.wait(0.01):
        pass
    (directory / "10.conflist").write_text("{}")
    assert directories.wait(1)


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    directories = Directories([str(tmp_path / "etc" / "net.d")])
    try:
        assert not directories.wait(0.01)
        (tmp_path / "etc" / "net.d").mkdir(parents=True)
        assert directories.wait(1)
    finally:
        directories.close()


def test_another_thread_can_end_the_waiting(watched: tuple[Directories, Path]) -> None:
    threading.Timer(0.05, watched[0].wake).start()
    started = time.monotonic()
    assert watched[0].wait(10)
    assert time.monotonic() - started < 5
