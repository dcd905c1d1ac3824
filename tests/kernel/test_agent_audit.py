"""The agent's audit in real namespaces: the kernel reports where something changed, and a look finds what is wrong."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from capture import apply, clean, make_settings
from capture.system.netns import InNamespace
from cni import conf
from cni.agent import api, examination, pod_warnings
from cni.agent.agent_log import AgentLog
from cni.agent.audit import Audit, AuditedPod
from cni.agent.health import Health
from cni.agent.kernel_events import EVERYWHERE, KernelEvents, namespace_number
from cni.agent.options import Options
from cni.agent.pod_state import STATE_CAPTURED
from cni.agent.pods import Pods
from cni.agent.repair import Repair
from cni.agent.runtime import Sandbox
from pytest_netns import PodPair
from support.cluster import fake_kubernetes
from support.cluster.fake_kubernetes import FakeKubernetes

TRAFFIC = "traffic.sidecar.istio.io/"
STATUS = json.dumps({"containers": ["istio-proxy"]})
LISTENERS = """
import socket, time
listening = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in (15001, 15006)]
time.sleep(1000)
"""


def pod_object(uid: str = "uid-1", *, ready: bool = True, annotated: bool = True) -> dict[str, Any]:
    annotations = {"sidecar.istio.io/status": STATUS} if annotated else {}
    return {
        "metadata": {"namespace": "shop", "name": "web", "uid": uid, "annotations": annotations},
        "spec": {"containers": [{"name": "istio-proxy", "args": ["proxy", "sidecar"]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


class OnePod:
    """A container runtime that runs one pod, and notes the questions."""

    def __init__(self, path: str) -> None:
        self.path, self.questions = path, list[str]()
        self.running = [Sandbox("sandbox-1", "shop", "web", "uid-1", 0)]

    def sandboxes(self, _namespace: str = "", name: str = "") -> list[Sandbox]:
        self.questions.append(name)
        return self.running

    def network_namespace(self, _sandbox: str) -> str:
        return self.path


class Watched:
    """A pod, its node, and an audit there."""

    def __init__(self, pair: PodPair, **options: Any) -> None:
        self.pod, self.node = pair
        self.pods, self.health = Pods(), Health()
        self.seen: list[str] = []
        self.now = 1000.0
        """What the clock of repairs shows, in seconds."""
        configuration = conf.parse_configuration({"type": "capture-cni"})
        self.runtime = OnePod(str(self.pod.path))
        runtime: Any = self.runtime
        self.audit = Audit(runtime, self.pods, configuration, self.health, AgentLog(descriptor=-1))
        repair = Repair(
            Options("node", "", {}, **options),
            configuration,
            None,
            self.health,
            AgentLog(descriptor=-1),
            self.audit.look_at_pod,
            lambda: self.now,
        )

        def on_change(audited: AuditedPod, pod: dict[str, Any] | None) -> None:
            self.seen.append(audited.state.name)
            repair(audited, pod)

        self.audit.on_change = on_change

    def run_once(self, changed: set[int] | None = None) -> str:
        with InNamespace(self.node.path):
            self.audit.run_once(changed or set())
        [known] = self.audit.audited.values()
        return known.state.name


@pytest.fixture
def watched(pod_pair: PodPair, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr("cni.agent.audit_queue.SETTLING_SECONDS", 0.0)
    made = Watched(pod_pair, **getattr(request, "param", {}))
    made.pods.replace_all([pod_object()])
    return made


@pytest.fixture
def proxy(watched: Watched) -> None:
    """Something that listens where the proxy does, as its user."""
    process = watched.pod.popen([sys.executable, "-c", LISTENERS], uid=1337, gid=1337)
    for port in (15001, 15006):
        process.wait_for_port(port)


@pytest.fixture
def events(pod_pair: PodPair) -> Iterator[KernelEvents]:
    with InNamespace(pod_pair.peer.path):
        listening = KernelEvents()
    yield listening
    listening.close()


def number(watched: Watched) -> int:
    with InNamespace(watched.node.path):
        found = namespace_number(str(watched.pod.path))
    assert found is not None
    return found


def risky_pod(*, inject: str = "true") -> dict[str, Any]:
    """Return a pod from whose app the rules can be changed, and an annotation that means nothing."""
    pod = pod_object()
    app = {"name": "app", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}
    pod["spec"] |= {"containers": [*pod["spec"]["containers"], app], "runtimeClassName": "kata-qemu"}
    pod["metadata"]["annotations"] |= {"traffic.sidecar.istio.io/excludeOutboundPort": "80"}
    pod["metadata"]["labels"] = {"sidecar.istio.io/inject": inject}
    return pod


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as fake:
        (tmp_path / "kubeconfig").write_text(fake.kubeconfig({"token": "secret"}))
        yield fake


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    """A descriptor to log to; the file is ``log``."""
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def test_ways_round_the_capture_are_reported_once_in_log_and_event(
    watched: Watched, server: FakeKubernetes, tmp_path: Path, log: int
) -> None:
    """Once of the first agent, which is started again; while the API server is away, it learns it later."""
    apply(make_settings(), watched.pod.path)
    watched.pods.store(risky_pod())

    seen: list[tuple[Sandbox, Sequence[str]]] = []
    watched.audit.on_warnings = lambda *published: seen.append(published)
    for _ in range(3):
        watched.run_once({number(watched)})
    assert len(seen) == 3

    def turns(*behaviours: fake_kubernetes.Behaviour) -> list[str]:
        """Let a new agent see what was seen; return what it logs."""
        before = len((tmp_path / "log").read_text().splitlines())
        server.will(*behaviours)
        with api.connect(kubeconfig=str(tmp_path / "kubeconfig")) as client:
            publish = pod_warnings.WarningPublisher(client, AgentLog(descriptor=log))
            for published in seen:
                publish(*published)
        return [json.loads(line)["says"] for line in (tmp_path / "log").read_text().splitlines()[before:]]

    assert turns(fake_kubernetes.status(503)) == []
    message = turns()
    assert [each.partition(":")[0] for each in message] == [
        "container app has the capability NET_ADMIN",
        "runtimeClassName kata-qemu",
        f"annotation {TRAFFIC}excludeOutboundPort has no effect; is {TRAFFIC}excludeOutboundPorts meant?",
    ]
    path, event = server.posted[-1]
    assert (path, event["metadata"]["name"]) == ("/api/v1/namespaces/shop/events", "capture-warning-uid-1")
    assert (event["reason"], event["message"]) == ("CaptureWarning", "; ".join(message))
    assert turns(fake_kubernetes.status(409)) == []
    assert turns(fake_kubernetes.status(403)) == message  # without the right to write Events: in the log
    assert len(server.posted) == 4


def test_an_injected_pod_that_refuses_injection_gets_an_event(watched: Watched) -> None:
    published: list[str] = []
    watched.audit.on_warnings = lambda _sandbox, warnings: published.extend(warnings)
    watched.pods.store(risky_pod(inject="false"))
    assert watched.run_once() == "left-alone"
    assert published == [
        "label sidecar.istio.io/inject is 'false', but the pod was injected: it runs with a proxy and without capture"
    ]


@pytest.mark.parametrize("watched", [{"repair_starting": "report"}], indirect=True)
def test_a_virtual_machine_that_takes_what_comes_in_is_found(
    watched: Watched, events: KernelEvents, proxy: None
) -> None:
    """Kata Containers makes its filter after ADD, when nothing is to be seen yet."""
    apply(make_settings(), watched.pod.path)
    assert watched.run_once() == "captured"
    events.wait(0.1)
    watched.pod.ip("tuntap add dev tap0_kata mode tap", "link set tap0_kata up")
    for words in (
        "qdisc add dev eth0 ingress",
        "filter add dev eth0 parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev tap0_kata",
    ):
        watched.pod.run(["tc", *words.split()])
    assert watched.run_once(events.wait(2)) == "ingress-filter"


@pytest.mark.parametrize("command", ["nft add table inet foreign", "ip -6 addr add 2001:db8::99/64 dev eth0 nodad"])
def test_the_kernel_reports_in_which_pod_something_changed(
    watched: Watched, events: KernelEvents, command: str
) -> None:
    of_pod = number(watched)
    events.wait(0)
    watched.pod.run(command.split())
    assert events.wait(2) == {of_pod}
    time.sleep(0.1)  # a route comes after its address
    events.wait(0)
    watched.node.run(["nft", "add", "table", "inet", "foreign"])
    started = time.monotonic()
    assert (events.wait(0.2), time.monotonic() - started > 0.19) == (set(), True)  # the node's own changes wake nothing


def test_rules_of_iptables_are_noticed_as_well(watched: Watched, events: KernelEvents) -> None:
    of_pod = number(watched)
    events.wait(0)
    watched.pod.run(["iptables-nft", "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT"])
    assert of_pod in events.wait(2)


def test_a_pod_without_rules_is_found_and_one_with_them_is_captured(watched: Watched, proxy: None) -> None:
    assert watched.run_once() == "no-rules"
    apply(make_settings(), watched.pod.path)
    assert watched.run_once({number(watched)}) == STATE_CAPTURED
    assert watched.health.fact("pod_states") == {"captured": ["shop/web"]}


def test_a_new_pod_is_awaited_once_a_turn_and_one_that_has_gone_is_forgotten(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    [running], watched.runtime.running = watched.runtime.running, []
    watched.audit.run_once(set())
    watched.pods.store(pod_object("uid-1", ready=False))
    for _ in range(5):  # as many as other pods' changes bring within a second
        watched.audit.run_once({4711})
    assert watched.runtime.questions == ["", "web"]
    watched.runtime.running = [running]
    monkeypatch.setattr("cni.agent.audit_queue.TURN_SECONDS", 0.0)
    assert watched.run_once() == "no-rules"
    watched.runtime.running = []
    monkeypatch.setattr("cni.agent.audit_queue.SWEEP_INTERVAL", 0.0)
    watched.audit.run_once(set())
    audit, queue = watched.audit, watched.audit.queue
    remembered = (audit.audited, queue._faulty, queue._first_looks, audit._requested, queue._awaited)
    assert (watched.health.fact("pod_states"), *map(len, remembered)) == ({}, 0, 0, 0, 0, 0)


def test_a_pod_left_alone_is_not_looked_into(watched: Watched) -> None:
    watched.pods.replace_all([pod_object(annotated=False)])
    assert watched.run_once() == "left-alone"
    assert watched.audit.as_plain()[0]["says"] == "it has no annotation sidecar.istio.io/status"


def test_a_pod_that_the_api_server_has_not_announced_is_unknown(watched: Watched) -> None:
    watched.pods.replace_all([pod_object("another uid")])
    assert watched.run_once() == "unknown"


def test_a_proxy_that_does_not_listen_is_a_fault_once_the_pod_is_ready(watched: Watched) -> None:
    apply(make_settings(), watched.pod.path)
    watched.pods.store(pod_object(ready=False))
    assert watched.run_once() == "captured"
    watched.pods.store(pod_object(ready=True))
    assert watched.run_once({number(watched)}) == "not-listening"


def test_drift_is_found_by_the_kernels_event(watched: Watched, events: KernelEvents, proxy: None) -> None:
    apply(make_settings(), watched.pod.path)
    assert watched.run_once() == "captured"
    events.wait(0.1)
    watched.pod.run(["nft", "flush", "ruleset"])
    assert watched.run_once(events.wait(2)) == "no-rules"
    assert watched.seen == ["captured", "no-rules"]


def test_what_no_event_reports_is_found_after_lost_events_and_by_a_sweep(
    watched: Watched, proxy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an agent that hears events: the network is read when one may have come, and only then."""
    watched.audit._has_events = True
    apply(make_settings(), watched.pod.path)
    assert watched.run_once() == "captured"
    watched.pod.ip("link set lo down")
    assert watched.run_once() == "captured"
    assert watched.run_once({EVERYWHERE}) == "lo-down"
    watched.pod.ip("link set lo up")
    monkeypatch.setattr("cni.agent.audit_queue.SWEEP_INTERVAL", 0.0)
    assert watched.run_once() == "captured"


