"""Kubernetes Events: what an owner of a node or of a pod sees with ``kubectl describe``."""

from __future__ import annotations

import datetime as dt

from cni.agent import api

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lightkube import Client

NAMESPACE_OF_NODES = "default"
"""Where Events about objects without a namespace are kept."""
MESSAGE_LIMIT = 1024
"""Characters (core/v1 validation of ``message``)."""


def on_node(client: Client, node: str, reason: str, message: str) -> bool:
    """Publish an Event about a node; return whether the API server took it."""
    return _publish(client, {"kind": "Node", "name": node, "uid": node}, NAMESPACE_OF_NODES, reason, message)


def on_pod(client: Client, pod: dict[str, str], reason: str, message: str, kind: str = "Warning") -> bool:
    """Publish an Event about a pod (``namespace``, ``name``, ``uid``); return whether the API server took it."""
    about = {"kind": "Pod", "apiVersion": "v1"} | pod
    return _publish(client, about, pod["namespace"], reason, message, kind)


def _publish(
    client: Client, about: dict[str, str], namespace: str, reason: str, message: str, kind: str = "Warning"
) -> bool:
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event: Any = api.Event.from_dict(
        {
            "metadata": {"generateName": "capture-", "namespace": namespace},
            "involvedObject": about,
            "reason": reason,
            "message": message[:MESSAGE_LIMIT],
            "type": kind,
            "source": {"component": "capture-agent"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
    )
    try:
        client.create(event, namespace=namespace)
    except api.Unreachable:  # an Event is a help: the state is in the status and the metrics, too
        return False
    return True
