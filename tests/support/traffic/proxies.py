"""An application in a pod, requests to it, and what it saw of them.

    start_app(pod, *ports, label="app") -> Process
    listen_as_proxy(namespace)                                  listeners on both ports of a proxy
    get(client, address, port, source="", host="") -> Seen      one HTTP request by a Client

The proxy between them is in ``envoy_proxy``.
"""

import dataclasses
import http.client
import json
import re
import socket
import sys
from pathlib import Path
from typing import Self

from pytest_netns import Client, Endpoint, Namespace, Pod, Process
from support.traffic.envoy_bootstrap import HEADER

APP_UID = 1000

_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A request as an application saw it."""

    label: str
    local: Endpoint
    peer: Endpoint
    passed: tuple[str, ...]
    """The sides on which a proxy had it, in order; empty if it came straight."""

    @classmethod
    def decode(cls, body: bytes | str) -> Self:
        """Read the application's answer."""
        answer = json.loads(body)
        return cls(
            label=answer["label"],
            local=Endpoint(*answer["local"]),
            peer=Endpoint(*answer["peer"]),
            passed=tuple(answer["headers"].get(HEADER, ())),
        )


def listen_as_proxy(namespace: Namespace) -> None:
    """Answer connections to the proxy's ports, as its user, with ``outbound`` and ``inbound``."""
    for port, label in ((15001, "outbound"), (15006, "inbound")):
        namespace.listener(("0.0.0.0", port), ("::", port), label=label, uid=1337, protocols=("tcp",))


def one_proxy(namespace: Namespace, *, transparent: bool = False) -> None:
    """Answer connections to the proxy's ports, as its user, with ``proxy``; a transparent one is root in its group."""
    ends = [(address, port) for address in ("0.0.0.0", "::") for port in (15001, 15006)]
    namespace.listener(*ends, label="proxy", uid=0 if transparent else 1337, gid=1337, transparent=transparent)


def echo(listener: socket.socket) -> None:
    """Answer one connection with its own bytes."""
    connection, _ = listener.accept()
    with connection:
        while piece := connection.recv(1 << 20):
            connection.sendall(piece)


def start_app(pod: Pod, *ports: int, label: str = "app", uid: int = APP_UID) -> Process:
    """Start the HTTP application on ports of every address of both families, and wait for them."""
    process = pod.popen(app_command(label, *ports), uid=uid, reads_everything=True)
    _wait(process, *ports)
    return process


def app_command(label: str, *ports: int) -> list[str]:
    """Return the command line of the HTTP application."""
    return [sys.executable, "-I", "-S", str(_HERE / "http_app.py"), label, *map(str, ports)]


def _wait(process: Process, *ports: int, families: tuple[int, ...] = (socket.AF_INET, socket.AF_INET6)) -> None:
    for port in ports:
        for family in families:
            process.wait_for_port(port, family=family)


def get(
    client: Client, address: str, port: int, path: str = "/", timeout: float = 5.0, *, source: str = "", host: str = ""
) -> Seen:
    """Send one HTTP request and return what the application saw. Raises OSError if it was not reached."""
    status, body = http_answer(client, address, port, path, timeout, source=source, host=host)
    if status != http.HTTPStatus.OK:
        raise ConnectionError(f"{status}: {re.sub('<[^>]*>', ' ', body).strip()}")
    return Seen.decode(body)


def http_answer(
    client: Client, address: str, port: int, path: str = "/", timeout: float = 5.0, *, source: str = "", host: str = ""
) -> tuple[int, str]:
    """Send one HTTP request and return status and body of the answer. Raises OSError if there is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with client.open_socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        if source:
            connection.bind((source, 0))
        connection.connect((address, port))
        http_connection = http.client.HTTPConnection(address, port)
        http_connection.sock = connection
        http_connection.request("GET", path, headers={"Host": host} if host else {})
        response = http_connection.getresponse()
        return response.status, response.read().decode()
