"""What is done about a pod that is not captured, by its state and by what the options allow."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capture.errors import CaptureError
from capture.settings.options import EXCLUDED_OUTBOUND_PORTS
from capture.settings.settings import Settings
from cni import conf
from cni.agent import api, repair
from cni.agent.agent_log import AgentLog
from cni.agent.audit import UNOBSERVED, AuditedPod
from cni.agent.health import Health
from cni.agent.options import Options
from cni.agent.pod_state import GOOD_STATES, STATE_CAPTURED, STATE_UNKNOWN, PodState
from cni.agent.repair import EVENT_INTERVAL, MAX_REPAIR_PAUSE, Repair
from cni.agent.runtime import Sandbox
from cni.agent.sandboxes import PodNamespace
from support.cluster import fake_kubernetes
from support.cluster.fake_kubernetes import FakeKubernetes
from support.output.agent_lines import AgentLines

ROOT = Path(__file__).parents[4]

READY: Any = {
    "metadata": {"namespace": "shop", "name": "web", "uid": "u"},
    "spec": {"containers": []},
    "status": {"ready": 1},
}
STARTING = READY | {"status": {"ready": 0}}
REPAIRED_BY_WRITING = (
    "no-rules", "rule-missing", "rule-unexpected", "second-set", "family-not-captured", "route-missing",
)  # fmt: skip


def audited(state: str, sandbox: str = "s1") -> AuditedPod:
    place = PodNamespace(Sandbox(sandbox, "shop", "web", "uid-1", 0), "/run/netns/nowhere", 7)
    return AuditedPod(place, PodState(state, "there are no rules", "recreate it"), UNOBSERVED, 0.0)


class Scene:
    """A repair with an API server that takes everything, and rules that are written nowhere."""

    def __init__(self, server: FakeKubernetes, client: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.server, self.applied, self.clock = server, list[str](), 1000.0
        self.log, self.settings = AgentLines(), list[Settings]()
        self.after, self.refusal = PodState(STATE_CAPTURED), ""
        self.health = Health()
        self.repair = Repair(
            Options("node-1", "", {}, **options),
            conf.parse_configuration({}),
            client,
            self.health,
            self.log,
            self.look,
            lambda: self.clock,
        )
        monkeypatch.setattr(repair, "apply", self.apply)

    def apply(self, settings: Settings, path: str) -> None:
        self.applied.append(path)
        self.settings.append(settings)
        if self.refusal:
            raise CaptureError(self.refusal)

    def look(self, _place: PodNamespace) -> PodState:
        return self.after

    def events(self) -> list[tuple[str, str, str]]:
        """Return the Events since the last call: reason, kind, message."""
        posted = [
            (event["reason"], event["type"], event["message"])
            for path, event in self.server.posted
            if path.endswith("events")
        ]
        self.server.posted = [each for each in self.server.posted if not each[0].endswith("events")]
        return posted


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with FakeKubernetes() as server:
        (tmp_path / "kubeconfig").write_text(server.kubeconfig({"token": "secret"}))
        with api.connect(kubeconfig=str(tmp_path / "kubeconfig")) as client:
            yield Scene(server, client, monkeypatch, **getattr(request, "param", {}))


def with_options(**options: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scene", [options], indirect=True)


@pytest.mark.parametrize(
    ("state", "reason"),
    [("no-rules", "CaptureMissing"), ("foreign-rule", "CaptureBroken"), ("rule-missing", "CaptureBroken")],
)
def test_by_default_a_pod_is_only_reported(scene: Scene, state: str, reason: str) -> None:
    for pod in (READY, STARTING, None):
        scene.repair(audited(state, f"of {pod and pod['status']}"), pod)
    assert scene.events() == [(reason, "Warning", f"{state}: there are no rules")] * 3
    assert scene.applied == []


@pytest.mark.parametrize("state", [*GOOD_STATES, STATE_UNKNOWN])
@with_options(repair_running="apply", repair_starting="apply")
def test_a_pod_that_is_well_or_unknown_is_not_repaired(scene: Scene, state: str) -> None:
    scene.repair(audited(state), READY)
    assert (scene.events(), scene.applied) == ([], [])


def test_the_same_fault_is_reported_again_after_ten_minutes_only(scene: Scene) -> None:
    for wait, number in ((0.0, 1), (EVENT_INTERVAL - 1, 0), (1.0, 1)):
        scene.clock += wait
        scene.repair(audited("no-rules"), READY)
        assert len(scene.events()) == number
    scene.repair(audited("second-set"), READY)
    assert len(scene.events()) == 1


@with_options(repair_starting="apply")
def test_a_pod_that_starts_gets_its_rules(scene: Scene) -> None:
    scene.repair(audited("no-rules"), STARTING)
    assert scene.applied == ["/run/netns/nowhere"]
    told = scene.log.lines[-1]
    assert {key: told[key] for key in ("message", "pod", "action", "was", "problem")} == {
        "message": "repair", "pod": "shop/web", "action": "apply", "was": "no-rules", "problem": "",
    }  # fmt: skip
    [(path, event)] = scene.server.posted
    assert path == "/api/v1/namespaces/shop/events"
    assert event["involvedObject"] == {
        "kind": "Pod",
        "apiVersion": "v1",
        "namespace": "shop",
        "name": "web",
        "uid": "uid-1",
    }
    assert scene.events() == [("CaptureRepaired", "Normal", "no-rules: there are no rules; rules written in place")]
    assert scene.health.counts() == {("repairs", "success"): 1}
    scene.repair(audited("foreign-rule"), STARTING)
    scene.repair(audited("no-rules"), READY)
    assert len(scene.applied) == 1, "a foreign rule is not ended by writing, and a running pod is only reported"


@pytest.mark.parametrize("state", REPAIRED_BY_WRITING)
@with_options(repair_running="apply")
def test_what_writing_rules_mends_is_mended_with_the_settings_of_the_pod(scene: Scene, state: str) -> None:
    annotations = {"traffic.sidecar.istio.io/excludeOutboundPorts": "5432"}
    pod = READY | {"metadata": READY["metadata"] | {"annotations": annotations}}
    scene.repair(audited(state), pod)
    [settings] = scene.settings
    assert settings.text(EXCLUDED_OUTBOUND_PORTS) == "5432"


def test_the_page_names_what_is_repaired() -> None:
    page = (ROOT / "docs" / "agent.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"^Repaired is (.*?)\. Any other", page, re.MULTILINE | re.DOTALL)
    assert tuple(re.findall(r"`([\w-]+)`", named)) == repair.REPAIRABLE


def test_each_state_that_may_be_repaired_is_tried() -> None:
    assert set(repair.REPAIRABLE) == set(REPAIRED_BY_WRITING)


@with_options(repair_running="apply")
def test_what_was_long_ago_is_forgotten(scene: Scene) -> None:
    scene.refusal = "the kernel refuses"
    for sandbox in ("s1", "s2"):
        scene.repair(audited("no-rules", sandbox), READY)
        assert (len(scene.repair._failures), len(scene.repair._published)) == (1, 1)
        scene.clock += repair.FORGET_SECONDS + 1
    scene.clock -= 2
    scene.repair(audited("no-rules", "s3"), READY)
    assert [*scene.repair._failures] == ["s2", "s3"], "each for an hour after its pause"


@pytest.mark.parametrize(
    ("refusal", "after", "event"),
    [
        ("namespace is gone", PodState(STATE_CAPTURED), "namespace is gone"),
        ("", PodState("rule-missing", "one rule is missing"), "one rule is missing"),
    ],
)
@with_options(repair_running="apply")
def test_a_repair_that_fails_is_reported(scene: Scene, refusal: str, after: PodState, event: str) -> None:
    scene.refusal, scene.after = refusal, after
    scene.repair(audited("no-rules"), READY)
    assert scene.events() == [("CaptureRepairFailed", "Warning", f"no-rules: there are no rules; apply: {event}")]
    assert scene.health.counts() == {("repairs", "failure"): 1}


@with_options(repair_running="apply")
def test_a_fault_beyond_the_rules_is_no_failure_of_writing_them(scene: Scene) -> None:
    scene.after = PodState("not-listening", "no proxy listens")
    scene.repair(audited("no-rules"), READY)
    assert scene.health.counts() == {("repairs", "success"): 1}


@with_options(repair_running="evict")
def test_a_pod_is_evicted_as_the_budget_allows(scene: Scene) -> None:
    scene.repair(audited("no-rules"), READY)
    assert [path for path, _ in scene.server.posted if "eviction" in path] == [
        "/api/v1/namespaces/shop/pods/web/eviction"
    ]
    assert scene.events() == [("CaptureRepaired", "Normal", "no-rules: there are no rules; evicted")]
    scene.server.will(fake_kubernetes.status(429, "disruption budget"))
    scene.repair(audited("no-rules", "s2"), READY)
    assert scene.health.counts()["repairs", "failure"] == 1


@with_options(repair_running="apply", repairs_per_minute=100)
def test_after_a_failure_the_same_pod_waits_longer_and_longer_up_to_ten_minutes(scene: Scene) -> None:
    scene.refusal = "the kernel refuses"
    for pause in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, MAX_REPAIR_PAUSE, MAX_REPAIR_PAUSE):
        before = len(scene.applied)
        scene.repair(audited("no-rules"), READY)
        assert len(scene.applied) == before + 1
        scene.clock += pause - 0.5
        scene.repair(audited("no-rules"), READY)
        assert len(scene.applied) == before + 1, f"{pause} s are not over"
        scene.clock += 0.5
    scene.repair(audited(STATE_CAPTURED), READY)
    for _ in range(2):
        scene.repair(audited("no-rules"), READY)
        scene.clock += 1
    assert len(scene.applied) == 14, "a pod that was well begins anew"


@with_options(repair_running="apply")
def test_a_pod_that_ends_is_left_alone(scene: Scene) -> None:
    ending = READY | {"metadata": dict(READY["metadata"]) | {"deletionTimestamp": "2026-03-01T12:00:00Z"}}
    scene.repair(audited("no-rules"), ending)
    assert (scene.events(), scene.applied) == ([], [])


@with_options(repair_running="apply", repairs_per_minute=2)
def test_a_node_has_so_many_repairs_a_minute(scene: Scene) -> None:
    for pod in range(4):
        scene.repair(audited("no-rules", str(pod)), READY)
    scene.clock += 59.5
    scene.repair(audited("no-rules", "another"), READY)
    assert len(scene.applied) == 2
    waiting = ("CaptureMissing", "Warning", "no-rules: there are no rules; apply waits")
    assert scene.events().count(waiting) == 3
    scene.clock += 0.5
    scene.repair(audited("no-rules", "another"), READY)
    assert len(scene.applied) == 3


@with_options(repair_running="apply")
def test_the_look_at_the_result_repairs_nothing(scene: Scene) -> None:
    def look(place: PodNamespace) -> PodState:
        scene.repair(audited("rule-missing", place.sandbox.id), READY)
        return PodState("rule-missing", "still")

    scene.repair.look = look
    scene.repair(audited("no-rules"), READY)
    assert len(scene.applied) == 1
    scene.repair(audited("no-rules", "s2"), READY)
    assert len(scene.applied) == 2, "it is free again"


def test_without_an_api_server_no_pod_is_evicted() -> None:
    health = Health()
    options = Options("", "", {}, repair_running="evict")
    Repair(
        options, conf.parse_configuration({}), None, health, AgentLog(descriptor=-1), lambda _: PodState(STATE_CAPTURED)
    )(audited("no-rules"), READY)
    assert health.counts() == {("repairs", "failure"): 1}
