"""Where workloads keep their pods: the kinds that are injected, and the path to the pod in each. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from capture.model.values import Value

Path = tuple["str | int", ...]

TEMPLATE: Path = ("spec", "template")
POD_PATHS: dict[str, Path] = {
    "Pod": (),
    "Deployment": TEMPLATE,
    "StatefulSet": TEMPLATE,
    "DaemonSet": TEMPLATE,
    "ReplicaSet": TEMPLATE,
    "ReplicationController": TEMPLATE,
    "DeploymentConfig": TEMPLATE,
    "Job": TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""The kinds of core/v1, apps/v1, batch/v1 and apps.openshift.io/v1; all others stay as they are."""
API_GROUPS = ("", "apps", "batch", "extensions", "apps.openshift.io")

RUNS_TO_COMPLETION = ("Job", "CronJob")


class Workload(Value):
    """A workload of a document: its kind, namespace and name, the path to its pod, and the pod as it is there."""

    kind: str
    namespace: str
    name: str
    path: Path
    pod: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name or '(unnamed)'}"

    @property
    def owner(self) -> Path:
        """Return the path of the object that the pod is in."""
        return self.path[: len(self.path) - len(POD_PATHS[self.kind])]

    @property
    def labels(self) -> dict[str, str]:
        return _mapping(_mapping(self.pod.get("metadata")).get("labels"))

    @property
    def annotations(self) -> dict[str, str]:
        return _mapping(_mapping(self.pod.get("metadata")).get("annotations"))


def objects(document: object, path: Path = (), kind: str = "") -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Yield the objects of a document with place and kind: those of a List one by one.

    In a typed list such as PodList they need not have a kind (apimachinery, unstructuredJSONScheme).
    """
    if not isinstance(document, dict):
        return
    kind, items = str(document.get("kind") or kind), document.get("items")
    if not kind.endswith("List") or not isinstance(items, list):
        yield path, kind, document
        return
    for position, item in enumerate(items):
        yield from objects(item, (*path, "items", position), kind.removesuffix("List"))


def workloads(document: object, default_namespace: str = "default") -> Iterator[Workload]:
    """Yield the workloads of a document; those of a List one by one."""
    for path, kind, plain in objects(document):
        workload = _pod_workload(path, kind, plain, default_namespace)
        if workload:
            yield workload


def _pod_workload(path: Path, kind: str, plain: dict[str, Any], default_namespace: str) -> Workload | None:
    if kind not in POD_PATHS:
        return None
    metadata = _mapping(plain.get("metadata"))
    name = str(metadata.get("name") or metadata.get("generateName") or "")
    pod = value_at(plain, POD_PATHS[kind])
    is_other_kind = str(plain.get("apiVersion") or "").rpartition("/")[0] not in API_GROUPS
    if is_other_kind and not isinstance(_mapping(pod).get("spec"), dict):
        return None  # another group's kind of that name, such as Volcano's Job
    # A template's own namespace would be ignored by Kubernetes; the workload's counts.
    namespace = str(metadata.get("namespace") or default_namespace)
    return Workload(kind, namespace, name, (*path, *POD_PATHS[kind]), _mapping(pod))


def unknown_workloads(document: object, default_namespace: str = "default") -> Iterator[Workload]:
    """Yield the pod templates of kinds that we do not know, as Argo's Rollout; those in a List, too."""
    for _, kind, plain in objects(document):
        if _pod_workload((), kind, plain, default_namespace):
            continue
        metadata = _mapping(plain.get("metadata"))
        namespace, name = metadata.get("namespace") or default_namespace, metadata.get("name")
        for path, pod in _inner_objects(plain, ()):
            yield Workload(kind, str(namespace), str(name), path, pod)


def _inner_objects(plain: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield what is inside of an object and has a spec with containers, and where."""
    containers = _mapping(_mapping(plain).get("spec")).get("containers")
    if path and isinstance(containers, list):
        yield path, plain
        return
    inner = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for step, value in inner:
        yield from _inner_objects(value, (*path, step))


def _mapping(value: Any) -> dict[str, Any]:
    """Return a mapping; an empty one for what is none, or not there."""
    return value if isinstance(value, dict) else {}


def value_at(plain: Any, path: Path) -> Any:
    """Return what is at a path; None if there is nothing."""
    for step in path:
        if isinstance(plain, dict):
            plain = plain.get(step)
        elif isinstance(plain, list) and isinstance(step, int) and step < len(plain):
            plain = plain[step]
        else:
            return None
    return plain


def containers_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all containers of a pod, init containers first."""
    return [each for key in ("initContainers", "containers") for each in spec.get(key) or [] if isinstance(each, dict)]
