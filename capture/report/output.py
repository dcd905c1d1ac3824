"""What every program of ours says to a person: errors and warnings on stderr, and how it ends.

Colour is for terminals only, and never where NO_COLOR is set (no-color.org).
"""

from __future__ import annotations

import os
import sys

from capture.errors import CaptureError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TextIO

EXIT_INTERRUPTED = 130
"""128 and SIGINT: what a shell reports for a program that Ctrl-C ended."""
EXIT_BROKEN_PIPE = 141
"""128 and SIGPIPE: the reader of our output has gone."""

RED, GREEN, YELLOW = "31", "32", "33"


def painted(text: str, colour: str, stream: TextIO) -> str:
    """Return the text in colour, if the stream is a terminal that may show it."""
    if not colour or not stream.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"


def report(error: CaptureError) -> None:
    """Say on stderr what went wrong, and what to do about it."""
    say_error(error.message)
    if error.remedy:
        print(f"  {error.remedy}", file=sys.stderr)


def say_error(message: str) -> None:
    """Print an error on stderr."""
    print(f"{painted('error:', RED, sys.stderr)} {message}", file=sys.stderr)


def warn(warnings: Iterable[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings:
        print(f"{painted('warning:', YELLOW, sys.stderr)} {warning}", file=sys.stderr)


def ended(program: Callable[[], int], report: Callable[[CaptureError], None] = report) -> int:
    """Run a program and return its exit code; errors of ours, Ctrl-C and a reader that has gone end it in words."""
    try:
        code = program()
        sys.stdout.flush()
    except CaptureError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return EXIT_BROKEN_PIPE
    return code


def _forget_output() -> None:
    """Send what is still to be written nowhere, so that Python does not stumble over it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
