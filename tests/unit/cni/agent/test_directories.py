"""A change of a watched directory ends the wait, and no change is lost when the directory is replaced."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
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
    started = time.monotonic()
    assert not watched[0].wait(0.01)
    assert time.monotonic() - started >= 0.01


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "written": lambda here, _: (here / "old").write_text("{}"),
    "made": lambda here, _: (here / "new").mkdir(),
    "linked": lambda here, elsewhere: os.link(elsewhere / "file", here / "new"),
    "moved in": lambda here, elsewhere: (elsewhere / "file").rename(here / "new"),
    "moved away": lambda here, elsewhere: (here / "old").rename(elsewhere / "new"),
    "deleted": lambda here, _: (here / "old").unlink(),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_in_which_a_file_changes_is_noticed(tmp_path: Path, way: str) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "old").touch()
    (tmp_path / "elsewhere" / "file").touch()
    directories = Directories([str(tmp_path / "here")])
    (tmp_path / "here" / "old").read_text()
    assert not directories.wait(0)
    WAYS[way](tmp_path / "here", tmp_path / "elsewhere")
    assert directories.wait(1)
    directories.close()


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("way", ["moved", "made or deleted"])
def test_a_directory_that_comes_or_goes_ends_the_wait(tmp_path: Path, way: str, is_there: object) -> None:
    directory, other = tmp_path / "here", tmp_path / "away" / "here"
    other.parent.mkdir()
    (directory if is_there else other).mkdir()
    directories = Directories([str(directory)])
    moved = (directory, other) if is_there else (other, directory)
    act = partial(os.rename, *moved) if way == "moved" else directory.rmdir if is_there else directory.mkdir
    threading.Timer(0.02, act).start()
    assert directories.wait(5)
    directories.close()


def test_a_directory_no_longer_watched_is_forgotten(tmp_path: Path) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    directories = Directories([str(tmp_path / "here")])
    for number in range(3):
        (tmp_path / "here").mkdir()
        assert directories.wait(1)
        (tmp_path / "here").rename(tmp_path / str(number))
        assert directories.wait(1)
    facts = Path(f"/proc/self/fdinfo/{directories._inotify.fd}").read_text()
    assert facts.count("inotify wd:") == 1, "the parent's"
    directories.close()
    assert len(os.listdir("/proc/self/fd")) <= open_files


def test_a_file_that_is_renamed_in_is_noticed(watched: tuple[Directories, Path]) -> None:
    directories, directory = watched
    new = directory.parent.parent / "new"
    new.write_text("{}")
    threading.Timer(0.05, lambda: new.rename(directory / "10.conflist")).start()
    assert directories.wait(5)


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
    assert watched[0].wait(10)
    started = time.monotonic()
    for _ in range(70_000):  # more than a pipe holds
        watched[0].wake()
    while watched[0].wait(0.01):
        assert time.monotonic() - started < 5, "what has ended one wait ends no other"
