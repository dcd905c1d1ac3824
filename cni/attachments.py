"""The namespace of each attachment, so that its record can be removed when the attachment is gone.

DEL may come without a namespace, and GC names attachments only. So each attachment of a captured pod has a symbolic
link, made and removed in one step, to the record of its namespace::

    /run/istio-capture/attachments/NETWORK:CONTAINER:INTERFACE -> ../4026532841-77.json

A pod with two interfaces has two links to one record, which goes with the last of them. Where a link cannot be kept,
nothing fails.
"""

from __future__ import annotations

import os

from capture.state.directory import STATE_DIRECTORY, ensure, is_private
from capture.state.files import names_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

ATTACHMENTS = "attachments"


def keep(network: str, container_id: str, interface: str, namespace: str, directory: str = STATE_DIRECTORY) -> bool:
    """Remember the namespace (``netns.namespace_id``) of an attachment; return whether that was possible.

    Raises StateDirectoryError if others could write there, too.
    """
    link = _link(network, container_id, interface, directory)
    temporary = f"{link}:{os.getpid()}"
    try:
        ensure(directory)
        ensure(os.path.dirname(link))
        os.symlink(f"../{namespace}.json", temporary)
        os.rename(temporary, link)  # also over an older one: containers have started twice under one id
    except OSError:
        return False
    return True


def forget(network: str, container_id: str, interface: str, directory: str = STATE_DIRECTORY) -> None:
    """Forget an attachment, and the record of its namespace if this was the last one there.

    Links that others could have made are not followed.
    """
    if not is_private(directory):
        return
    link = _link(network, container_id, interface, directory)
    folder = os.path.dirname(link)
    try:
        target = os.readlink(link)
        os.unlink(link)
        if not any(_target(folder, other) == target for other in os.listdir(folder)):
            os.unlink(os.path.join(folder, target))
    except OSError:
        return


def forget_others(network: str, valid: Container[tuple[str, str]], directory: str = STATE_DIRECTORY) -> list[str]:
    """Forget all attachments of a network but the valid ones (container and interface); return the containers."""
    gone = []
    for link in names_in(f"{directory}/{ATTACHMENTS}"):
        of_network, container_id, interface, *_ = [*link.split(":"), "", ""]
        if of_network == network and (container_id, interface) not in valid:
            forget(network, container_id, interface, directory)
            gone.append(container_id)
    return gone


def _link(network: str, container_id: str, interface: str, directory: str) -> str:
    """Return the path of an attachment's link; none of the three can have a colon (SPEC, "Parameters")."""
    return f"{directory}/{ATTACHMENTS}/{network}:{container_id}:{interface}"


def _target(folder: str, link: str) -> str:
    try:
        return os.readlink(f"{folder}/{link}")
    except OSError:
        return ""
