"""Reads the file, pipe or standard input that a command line names, within limits of size and time."""

from __future__ import annotations

import os
import select
import stat
import sys

from capture.errors import EXIT_USAGE, CaptureError

STDIN = "-"
MAX_INPUT_BYTES = 64 * 1024 * 1024
"""Ten thousand workloads, or the dump of 60,000 rules, have less."""
INPUT_TIMEOUT = 10.0
"""Seconds for a pipe that is named to send something; standard input has a person or a program at its other end."""
READ_REMEDY = f"Name a text file that you may read, or {STDIN} for standard input."


class InputError(CaptureError):
    """An input that cannot be read."""

    exit_code = EXIT_USAGE


def origin_of(name: str) -> str:
    """Return how an error names an input."""
    return "standard input" if name == STDIN else name


def read_input(name: str, limit: int = MAX_INPUT_BYTES, timeout: float = INPUT_TIMEOUT) -> str:
    """Return the text of a file, of a pipe, or for ``-`` of standard input. Raises InputError."""
    if name == STDIN and sys.stdin is None:
        raise InputError("cannot read standard input: it is closed", "Name a file.")
    try:
        content = sys.stdin.buffer.read(limit + 1) if name == STDIN else _read(name, limit, timeout)
        if len(content) > limit:
            problem = f"{origin_of(name)} is longer than {limit >> 20} MiB, which is the limit"
            raise InputError(problem, "Check that it is the right file; split a manifest that is really so long.")
        return content.decode()
    except OSError as error:
        raise InputError(f"cannot read {origin_of(name)}: {error.strerror}", READ_REMEDY) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{origin_of(name)}: not UTF-8: {error.reason} at byte {error.start}", READ_REMEDY) from None


def _read(name: str, limit: int, timeout: float) -> bytearray:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)  # a FIFO is open without a writer
    try:
        is_regular = stat.S_ISREG(os.fstat(file).st_mode)
        content = bytearray()
        while len(content) <= limit:
            if not is_regular:
                _wait_for_data(file, name, timeout)
            chunk = os.read(file, 1 << 20)
            if not chunk:
                break
            content += chunk
        return content
    finally:
        os.close(file)


def _wait_for_data(file: int, name: str, timeout: float) -> None:
    """Wait for something to read, or for the end; of a FIFO without a writer so far, poll(2) reports neither."""
    waiting = select.poll()
    waiting.register(file, select.POLLIN)
    if not waiting.poll(timeout * 1000):
        raise InputError(f"{name} sent nothing for {timeout:g} s", "Start what writes to this pipe, or name a file.")
