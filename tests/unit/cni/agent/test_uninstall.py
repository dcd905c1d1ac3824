"""The plugin leaves a node when no pod and no runtime can call it any more."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from capture.errors import CaptureError
from cni import deferred_removal
from cni.agent import uninstall
from cni.agent.options import Options
from cni.agent.runtime import LoadedNetwork
from support.cluster import fake_kubernetes
from support.cluster.fake_kubernetes import FakeKubernetes

DAEMON_SETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    for name in ("bin", "results", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "capture-cni").write_text("a plugin")
    return tmp_path


def remember(node: Path, container: str, plugin: str = "capture-cni") -> Path:
    config = json.dumps({"plugins": [{"type": "bridge"}, {"type": plugin}]}).replace(": ", ":").encode()
    kept = {"kind": "cniCacheV1", "containerId": container, "config": base64.b64encode(config).decode()}
    path = node / "results" / f"lab-{container}-eth0"
    path.write_text(json.dumps(kept))
    return path


def leave(node: Path) -> list[str]:
    return deferred_removal.schedule_removal(str(node / "bin"), str(node / "run" / "leaving"), str(node / "results"))


def goes(node: Path, timeout: float = 0.01) -> bool:
    return deferred_removal.remove_when_unused(str(node / "run" / "leaving"), str(node / "results"), timeout)


def test_the_plugin_goes_at_once_where_no_pod_remembers_it(node: Path) -> None:
    remember(node, "other", plugin="portmap")
    (node / "results" / "nonsense").write_text("{")
    assert leave(node) == [f"{node}/bin/capture-cni"]
    assert [*(node / "bin").iterdir()] == [*(node / "run").iterdir()] == []


def test_the_plugin_goes_with_the_last_pod_that_remembers_it(node: Path) -> None:
    """Also one that was left alone: the runtime calls every plugin of the list that the pod was started with."""
    first, last = remember(node, "c1"), remember(node, "c2")
    assert leave(node) == []
    first.unlink()
    assert not goes(node)
    threading.Timer(0.1, last.unlink).start()  # libcni forgets after all plugins were called
    assert goes(node, timeout=5)
    assert [*(node / "bin").iterdir()] == [*(node / "run").iterdir()] == []


def test_the_runtime_does_not_wait_for_it(node: Path) -> None:
    last = remember(node, "c1")
    leave(node)
    started = time.monotonic()
    deferred_removal.on_container_end(str(node / "run" / "leaving"), str(node / "results"))
    assert time.monotonic() - started < deferred_removal.LAST_POD_TIMEOUT / 2
    last.unlink()
    while (node / "bin" / "capture-cni").exists():
        assert time.monotonic() - started < 10
        time.sleep(0.02)


def test_nothing_goes_while_the_plugin_is_installed(node: Path) -> None:
    remember(node, "c1")
    leave(node)
    (node / "results" / "lab-c1-eth0").unlink()
    deferred_removal.cancel_removal(str(node / "run" / "leaving"))
    assert not goes(node)
    assert (node / "bin" / "capture-cni").exists()


def test_in_doubt_the_plugin_stays(node: Path) -> None:
    (node / "results").rmdir()
    assert leave(node) == []
    assert (node / "bin" / "capture-cni").exists()


NODE = "/api/v1/nodes/node-1"


def selecting(os: str) -> dict[str, Any]:
    return {"metadata": {}, "spec": {"template": {"spec": {"nodeSelector": {"os": os}}}}}


@pytest.mark.parametrize(
    ("objects", "behaviour", "gone"),
    [
        ({"/capture-agent": {"metadata": {"name": "capture-agent"}}}, None, False),
        ({"/capture-agent": {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}}, None, True),
        ({}, None, True),
        ({"/capture-agent": selecting("linux"), NODE: {"metadata": {"labels": {"os": "linux"}}}}, None, False),
        ({"/capture-agent": selecting("mesh"), NODE: {"metadata": {"labels": {"os": "linux"}}}}, None, True),
        ({"/capture-agent": selecting("linux")}, None, False),
        ({}, fake_kubernetes.status(401), False),
        ({}, fake_kubernetes.status(403), False),
        ({}, fake_kubernetes.status(503), False),
        ({}, fake_kubernetes.nothing(), False),
    ],
    ids=["there", "deleting", "404", "chosen", "not chosen", "node unknown", "401", "403", "503", "silent"],
)
def test_only_a_daemon_set_that_is_certainly_gone_is_gone(
    cluster: tuple[FakeKubernetes, Any],
    objects: dict[str, object],
    behaviour: fake_kubernetes.Behaviour | None,
    gone: bool,  # noqa: FBT001  # a column
) -> None:
    server, client = cluster
    server.objects |= {name if name == NODE else DAEMON_SETS + name: found for name, found in objects.items()}
    server.always(behaviour)
    assert uninstall.is_gone(client, "kube-system/capture-agent", "node-1") is gone


class Containerd:
    """A runtime that reports what it has loaded; it needs a moment to see that the entry is gone."""

    def __init__(self) -> None:
        self.calls = 0

    def loaded(self) -> LoadedNetwork:
        self.calls += 1
        plugins = ("bridge", "capture-cni") if self.calls < 3 else ("bridge",)
        return LoadedNetwork(plugins, "lab", "/etc/cni/net.d", ("/opt/cni/bin",))


def test_with_containerd_the_plugin_goes_when_it_is_not_loaded_any_more(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps: list[float] = []
    monkeypatch.setattr("cni.agent.uninstall.time.sleep", sleeps.append)
    for name in ("net.d", "istio-capture"):
        (node / name).mkdir()
    (node / "istio-capture" / "token").touch()
    plugins = [{"type": "bridge"}, {"type": "capture-cni"}]
    entered = node / "net.d" / "10-lab.conflist"
    entered.write_text(json.dumps({"cniVersion": "1.0.0", "name": "lab", "plugins": plugins}))
    remember(node, "c1")
    runtime: Any = Containerd()
    options = Options("node-1", "", {}, bin_dir=f"{node}/bin", conf_dir=f"{node}/net.d")
    of_entry, *others = uninstall.uninstall(options, runtime)
    assert of_entry.startswith(f"{entered}: ")
    assert json.loads(entered.read_text())["plugins"] == plugins[:1]
    assert others == [f"{node}/istio-capture/token: removed", f"{node}/bin/capture-cni: removed"]
    assert (runtime.calls, len(sleeps), sleeps[-1]) == (3, 3, uninstall.CALLS_END_SECONDS)
    assert [*(node / "bin").iterdir()] == []


@pytest.mark.parametrize(
    "answers", [lambda: None, lambda: LoadedNetwork(("capture-cni",), "lab", "", ()), lambda: os.stat("/proc/nowhere")],
    ids=["no report", "never without", "silent"],
)  # fmt: skip
def test_where_the_runtime_may_still_call_the_plugin_it_goes_with_the_last_pod(
    node: Path, monkeypatch: pytest.MonkeyPatch, answers: Any
) -> None:
    monkeypatch.setattr(uninstall, "UNLOAD_TIMEOUT", 0.1)
    places = {"removal_file": f"{node}/run/leaving", "results": f"{node}/results"}
    monkeypatch.setattr(deferred_removal, "schedule_removal", partial(deferred_removal.schedule_removal, **places))
    (node / "net.d").mkdir()
    last = remember(node, "c1")
    options = Options("node-1", "", {}, bin_dir=f"{node}/bin", conf_dir=f"{node}/net.d")
    runtime: Any = SimpleNamespace(loaded=answers)
    assert uninstall.uninstall(options, runtime) == [
        f"{node}/bin/capture-cni: stays until the last pod that was started with it ends"
    ]
    last.unlink()
    assert uninstall.uninstall(options, runtime) == [f"{node}/bin/capture-cni: removed"]
    assert uninstall.uninstall(options, runtime) == []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[FakeKubernetes, Any]]:
    from cni.agent import api

    with FakeKubernetes() as server:
        (tmp_path / "kubeconfig").write_text(server.kubeconfig({"token": "secret"}))
        with api.connect(kubeconfig=str(tmp_path / "kubeconfig")) as client:
            yield server, client


def test_all_nodes_are_waited_for_until_the_daemon_set_is_gone(
    cluster: tuple[FakeKubernetes, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = cluster
    path, sleeps = f"{DAEMON_SETS}/capture-agent", []
    server.objects[path] = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            del server.objects[path]

    monkeypatch.setattr("cni.agent.uninstall.time.sleep", sleep)
    uninstall.uninstall_from_all_nodes(client, "kube-system/capture-agent")
    assert sleeps == [1, 1, 1]
    [(deleted, _)] = server.posted
    assert deleted == f"{path}?propagationPolicy=Foreground"
    server.will(fake_kubernetes.status(404))
    uninstall.uninstall_from_all_nodes(client, "kube-system/capture-agent")


def test_agents_that_do_not_end_are_an_error(cluster: tuple[FakeKubernetes, Any]) -> None:
    server, client = cluster
    server.objects[f"{DAEMON_SETS}/capture-agent"] = {}
    with pytest.raises(CaptureError, match="DaemonSet kube-system/capture-agent is still there after 0 s"):
        uninstall.uninstall_from_all_nodes(client, "kube-system/capture-agent", timeout=0)
    server.will(fake_kubernetes.status(403, "no"))
    with pytest.raises(CaptureError, match="DaemonSet kube-system/capture-agent: 403 no"):
        uninstall.uninstall_from_all_nodes(client, "kube-system/capture-agent")


@pytest.mark.parametrize("moment", [0, 2, 3], ids=["before", "while the runtime loads", "last calls"])
def test_the_plugin_stays_where_another_agent_has_come_meanwhile(
    node: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """A node that is chosen again while the agent of before uninstalls: the plugin is the new one's."""
    monkeypatch.setattr(uninstall, "CALLS_END_SECONDS", 0)
    (node / "net.d").mkdir()
    runtime = Containerd()
    options = Options("node-1", "", {}, bin_dir=f"{node}/bin", conf_dir=f"{node}/net.d")
    changes = uninstall.uninstall(options, runtime, lambda: runtime.calls >= moment)  # type: ignore[arg-type]
    assert changes == [f"{node}/bin/capture-cni: stays, since another agent has come to this node"]
    assert (runtime.calls, (node / "bin" / "capture-cni").exists()) == (moment, True)
