"""The pods that run on this node, each with its network namespace, by the container runtime's word.

A namespace is known for as long as its sandbox; the runtime is asked once about each.
"""

from __future__ import annotations

import os

from capture.model.values import Value
from cni.agent.kernel_events import namespace_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.agent.runtime import Runtime, Sandbox

SAME_PLACE = ("/var/run/", "/run/")
"""Runtimes name namespaces by the first; in the agent's container only the second is mounted."""


class Place(Value):
    """Where a pod's network is: ``path`` is empty for one that uses the node's."""

    sandbox: Sandbox
    path: str
    number: int | None
    """What the kernel's events call the namespace; None if they do not tell of it."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing more can be learnt: a namespace may be in sight a moment after the runtime tells of it."""
        return self.number is not None or not self.path


class Sandboxes:
    """What the runtime has told so far."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._places: dict[str, Place] = {}

    def look(self) -> list[Place]:
        """Return the pods that run now. Raises RuntimeSilentError."""
        sandboxes = {sandbox.id: sandbox for sandbox in self._runtime.sandboxes()}
        self._places = {known: place for known, place in self._places.items() if known in sandboxes}
        for new in sandboxes.keys() - {known for known, place in self._places.items() if place.is_complete}:
            self._places[new] = self._place(sandboxes[new])
        return list(self._places.values())

    def look_at(self, namespace: str, name: str) -> list[Place]:
        """Return what runs of one pod now. Raises RuntimeSilentError."""
        found = {sandbox.id: sandbox for sandbox in self._runtime.sandboxes(namespace, name)}
        for known, place in list(self._places.items()):
            if known not in found and (place.sandbox.namespace, place.sandbox.name) == (namespace, name):
                del self._places[known]
        for new in found.keys() - self._places.keys():
            self._places[new] = self._place(found[new])
        return [self._places[each] for each in found]

    def all(self) -> list[Place]:
        """Return the known pods."""
        return list(self._places.values())

    def get(self, sandbox: str) -> Place | None:
        """Return a known pod."""
        return self._places.get(sandbox)

    def by_number(self, numbers: set[int]) -> list[Place]:
        """Return the known pods that the kernel's events tell of by these numbers."""
        return [place for place in self._places.values() if place.number in numbers] if numbers else []

    def _place(self, sandbox: Sandbox) -> Place:
        path = self._runtime.network_namespace(sandbox.id)
        if path.startswith(SAME_PLACE[0]):
            path = path.replace(*SAME_PLACE, 1)
        if path and os.path.exists("/proc/thread-self/ns/net") and os.path.exists(path):
            return Place(sandbox, path, namespace_number(path))
        return Place(sandbox, path, None)
