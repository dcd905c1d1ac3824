"""``capture trace``."""

from __future__ import annotations

from typing import Any

import click

from capture import operations
from capture.cli import options
from capture.cli.packets import packet_from, packet_options
from capture.model.addresses import Family, Network
from capture.model.ruleset import TableName
from capture.report.applied_text import print_start_line
from capture.report.output import print_json
from capture.report.target import with_target
from capture.report.terminal import print_lines
from capture.report.trace_text import trace_as_plain, trace_lines


@options.command(
    """
    capture trace tcp 10.1.2.3:80 --uid 1000
    capture trace tcp 10.1.2.3:80 --uid 1337 --pid 4711
    capture trace tcp 10.77.0.2:8080 --in eth0 --netns /run/netns/pod
    capture trace udp [fd00::10]:53 --from-options --redirect-dns --capture-all-dns
    """,
    *packet_options(),
    click.Option(
        ["--from-options"], is_flag=True, help="Use the rules that the options would give, not the live ones."
    ),
    *options.capture_options(),
    *options.namespace_options(),
    *options.part_options(),
    options.dns_servers_option(),
    options.format_option("table", "json"),
)
@click.pass_context
def trace(
    ctx: click.Context,
    /,
    namespace: str | None,
    form: str,
    dns_servers: tuple[Network, ...],
    family: Family | None,
    table_name: TableName | None,
    *,
    from_options: bool,
    **described: Any,
) -> None:
    """Print what happens to a packet, and which rule decides.

    PROTOCOL is tcp or udp. A packet with --in comes into the pod; any other is sent by a process in it, to where its
    routes lead. With --table, the rules of that table alone are shown; the packet meets all.
    """
    packet = packet_from(described, ctx)
    if family not in (None, packet.family):
        raise click.UsageError(f"the packet's destination is of family {packet.family}, not {family}", ctx)
    settings = options.settings_if(ctx, requested=from_options)
    host = operations.host_of(namespace, dns_servers)
    traced = operations.trace(packet, settings, namespace, host)
    print_start_line(operations.read_reference(settings, namespace, host), form)
    if form == "json":
        print_json(with_target(trace_as_plain(traced, table_name), namespace))
    else:
        print_lines(trace_lines(traced, table_name), namespace=namespace)
