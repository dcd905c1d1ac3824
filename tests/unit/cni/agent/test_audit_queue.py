"""Which pods get a look, and at which of them the network is read again. Each pod's namespace has its id as number."""

from pathlib import Path
from typing import Any

import pytest

from cni.agent.audit_queue import AWAITED_SECONDS, SETTLING_SECONDS, SWEEP_INTERVAL, AuditQueue
from cni.agent.kernel_events import EVERYWHERE
from cni.agent.pods import Pods
from cni.agent.runtime import RuntimeAnswerError, RuntimeSilentError, Sandbox
from cni.agent.sandboxes import Sandboxes


class Node:
    """Pods by the numbers of their namespaces, a clock, and a runtime that may be silent."""

    def __init__(self, place: Path, *running: int) -> None:
        self.place, self.running = place, list(running)
        self.now, self.is_silent, self.questions = 0.0, False, list[str]()
        self.unreported: set[int] = set()
        self.pods = Pods()
        runtime: Any = self
        self.queue = AuditQueue(Sandboxes(runtime), self.pods, dict, lambda: self.now)

    def sandboxes(self, _namespace: str = "", name: str = "") -> list[Sandbox]:
        self.questions.append(name)
        if self.is_silent:
            raise RuntimeSilentError("no answer")
        named = {f"pod-{each}": str(each) for each in self.running}
        return [Sandbox(each, "shop", pod, each, 0) for pod, each in named.items() if name in ("", pod)]

    def network_namespace(self, sandbox: str) -> str:
        if int(sandbox) in self.unreported:
            raise RuntimeAnswerError("PodSandboxStatus: NOT_FOUND")
        (self.place / sandbox).touch()
        return str(self.place / sandbox)

    def announce(self, number: int) -> None:
        self.pods.store({"metadata": {"namespace": "shop", "name": f"pod-{number}", "uid": str(number)}})

    def turn(self, *changed: int, after: float = 1.0, is_well: bool = True) -> dict[int, bool]:
        """Return by number which pods get a look, and whether their network is read."""
        self.now += after
        due = {int(netns.sandbox.id): is_stale for netns, is_stale in self.queue.due(set(changed))}
        for number in due:
            self.queue.note_look(str(number), is_well=is_well)
        return due


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Two pods that were looked at in a sweep, and whose addresses have settled."""
    monkeypatch.setattr("cni.agent.sandboxes.namespace_number", lambda path: int(Path(path).name))
    made = Node(tmp_path, 5, 6)
    made.announce(5)
    made.announce(6)
    assert made.turn().keys() == {5, 6}
    assert made.turn(after=SETTLING_SECONDS) == {}
    return made


def test_the_network_is_read_again_after_events_and_in_sweeps(node: Node) -> None:
    assert node.turn(5) == {5: True}
    assert node.turn(EVERYWHERE) == {5: True, 6: True}
    assert node.turn(5, after=SWEEP_INTERVAL) == {5: True, 6: True}
    assert node.turn() == {}


@pytest.mark.parametrize(("event", "due"), [(5, {5: True, 7: False}), (EVERYWHERE, {5: True, 6: True, 7: True})])
def test_no_event_is_lost_while_the_runtime_is_silent(node: Node, event: int, due: dict[int, bool]) -> None:
    node.is_silent = True
    node.announce(7)
    with pytest.raises(RuntimeSilentError):
        node.turn(event)
    node.is_silent, node.running = False, [5, 6, 7]
    assert node.turn() == due


def test_a_sandbox_that_the_runtime_does_not_report_hides_no_other(node: Node) -> None:
    node.unreported, node.running = {7}, [5, 6, 7, 8]
    assert node.turn(after=SWEEP_INTERVAL) == {5: True, 6: True, 8: True}
    assert node.queue.unreported == "shop/pod-7: PodSandboxStatus: NOT_FOUND"
    node.announce(7)
    assert node.turn() == {}
    node.unreported = set()
    assert node.turn(after=SWEEP_INTERVAL) == {5: True, 6: True, 7: True, 8: True}
    assert node.queue.unreported == ""


def test_what_changes_while_addresses_settle_gets_one_look_afterwards(node: Node) -> None:
    node.running.append(7)
    node.announce(7)
    assert node.turn() == {7: False}
    assert [node.turn(7, after=SETTLING_SECONDS / 3) for _ in range(4)] == [{}, {}, {7: True}, {7: True}]
    node.queue.postpone("5")
    assert node.turn() == {5: True}


def test_a_pod_that_is_announced_before_it_runs_is_awaited_for_a_while(node: Node) -> None:
    node.announce(7)
    node.announce(8)
    assert node.turn(after=SWEEP_INTERVAL) == {5: True, 6: True}
    node.running.append(7)
    assert node.turn() == {7: False}
    assert node.turn(after=AWAITED_SECONDS) == {}
    node.questions.clear()
    assert (node.turn(), node.questions) == ({}, [])


def test_a_faulty_pod_gets_a_look_at_each_turn_until_it_is_well_or_gone(node: Node) -> None:
    assert node.turn(5, 6, is_well=False) == {5: True, 6: True}
    assert node.turn(is_well=False) == {5: False, 6: False}
    node.running = [6]
    assert node.turn(after=SWEEP_INTERVAL) == {6: True}
    assert [[netns.number for netns in node.queue.take_gone()] for _ in range(2)] == [[5], []]
    assert node.turn(5) == {}
