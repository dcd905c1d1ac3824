"""Draw docs/demo.svg: what `make demo` prints on a terminal. Run it as root after `make demo`."""

from __future__ import annotations

import html
import os
import pty
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "demo.svg"
COLUMNS = 118
CHARACTER, LINE, MARGIN = 7.2, 17, 18
"""Width and height of a character at 12 pixels, and the space around the text."""

FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
STYLES = {"31": 'fill="#ff7b72"', "32": 'fill="#7ee787"', "1": 'fill="#ffffff" font-weight="bold"'}
ESCAPE = re.compile(r"\x1b\[(\d*)m")


def main() -> int:
    """Run the demo and draw what it prints."""
    PICTURE.write_text(drawn(["# make demo", *run_demo().splitlines()]), encoding="utf-8")
    return 0


def run_demo() -> str:
    """Run the demo on a terminal of its own; return what it wrote, colours included. Raises CalledProcessError."""
    terminal, demo_side = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "TERM": "xterm"}
    environ.pop("NO_COLOR", None)
    command = [sys.executable, str(ROOT / "scripts" / "demo.py")]
    process = subprocess.Popen(command, stdout=demo_side, env=environ)
    os.close(demo_side)
    written = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side is closed (pty(7))
            break
        written += piece
    os.close(terminal)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command, written.decode())
    return written.decode().replace("\r\n", "\n")


def drawn(lines: list[str]) -> str:
    """Return a picture of a terminal with these lines; those that are too long go on in the next, indented."""
    rows = [row for line in lines for row in _folded(line)]
    width, height = round(COLUMNS * CHARACTER + 2 * MARGIN), len(rows) * LINE + 2 * MARGIN
    size = f'width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size}>',
            "<title>make demo</title>",
            # The line around it shows where the picture ends on a page that is as dark.
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="#0d1117" stroke="#6e7681"/>',
            f'<g font-family="{FONTS}" font-size="12" fill="#e6edf3" xml:space="preserve">',
            *(_text(row, MARGIN + LINE * place - 4) for place, row in enumerate(rows, 1) if row),
            "</g>",
            "</svg>",
            "",
        ]
    )


def _text(row: str, height: int) -> str:
    """Return a row as an element that is as wide as its characters, whichever font the reader has."""
    shown = ESCAPE.sub("", row)
    indent = len(shown) - len(shown.lstrip())
    left, width = MARGIN + indent * CHARACTER, len(shown.strip()) * CHARACTER
    size = f'textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text x="{left:.1f}" y="{height}" {size}>{_coloured(row.strip())}</text>'


def _folded(line: str) -> list[str]:
    if len(ESCAPE.sub("", line)) <= COLUMNS:
        return [line]
    return textwrap.wrap(
        line, COLUMNS, subsequent_indent="    ", break_on_hyphens=False, drop_whitespace=True, replace_whitespace=False
    )


def _coloured(row: str) -> str:
    """Return a row with its escape sequences as elements of SVG."""
    drawn_row, is_open = "", False
    for place, piece in enumerate(ESCAPE.split(row)):
        if place % 2 == 0:
            drawn_row += html.escape(piece, quote=False).replace(" ", "\u00a0")
            continue
        if is_open:
            drawn_row += "</tspan>"
        is_open = piece in STYLES
        drawn_row += f"<tspan {STYLES[piece]}>" if is_open else ""
    return drawn_row + ("</tspan>" if is_open else "")


if __name__ == "__main__":
    sys.exit(main())
