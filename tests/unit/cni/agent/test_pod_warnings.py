"""Warnings to the owner of a pod: once for each pod, from whichever agent."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cni.agent import api, pod_warnings
from cni.agent.pod_warnings import PAUSE_SECONDS, WarningPublisher
from cni.agent.runtime import Sandbox
from support.cluster import fake_kubernetes
from support.cluster.fake_kubernetes import FakeKubernetes
from support.output.agent_lines import AgentLines

WEB, API = (Sandbox(f"of {name}", "shop", name, f"uid of {name}", 0) for name in ("web", "api"))
TOLD = {"message": "pod warning", "level": "warn", "pod": "shop/web", "says": "a way round"}


@pytest.fixture
def server() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as fake:
        yield fake


@pytest.fixture
def warn(server: FakeKubernetes, tmp_path: Path) -> Iterator[WarningPublisher]:
    (tmp_path / "kubeconfig").write_text(server.kubeconfig({"token": "secret"}))
    with api.connect(kubeconfig=str(tmp_path / "kubeconfig")) as client:
        yield WarningPublisher(client, AgentLines())


def told(warn: WarningPublisher) -> list[dict[str, Any]]:
    log: Any = warn._log
    return [{key: line[key] for key in TOLD} for line in log.lines]


def test_the_owner_of_a_pod_is_warned_once_in_one_event(server: FakeKubernetes, warn: WarningPublisher) -> None:
    warn(WEB, ())
    for _ in range(2):
        warn(WEB, ("a way round", "another"))
    [(path, event)] = server.posted
    assert path == "/api/v1/namespaces/shop/events"
    assert event["metadata"]["name"] == "capture-warning-uid of web"
    assert event["involvedObject"].items() >= {"namespace": "shop", "name": "web", "uid": "uid of web"}.items()
    assert (event["reason"], event["message"]) == ("CaptureWarning", "a way round; another")
    assert told(warn) == [TOLD, TOLD | {"says": "another"}]


def test_what_another_agent_has_told_is_not_told_again(server: FakeKubernetes, warn: WarningPublisher) -> None:
    server.always(fake_kubernetes.status(409))
    for _ in range(2):
        warn(WEB, ("a way round",))
    assert (told(warn), len(server.posted)) == ([], 1)


def test_an_api_server_that_is_away_is_left_alone_for_a_minute(
    server: FakeKubernetes, warn: WarningPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(pod_warnings, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    server.always(fake_kubernetes.status(503))
    for pod in (WEB, API):
        warn(pod, ("a way round",))
    clock[0] += PAUSE_SECONDS - 1
    warn(WEB, ("a way round",))
    assert (told(warn), len(server.posted)) == ([], 1)
    server.always(None)
    clock[0] += 1
    warn(WEB, ("a way round",))
    assert (told(warn), len(server.posted)) == ([TOLD], 2)


def test_without_an_api_server_it_is_in_the_log() -> None:
    warn = WarningPublisher(None, AgentLines())
    for _ in range(2):
        warn(WEB, ("a way round",))
    assert told(warn) == [TOLD]


def test_the_oldest_pods_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_warnings, "MAX_PUBLISHED", 1)
    warn = WarningPublisher(None, AgentLines())
    for pod in (WEB, API, API, WEB):
        warn(pod, ("a way round",))
    assert [each["pod"] for each in told(warn)] == ["shop/web", "shop/api", "shop/web"]
