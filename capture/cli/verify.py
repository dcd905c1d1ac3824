"""``capture verify``."""

from __future__ import annotations

import click

from capture import operations
from capture.cli.options import (
    capture_options,
    command,
    dns_servers_option,
    explicit,
    flags,
    format_option,
    namespace_options,
    part_options,
    warn_of_host,
)
from capture.cli.values import Kind
from capture.errors import EXIT_DONE, EXIT_DRIFT, EXIT_UNKNOWN
from capture.model.routing import LoopbackAddress
from capture.report.applied_text import print_start_line
from capture.report.difference_text import (
    differences_as_plain,
    doubt_lines,
    note_lines,
    reference_text,
    verified_lines,
)
from capture.report.output import print_json
from capture.report.terminal import print_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.analysis.cause_text import Cause
    from capture.analysis.judgement import Obstacle
    from capture.model.addresses import Family, Network
    from capture.model.routing import MissingRoute
    from capture.model.ruleset import TableName
    from capture.operations import Verified


@command(
    """
    capture verify --netns /run/netns/pod
    capture verify --pid 4711 -p 15001 -z 15006 -x 10.96.0.0/12
    capture verify --format json | jq -r '.differences[].message'
    """,
    *capture_options(),
    *namespace_options(),
    *part_options(),
    click.Option(
        ["--proxy-admin"],
        type=Kind(str, "an http URL, such as http://127.0.0.1:15000", lambda url: url.startswith("http://")),
        metavar="URL",
        help="Compare Envoy's listeners with the capture, too: its admin interface, http://127.0.0.1:15000.",
    ),
    dns_servers_option(),
    format_option("table", "json"),
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

    Without options of the capture: with what was applied there, if that is recorded. In our own chains every rule
    counts, in order, in each family; counters do not. A foreign rule is a difference exactly if some packet of a
    captured connection takes another way because of it. With --family and --table, only what differs there counts.
    """
    settings = explicit(ctx)
    host = operations.host_of(namespace, dns_servers)
    prefer_recorded = not flags(ctx)
    verified = operations.verify(settings, namespace, host, prefer_recorded=prefer_recorded)
    verified = part_of(verified, family, table_name)
    causes: Sequence[Cause] = ()
    if proxy_admin:
        from capture.operations.diagnosis import check_proxy  # not where milliseconds count

        causes = check_proxy(proxy_admin, settings if flags(ctx) else None, namespace)
    print_start_line(operations.reference(settings, namespace, host, prefer_recorded=prefer_recorded), form)
    if form == "json":
        print_json(verified_as_plain(verified, causes))
    else:
        print_lines(verdict_lines(verified, causes))
        if verified.is_nothing_applied:
            warn_of_host(namespace)
    if causes or verified.conclusion in ("drift", "nothing applied"):
        return EXIT_DRIFT
    return EXIT_DONE if verified.is_certain else EXIT_UNKNOWN


def verdict_lines(verified: Verified, causes: Sequence[Cause]) -> Iterator[str]:
    """Yield the lines for a person."""
    yield from verified_lines(verified)
    if causes:
        from capture.report.diagnosis_text import cause_lines

        yield from cause_lines(causes)


def verified_as_plain(verified: Verified, causes: Sequence[Cause]) -> dict[str, object]:
    """Return what verify found, for JSON."""
    from capture.operations.inference import inferred_flags
    from capture.report.diagnosis_text import cause_as_plain

    return {
        "as_asked": verified.conclusion not in ("drift", "nothing applied"),
        "certain": verified.is_certain,
        "compared_with": reference_text(verified),
        "differences": differences_as_plain(verified),
        "not_judged": list(doubt_lines(verified)),
        "notes": list(note_lines(verified)),
        "live_settings": None if verified.has_reference else inferred_flags(verified.desired),
        "proxy": [cause_as_plain(cause) for cause in causes],
    }


def part_of(verified: Verified, family: Family | None, table_name: TableName | None) -> Verified:
    """Return what of a comparison is about a family and a table; foreign tables are about none of our own."""
    if family is None and table_name is None:
        return verified
    from capture.analysis.compare import Difference

    def concerns(families: tuple[Family | None, ...], table: TableName | None = None) -> bool:
        return table_name in (None, table) and (family is None or family in families)

    def is_part(found: Difference | Obstacle) -> bool:
        if isinstance(found, Difference):
            return concerns((found.family,), found.table)
        return concerns(found.foreign_chain.families)

    return verified.replace(
        differences=tuple(filter(is_part, verified.differences)),
        harmless_differences=tuple(filter(is_part, verified.harmless_differences)),
        missing=tuple(need for need in verified.missing if concerns((_family_of(need),))),
        impediments=tuple(found for found in verified.impediments if concerns((found.family or family,))),
        others=(),
        obstacles=tuple(filter(is_part, verified.obstacles)),
        uncaptured=verified.uncaptured if concerns(("ipv6",)) else (),
        harmless_obstacles=tuple(filter(is_part, verified.harmless_obstacles)),
        unjudged=tuple(filter(is_part, verified.unjudged)),
    )


def _family_of(need: LoopbackAddress | MissingRoute) -> Family:
    return need.network.family if isinstance(need, LoopbackAddress) else need.family
