"""``capture dump``."""

from __future__ import annotations

import click

from capture import operations
from capture.backends.nf_tables.names import REJECT_TABLE
from capture.cli.options import command, format_option, namespace_options, part_options, print_how_to_apply
from capture.model.addresses import IPV4, Family
from capture.model.conventions import NOTHING_APPLIED
from capture.model.ruleset import TableName
from capture.report import listings
from capture.report.output import VerdictLine, print_json, print_on_stderr, warn
from capture.report.terminal import columns, print_lines

NOTHING_IN_PART = "the capture has no rules in this part; without --family and --table all of it is shown"

REJECTS_IPV6 = "refuses TCP (--other-family reject)"


@command(
    """
    capture dump --netns /run/netns/pod
    capture dump --pid 4711 --family ipv4 --table nat
    capture dump --format json | jq '.tables[].chains[].rules[] | select(.packets > 0)'
    capture dump --format save
    """,
    *namespace_options(),
    *part_options(),
    format_option("table", "json", "save", "nft"),
)
def dump(namespace: str | None, family: Family | None, table_name: TableName | None, form: str) -> None:
    """Show the live rules of a network namespace, with counters, from whichever backend holds them.

    Tables with rules of the capture are shown whole, with the foreign rules in them. With --family and
    --table it is exactly the listing that iptables -t TABLE -nvL gives. In a namespace with a record, the
    last line says whether the rules match the applied configuration.
    """
    dumped = operations.dump(namespace)
    warn(filter(None, [dumped.record_fault]))
    shown = list(listings.shown_tables(dumped, family, table_name))
    is_whole = family is None and table_name is None
    refusal = REJECTS_IPV6 if dumped.rejects_ipv6 else dumped.reject_fault
    is_refusal_shown = refusal and family != IPV4 and table_name is None and form != "json"
    if not shown and not is_refusal_shown and form != "json":
        is_applied = any(listings.shown_tables(dumped))
        print_on_stderr(VerdictLine(NOTHING_IN_PART if is_applied else NOTHING_APPLIED))
        if not is_applied:
            print_how_to_apply(namespace, is_recorded=dumped.verified is not None)
    if is_refusal_shown:
        click.echo(f"# nftables, IPv6, table inet {REJECT_TABLE}: {refusal}")
    if form == "json":
        print_json(listings.as_json(dumped, shown))
    elif form == "save":
        click.echo(listings.iptables_save_text(shown), nl=False)
    elif form == "nft":
        click.echo(listings.nft_script(shown), nl=False)
    else:
        print_lines(listings.listing_lines(shown, dumped.verified, is_whole=is_whole and bool(shown), width=columns()))
