"""The shape of a pod's object, checked once for all that read it later. Pure.

Kubernetes checks far more (core/v1, PodSpec); here a manifest only has to be understood. A null is as good as absent.
``misfits`` yields each value that does not fit, with its place and what is expected.
"""

from __future__ import annotations

import json

from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Protocol

    class Shape(Protocol):
        """A shape that a value must have."""

        def misfits(self, value: Any, where: str) -> Iterator[str]:
            """Yield what does not fit."""


MAX_SHOWN = 60


class StringShape(Value):
    """A string."""

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not isinstance(value, str):
            yield _misfit(value, where, "a string; put it in quotes")


class BooleanShape(Value):
    """A truth value."""

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not isinstance(value, bool):
            yield _misfit(value, where, "true or false, without quotes")


class NumberedStringShape(Value):
    """A list of a number and a string."""

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not (isinstance(value, list) and [type(each) for each in value] == [int, str]):
            yield _misfit(value, where, "a list of a number and a string")


class ListShape(Value):
    """A list of things of one shape."""

    item: Shape

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield _misfit(value, where, "a list")
            return
        for number, item in enumerate(value):
            yield from self.item.misfits(item, f"{where}[{number}]")


class MappingShape(Value):
    """A mapping of any names to things of one shape."""

    item: Shape

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield _misfit(value, where, "a mapping of names to values")
            return
        for name, inner in value.items():
            yield from self.item.misfits(inner, f"{where}.{name}")


class ObjectShape(Value):
    """A mapping whose members have shapes; others may be anything."""

    members: Mapping[str, Shape]
    needs: tuple[str, ...] = ()
    """Members that have to be there."""

    def misfits(self, value: object, where: str = "") -> Iterator[str]:
        if not isinstance(value, dict):
            yield _misfit(value, where, "a mapping of names to values")
            return
        for name, inner in self.members.items():
            if value.get(name) is not None:
                yield from inner.misfits(value[name], f"{where}.{name}" if where else name)
            elif name in self.needs:
                yield _misfit(value, where, f"a mapping with {name}")


def _misfit(value: object, where: str, expected: str) -> str:
    text = json.dumps(value, default=str)
    shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    return f"{where}: invalid value {shown}: expected {expected}"


STRING = StringShape()
STRINGS = ListShape(STRING)
ANY_OBJECT = ObjectShape({})
ANY_OBJECTS = ListShape(ANY_OBJECT)

SECURITY = ObjectShape(
    {
        "capabilities": ObjectShape({"add": STRINGS, "drop": STRINGS}),
        "seLinuxOptions": ObjectShape({"type": STRING}),
        "seccompProfile": ANY_OBJECT,
        "appArmorProfile": ANY_OBJECT,
        "windowsOptions": ANY_OBJECT,
        "sysctls": ANY_OBJECTS,
    }
)
CONTAINER = ObjectShape(
    {
        "name": STRING,
        "image": STRING,
        "env": ListShape(ObjectShape({"name": STRING}, ("name",))),
        "ports": ANY_OBJECTS,
        "volumeMounts": ANY_OBJECTS,
        "volumeDevices": ANY_OBJECTS,
        "securityContext": SECURITY,
        "readinessProbe": ANY_OBJECT,
        "livenessProbe": ANY_OBJECT,
        "startupProbe": ANY_OBJECT,
    }
)
OBJECT = ObjectShape({"metadata": ObjectShape({"name": STRING, "generateName": STRING, "namespace": STRING})})
LIST = ObjectShape({"items": ListShape(ANY_OBJECT)})
POD = ObjectShape(
    {
        "metadata": ObjectShape({"labels": ANY_OBJECT, "annotations": ANY_OBJECT}),
        "spec": ObjectShape(
            {
                "hostNetwork": BooleanShape(),
                "securityContext": SECURITY,
                "initContainers": ListShape(CONTAINER),
                "containers": ListShape(CONTAINER),
                "volumes": ListShape(ObjectShape({"name": STRING})),
            }
        ),
    }
)
FRAGMENT = ObjectShape(
    {
        "initContainers": ListShape(CONTAINER),
        "containers": ListShape(CONTAINER),
        "volumes": ListShape(ObjectShape({"name": STRING})),
    }
)
"""The shape of a template's additions to a pod."""
STATUS = ObjectShape(
    {
        "initContainers": STRINGS,
        "containers": STRINGS,
        "volumes": STRINGS,
        "capture": ObjectShape(
            {
                "annotations": STRINGS,
                "created": STRINGS,
                "was": MappingShape(STRING),
                "taken": MappingShape(ListShape(NumberedStringShape())),
            }
        ),
    }
)
"""The status annotation, and the notes of ``inject`` in it."""
