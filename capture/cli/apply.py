"""``capture apply``."""

from __future__ import annotations

import click

from capture import operations
from capture.cli.options import capture_options, command, explicit, format_option, namespace_options
from capture.report.applied_text import applied_as_plain, applied_text, start_line
from capture.report.output import print_json, warn
from capture.report.terminal import print_lines
from capture.settings.options import ALLOW_HOST, FORCE_APPLY


@command(
    """
    capture apply --netns /run/netns/pod
    capture apply --pid 4711 -p 15001 -z 15006 -u 1337 -x 10.96.0.0/12
    capture apply --backend nftables --profile current --redirect-dns --capture-all-dns
    """,
    *capture_options(ALLOW_HOST, FORCE_APPLY),
    *namespace_options(),
    format_option("text", "json"),
)
@click.pass_context
def apply(ctx: click.Context, namespace: str | None, form: str) -> int:
    """Write the rules of the options into a network namespace.

    Equal rules are left as they are. Other rules of the capture are replaced, with no moment in which a new
    connection is uncaptured. Foreign rules stay.
    """
    settings = explicit(ctx)
    applied = operations.apply(settings, namespace, force=settings[FORCE_APPLY])
    warn(applied.warnings)
    if form == "json":
        print_json(applied_as_plain(settings, applied))
    else:
        print_lines([applied_text(applied), start_line(settings, applied.config), *applied.notes])
    return 0
