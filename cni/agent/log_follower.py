"""Passes the plugin's log on to the agent's, so that ``kubectl logs`` shows all that happens on the node.

The plugin writes whole lines, and renames the file when it has grown (``cni.log``). So the file is read to its end,
and then the one that has its name by now.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

from cni.agent.agent_log import AgentLog

CHUNK_BYTES = 65536
READ_INTERVAL = 1.0
"""Seconds between looks."""


class LogFollower:
    """Reads what is added to ``path`` from now on."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: int | None = None
        self._rest: bytes
        self._open(at_end=True)

    def run(self, log: AgentLog, stop: threading.Event) -> None:
        while not stop.wait(READ_INTERVAL):
            for line in self.lines():
                log.pass_on(line)

    def lines(self) -> Iterator[bytes]:
        """Yield the whole lines that have come since the last call."""
        while True:
            yield from self._read_all()
            if not self._is_replaced():
                return
            yield from self._read_all()  # what came between the two, from a plugin that still had it open
            self._open(at_end=False)

    def _read_all(self) -> Iterator[bytes]:
        while self._file is not None and (chunk := os.read(self._file, CHUNK_BYTES)):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            yield from (line + b"\n" for line in lines)

    def _is_replaced(self) -> bool:
        try:
            now = os.stat(self.path)
        except OSError:
            return False
        return self._file is None or now.st_ino != os.fstat(self._file).st_ino

    def _open(self, *, at_end: bool) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._rest = None, b""
        with suppress(OSError):  # it is not there yet
            self._file = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._file, 0, os.SEEK_END if at_end else os.SEEK_SET)
