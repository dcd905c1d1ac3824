"""Standard output and standard error, as our programs print to them.

What is printed never drives a terminal and never ends a program: text that is not printable is escaped, in every
locale, and output that cannot be written (a full disk, a reader that has ended, a closed descriptor) is dropped; the
first error is kept as ``failure``. The exit code is then about the rules. A program whose purpose is its output ends at
once instead, by LostOutputError.
"""

from __future__ import annotations

import errno
import os
import sys

from capture.model.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self, TextIO

COLOUR = "\ud800"
"""Begins one of our colours in text on its way to a stream: no text that was decoded from bytes can have it."""


class LostOutputError(Exception):
    """The output of a program whose purpose it is cannot be written."""


class Stream:
    """Takes what is printed in place of ``sys.stdout`` or ``sys.stderr``."""

    def __init__(self, sink: TextIO | None, *, is_needed: bool = False) -> None:
        self.failure: OSError | None = None
        self._is_needed = is_needed
        self._sink = sink
        if sink is not None and hasattr(sink, "reconfigure"):
            sink.reconfigure(errors="backslashreplace")

    when_printing: Callable[[], None] | None = None
    """What is called before something is printed."""
    is_shown_elsewhere = False
    """Whether the reader of the pipe shows it on a terminal."""

    encoding = "utf-8"
    """What it takes; what the locale has no code for is escaped."""
    errors = "backslashreplace"

    @property
    def buffer(self) -> BytesWriter:
        """Return where manifests and completions are written, which are bytes."""
        return BytesWriter(self)

    def write(self, text: str) -> int:
        """Print a text; drop it if that has become impossible."""
        if not isinstance(text, str):
            raise TypeError("a stream of text takes no bytes")
        self._write_or_drop(lambda sink: sink.write(printable(text, "\n\t" + COLOUR).replace(COLOUR, "\033[")))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Write bytes of UTF-8: a file or a program gets them as they are, a person as text."""
        if self.isatty() or not hasattr(self._sink, "buffer"):
            self.write(data.decode("utf-8", "backslashreplace"))
            return
        self.flush()
        self._write_or_drop(lambda sink: sink.buffer.write(data))

    def _write_or_drop(self, write: Callable[[TextIO], int]) -> None:
        if self.when_printing is not None:
            self.when_printing()
        if self.failure is None:
            try:
                write(self._opened_stream())
            except (OSError, ValueError) as error:
                self._fail(error)

    def flush(self) -> None:
        """Write what is still held back."""
        if self._sink is not None and self.failure is None:
            try:
                self._sink.flush()
            except (OSError, ValueError) as error:
                self._fail(error)

    def _fail(self, error: OSError | ValueError) -> None:
        """Remember the error, and drop what Python still holds back: writing it at exit would fail again."""
        self.failure = error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed")
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
        except (OSError, ValueError):
            pass
        if self._is_needed:
            raise LostOutputError

    def isatty(self) -> bool:
        """Return whether a person is likely to look at it."""
        return self.is_shown_elsewhere or (self._sink is not None and self.failure is None and self._sink.isatty())

    def fileno(self) -> int:
        return self._opened_stream().fileno()

    def _opened_stream(self) -> TextIO:
        if self._sink is None:  # so Python starts where the descriptor is closed
            raise OSError(errno.EBADF, "it is closed")
        return self._sink


class BytesWriter:
    """Takes bytes of UTF-8 for a stream of text."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        """Print them."""
        self._stream.write_bytes(data)
        return len(data)

    def flush(self) -> None:
        """Write what is still held back."""
        self._stream.flush()


class Streams:
    """A context in which ``sys.stdout`` and ``sys.stderr`` are such streams."""

    def __init__(self, *, needs_output: bool = False) -> None:
        self.output, self.errors = Stream(sys.stdout, is_needed=needs_output), Stream(sys.stderr)

    def __enter__(self) -> Self:
        self._before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = self.output, self.errors
        return self

    def __exit__(self, *_error: object) -> None:
        sys.stdout, sys.stderr = self._before
        self.errors.flush()


def keep_standard_descriptors() -> tuple[int, ...]:
    """Open ``/dev/null`` in place of the standard descriptors that are closed; return which were.

    Otherwise the next file or socket gets the number, and what is printed, also by a child process, goes there.
    """
    closed = tuple([number for number in (0, 1, 2) if not _is_open(number)])
    for _ in closed:
        try:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(opened, True)  # as it is for standard descriptors
        except OSError:  # no /dev: nothing that could be done
            break
    return closed


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
