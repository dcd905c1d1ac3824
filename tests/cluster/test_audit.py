"""What the agent finds and mends on a real node: each fault is made there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster_pods import APP_PORT, pod
from cluster_traffic import BOTH, address, seen, way
from kubernetes_cluster import Cluster

pytestmark = pytest.mark.cluster

CAPTURE = "/usr/libexec/istio-capture/capture"


@pytest.fixture(scope="module")
def audited(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with two pods of the mesh, and no repair."""
    cluster.apply(pod("web"), pod("client"))
    cluster.kubectl("wait", "pod", "web", "client", "--for=condition=Ready", "--timeout=60s")
    found(cluster, "web", "captured", 70)
    yield cluster
    cluster.kubectl("delete", "pod", "-l", "app", "--grace-period=1", "--wait")


def state(cluster: Cluster, name: str) -> dict[str, Any]:
    told = json.loads(cluster.in_agent(CAPTURE, "node", "pods", "--format", "json", check=False).splitlines()[0])
    return next((each for each in told["pods"] if each["pod"] == f"default/{name}"), {"state": "none"})


def found(cluster: Cluster, name: str, expected: str, seconds: float = 5) -> dict[str, Any]:
    """Wait until the agent knows a pod to be in a state; an exec takes half a second of these."""
    give_up = time.monotonic() + seconds
    while (told := state(cluster, name))["state"] != expected:
        assert time.monotonic() < give_up, told
        time.sleep(0.1)
    return told


def in_namespace(cluster: Cluster, name: str) -> Callable[..., str]:
    path = state(cluster, name)["namespace_path"]
    return lambda *command: cluster.run(["nsenter", f"--net={path}", *command])


def test_captured(audited: Cluster) -> None:
    """Pods of the mesh are known as captured, the agent as of the node's network."""
    assert state(audited, "client")["state"] == "captured"
    told = json.loads(audited.in_agent(CAPTURE, "node", "pods", "--format", "json", check=False).splitlines()[0])
    assert [each["state"] for each in told["pods"] if each["pod"].startswith("istio-capture/")] == ["host-network"]


def test_rules_lost(audited: Cluster) -> None:
    """Rules that another program takes away: found within 5 s, told by an Event on the pod and a metric."""
    run = in_namespace(audited, "web")
    run("nft", "flush", "ruleset")
    found(audited, "web", "no-rules")
    metrics = audited.run(["curl", "-gs", f"http://{audited.api_address}:15014/metrics"])
    assert 'capture_pod_problem{namespace="default",pod="web",state="no-rules"} 1.0' in metrics
    give_up = time.monotonic() + 10
    while "CaptureMissing" not in audited.kubectl("get", "events", "--field-selector=involvedObject.name=web"):
        assert time.monotonic() < give_up
    audited.kubectl("delete", "pod", "web", "--grace-period=1", "--wait")
    audited.apply(pod("web"))
    audited.kubectl("wait", "pod", "web", "--for=condition=Ready", "--timeout=60s")
    found(audited, "web", "captured")


def test_started_in_a_gap(audited: Cluster) -> None:
    """A pod that started while the entry was away: found within 5 s, and repaired in place where that is wanted."""
    if audited.method == "manifest":
        pytest.skip("the manifest repairs nothing")
    audited.install("repair.starting=apply", "repair.running=apply")
    audited.run(["pkill", "-STOP", "-f", "capture node agent"])
    try:
        audited.write_list()
        time.sleep(0.5)
        audited.apply(pod("gap"))
        audited.kubectl("wait", "pod", "gap", "--for=condition=Ready", "--timeout=30s")
        assert way(seen(audited, "gap", address(audited, "web"))) != BOTH
    finally:
        audited.run(["pkill", "-CONT", "-f", "capture node agent"])
    resumed = time.monotonic()
    while way(seen(audited, "gap", address(audited, "web"))) != BOTH:
        assert time.monotonic() - resumed < 6
    found(audited, "gap", "captured")
    assert "CaptureRepaired" in audited.kubectl("get", "events", "--field-selector=involvedObject.name=gap")


def test_foreign_rule(audited: Cluster) -> None:
    """A foreign rule before ours that takes traffic away."""
    run = in_namespace(audited, "client")
    run("nft", "add table ip foreign; add chain ip foreign out { type nat hook output priority -150; }; "
        f"add rule ip foreign out tcp dport {APP_PORT} redirect to :9")  # fmt: skip
    found(audited, "client", "foreign-rule")
    run("nft", "delete", "table", "ip", "foreign")
    found(audited, "client", "captured")


def test_proxy_gone(audited: Cluster) -> None:
    """A proxy that does not listen in a pod that is ready."""
    audited.apply(pod("silent", pause_proxy=True))
    audited.kubectl("wait", "pod", "silent", "--for=condition=Ready", "--timeout=60s")
    found(audited, "silent", "not-listening")


def test_why_by_kubectl(audited: Cluster) -> None:
    """`kubectl capture why POD` and `verify POD` answer for a pod by its name."""
    where = f"{address(audited, 'web')}:{APP_PORT}"
    assert "captured" in audited.kubectl_capture("why", "client", "tcp", where, "--uid", "1000")
    assert "in sync" in audited.kubectl_capture("verify", "client")
    assert "captured" in audited.kubectl_capture("status")
    report = audited.kubectl_capture("report", "client")
    assert "--- dump" in report
    assert "eyJ" not in report  # how every token begins
