"""``capture watch``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

import click

from capture import operations
from capture.analysis.flow import PathTree, path_trees, with_rates
from capture.backends.iptables.render import shown_rule
from capture.cli.options import command, family_option, format_option, namespace_options
from capture.cli.parameter_types import number_type
from capture.model.addresses import FAMILIES, Family
from capture.model.conventions import NOTHING_APPLIED
from capture.model.text import printable
from capture.model.values import Value
from capture.report import flow_text
from capture.report.flow_svg import svg_picture
from capture.report.output import painted, print_json
from capture.report.streams import COLOUR
from capture.report.terminal import columns, rows

HOME, CLEAR_LINE, CLEAR_BELOW = "H", "K", "J"
"""Control sequences of ECMA-48 (CUP, EL, ED), without their introducer."""


class FlowSnapshot(Value):
    """The paths at one moment."""

    flows: tuple[PathTree, ...]
    moment: float
    """Of the monotonic clock, in seconds."""
    is_captured: bool


@command(
    """
    capture watch --netns pod
    capture watch --pid 4711 --interval 5
    capture watch --pid 4711 --once
    capture watch --pid 4711 --once --format svg > path.svg
    """,
    *namespace_options(),
    family_option(),
    click.Option(
        ["--interval"],
        type=number_type(0.1, kind=float),
        default=1.0,
        show_default=True,
        metavar="SECONDS",
        help="Time between two updates.",
    ),
    click.Option(["--once"], is_flag=True, help="Print one update, after an interval, and exit."),
    format_option("table", "json", "svg"),
)
def watch(namespace: str | None, family: Family | None, interval: float, form: str, *, once: bool) -> None:
    """Draw the way of packets through the rules, with live counters and rates.

    Each line is an edge: a rule, or several with one target and one reason. Foreign rules are where packets meet them.
    Ctrl-C ends it; the terminal stays as it is. Nothing is changed.
    """
    families = (family,) if family else FAMILIES
    if form != "table" and not once:
        raise click.UsageError(f"--format {form} needs --once")
    before = take_snapshot(namespace, families)
    if not once:
        _follow_counters(namespace, families, interval, before)
    time.sleep(interval)
    now = take_snapshot(namespace, families)
    shown = with_rates(now.flows, before.flows, now.moment - before.moment)
    if form == "json":
        print_json({"captured": now.is_captured, "interval": interval, "paths": flow_text.flows_as_plain(shown)})
    elif form == "svg":
        click.echo(svg_picture(shown, _title_line(namespace, now)), nl=False)
    else:
        _print([(_title_line(namespace, now), ""), ("", ""), *_screen_lines(shown, families, columns())])


def take_snapshot(namespace: str | None, families: Sequence[Family]) -> FlowSnapshot:
    """Return the paths as they are now. Raises CaptureError."""
    situation = operations.situation_of(None, namespace)
    return FlowSnapshot(path_trees(situation, families, shown_rule), time.monotonic(), bool(situation.ruleset.tables))


def _follow_counters(namespace: str | None, families: Sequence[Family], interval: float, before: FlowSnapshot) -> None:
    """Draw again and again, until a signal ends the program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})  # sigtimedwait takes it: a resize draws at once
    screen, now, shown = Screen(), before, before.flows
    while True:
        screen.draw([(_title_line(namespace, now), ""), ("", ""), *_screen_lines(shown, families, columns())])
        if signal.sigtimedwait({signal.SIGWINCH}, max(0, now.moment + interval - time.monotonic())) is None:
            now, before = take_snapshot(namespace, families), now
            shown = with_rates(now.flows, before.flows, now.moment - before.moment)


def _title_line(namespace: str | None, now: FlowSnapshot) -> str:
    time_text = time.strftime("%H:%M:%S")
    return f"{time_text} {namespace or 'this network namespace'}{'' if now.is_captured else f': {NOTHING_APPLIED}'}"


def _screen_lines(shown: Sequence[PathTree], families: Sequence[Family], width: int | None) -> list[tuple[str, str]]:
    is_ascii = "utf" not in (getattr(sys.__stdout__, "encoding", "") or "").lower()
    return [(printable(row), colour) for row, colour in flow_text.flow_lines(shown, width, families, is_ascii=is_ascii)]


def _print(lines: Sequence[tuple[str, str]]) -> None:
    for line, colour in lines:
        print(painted(line, colour, sys.stdout))


class Screen:
    """Draws on the terminal, if it is one, over what it drew before.

    It sets no mode, hides no cursor and takes no alternate screen: so there is nothing to set back, and the terminal is
    in order even after SIGKILL. What was on the screen goes up into the terminal's history.
    """

    def __init__(self) -> None:
        self._is_terminal = columns() is not None and os.environ.get("TERM") != "dumb"
        if self._is_terminal:
            sys.stdout.write("\n" * (rows() - 1))

    def draw(self, lines: Sequence[tuple[str, str]]) -> None:
        """Draw the lines; where the terminal has too few rows, the last ones are counted instead."""
        if not self._is_terminal:
            _print([*lines, ("", "")])
            sys.stdout.flush()
            return
        room = rows() - 1
        if len(lines) > room:
            lines = [*lines[: room - 1], (f"... {len(lines) - room + 1} more lines: a taller terminal shows them", "")]
        body = "".join(f"{painted(line, colour, sys.stdout)}{COLOUR}{CLEAR_LINE}\n" for line, colour in lines)
        sys.stdout.write(f"{COLOUR}{HOME}{body}{COLOUR}{CLEAR_BELOW}")
        sys.stdout.flush()
