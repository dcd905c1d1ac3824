"""What is installed on the node, which the package of the plugin knows. It is found by name, where it is there."""

from __future__ import annotations

import importlib

from capture.errors import CaptureError
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STATUS = "cni.status"


class NodeFinding(Value):
    """What ``capture cni status`` says of one thing: its name, its state, and what to do."""

    name: str
    state: str
    says: str
    remedy: str


def examine_node() -> tuple[NodeFinding, ...]:
    """Return what is to be said of list, plugin, kubeconfig and token; nothing where no plugin of ours is installed."""
    try:
        return tuple(_found())
    except (ImportError, OSError, CaptureError):
        return ()


def _found() -> Iterator[NodeFinding]:
    for each in importlib.import_module(STATUS).of_this_node():
        yield NodeFinding(each.name, each.state, each.says, each.remedy)
