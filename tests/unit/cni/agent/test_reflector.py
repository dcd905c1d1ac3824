"""The table of pods is that of the API server, through cuts, new tokens and outages."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cni.agent.agent_log import AgentLog
from cni.agent.backoff import Backoff
from cni.agent.health import Health
from cni.agent.pods import Pods
from support.cluster import fake_kubernetes
from support.cluster.fake_kubernetes import FakeKubernetes
from support.output.agent_lines import AgentLines
from support.processes.waiting import wait_until


def a_pod(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": name, "uid": f"uid of {name}"} | metadata, "spec": {}}


class Watching:
    """A reflector in a thread, and what it knows."""

    def __init__(self, server: FakeKubernetes, kubeconfig: Path) -> None:
        from cni.agent import api
        from cni.agent.reflector import Reflector

        self.server = server
        self.pods, self.health, self.stop = Pods(), Health(), threading.Event()
        kubeconfig.write_text(server.kubeconfig({"tokenFile": str(kubeconfig.with_name("token"))}))
        self.client = api.connect(kubeconfig=str(kubeconfig))
        self.reflector = Reflector(self.client, "node-1", self.pods, self.health, AgentLog(descriptor=-1))
        self.thread = threading.Thread(target=self.reflector.run, args=(self.stop,), daemon=True)
        self.thread.start()

    def names(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.pods.all()}

    def knows(self, *names: str) -> bool:
        return self.names() == set(names)

    def wait_until(self, expected: Callable[[], bool], seconds: float = 10) -> None:
        wait_until(expected, seconds, lambda: (self.names(), self.health.as_plain(), self.server.requests[-5:]))


@contextmanager
def watching(tmp_path: Path, *names: str, is_quick: bool = True) -> Iterator[Watching]:
    """Let a reflector watch a server with these pods, with short pauses or those of an agent."""
    (tmp_path / "token").write_text("first")
    with FakeKubernetes() as server, pytest.MonkeyPatch.context() as patch:
        if is_quick:
            patch.setattr("cni.agent.reflector.Backoff", lambda: Backoff(0.1))
            patch.setattr("cni.agent.api.MIN_INTERVAL", 0.05)
        for name in names:
            server.history.happens("ADDED", a_pod(name))
        watched = Watching(server, tmp_path / "kubeconfig")
        try:
            watched.wait_until(lambda: watched.pods.is_fresh)
            yield watched
        finally:
            watched.stop.set()
            server.history.happens("ADDED", a_pod("the last one"))  # ends the wait for something to happen
            watched.thread.join(10)
            watched.client.close()


def test_pods_come_and_go(tmp_path: Path) -> None:
    with watching(tmp_path, "a", "b") as watched:
        assert watched.names() == {"a", "b"}
        watched.server.history.happens("ADDED", a_pod("c"))
        watched.server.history.happens("DELETED", a_pod("a"))
        watched.wait_until(lambda: watched.names() == {"b", "c"})


def test_a_watch_that_was_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    with watching(tmp_path, "a") as watched:
        watched.server.history.bookmark()
        watched.wait_until(lambda: len(watched.server.requests) == 2)
        version = watched.server.history.version
        watched.wait_until(lambda: watched.reflector._version == str(version))
        watched.server.history.cut()
        watched.server.history.happens("ADDED", a_pod("b"))
        watched.wait_until(lambda: watched.names() == {"a", "b"})
        lists = [request for request in watched.server.requests if "watch=true" not in request.path]
        assert len(lists) == 1
        assert f"resourceVersion={version}" in watched.server.requests[-1].path


def test_after_410_who_has_gone_is_gone(tmp_path: Path) -> None:
    with watching(tmp_path, "a", "b") as watched:
        del watched.server.pods["shop", "a"]  # while it was not looking
        watched.server.history.forget()
        watched.wait_until(lambda: watched.names() == {"b"})


def test_a_token_that_was_renewed_is_used(tmp_path: Path) -> None:
    with watching(tmp_path, "a") as watched:
        (tmp_path / "token").write_text("second")
        watched.server.accepts("second")
        watched.server.history.forget()
        watched.server.history.happens("ADDED", a_pod("b"))
        watched.wait_until(lambda: watched.names() == {"a", "b"})


FAULTS = {
    **{str(code): fake_kubernetes.status(code) for code in (401, 403, 429, 500)},
    "closed": fake_kubernetes.nothing(),
    "html": fake_kubernetes.html(200),
    "half": fake_kubernetes.cut_off(),
    "empty": fake_kubernetes.raw(b"HTTP/1.1 200 OK\r\n\r\n"),
}


def test_no_fault_makes_it_ask_more_than_twice_a_second(tmp_path: Path) -> None:
    """All faults at once, each with a server of its own, since most of the time is spent waiting."""
    with ExitStack() as stack:
        troubled = {}
        for name in FAULTS:
            (tmp_path / name).mkdir()
            troubled[name] = stack.enter_context(watching(tmp_path / name, "a", is_quick=False))
        for name, watched in troubled.items():
            watched.server.always(FAULTS[name])
            watched.server.history.cut()
        before = {name: len(watched.server.requests) for name, watched in troubled.items()}
        time.sleep(1.0)
        requests = {name: len(watched.server.requests) - before[name] for name, watched in troubled.items()}
        assert max(requests.values()) <= 4, requests  # 401 reads the token and tries again
        for watched in troubled.values():
            watched.server.always(None)
            watched.server.history.happens("ADDED", a_pod("b"))
        for watched in troubled.values():
            watched.wait_until(partial(watched.knows, "a", "b"), 20)


def test_while_the_api_server_is_away_nothing_is_certain(tmp_path: Path) -> None:
    with watching(tmp_path, "a") as watched:
        watched.server.always(fake_kubernetes.nothing())
        watched.server.history.cut()
        watched.wait_until(lambda: bool(watched.health.fact("api_away_since")))
        assert not watched.pods.is_fresh
        assert watched.names() == {"a"}
        watched.server.always(None)
        watched.wait_until(lambda: watched.pods.is_fresh)
        assert watched.health.fact("api_away_since") is None


class Answer(Exception):  # noqa: N818 - what the API client raises, with a code
    """A failure with an HTTP status; 0 is silence."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A reflector without an API server, whose pauses have no jitter."""
    from cni.agent import reflector

    monkeypatch.setattr("cni.agent.api.http_status", lambda error: error.args[0])
    monkeypatch.setattr("cni.agent.api.error_text", lambda error: f"status {error.args[0]}")
    monkeypatch.setattr("cni.agent.reflector.random", SimpleNamespace(uniform=lambda _low, high: high))
    nothing: Any = None
    return reflector.Reflector(nothing, "node-1", Pods(), Health(), AgentLines())


