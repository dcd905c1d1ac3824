"""Telemetry (telemetry.istio.io/v1): which access logs a workload writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from capture.model.values import Value
from sidecar.documents import Document
from sidecar.fields import FieldError, Fields
from sidecar.mesh import BUILT_IN_PROVIDER, FileLog, Mesh
from sidecar.objects import MeshPod, includes, metadata_of


class AccessLogging(Value):
    """One entry of ``accessLogging``: for the named providers, or for those named further up."""

    providers: tuple[str, ...]
    disabled: bool
    expression: str
    fields: Fields


class Telemetry(Value):
    """A Telemetry: where it holds, and its settings of access logs."""

    origin: str
    namespace: str
    selector: Mapping[str, str]
    entries: tuple[AccessLogging, ...]

    def scope(self, pod: MeshPod, root: str) -> int | None:
        """Return how specific it is for a pod: 0 mesh, 1 namespace, 2 workload; None if it does not hold there."""
        if self.namespace == pod.namespace and self.selector:
            return 2 if includes(pod.labels, self.selector) else None
        if self.selector:
            return None  # a selector in the root namespace is for workloads there
        if self.namespace == root:
            return 0
        return 1 if self.namespace == pod.namespace else None


class AccessLog(Value):
    """An access log that a sidecar writes, and the expression (CEL) that a request has to satisfy."""

    file: FileLog
    expression: str = ""


def read_telemetry(document: Document) -> Telemetry:
    """Return a Telemetry."""
    fields = document.fields("apiVersion", "kind", "metadata", "spec", "status")
    namespace, _, _ = metadata_of(fields)
    spec = fields.inner("spec", "selector", "accessLogging")
    selector = spec.inner("selector", "matchLabels").labels("matchLabels")
    return Telemetry(document.origin, namespace, selector, tuple(map(_read_logging, spec.objects("accessLogging"))))


def _read_logging(fields: Fields) -> AccessLogging:
    fields.require_known("providers", "disabled", "filter")
    names = tuple(provider.text("name") for provider in fields.objects("providers", "name"))
    return AccessLogging(
        names, fields.flag("disabled"), fields.inner("filter", "expression").text("expression"), fields
    )


def access_logs(mesh: Mesh, telemetries: Iterable[Telemetry], pod: MeshPod) -> tuple[AccessLog, ...]:
    """Return the access logs of a pod: workload beats namespace beats mesh; without a Telemetry, the mesh config's.

    FieldError where two Telemetries of one scope hold for the pod: which of them counts would be chance.
    """
    by_scope: dict[int, Telemetry] = {}
    for telemetry in telemetries:
        scope = telemetry.scope(pod, mesh.root_namespace)
        if scope is None or not telemetry.entries:
            continue
        if scope in by_scope:
            raise FieldError(
                telemetry.origin, "spec.accessLogging", f"{by_scope[scope].origin} has the same scope for this pod"
            )
        by_scope[scope] = telemetry
    known = {BUILT_IN_PROVIDER: mesh.own_log, **mesh.providers}
    if not by_scope:
        return _mesh_logs(mesh, known)
    return _merged_logs(mesh, known, [by_scope[scope] for scope in sorted(by_scope)])


def _mesh_logs(mesh: Mesh, known: Mapping[str, FileLog]) -> tuple[AccessLog, ...]:
    if mesh.default_providers:
        return tuple(AccessLog(known[name]) for name in mesh.default_providers if name in known)
    return (AccessLog(mesh.own_log),) if mesh.logs_to_file else ()


def _merged_logs(mesh: Mesh, known: Mapping[str, FileLog], telemetries: list[Telemetry]) -> tuple[AccessLog, ...]:
    """Return the settings of all levels together: each entry about its providers, or about those inherited."""
    names = mesh.default_providers or (BUILT_IN_PROVIDER,)
    logs: dict[str, AccessLog] = {}
    for telemetry in telemetries:
        level: dict[str, AccessLog | None] = {}
        for entry in telemetry.entries:
            for name in entry.providers or names:
                if name not in known:
                    raise FieldError(
                        telemetry.origin,
                        entry.fields.path_of("providers"),
                        f"no provider {name!r}; the mesh config has {', '.join(sorted(known))}",
                    )
                level[name] = None if entry.disabled else AccessLog(known[name], entry.expression)
        names = tuple(level)
        logs = {name: log for name, log in level.items() if log is not None}
    return tuple(logs.values())
