"""``capture verify``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from capture import operations
from capture.cli import options
from capture.cli.parameter_types import ParameterType
from capture.errors import EXIT_DONE, EXIT_DRIFT, EXIT_UNKNOWN
from capture.model.addresses import Family, Network
from capture.model.location import Cause
from capture.model.ruleset import TableName
from capture.report.applied_text import print_start_line
from capture.report.diagnosis_text import cause_lines
from capture.report.output import print_json
from capture.report.target import with_target
from capture.report.terminal import print_lines
from capture.report.verified_text import verified_as_plain, verified_lines
from capture.system.proxy_admin import is_url


@options.command(
    """
    capture verify --netns /run/netns/pod
    capture verify --pid 4711 -p 15001 -z 15006 -x 10.96.0.0/12
    capture verify --format json | jq -r '.differences[].message'
    """,
    *options.capture_options(),
    *options.namespace_options(),
    *options.part_options("Judge"),
    click.Option(
        ["--proxy-admin"],
        type=ParameterType(str, "an http URL, such as http://127.0.0.1:15000", is_url),
        metavar="URL",
        help="Compare Envoy's listeners with the capture, too: its admin interface, http://127.0.0.1:15000.",
    ),
    options.dns_servers_option(),
    options.format_option("table", "json"),
)
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    namespace: str | None,
    form: str,
    family: Family | None,
    table_name: TableName | None,
    proxy_admin: str | None,
    dns_servers: tuple[Network, ...],
) -> int:
    """Compare the live rules with the configuration; exit code 4 if they differ, 5 if that is unknown.

    Without capture options, the reference is what was applied there, if it is recorded. In our own chains every rule
    counts, in order, in each family; counters do not. A foreign rule is a difference exactly if some packet of a
    captured connection takes another way because of it. With --family and --table, only what differs there counts.
    """
    settings = options.settings_of(ctx)
    host = operations.host_of(namespace, dns_servers)
    prefer_recorded = not options.flags_of(ctx)
    verified = operations.verify(settings, namespace, host, prefer_recorded=prefer_recorded)
    verified = verified.part(family, table_name)
    causes: Sequence[Cause] = ()
    if proxy_admin:
        causes = operations.check_proxy(proxy_admin, None if prefer_recorded else settings, namespace)
    print_start_line(operations.read_reference(settings, namespace, host, prefer_recorded=prefer_recorded), form)
    if form == "json":
        print_json(with_target(verified_as_plain(verified, causes), namespace))
    else:
        print_lines([*verified_lines(verified), *cause_lines(causes)], namespace=namespace)
        if verified.is_nothing_applied:
            options.print_how_to_apply(namespace, is_recorded=verified.from_record)
    if causes or verified.conclusion in ("drift", "nothing applied"):
        return EXIT_DRIFT
    return EXIT_DONE if verified.is_certain else EXIT_UNKNOWN
