"""Which pods of the node need a look now, and which have gone.

The runtime is queried about one pod when the API server announces it, and about all each minute. What kernel and API
server report is kept until the pod has been looked at: the runtime may not answer at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cni.agent import examination
from cni.agent.examination import Owners
from cni.agent.kernel_events import EVERYWHERE
from cni.agent.pods import Pods
from cni.agent.sandboxes import PodNamespace, Sandboxes

SWEEP_INTERVAL = 60.0
"""Seconds between looks at all pods."""
TURN_SECONDS = 1.0
LISTENERS_INTERVAL = 4.0
"""Seconds between looks at who listens, of which the kernel sends no events."""
SETTLING_SECONDS = 3.0
"""Seconds after a first look in which addresses still settle: one look afterwards is enough."""
AWAITED_SECONDS = 30.0
"""Seconds for which a pod is awaited that the API server has announced and the runtime has not."""


class AuditQueue:
    """The pods that need a look. ``listeners`` returns who listened on the proxy's ports at each pod's last look."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        pods: Pods,
        listeners: Callable[[], Mapping[PodNamespace, Owners]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sandboxes, self._pods, self._listeners, self._clock = sandboxes, pods, listeners, clock
        self._seen_pods = -1
        self._faulty: set[str] = set()
        self._first_looks: dict[str, float] = {}
        self._stale: set[str] = set()
        """Pods whose network may have changed since the last look."""
        self._awaited: dict[tuple[str, str], float] = {}
        self._awaited_at = self._swept_at = self._listened_at = float("-inf")

    def due(self, changed: set[int]) -> list[tuple[PodNamespace, bool]]:
        """Return the pods that need a look, and whether their network may have changed; in a sweep, it may everywhere.

        ``changed`` has the numbers of namespaces of which an event came. Raises RuntimeSilentError.
        """
        now = self._clock()
        self._stale |= {netns.sandbox.id for netns in self._sandboxes.with_numbers(changed)}
        if EVERYWHERE in changed:
            self._swept_at = float("-inf")
        self._seen_pods, announced = self._pods.changes_since(self._seen_pods)
        self._awaited |= dict.fromkeys(announced, now + AWAITED_SECONDS)
        if now - self._swept_at < SWEEP_INTERVAL:
            return self._due_before_sweep(now, announced)
        return self._due_in_sweep(now)

    def note_look(self, sandbox: str, *, is_well: bool) -> None:
        """Note a look at a pod; one that is not well needs another at each turn."""
        self._first_looks.setdefault(sandbox, self._clock())
        (self._faulty.discard if is_well else self._faulty.add)(sandbox)

    def postpone(self, sandbox: str) -> None:
        """Note that the pod has changed, and that there is no time for it now."""
        self._stale.add(sandbox)

    @property
    def unreported(self) -> str:
        """Return why the runtime does not report the namespace of a pod; "" if it reports all."""
        return self._sandboxes.unreported

    def take_gone(self) -> list[PodNamespace]:
        """Return the pods that have ended since the last call, and forget them."""
        gone = self._sandboxes.take_gone()
        for netns in gone:
            self._first_looks.pop(netns.sandbox.id, None)
            self._faulty.discard(netns.sandbox.id)
        return gone

    def _due_in_sweep(self, now: float) -> list[tuple[PodNamespace, bool]]:
        running = self._sandboxes.refresh()
        self._swept_at = now
        self._stale.clear()
        for netns in running:
            self._awaited.pop((netns.sandbox.namespace, netns.sandbox.name), None)
        return [(netns, True) for netns in running]

    def _due_before_sweep(self, now: float, announced: set[tuple[str, str]]) -> list[tuple[PodNamespace, bool]]:
        reported = {netns.sandbox.id for netns in self._reported_by_api_server(now, announced)}
        settling = {each for each in self._stale if now - self._first_looks.get(each, float("-inf")) < SETTLING_SECONDS}
        heard, self._stale = self._stale - settling, settling
        ids = reported | heard | self._where_others_listen(now) | self._faulty
        return [(netns, each in heard) for each in ids if (netns := self._sandboxes.get(each)) and netns.is_there]

    def _reported_by_api_server(self, now: float, announced: set[tuple[str, str]]) -> list[PodNamespace]:
        """Return the running pods that the API server has announced as new or changed, now or a while ago."""
        if now - self._awaited_at >= TURN_SECONDS:
            announced = announced | self._awaited.keys()
            self._awaited_at = now
        namespaces: list[PodNamespace] = []
        for namespace, name in announced:
            is_desired = self._pods.get(namespace, name) is not None
            running = self._sandboxes.look_up_pod(namespace, name, is_desired=is_desired)
            namespaces += running
            if running or not is_desired or self._awaited[namespace, name] < now:
                del self._awaited[namespace, name]
        return namespaces

    def _where_others_listen(self, now: float) -> set[str]:
        """Return the pods whose listeners are not those of the last look."""
        if now - self._listened_at < LISTENERS_INTERVAL:
            return set()
        self._listened_at = now
        known = self._listeners()
        changed = examination.changed_owners({netns.path: owners for netns, owners in known.items()})
        return {netns.sandbox.id for netns in known if netns.path in changed}
