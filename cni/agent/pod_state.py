"""The state of a pod, as the audit finds it."""

from __future__ import annotations

from capture.model.values import Value

STATE_CAPTURED = "captured"
STATE_LEFT_ALONE = "left-alone"
STATE_HOST_NETWORK = "host-network"
STATE_UNKNOWN = "unknown"
GOOD_STATES = (STATE_CAPTURED, STATE_LEFT_ALONE, STATE_HOST_NETWORK)
"""States of pods that need no one."""


class PodState(Value):
    """One of STATE_*, or the kind of the first cause that `capture why` knows, with its text and remedy."""

    name: str
    message: str = ""
    remedy: str = ""
