"""``capture why``."""

from __future__ import annotations

from typing import Any

import click

from capture import operations
from capture.cli.options import capture_options, command, flags_of, format_option, namespace_options, settings_of
from capture.cli.packets import PROCESS, packet_from, packet_options
from capture.errors import EXIT_DONE, EXIT_DRIFT, EXIT_UNKNOWN
from capture.report.applied_text import print_start_line
from capture.report.diagnosis_text import diagnosis_as_plain, diagnosis_lines
from capture.report.output import print_json
from capture.report.target import with_target
from capture.report.terminal import print_lines


def _parameters() -> list[click.Parameter]:
    """Return the packet's options, with a protocol and a destination that may both be left out, and the rest."""
    parameters = packet_options()
    protocol, destination = parameters[:2]
    protocol.required = destination.required = False
    protocol.metavar, destination.metavar = f"[{protocol.metavar}", f"{destination.metavar}]"
    return [*parameters, *capture_options(), *namespace_options(), format_option("table", "json")]


@command(
    """
    capture why tcp 203.0.113.9:80 --uid 1000            # a connection that the pod's application opens
    capture why tcp 10.0.0.5:8080 --in eth0 --pid 4711   # one that comes in
    capture why --netns /run/netns/pod                   # everything that is wrong with this pod
    capture why --format json | jq -r '.causes[].kind'
    """,
    *_parameters(),
)
@click.pass_context
def why(ctx: click.Context, /, namespace: str | None, form: str, **options: Any) -> int:
    """Print whether a connection reaches a proxy that listens, and if not, why and what to do.

    PROTOCOL is tcp or udp. Without a connection: everything that is wrong with this pod. Exit code 0 if the connection
    is captured and the proxy listens, 4 if a cause was found, 5 if it is unknown.
    """
    is_partial = (options["protocol"] is None) != (options["destination"] is None)
    if is_partial:
        raise click.UsageError("name a protocol and a destination, such as tcp 203.0.113.9:80, or neither", ctx)
    packet = packet_from(options, ctx) if options["protocol"] else None
    settings = settings_of(ctx) if flags_of(ctx) else None
    diagnosed = operations.why(packet, settings, namespace, process=ctx.meta.get(PROCESS))
    print_start_line(operations.read_reference(settings, namespace, operations.host_of(namespace)), form)
    return print_diagnosis(diagnosed.with_commands(lambda remedy: with_target(remedy, namespace)), form)


def print_diagnosis(diagnosed: operations.Diagnosis, form: str, captured: str = "this pod") -> int:
    """Print what was found about what is captured; return the exit code."""
    if form == "json":
        print_json(diagnosis_as_plain(diagnosed))
    else:
        print_lines(diagnosis_lines(diagnosed, captured))
    if diagnosed.causes:
        return EXIT_DRIFT
    return EXIT_DONE if diagnosed.is_certain else EXIT_UNKNOWN
