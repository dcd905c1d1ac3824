"""Acts on a pod that is not captured: an Event in any case, and a repair as the options allow.

    not ready yet    repair.starting    report | apply
    ready            repair.running     report | apply | evict

``apply`` writes the rules in place, without a restart. ``evict`` lets the API server evict the pod (policy/v1,
Eviction): it respects PodDisruptionBudgets, and takes only the very pod (its UID). Each repair is looked at afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightkube import Client

from capture.errors import CaptureError
from capture.operations import apply
from capture.settings.pod import pod_settings
from cni.agent import api, events
from cni.agent.agent_log import AgentLog
from cni.agent.audit import AuditedPod
from cni.agent.backoff import Backoff
from cni.agent.health import Health
from cni.agent.options import Options
from cni.agent.pod_state import GOOD_STATES, STATE_UNKNOWN, PodState
from cni.agent.sandboxes import PodNamespace
from cni.conf import Configuration
from cni.pod import Identity
from cni.pod_object import pod_from_object

REPAIRABLE = ("no-rules", "rule-missing", "rule-unexpected", "second-set", "family-not-captured", "route-missing")
"""States that writing the rules again repairs; the others need a person."""
EVENT_INTERVAL = 600.0
"""Seconds between two Events about one pod and state."""
MAX_REPAIR_PAUSE = 600.0
"""The most seconds after a repair that failed: a PodDisruptionBudget may allow an eviction later."""
FORGET_SECONDS = 3600.0
"""Seconds after its pause for which a failure is remembered."""


class Repair:
    """Reports pods and repairs them. ``look`` examines a pod again; ``clock`` only goes forward."""

    def __init__(
        self,
        options: Options,
        configuration: Configuration,
        client: Client | None,
        health: Health,
        log: AgentLog,
        look: Callable[[PodNamespace], PodState],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options, self.configuration, self.client = options, configuration, client
        self.health, self.log, self.look, self._clock = health, log, look, clock
        self._published: dict[tuple[str, str], float] = {}
        self._failures: dict[str, tuple[Backoff, float]] = {}
        """By sandbox, the pauses after repairs that failed in a row, and when the next may be."""
        self._recent: list[float] = []
        self._is_busy = False

    def __call__(self, audited: AuditedPod, pod: dict[str, Any] | None) -> None:
        """Repair or report a pod whose capture is not as it should be, as the options say."""
        state = audited.state.name
        if state in GOOD_STATES:
            self._failures.pop(audited.netns.sandbox.id, None)
            return
        if self._is_busy or state == STATE_UNKNOWN or (pod and pod["metadata"].get("deletionTimestamp")):
            return
        action = self._due_action(audited, pod)
        is_report = action == "report" or pod is None
        if is_report or not self._may_act(audited):
            reason = "CaptureMissing" if state == "no-rules" else "CaptureBroken"
            self._publish(audited, reason, audited.state.message + ("" if is_report else f"; {action} waits"))
        elif pod is not None:
            self._is_busy = True  # the look at the result reports here, too
            try:
                self._repair_by(action, audited, pod)
            finally:
                self._is_busy = False

    def _due_action(self, audited: AuditedPod, pod: dict[str, Any] | None) -> str:
        if audited.state.name not in REPAIRABLE or pod is None:
            return "report"
        return self.options.repair_running if pod["status"]["ready"] else self.options.repair_starting

    def _may_act(self, audited: AuditedPod) -> bool:
        now = self._clock()
        self._recent = [then for then in self._recent if now - then < 60]
        _, not_before = self._failures.get(audited.netns.sandbox.id, (None, 0.0))
        if now < not_before or len(self._recent) >= self.options.repairs_per_minute:
            return False
        self._recent.append(now)
        return True

    def _note_failure(self, sandbox: str) -> None:
        now = self._clock()
        pauses, _ = self._failures.get(sandbox, (Backoff(longest=MAX_REPAIR_PAUSE), 0.0))
        recent = {known: each for known, each in self._failures.items() if now - each[1] < FORGET_SECONDS}
        self._failures = recent | {sandbox: (pauses, now + pauses.pause())}

    def _repair_by(self, action: str, audited: AuditedPod, pod: dict[str, Any]) -> None:
        problem = self._apply(audited, pod) if action == "apply" else self._evict(audited)
        result = "failure" if problem else "success"
        self.health.count("repairs", result)
        self.log.info("repair", pod=audited.key, action=action, was=audited.state.name, problem=problem)
        done = "rules written in place" if action == "apply" else "evicted"
        if problem:
            self._note_failure(audited.netns.sandbox.id)
            self._publish(audited, "CaptureRepairFailed", f"{audited.state.message}; {action}: {problem}")
        else:
            self._publish(audited, "CaptureRepaired", f"{audited.state.message}; {done}", kind="Normal")

    def _apply(self, audited: AuditedPod, pod: dict[str, Any]) -> str:
        """Write the rules and look whether they hold; return what is wrong, "" if nothing is."""
        sandbox = audited.netns.sandbox
        try:
            described = pod_from_object(Identity(sandbox.namespace, sandbox.name, sandbox.uid), pod)
            apply(pod_settings(described, self.configuration.settings), audited.netns.path)
        except CaptureError as error:
            return error.message
        state = self.look(audited.netns)
        return state.message if state.name in REPAIRABLE else ""

    def _evict(self, audited: AuditedPod) -> str:
        if self.client is None:
            return "no API server is known"
        sandbox = audited.netns.sandbox
        return api.evict(self.client, sandbox.namespace, sandbox.name, sandbox.uid)

    def _publish(self, audited: AuditedPod, reason: str, message: str, kind: str = "Warning") -> None:
        """Publish an Event about the pod, one in ten minutes for each reason."""
        now = self._clock()
        key = audited.netns.sandbox.id, f"{reason} {audited.state.name}"
        if self.client is None or now - self._published.get(key, float("-inf")) < EVENT_INTERVAL:
            return
        recent = {event: then for event, then in self._published.items() if now - then < EVENT_INTERVAL}
        self._published = recent | {key: now}
        sandbox = audited.netns.sandbox
        about = {"namespace": sandbox.namespace, "name": sandbox.name, "uid": sandbox.uid}
        events.publish_on_pod(self.client, about, reason, f"{audited.state.name}: {message}", kind)
