"""Whether each pod of this node is captured as it should be: at once when its namespace changes, else by a sweep.

    kernel's events ──> the pods that they are about ─┐
    pods come and go ─> the new ones ─────────────────┼─> signature the same: nothing to do
    every minute ─────> all ──────────────────────────┘   else diagnose ──> state ──> status, metrics, Event, repair

A pod has one state: ``captured``; ``left-alone`` and why; ``host-network``; ``unknown`` and why; or the kind of a cause
that `capture why` knows.
"""

from __future__ import annotations

import time

from capture.errors import CaptureError
from capture.model.values import Value
from capture.settings.pod import settings_of
from cni.agent import examination
from cni.agent.examination import CAPTURED, UNKNOWN, Finding
from cni.agent.kernel_events import EVERYWHERE, KernelEvents
from cni.agent.runtime import RuntimeSilentError
from cni.agent.sandboxes import Sandboxes
from cni.decision import first_line, reason_by_name
from cni.pod import Identity
from cni.pod_object import from_object, is_the_same
from cni.protocol import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable
    from typing import Any

    from capture.settings.settings import Settings
    from cni.agent.health import Health
    from cni.agent.journal import Journal
    from cni.agent.pods import Pods
    from cni.agent.runtime import Runtime
    from cni.agent.sandboxes import Place
    from cni.conf import Configuration

    Examined = tuple[Finding, tuple[object, ...], dict[str, Any] | None]

SWEEP = 60.0
"""Seconds between looks at all pods."""
FULL = 600.0
"""Seconds after which a pod is diagnosed again although nothing seems to have changed."""
TICK = 1.0
SETTLE = 0.05
"""Seconds to let a change come to its end: rules are written in several steps by some programs."""
LEFT_ALONE, HOST_NETWORK = "left-alone", "host-network"
GOOD = (CAPTURED, LEFT_ALONE, HOST_NETWORK)


class Audited(Value):
    """What is known about a pod."""

    place: Place
    finding: Finding
    signature: tuple[object, ...]
    since: float
    """When it came into this state, seconds since the epoch."""
    diagnosed: float

    @property
    def key(self) -> str:
        """NAMESPACE/NAME."""
        return f"{self.place.sandbox.namespace}/{self.place.sandbox.name}"


