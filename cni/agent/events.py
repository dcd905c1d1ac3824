"""Kubernetes Events: what an owner of a node or of a pod sees with ``kubectl describe``."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from lightkube import Client

from cni.agent import api

Outcome = Literal["published", "known", "refused", "unreachable"]

NAMESPACE_OF_NODES = "default"
"""The namespace of Events about objects without one."""
PUBLISHED: Outcome = "published"
KNOWN: Outcome = "known"
REFUSED: Outcome = "refused"
UNREACHABLE: Outcome = "unreachable"
CONFLICT, SERVER_ERROR = 409, 500
"""HTTP status of a name that is taken, and the first of a server's errors (RFC 9110, 15.5.10 and 15.6)."""
PASSING = (0, 429)
"""No answer, and too many requests (RFC 6585)."""
MESSAGE_LIMIT = 1024
"""Characters (core/v1 validation of ``message``)."""


def publish_on_node(client: Client, node: str, reason: str, message: str) -> bool:
    """Publish an Event about a node; return whether the API server took it."""
    return _publish(client, {"kind": "Node", "name": node, "uid": node}, NAMESPACE_OF_NODES, reason, message)


def publish_on_pod(client: Client, pod: dict[str, str], reason: str, message: str, kind: str = "Warning") -> bool:
    """Publish an Event about a pod (``namespace``, ``name``, ``uid``); return whether the API server took it."""
    about = {"kind": "Pod", "apiVersion": "v1"} | pod
    return _publish(client, about, pod["namespace"], reason, message, kind)


def publish_once_on_pod(client: Client, pod: dict[str, str], name: str, reason: str, message: str) -> Outcome:
    """Publish an Event of this name about a pod and return what happened to it; the second of a name is refused."""
    about = {"kind": "Pod", "apiVersion": "v1"} | pod
    event = _event(about, {"name": name, "namespace": pod["namespace"]}, reason, message)
    try:
        client.create(event, namespace=pod["namespace"])
    except api.API_ERRORS as error:
        code = api.http_status(error)
        if code == CONFLICT:
            return KNOWN
        return UNREACHABLE if code in PASSING or code >= SERVER_ERROR else REFUSED
    return PUBLISHED


def _publish(
    client: Client, about: dict[str, str], namespace: str, reason: str, message: str, kind: str = "Warning"
) -> bool:
    event = _event(about, {"generateName": "capture-", "namespace": namespace}, reason, message, kind)
    try:
        client.create(event, namespace=namespace)
    except api.API_ERRORS:  # an Event is a help: the state is in the status and the metrics, too
        return False
    return True


def _event(about: dict[str, str], metadata: dict[str, str], reason: str, message: str, kind: str = "Warning") -> Any:
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return api.Event.from_dict(
        {
            "metadata": metadata,
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
