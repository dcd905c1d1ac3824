"""What the agent finds and mends on a real node: each fault is made there."""

import time
from collections.abc import Iterator

import pytest

from support.cluster.agent import InPod, expect_event, expect_state, pod_state, pods
from support.cluster.calls import BOTH, address, call_from_pod, sides_passed
from support.cluster.installed import Cluster
from support.cluster.node import NAME
from support.cluster.pods import APP_PORT, deployment, pod
from support.processes.waiting import wait_until


@pytest.fixture(scope="module")
def audited(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with two pods of the mesh, and no repair."""
    cluster.apply(pod("web"), pod("client"))
    cluster.kubectl("wait", "pod", "web", "client", "--for=condition=Ready", "--timeout=60s")
    expect_state(cluster, "web", "captured", 70)
    yield cluster
    cluster.kubectl("delete", "pod", "-l", "app", "--grace-period=1", "--wait")
    if cluster.method == "chart":
        cluster.install()


def test_pods_of_the_mesh_are_known_as_captured(audited: Cluster) -> None:
    """Pods of the mesh are known as captured, the agent as of the node's network."""
    assert pod_state(audited, "client")["state"] == "captured"
    assert [each["state"] for each in pods(audited) if each["pod"].startswith("istio-capture/")] == ["host-network"]


def test_lost_rules_are_found_and_reported(audited: Cluster) -> None:
    """Rules that another program takes away: found within 5 s, told by an Event on the pod and a metric."""
    InPod(audited, "web")("nft", "flush", "ruleset")
    expect_state(audited, "web", "no-rules")
    metrics = audited.run(["curl", "-gs", f"http://{audited.api_address}:15014/metrics"])
    assert 'capture_pod_problem{namespace="default",pod="web",state="no-rules"} 1.0' in metrics
    expect_event(audited, "web", "CaptureMissing")
    audited.kubectl("delete", "pod", "web", "--grace-period=1", "--wait")
    audited.apply(pod("web"))
    audited.kubectl("wait", "pod", "web", "--for=condition=Ready", "--timeout=60s")
    expect_state(audited, "web", "captured")


def test_a_pod_that_started_in_a_gap_is_found(audited: Cluster) -> None:
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
        assert sides_passed(call_from_pod(audited, "gap", address(audited, "web"))) != BOTH
    finally:
        audited.run(["pkill", "-CONT", "-f", "capture node agent"])
    resumed = time.monotonic()
    while sides_passed(call_from_pod(audited, "gap", address(audited, "web"))) != BOTH:
        assert time.monotonic() - resumed < 6
    expect_state(audited, "gap", "captured")
    expect_event(audited, "gap", "CaptureRepaired")


def test_a_foreign_rule_is_reported(audited: Cluster) -> None:
    """A foreign rule before our own that diverts traffic."""
    run = InPod(audited, "client")
    run("nft", "add table ip foreign; add chain ip foreign out { type nat hook output priority -150; }; "
        f"add rule ip foreign out tcp dport {APP_PORT} redirect to :9")  # fmt: skip
    expect_state(audited, "client", "nat-first")
    run("nft", "delete", "table", "ip", "foreign")
    expect_state(audited, "client", "captured")


def test_a_proxy_that_is_gone_is_reported(audited: Cluster) -> None:
    """A proxy that does not listen in a pod that is ready."""
    audited.apply(pod("silent", pause_proxy=True))
    audited.kubectl("wait", "pod", "silent", "--for=condition=Ready", "--timeout=60s")
    expect_state(audited, "silent", "not-listening")


def test_a_deleted_rule_comes_back(audited: Cluster) -> None:
    """Our rule that another program deletes: found within 5 s, and written again where that is wanted."""
    if audited.method == "manifest":
        pytest.skip("the manifest repairs nothing")
    audited.install("repair.starting=report", "repair.running=report")
    run = InPod(audited, "client")
    iptables = "iptables-nft" if audited.families[0] == "ipv4" else "ip6tables-nft"
    run(iptables, "-t", "nat", "-F", "ISTIO_OUTPUT")
    expect_state(audited, "client", "rule-missing")
    expect_event(audited, "client", "CaptureBroken")
    audited.install("repair.starting=apply", "repair.running=apply")
    expect_state(audited, "client", "captured", 15)
    run(iptables, "-t", "nat", "-F", "ISTIO_OUTPUT")
    wait_until(lambda: "ISTIO_REDIRECT" in run(iptables, "-t", "nat", "-S", "ISTIO_OUTPUT"), 5, "it is not repaired")
    expect_state(audited, "client", "captured")


def test_a_late_family_is_captured(audited: Cluster) -> None:
    """A global IPv6 address that comes late: within 5 s lo has ::6, by which connections come from the proxy."""
    if "ipv6" not in audited.families:
        pytest.skip("no IPv6 there")
    run = InPod(audited, "client")
    mine = address(audited, "client", "ipv6").strip("[]")
    run("ip", "addr", "del", f"{mine}/64", "dev", "eth0")
    run("ip", "addr", "del", "::6/128", "dev", "lo")
    run("ip", "addr", "add", f"{mine}/64", "dev", "eth0", "nodad")
    wait_until(lambda: "::6/128" in run("ip", "addr", "show", "dev", "lo"), 5, "no ::6 on lo")
    run("ip", "-6", "route", "replace", "default", "via", "fd00:244::1")
    expect_state(audited, "client", "captured")
    assert sides_passed(call_from_pod(audited, "web", f"[{mine}]")) == BOTH


def test_a_second_set_is_removed(audited: Cluster) -> None:
    """A second set of rules in the other backend: found within 5 s, and removed where repair is wanted."""
    if audited.method == "manifest":
        pytest.skip("the manifest repairs nothing")
    audited.install("repair.starting=report", "repair.running=report")
    run = InPod(audited, "client")
    run("nft", "add table inet istio-proxy-nat; add chain inet istio-proxy-nat istio-output; "
        "add rule inet istio-proxy-nat istio-output meta l4proto tcp redirect to :16001; "
        "add chain inet istio-proxy-nat output { type nat hook output priority -101; }; "
        "add rule inet istio-proxy-nat output jump istio-output")  # fmt: skip
    expect_state(audited, "client", "second-set")
    audited.install("repair.starting=apply", "repair.running=apply")
    expect_state(audited, "client", "captured", 15)
    assert "istio-proxy-nat" not in run("nft", "list", "tables")


def test_a_listener_of_another_user_is_reported(audited: Cluster) -> None:
    """A listener of the wrong user where the proxy should be: found within 5 s, told by an Event."""
    audited.apply(pod("stranger", pause_proxy=True))
    audited.kubectl("wait", "pod", "stranger", "--for=condition=Ready", "--timeout=60s")
    expect_state(audited, "stranger", "not-listening")
    with InPod(audited, "stranger").proxy(2000):
        expect_state(audited, "stranger", "proxy-wrong-user")
        expect_event(audited, "stranger", "CaptureBroken")


def test_an_eviction_waits_for_a_budget(audited: Cluster) -> None:
    """repair.running=evict: a PodDisruptionBudget holds the eviction up, and the pod is evicted when it allows that."""
    if audited.method == "manifest":
        pytest.skip("the manifest repairs nothing")
    audited.install("repair.running=evict")
    budget = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "evicted", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "evicted"}}},
    }  # fmt: skip
    audited.apply(deployment("evicted", 1, pause_proxy=True, command=["/pause", "-P"]), budget)
    audited.kubectl("rollout", "status", "deployment/evicted", "--timeout=60s")
    name = audited.get("pods", "-l", "app=evicted")["items"][0]["metadata"]["name"]
    wait_until(lambda: audited.get("pdb", "evicted")["status"].get("expectedPods"), 20, "the budget is not there")
    InPod(audited, name)("nft", "flush", "ruleset")
    assert "disruption budget" in expect_event(audited, name, "CaptureRepairFailed")
    assert audited.get("pod", name)["metadata"].get("deletionTimestamp") is None
    audited.kubectl("delete", "pdb", "evicted", "--wait")
    wait_until(lambda: "NotFound" in audited.kubectl("get", "pod", name, check=False), 40, "it is not evicted")
    assert "CaptureRepaired" in expect_event(audited, name, "CaptureRepaired")
    audited.kubectl("rollout", "status", "deployment/evicted", "--timeout=60s")
    audited.kubectl("delete", "deployment", "evicted", "--wait")


