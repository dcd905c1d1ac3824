"""The pods that run on this node, each with its network namespace, as the container runtime reports them.

A namespace is known for as long as its sandbox; the runtime is queried about each until all is known of it.
"""

from __future__ import annotations

import os

from capture.model.values import Value
from cni.agent.kernel_events import namespace_number
from cni.agent.runtime import RuntimeAnswerError, RuntimeClient, Sandbox

NETNS_PREFIXES = ("/var/run/", "/run/")
"""Runtimes name namespaces by the first; in the agent's container only the second is mounted."""


class PodNamespace(Value):
    """The network of a pod: ``path`` is empty for one that uses the node's."""

    sandbox: Sandbox
    path: str
    number: int | None
    """The number of the namespace in the kernel's events; None if it has none."""

    @property
    def is_there(self) -> bool:
        """Return whether the namespace has not gone; that of the node stays."""
        return not self.path or os.path.exists(self.path)

    @property
    def is_complete(self) -> bool:
        """Return whether all is known: a namespace may appear a moment after the runtime reports it."""
        return self.number is not None or not self.path


class Sandboxes:
    """The reports of the runtime so far."""

    def __init__(self, runtime: RuntimeClient) -> None:
        self._runtime = runtime
        self._by_sandbox: dict[str, PodNamespace] = {}
        self._of_pods: dict[tuple[str, str], set[str]] = {}
        self._gone: list[PodNamespace] = []
        self.unreported = ""
        """Why the runtime reports no namespace of a sandbox; it is queried again at the next sweep."""

    def refresh(self) -> list[PodNamespace]:
        """Return the pods that run now. Raises RuntimeSilentError."""
        sandboxes = {sandbox.id: sandbox for sandbox in self._runtime.sandboxes()}
        self.unreported = ""
        for gone in self._by_sandbox.keys() - sandboxes.keys():
            self._drop(gone)
        for new in sandboxes.keys() - {known for known, netns in self._by_sandbox.items() if netns.is_complete}:
            self._query(sandboxes[new])
        return list(self._by_sandbox.values())

    def look_up_pod(self, namespace: str, name: str, *, is_desired: bool) -> list[PodNamespace]:
        """Return what runs of one pod now. Raises RuntimeSilentError.

        The runtime is queried if no live sandbox of the pod is known, and there should be one.
        """
        known = [self._by_sandbox[sandbox_id] for sandbox_id in self._of_pods.get((namespace, name), ())]
        for netns in known:
            if not netns.is_there:
                self._drop(netns.sandbox.id)
        alive = [netns for netns in known if netns.is_there]
        if alive or not is_desired:
            return alive
        sandboxes = {sandbox.id: sandbox for sandbox in self._runtime.sandboxes(namespace, name)}
        for new in sandboxes.keys() - self._by_sandbox.keys():
            self._query(sandboxes[new])
        return [self._by_sandbox[each] for each in sandboxes if each in self._by_sandbox]

    def take_gone(self) -> list[PodNamespace]:
        gone, self._gone = self._gone, []
        return gone

    def _query(self, sandbox: Sandbox) -> None:
        """Keep what the runtime reports of a sandbox. If it reports nothing, the others are audited all the same."""
        try:
            netns = self._netns_of(sandbox)
        except RuntimeAnswerError as error:
            self.unreported = f"{sandbox.namespace}/{sandbox.name}: {error}"
            return
        self._by_sandbox[netns.sandbox.id] = netns
        self._of_pods.setdefault((netns.sandbox.namespace, netns.sandbox.name), set()).add(netns.sandbox.id)

    def _drop(self, sandbox: str) -> None:
        netns = self._by_sandbox.pop(sandbox)
        key = netns.sandbox.namespace, netns.sandbox.name
        self._of_pods[key].discard(sandbox)
        if not self._of_pods[key]:
            del self._of_pods[key]
        self._gone.append(netns)

    def get(self, sandbox: str) -> PodNamespace | None:
        return self._by_sandbox.get(sandbox)

    def with_numbers(self, numbers: set[int]) -> list[PodNamespace]:
        """Return the known pods that the kernel's events name by these numbers."""
        return [netns for netns in self._by_sandbox.values() if netns.number in numbers] if numbers else []

    def _netns_of(self, sandbox: Sandbox) -> PodNamespace:
        path = self._runtime.network_namespace(sandbox.id)
        if path.startswith(NETNS_PREFIXES[0]):
            path = path.replace(*NETNS_PREFIXES, 1)
        if path and os.path.exists("/proc/thread-self/ns/net") and os.path.exists(path):
            return PodNamespace(sandbox, path, namespace_number(path))
        return PodNamespace(sandbox, path, None)
