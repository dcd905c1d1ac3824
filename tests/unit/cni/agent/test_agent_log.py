"""The agent logs a line of JSON for each event, the plugin's lines among them, and outlives its reader."""

import json
import os
import threading
from pathlib import Path

import pytest

from cni.agent import log_follower
from cni.agent.agent_log import AgentLog
from cni.agent.log_follower import LogFollower


def test_a_line_is_json_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    log = AgentLog()
    log.debug("not at this level")
    log.info("installed", path="/opt/cni/bin")
    [line] = [json.loads(text) for text in capfd.readouterr().out.splitlines()]
    assert line.keys() == {"time", "level", "message", "command", "path"}
    assert (line["level"], line["message"], line["command"], line["path"]) == (
        "info", "installed", "agent", "/opt/cni/bin",
    )  # fmt: skip


def test_a_line_without_a_reader_is_lost_and_the_next_one_is_written() -> None:
    descriptors = reader, writer = os.pipe()
    log = AgentLog(descriptor=writer)
    os.close(reader)
    log.info("lost")
    reader, other = os.pipe()
    os.dup2(other, writer)
    log.info("installed")
    assert b'"installed"' in os.read(reader, 1024)
    for descriptor in (*descriptors[1:], reader, other):
        os.close(descriptor)


def test_the_plugins_lines_come_into_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_follower, "READ_INTERVAL", 0.001)
    path, stop = tmp_path / "cni.log", threading.Event()

    class Log(AgentLog):
        def pass_on(self, line: bytes) -> None:
            seen.append(line)
            stop.set()

    seen: list[bytes] = []
    follower = LogFollower(str(path))
    path.write_bytes(b"{}\n")
    follower.run(Log(), stop)
    assert seen == [b"{}\n"]
