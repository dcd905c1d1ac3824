"""What a person sees: colours and folds on a terminal, plain lines in a pipe."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from capture.report import terminal
from capture.report.output import DECIDES_MARK, VerdictLine
from capture.report.terminal import COLOUR_OF
from support.processes.on_terminal import on_terminal

LINES = (
    VerdictLine("drift: 2 differences from the applied configuration"),
    "     nat OUTPUT 1: -p tcp -j ISTIO-OUTPUT",
    VerdictLine(
        "  => nat ISTIO-REDIRECT 1: -p tcp -j REDIRECT --to-ports 15001   # outbound: to the proxy", DECIDES_MARK
    ),
    VerdictLine("proxy-outbound: it goes to the proxy"),
    VerdictLine("  error   filtered: a comment with \033[2J in it", "error"),
    "drift: a foreign text is no verdict",
    VerdictLine("but the interface lo is down", "but"),
)
ROOT = Path(__file__).parents[3]
CODE = f"""
from capture.report.output import VerdictLine, run_to_exit_code
from capture.report.terminal import print_lines
LINES = {[(line, getattr(line, "verdict", None)) for line in LINES]!r}
run_to_exit_code(lambda: print_lines(VerdictLine(*each) if each[1] else each[0] for each in LINES) or 0)
"""
PROGRAM = [sys.executable, "-c", CODE]
PACKAGES = [path for name in ("capture", "cni", "injection") for path in (ROOT / name).rglob("*.py")]
RED, GREEN, BOLD, END = "\033[31m", "\033[32m", "\033[1m", "\033[0m"


@functools.cache
def texts() -> set[str]:
    """Return the texts in the code, but for those of the module that is tested."""
    return {
        node.value
        for path in PACKAGES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and path != Path(terminal.__file__)
    }


def test_on_a_terminal_verdicts_and_the_deciding_rule_are_in_colour() -> None:
    text, _ = on_terminal(PROGRAM, 80)

    assert text.splitlines() == [
        f"{RED}drift{END}: 2 differences from the applied configuration",
        LINES[1],
        f"  {BOLD}=> nat ISTIO-REDIRECT 1: -p tcp -j REDIRECT --to-ports 15001   # outbound: to{END}",
        f"{BOLD}       the proxy{END}",
        f"{GREEN}proxy-outbound{END}: it goes to the proxy",
        f"  {RED}error{END}   filtered: a comment with \\x1b[2J in it",
        LINES[5],
        f"{RED}but{END} the interface lo is down",
    ]


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_lines_are_folded_all_the_same(environment: dict[str, str]) -> None:
    text, _ = on_terminal(PROGRAM, 60, **environment)

    assert "\033" not in text
    assert all(len(line) <= 60 for line in text.splitlines())


def test_columns_beats_the_width_of_the_terminal() -> None:
    text, _ = on_terminal(PROGRAM, 80, COLUMNS="120")

    assert len(re.sub(r"\033\[\d*m", "", text).splitlines()) == len(LINES)


def test_in_a_pipe_lines_are_whole_and_plain() -> None:
    done = subprocess.run(PROGRAM, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [line.replace("\033", "\\x1b") for line in LINES]


SLOW = """
import signal, sys, time
from capture.report import progress
from capture.report.output import run_to_exit_code
from capture.cli.group import run_with_progress
import click
progress.PERIOD = 0.05

@click.command()
def slow():
    time.sleep(0.3)
    print("done")
    time.sleep(0.2)

sys.exit(run_to_exit_code(lambda: run_with_progress(slow, [], "capture slow")))
"""


def test_a_slow_step_shows_progress_until_something_is_printed() -> None:
    text, code = on_terminal([sys.executable, "-c", SLOW], 80)

    shown, end, rest = text.partition("\r\033[Kdone\n")
    assert re.fullmatch(r"(\rcapture slow {2}... \d s\033\[K)+", shown)
    assert (end, rest, code) == ("\r\033[Kdone\n", "", 0)


def test_a_pipe_gets_no_progress() -> None:
    done = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize("verdict", COLOUR_OF)
def test_each_verdict_in_colour_is_that_of_a_line(verdict: str) -> None:
    assert any(re.match(rf"{re.escape(verdict)}([:, ]|$)", text) for text in texts())
