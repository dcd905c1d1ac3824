"""Takes an injection out again: in the text, by the notes in its status annotation; in plain data, to prove it."""

from __future__ import annotations

import copy
import json
from typing import Any

from cni.pod import STATUS_ANNOTATION
from injection.manifest import ManifestText, can_be_added_to, item_name
from injection.plan import LISTS
from injection.pods import Workload, value_at, workloads
from injection.shape import STATUS_SHAPE, misfits
from injection.yaml_text import (
    Edit,
    Node,
    apply_edits,
    as_yaml,
    child,
    compose,
    key_and_value,
    line_start,
    node_at,
    without_tabs,
)
from sidecar.documents import DocumentError, load_yaml

NOTES = "capture"
"""The key of our notes in the status: by it we know our own."""


def remove(text: str, origin: str) -> str:
    """Return the manifest without what ``inject`` put in: what it was before, to the byte.

    A manifest that was written anew since then (as the API server does) is written anew here, too, where its text no
    longer fits: it means what it did before.
    """
    if STATUS_ANNOTATION not in text:
        return text
    target, nodes, documents = ManifestText(text), compose(text, origin), load_yaml(without_tabs(text), origin)
    expected = without_aliases(documents)
    changed = set()
    for number, (node, document) in enumerate(zip(nodes, documents, strict=True)):
        for workload in workloads(document):
            status = own_status(workload, f"{origin}, document {number + 1}: ")
            if status is not None:
                _Remover(target, node_at(node, workload.path), status).remove()
                replace_pod(expected, number, workload, without_injection(workload.pod, status))
                changed.add(number)
    try:
        result = apply_edits(text, target.edits)
        compose(result, origin)  # stricter about tabs than what loads
        if load_yaml(without_tabs(result), origin) == expected:
            return result
    except (DocumentError, ValueError):
        pass
    return _rewritten_text(text, [(nodes[number], expected[number]) for number in sorted(changed)])


def _rewritten_text(text: str, documents: list[tuple[Node, Any]]) -> str:
    """Return the text with some documents written anew; JSON stays JSON."""
    edits = []
    for node, plain in documents:
        start, end = node.start_mark.index, node.end_mark.index
        if node.flow_style:
            edits.append(Edit(start, end, json.dumps(plain, indent=2, ensure_ascii=False)))
        else:
            edits.append(Edit(line_start(text, start), end, as_yaml([plain])))
    return apply_edits(text, edits)


def own_status(workload: Workload, location: str) -> dict[str, Any] | None:
    """Return the status annotation if we wrote it."""
    try:
        status = json.loads(workload.annotations.get(STATUS_ANNOTATION, ""))
    except (TypeError, ValueError):
        return None
    if not isinstance(status, dict) or not isinstance(status.get(NOTES), dict):
        return None
    misfit = next(misfits(status, STATUS_SHAPE), "")
    if misfit:
        raise DocumentError(
            f"{location}{workload}: annotation {STATUS_ANNOTATION}: {misfit}",
            "Another program changed what an injection noted there. Remove the injection and the annotation by hand.",
        )
    return status