def test_our_taint_goes_and_others_stay(audited: Cluster) -> None:
    """The taint of a new node goes when pods are captured there, other taints stay, and pods start."""
    if audited.method == "manifest":
        pytest.skip("the manifest removes no taint")
    keys = ["cni.istio.io/not-ready", "other.test/kept"]
    audited.kubectl("taint", "node", NAME, *(f"{key}=true:NoSchedule" for key in keys))
    try:
        audited.install("removeTaints={cni.istio.io/not-ready}")
        wait_until(lambda: taints(audited) == keys[1:], 20, f"{taints(audited)}")
    finally:
        audited.kubectl("taint", "node", NAME, f"{keys[1]}-")
    assert taints(audited) == []


def taints(cluster: Cluster) -> list[str]:
    return [taint["key"] for taint in cluster.get("node", NAME)["spec"].get("taints") or []]


def test_why_and_verify_answer_for_a_pod_by_its_name(audited: Cluster) -> None:
    """`kubectl capture why POD` and `verify POD` answer for a pod by its name."""
    where = f"{address(audited, 'web')}:{APP_PORT}"
    assert "captured" in audited.kubectl_capture("why", "client", "tcp", where, "--uid", "1000")
    assert "in sync" in audited.kubectl_capture("verify", "client")
    assert "captured" in audited.kubectl_capture("status")
    report = audited.kubectl_capture("report", "client")
    assert "--- dump" in report
    assert "eyJ" not in report  # how every token begins
