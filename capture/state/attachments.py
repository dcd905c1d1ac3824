"""What is kept of each attachment of a pod: the namespace of its record, and the plugin's last decision about it.

DEL may come without a namespace, and GC names attachments only. ``capture why`` shows decisions and their reasons. So
an attachment has a name, made of its network, container and interface, and by that up to two files. A link is made and
removed in one step; a pod with two interfaces has two links to one record, which goes with the last of them::

    /run/istio-capture/attachments/NETWORK:CONTAINER:INTERFACE -> ../4026532841-77.json
    /run/istio-capture/decisions/NETWORK:CONTAINER:INTERFACE
    {"schema": "capture/v1", "decision": "left alone", "reason": "it has no container istio-proxy",
     "time": "2026-03-01T12:00:00.123Z", "pod": "shop/web-0", "container": "cafe01", "interface": "eth0",
     "network": "pods", "inode": 4026532841, "namespace": "/var/run/netns/cni-6f0c",
     "kind": "not injected"}

Where one cannot be kept, nothing fails, except for a link where the state directory is not private. A reader ignores
what it does not understand, so that versions may differ.
"""

from __future__ import annotations

import os

from capture.errors import StateDirectoryError
from capture.model.json_text import decode_object, encode_json
from capture.model.text import JSON_SCHEMA_NAME
from capture.model.values import Value
from capture.state.directory import STATE_DIRECTORY, is_private, make_private
from capture.system.files import content_of, names_in, remove_file, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from typing import Any

LINKS_FOLDER, DECISIONS_FOLDER = "attachments", "decisions"
CAPTURED, LEFT_ALONE, REFUSED = "captured", "left alone", "refused"
EXCLUDED_NAMESPACE, NOT_INJECTED = "namespace", "not injected"
"""Kinds of pods that are left alone: the entry excludes their namespace, or the injector has not changed them."""
MAX_DECISION_BYTES = 16 * 1024


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
    """For a pod that is left alone, one of the kinds above, or ""."""


def attachment_name(network: str, container: str, interface: str) -> str:
    """Return the name of an attachment; none of the three can have a colon (CNI specification, "Parameters")."""
    return f"{network}:{container}:{interface}"


def save_namespace(attachment: str, namespace: str, directory: str = STATE_DIRECTORY) -> bool:
    """Remember the namespace (``netns.namespace_id``) of an attachment; return whether that was possible.

    Raises StateDirectoryError if others could write there, too.
    """
    link = f"{directory}/{LINKS_FOLDER}/{attachment}"
    temporary = f"{link}:{os.getpid()}"
    try:
        make_private(directory)
        make_private(os.path.dirname(link))
        os.symlink(f"../{namespace}.json", temporary)
        os.rename(temporary, link)  # also over an older one: containers have started twice under one id
    except OSError:
        return False
    return True


def save_decision(decision: RecordedDecision, directory: str = STATE_DIRECTORY) -> bool:
    """Remember a decision in place of an earlier one; return whether that was possible."""
    folder = f"{directory}/{DECISIONS_FOLDER}"
    fields = {field: getattr(decision, field) for field in RecordedDecision.__match_args__}
    content = encode_json({"schema": JSON_SCHEMA_NAME} | fields).encode() + b"\n"
    try:
        make_private(directory)
        make_private(folder)
        name = attachment_name(decision.network, decision.container, decision.interface)
        write_whole(f"{folder}/{name}", content[:MAX_DECISION_BYTES])
    except (OSError, StateDirectoryError):
        return False
    return True


def forget(attachment: str, directory: str = STATE_DIRECTORY) -> None:
    """Forget an attachment, and the record of its namespace if this was the last one there.

    Links that others could have made are not followed.
    """
    if not is_private(directory):
        return
    folder = f"{directory}/{LINKS_FOLDER}"
    remove_file(f"{directory}/{DECISIONS_FOLDER}/{attachment}")
    record = _link_target(f"{folder}/{attachment}")
    if record:
        remove_file(f"{folder}/{attachment}")
        if not any(_link_target(f"{folder}/{other}") == record for other in names_in(folder)):
            remove_file(f"{folder}/{record}")


def forget_others(network: str, valid: Container[str], directory: str = STATE_DIRECTORY) -> list[str]:
    """Forget all attachments of a network but the valid ones; return the others."""
    if not is_private(directory):
        return []
    names = [name for folder in (LINKS_FOLDER, DECISIONS_FOLDER) for name in names_in(f"{directory}/{folder}")]
    attachments = dict.fromkeys(":".join(name.split(":")[:3]) for name in names)  # a killed writer's has a fourth part
    gone = [name for name in attachments if name.startswith(f"{network}:") and name not in valid]
    for name in gone:
        forget(name, directory)
    return gone


def _link_target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def decision_about(namespace: os.stat_result, directory: str = STATE_DIRECTORY) -> RecordedDecision | None:
    """Return the last decision about a network namespace, or None if none is known."""
    decisions = [decision for decision in read_decisions(directory) if decision.inode == namespace.st_ino]
    about_namespace = [decision for decision in decisions if _is_about(decision, namespace)]
    return max(about_namespace, key=lambda decision: decision.time, default=None)


def _is_about(decision: RecordedDecision, namespace: os.stat_result) -> bool:
    """Return whether a decision is about this namespace, and not about an ended one of the same number."""
    path = decision.namespace.replace("/var/run/", "/run/", 1)  # the same on a node; the agent's image has the second
    try:
        return os.path.samestat(os.stat(path), namespace)
    except OSError:
        return False


def read_decisions(directory: str = STATE_DIRECTORY) -> Iterator[RecordedDecision]:
    """Yield all decisions that can be read."""
    folder = f"{directory}/{DECISIONS_FOLDER}"
    for name in names_in(folder) if is_private(directory) else ():
        decision = _parsed_decision(content_of(f"{folder}/{name}"))
        if decision is not None:
            yield decision


def _parsed_decision(content: bytes) -> RecordedDecision | None:
    """Return the decision in a file; None for what is gone meanwhile, or another version's."""
    plain = decode_object(content)
    if plain is None:
        return None
    plain.setdefault("kind", "")  # older ones have none
    fields: list[Any] = [plain.get(field) for field in RecordedDecision.__match_args__]
    *texts, inode, namespace, kind = fields
    if not isinstance(inode, int) or not all(isinstance(text, str) for text in (*texts, namespace, kind)):
        return None
    return RecordedDecision(*fields)
