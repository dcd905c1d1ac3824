"""The agent's log: JSON lines on standard output, in the form of the plugin's own (``cni.log``)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from capture.state.json_text import encode
from cni.log import LEVELS, timestamp


class Journal:
    """Writes lines of at least ``level``; each is one write(2), so that the lines of threads do not mix."""

    def __init__(self, level: str = "info", descriptor: int = 1) -> None:
        self._lowest = LEVELS[level]
        self._descriptor = descriptor

    def info(self, message: str, **facts: object) -> None:
        """Write a line on what was done."""
        self._write("info", message, facts)

    def warn(self, message: str, **facts: object) -> None:
        """Write a line on what a person should look at."""
        self._write("warn", message, facts)

    def error(self, message: str, **facts: object) -> None:
        """Write a line on what failed."""
        self._write("error", message, facts)

    def _write(self, level: str, message: str, facts: Mapping[str, object]) -> None:
        if LEVELS[level] < self._lowest:
            return
        line: dict[str, object] = {
            "time": timestamp(time.time_ns()),
            "level": level,
            "message": message,
            "command": "agent",
            **facts,
        }
        self.pass_on(encode(line).encode() + b"\n")

    def pass_on(self, line: bytes) -> None:
        """Write a line that is JSON already, such as one of the plugin's."""
        try:
            os.write(self._descriptor, line)
        except OSError:  # the reader of the log is gone: pods matter more
            return
