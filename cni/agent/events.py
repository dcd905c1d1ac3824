"""Kubernetes Events: what an owner of a node or of a pod sees with ``kubectl describe``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

from lightkube import Client

from cni.agent import api
from cni.http_response import CONFLICT, SERVER_ERROR, TOO_MANY_REQUESTS

Outcome = Literal["published", "known", "refused", "unreachable"]

NAMESPACE_OF_NODES = "default"
"""The namespace of Events about objects without one."""
PUBLISHED: Outcome = "published"
KNOWN: Outcome = "known"
EVENT_REFUSED: Outcome = "refused"
UNREACHABLE: Outcome = "unreachable"
POD_REFERENCE = {"kind": "Pod", "apiVersion": "v1"}
PASSING = (0, TOO_MANY_REQUESTS)
"""No answer, and one that asks for patience."""
MAX_EVENT_MESSAGE = 1024
"""Characters (core/v1 validation of ``message``)."""


def publish_on_node(client: Client, node: str, reason: str, message: str) -> bool:
    """Publish an Event about a node; return whether the API server took it."""
    about = {"kind": "Node", "name": node, "uid": node}
    return _publish(client, _event_object(about, reason, message), NAMESPACE_OF_NODES) == PUBLISHED


def publish_on_pod(client: Client, pod: dict[str, str], reason: str, message: str, kind: str = "Warning") -> bool:
    """Publish an Event about a pod (``namespace``, ``name``, ``uid``); return whether the API server took it."""
    return _publish(client, _event_object(POD_REFERENCE | pod, reason, message, kind), pod["namespace"]) == PUBLISHED


def publish_once_on_pod(client: Client, pod: dict[str, str], name: str, reason: str, message: str) -> Outcome:
    """Publish an Event of this name about a pod and return what happened to it; the second of a name is refused."""
    return _publish(client, _event_object(POD_REFERENCE | pod, reason, message), pod["namespace"], {"name": name})


def _publish(
    client: Client, event: dict[str, Any], namespace: str, names: Mapping[str, str] = {"generateName": "capture-"}
) -> Outcome:
    """Create the Event. It is a help: the state is in the status and the metrics, too."""
    named = api.Event.from_dict({"metadata": {"namespace": namespace, **names}, **event})
    try:
        client.create(named, namespace=namespace)
    except api.API_ERRORS as error:
        code = api.http_status(error)
        if code == CONFLICT:
            return KNOWN
        return UNREACHABLE if code in PASSING or code >= SERVER_ERROR else EVENT_REFUSED
    return PUBLISHED


def _event_object(about: dict[str, str], reason: str, message: str, kind: str = "Warning") -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "involvedObject": about,
        "reason": reason,
        "message": message[:MAX_EVENT_MESSAGE],
        "type": kind,
        "source": {"component": "capture-agent"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
