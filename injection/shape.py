"""The shape of a pod's object, checked once for all that read it later. Pure.

Kubernetes checks far more (core/v1, PodSpec); here a manifest only has to be understood. A null is as good as absent.
A shape is plain data: ``str`` or ``bool``; ``[shape]`` for a list of any length; a tuple of types for a list of exactly
these; a dict with the shapes of members, next to which others may be anything. Under ANY_NAME it has that of all
members, under REQUIRED the name of one that has to be there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Shape = Any
"""``type | list[Shape] | tuple[type, ...] | Mapping[str, Shape | str]``"""

MAX_SHOWN_CHARACTERS = 60
ANY_NAME, REQUIRED = "*", "!"
EXPECTED_TEXT_OF = {str: "a string; put it in quotes", bool: "true or false, without quotes", int: "a number"}
TYPE_NAMES = {str: "a string", int: "a number"}


def misfits(value: object, shape: Shape, path: str = "") -> Iterator[str]:
    """Yield each value that does not fit a shape, with its place and what is expected."""
    if isinstance(shape, type):
        if not isinstance(value, shape):
            yield _misfit(value, path, EXPECTED_TEXT_OF[shape])
    elif isinstance(shape, tuple):
        if not (isinstance(value, list) and tuple(map(type, value)) == shape):
            yield _misfit(value, path, f"a list of {' and '.join(TYPE_NAMES[each] for each in shape)}")
    elif isinstance(shape, dict):
        yield from _object_misfits(value, shape, path)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from misfits(item, shape[0], f"{path}[{number}]")
    else:
        yield _misfit(value, path, "a list")


def _object_misfits(value: object, shape: Mapping[str, Shape], path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _misfit(value, path, "a mapping of names to values")
        return
    if ANY_NAME in shape:
        members = dict.fromkeys(value, shape[ANY_NAME])
    else:
        members = {name: inner for name, inner in shape.items() if value.get(name) is not None and name != REQUIRED}
    for name, inner in members.items():
        yield from misfits(value[name], inner, f"{path}.{name}" if path else name)
    if REQUIRED in shape and shape[REQUIRED] not in members:
        yield _misfit(value, path, f"a mapping with {shape[REQUIRED]}")


def _misfit(value: object, path: str, expected: str) -> str:
    text = json.dumps(value, default=str)
    shown = text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."
    return f"{path}: invalid value {shown}: expected {expected}"


ANY_OBJECT: Shape = {}
OBJECTS: Shape = [ANY_OBJECT]
STRINGS: Shape = [str]
SECURITY_SHAPE: Shape = {
    "capabilities": {"add": STRINGS, "drop": STRINGS},
    "seLinuxOptions": {"type": str},
    **dict.fromkeys(("seccompProfile", "appArmorProfile", "windowsOptions"), ANY_OBJECT),
    "sysctls": [{"name": str}],
}
CONTAINER_SHAPE: Shape = {
    "name": str,
    "image": str,
    "env": [{"name": str, REQUIRED: "name"}],
    **dict.fromkeys(("ports", "volumeMounts", "volumeDevices"), OBJECTS),
    "securityContext": SECURITY_SHAPE,
    **dict.fromkeys(("readinessProbe", "livenessProbe", "startupProbe"), ANY_OBJECT),
}
OBJECT_SHAPE: Shape = {"metadata": {"name": str, "generateName": str, "namespace": str}}
LIST_SHAPE: Shape = {"items": OBJECTS}
FRAGMENT_SHAPE: Shape = {
    "initContainers": [CONTAINER_SHAPE],
    "containers": [CONTAINER_SHAPE],
    "volumes": [{"name": str}],
}
"""The shape of a template's additions to a pod."""
POD_SHAPE: Shape = {
    "metadata": {"labels": ANY_OBJECT, "annotations": ANY_OBJECT},
    "spec": {"hostNetwork": bool, "securityContext": SECURITY_SHAPE, **FRAGMENT_SHAPE},
}
STATUS_SHAPE: Shape = {
    **dict.fromkeys(("initContainers", "containers", "volumes"), STRINGS),
    "capture": {
        "annotations": STRINGS,
        "created": STRINGS,
        "was": {ANY_NAME: str},
        "taken": {ANY_NAME: [(int, str)]},
    },
}
"""The status annotation, and the notes of ``inject`` in it."""