class _Remover:
    """Takes one pod's injection out of a text."""

    def __init__(self, target: ManifestText, pod: Node, status: dict[str, Any]) -> None:
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
        spec = child(self._pod, "spec")
        for key in LISTS:
            self._remove_list(spec, key)

    def _remove_annotations(self) -> None:
        metadata = child(self._pod, "metadata")
        annotations = child(metadata, "annotations")
        is_only_added = self._is_only_added(annotations)
        alone = metadata is not None and all(name.value in ("annotations", "<<") for name, _ in metadata.value)
        if self._remove_whole(self._pod, "metadata", metadata, alone and is_only_added):
            return
        if annotations is None or self._remove_whole(metadata, "annotations", annotations, is_only_added):
            return
        for name in self._annotations:
            pair = key_and_value(annotations, name)
            if pair and f"annotation {name}" in self._was:
                self._target.put_back(pair[1], self._was[f"annotation {name}"])
            elif pair:
                self._target.remove_pair(annotations, name)

    def _is_only_added(self, annotations: Node | None) -> bool:
        return annotations is None or all(name.value in (*self._annotations, "<<") for name, _ in annotations.value)

    def _remove_whole(self, parent: Node, key: str, node: Node | None, is_only_added: bool) -> bool:  # noqa: FBT001  # one caller
        """Remove or put back a whole value, where it was made or written anew; return whether that is so."""
        if node is None or not is_only_added:
            return False
        if key in self._was:
            self._target.put_back(node, self._was[key])
        elif key in self._created:
            self._target.remove_pair(parent, key)
        return key in self._was or key in self._created

    def _remove_list(self, spec: Node | None, key: str) -> None:
        pair = key_and_value(spec, key) if spec is not None else None
        if pair is None or not can_be_added_to(pair[1]):
            return
        name, node = pair
        names, taken = self._status.get(key) or [], self._taken.get(key) or []
        is_only_added = all(item_name(item) in names for item in node.value) or key in self._was
        if not self._remove_whole(spec, key, node, is_only_added):
            self._target.restore_list(name, node, names, [(int(after), str(text)) for after, text in taken])


# --- in plain data -------------------------------------------------------------------------------


def without_aliases(value: Any) -> Any:
    """Return a copy in which nothing is in two places, as aliases make it."""
    if isinstance(value, dict):
        return {key: without_aliases(each) for key, each in value.items()}
    return [without_aliases(each) for each in value] if isinstance(value, list) else value


def replace_pod(documents: list[Any], number: int, workload: Workload, pod: dict[str, Any]) -> None:
    """Put a pod into its place in the documents."""
    if not workload.path:
        documents[number] = pod
        return
    value_at(documents[number], workload.path[:-1])[workload.path[-1]] = pod


def without_injection(pod: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """Return a pod without what the status names, as plain data."""
    pod, notes = copy.deepcopy(pod), status[NOTES]
    created, was = notes.get("created") or [], notes.get("was") or {}
    metadata = pod["metadata"]
    annotations = metadata["annotations"]
    for name in [*(notes.get("annotations") or []), STATUS_ANNOTATION]:
        annotations.pop(name, None)
        if f"annotation {name}" in was:
            annotations[name] = _parsed_notes(was[f"annotation {name}"])
    _drop_empty(metadata, "annotations", created, was)
    _drop_empty(pod, "metadata", created, was)
    for key in LISTS:
        _restore(pod["spec"], key, status.get(key) or [], (notes.get("taken") or {}).get(key) or [])
        _drop_empty(pod["spec"], key, created, was)
    return pod


def _restore(spec: dict[str, Any], key: str, added: list[str], taken: list[list[Any]]) -> None:
    """Take our entries out of a list, and put back what injection took out of it."""
    if not isinstance(spec.get(key), list):
        return
    items = [each for each in spec[key] if not (isinstance(each, dict) and each.get("name") in added)]
    for count, (after, text) in enumerate(taken):
        items[after + count : after + count] = _parsed_items(text)
    spec[key] = items


def _drop_empty(parent: dict[str, Any], key: str, created: list[str], was: dict[str, str]) -> None:
    """Drop what was made and is empty now, or make it null again."""
    if parent.get(key):
        return
    if key in created:
        parent.pop(key, None)
    elif key in was and not was[key].startswith("*"):
        parent[key] = None


def _parsed_notes(text: str) -> Any:
    loaded = load_yaml(text, STATUS_ANNOTATION)
    return loaded[0] if loaded else None


def _parsed_items(text: str) -> list[Any]:
    """Return the items of a piece of a list, in block or in flow style."""
    inner = text.strip(", \t\r\n")
    if not inner.startswith(("{", "*", "&", "!")):
        notes = _parsed_notes(text)
        return notes if isinstance(notes, list) else [notes]
    try:
        return list(json.loads(f"[{inner}]"))
    except ValueError:
        return list(_parsed_notes(f"[{inner}]"))
