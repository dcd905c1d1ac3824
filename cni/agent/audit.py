"""Checks whether each pod of this node is captured as it should be: when its namespace changes, and in a sweep.

    kernel's events ──> the pods that they are about ─┐
    API server ───────> those that are new or changed ┼─> signature the same: nothing to do
    every 4 s ────────> where others listen now ──────┤   else diagnose ──> state ──> status, metrics, Event, repair
    every minute ─────> all, and their network ───────┘

A pod has one state: ``captured``; ``left-alone`` and why; ``host-network``; ``unknown`` and why; or the kind of a cause
that `capture why` knows.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from capture.errors import CaptureError
from capture.model.values import Value
from capture.settings.options import INBOUND_CAPTURE_PORT, INTERCEPTION_MODE, PROXY_PORT, PROXY_UID
from capture.settings.pod import pod_settings
from capture.settings.settings import Settings
from cni.agent import examination
from cni.agent.agent_log import AgentLog
from cni.agent.audit_queue import TURN_SECONDS, AuditQueue
from cni.agent.examination import Owners
from cni.agent.health import Health
from cni.agent.kernel_events import KernelEvents
from cni.agent.pod_state import (
    GOOD_STATES,
    STATE_CAPTURED,
    STATE_HOST_NETWORK,
    STATE_LEFT_ALONE,
    STATE_UNKNOWN,
    PodState,
)
from cni.agent.pods import Pods
from cni.agent.runtime import RuntimeClient, RuntimeSilentError, Sandbox
from cni.agent.sandboxes import PodNamespace, Sandboxes
from cni.conf import Configuration
from cni.decision import PROGRAMS_ITSELF, exemption_by_name, first_exemption, warnings_about
from cni.pod import Identity
from cni.pod_object import is_same_pod, pod_from_object
from cni.protocol import CniError

FULL_INTERVAL = 1200.0
"""Seconds after which a pod is diagnosed again although nothing seems to have changed."""
CHANGE_SECONDS = 0.2
"""Seconds to let a change come to its end: rules are written in several steps by some programs."""
BURST = 10.0
"""Diagnoses of a pod in a row; where rules change all the time, it is one each second."""
FAMILIES_OF_PORTS = 4
"""Two ports, each for two families."""


class Observation(Value):
    """What a look into a pod's namespace saw; while the next one sees the same, the pod is not diagnosed again."""

    signature: tuple[object, ...]
    network: tuple[object, ...]
    """The part of it that the kernel's events are about; it is read again after one, and in a sweep."""
    owners: Owners | None
    """The listeners on the proxy's ports; None where they do not matter: the proxy is starting, or there is none."""
    diagnosed: float
    """When the pod was diagnosed the last time."""


class AuditedPod(Value):
    """A pod as the last look found it."""

    netns: PodNamespace
    state: PodState
    observed: Observation
    since: float
    """When it came into this state, seconds since the epoch."""

    @property
    def key(self) -> str:
        return f"{self.netns.sandbox.namespace}/{self.netns.sandbox.name}"


class RequestedCapture(Value):
    """The settings that a pod's object requests, and warnings for its owner."""

    pod: dict[str, Any]
    settings: Settings | PodState
    warnings: tuple[str, ...] = ()


UNOBSERVED = Observation((), (), None, 0.0)
"""Of a pod whose namespace is not looked into."""


