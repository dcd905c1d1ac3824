"""What a node may meet: restarts, reboots, rivals, updates; and that the agent goes as it came."""

import datetime as dt
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.cluster import builds
from support.cluster.agent import CAPTURE, expect_event, first_object
from support.cluster.installed import NAMESPACE, ROOT, Cluster
from support.cluster.node import LIST, NAME
from support.cluster.pods import deployment, pod
from support.processes.waiting import wait_until


def quiet(name: str, **options: Any) -> dict[str, Any]:
    """Return a pod of the mesh whose containers do nothing."""
    return pod(name, pause_proxy=True, command=["/pause", "-P"], **options)


def entries(cluster: Cluster) -> int:
    return cluster.list_file.read_text().count('"capture-cni"')


def decisions(cluster: Cluster) -> dict[str, str]:
    """Return the plugin's last word on each pod, by the pod's name."""
    log = cluster.disk / "capture-log" / "cni.log"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {line["pod"]: line["message"] for line in lines if line.get("command") == "ADD"}


def ready(cluster: Cluster, *names: str, seconds: int = 120) -> None:
    cluster.kubectl("wait", "pod", *names, "--for=condition=Ready", f"--timeout={seconds}s", timeout=seconds + 20)


def status(cluster: Cluster) -> dict[str, Any]:
    return first_object(cluster.in_agent(CAPTURE, "node", "status", "--format", "json", check=False))


def test_ready_is_when_the_runtime_has_loaded_the_entry(cluster: Cluster) -> None:
    """The agent is ready when the runtime has loaded the entry, by the runtime's own word."""
    answer = status(cluster)
    assert "capture-cni" in answer["loaded"]["plugins"]
    assert answer["ready"]


def test_the_agent_has_the_capabilities_of_the_audit(cluster: Cluster) -> None:
    """The agent's container is not privileged, and has the capabilities of the audit alone."""
    [made] = cluster.get("-n", NAMESPACE, "pods", "-l", "app=capture-agent")["items"]
    context = made["spec"]["containers"][0]["securityContext"]
    assert (context["privileged"], context["readOnlyRootFilesystem"]) == (False, True)
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "NET_BROADCAST"]}


def test_an_overwritten_entry_is_back_at_once(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    """A program that rewrites the list five times a minute: each time the entry is back within 20 ms, and counted."""
    before = status(cluster)["counts"]
    gaps = []
    for _ in range(5):
        time.sleep(1)
        cluster.write_list()
        gaps.append(gap(cluster))
    record_property("measured", f"at most {1000 * max(gaps):.1f} ms")
    assert max(gaps) < 0.02, gaps
    after = status(cluster)["counts"]
    rewrites = [sum(n for key, n in counts.items() if key.startswith("list_rewrites")) for counts in (before, after)]
    assert rewrites[1] - rewrites[0] == 5


def gap(cluster: Cluster) -> float:
    """Return the seconds from a rewrite of the list to the entry's return, by the kernel's clock for files."""
    wait_until(lambda: entries(cluster), 70, "the entry does not come back")
    return (cluster.list_file.stat().st_ctime_ns - cluster.written) / 1e9


def test_a_faster_rival_is_named(cluster: Cluster) -> None:
    """A faster one: the agent backs off, is not ready, and an Event and the status name the rival; then peace comes."""
    if cluster.runtime or len(cluster.families) < 2:
        pytest.skip("one kind of node is enough")
    for _ in range(3):  # the five of a minute are used up by the test before
        cluster.write_list()
        time.sleep(0.1)
    wait_until(lambda: not status_by_socket(cluster).get("ready"), 10, "the agent is ready in a conflict")
    assert "list of our own" in status_by_socket(cluster)["problems"]["entry"]["problem"]
    answer = expect_event(cluster, NAME, "CaptureListRewritten")
    assert LIST in answer, answer
    assert gap(cluster) > 0.5  # after a pause
    wait_until(lambda: status_by_socket(cluster).get("ready"), 150, "the conflict does not end")


def test_the_credentials_are_private_and_accepted(cluster: Cluster) -> None:
    """The plugin's credentials: private, out of the runtime's directory, and accepted by the API server."""
    folder = cluster.disk / "etc-cni" / "istio-capture"
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"ca.crt": 0o600, "kubeconfig": 0o600, "token": 0o600, "originals": 0o700}
    kubectl = builds.find("kubectl")
    assert kubectl
    kubeconfig = "--kubeconfig=/etc/cni/istio-capture/kubeconfig"
    assert "NAME" in cluster.run([kubectl, kubeconfig, "get", "pods", "-n", NAMESPACE])
    assert "forbidden" in cluster.run([kubectl, kubeconfig, "get", "secrets", "-A"], check=False)


