"""A whole agent, as a process: it starts, answers, ends, and is killed."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cni import agent_socket
from cni.pod import Identity

pytestmark = pytest.mark.usefixtures("root")

PLUGIN = '#!/bin/sh\ncat > /dev/null; echo \'{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "1.1.0"]}\'\n'
PORT = 20000 + os.getpid() % 20000


@pytest.fixture
def node(tmp_path: Path) -> Path:
    for name in ("bin", "net.d", "log"):
        (tmp_path / name).mkdir()
    (tmp_path / "net.d" / "10-lab.conflist").write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "bridge"}]})
    )
    (tmp_path / "capture-cni").write_text(PLUGIN)
    (tmp_path / "capture-cni").chmod(0o755)
    return tmp_path


def agent(node: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start an agent without an API server, as a process of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-c", "import sys; from capture.cli import main; sys.exit(main())", "node", "agent"),
            *("--plugin", f"{node}/capture-cni", "--bin-dir", f"{node}/bin", "--conf-dir", f"{node}/net.d"),
            *("--socket", f"{node}/run/socket", "--log-file", f"{node}/log/cni.log"),
            *("--runtime-socket", f"{node}/none.sock", *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={key: value for key, value in os.environ.items() if key != "NODE_NAME"},
    )


def status(node: Path) -> dict[str, Any]:
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        try:
            return agent_socket.request(str(node / "run" / "socket"), {"get": "status"}, 1)
        except agent_socket.AgentAwayError:
            time.sleep(0.02)
    raise AssertionError("the agent does not answer")


def entries(node: Path) -> int:
    return (node / "net.d" / "10-lab.conflist").read_text().count("capture-cni")


def test_an_agent_lives_answers_and_ends_without_taking_anything_away(node: Path) -> None:
    running = agent(node, "--metrics-address", f"127.0.0.1:{PORT}")
    try:
        printed = status(node)
        while printed["problems"].keys() - {"loaded"} or printed["problems"]["loaded"]["problem"] == "starting":
            time.sleep(0.02)
            printed = status(node)
        assert "none.sock" in printed["problems"]["loaded"]["problem"]
        assert agent_socket.request_pod(str(node / "run" / "socket"), Identity("shop", "web", "uid")) is None
        (node / "log" / "cni.log").write_bytes(b'{"message": "captured"}\n')
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics").read().decode()
        assert "capture_agent_ready 0.0" in metrics
        assert 'capture_installs_total{result="success"} 1.0' in metrics
        assert urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz").status == 200
        printed_lines: list[bytes] = []
        while not any(b'"captured"' in line for line in printed_lines):
            printed_lines.append(running.stdout.readline())  # type: ignore[union-attr]  # it is a pipe
            assert printed_lines[-1], "it ended"
    finally:
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=20)
    assert running.returncode == 0, output
    messages = [json.loads(line)["message"] for line in [*printed_lines, *output.splitlines()]]
    assert {"started", "installed", "captured"} <= {*messages}
    assert entries(node) == 1
    assert (node / "bin" / "capture-cni").exists()
    assert not (node / "run" / "socket").exists()


def test_a_killed_agent_leaves_everything_for_the_next_one(node: Path) -> None:
    for _ in range(2):
        running = agent(node)
        try:
            status(node)
            while not entries(node):
                time.sleep(0.02)
        finally:
            running.kill()
            running.communicate()
        assert entries(node) == 1
