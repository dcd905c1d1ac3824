"""``capture clean``."""

from __future__ import annotations

import click

from capture import operations
from capture.cli.options import command, format_option, namespace_options
from capture.report.output import print_json, warn
from capture.report.terminal import print_lines


@command(
    """
    capture clean --netns /run/netns/pod
    capture clean --pid 4711
    """,
    *namespace_options(),
    click.Option(["--allow-host"], is_flag=True, help="Clean the host's own network namespace."),
    format_option("text", "json"),
)
def clean(namespace: str | None, form: str, *, allow_host: bool) -> int:
    """Remove the capture from a network namespace.

    It removes the rules, in every backend and spelling, also those of older versions and of Istio's own program; the
    address on lo; and the routes of TPROXY. No option is needed to find them. Foreign rules stay.

    Connections that pass the proxy end with the rules; a warning counts them.
    """
    return clean_namespace(namespace, form, allow_host=allow_host)


def clean_namespace(namespace: str | None, form: str, *, allow_host: bool) -> int:
    """Remove the capture, and print what that did; return the exit code."""
    warnings = operations.cut_by_cleaning(namespace)
    warn(warnings)

    def add(warning: str) -> None:
        warnings.append(warning)
        warn([warning])

    removed = operations.clean(namespace, allow_host=allow_host, warn=add)
    if form == "json":
        print_json({"removed": removed, "warnings": warnings})
    else:
        print_lines(["removed: nothing is captured any more" if removed else "nothing to remove"])
    return 0
