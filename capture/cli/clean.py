"""``capture clean``."""

from __future__ import annotations

import click

from capture import operations
from capture.cli.options import CaptureCommand, namespace_options
from capture.report.outcome import cut_by_cleaning
from capture.report.output import warn

EXAMPLES = """
capture clean --netns /run/netns/pod
capture clean --pid 4711
"""


@click.command(
    cls=CaptureCommand,
    params=[
        *namespace_options(),
        click.Option(["--allow-host"], is_flag=True, help="Clean the host's own network namespace."),
    ],
    examples=EXAMPLES,
)
def clean(namespace: str | None, *, allow_host: bool) -> int:
    """Remove everything that is ours from a network namespace.

    That is: the rules in every backend, in either spelling, of this version, of older ones and of upstream's, the
    address on lo, and the routes of TPROXY. No option is needed to find them. Rules of others stay.

    Connections that pass the proxy end with the rules; a warning counts them.
    """
    warn(cut_by_cleaning(namespace))
    removed = operations.clean(namespace, allow_host=allow_host, warn=lambda warning: warn([warning]))
    click.echo("removed: nothing is captured any more" if removed else "nothing to remove")
    return 0