@pytest.mark.parametrize("watched", [{"repair_starting": "apply"}], indirect=True)
def test_a_lost_route_is_repaired_and_read_again(watched: Watched) -> None:
    """The rules stay as they are, so that nothing else changes."""
    watched.audit._has_events = True
    pod = pod_object(ready=False)
    pod["metadata"]["annotations"] |= {"sidecar.istio.io/interceptionMode": "TPROXY"}
    watched.pods.store(pod)
    assert watched.run_once() == "captured"
    watched.pod.ip("route flush table 133")
    assert watched.run_once({number(watched)}) == "captured"
    assert watched.seen[-2:] == ["route-missing", "captured"]
    assert watched.health.counts() == {("repairs", "success"): 2}


@pytest.mark.parametrize("watched", [{"repair_starting": "apply"}], indirect=True)
def test_a_pod_that_starts_without_rules_gets_them_in_place(watched: Watched) -> None:
    watched.pods.store(pod_object(ready=False))
    assert watched.run_once() == "captured"
    assert watched.seen[:2] == ["no-rules", "captured"]
    assert watched.health.counts()["repairs", "success"] == 1


@pytest.mark.parametrize("watched", [{"repair_starting": "apply"}], indirect=True)
def test_a_pod_that_runs_is_left_as_it_is_where_that_is_not_allowed(watched: Watched) -> None:
    assert watched.run_once() == "no-rules"
    assert watched.run_once() == "no-rules"
    assert watched.health.counts() == {}


