"""Output for a person, as wide as the terminal: lines, and the findings that ``doctor`` and ``cni status`` report.

Verdicts, the deciding rule and drift are in colour.

In a pipe every line stays whole and plain, so that it can be searched. The width is the terminal's; COLUMNS beats it.
"""

from __future__ import annotations

import os
import sys

from capture.model.text import printable
from capture.model.values import Value
from capture.report.fold import folded
from capture.report.output import BOLD, DECIDES_MARK, GREEN, RED, YELLOW, VerdictLine, painted
from capture.report.target import with_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal, TextIO

    State = Literal["ok", "note", "warning", "error"]
else:
    State = str

MIN_WIDTH = 40
ROWS = 24
"""Rows of a terminal whose height is unknown."""

VERDICTS = {
    GREEN: (
        "in sync", "captured", "proxy-outbound", "proxy-inbound", "dns", "equal", "ok", "works", "applied",
        "unchanged",
    ),
    YELLOW: ("direct", "cannot be told", "no reference", "not judged", "not judged in full", "warning"),
    RED: (
        "drift", "nothing is applied here", "not captured", "broken", "dropped", "redirected", "no route",
        "cause", "error", "but",
    ),
    BOLD: (DECIDES_MARK,),
}  # fmt: skip
"""Verdicts and states that lines have."""
COLOUR_OF = {verdict: colour for colour, verdicts in VERDICTS.items() for verdict in verdicts}
FINDING_HANG = 10
"""The column at which the texts of findings begin."""


def columns(stream: TextIO | None = None) -> int | None:
    """Return the width of a stream that is a terminal, of standard output if none is named; None for any other."""
    stream = sys.stdout if stream is None else stream
    if not stream.isatty():
        return None
    explicit = os.environ.get("COLUMNS", "")
    try:
        width = int(explicit) if explicit.isdecimal() else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return None
    return max(width, MIN_WIDTH) if width else None


def rows() -> int:
    """Return the height of the terminal that shows standard output; LINES beats it."""
    from shutil import get_terminal_size  # `watch` alone fills a screen

    return get_terminal_size((0, ROWS)).lines


def print_lines(
    lines: Iterable[str], hang: int | None = None, stream: TextIO | None = None, namespace: str | None = None
) -> None:
    """Print lines for a person about a ``namespace``; on a terminal folded, ``hang`` as in ``folded``, in colour."""
    stream = sys.stdout if stream is None else stream
    width = columns(stream)
    for line in lines:
        text = with_target(line, namespace)
        if width is None:
            print(text, file=stream)
            continue
        parts = folded(printable(text), width, hang)  # escapes take room, too
        print(*_coloured(parts, getattr(line, "verdict", ""), stream), sep="\n", file=stream)


def _coloured(parts: list[str], verdict: str, stream: TextIO) -> list[str]:
    """Return the parts of a line with its verdict in colour, or all of it if it is the deciding rule."""
    if verdict not in COLOUR_OF:
        return parts
    (first, *rest), colour = parts, COLOUR_OF[verdict]
    before, shown, after = first.partition(verdict)
    if verdict == DECIDES_MARK:
        return [before + painted(shown + after, colour, stream), *(painted(part, colour, stream) for part in rest)]
    return [before + painted(shown, colour, stream) + after, *rest]


class Finding(Value):
    """One line of a report: with an ``error`` capture cannot work, with a ``warning`` one way of it is unavailable."""

    topic: str
    name: str
    state: State
    message: str
    remedy: str = ""
    kind: str = ""
    """The kind of a cause, as in ``capture why``."""


def print_findings(findings: Iterable[Finding]) -> None:
    """Print findings by topic, each with its remedy below it."""
    topic = ""
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            print_lines([f"{topic}:"])
        print_lines(
            [VerdictLine(f"  {finding.state:<7} {finding.name}: {finding.message}", finding.state)], FINDING_HANG
        )
        if finding.remedy:
            print_lines([f"{'':{FINDING_HANG}}{finding.remedy}"], FINDING_HANG)
