"""``capture explain``."""

from __future__ import annotations

import click

from capture import operations
from capture.analysis.policy import explain as statements_of
from capture.cli.options import CaptureCommand, capture_options, explicit, format_option, namespace_options
from capture.model.ruleset import FAMILIES
from capture.settings.families import FAMILY_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.policy import Statement
    from capture.model.addresses import Family

EXAMPLES = """
capture explain --pid 4711
capture explain --from-options -p 15001 -z 15006 -u 1337 -x 10.96.0.1/32
"""

HEADINGS = ("", "traffic", "goes", "because")


@click.command(
    cls=CaptureCommand,
    params=[
        click.Option(
            ["--from-options"], is_flag=True, help="Explain the rules that the options would give, not the live ones."
        ),
        click.Option(["--family"], type=click.Choice(FAMILIES), help="Show this family only."),
        *capture_options(),
        *namespace_options(),
        format_option("table", "json"),
    ],
    examples=EXAMPLES,
)
@click.pass_context
def explain(ctx: click.Context, namespace: str | None, form: str, family: Family | None, *, from_options: bool) -> None:
    """Print the whole policy in words: what is captured, what is not, and why.

    The first line that fits a connection is the one that counts.
    """
    ruleset = operations.policy(explicit(ctx) if from_options else None, namespace)
    families = (family,) if family else ruleset.families
    policies = {each: statements_of(ruleset, each) for each in families}
    if form == "json":
        import json  # 7 ms, for this format only

        click.echo(json.dumps({each: [_as_plain(s) for s in policy] for each, policy in policies.items()}, indent=1))
        return
    for each, policy in policies.items():
        click.echo(FAMILY_NAMES[each])
        for line in aligned([HEADINGS, *((s.direction, s.traffic, s.outcome, s.why) for s in policy)]):
            click.echo(f"  {line}")


def _as_plain(statement: Statement) -> dict[str, str]:
    return {
        "direction": statement.direction,
        "traffic": statement.traffic,
        "outcome": statement.outcome,
        "why": statement.why,
    }


def aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield the rows as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
