"""Real transparent proxies in a pod, and an application behind them.

Both proxies stand where Envoy stands: they run as uid 1337, take what the rules redirect to 15001 and
15006, and go on to the original destination; inbound from 127.0.0.6 or ::6 (which must be on ``lo``).
mitmdump does both families; HAProxy does IPv4 only and starts in a few milliseconds.

    start_mitmdump(pod, directory) -> Proxy     0.5 s; CPython
    start_haproxy(pod, directory) -> Proxy      0.05 s; IPv4
    start_app(pod, *ports, label="app") -> Process
    get(client, address, port, source="") -> Seen      one HTTP request by a Client, and what the application saw

    Proxy.flows(at_least=0) -> list[Flow]       what passed: side ("outbound", "inbound"), client, destination
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import socket
import sys
import time
from pathlib import Path

from pytest_netns import Client, Endpoint, Pod, Process

PROXY_UID = 1337
APP_UID = 1000
OUTBOUND_PORT = 15001
INBOUND_PORT = 15006
HEADER = "x-capture-proxy"
"""Added to each request by a proxy: "outbound" or "inbound"; twice when a request passed both sides."""

_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True, slots=True)
class Flow:
    """A connection that a proxy took."""

    side: str
    client: Endpoint
    destination: Endpoint


@dataclasses.dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    process: Process

    def flows(self, at_least: int = 0, timeout: float = 2.0) -> list[Flow]:
        """Return what the proxy has logged so far, in order.

        HAProxy logs a connection after it has ended, so that its client may be a moment ahead:
        ``at_least`` waits for so many, ``timeout`` seconds at most.
        """
        give_up = time.monotonic() + timeout
        while True:
            lines = self.process.output().splitlines()
            flows = [flow for line in lines if (flow := _flow(line))]
            if len(flows) >= at_least or time.monotonic() > give_up:
                return flows
            time.sleep(0.01)


def _flow(line: str) -> Flow | None:
    """Return the flow that a line of either proxy's log tells of, if it does."""
    try:
        explicit = json.loads(line)
        return Flow(explicit["side"], Endpoint(*explicit["client"]), Endpoint(*explicit["destination"]))
    except (ValueError, KeyError, TypeError):
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What an application saw of a request."""

    label: str
    local: Endpoint
    peer: Endpoint
    passed: tuple[str, ...]
    """The sides on which a proxy had it, in order; empty if it came straight."""

    @classmethod
    def decode(cls, body: bytes | str) -> Seen:
        """Read the application's answer."""
        explicit = json.loads(body)
        return cls(
            label=explicit["label"],
            local=Endpoint(*explicit["local"]),
            peer=Endpoint(*explicit["peer"]),
            passed=tuple(explicit["headers"].get(HEADER, ())),
        )


def start_app(pod: Pod, *ports: int, label: str = "app", uid: int = APP_UID) -> Process:
    """Start the HTTP application on ports of every address of both families, and wait for them."""
    process = pod.popen(app_command(label, *ports), uid=uid, reads_everything=True)
    _wait(process, *ports)
    return process


def app_command(label: str, *ports: int) -> list[str]:
    """Return the command line of the HTTP application."""
    return [sys.executable, "-I", "-S", str(_HERE / "http_app.py"), label, *map(str, ports)]


def start_mitmdump(pod: Pod, directory: Path, *, uid: int = PROXY_UID) -> Proxy:
    """Start mitmdump for both families. ``directory`` is for its certificates; the proxy's user will own it."""
    home = directory / "mitmproxy"
    home.mkdir(exist_ok=True)
    os.chown(home, uid, uid)
    environment = mitmdump_environment(home) | {"PATH": os.environ["PATH"]}
    process = pod.popen(mitmdump_command(home), uid=uid, env=environment, reads_everything=True)
    _wait(process, OUTBOUND_PORT, INBOUND_PORT)
    return Proxy(process)


def mitmdump_command(home: Path) -> list[str]:
    """Return the command line of mitmdump, which keeps its certificates in ``home``."""
    options = [
        "flow_detail=0",  # the addon logs
        "termlog_verbosity=warn",
        "block_global=false",  # clients may have any address
        "onboarding=false",
        f"confdir={home}",
    ]
    return [
        str(Path(sys.executable).with_name("mitmdump")),
        *("--mode", f"transparent@{OUTBOUND_PORT}", "--mode", f"transparent@{INBOUND_PORT}"),
        *("--scripts", str(_HERE / "mitmproxy_addon.py")),
        *(word for option in options for word in ("--set", option)),
    ]


def mitmdump_environment(home: Path) -> dict[str, str]:
    """Return the environment that mitmdump and its addon need besides PATH."""
    return {
        "HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CAPTURE_PROXY_HEADER": HEADER,
        "CAPTURE_OUTBOUND_PORT": str(OUTBOUND_PORT),
        "CAPTURE_INBOUND_PORT": str(INBOUND_PORT),
    }


# It binds 0.0.0.0 and not `:: v4v6`: on a mapped address HAProxy does not ask for SO_ORIGINAL_DST and
# connects to itself. `*:0` as a server means the original destination.
HAPROXY_CONFIGURATION = """
global
    maxconn 500
    log stdout format raw local0
defaults
    mode {mode}
    log global
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    log-format '{{"side": "%f", "client": ["%ci", %cp], "destination": ["%[dst]", %[dst_port]]}}'
listen outbound
    bind 0.0.0.0:{outbound}
    {mark_outbound}
    server original *:0
listen inbound
    bind 0.0.0.0:{inbound}
    {mark_inbound}
    server original *:0 source 127.0.0.6
"""


def start_haproxy(pod: Pod, directory: Path, *, mode: str = "http", uid: int = PROXY_UID) -> Proxy:
    """Start HAProxy for IPv4, in mode ``http`` (adds the header) or ``tcp`` (passes bytes on)."""
    mark = {
        side: f"http-request add-header {HEADER} {side}" if mode == "http" else "" for side in ("outbound", "inbound")
    }
    configuration = directory / "haproxy.cfg"
    configuration.write_text(
        HAPROXY_CONFIGURATION.format(
            mode=mode,
            outbound=OUTBOUND_PORT,
            inbound=INBOUND_PORT,
            mark_outbound=mark["outbound"],
            mark_inbound=mark["inbound"],
        ),
        encoding="ascii",
    )
    process = pod.popen(["haproxy", "-db", "-f", configuration], uid=uid, reads_everything=True)
    _wait(process, OUTBOUND_PORT, INBOUND_PORT, families=(socket.AF_INET,))
    return Proxy(process)


def _wait(process: Process, *ports: int, families: tuple[int, ...] = (socket.AF_INET, socket.AF_INET6)) -> None:
    for port in ports:
        for family in families:
            process.wait_for_port(port, family=family)


def get(client: Client, address: str, port: int, path: str = "/", timeout: float = 5.0, *, source: str = "") -> Seen:
    """Send one HTTP request and return what the application saw. Raises OSError if it was not reached."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with client.open_socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        if source:
            connection.bind((source, 0))
        connection.connect((address, port))
        http_connection = http.client.HTTPConnection(address, port)
        http_connection.sock = connection
        http_connection.request("GET", path)
        response = http_connection.getresponse()
        body = response.read()
    if response.status != http.HTTPStatus.OK:
        raise ConnectionError(
            f"{response.status} {response.reason}: {re.sub(rb'<[^>]*>', b' ', body).decode().strip()}"
        )
    return Seen.decode(body)
