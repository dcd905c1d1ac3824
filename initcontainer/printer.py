"""Prints the output of ``istio-init``, at the level and in the form that the flags of Istio's log request.

Plain text, or lines of JSON with the keys of Istio's log (istio/istio, ``pkg/log/config.go``: ``level``, ``time``,
``msg``), so that a collector of the mesh's logs reads these, too. Errors and warnings go to stderr; a warning
about a default goes to stdout, next to the default.
"""

from __future__ import annotations

import sys
import time

from capture.report import output
from capture.settings.options import LOG_AS_JSON, LOG_OUTPUT_LEVEL
from capture.settings.parsers import LOG_LEVELS
from capture.state.json_text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from capture.errors import CaptureError
    from capture.settings.settings import Settings

FATAL, WARN, INFO = (LOG_LEVELS.index(name) for name in ("fatal", "warn", "info"))


class Printer:
    """Prints what is at least as important as the level; until that is set, everything, as plain text."""

    def __init__(self) -> None:
        self._level = INFO
        self._is_json = False

    def obey(self, settings: Settings) -> None:
        """Print by the settings from now on. Raises ConfigurationError for a level that is none."""
        self._is_json = settings[LOG_AS_JSON]
        self._level = settings[LOG_OUTPUT_LEVEL]

    def show(self, text: str) -> None:
        """Print a text of one or more lines."""
        if self._level < INFO:
            return
        if self._is_json:
            _print_json(sys.stdout, "info", text.strip("\n"))
        else:
            print(text)

    def warn(self, warnings: Iterable[str]) -> None:
        if self._level < WARN:
            return
        if not self._is_json:
            output.warn(warnings)
            return
        for warning in warnings:
            _print_json(sys.stderr, "warn", warning)

    def warn_on_stdout(self, text: str) -> None:
        """Print a warning among what is printed on stdout: about what was left to a default, not about a value."""
        if self._level < WARN:
            return
        if self._is_json:
            _print_json(sys.stdout, "warn", text)
        else:
            print(f"warning: {text}")

    def report(self, error: CaptureError) -> None:
        """Print the error that ends the program, and what to do about it."""
        if self._level < FATAL:
            return
        if self._is_json:
            more = {"remedy": error.remedy} if error.remedy else {}
            _print_json(sys.stderr, "error", error.message, **more)
        else:
            output.print_error(error)


def _print_json(stream: TextIO, level: str, message: str, **more: str) -> None:
    """Print a line with the time as Istio's log writes it: UTC, with microseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    now = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}Z"
    print(encode({"level": level, "time": now, "msg": message, **more}), file=stream, flush=True)
