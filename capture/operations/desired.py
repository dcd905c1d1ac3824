"""The desired rules of a namespace: the settings, and what they mean there."""

from __future__ import annotations

from capture.model.values import Value
from capture.operations.target import host_of
from capture.settings.config import resolve
from capture.state import record
from capture.state.netns import Entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.operations.target import Namespace
    from capture.settings.config import CaptureConfig, Host
    from capture.settings.settings import Settings


class Reference(Value):
    """Settings, and what they mean in a namespace."""

    settings: Settings
    config: CaptureConfig


def reference(
    settings: Settings | None = None,
    namespace: Namespace = None,
    host: Host | None = None,
    *,
    prefer_recorded: bool = False,
) -> Reference | None:
    """Return what ``verify`` compares with, with the same arguments; None without settings and record.

    Raises ConfigurationError for settings that mean nothing there.
    """
    with Entered(namespace):
        recorded = record.read() if settings is None or prefer_recorded else None
        if recorded is not None:
            return Reference(recorded.settings, resolve(recorded.settings, recorded.facts)[0])
        if settings is None or (prefer_recorded and not settings.explicit):
            return None
        return Reference(settings, resolve(settings, host or host_of(namespace))[0])
