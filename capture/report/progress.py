"""What runs and for how long, on a terminal, from the first second on. The first output ends it.

By a timer's signal, not by a thread: entering a user namespace takes a process of one thread (setns(2)).
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Self

STDERR = 2
PERIOD = 1.0
"""Seconds before the first line, and from one to the next."""


class Progress:
    """A context in which standard error shows what runs, if it is a terminal."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._seconds = 0

    def __enter__(self) -> Self:
        if self._command and os.isatty(STDERR) and os.environ.get("TERM") != "dumb":
            signal.signal(signal.SIGALRM, self._show)
            signal.siginterrupt(signal.SIGALRM, False)  # system calls of libraries in C go on
            signal.setitimer(signal.ITIMER_REAL, PERIOD, PERIOD)
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _show(self, _signal: int, _frame: FrameType | None) -> None:
        self._seconds += 1
        os.write(STDERR, f"\r{self._command} ... {self._seconds} s\033[K".encode())

    def stop(self) -> None:
        """Take the line away, and show no other."""
        if self._command:
            self._command = ""
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._seconds:
            self._seconds = 0
            os.write(STDERR, b"\r\033[K")