class Audit:
    """Looks at the pods of a node. ``on_change`` is told of each pod whose state is another one than before."""

    def __init__(
        self,
        runtime: Runtime,
        pods: Pods,
        configuration: Configuration,
        health: Health,
        journal: Journal,
        on_change: Callable[[Audited, dict[str, Any] | None], None] = lambda _audited, _pod: None,
    ) -> None:
        self.sandboxes = Sandboxes(runtime)
        self.pods, self.configuration = pods, configuration
        self.health, self.journal, self.on_change = health, journal, on_change
        self.known: dict[str, Audited] = {}
        self._seen_pods = -1
        self._swept = 0.0

    def run(self, stop: threading.Event) -> None:
        """Look until ``stop``."""
        events = self._listen()
        try:
            while not stop.is_set():
                self.turn(events.wait(TICK) if events else self._tick(stop))
        finally:
            if events:
                events.close()

    def turn(self, changed: set[int]) -> None:
        """Look at the pods whose namespaces have changed, at new ones, and, when it is time, at all."""
        now = time.monotonic()
        if changed:
            time.sleep(SETTLE)
        sweep = now - self._swept >= SWEEP or EVERYWHERE in changed
        try:
            places = self._places(sweep)
        except RuntimeSilentError as error:
            self.health.note(audit_problem=str(error))
            return
        if sweep:
            self._swept = now
            wanted: Iterable[Place] = places
        else:
            numbered = {place.sandbox.id: place for place in self.sandboxes.by_number(changed)}
            fresh = {place.sandbox.id: place for place in places if self._wants_a_look(place)}
            wanted = (numbered | fresh).values()
        for place in wanted:
            self.look(place)
        self._publish(now)

    def look(self, place: Place) -> Finding:
        """Look at one pod and remember its state; return it."""
        known = self.known.get(place.sandbox.id)
        finding, signature, pod = self._examine(place, known)
        now = time.time()
        is_new = known is None or known.finding.state != finding.state
        audited = Audited(place, finding, signature, now if known is None or is_new else known.since, time.monotonic())
        if known is not None and signature and signature == known.signature:
            audited = audited.replace(diagnosed=known.diagnosed)
        self.known[place.sandbox.id] = audited
        if is_new and (known is not None or finding.state not in GOOD):
            self.journal.info("pod state", pod=audited.key, state=finding.state, says=finding.says)
        if is_new or finding.state not in GOOD:
            self.on_change(audited, pod)
        return finding

    # --- one pod ----------------------------------------------------------------------------------------------

    def _examine(
        self, place: Place, known: Audited | None
    ) -> tuple[Finding, tuple[object, ...], dict[str, Any] | None]:
        sandbox = place.sandbox
        identity = Identity(sandbox.namespace, sandbox.name, sandbox.uid)
        if not place.path:
            return Finding(HOST_NETWORK), (), None
        if reason := reason_by_name(identity, self.configuration):
            return Finding(LEFT_ALONE, reason), (), None
        pod = self.pods.get(sandbox.namespace, sandbox.name)
        if pod is None or not is_the_same(identity, pod):
            return Finding(UNKNOWN, "the API server has not told of the pod yet"), (), None
        try:
            described = from_object(identity, pod)
            line = first_line(described)
            settings = settings_of(described, self.configuration.settings)
        except (CaptureError, CniError) as error:
            return Finding(UNKNOWN, error.message), (), pod
        if line:
            return Finding(LEFT_ALONE, line.reason), (), pod
        return (*self._diagnosed(place, settings, known, is_starting=_is_starting(pod)), pod)

    def _diagnosed(
        self, place: Place, settings: Settings, known: Audited | None, *, is_starting: bool
    ) -> tuple[Finding, tuple[object, ...]]:
        try:
            signature = (*examination.signature(place.path), is_starting)
        except CaptureError as error:
            return Finding(UNKNOWN, error.message), ()
        is_recent = known is not None and time.monotonic() - known.diagnosed < FULL
        if known is not None and is_recent and known.signature == signature:
            return known.finding, signature
        return examination.diagnose(place.path, settings, is_starting=is_starting), signature

    # --- all of them --------------------------------------------------------------------------------------------

    def _places(self, sweep: bool) -> list[Place]:  # noqa: FBT001  # whether the runtime is asked in any case
        version = self.pods.version
        if not sweep and version == self._seen_pods:
            return []
        self._seen_pods = version
        places = self.sandboxes.look()
        running = {place.sandbox.id for place in places}
        self.known = {known: audited for known, audited in self.known.items() if known in running}
        self.health.note(audit_problem="")
        return places

    def _wants_a_look(self, place: Place) -> bool:
        known = self.known.get(place.sandbox.id)
        return known is None or known.finding.state not in GOOD

    def _publish(self, started: float) -> None:
        states: dict[str, list[str]] = {}
        for audited in self.known.values():
            states.setdefault(audited.finding.state, []).append(audited.key)
        self.health.note(pod_states={state: sorted(pods) for state, pods in states.items()})
        self.health.note(audit_seconds=time.monotonic() - started)

    def as_plain(self, namespace: str = "", name: str = "") -> list[dict[str, Any]]:
        """Return what is known, for JSON; of one pod, if it is named."""
        wanted = f"{namespace}/{name}" if name else ""
        return [
            {
                "pod": audited.key,
                "uid": audited.place.sandbox.uid,
                "state": audited.finding.state,
                "says": audited.finding.says,
                "remedy": audited.finding.remedy,
                "since": audited.since,
                "namespace_path": audited.place.path,
            }
            for audited in list(self.known.values())
            if wanted in ("", audited.key)
        ]

    def _listen(self) -> KernelEvents | None:
        try:
            return KernelEvents()
        except OSError as error:
            self.journal.warn("cannot subscribe to kernel events: changes are noticed within a minute", why=str(error))
            return None

    @staticmethod
    def _tick(stop: threading.Event) -> set[int]:
        stop.wait(TICK)
        return set()


def _is_starting(pod: dict[str, Any]) -> bool:
    """Whether the pod is not ready: its proxy may still be coming up."""
    return not (pod.get("status") or {}).get("ready")
