"""Findings about pod, node and host: what ``doctor`` and ``cni status`` report."""

from __future__ import annotations

from capture.model.values import Value
from capture.report.terminal import print_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    State = Literal["ok", "note", "warning", "error"]
else:
    State = str

HANG = 10
"""The column at which the texts of findings begin."""


class Finding(Value):
    """One line of a report: with an ``error`` capture cannot work, with a ``warning`` one way of it is unavailable."""

    topic: str
    name: str
    state: State
    message: str
    remedy: str = ""
    kind: str = ""
    """The kind of a cause, as in ``capture why``."""


def print_findings(found: Iterable[Finding]) -> None:
    """Print findings by topic, each with its remedy below it."""
    topic = ""
    for finding in found:
        if finding.topic != topic:
            topic = finding.topic
            print_lines([f"{topic}:"])
        print_lines([f"  {finding.state:<7} {finding.name}: {finding.message}"], HANG)
        if finding.remedy:
            print_lines([f"{'':{HANG}}{finding.remedy}"], HANG)
