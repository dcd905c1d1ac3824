"""Each whole line of the plugin's log is passed on once, across rotations."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cni import log
from cni.agent.log_follower import LogFollower
from support.processes.waiting import wait_until


def test_lines_are_passed_on_across_rotations_and_none_twice(tmp_path: Path) -> None:
    path = tmp_path / "cni.log"
    path.write_bytes(b"before the agent\n")
    follower = LogFollower(str(path))
    open_files = len(os.listdir("/proc/self/fd"))
    seen: list[bytes] = []
    for number in range(100):
        log.append_line(str(path), b"line %d\n" % number, rotate_at=300)
        if number % 3 == 0:
            seen += follower.lines()
    seen += follower.lines()
    assert seen == [b"line %d\n" % number for number in range(100)]
    assert (tmp_path / "cni.log.1").exists()
    assert len(os.listdir("/proc/self/fd")) <= open_files


def test_what_is_written_while_the_file_is_renamed_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "cni.log"
    path.touch()

    class Renamed(LogFollower):
        def _is_replaced(self) -> bool:
            if not (tmp_path / "cni.log.1").exists():
                path.rename(tmp_path / "cni.log.1")
                (tmp_path / "cni.log.1").write_bytes(b"by a plugin that had it open\n")
                path.write_bytes(b"the next\n")
            return super()._is_replaced()

    assert list(Renamed(str(path)).lines()) == [b"by a plugin that had it open\n", b"the next\n"]


def test_lines_are_passed_on_until_the_agent_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cni.agent.log_follower.READ_INTERVAL", 0.001)
    passed: list[bytes] = []
    agent_log: Any = SimpleNamespace(pass_on=passed.append)
    stop = threading.Event()
    follower = LogFollower(str(tmp_path / "cni.log"))
    thread = threading.Thread(target=follower.run, args=(agent_log, stop))
    thread.start()
    for number in range(3):
        log.append_line(str(tmp_path / "cni.log"), b"line %d\n" % number)
        wait_until(lambda: len(passed) > number)  # noqa: B023  # it is waited for within the loop
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert passed == [b"line 0\n", b"line 1\n", b"line 2\n"]


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
