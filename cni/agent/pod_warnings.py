"""Warnings to a pod's owner about a capture that is in order: once for each pod, in log and Event.

Mostly ways round the capture that its containers have (``cni.escapes``). The plugin logs them at ADD, and may not write
Events. The Event's name is made from the pod's UID, so that the API server refuses a second one of any agent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from lightkube import Client

from cni.agent import events
from cni.agent.agent_log import AgentLog
from cni.agent.runtime import Sandbox

REASON = "CaptureWarning"
PAUSE_SECONDS = 60.0
"""Seconds after an Event that the API server could not take; each may have to wait for its time limit."""
MAX_PUBLISHED = 10_000
"""Pods that are remembered; of an older one the API server still has the Event."""


class WarningPublisher:
    """Warns of each pod once."""

    def __init__(self, client: Client | None, log: AgentLog) -> None:
        self._client, self._log = client, log
        self._published: dict[str, None] = {}
        self._retry_at = float("-inf")

    def __call__(self, sandbox: Sandbox, warnings: Sequence[str]) -> None:
        """Publish the warnings of a pod once; later again if the API server cannot take them now."""
        if not warnings or sandbox.uid in self._published or time.monotonic() < self._retry_at:
            return
        about = {"namespace": sandbox.namespace, "name": sandbox.name, "uid": sandbox.uid}
        name = f"capture-warning-{sandbox.uid}"
        outcome = (
            events.publish_once_on_pod(self._client, about, name, REASON, "; ".join(warnings)) if self._client else ""
        )
        if outcome == events.UNREACHABLE:
            self._retry_at = time.monotonic() + PAUSE_SECONDS
            return
        self._published[sandbox.uid] = None
        if len(self._published) > MAX_PUBLISHED:
            del self._published[next(iter(self._published))]
        if outcome != events.KNOWN:
            for warning in warnings:
                self._log.warn("pod warning", pod=f"{sandbox.namespace}/{sandbox.name}", says=warning)
