"""The CNI plugin's last decision about each pod of the node, and its reason: ``capture why`` shows it.

One file for each attachment, gone with its DEL or GC::

    /run/istio-capture/decisions/NETWORK:CONTAINER:INTERFACE
    {"schema": "capture/v1", "decision": "left alone", "reason": "it has no container istio-proxy",
     "time": "2026-03-01T12:00:00.123Z", "pod": "shop/web-0", "container": "cafe01", "interface": "eth0",
     "network": "pods", "inode": 4026532841, "namespace": "/var/run/netns/cni-6f0c",
     "kind": "not injected"}

Where one cannot be kept, nothing fails. A reader ignores what it does not understand, so that versions may differ.
"""

from __future__ import annotations

import os

from capture.errors import StateDirectoryError
from capture.model.text import JSON_SCHEMA_NAME
from capture.model.values import Value
from capture.state.directory import STATE_DIRECTORY, ensure, is_private
from capture.state.files import content_of, names_in, put
from capture.state.json_text import JsonError, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from typing import Any

FOLDER = "decisions"
CAPTURED, LEFT_ALONE, REFUSED = "captured", "left alone", "refused"
EXCLUDED_NAMESPACE, NOT_INJECTED = "namespace", "not injected"
"""Kinds of pods that are left alone: the entry excludes their namespace, or the injector has not changed them."""
MAX_BYTES = 16 * 1024


class RecordedDecision(Value):
    """The decision of ADD about one attachment of a pod."""

    decision: str
    """``captured``, ``left alone`` or ``refused``: then the pod does not start."""
    reason: str
    time: str
    """RFC 3339, UTC."""
    pod: str
    """Namespace and name."""
    container: str
    interface: str
    network: str
    inode: int
    """The number of the pod's network namespace, which is given again after its end."""
    namespace: str
    """Its path, as the runtime named it."""
    kind: str = ""
    """What a pod that is left alone would need: one of the kinds above, or ""."""


def keep(decision: RecordedDecision, directory: str = STATE_DIRECTORY) -> bool:
    """Remember a decision in place of an earlier one; return whether that was possible."""
    path = _path(directory, decision.network, decision.container, decision.interface)
    fields = {field: getattr(decision, field) for field in RecordedDecision.__match_args__}
    content = encode({"schema": JSON_SCHEMA_NAME} | fields).encode() + b"\n"
    try:
        ensure(directory)
        ensure(os.path.dirname(path))
        put(path, content[:MAX_BYTES])
    except (OSError, StateDirectoryError):
        return False
    return True


def forget(network: str, container: str, interface: str, directory: str = STATE_DIRECTORY) -> None:
    """Forget the decision about an attachment."""
    try:
        os.unlink(_path(directory, network, container, interface))
    except OSError:
        return


def forget_others(network: str, valid: Container[tuple[str, str]], directory: str = STATE_DIRECTORY) -> None:
    """Forget the decisions about all attachments of a network but the valid ones (container and interface)."""
    for name in _names(directory):
        of_network, container, interface, *_ = [*name.split(":"), "", ""]
        if of_network == network and (container, interface) not in valid:
            forget(network, container, interface, directory)


def of_namespace(namespace: os.stat_result, directory: str = STATE_DIRECTORY) -> RecordedDecision | None:
    """Return the last decision about a network namespace, or None if none is known."""
    found = [each for each in read_all(directory) if each.inode == namespace.st_ino and _is_about(each, namespace)]
    return max(found, key=lambda decision: decision.time, default=None)


def _is_about(decision: RecordedDecision, namespace: os.stat_result) -> bool:
    """Return whether a decision is about this namespace, and not about an ended one of the same number."""
    path = decision.namespace.replace("/var/run/", "/run/", 1)  # the same on a node; the agent's image has the second
    try:
        return os.path.samestat(os.stat(path), namespace)
    except OSError:
        return False


def read_all(directory: str = STATE_DIRECTORY) -> Iterator[RecordedDecision]:
    """Yield all decisions that can be read."""
    for name in _names(directory):
        decision = _decision(content_of(f"{directory}/{FOLDER}/{name}"))
        if decision is not None:
            yield decision


def _decision(content: bytes) -> RecordedDecision | None:
    """Return the decision in a file; None for what is gone meanwhile, or another version's."""
    try:
        plain = decode(content.decode())
    except (UnicodeDecodeError, JsonError):
        return None
    if not isinstance(plain, dict):
        return None
    plain.setdefault("kind", "")  # older ones have none
    fields: list[Any] = [plain.get(field) for field in RecordedDecision.__match_args__]
    *texts, inode, namespace, kind = fields
    if not isinstance(inode, int) or not all(isinstance(text, str) for text in (*texts, namespace, kind)):
        return None
    return RecordedDecision(*fields)


def _names(directory: str) -> list[str]:
    return names_in(f"{directory}/{FOLDER}") if is_private(directory) else []


def _path(directory: str, network: str, container: str, interface: str) -> str:
    """Return the path of a decision; none of the three can have a colon (CNI specification, "Parameters")."""
    return f"{directory}/{FOLDER}/{network}:{container}:{interface}"
