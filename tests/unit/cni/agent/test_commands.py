"""`capture node pods` and `capture node pod`, with an agent that answers from memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capture.cli.group import run
from cni.agent.server import Server

PODS = [
    {"pod": "shop/web", "state": "no-rules", "says": "there are no rules", "remedy": "recreate it", "since": 0.0,
     "namespace_path": "/run/netns/nowhere", "uid": "1"},
    {"pod": "shop/api", "state": "captured", "says": "", "remedy": "", "since": 0.0, "namespace_path": "", "uid": "2"},
]  # fmt: skip


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    def pods(question: dict[str, Any]) -> object:
        key = f"{question.get('namespace')}/{question.get('name')}"
        return {"pods": [pod for pod in PODS if not question.get("name") or pod["pod"] == key], "audit": "on"}

    server = Server(str(tmp_path_factory.mktemp("agent") / "run" / "socket"), {"pods": pods})
    yield server.path
    server.close()


def test_faults_come_first(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pods", "--socket", socket]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no-rules             shop/web (for ")
    assert lines[0].endswith(": there are no rules")
    assert lines[1].strip() == "recreate it"
    assert lines[2].startswith("captured             shop/api")


def test_one_pod_as_json(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pods", "--socket", socket, "--pod", "shop/api", "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["schema"], [pod["pod"] for pod in printed["pods"]]) == ("capture/v1", ["shop/api"])


def test_a_command_runs_in_the_pods_namespace(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pod", "--socket", socket, "shop/web", "verify"]) == 1
    assert "/run/netns/nowhere: does not exist" in capsys.readouterr().err


def test_a_pod_without_a_namespace(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pod", "--socket", socket, "shop/api", "verify"]) == 1
    assert "has no network namespace for shop/api" in capsys.readouterr().err


def test_commands_without_an_agent_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pods", "--socket", str(tmp_path / "socket")]) == 1
    assert run(["node", "status", "--socket", str(tmp_path / "socket")]) == 1
    assert "no agent answers" in capsys.readouterr().err
    assert run(["node", "status", "--socket", str(tmp_path / "socket"), "--ready"]) == 1
    assert capsys.readouterr() == ("", "")


def test_output_is_folded_for_a_terminal_at_the_other_end_of_a_pipe(
    socket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        monkeypatch.setenv(name, "")  # what the option sets ends with the test

    run(["node", "--terminal=40x20:plain", "pods", "--socket", socket])

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert len(lines) > 3
