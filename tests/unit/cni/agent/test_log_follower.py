from __future__ import annotations

import os
from pathlib import Path

from cni import log
from cni.agent.log_follower import LogFollower


def test_lines_are_passed_on_across_rotations_and_none_twice(tmp_path: Path) -> None:
    path = tmp_path / "cni.log"
    path.write_bytes(b"before the agent\n")
    follower = LogFollower(str(path))
    open_files = len(os.listdir("/proc/self/fd"))
    seen: list[bytes] = []
    for number in range(100):
        log.append(str(path), b"line %d\n" % number, rotate_at=300)
        if number % 3 == 0:
            seen += follower.lines()
    seen += follower.lines()
    assert seen == [b"line %d\n" % number for number in range(100)]
    assert (tmp_path / "cni.log.1").exists()
    assert len(os.listdir("/proc/self/fd")) <= open_files


def test_a_pipe_without_a_writer_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cni.log")
    assert [*LogFollower(str(tmp_path / "cni.log")).lines()] == []


def test_a_line_comes_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "cni.log"
    follower = LogFollower(str(path))
    assert [*follower.lines()] == []
    with path.open("ab", buffering=0) as file:
        file.write(b"half")
        assert [*follower.lines()] == []
        file.write(b" a line\n")
        assert [*follower.lines()] == [b"half a line\n"]