@pytest.mark.parametrize("watched", [{"repair_running": "apply", "repairs_per_minute": 2}], indirect=True)
def test_repairs_are_limited(watched: Watched, proxy: None) -> None:
    for _ in range(4):
        clean(watched.pod.path)
        watched.run_once({number(watched)})
    assert watched.health.counts() == {("repairs", "success"): 2}
    assert watched.run_once() == "no-rules"


@pytest.mark.parametrize("watched", [{"repair_running": "evict"}], indirect=True)
def test_a_repair_that_fails_is_tried_again_later(watched: Watched, proxy: None) -> None:
    assert [watched.run_once() for _ in range(3)] == ["no-rules"] * 3
    assert watched.health.counts() == {("repairs", "failure"): 1}  # no API server is known here
    watched.now += 1.1
    watched.run_once()
    assert watched.health.counts() == {("repairs", "failure"): 2}


def test_another_listener_is_found_without_an_event(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cni.agent.audit_queue.LISTENERS_INTERVAL", 0.0)
    apply(make_settings(), watched.pod.path)
    right = watched.pod.popen([sys.executable, "-c", LISTENERS], uid=1337, gid=1337)
    right.wait_for_port(15006)
    assert watched.run_once() == "captured"
    right.stop()
    assert watched.run_once() == "not-listening"
    wrong = watched.pod.popen([sys.executable, "-c", LISTENERS], uid=2000, gid=2000)
    wrong.wait_for_port(15006)
    assert watched.run_once() == "proxy-wrong-user"


def test_a_global_ipv6_address_that_comes_late_gets_its_address_on_lo(watched: Watched, proxy: None) -> None:
    watched.pod.run(["ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global"])
    apply(make_settings(), watched.pod.path)
    assert watched.run_once() == "captured"
    assert "::6/128" not in watched.pod.ip("addr show dev lo")
    watched.pod.ip("addr add 2001:db8::77/64 dev eth0 nodad")
    assert watched.run_once({number(watched)}) == "captured"
    assert "::6/128" in watched.pod.ip("addr show dev lo")


def test_a_second_set_is_named_as_such(watched: Watched, proxy: None) -> None:
    apply(make_settings(backend="nftables"), watched.pod.path)
    for words in (
        "-N ISTIO_OUTPUT",
        "-A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 16001",
        "-A OUTPUT -p tcp -j ISTIO_OUTPUT",
    ):
        watched.pod.run(["iptables-nft", "-t", "nat", *words.split()])
    assert watched.run_once({number(watched)}) == "second-set"


def test_a_look_at_a_pod_in_which_nothing_changed_costs_little(watched: Watched, proxy: None) -> None:
    """An interleaved ratio: a look by signature against a diagnosis."""
    apply(make_settings(), watched.pod.path)
    watched.run_once()
    [known] = watched.audit.audited.values()
    looks, diagnoses = [], []
    for _ in range(10):
        started = time.perf_counter()
        examination.audit_signature(known.netns.path, (15001, 15006))
        looks.append(time.perf_counter() - started)
        started = time.perf_counter()
        examination.diagnose(known.netns.path, make_settings(), is_starting=False)
        diagnoses.append(time.perf_counter() - started)
    assert min(looks) < 0.5 * min(diagnoses)
