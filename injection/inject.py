"""Injection into a manifest's text: every byte that is not touched stays; twice is once; all of it can be undone."""

from __future__ import annotations

import json

from capture.errors import CaptureError
from capture.model.values import Value
from cni.pod import STATUS_ANNOTATION, TEMPLATES_ANNOTATION
from injection.decision import decide
from injection.manifest import Text, can_be_added_to, item_name, needs_writing_anew
from injection.plan import LISTS, Plan, make_plan, status_of, with_plan
from injection.pods import Workload, at, workloads
from injection.template import InjectionError
from injection.warnings import warnings_of
from injection.yaml_text import applied, compose, is_null, node_at, pair, without_tabs
from sidecar.documents import load_yaml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from capture.settings.settings import Settings
    from injection.template import Template
    from injection.yaml_text import Node

SIDECAR = "sidecar"
"""The one template of Istio's that there is here."""
NOTES = "capture"
"""The key of our notes in the status: by it we know our own."""


class Outcome(Value):
    """What became of a workload."""

    document: int
    workload: Workload
    injected: bool
    reason: str
    warnings: tuple[str, ...] = ()
    plan: Plan | None = None


class Result(Value):
    """A manifest after injection."""

    text: str
    outcomes: tuple[Outcome, ...]


def inject(text: str, origin: str, template: Template, base: Settings, namespace: str = "default") -> Result:
    """Return the manifest with a sidecar in each of its pods that gets one.

    What an earlier run put in is taken out first, so that a second run with the same settings changes nothing, and one
    with others leaves nothing behind. InjectionError or DocumentError name the document and what cannot be used.
    """
    clean = remove(text, origin)
    plain = load_yaml(without_tabs(clean), origin)
    expected = unshared(plain)
    target, outcomes = Text(clean), []
    for number, (node, document) in enumerate(zip(compose(clean, origin), plain, strict=True), 1):
        for workload in workloads(document, namespace):
            outcome = _with_origin(f"{origin}, document {number}", _outcome, number, workload, template, base)
            outcomes.append(outcome)
            if outcome.plan is not None:
                status = _write(target, node, workload, outcome.plan)
                _put(expected, number - 1, workload, with_plan(workload.pod, outcome.plan, status))
    result = applied(clean, target.edits)
    _prove(result, clean, expected, origin)
    return Result(result, tuple(outcomes))


