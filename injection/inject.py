"""Injection into a manifest's text: every byte that is not touched stays; twice is once; all of it can be undone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from capture.errors import CaptureError
from capture.model.values import Value
from capture.settings.settings import Settings
from cni.pod import STATUS_ANNOTATION, TEMPLATES_ANNOTATION
from injection.decision import decide
from injection.manifest import ManifestText, can_be_added_to, item_name, needs_rewriting
from injection.plan import LISTS, InjectionPlan, make_plan, status_of, with_plan
from injection.pods import POD_PATHS, Workload, containers_of, objects, unknown_workloads, value_at, workloads
from injection.remove import NOTES, remove, replace_pod, without_aliases
from injection.shape import LIST_SHAPE, OBJECT_SHAPE, POD_SHAPE, misfits
from injection.template import InjectionError, Template
from injection.warnings import warnings_of
from injection.yaml_text import (
    Node,
    apply_edits,
    child,
    compose,
    is_mapping,
    is_null,
    key_and_value,
    node_at,
    without_tabs,
)
from sidecar.documents import load_yaml, require_object

SIDECAR = "sidecar"
"""The one template of Istio's that there is here."""


class WorkloadOutcome(Value):
    """The result for a workload."""

    document: int
    workload: Workload
    injected: bool
    reason: str
    warnings: tuple[str, ...] = ()
    plan: InjectionPlan | None = None


class Result(Value):
    """A manifest after injection."""

    text: str
    outcomes: tuple[WorkloadOutcome, ...]


def inject(text: str, origin: str, template: Template, base: Settings, namespace: str = "default") -> Result:
    """Return the manifest with a sidecar in each of its pods that gets one.

    An earlier injection is taken out first: a second run with the same settings changes nothing, and one with others
    leaves nothing behind. InjectionError or DocumentError name the document and what cannot be used.
    """
    clean = remove(text, origin)
    plain = load_yaml(without_tabs(clean), origin)
    expected = without_aliases(plain)
    target, outcomes = ManifestText(clean), []
    for number, (node, document) in enumerate(zip(compose(clean, origin), plain, strict=True), 1):
        _require_items(document, f"{origin}, document {number}")
        for workload in workloads(document, namespace):
            try:
                _require_names(workload, value_at(document, workload.owner))
                outcome = _workload_outcome(number, workload, template, base)
                status = _write_edits(target, node, workload, outcome.plan) if outcome.plan else ""
            except CaptureError as error:
                line = _line_of(node, workload, error.message)
                where = f"{origin}, document {number}, line {line}"
                raise InjectionError(f"{where}: {error.message}", error.remedy) from None
            outcomes.append(outcome)
            if outcome.plan is not None:
                replace_pod(expected, number - 1, workload, with_plan(workload.pod, outcome.plan, status))
        outcomes += [_unknown_kind_outcome(number, workload) for workload in unknown_workloads(document, namespace)]
    result = apply_edits(clean, target.edits)
    _require_reversible(result, clean, expected, origin)
    return Result(result, tuple(outcomes))


def _unknown_kind_outcome(number: int, workload: Workload) -> WorkloadOutcome:
    """Return that a kind is unknown, as for `istioctl kube-inject`: what becomes of its template is not known."""
    where = ".".join(map(str, workload.path))
    reason = f"kind {workload.kind} is unknown; its pods ({where}) can be injected when they are made: --policy"
    return WorkloadOutcome(number, workload, injected=False, reason=reason)


def _line_of(root: Node, workload: Workload, message: str) -> int:
    """Return the line of the label, annotation or place that a message names; counted in the file before injection."""
    named: Node = None
    for kind in ("label", "annotation"):
        texts = node_at(root, [*workload.path, "metadata", f"{kind}s"])
        names = [name for name, _ in texts.value] if texts is not None and is_mapping(texts) else []
        named = next((name for name in names if f"{kind} {name.value}" in message), named)
    place = re.findall(r"[^.\[\]]+", message.removeprefix(f"{workload}: ").partition(":")[0])
    steps = [int(step) if step.isdecimal() else step for step in place]
    paths = [*workload.path, *steps], [*workload.owner, *steps]
    path = next((each for each in paths if node_at(root, each)), paths[0])
    while named is None:
        named = node_at(root, path)
        path = path[:-1]
    return int(named.start_mark.line) + 1


def _workload_outcome(number: int, workload: Workload, template: Template, base: Settings) -> WorkloadOutcome:
    _require_pod_shape(workload)
    decision = decide(workload.pod.get("metadata") or {}, workload.pod["spec"], workload.namespace)
    reason = _reason_against(workload) if decision.inject else decision.reason
    if reason:
        return WorkloadOutcome(number, workload, injected=False, reason=reason, warnings=decision.warnings)
    plan = make_plan(workload, template, base)
    warnings = [*decision.warnings, *warnings_of(workload, plan)]
    if template.uses_plugin and plan.settings.is_plugin_excluding_more:
        warnings.append("the CNI plugin leaves inbound port 15020 alone, whatever the status port is")
    return WorkloadOutcome(number, workload, injected=True, reason=decision.reason, warnings=tuple(warnings), plan=plan)


def _reason_against(workload: Workload) -> str:
    """Return why a pod that is to get a sidecar cannot have it; "" if it can."""
    templates = [name.strip() for name in workload.annotations.get(TEMPLATES_ANNOTATION, SIDECAR).split(",")]
    if SIDECAR not in templates:
        return f"annotation {TEMPLATES_ANNOTATION} names {', '.join(templates)}"
    if STATUS_ANNOTATION in workload.annotations:
        return f"another injector has been here: annotation {STATUS_ANNOTATION}"
    return "" if workload.pod["spec"].get("containers") else "it has no containers"


