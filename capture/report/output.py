"""What every program of ours says to a person: errors and warnings on stderr, and how it ends.

Colour is for terminals only, and never where NO_COLOR is set (no-color.org).
"""

from __future__ import annotations

import os
import sys

from capture.errors import EXIT_FAILED, CaptureError
from capture.report.streams import COLOUR, LostOutputError, Stream, Streams, keep_standard_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TextIO

EXIT_INTERRUPTED = 130
"""128 and SIGINT: what a shell reports for a program that Ctrl-C ended."""
EXIT_BROKEN_PIPE = 141
"""128 and SIGPIPE: the reader of our output has gone."""

SCHEMA = "capture/v1"
"""What every JSON output calls its layout: keys are added, those that are there keep their meaning."""

RED, GREEN, YELLOW = "31", "32", "33"


def painted(text: str, colour: str, stream: TextIO | Stream) -> str:
    """Return the text in colour, if the stream is a terminal that may show it."""
    if not colour or not stream.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    begin = COLOUR if isinstance(stream, Stream) else "\033["
    return f"{begin}{colour}m{text}{begin}0m"


def report(error: CaptureError) -> None:
    """Say on stderr what went wrong, and what to do about it."""
    say_error(error.message)
    if error.remedy:
        print(f"  {error.remedy}", file=sys.stderr)


def say_error(message: str) -> None:
    """Print an error on stderr."""
    print(f"{painted('error:', RED, sys.stderr)} {message}", file=sys.stderr)


def note(line: str) -> None:
    """Print on stderr what is good to know beside the output."""
    print(line, file=sys.stderr)


def warn(warnings: Iterable[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings:
        print(f"{painted('warning:', YELLOW, sys.stderr)} {warning}", file=sys.stderr)


def ended(
    program: Callable[[], int], report: Callable[[CaptureError], None] = report, *, needs_output: bool = False
) -> int:
    """Run a program and return its exit code; errors, Ctrl-C and output that cannot be written end it in words.

    ``needs_output`` says that the program is there for what it prints. Otherwise the exit code tells what became of
    the rules, whatever becomes of the output.
    """
    keep_standard_descriptors()
    with Streams(needs_output=needs_output) as streams:
        code = _code_of(program, report)
        try:
            streams.output.flush()
        except LostOutputError:
            code = EXIT_FAILED
        failure = streams.output.failure
        if failure is None:
            return code
        if isinstance(failure, BrokenPipeError):
            return EXIT_BROKEN_PIPE if needs_output else code
        if needs_output:
            say_error(f"the output cannot be written: {failure.strerror}")
            return code or EXIT_FAILED
        warn([f"the output cannot be written: {failure.strerror}; exit code {code} tells what became of the rules"])
        return code


def _code_of(program: Callable[[], int], report: Callable[[CaptureError], None]) -> int:
    try:
        return program()
    except CaptureError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except LostOutputError:
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  # no traceback reaches a person
        report(_unforeseen(error))
        return EXIT_FAILED


def _unforeseen(error: Exception) -> CaptureError:
    """Return an error of the system, or a defect of ours, in words."""
    if isinstance(error, OSError) and error.strerror:
        return CaptureError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}" if trace is not None else "nowhere"
    return CaptureError(f"a defect of this program: {type(error).__name__}: {error}", f"Report it: it was in {place}.")
