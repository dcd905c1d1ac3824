"""``capture explain``."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from capture import operations
from capture.analysis.explanation import Statement, statements_about
from capture.backends.iptables.render import shown_rule
from capture.cli.options import capture_options, command, family_option, format_option, namespace_options, settings_if
from capture.model.addresses import FAMILIES, FAMILY_NAMES, LOOPBACK_ADDRESSES, Family
from capture.model.conventions import NOTHING_APPLIED, PASSTHROUGH_SOURCE
from capture.model.ruleset import Ruleset
from capture.model.text import plural
from capture.report.applied_text import print_start_line
from capture.report.fold import folded_table
from capture.report.output import VerdictLine, print_json
from capture.report.packet_text import fate_as_plain, fate_text
from capture.report.target import with_target
from capture.report.terminal import columns, print_lines
from capture.settings.families import global_addresses

HEADINGS = ("direction", "traffic", "goes", "because", "families")


@command(
    """
    capture explain --pid 4711
    capture explain --from-options -p 15001 -z 15006 -u 1337 -x 10.96.0.1/32
    """,
    click.Option(
        ["--from-options"], is_flag=True, help="Explain the rules that the options would give, not the live ones."
    ),
    family_option(),
    click.Option(["--all", "is_whole"], is_flag=True, help="Show the proxy's own connections and those over lo, too."),
    *capture_options(),
    *namespace_options(),
    format_option("table", "json"),
)
@click.pass_context
def explain(
    ctx: click.Context, namespace: str | None, form: str, family: Family | None, *, from_options: bool, is_whole: bool
) -> None:
    """Print which connections are captured, which are not, and why.

    Each line is a set of connections; no two overlap. The proxy's own connections and those over lo are left out where
    they fare as in every capture; --all shows them. All tables count, foreign ones and second captures too.
    """
    settings = settings_if(ctx, requested=from_options)
    situation = operations.situation_of(settings, namespace)
    of_pod = [address.family for address in global_addresses(() if settings else situation.network.local or ())]
    of_pod += FAMILIES if any(each.is_own for each in situation.other_chains) else ()  # one of them is rejected
    families = (family,) if family else [each for each in FAMILIES if each in (*situation.ruleset.families, *of_pod)]
    without = situation.replace(ruleset=Ruleset(FAMILIES, ()))  # the rules are for captured families alone
    by_family = {each: situation if each in situation.ruleset.families else without for each in families}
    statements = statements_about(by_family, shown_rule)
    impediments = () if settings else with_target(operations.impediments_of(situation, namespace), namespace)
    print_start_line(operations.read_reference(settings, namespace), form)
    if form == "json":
        plain: dict[str, object] = {
            family: [_statement_as_plain(each) for each in statements if family in each.families] for family in families
        }
        print_json(plain | {"impediments": list(impediments)})
        return
    if not situation.has_capture:
        print_lines([VerdictLine(NOTHING_APPLIED)])
    rows = table_rows(each for each in statements if is_whole or not each.is_routine)
    routine = table_rows(each for each in statements if each.is_routine and not is_whole)
    rest = [f"{plural(len(routine), 'more line')}, of the proxy's own connections and those over lo, with --all"]
    lines = folded_table([HEADINGS, *rows], columns())
    print_lines([*lines, *(rest if routine else ()), *(VerdictLine(f"but {each}", "but") for each in impediments)])


def table_rows(statements: Iterable[Statement]) -> list[tuple[str, ...]]:
    """Return a row for each statement, one for those of two families that differ in the pod's own addresses on lo."""
    alike: dict[tuple[object, ...], list[Statement]] = {}
    for statement in statements:
        key = (statement.direction, _with_both_families(statement.traffic), statement.fate, statement.why)
        alike.setdefault(key, []).append(statement)
    rows: list[tuple[str, ...]] = []
    for (_, of_both, *_), (first, *others) in alike.items():
        goes = fate_text(first.fate.replace(is_marked=False)) if first.fate else "cannot be judged"
        families = ", ".join(FAMILY_NAMES[family] for each in (first, *others) for family in each.families)
        rows.append((first.direction, str(of_both) if others else first.traffic, goes, first.why, families))
    return rows


def _with_both_families(traffic: str) -> str:
    """Return traffic in words with the addresses of both families where it has the loopback address, or the proxy's."""
    for addresses in (LOOPBACK_ADDRESSES, PASSTHROUGH_SOURCE):
        ipv4, ipv6 = (addresses[family].shown for family in FAMILIES)
        traffic = re.sub(rf" ({re.escape(ipv4)}|{ipv6})(?![\w.:/])", f" {ipv4} or {ipv6}", traffic)
    return traffic


def _statement_as_plain(statement: Statement) -> dict[str, object]:
    fate = fate_as_plain(statement.fate)
    return {"direction": statement.direction, "traffic": statement.traffic, **fate, "why": statement.why}