def _require_items(document: object, origin: str) -> None:
    """Raise an error for what is no object, or a List without a list: its workloads would be passed over."""
    if document is not None:
        require_object(document, origin)
    for path, kind, plain in objects(document):
        misfit = next(misfits(plain, LIST_SHAPE, ".".join(map(str, path))), "")
        if misfit and kind.removesuffix("List") in ("", *POD_PATHS):
            raise InjectionError(f"{origin}: {kind}: {misfit}")


def _require_names(workload: Workload, plain: object) -> None:
    misfit = next(misfits(plain, OBJECT_SHAPE), "")
    if misfit:
        raise InjectionError(f"{workload}: {misfit}")


def _require_pod_shape(workload: Workload) -> None:
    """Raise InjectionError for a pod of the wrong shape: what reads it later need not look."""
    if workload.pod.get("spec") is None:
        place = ".".join(map(str, (*POD_PATHS[workload.kind], "spec")))
        raise InjectionError(f"{workload}: {place} is missing: expected an object with containers")
    misfit = next(misfits(workload.pod, POD_SHAPE), "")
    if misfit:
        raise InjectionError(f"{workload}: {misfit}")
    texts: dict[str, Mapping[str, object]] = {"label": workload.labels, "annotation": workload.annotations}
    for kind, named in texts.items():
        for name, value in named.items():
            if not isinstance(value, str):  # the API server refuses it as well
                shown = json.dumps(value)
                raise InjectionError(
                    f"{workload}: {kind} {name}: invalid value {shown}: expected a string; put it in quotes"
                )
    names = [each.get("name") for each in containers_of(workload.pod["spec"])]
    twice = next((name for name in names if name is not None and names.count(name) > 1), None)
    if twice is not None:
        raise InjectionError(f"{workload}: two containers have the name {twice}")


def _require_reversible(result: str, clean: str, expected: list[Any], origin: str) -> None:
    """Raise InjectionError unless the text means what was planned, and can be undone to the byte."""
    shared = "A key may be there twice, or its value be shared by an anchor (&name): write it out where it is used."
    if load_yaml(without_tabs(result), origin) != expected:
        raise InjectionError(f"{origin}: cannot be injected without changing something else", shared)
    if remove(result, origin) != clean:
        raise InjectionError(f"{origin}: cannot be injected in a way that can be undone", shared)


# --- writing -------------------------------------------------------------------------------------


def _write_edits(target: ManifestText, root: Node, workload: Workload, plan: InjectionPlan) -> str:
    """Make the edits for one pod, and return the status annotation."""
    pod = node_at(root, workload.path)
    created: list[str] = []
    was: dict[str, str] = {}
    metadata, spec = child(pod, "metadata"), node_at(pod, ["spec"])
    annotations = child(metadata, "annotations")
    changed = [key for key in LISTS if plan.first[key] or plan.last[key] or _taken_from(spec, key, plan)]
    for path, node in (
        ("metadata", metadata),
        ("annotations", annotations),
        *((key, child(spec, key)) for key in changed),
    ):
        if node is None:
            created.append(path)
        elif needs_rewriting(node):
            was[path] = target.original(node)
    for name in plan.annotations:
        pair = key_and_value(annotations, name) if annotations is not None and can_be_added_to(annotations) else None
        if pair:
            was[f"annotation {name}"] = target.original(pair[1])
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


def _taken_from(spec: Node, key: str, plan: InjectionPlan) -> list[int]:
    """Return the positions of the pod's own containers that were merged into injected ones."""
    node = node_at(spec, [key])
    if key == "volumes" or node is None or is_null(node):
        return []
    return [number for number, item in enumerate(node.value) if item_name(item) in plan.taken]


def _write_annotations(target: ManifestText, pod: Node, desired: dict[str, str]) -> None:
    metadata = child(pod, "metadata")
    if metadata is None:
        target.add_pairs(pod, {"metadata": {"annotations": desired}}, before="spec")
        return
    if needs_rewriting(metadata):
        target.rewrite(metadata, {"annotations": desired}, alias=not is_null(metadata))
        return
    annotations = child(metadata, "annotations")
    if annotations is None:
        target.add_pairs(metadata, {"annotations": desired})
    elif needs_rewriting(annotations):
        target.rewrite(annotations, desired, alias=not is_null(annotations))
    else:
        for name, value in desired.items():
            pair = key_and_value(annotations, name)
            if pair:
                target.rewrite(pair[1], value)
        added = {name: value for name, value in desired.items() if not key_and_value(annotations, name)}
        target.add_pairs(annotations, added)


def _write_list(
    target: ManifestText, spec: Node, key: str, plan: InjectionPlan, workload: Workload
) -> list[tuple[int, str]]:
    """Make the edits for a list, and return what was taken out of it."""
    first, last, pair = plan.first[key], plan.last[key], key_and_value(spec, key)
    if pair is None:
        target.add_pairs(spec, {key: [*first, *last]}, before="containers")
        return []
    name, node = pair
    if needs_rewriting(node):
        existing = [each for each in workload.pod["spec"].get(key) or [] if each.get("name") not in plan.taken]
        target.rewrite(node, [*first, *existing, *last])
        return []
    return target.change_list(name, node, first, last, _taken_from(spec, key, plan))