def _with_origin(where: str, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except CaptureError as error:
        raise InjectionError(f"{where}: {error.message}", error.remedy) from None


def _outcome(number: int, workload: Workload, template: Template, base: Settings) -> Outcome:
    decision = decide(workload.pod.get("metadata") or {}, workload.pod["spec"], workload.namespace)
    if not decision.inject:
        return Outcome(number, workload, injected=False, reason=decision.reason, warnings=decision.warnings)
    templates = [name.strip() for name in workload.annotations.get(TEMPLATES_ANNOTATION, SIDECAR).split(",")]
    if SIDECAR not in templates:
        reason = f"annotation {TEMPLATES_ANNOTATION} asks for {', '.join(templates)}"
        return Outcome(number, workload, injected=False, reason=reason, warnings=decision.warnings)
    if STATUS_ANNOTATION in workload.annotations:
        reason = f"another injector has been here: annotation {STATUS_ANNOTATION}"
        return Outcome(number, workload, injected=False, reason=reason, warnings=decision.warnings)
    plan = make_plan(workload, template, base)
    warnings = [*decision.warnings, *warnings_of(workload, plan)]
    if template.uses_plugin and plan.settings.plugin_leaves_more:
        warnings.append("the CNI plugin leaves inbound port 15020 alone, whatever the status port is")
    return Outcome(number, workload, injected=True, reason=decision.reason, warnings=tuple(warnings), plan=plan)


def unshared(value: Any) -> Any:
    """Return a copy in which nothing is in two places, as aliases make it."""
    if isinstance(value, dict):
        return {key: unshared(one) for key, one in value.items()}
    return [unshared(one) for one in value] if isinstance(value, list) else value


def _put(documents: list[Any], number: int, workload: Workload, pod: dict[str, Any]) -> None:
    if not workload.path:
        documents[number] = pod
        return
    at(documents[number], workload.path[:-1])[workload.path[-1]] = pod


def _prove(result: str, clean: str, expected: list[Any], origin: str) -> None:
    """Raise InjectionError unless the text means what was planned, and can be undone to the byte."""
    shared = "A value that it changes may be shared by an anchor (&name): write it out where it is used."
    if load_yaml(without_tabs(result), origin) != expected:
        raise InjectionError(f"{origin}: cannot be injected without changing something else", shared)
    if remove(result, origin) != clean:
        raise InjectionError(f"{origin}: cannot be injected in a way that can be undone", shared)


# --- writing -------------------------------------------------------------------------------------


def _write(target: Text, root: Node, workload: Workload, plan: Plan) -> str:
    """Make the edits for one pod, and return the status annotation."""
    pod = node_at(root, workload.path)
    created: list[str] = []
    was: dict[str, str] = {}
    metadata, annotations = _child(pod, "metadata"), _child(_child(pod, "metadata"), "annotations")
    spec = node_at(pod, ["spec"])
    changed = [key for key in LISTS if plan.first[key] or plan.last[key] or _taken_from(spec, key, plan)]
    for path, node in (
        ("metadata", metadata),
        ("annotations", annotations),
        *((key, _child(spec, key)) for key in changed),
    ):
        if node is None:
            created.append(path)
        elif needs_writing_anew(node):
            was[path] = target.original(node)
    for name in plan.annotations:
        found = pair(annotations, name) if annotations is not None and can_be_added_to(annotations) else None
        if found:
            was[f"annotation {name}"] = target.original(found[1])
    taken = {key: _write_list(target, spec, key, plan, workload) for key in changed}
    notes = {
        "annotations": list(plan.annotations),
        "created": created,
        "was": was,
        "taken": {key: texts for key, texts in taken.items() if texts},
    }
    status = json.dumps(status_of(plan, {NOTES: {key: value for key, value in notes.items() if value}}))
    _write_annotations(target, pod, {**plan.annotations, STATUS_ANNOTATION: status})
    return status


def _child(node: Node | None, key: str) -> Node | None:
    """Return a value of a mapping, not followed where it is an alias."""
    found = pair(getattr(node, "target", node), key) if node is not None else None
    return found[1] if found else None


def _taken_from(spec: Node, key: str, plan: Plan) -> list[int]:
    """Return the positions of the pod's own containers that were laid over ours."""
    node = node_at(spec, [key])
    if key == "volumes" or node is None or is_null(node):
        return []
    return [number for number, item in enumerate(node.value) if item_name(item) in plan.taken]


def _write_annotations(target: Text, pod: Node, wanted: dict[str, str]) -> None:
    metadata = _child(pod, "metadata")
    if metadata is None:
        target.add_pairs(pod, {"metadata": {"annotations": wanted}}, before="spec")
        return
    if needs_writing_anew(metadata):
        target.write_anew(metadata, {"annotations": wanted}, alias=not is_null(metadata))
        return
    annotations = _child(metadata, "annotations")
    if annotations is None:
        target.add_pairs(metadata, {"annotations": wanted})
    elif needs_writing_anew(annotations):
        target.write_anew(annotations, wanted, alias=not is_null(annotations))
    else:
        for name, value in wanted.items():
            found = pair(annotations, name)
            if found:
                target.write_anew(found[1], value)
        added = {name: value for name, value in wanted.items() if not pair(annotations, name)}
        target.add_pairs(annotations, added)


def _write_list(target: Text, spec: Node, key: str, plan: Plan, workload: Workload) -> list[tuple[int, str]]:
    """Make the edits for a list, and return what was taken out of it."""
    first, last, found = plan.first[key], plan.last[key], pair(spec, key)
    if found is None:
        target.add_pairs(spec, {key: [*first, *last]}, before="containers")
        return []
    name, node = found
    if needs_writing_anew(node):
        existing = [one for one in workload.pod["spec"].get(key) or [] if one.get("name") not in plan.taken]
        target.write_anew(node, [*first, *existing, *last])
        return []
    return target.change_list(name, node, first, last, _taken_from(spec, key, plan))


# --- removing ------------------------------------------------------------------------------------


def remove(text: str, origin: str) -> str:
    """Return the manifest without what ``inject`` put in: what it was before, to the byte."""
    if STATUS_ANNOTATION not in text:
        return text
    target = Text(text)
    for node, document in zip(compose(text, origin), load_yaml(without_tabs(text), origin), strict=True):
        for workload in workloads(document):
            status = _own_status(workload)
            if status is not None:
                _Remover(target, node_at(node, workload.path), status).remove()
    return applied(text, target.edits)


def _own_status(workload: Workload) -> dict[str, Any] | None:
    """Return the status annotation if it is ours."""
    try:
        status = json.loads(workload.annotations.get(STATUS_ANNOTATION, ""))
    except (TypeError, ValueError):
        return None
    return status if isinstance(status, dict) and isinstance(status.get(NOTES), dict) else None


class _Remover:
    """Takes one pod's injection out of a text."""

    def __init__(self, target: Text, pod: Node, status: dict[str, Any]) -> None:
        notes = status[NOTES]
        self._target = target
        self._pod = pod
        self._status = status
        self._created: list[str] = notes.get("created") or []
        self._was: dict[str, str] = notes.get("was") or {}
        self._taken: dict[str, list[tuple[int, str]]] = notes.get("taken") or {}
        self._annotations: list[str] = [*(notes.get("annotations") or []), STATUS_ANNOTATION]

    def remove(self) -> None:
        self._remove_annotations()
        spec = _child(self._pod, "spec")
        for key in LISTS:
            self._remove_list(spec, key)

    def _remove_annotations(self) -> None:
        metadata = _child(self._pod, "metadata")
        annotations = _child(metadata, "annotations")
        alone = metadata is not None and all(name.value in ("annotations", "<<") for name, _ in metadata.value)
        if self._whole(self._pod, "metadata", metadata, alone and self._only_ours(annotations)):
            return
        if self._whole(metadata, "annotations", annotations, self._only_ours(annotations)) or annotations is None:
            return
        for name in self._annotations:
            found = pair(annotations, name)
            if found and f"annotation {name}" in self._was:
                self._target.put_back(found[1], self._was[f"annotation {name}"])
            elif found:
                self._target.remove_pair(annotations, name)

    def _only_ours(self, annotations: Node | None) -> bool:
        return annotations is None or all(name.value in (*self._annotations, "<<") for name, _ in annotations.value)

    def _whole(self, parent: Node, key: str, node: Node | None, only_ours: bool) -> bool:  # noqa: FBT001  # one caller
        """Remove or put back a whole value, where it was made or written anew; return whether that is so."""
        if node is None or not only_ours:
            return False
        if key in self._was:
            self._target.put_back(node, self._was[key])
        elif key in self._created:
            self._target.remove_pair(parent, key)
        return key in self._was or key in self._created

    def _remove_list(self, spec: Node | None, key: str) -> None:
        found = pair(spec, key) if spec is not None else None
        if found is None or not can_be_added_to(found[1]):
            return
        name, node = found
        names, taken = self._status.get(key) or [], self._taken.get(key) or []
        only_ours = all(item_name(item) in names for item in node.value) or key in self._was
        if not self._whole(spec, key, node, only_ours):
            self._target.restore_list(name, node, names, [(int(after), str(text)) for after, text in taken])