class Audit:
    """Looks at the pods of a node."""

    def __init__(
        self,
        runtime: RuntimeClient,
        pods: Pods,
        configuration: Configuration,
        health: Health,
        log: AgentLog,
    ) -> None:
        self.pods, self.configuration = pods, configuration
        self.queue = AuditQueue(Sandboxes(runtime), pods, self._proxy_listeners)
        self.health, self.log = health, log
        self.on_change: Callable[[AuditedPod, dict[str, Any] | None], None] = lambda _audited, _pod: None
        """Called for each pod whose state has changed, and at each look at one whose state is not good."""
        self.on_warnings: Callable[[Sandbox, Sequence[str]], None] = lambda _sandbox, _warnings: None
        """Called at each look at a pod, with what its owner should know."""
        self.audited: dict[str, AuditedPod] = {}
        self.health.provide(pod_states=self._pods_by_state)
        self._has_events = False
        self._requested: dict[str, RequestedCapture] = {}
        self._diagnosis_budgets: dict[str, tuple[float, float]] = {}

    def run(self, stop: threading.Event) -> None:
        """Look at pods until ``stop`` is set."""
        events = self._open_kernel_events()
        self._has_events = events is not None
        try:
            while not stop.is_set():
                self.run_once(_changed_namespaces(events) if events else self._wait_for_tick(stop))
        finally:
            if events:
                events.close()

    def run_once(self, changed: set[int]) -> None:
        """Look at the pods whose namespaces have changed, at new ones, and, when it is time, at all."""
        began = time.monotonic()
        try:
            running = self.queue.due(changed)
        except RuntimeSilentError as error:
            self.health.note(audit_problem=str(error))
            return
        self.health.note(audit_problem=self.queue.unreported)
        self._forget(self.queue.take_gone())
        for netns, is_stale in running:
            self.look_at_pod(netns, is_stale=is_stale)
        if running:
            self.health.note(audit_seconds=time.monotonic() - began)

    def look_at_pod(self, netns: PodNamespace, *, is_stale: bool = True) -> PodState:
        """Look at one pod and remember its state; return it. ``is_stale`` is whether its network may have changed."""
        known = self.audited.get(netns.sandbox.id)
        state, observed, pod = self._examine(netns, known, is_stale=is_stale)
        now = time.time()
        is_new = known is None or known.state.name != state.name
        since = now if known is None or is_new else known.since
        audited = AuditedPod(netns, state, observed, since)
        self.audited[netns.sandbox.id] = audited
        self.queue.note_look(netns.sandbox.id, is_well=state.name in GOOD_STATES)
        if is_new and (known is not None or state.name not in GOOD_STATES):
            self.log.info("pod state", pod=audited.key, state=state.name, says=state.message)
        if is_new or state.name not in GOOD_STATES:
            self.on_change(audited, pod)
        return state

    # --- one pod ----------------------------------------------------------------------------------------------

    def _examine(
        self, netns: PodNamespace, known: AuditedPod | None, *, is_stale: bool
    ) -> tuple[PodState, Observation, dict[str, Any] | None]:
        sandbox = netns.sandbox
        identity = Identity(sandbox.namespace, sandbox.name, sandbox.uid)
        if not netns.path:
            return PodState(STATE_HOST_NETWORK), UNOBSERVED, None
        if exemption := exemption_by_name(identity, self.configuration):
            return PodState(STATE_LEFT_ALONE, exemption.reason), UNOBSERVED, None
        pod = self.pods.get(sandbox.namespace, sandbox.name)
        if pod is None or not is_same_pod(identity, pod):
            return PodState(STATE_UNKNOWN, "the API server has not announced the pod yet"), UNOBSERVED, None
        settings = self._requested_settings(sandbox, identity, pod)
        if isinstance(settings, PodState):
            return settings, UNOBSERVED, pod
        return (*self._diagnosed_state(netns, settings, known, is_starting=_is_starting(pod), is_stale=is_stale), pod)

    def _requested_settings(self, sandbox: Sandbox, identity: Identity, pod: dict[str, Any]) -> Settings | PodState:
        """Return what the pod's object requests, or its state where it requests no capture; read once of an object."""
        requested = self._requested.get(identity.uid)
        if requested is None or requested.pod is not pod:
            requested = self._requested[identity.uid] = self._requested_capture(identity, pod)
        self.on_warnings(sandbox, requested.warnings)
        return requested.settings

    def _requested_capture(self, identity: Identity, pod: dict[str, Any]) -> RequestedCapture:
        try:
            described = pod_from_object(identity, pod)
            exemption = first_exemption(described)
            settings = pod_settings(described, self.configuration.settings)
        except (CaptureError, CniError) as error:
            return RequestedCapture(pod, PodState(STATE_UNKNOWN, error.message))
        of_pod = settings.warnings[len(self.configuration.settings.warnings) :]
        about_capture = (*described.escapes, *of_pod) if exemption in (None, PROGRAMS_ITSELF) else ()
        warnings = (*about_capture, *warnings_about(described, exemption))
        return RequestedCapture(pod, PodState(STATE_LEFT_ALONE, exemption.reason) if exemption else settings, warnings)

    def _diagnosed_state(
        self, netns: PodNamespace, settings: Settings, known: AuditedPod | None, *, is_starting: bool, is_stale: bool
    ) -> tuple[PodState, Observation]:
        now = time.monotonic()
        try:
            rules, owners = examination.audit_signature(
                netns.path, (settings[PROXY_PORT], settings[INBOUND_CAPTURE_PORT])
            )
            is_heard = self._has_events and netns.number is not None and not is_stale
            seen = known.observed.network if known and is_heard else ()
            network = seen or examination.network_signature(netns.path)
        except CaptureError as error:
            return PodState(STATE_UNKNOWN, error.message), UNOBSERVED
        # Who listens while the proxy starts changes all the time, and counts when it is there.
        counted = None if is_starting else owners
        observed = Observation((rules, network, is_starting, counted), network, counted, now)
        if known is not None and known.observed.signature:
            before = known.observed
            has_only_begun = (
                known.state.name == STATE_CAPTURED and before.owners is None and _is_served(owners, settings)
            ) and before.signature[:2] == observed.signature[:2]
            if (before.signature == observed.signature or has_only_begun) and now - before.diagnosed < FULL_INTERVAL:
                return known.state, observed.replace(diagnosed=before.diagnosed)
            if not self._may_diagnose(netns.sandbox.id, now):
                self.queue.postpone(netns.sandbox.id)
                return known.state, before
        return examination.diagnose(netns.path, settings, is_starting=is_starting), observed

    def _may_diagnose(self, sandbox: str, now: float) -> bool:
        budget, then = self._diagnosis_budgets.get(sandbox, (BURST, now))
        budget = min(budget + now - then, BURST)
        self._diagnosis_budgets[sandbox] = (max(budget - 1, 0), now)
        return budget >= 1

    # --- all of them --------------------------------------------------------------------------------------------

    def _proxy_listeners(self) -> dict[PodNamespace, Owners]:
        """Return the listeners on the proxy's ports at each pod's last look, where they matter."""
        return {each.netns: each.observed.owners for each in self.audited.values() if each.observed.owners}

    def _forget(self, gone: Iterable[PodNamespace]) -> None:
        for netns in gone:
            sandbox = netns.sandbox
            self.audited.pop(sandbox.id, None)
            self._diagnosis_budgets.pop(sandbox.id, None)
            self._requested.pop(sandbox.uid, None)

    def _pods_by_state(self) -> dict[str, list[str]]:
        """Return the pods of each state; for any thread."""
        states: dict[str, list[str]] = {}
        for audited in list(self.audited.values()):
            states.setdefault(audited.state.name, []).append(audited.key)
        return {state: sorted(pods) for state, pods in states.items()}

    def as_plain(self, namespace: str = "", name: str = "") -> list[dict[str, Any]]:
        """Return the pods as the last look found them, or one of them, for JSON."""
        named = f"{namespace}/{name}" if name else ""
        return [
            {
                "pod": audited.key,
                "uid": audited.netns.sandbox.uid,
                "state": audited.state.name,
                "says": audited.state.message,
                "remedy": audited.state.remedy,
                "since": audited.since,
                "namespace_path": audited.netns.path,
            }
            for audited in list(self.audited.values())
            if named in ("", audited.key)
        ]

    def _open_kernel_events(self) -> KernelEvents | None:
        try:
            return KernelEvents()
        except OSError as error:
            self.log.warn("cannot subscribe to kernel events: changes are noticed within a minute", why=str(error))
            return None

    @staticmethod
    def _wait_for_tick(stop: threading.Event) -> set[int]:
        stop.wait(TURN_SECONDS)
        return set()


def _changed_namespaces(events: KernelEvents) -> set[int]:
    """Return where something has changed within a turn, when the change has come to its end."""
    changed = events.wait(TURN_SECONDS)
    if changed:
        time.sleep(CHANGE_SECONDS)
        changed |= events.wait(0)
    return changed


def _is_served(owners: Owners, settings: Settings) -> bool:
    """Return whether the proxy listens on both ports for both families, as its own user: most do so when ready.

    Whether a socket is transparent is not looked up, so that TPROXY is left to a diagnosis.
    """
    users = {str(int.from_bytes(owner[:4], sys.byteorder)) for owner in owners.values()}
    is_plain = settings[INTERCEPTION_MODE] == "REDIRECT"
    return is_plain and len(owners) == FAMILIES_OF_PORTS and users == {settings.text(PROXY_UID)}


def _is_starting(pod: dict[str, Any]) -> bool:
    """Return whether the pod is not ready: its proxy may still be coming up."""
    return not (pod.get("status") or {}).get("ready")
