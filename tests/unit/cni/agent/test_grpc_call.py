"""Calls against the real library's server, and against sockets that are none."""

import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from cni.agent.grpc_call import CallError, call

LARGE = b"x" * 1_000_000
"""More than a window and many frames."""


class Answers(grpc.GenericRpcHandler):  # type: ignore[misc]  # it comes without type information
    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            if request == b"absent":
                context.abort(grpc.StatusCode.NOT_FOUND, "no sandbox ä: 100 %")
            return LARGE if request == b"large" else request

        return grpc.unary_unary_rpc_method_handler(answer) if details.method == "/demo.Echo/Say" else None


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


@pytest.fixture
def server(path: str) -> Iterator[None]:
    made = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Answers(),))
    made.add_insecure_port(f"unix://{path}")
    made.start()
    yield
    made.stop(0).wait()


@pytest.mark.usefixtures("server")
def test_answers_of_any_size(path: str) -> None:
    for request, answer in ((b"", b""), (b"word", b"word"), (b"large", LARGE)):
        assert call(path, "/demo.Echo/Say", request, 5) == answer


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("method", "code", "details"),
    [("/demo.Echo/Say", "NOT_FOUND", "no sandbox ä: 100 %"), ("/demo.Echo/Sing", "UNIMPLEMENTED", "Method not found!")],
)
def test_a_refusal_has_the_servers_words(path: str, method: str, code: str, details: str) -> None:
    with pytest.raises(CallError) as failure:
        call(path, method, b"absent", 5)
    assert (failure.value.code, failure.value.details) == (code, details)


def silent(connection: socket.socket) -> None:
    connection.recv(1 << 16)


def closing(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.shutdown(socket.SHUT_RDWR)


def of_http_1(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    closing(connection)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (silent, "DEADLINE_EXCEEDED: no answer within 0.2 s"),
        (closing, "UNAVAILABLE: the server has closed the connection"),
        (of_http_1, "UNAVAILABLE: the server has closed the connection"),
    ],
)
def test_a_socket_of_no_runtime_is_an_error(
    path: str, behaviour: Callable[[socket.socket], None], message: str
) -> None:
    with socket.socket(socket.AF_UNIX) as listener, futures.ThreadPoolExecutor(1) as other:
        listener.bind(path)
        listener.listen()
        accepted = other.submit(listener.accept)
        result = other.submit(lambda: behaviour(accepted.result()[0]))
        with pytest.raises(CallError, match=message):
            call(path, "/demo.Echo/Say", b"", 0.2)
        result.result()
        accepted.result()[0].close()


def test_a_call_without_a_listener_fails(path: str) -> None:
    with pytest.raises(CallError, match="UNAVAILABLE: No such file or directory"):
        call(path, "/demo.Echo/Say", b"", 1)
