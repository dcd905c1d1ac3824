"""``capture doctor``."""

from __future__ import annotations

import sys

import click

from capture.cli.doctor.examination import can_work, examine, findings
from capture.cli.options import CaptureCommand, format_option, namespace_options
from capture.errors import EXIT_DONE, EXIT_UNSUPPORTED
from capture.report.output import GREEN, RED, YELLOW, painted
from capture.state.netns import Entered

EXAMPLES = """
capture doctor
capture doctor --pid 4711
capture doctor --format json | jq '.findings[] | select(.state == "bad")'
"""

COLOURS = {"ok": GREEN, "missing": YELLOW, "bad": RED, "note": ""}


@click.command(cls=CaptureCommand, params=[*namespace_options(), format_option("table", "json")], examples=EXAMPLES)
def doctor(namespace: str | None, form: str) -> int:
    """Say what this kernel, host and network namespace can do, which backend is taken and why.

    What is missing comes with how to mend it. Nothing is changed. Exit code 3 if capture cannot work here at all.
    """
    with Entered(namespace):
        examined = examine()
    if form == "json":
        import json  # 7 ms, for this format only

        plain = [
            {
                "topic": finding.topic,
                "name": finding.name,
                "state": finding.state,
                "says": finding.says,
                "remedy": finding.remedy or None,
            }
            for finding in findings(examined)
        ]
        click.echo(json.dumps({"works": can_work(examined), "findings": plain}, indent=1))
    else:
        topic = ""
        for finding in findings(examined):
            if finding.topic != topic:
                topic = finding.topic
                click.echo(f"{topic}:")
            state = painted(f"{finding.state:<7}", COLOURS[finding.state], sys.stdout)
            click.echo(f"  {state} {finding.name}: {finding.says}")
            if finding.remedy:
                click.echo(f"{'':10}{finding.remedy}")
    return EXIT_DONE if can_work(examined) else EXIT_UNSUPPORTED
