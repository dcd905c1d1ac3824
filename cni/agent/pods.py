"""The pods of this node as the API server has them, for the plugin: found by name and UID, in microseconds.

The table keeps of each pod what decides on its capture, a kilobyte in place of ten. An answer is as certain as the API
server's own: the UID has to be the pod's, and the watch has to be young. If kubelet knows a pod before our watch, the
answer waits for a moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from capture.settings.pod import ENVIRONMENT_NAMES, PROXY_CONTAINER
from cni.pod import DISABLE_ENVOY, Identity
from cni.pod_object import is_same_pod

PodObject = dict[str, Any]
Key = tuple[str, str]

FRESH_SECONDS = 90.0
"""Seconds since the API server was last heard in which what is here counts: bookmarks come each minute."""
MAX_GONE = 1000
"""Ended pods that are remembered for readers of changes."""
WAIT_SECONDS = 0.2
"""Seconds to wait for a pod that is not here yet."""

SPEC_FIELDS = ("hostNetwork", "runtimeClassName", "securityContext")
KEPT_METADATA = ("namespace", "name", "uid", "labels", "creationTimestamp", "deletionTimestamp")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""An annotation that decides nothing and is as long as the rest of the pod."""
VARIABLES = {DISABLE_ENVOY, *ENVIRONMENT_NAMES}
"""The variables of the proxy that decide on the capture."""


def reduced_pod(pod: Mapping[str, Any]) -> PodObject:
    """Return what decides on a pod's capture and its repair, in the form of the API; of such a pod, itself."""
    metadata, spec, status = (pod.get(part) or {} for part in ("metadata", "spec", "status"))
    annotations = metadata.get("annotations") or {}
    kept_spec: PodObject = {key: spec[key] for key in SPEC_FIELDS if key in spec}
    for kind in ("initContainers", "containers"):
        containers = spec.get(kind) or []
        kept_spec[kind] = [_reduced_container(each) for each in containers]
    ready: PodObject = next((each for each in status.get("conditions") or [] if each.get("type") == "Ready"), {})
    return {
        "metadata": {key: metadata[key] for key in KEPT_METADATA if key in metadata}
        | {"annotations": {name: text for name, text in annotations.items() if name != LAST_APPLIED}},
        "spec": kept_spec,
        "status": {
            "phase": status.get("phase", ""),
            "ready": status.get("ready", ready.get("status") == "True"),
            "readySince": status.get("readySince", ready.get("lastTransitionTime", "")),
        },
    }


def _reduced_container(container: Mapping[str, Any]) -> PodObject:
    fields: PodObject = {key: container[key] for key in ("name", "securityContext") if key in container}
    if fields.get("name") == PROXY_CONTAINER:
        fields["args"] = (container.get("args") or [])[:2]
        fields["env"] = [each for each in container.get("env") or [] if each.get("name") in VARIABLES]
    return fields


class Pods:
    """A table for several threads; one of them fills it from a list and a watch."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._pods: dict[Key, PodObject] = {}
        self._heard: float
        self._is_synced = False
        self._version = 0
        self._changes: dict[Key, int] = {}

    # --- filled by the watch ---------------------------------------------------------------------------------

    def replace_all(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """Take a whole list: pods that are not in it are gone."""
        fresh = {_pod_key(pod): reduced_pod(pod) for pod in pods}
        with self._changed:
            gone = self._pods.keys() - fresh.keys()
            self._pods = fresh
            for key in (*fresh, *gone):
                self._note(key)
            self._is_synced = True
            self._wake_listeners()

    def store(self, pod: Mapping[str, Any]) -> None:
        """Take a pod that is new or has changed; most of what kubelet writes in its status decides nothing."""
        key, stored = _pod_key(pod), reduced_pod(pod)
        with self._changed:
            if self._pods.get(key) != stored:
                self._pods[key] = stored
                self._note(key)
            self._wake_listeners()

    def remove(self, pod: Mapping[str, Any]) -> None:
        """Forget a pod, unless another one has its name by now."""
        key = _pod_key(pod)
        with self._changed:
            known = self._pods.get(key)
            if known is not None and known["metadata"].get("uid") == (pod.get("metadata") or {}).get("uid"):
                del self._pods[key]
                self._note(key)
            self._wake_listeners()

    def note_contact(self) -> None:
        """Note that the API server was heard, and has nothing new (a bookmark)."""
        with self._changed:
            self._wake_listeners()

    def note_outage(self) -> None:
        """Note that the API server cannot be heard: nothing here is certain until the next list."""
        with self._changed:
            self._is_synced = False

    def _note(self, key: Key) -> None:
        self._version += 1
        self._changes.pop(key, None)  # so that the latest is the last
        self._changes[key] = self._version
        if len(self._changes) > len(self._pods) + MAX_GONE:
            del self._changes[next(known for known in self._changes if known not in self._pods)]

    def _wake_listeners(self) -> None:
        self._heard = self._clock()
        self._changed.notify_all()

    def wait_until_filled(self, stop: threading.Event) -> bool:
        """Wait for the first list; return False if ``stop`` comes before."""
        with self._changed:
            while not self._is_synced and not stop.is_set():
                self._changed.wait(1.0)
            return self._is_synced

    # --- read by the plugin ------------------------------------------------------------------------------------

    @property
    def is_fresh(self) -> bool:
        """Return whether this table is as certain as an answer of the API server."""
        return self._is_synced and self._clock() - self._heard < FRESH_SECONDS

    def find(self, identity: Identity, wait: float = WAIT_SECONDS) -> PodObject | None:
        """Return the very pod, also if it comes within ``wait`` seconds; None if that is not certain."""
        if not identity.uid:
            return None
        until = self._clock() + wait
        with self._changed:
            while self.is_fresh:
                pod = self._pods.get((identity.namespace, identity.name))
                if pod is not None and is_same_pod(identity, pod):
                    return pod
                if self._clock() >= until:
                    return None
                self._changed.wait(until - self._clock())
        return None

    def changes_since(self, version: int) -> tuple[int, set[Key]]:
        """Return the version of this table, and the pods that are new, have changed or gone since an earlier one."""
        with self._changed:
            return self._version, {key for key, changed in self._changes.items() if changed > version}

    def all(self) -> list[PodObject]:
        with self._changed:
            return list(self._pods.values())

    def get(self, namespace: str, name: str) -> PodObject | None:
        """Return the pod of that name, however old what is known of it is."""
        with self._changed:
            return self._pods.get((namespace, name))


def _pod_key(pod: Mapping[str, Any]) -> Key:
    metadata = pod.get("metadata") or {}
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))
