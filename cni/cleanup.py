"""DEL and GC: the records of attachments that are gone. Nothing here fails, with any configuration.

Rules go with their namespace. So this needs neither options nor rules, and a pod's end costs little.
"""

from __future__ import annotations

from capture.state import attachments
from capture.state.directory import forget_ended_namespaces
from cni import deferred_removal
from cni.log import request_log
from cni.protocol import CniError, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def delete(request: Request) -> None:
    """Forget the attachment."""
    attachments.forget(attachments.attachment_name(request.network, request.container_id, request.interface))
    _log(request, "forgotten")
    deferred_removal.on_container_end()


def collect_garbage(request: Request) -> None:
    """Forget the attachments of this network that are gone, and what is recorded of namespaces that are."""
    valid = {attachments.attachment_name(request.network, *each) for each in request.valid_attachments}
    gone = attachments.forget_others(request.network, valid)
    _log(request, "forgotten what is gone", containers=[name.split(":")[1] for name in gone])
    forget_ended_namespaces()


def _log(request: Request, message: str, **facts: object) -> None:
    try:
        request_log(request).info(message, **facts)
    except CniError:  # the log is not one that can be written
        return


HANDLERS: dict[str, Callable[[Request], None]] = {"DEL": delete, "GC": collect_garbage}
