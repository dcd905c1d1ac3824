"""What the agent writes into the API: Events, evictions, taints."""

import datetime as dt
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import pytest
from lightkube import Client

from capture.errors import CaptureError
from cni.agent import api, events, taint
from cni.agent.pods import reduced_pod
from support.cluster import fake_kubernetes
from support.cluster.fake_kubernetes import FakeKubernetes
from support.processes.waiting import wait_until

POD = {"namespace": "shop", "name": "web", "uid": "uid-1"}
NOT_READY = {"key": "cni.istio.io/not-ready", "effect": "NoSchedule"}
OTHER = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as fake:
        (tmp_path / "kubeconfig").write_text(fake.kubeconfig({"token": "secret"}))
        yield fake


@pytest.fixture
def client(server: FakeKubernetes, tmp_path: Path) -> Iterator[Client]:
    with api.connect(kubeconfig=str(tmp_path / "kubeconfig")) as connected:
        yield connected


def test_a_server_whose_certificate_names_no_key_of_its_authority(
    server: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ssl.create_default_context`` is strict since Python 3.13; Go's clients are not."""
    create = ssl.create_default_context

    def strict(**trusted: Any) -> ssl.SSLContext:
        context = create(**trusted)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    with api.connect(kubeconfig=str(tmp_path / "kubeconfig")) as client:
        assert api.evict(client, "shop", "web", "uid-1") == ""


def test_what_the_environment_of_a_process_trusts_is_not_trusted(
    server: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.crt").write_bytes(fake_kubernetes.authority("kubernetes").pem)
    (tmp_path / "kubeconfig").write_text(server.kubeconfig(**{"certificate-authority-data": None}))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    with api.connect(kubeconfig=str(tmp_path / "kubeconfig")) as client:
        assert "certificate verify failed" in api.evict(client, "shop", "web", "uid-1")


def test_a_client_leaves_no_connection_behind(client: Client, tmp_path: Path) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    with api.connect(kubeconfig=str(tmp_path / "kubeconfig")) as another:
        assert api.evict(another, "shop", "web", "uid-1") == ""
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= open_files)  # the server's ends are here, too


def test_a_watch_that_is_silent_for_too_long_ends(
    server: FakeKubernetes, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "SILENCE_TIMEOUT", 0.5)
    server.history.happens("ADDED", {"metadata": dict(POD), "spec": {}})
    watch = api.watch_pods(client, "node-1", "1000")
    assert next(watch)[0] == "ADDED"
    with pytest.raises(api.API_ERRORS):
        next(watch)


def test_lists_and_watches_are_apart_and_nothing_else_waits(
    server: FakeKubernetes, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps: list[float] = []
    monkeypatch.setattr(api, "MIN_INTERVAL", 100.0)
    monkeypatch.setattr("cni.agent.api.time.sleep", sleeps.append)
    server.objects["/api/v1/nodes/node-1"] = {"metadata": {"labels": {"os": "linux"}}}
    api.list_pods(client, "node-1")
    assert api.node_labels(client, "node-1") == {"os": "linux"}
    api.list_pods(client, "node-1")
    server.history.happens("ADDED", {"metadata": dict(POD), "spec": {}})
    next(api.watch_pods(client, "node-1", "1000"))
    assert sleeps == [0, pytest.approx(100, abs=50), pytest.approx(200, abs=50)]


def test_a_list_is_reduced_pod_by_pod_before_it_is_decoded_as_a_whole() -> None:
    environment = [{"name": "ISTIO_META_DNS_CAPTURE", "value": "true"}, {"name": "OTHER", "value": "x" * 1000}]
    pod = {
        "metadata": {"name": "web", "managedFields": ["x" * 1000]},
        "spec": {"containers": [{"name": "istio-proxy", "env": environment}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    whole = {"kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": [pod, pod]}
    body = json.dumps(whole, separators=(",", ":")).encode()
    slim = api.reduce_list(body)
    assert json.loads(slim) == whole | {"items": [reduced_pod(pod), reduced_pod(pod)]}
    assert [reduced_pod(each) for each in json.loads(slim)["items"]] == json.loads(slim)["items"]
    assert len(slim) < len(body) / 4
    for other in (b'{"kind":"PodList","items":[]}', b'{"kind":"Status","message":"no"}'):
        assert api.reduce_list(other) == other


def test_an_event_about_a_pod(server: FakeKubernetes, client: Client) -> None:
    assert events.publish_on_pod(client, POD, "CaptureMissing", "no rules" * 200)
    [(path, event)] = server.posted
    assert path == "/api/v1/namespaces/shop/events"
    assert event["involvedObject"] == {"kind": "Pod", "apiVersion": "v1"} | POD
    assert (event["reason"], event["type"]) == ("CaptureMissing", "Warning")
    assert len(event["message"]) == 1024


def test_an_event_about_a_node(server: FakeKubernetes, client: Client) -> None:
    assert events.publish_on_node(client, "node-1", "CaptureNotInstalled", "no runtime")
    [(path, event)] = server.posted
    assert path == "/api/v1/namespaces/default/events"
    assert event["involvedObject"] == {"kind": "Node", "name": "node-1", "uid": "node-1"}
    assert event["metadata"] == {"generateName": "capture-", "namespace": "default"}
    assert (event["reason"], event["message"], event["type"]) == ("CaptureNotInstalled", "no runtime", "Warning")
    assert (event["source"], event["count"]) == ({"component": "capture-agent"}, 1)
    assert event["firstTimestamp"] == event["lastTimestamp"]
    assert abs(dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(event["firstTimestamp"])).total_seconds() < 60


def test_an_event_that_is_not_taken_is_no_error(server: FakeKubernetes, client: Client) -> None:
    server.always(fake_kubernetes.status(403))
    assert not events.publish_on_node(client, "node-1", "CaptureListRewritten", "again")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (None, "published"),
        (fake_kubernetes.status(409), "known"),
        (fake_kubernetes.status(403), "refused"),
        (fake_kubernetes.status(429), "unreachable"),
        (fake_kubernetes.status(500), "unreachable"),
        (fake_kubernetes.html(502), "unreachable"),
        (fake_kubernetes.nothing(), "unreachable"),
    ],
)
def test_an_event_of_a_name_is_known_or_refused_for_ever_or_may_be_taken_later(
    server: FakeKubernetes, client: Client, answer: fake_kubernetes.Behaviour | None, outcome: str
) -> None:
    server.always(answer)
    assert events.publish_once_on_pod(client, POD, "capture-warning-1", "CaptureWarning", "a way round") == outcome
    path, event = server.posted[0]
    assert path == "/api/v1/namespaces/shop/events"
    assert event["metadata"] == {"name": "capture-warning-1", "namespace": "shop"}
    assert event["involvedObject"] == {"kind": "Pod", "apiVersion": "v1"} | POD
    assert (event["reason"], event["message"], event["type"]) == ("CaptureWarning", "a way round", "Warning")


def test_a_list_comes_from_the_cache_and_reduced(
    server: FakeKubernetes, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MIN_INTERVAL", 0)
    server.history.happens("ADDED", {"metadata": POD | {"managedFields": ["x"]}, "spec": {}, "status": {}})
    pods, version = api.list_pods(client, "node-1")
    [listed] = server.pods.values()
    assert pods == [reduced_pod(cast("dict[str, Any]", listed))]
    assert version == str(server.history.version)
    assert queried(server) == {
        "fieldSelector": "spec.nodeName=node-1", "limit": "50", "resourceVersion": "0",
        "resourceVersionMatch": "NotOlderThan",
    }  # fmt: skip
    server.will(fake_kubernetes.status(403, "no"))
    with pytest.raises(api.API_ERRORS, match="no"):
        api.list_pods(client, "node-1")


def test_a_watch_goes_on_after_a_version_and_has_bookmarks_and_an_end(server: FakeKubernetes, client: Client) -> None:
    server.history.happens("ADDED", {"metadata": dict(POD), "spec": {}})
    server.history.bookmark()
    watch = api.watch_pods(client, "node-1", "1000")
    assert [next(watch)[0], next(watch)[0]] == ["ADDED", "BOOKMARK"]
    parameters = queried(server)
    assert api.WATCH_SECONDS <= int(parameters.pop("timeoutSeconds")) < api.WATCH_SECONDS + 20 < api.SILENCE_TIMEOUT
    assert parameters == {
        "watch": "true", "allowWatchBookmarks": "true", "fieldSelector": "spec.nodeName=node-1",
        "resourceVersion": "1000",
    }  # fmt: skip


def queried(server: FakeKubernetes) -> dict[str, str]:
    """Return the parameters of the last request for the pods of all namespaces."""
    path, _, query = server.requests[-1].path.partition("?")
    assert path == "/api/v1/pods"
    return dict(parse_qsl(query))


def test_only_the_very_pod_is_evicted(server: FakeKubernetes, client: Client) -> None:
    assert api.evict(client, "shop", "web", "uid-1") == ""
    [(path, eviction)] = server.posted
    assert path == "/api/v1/namespaces/shop/pods/web/eviction"
    assert eviction["deleteOptions"]["preconditions"] == {"uid": "uid-1"}


def test_a_disruption_budget_has_the_last_word(server: FakeKubernetes, client: Client) -> None:
    server.will(fake_kubernetes.status(429, "Cannot evict pod as it would violate the pod's disruption budget."))
    assert "disruption budget" in api.evict(client, "shop", "web", "uid-1")


@pytest.mark.parametrize(
    ("taints", "patch"),
    [
        ([], None),
        ([OTHER], None),
        (
            [NOT_READY],
            [{"op": "test", "path": "/spec/taints", "value": [NOT_READY]}, {"op": "remove", "path": "/spec/taints/0"}],
        ),
        (
            [OTHER, NOT_READY],
            [
                {"op": "test", "path": "/spec/taints", "value": [OTHER, NOT_READY]},
                {"op": "remove", "path": "/spec/taints/1"},
            ],
        ),
    ],
)
def test_only_the_named_taints_go_and_only_if_nothing_else_has_changed(
    server: FakeKubernetes, client: Client, taints: list[dict[str, str]], patch: object
) -> None:
    server.objects["/api/v1/nodes/node-1"] = {"metadata": {"name": "node-1"}, "spec": {"taints": taints}}
    assert taint.remove_taints(client, "node-1", ("cni.istio.io/not-ready",)) == (True, "")
    assert [sent for _, sent in server.posted] == ([patch] if patch else [])


def test_taints_that_cannot_be_removed(server: FakeKubernetes, client: Client) -> None:
    server.always(fake_kubernetes.status(403, "no"))
    assert taint.remove_taints(client, "node-1", ("x",)) == (False, "403 no")


def test_outside_of_a_pod_it_is_an_error_that_names_the_account(tmp_path: Path) -> None:
    problem = f"{tmp_path}/[a-z.]+: No such file or directory"
    with pytest.raises(CaptureError, match=f"^cannot use the service account in {tmp_path}: {problem}\n") as caught:
        api.connect(str(tmp_path))
    assert "NODE_NAME" in caught.value.remedy
