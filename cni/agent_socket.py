"""Requests to the node's agent over its unix socket: the plugin's about a pod, ``capture node``'s about the agent.

The plugin goes on without an answer: an agent that is away costs it nothing measurable, one that hangs
costs it ``ANSWER_TIMEOUT``. Nothing is imported here that the plugin does not have anyway.
"""

from __future__ import annotations

import _socket
import os
import time

from capture.model.json_text import decode_object, encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.pod import Identity

AGENT_SOCKET = "/run/istio-capture/agent/socket"
"""The agent's socket, if no other is given."""
ANSWER_TIMEOUT = 0.5
"""Seconds: the agent itself waits 0.2 for a pod that its watch has not seen yet."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024
SO_PEERCRED = 17
"""asm-generic/socket.h"""


class AgentAwayError(Exception):
    """The agent does not answer; the message has the reason."""


def probe(fact: str) -> int:
    """Return the exit code of a probe, ``ready`` or ``live``: 0 if the agent is."""
    try:
        response = request(os.environ.get("CAPTURE_AGENT_SOCKET", AGENT_SOCKET), {"get": "probe"}, 3.0)
    except AgentAwayError:
        return 1
    return 0 if response.get(fact) else 1


def request_pod(socket: str, identity: Identity, timeout: float = ANSWER_TIMEOUT) -> dict[str, Any] | None:
    """Return the pod as the agent knows it, in the form of the API; None if it does not, or does not answer."""
    query = {"get": "pod", "namespace": identity.namespace, "name": identity.name, "uid": identity.uid}
    try:
        pod = request(socket, query, timeout).get("pod")
    except AgentAwayError:
        return None
    return pod if isinstance(pod, dict) else None


def request(socket: str, query: Mapping[str, object], timeout: float) -> dict[str, Any]:
    """Return the agent's response. Raises AgentAwayError if there is none within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        # A full queue of a server that hangs would hold a connect(2) back; an accepted one is at once.
        connection.setblocking(False)
        connection.connect(socket)
        credentials = connection.getsockopt(_socket.SOL_SOCKET, SO_PEERCRED, 12)
        if credentials[4:8] != b"\0\0\0\0":
            raise AgentAwayError(f"{socket}: root does not listen there")
        connection.settimeout(timeout)
        connection.send(encode_json(query).encode() + b"\n")
        return _receive_response(connection, deadline, socket)
    except OSError as error:
        raise AgentAwayError(f"{socket}: {error.strerror or 'no answer'}") from None
    finally:
        connection.close()


def _receive_response(connection: _socket.socket, deadline: float, socket: str) -> dict[str, Any]:
    received = bytearray()
    while not received.endswith(b"\n"):
        remaining = deadline - time.monotonic()
        if remaining <= 0 or len(received) > MAX_ANSWER_BYTES:
            raise AgentAwayError(f"{socket}: no answer in time")
        connection.settimeout(remaining)
        chunk = connection.recv(1 << 18)
        if not chunk:
            break
        received += chunk
    response = decode_object(received)
    if response is None:
        raise AgentAwayError(f"{socket}: its answer is not an object of JSON")
    return response