def test_pauses_grow_to_a_minute_and_a_second_failure_is_news(alone: Any) -> None:
    alone._note_success()
    assert alone.health.fact("api_connected") is True
    pauses = []
    for _ in range(8):
        pauses.append(alone._note_failure(Answer(500)))
        if len(pauses) == 1:
            assert alone.health.fact("api_away_since") is None
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert alone.health.fact("api_connected") is False
    assert alone.health.fact("api_problem") == "status 500"
    assert alone.health.counts() == {("watch_restarts", "500"): 8}
    alone._note_success()
    alone._note_success()
    assert alone.log.messages == ["the API server answers", "the API server does not answer", "the API server answers"]
    assert alone.health.fact("api_connected") is True
    assert alone.health.fact("api_away_since") is None
    assert alone._note_failure(Answer(0)) == 1.0, "it begins anew"
    assert alone.health.counts()["watch_restarts", "Answer"] == 1


def test_a_version_that_is_too_old_is_no_failure(alone: Any) -> None:
    alone._version = "7"
    assert alone._note_failure(Answer(410)) == 0.0
    assert alone._version == ""
    assert alone._note_failure(Answer(500)) == 1.0


def test_the_version_is_kept_over_one_failure_and_not_over_two(alone: Any) -> None:
    alone._version = "7"
    alone._note_failure(Answer(500))
    first = alone._version
    alone._note_failure(Answer(500))
    assert (first, alone._version) == ("7", "")


def test_an_event_ends_a_row_of_failures(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = a_pod("a", resourceVersion="8")
    monkeypatch.setattr("cni.agent.api.watch_pods", lambda *_: iter([("ADDED", pod)]))
    for _ in range(2):
        assert alone._note_failure(Answer(500)) == 1.0
        alone._watch(threading.Event())
    assert alone._version == "8"


def test_each_turn_is_followed_by_its_pause(alone: Any) -> None:
    pauses: list[float] = []
    stop = SimpleNamespace(is_set=lambda: len(pauses) > 1, wait=pauses.append)
    alone.run_once = lambda _stop: 3.0
    alone.run(stop)
    assert pauses == [3.0, 3.0]


def test_a_server_that_is_away_for_days_is_no_defect() -> None:
    from cni.agent.backoff import LONGEST_PAUSE
    from cni.agent.reflector import Reflector

    no_client: Any = None
    reflector = Reflector(no_client, "node-1", Pods(), Health(), AgentLog(descriptor=-1))
    pauses = [reflector._note_failure(OSError("no answer")) for _ in range(1100)]  # as doubled, beyond a float
    assert LONGEST_PAUSE / 2 <= pauses[-1] <= LONGEST_PAUSE
