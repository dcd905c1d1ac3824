"""The agent's socket: who may connect, what is answered, and how the next agent takes it over."""

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import agent_socket
from cni.agent.server import AgentServer
from cni.agent_socket import AgentAwayError
from cni.pod import Identity

pytestmark = pytest.mark.usefixtures("root")

WEB = Identity("shop", "web-0", "uid-1")
POD = {"metadata": {"uid": "uid-1"}, "spec": {}}


def answer_pod(question: dict[str, Any]) -> object:
    return {"pod": POD if question["uid"] == "uid-1" else None}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentServer]:
    running = AgentServer(str(tmp_path_factory.mktemp("run") / "agent" / "socket"), {
        "pod": answer_pod, "big": lambda _: {"is": "x" * 3_000_000}, "probe": lambda _: {"ready": False, "live": True},
    })  # fmt: skip
    yield running
    running.close()


def test_the_plugin_gets_the_very_pod_or_none(server: AgentServer) -> None:
    assert agent_socket.request_pod(server.path, WEB) == POD
    assert agent_socket.request_pod(server.path, WEB.replace(uid="other")) is None


def test_only_root_reaches_the_socket(server: AgentServer) -> None:
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(server.path)).st_mode) == 0o700


def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    AgentServer(str(tmp_path / "run" / "socket"), {}).close()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755


def test_large_answers_come_whole(server: AgentServer) -> None:
    assert len(agent_socket.request(server.path, {"get": "big"}, 5)["is"]) == 3_000_000


def test_malformed_questions_are_answered_with_what_is_expected(server: AgentServer) -> None:
    assert "'get' among big, pod, probe" in agent_socket.request(server.path, {"get": "sudo"}, 5)["error"]


def test_probes_are_answered_without_click(server: AgentServer) -> None:
    def probe(what: str, socket: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"CAPTURE_AGENT_SOCKET": socket}
        program = (
            f"import sys; sys.argv[1:] = ['node', 'status', '--{what}']; from capture.cli import main; code = main()"
        )
        program += "; assert 'click' not in sys.modules; sys.exit(code)"
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )

    printed = [(done.returncode, done.stderr) for done in (probe("live", server.path), probe("ready", server.path))]
    assert printed == [(0, ""), (1, "")]
    assert probe("live", f"{server.path}.away").returncode == 1


def test_a_new_agent_takes_the_path_over_without_a_moment_in_between(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    server = AgentServer(str(tmp_path / "agent" / "socket"), {"pod": answer_pod})
    assert os.umask(mask) == 0o022, "files that others make meanwhile have their modes"
    assert server._thread.daemon
    new = AgentServer(server.path, {"pod": lambda _: {"pod": {"new": True}}})
    try:
        server.close()
        server._thread.join(5)
        assert not server._thread.is_alive()
        assert agent_socket.request_pod(server.path, WEB) == {"new": True}
    finally:
        new.close()
    assert not os.path.exists(server.path)


def test_the_socket_of_an_agent_that_was_killed_at_its_start_is_in_no_way(tmp_path: Path) -> None:
    """In a container the next agent has the same process number."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / f"socket.{os.getpid()}"))
    server = AgentServer(str(tmp_path / "socket"), {"pod": answer_pod})
    try:
        assert agent_socket.request_pod(server.path, WEB) == POD
    finally:
        server.close()


def test_an_agent_that_is_away_costs_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    assert agent_socket.request_pod(str(tmp_path / "socket"), WEB) is None
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))  # as after an end by SIGKILL: the file is left, and nothing listens
        assert agent_socket.request_pod(str(tmp_path / "socket"), WEB) is None
    assert time.monotonic() - started < agent_socket.ANSWER_TIMEOUT


@pytest.mark.parametrize("queue", ["free", "full"])
def test_an_agent_that_hangs_is_left_after_a_moment(tmp_path: Path, queue: str) -> None:
    path = str(tmp_path / "socket")
    waiting: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(path)
        hanging.listen(0)
        while queue == "full":
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            try:
                waiting[-1].connect(path)
            except BlockingIOError:
                break
        started = time.monotonic()
        assert agent_socket.request_pod(path, WEB, timeout=0.1) is None
        assert time.monotonic() - started < 5
        for each in waiting:
            each.close()


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[1]\n", b'{"pod": 3}\n', b'{"pod"'])
def test_an_agent_that_talks_nonsense_is_as_good_as_away(tmp_path: Path, answer: bytes) -> None:
    import threading

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()

        def talk() -> None:
            connection, _ = listening.accept()
            connection.recv(4096)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=talk)
        thread.start()
        assert agent_socket.request_pod(str(tmp_path / "socket"), WEB) is None
        thread.join()


def test_a_request_gets_the_reason(tmp_path: Path) -> None:
    with pytest.raises(AgentAwayError, match="No such file"):
        agent_socket.request(str(tmp_path / "socket"), {"get": "status"}, 1)
