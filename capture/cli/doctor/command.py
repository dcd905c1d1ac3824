"""``capture doctor``."""

from __future__ import annotations

import sys

import click

from capture.cli.doctor.examination import DRIVERS, can_work, examine, findings
from capture.cli.options import CaptureCommand, format_option, namespace_options
from capture.errors import EXIT_DONE, EXIT_DRIFT, EXIT_UNSUPPORTED
from capture.report.output import GREEN, RED, YELLOW, painted
from capture.state.netns import Entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.cli.doctor.examination import Finding

EXAMPLES = """
capture doctor
capture doctor --pid 4711
capture doctor --format json | jq '.findings[] | select(.state == "error")'
"""

COLOURS = {"ok": GREEN, "warning": YELLOW, "error": RED, "note": ""}


@click.command(
    cls=CaptureCommand,
    params=[
        *namespace_options(),
        click.Option(["--all", "everything"], is_flag=True, help="Show what is in order with the drivers, too."),
        format_option("table", "json"),
    ],
    examples=EXAMPLES,
)
def doctor(namespace: str | None, form: str, *, everything: bool) -> int:
    """Say what is wrong with this pod and its capture, then what this kernel and host can do.

    What is missing comes with how to repair it. Nothing is changed. Exit code 3 if capture cannot work here at all, 4
    if it can, and something is wrong with the pod; `capture why` explains single connections.
    """
    with Entered(namespace):
        examined = examine()
    found = findings(examined)
    if form == "json":
        import json  # 7 ms, for this format only

        plain = {"schema": "capture/v1", "works": can_work(examined), "findings": [_as_plain(each) for each in found]}
        click.echo(json.dumps(plain, indent=1))
    else:
        _show(found, everything=everything)
    if not can_work(examined):
        return EXIT_UNSUPPORTED
    return EXIT_DRIFT if any(finding.state == "error" for finding in found) else EXIT_DONE


def _as_plain(finding: Finding) -> dict[str, str | None]:
    return {
        "topic": finding.topic,
        "name": finding.name,
        "state": finding.state,
        "says": finding.says,
        "remedy": finding.remedy or None,
        "kind": finding.kind or None,
    }


def _show(found: list[Finding], *, everything: bool) -> None:
    """Print the findings by topic; of drivers only what is wrong, unless everything is wanted."""
    shown = [each for each in found if everything or each.topic not in DRIVERS or each.state in ("warning", "error")]
    topic = ""
    for finding in shown:
        if finding.topic != topic:
            topic = finding.topic
            click.echo(f"{topic}:")
        state = painted(f"{finding.state:<7}", COLOURS[finding.state], sys.stdout)
        click.echo(f"  {state} {finding.name}: {finding.says}")
        if finding.remedy:
            click.echo(f"{'':10}{finding.remedy}")
    if len(shown) < len(found):
        click.echo(f"{len(found) - len(shown)} more findings about kernel and host are in order: capture doctor --all")
