"""``capture verify``."""

from __future__ import annotations

import click

from capture import operations
from capture.cli.options import (
    CaptureCommand,
    capture_options,
    explicit,
    flags,
    format_option,
    namespace_options,
    part_options,
)
from capture.cli.why import cause_as_plain, causes_in_words
from capture.errors import EXIT_DONE, EXIT_DRIFT
from capture.model.ruleset import LoopbackAddress
from capture.operations.diagnosis import check_proxy
from capture.report.differences import as_plain, in_words, notes_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.compare import Difference
    from capture.analysis.findings import Obstacle
    from capture.model.addresses import Family
    from capture.model.ruleset import PolicyRoute, TableName
    from capture.operations import Verified
    from capture.state.impediments import Impediment

EXAMPLES = """
capture verify --netns /run/netns/pod
capture verify --pid 4711 -p 15001 -z 15006 -x 10.96.0.0/12
capture verify --format json | jq -r '.differences[].message'
"""


@click.command(
    cls=CaptureCommand,
    params=[
        *capture_options(),
        *namespace_options(),
        *part_options(),
        click.Option(
            ["--proxy-admin"],
            metavar="URL",
            help="Compare Envoy's listeners with the capture, too: its admin interface, http://127.0.0.1:15000.",
        ),
        format_option("table", "json"),
    ],
    examples=EXAMPLES,
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
) -> int:
    """Compare the live rules with what the options ask for; exit code 4 if they differ.

    Without options of the capture: with what was applied there, if that is known. Order counts, and so does each
    family; counters do not. A rule of somebody else that takes traffic away before it reaches ours, or changes a
    mark by which ours tell packets apart, is a difference. With --family and --table, only what differs there counts.
    """
    settings = explicit(ctx)
    verified = part_of(operations.verify(settings, namespace, prefer_recorded=not flags(ctx)), family, table_name)
    causes = check_proxy(proxy_admin, settings if flags(ctx) else None, namespace) if proxy_admin else ()
    asked = "was applied here" if verified.from_record else "the options ask for"
    if form == "json":
        import json  # 7 ms, for this format only

        plain = {"as_asked": verified.holds, "compared_with": asked, "differences": as_plain(verified)}
        plain["notes"] = list(notes_in_words(verified))
        plain["proxy"] = [cause_as_plain(cause) for cause in causes]
        click.echo(json.dumps(plain, indent=1))
    elif verified.holds:
        click.echo(f"as asked: the live rules are what {asked}")
    else:
        found = list(in_words(verified))
        click.echo(f"{len(found)} difference{'s' if len(found) > 1 else ''} from what {asked}:")
        for sentence in found:
            click.echo(f"  {sentence}")
    if form == "table":
        for sentence in notes_in_words(verified):
            click.echo(f"note: {sentence}")
        for line in causes_in_words(causes):
            click.echo(line)
    return EXIT_DONE if verified.holds and not causes else EXIT_DRIFT


def part_of(verified: Verified, family: Family | None, table_name: TableName | None) -> Verified:
    """Return what of a comparison is about a family and a table; what stands beside the tables is about no table."""
    return verified.replace(
        differences=tuple(found for found in verified.differences if _is_in(found, family, table_name)),
        notes=tuple(found for found in verified.notes if _is_in(found, family, table_name)),
        missing=tuple(need for need in verified.missing if family in (None, _family_of(need)) and table_name is None),
        impediments=tuple(found for found in verified.impediments if _concerns(found, family, table_name)),
        others=verified.others if family is None and table_name is None else (),
        obstacles=tuple(found for found in verified.obstacles if _is_beside(found, family, table_name)),
        uncaptured=verified.uncaptured if table_name is None and family in (None, "ipv6") else (),
        harmless=tuple(found for found in verified.harmless if _is_beside(found, family, table_name)),
    )


def _is_in(found: Difference, family: Family | None, table_name: TableName | None) -> bool:
    return family in (None, found.family) and table_name in (None, found.table)


def _is_beside(found: Obstacle, family: Family | None, table_name: TableName | None) -> bool:
    return table_name is None and (family is None or family in found.foreign_chain.families)


def _concerns(found: Impediment, family: Family | None, table_name: TableName | None) -> bool:
    return table_name is None and (family is None or found.family in (None, family))


def _family_of(need: LoopbackAddress | PolicyRoute) -> Family:
    return need.network.family if isinstance(need, LoopbackAddress) else need.family