def test_pods_stay_captured_when_containerd_and_kubelet_die(cluster: Cluster) -> None:
    """Containerd and kubelet die under running pods: the same pods, still captured."""
    cluster.apply(quiet("survivor"))
    ready(cluster, "survivor")
    before = cluster.get("pod", "survivor")["status"]["podIP"]
    for name in ("kubelet", "containerd"):
        cluster.kill(name)
    cluster.start_daemon("containerd")
    time.sleep(1)
    cluster.start_daemon("kubelet")
    wait_until(lambda: "capture-agent" in cluster.ctr("containers", "ls") or True, 20, "containerd")
    ready(cluster, "survivor")
    assert cluster.get("pod", "survivor")["status"]["podIP"] == before
    cluster.kubectl("delete", "pod", "survivor", "--wait")


class Starts(NamedTuple):
    """Seconds from a pod's creation to its readiness, by kubelet's word: the slowest, and the slowest yardstick.

    The yardstick is pods outside of the mesh that start in between, with the same containers: they need no agent.
    """

    slowest: float
    yardstick: float

    def __str__(self) -> str:
        return f"at most {self.slowest:.0f} s; pods outside of the mesh: {self.yardstick:.0f} s"

    @property
    def are_quick(self) -> bool:
        """Return whether none took longer than 10 s, or than others on a machine that is busy."""
        return self.slowest <= max(10, 1.5 * self.yardstick + 1)


def start_hundred(cluster: Cluster, name: str, trouble: Callable[[threading.Event], None]) -> Starts:
    """Start a hundred pods of the mesh, one a second, while there is trouble. Every one has to be captured.

    Two processors start about two such pods a second, without a mesh: at that pace, all of them would queue.
    """
    names = [f"{name}-{number}" for number in range(100)]
    stop = threading.Event()
    troubling = threading.Thread(target=trouble, args=(stop,))
    troubling.start()
    try:
        for number, each in enumerate(names):
            begun = time.monotonic()
            made = [quiet(each, labels={"batch": name, "kind": "mesh"})]
            if number % 5 == 0:
                plain = quiet(f"{each}-plain", labels={"batch": name, "kind": "yardstick"})
                plain["metadata"]["annotations"] = {}
                made.append(plain)
            cluster.apply(*made)
            time.sleep(max(0.0, begun + 1 - time.monotonic()))
        ready(cluster, "-l", f"batch={name}")
    finally:
        stop.set()
        troubling.join()
    assert {decisions(cluster).get(each) for each in names} == {"captured"}
    seconds = {
        kind: max(map(seconds_to_start, cluster.get("pods", "-l", f"batch={name},kind={kind}")["items"]))
        for kind in ("mesh", "yardstick")
    }
    cluster.kubectl("delete", "pod", "-l", f"batch={name}", "--grace-period=1", "--wait", timeout=200)
    return Starts(seconds["mesh"], seconds["yardstick"])


def seconds_to_start(made: dict[str, Any]) -> float:
    ready_at = next(each["lastTransitionTime"] for each in made["status"]["conditions"] if each["type"] == "Ready")
    times = [dt.datetime.fromisoformat(text) for text in (made["metadata"]["creationTimestamp"], ready_at)]
    return (times[1] - times[0]).total_seconds()


def restart_agent(cluster: Cluster) -> None:
    """Make the agent's pod anew: kubelet waits for minutes with a container that has died often."""
    cluster.kubectl("-n", NAMESPACE, "delete", "pod", "-l", "app=capture-agent")
    cluster.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/capture-agent", "--timeout=120s")


