"""The API server, through lightkube; its transport adds what the client lacks.

lightkube 1.0 never requests bookmarks, so that a quiet watch has to begin anew after every 410; reads a watch
without a time limit, so that a connection which died in silence is never noticed; lists from etcd rather than from
the API server's cache; and starts a watch again at once, however often one ends. All four depend on the content of
a request and on when it is sent, so the transport corrects them.
"""

from __future__ import annotations

import json
import random
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
from lightkube import ApiError, Client, ConfigError, KubeConfig
from lightkube.config.client_adapter import verify_cluster
from lightkube.generic_resource import create_global_resource, create_namespaced_resource

from capture.errors import CaptureError
from cni.agent.pods import reduced_pod

Pod = create_namespaced_resource("", "v1", "Pod", "pods")
Node = create_global_resource("", "v1", "Node", "nodes")
Event = create_namespaced_resource("", "v1", "Event", "events")
DaemonSet = create_namespaced_resource("apps", "v1", "DaemonSet", "daemonsets")

PAGE = 50
WATCH_SECONDS = 290
"""How long the API server lets a watch last; client-go uses five to ten minutes."""
SILENCE_TIMEOUT = 330.0
"""Seconds after which a silent watch is dead: later than the server would have ended it."""
API_TIMEOUT = 10.0
MIN_INTERVAL = 0.5
"""Seconds between two lists or watches, at least."""

API_ERRORS = (httpx.HTTPError, OSError, ValueError, KeyError, ConfigError)
"""Errors of calls: the API server cannot be reached, refuses (ApiError), or what answers is none."""


class Transport(httpx.BaseTransport):
    """Sends requests of lightkube with what they lack; see the module's description."""

    def __init__(self, verify: Any) -> None:
        self._below = httpx.HTTPTransport(verify=verify)
        self._lock = threading.Lock()
        self._next = 0.0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        parameters = request.url.params
        if parameters.get("watch") == "true":
            request.url = request.url.copy_merge_params({"allowWatchBookmarks": "true"})
            request.extensions = request.extensions | {
                "timeout": httpx.Timeout(API_TIMEOUT, read=SILENCE_TIMEOUT).as_dict()
            }
            self._wait_for_turn()
        elif "limit" in parameters and "continue" not in parameters:
            # "Any" version is what the cache has; "resourceVersionMatch" keeps the pages.
            request.url = request.url.copy_merge_params(
                {"resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"}
            )
            self._wait_for_turn()
            return _reduce_response(request, self._below.handle_request(request))
        return self._below.handle_request(request)

    def close(self) -> None:
        self._below.close()

    def _wait_for_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            at = max(now, self._next)
            self._next = at + MIN_INTERVAL
        time.sleep(at - now)


def connect(service_account: str = "", kubeconfig: str = "") -> Client:
    """Return a client with the rights of a service account, or those of a kubeconfig.

    Raises CaptureError.
    """
    try:
        config = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_service_account(service_account)
        single: Any = config.get()
        verify = verify_cluster(single.cluster, single.user, single.abs_file, trust_env=False)
    except (ConfigError, OSError) as error:
        used = kubeconfig or f"the service account in {service_account}"
        reason = error.__cause__ or error.__context__ or error
        problem = f"{reason.filename}: {reason.strerror}" if isinstance(reason, OSError) else error
        raise CaptureError(
            f"cannot use {used}: {problem}",
            "An agent with a node's name (NODE_NAME) runs in a pod: install it with the chart, or name the directory of"
            " token and CA with --service-account. Without NODE_NAME it needs no API server.",
        ) from None
    # As Go's clients and the plugin (cni/https.py): Python 3.13 refuses certificates that name no key of their
    # authority, which those of many clusters do not; and what the kubeconfig trusts is trusted.
    verify.verify_flags = verify.verify_flags & ~ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    transport: Any = Transport(verify)  # what httpx needs of a transport
    return Client(single, timeout=httpx.Timeout(API_TIMEOUT), transport=transport)


def _reduce_response(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
    """Return a list with what decides of each pod: decoded as a whole, 500 pods take 40 MB.

    Pages would not help: the API server's cache sends everything at once.
    """
    if answer.status_code != httpx.codes.OK:
        return answer
    try:
        content = reduce_list(answer.read())
    finally:
        answer.close()
    return httpx.Response(answer.status_code, content=content, request=request)


def reduce_list(body: bytes) -> bytes:
    """Return a list of pods in JSON, each reduced before the next is decoded; other texts as they are."""
    text = body.decode()
    head, separator, _ = text.partition('"items":[')
    if not separator:
        return body
    decoder, position, items = json.JSONDecoder(), len(head) + len(separator), []
    while text[position : position + 1] == "{":
        item, position = decoder.raw_decode(text, position)
        items.append(json.dumps(reduced_pod(item)))
        position += text[position : position + 1] == ","
    return f"{head}{separator}{','.join(items)}{text[position:]}".encode()


def list_pods(client: Client, node: str) -> tuple[list[dict[str, Any]], str]:
    """Return the pods of a node, reduced, and the version of the list, from the API server's cache."""
    listed = client.list(Pod, namespace="*", fields={"spec.nodeName": node}, chunk_size=PAGE)
    pods: list[dict[str, Any]] = [*listed]
    return pods, str(listed.resourceVersion)


def watch_pods(client: Client, node: str, version: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what happens to the pods of a node after a version: a kind of event and the pod, or a bookmark."""
    seconds = WATCH_SECONDS + random.randrange(20)  # noqa: S311  # so that a thousand agents do not begin anew together
    yield from client.watch(
        Pod, namespace="*", fields={"spec.nodeName": node}, server_timeout=seconds, resource_version=version
    )


def node_labels(client: Client, node: str) -> dict[str, str]:
    """Return the labels of a node."""
    return dict((client.get(Node, node).get("metadata") or {}).get("labels") or {})


def evict(client: Client, namespace: str, name: str, uid: str) -> str:
    """Request the eviction of a pod, if its UID is this; return why it is refused, "" if it is not.

    A PodDisruptionBudget refuses with 429.
    """
    from lightkube.models.meta_v1 import DeleteOptions, ObjectMeta, Preconditions
    from lightkube.resources.core_v1 import PodEviction

    options = DeleteOptions(preconditions=Preconditions(uid=uid))
    eviction: Any = PodEviction(metadata=ObjectMeta(name=name, namespace=namespace), deleteOptions=options)
    try:
        client.create(eviction, name, namespace=namespace)
    except API_ERRORS as error:
        return error_text(error)
    return ""


def http_status(error: Exception) -> int:
    """Return the HTTP status of an answer; 0 if there was none."""
    if isinstance(error, ApiError):
        return int(error.status.code or 0)
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0


def error_text(error: Exception) -> str:
    """Return why a call failed, in a line."""
    if isinstance(error, ApiError):
        return f"{error.status.code} {error.status.message}"
    return str(error) or type(error).__name__
