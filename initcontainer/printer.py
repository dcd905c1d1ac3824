"""Prints the output of ``istio-init``, at the level and in the form that the flags of Istio's log request.

Plain text, or lines of JSON with the keys of Istio's log (istio/istio, ``pkg/log/config.go``: ``level``, ``time``,
``msg``), so that a collector of the mesh's logs reads these, too. Errors and warnings go to stderr; a warning
about a default goes to stdout, next to the default.
"""

from __future__ import annotations

import sys
import time

from capture.model.json_text import encode_json
from capture.report import output
from capture.settings.options import LOG_AS_JSON, LOG_OUTPUT_LEVEL
from capture.settings.parsers import LOG_LEVELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from capture.errors import CaptureError
    from capture.settings.settings import Settings

LOWEST_LEVELS = {"error": LOG_LEVELS.index("fatal"), "warn": LOG_LEVELS.index("warn"), "info": LOG_LEVELS.index("info")}
"""The level from which on lines of a kind are printed."""


class Printer:
    """Prints what is at least as important as the level; until that is set, everything, as plain text."""

    def __init__(self) -> None:
        self._level = LOWEST_LEVELS["info"]
        self._is_json = False

    def obey(self, settings: Settings) -> None:
        """Print by the settings from now on. Raises ConfigurationError for a level that is none."""
        self._is_json = settings[LOG_AS_JSON]
        self._level = settings[LOG_OUTPUT_LEVEL]

    def show(self, text: str) -> None:
        """Print a result."""
        self._print("info", text.strip("\n"), [text])

    def warn(self, warnings: Iterable[str], *, is_output: bool = False) -> None:
        """Print warnings on stderr; on stdout about what was left to a default, next to that."""
        for warning in warnings:
            self._print("warn", warning, [output.VerdictLine(f"warning: {warning}")], is_output=is_output)

    def report(self, error: CaptureError) -> None:
        """Print what went wrong, and what to do about it."""
        remedy = {"remedy": error.remedy} if error.remedy else {}
        self._print("error", error.message, output.error_lines(error), is_output=False, **remedy)

    def _print(self, level: str, message: str, lines: Sequence[str], *, is_output: bool = True, **fields: str) -> None:
        """Print lines of text, or their message as a line of Istio's log, whose time is UTC with microseconds."""
        if self._level < LOWEST_LEVELS[level]:
            return
        if self._is_json:
            seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
            now = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}Z"
            line = encode_json({"level": level, "time": now, "msg": message, **fields})
            print(line, file=sys.stdout if is_output else sys.stderr, flush=True)
            return
        write = print if is_output else output.print_on_stderr
        for text in lines:
            write(text)