def test_killing_the_agent_loses_no_pod(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    """The agent is killed every second while a hundred pods start: all are captured, none takes longer than 10 s."""
    only_dual_stack(cluster, newer=False)

    def kill(stop: threading.Event) -> None:
        while not stop.wait(1):
            cluster.run(["pkill", "-KILL", "-f", "capture node agent"], check=False)

    try:
        starts = start_hundred(cluster, "hurried", kill)
    finally:
        restart_agent(cluster)
    record_property("measured", str(starts))
    assert starts.are_quick, starts


def test_a_rolling_update_opens_no_gap(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    """Rolling updates of the agent while a hundred pods start: all captured, none in more than 10 s, no gap."""
    only_dual_stack(cluster, newer=True)
    gone: list[float] = []

    def look(stop: threading.Event) -> None:
        while not stop.wait(0.01):
            if not entries(cluster):
                gone.append(time.monotonic())

    def update(stop: threading.Event) -> None:
        looker = threading.Thread(target=look, args=(stop,))
        looker.start()
        while not stop.wait(15):
            cluster.kubectl("-n", NAMESPACE, "rollout", "restart", "daemonset/capture-agent")
            cluster.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/capture-agent", "--timeout=120s")
        looker.join()

    starts = start_hundred(cluster, "updated", update)
    record_property("measured", str(starts))
    assert (gone, starts.are_quick) == ([], True), starts


ROTATE = """
cd "/var/lib/kubelet/pods/$0/volumes/kubernetes.io~projected/account"
cp -a ..data/. "..new-$1"
cat > "..new-$1/token"
ln -s "..new-$1" ..data_new
mv -T ..data_new ..data
"""
"""As kubelet renews a token: one rename."""


def test_exchanging_the_token_loses_no_pod(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    """The token is exchanged while a hundred pods start that need it: all captured, none takes longer than 10 s."""
    only_dual_stack(cluster, newer=False)
    tokens: set[str] = set()

    def rotate(stop: threading.Event) -> None:
        [agent] = cluster.get("-n", NAMESPACE, "pods", "-l", "app=capture-agent")["items"]
        number = 0
        while not stop.wait(5):
            number += 1
            token = cluster.kubectl("-n", NAMESPACE, "create", "token", "capture-agent").strip().splitlines()[-1]
            cluster.run(["sh", "-ec", ROTATE, agent["metadata"]["uid"], str(number)], stdin=token)
            wait_until(partial(has, written, token), 5, "the plugin does not get the token")
            tokens.add(token)

    written = cluster.disk / "etc-cni" / "istio-capture" / "token"
    cluster.install("cni.podSources={kubernetes}")
    try:
        starts = start_hundred(cluster, "rotated", rotate)
    finally:
        cluster.install()
    record_property("measured", f"{len(tokens)} tokens; {starts}")
    assert (len(tokens) > 5, starts.are_quick) == (True, True), starts


def has(path: Path, text: str) -> bool:
    return path.read_text() == text


def only_dual_stack(cluster: Cluster, *, newer: bool) -> None:
    """Run on one kind of node, with containerd 2 or 1: a hundred pods take minutes."""
    if len(cluster.families) < 2 or (cluster.runtime is not None) != newer:
        pytest.skip("one kind of node is enough")


def test_pods_start_while_the_api_server_is_away(cluster: Cluster) -> None:
    """The API server is away: static pods start, those of the mesh captured by what the agent or runtime knows."""
    manifest = cluster.disk / "manifests" / "static.json"
    cluster.kill("kube-apiserver")
    try:
        made = quiet("static-plain", mesh=False)
        manifest.write_text(json.dumps(made | {"metadata": made["metadata"] | {"namespace": "default"}}))
        wait_until(lambda: decisions(cluster).get("static-plain-capture-node"), 40, "the static pod does not start")
        assert decisions(cluster)["static-plain-capture-node"] == "left alone"
        assert status_by_socket(cluster)["live"]
    finally:
        manifest.unlink(missing_ok=True)
        cluster.start_daemon("kube-apiserver")
        wait_until(lambda: "ok" in cluster.kubectl("get", "--raw", "/readyz", check=False), 60, "the API server")


def status_by_socket(cluster: Cluster) -> dict[str, Any]:
    """Query the agent on the node itself: kubectl exec needs the API server."""
    return first_object(cluster.run([ROOT / ".venv/bin/capture", "node", "status", "--format", "json"], check=False))


def test_pods_are_captured_after_a_reboot(cluster: Cluster) -> None:
    """A reboot with pods of the mesh: they are captured again, although the agent may come last."""
    cluster.apply(deployment("rebooted", 5, pause_proxy=True, command=["/pause", "-P"]))
    cluster.kubectl("rollout", "status", "deployment/rebooted", "--timeout=120s")
    log = cluster.disk / "capture-log" / "cni.log"
    log.rename(log.with_suffix(".before"))
    cluster.reboot()
    cluster.kubectl("rollout", "status", "deployment/rebooted", "--timeout=120s")
    names = [each["metadata"]["name"] for each in cluster.get("pods", "-l", "app=rebooted")["items"]]
    wait_until(lambda: all(decisions(cluster).get(name) == "captured" for name in names), 60, str(decisions(cluster)))
    cluster.kubectl("delete", "deployment", "rebooted", "--wait")
    wait_until(lambda: status_by_socket(cluster).get("ready"), 60, "the agent does not come back")


def test_the_agent_needs_less_than_120_mb(cluster: Cluster) -> None:
    """The agent's memory: all its processes together stay below 120 MB (PSS)."""
    pids = cluster.run(["pgrep", "-f", "capture node agent"]).split()
    total = 0
    for pid in pids:
        rollup = cluster.run(["cat", f"/proc/{pid}/smaps_rollup"], check=False)
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    assert 0 < total < 120 * 1024, total
