"""Answers requests over a unix socket: the plugin's about a pod, a person's about the agent.

One line of JSON comes, one goes, and the connection ends::

    {"get": "pod", "namespace": "shop", "name": "web-0", "uid": "..."}  ->  {"pod": {...}} or {"pod": null}
    {"get": "status"}                                                   ->  {"schema": "capture/v1", ...}

Only root can reach it: the socket has mode 0600, a directory that is made for it 0700, and the kernel names the caller
(SO_PEERCRED, unix(7)); root of another user namespace is another uid here.
"""

from __future__ import annotations

import os
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from capture.model.json_text import JsonError, decode_json, encode_json
from capture.state.directory import make_private

Answers = Mapping[str, Callable[[dict[str, Any]], object]]

MAX_QUESTION_BYTES = 64 * 1024
CALLER_TIMEOUT = 5.0
PEER_CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): process, user, group."""


class _Handler(socketserver.StreamRequestHandler):
    timeout = CALLER_TIMEOUT
    server: _Server

    def handle(self) -> None:
        credentials = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
        _, uid, _ = PEER_CREDENTIALS.unpack(credentials)  # as it is in our user namespace
        if uid != 0:
            return
        with suppress(OSError):  # the caller did not wait
            answer = self.server.answer(self.rfile.readline(MAX_QUESTION_BYTES))
            self.wfile.write(encode_json(answer).encode() + b"\n")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128
    answers: Answers

    def answer(self, line: bytes) -> object:
        try:
            question = decode_json(line.decode())
            answer = self.answers[question["get"]]
        except (JsonError, UnicodeDecodeError, KeyError, TypeError):
            return {"error": f"expected a line of JSON with 'get' among {', '.join(sorted(self.answers))}"}
        return answer(question)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: the caller waits no longer, or sees that it gets no answer."""


class AgentServer:
    """Listens at ``path`` from the moment it is made until ``close``."""

    def __init__(self, path: str, answers: Answers) -> None:
        self.path = path
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):  # one that is there may be the node's, such as /run
            make_private(directory)
        temporary = f"{path}.{os.getpid()}"
        with suppress(FileNotFoundError):  # of a killed agent: in a container the number comes again
            os.unlink(temporary)
        before = os.umask(0o177)
        try:
            self._server = _Server(temporary, _Handler)
        finally:
            os.umask(before)
        self._server.answers = answers
        os.rename(temporary, path)  # from an agent that ends to the one that follows without a moment in between
        self._identity = os.stat(path).st_ino
        self._thread = threading.Thread(target=self._server.serve_forever, name="socket", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; the path goes, unless another agent has taken it over."""
        self._server.shutdown()
        self._server.server_close()
        with suppress(FileNotFoundError):
            if os.stat(self.path).st_ino == self._identity:
                os.unlink(self.path)
