"""``capture apply``."""

from __future__ import annotations

import click

from capture import operations
from capture.cli.options import capture_options, command, flags_of, format_option, namespace_options, settings_of
from capture.errors import EXIT_DONE
from capture.report.applied_text import applied_as_plain, applied_text, replaced_by_defaults, start_line
from capture.report.output import print_json, warn
from capture.report.target import with_target
from capture.report.terminal import print_lines
from capture.settings.options import ALLOW_HOST, FORCE_APPLY
from capture.settings.settings import Settings, with_flags


@command(
    """
    capture apply --netns /run/netns/pod
    capture apply --pid 4711 -p 15001 -z 15006 -u 1337 -x 10.96.0.0/12
    capture apply --backend nftables --profile current --redirect-dns --capture-all-dns
    capture apply --recorded --pid 4711    # what was applied there last, where rules were lost
    capture apply --recorded --pid 4711 -x 10.96.0.0/12    # the same, with this setting changed
    """,
    *capture_options(ALLOW_HOST, FORCE_APPLY),
    click.Option(
        ["--recorded"],
        is_flag=True,
        help="Apply the recorded settings of the namespace again, with their backend and driver; options change them.",
    ),
    *namespace_options(),
    format_option("text", "json"),
)
@click.pass_context
def apply(ctx: click.Context, namespace: str | None, form: str, *, recorded: bool) -> int:
    """Write the rules that the options give into a network namespace.

    Equal rules are left as they are. Other rules of the capture are replaced, with no moment in which a new
    connection is uncaptured. Foreign rules stay. An option that is left out has its default, whatever was applied
    before. With --recorded, one that is left out has its recorded value, and the environment does not count. An
    option that takes a list replaces the recorded list.
    """
    settings = with_flags(Settings({}), flags_of(ctx)).checked() if recorded else settings_of(ctx)
    applied = operations.apply(settings, namespace, recorded=recorded, force=settings[FORCE_APPLY])
    lost = () if recorded else with_target(replaced_by_defaults(applied), namespace)
    return print_applied(applied.replace(warnings=(*applied.warnings, *lost)), form)


def print_applied(applied: operations.Applied, form: str) -> int:
    """Print what was applied, and warnings on stderr; return the exit code."""
    warn(applied.warnings)
    if form == "json":
        print_json(applied_as_plain(applied))
    else:
        print_lines([applied_text(applied), start_line(applied.settings, applied.config), *applied.notes])
    return EXIT_DONE
