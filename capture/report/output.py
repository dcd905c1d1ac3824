"""Messages of every program to a person: errors and warnings on stderr; and its exit code.

Colour is for terminals only, and never where NO_COLOR is set (no-color.org).
"""

from __future__ import annotations

import os
import sys

from capture.errors import EXIT_FAILED, CaptureError, os_error
from capture.model.text import JSON_SCHEMA_NAME
from capture.report.streams import COLOUR, LostOutputError, Stream, Streams, keep_standard_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self, TextIO

EXIT_INTERRUPTED = 130
"""128 and SIGINT: what a shell reports for a program that Ctrl-C ended."""
EXIT_BROKEN_PIPE = 141
"""128 and SIGPIPE: the reader of our output has ended."""

RED, GREEN, YELLOW, BOLD = "31", "32", "33", "1"
DECIDES_MARK = "=>"
"""Marks the deciding rule on a packet's way."""


class VerdictLine(str):
    """A line for a person; a terminal shows its ``verdict`` in colour: what precedes the first colon or comma."""

    __slots__ = ("verdict",)
    verdict: str

    def __new__(cls, text: str, verdict: str = "") -> Self:
        line = super().__new__(cls, text)
        line.verdict = verdict or text.partition(":")[0].partition(",")[0].lstrip(" #")
        return line


def painted(text: str, colour: str, stream: TextIO | Stream) -> str:
    """Return the text in colour, if the stream is a terminal that may show it."""
    if not colour or not stream.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    begin = COLOUR if isinstance(stream, Stream) else "\033["
    return f"{begin}{colour}m{text}{begin}0m"


def print_error(error: CaptureError) -> None:
    """Print on stderr what went wrong, and what to do about it."""
    for line in error_lines(error):
        print_on_stderr(line)


def error_lines(error: CaptureError) -> list[str]:
    """Return what went wrong, and in a second line what to do about it."""
    return [VerdictLine(f"error: {error.message}"), *([f"  {error.remedy}"] if error.remedy else [])]


def print_error_as_json(error: CaptureError) -> None:
    """Print on stdout what went wrong, for programs, and on stderr what ``print_error`` prints."""
    print_error(error)
    plain = {"message": error.message, "remedy": error.remedy or None, "exit_code": error.exit_code}
    print_json({"error": plain})


def print_json(plain: Mapping[str, object]) -> None:
    """Print a result for programs, with the name of the layout."""
    import json  # 7 ms, for this format only

    print(json.dumps({"schema": JSON_SCHEMA_NAME, **plain}, indent=1))


def warn(warnings: Iterable[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings:
        print_on_stderr(VerdictLine(f"warning: {warning}"))


def print_on_stderr(line: str) -> None:
    """Print a line on stderr, apart from the output; folded and in colour if that is a terminal."""
    if not sys.stderr.isatty():
        print(line, file=sys.stderr)
        return
    from capture.report.terminal import print_lines  # in a pod and in a pipe nothing is folded

    print_lines([line], stream=sys.stderr)


def run_to_exit_code(
    program: Callable[[], int], on_error: Callable[[CaptureError], None] = print_error, *, needs_output: bool = False
) -> int:
    """Run a program and return its exit code; errors, Ctrl-C and output that cannot be written end it in words.

    ``needs_output`` is for programs whose purpose is their output. For others the exit code is about the rules,
    even if the output is lost.
    """
    keep_standard_descriptors()
    with Streams(needs_output=needs_output) as streams:
        code = _code_of(program, on_error)
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
            print_on_stderr(VerdictLine(f"error: the output cannot be written: {failure.strerror}"))
            return code or EXIT_FAILED
        warn([f"the output cannot be written: {failure.strerror}; exit code {code} is about the rules"])
        return code


def _code_of(program: Callable[[], int], on_error: Callable[[CaptureError], None]) -> int:
    try:
        return program()
    except CaptureError as error:
        on_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except LostOutputError:
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  # no traceback reaches a person
        on_error(_defect_error(error))
        return EXIT_FAILED


def _defect_error(error: Exception) -> CaptureError:
    if isinstance(error, OSError) and error.strerror:
        return os_error(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}" if trace is not None else "nowhere"
    versions = f"version {sys.modules['capture'].__version__} with Python {sys.version.split()[0]}"
    remedy = f"Report it, as README.md says under Questions and faults: it was in {where}; {versions}."
    return CaptureError(f"a defect of this program: {type(error).__name__}: {error}", remedy)
