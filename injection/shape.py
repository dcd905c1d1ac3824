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


class Texts(Value):
    """A string."""

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not isinstance(value, str):
            yield _misfit(value, where, "a string; put it in quotes")


class Truths(Value):
    """A truth value."""

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not isinstance(value, bool):
            yield _misfit(value, where, "true or false, without quotes")


class NumberedText(Value):
    """A list of a number and a string."""

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not (isinstance(value, list) and [type(each) for each in value] == [int, str]):
            yield _misfit(value, where, "a list of a number and a string")


class Items(Value):
    """A list of things of one shape."""

    of: Shape

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield _misfit(value, where, "a list")
            return
        for number, item in enumerate(value):
            yield from self.of.misfits(item, f"{where}[{number}]")


class Entries(Value):
    """A mapping of any names to things of one shape."""

    of: Shape

    def misfits(self, value: object, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield _misfit(value, where, "a mapping of names to values")
            return
        for name, inner in value.items():
            yield from self.of.misfits(inner, f"{where}.{name}")


class Members(Value):
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


TEXT = Texts()
NAMES = Items(TEXT)
ANYTHING = Members({})
OBJECTS = Items(ANYTHING)

SECURITY = Members(
    {
        "capabilities": Members({"add": NAMES, "drop": NAMES}),
        "seLinuxOptions": Members({"type": TEXT}),
        "seccompProfile": ANYTHING,
        "appArmorProfile": ANYTHING,
        "windowsOptions": ANYTHING,
        "sysctls": OBJECTS,
    }
)
CONTAINER = Members(
    {
        "name": TEXT,
        "image": TEXT,
        "env": Items(Members({"name": TEXT}, ("name",))),
        "ports": OBJECTS,
        "volumeMounts": OBJECTS,
        "volumeDevices": OBJECTS,
        "securityContext": SECURITY,
        "readinessProbe": ANYTHING,
        "livenessProbe": ANYTHING,
        "startupProbe": ANYTHING,
    }
)
OBJECT = Members({"metadata": Members({"name": TEXT, "generateName": TEXT, "namespace": TEXT})})
LIST = Members({"items": Items(ANYTHING)})
POD = Members(
    {
        "metadata": Members({"labels": ANYTHING, "annotations": ANYTHING}),
        "spec": Members(
            {
                "hostNetwork": Truths(),
                "securityContext": SECURITY,
                "initContainers": Items(CONTAINER),
                "containers": Items(CONTAINER),
                "volumes": Items(Members({"name": TEXT})),
            }
        ),
    }
)
FRAGMENT = Members(
    {"initContainers": Items(CONTAINER), "containers": Items(CONTAINER), "volumes": Items(Members({"name": TEXT}))}
)
"""The shape of a template's additions to a pod."""
STATUS = Members(
    {
        "initContainers": NAMES,
        "containers": NAMES,
        "volumes": NAMES,
        "capture": Members(
            {"annotations": NAMES, "created": NAMES, "was": Entries(TEXT), "taken": Entries(Items(NumberedText()))}
        ),
    }
)
"""The status annotation, and the notes of ``inject`` in it."""
