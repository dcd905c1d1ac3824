"""``capture doctor``."""

from __future__ import annotations

import click

from capture import operations
from capture.cli.doctor.examination import DRIVER_TOPICS, can_work, examine
from capture.cli.options import command, format_option, namespace_options
from capture.errors import EXIT_DONE, EXIT_DRIFT, EXIT_UNSUPPORTED
from capture.report.applied_text import print_start_line
from capture.report.output import print_json
from capture.report.target import with_target
from capture.report.terminal import Finding, columns, print_findings, print_lines
from capture.state.directory import STATE_DIRECTORY, is_private
from capture.system.netns import InNamespace


@command(
    """
    capture doctor
    capture doctor --pid 4711
    capture doctor --format json | jq '.findings[] | select(.state == "error")'
    """,
    *namespace_options(),
    click.Option(["--all", "everything"], is_flag=True, help="Show all findings about kernel and host, as in a pipe."),
    format_option("table", "json"),
)
def doctor(namespace: str | None, form: str, *, everything: bool) -> int:
    """Check this pod and its capture, then the node, then what this kernel and host can do.

    For what is missing it prints how to repair it. Nothing is changed. Exit code 3 if capture cannot work here at all,
    4 if it can, and something is wrong with pod or node; `capture why` explains single connections. A namespace
    without rules is no fault here; for `capture why` it is one.
    """
    with InNamespace(namespace):
        print_start_line(operations.read_reference() if is_private(STATE_DIRECTORY) else None, form)
        shown = ((each, with_target([each.message, each.remedy], namespace)) for each in examine(namespace))
        findings = [each.replace(message=message, remedy=remedy) for each, (message, remedy) in shown]
    if form == "json":
        print_json({"works": can_work(findings), "findings": [_finding_as_plain(each) for each in findings]})
    else:
        _show(findings, everything=everything or columns() is None)
    if not can_work(findings):
        return EXIT_UNSUPPORTED
    return EXIT_DRIFT if any(finding.state == "error" for finding in findings) else EXIT_DONE


def _finding_as_plain(finding: Finding) -> dict[str, str | None]:
    return {
        "topic": finding.topic,
        "name": finding.name,
        "state": finding.state,
        "says": finding.message,
        "remedy": finding.remedy or None,
        "kind": finding.kind or None,
    }


def _show(findings: list[Finding], *, everything: bool) -> None:
    """Print the findings; of drivers only what is wrong, unless all are requested."""
    shown = [
        each for each in findings if everything or each.topic not in DRIVER_TOPICS or each.state in ("warning", "error")
    ]
    print_findings(shown)
    if len(shown) < len(findings):
        more = f"{len(findings) - len(shown)} more findings about kernel and host"
        print_lines([f"{more}, none a fault: `capture doctor --all`"])
