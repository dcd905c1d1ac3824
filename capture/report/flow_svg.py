"""The packet's path as a picture: SVG 1.1, from left to right, each edge with its counters. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from capture.analysis.flow import Edge, PathTree
from capture.model.text import printable
from capture.model.values import Value
from capture.report.flow_text import FOOTNOTE, SOURCES, count_text, rate_text

BOX_COLOURS = {
    "table": "#334155",
    "chain": "#475569",
    "proxy": "#15803d",
    "dns": "#0e7490",
    "direct": "#a16207",
    "dropped": "#b91c1c",
    "foreign": "#b91c1c",
    "goes on": "#64748b",
}
MARGIN, COLUMN_GAP, ROW_HEIGHT, BOX_HEIGHT, HEADING_HEIGHT = 20, 110, 46, 34, 34
"""Pixels: around all, between columns for an edge's label, from row to row, of a box, of a direction's name."""
CHARACTER_WIDTH = 6.7
"""Pixels of a character of the monospaced font at 11 pixels, a little more than any common one has."""
MAX_TEXT = 56
STYLE = (
    "text{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#0f172a}"
    ".to{font-weight:bold}.says,.note{fill:#475569}.count{fill:#0f172a}.heading{font-size:14px;font-weight:bold}"
    "rect{fill:#fff;stroke-width:1.5}path{fill:none}"
)


class PlacedBox(Value):
    """An edge's box in its place: the column it is in, the height of its middle, and the boxes that edges lead to."""

    edge: Edge
    column: int
    middle: float
    below: tuple[PlacedBox, ...]

    @property
    def lines(self) -> tuple[str, str]:
        """Return its two lines, the second of which may be empty."""
        return _cut_text(self.edge.to), _cut_text(self.edge.text)


def svg_picture(flows: Sequence[PathTree], title: str) -> str:
    """Return the picture of all paths."""
    top, roots = float(MARGIN + HEADING_HEIGHT), []
    for flow in flows:
        heading, source = SOURCES[flow.direction]
        top += HEADING_HEIGHT
        below, bottom = _placed_boxes(flow.tables, 1, top)
        middle = below[0].middle if below else top + ROW_HEIGHT / 2
        roots.append((heading, PlacedBox(Edge(source, "table", ""), 0, middle, below)))
        top = max(bottom, top + ROW_HEIGHT) + HEADING_HEIGHT // 2
    lefts, width = _column_positions([root for _, root in roots])
    body = [line for heading, root in roots for line in _of_root(heading, root, lefts)]
    height = top + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img">\n<title>{_xml_text(title)}</title>\n'
        f"<style>{STYLE}</style>\n"
        f'<rect width="100%" height="100%" style="stroke:none"/>\n'
        f'<text class="note" x="{MARGIN}" y="{MARGIN + 10}">{_xml_text(title)}; {FOOTNOTE}</text>\n'
    )
    return head + "\n".join(body) + "\n</svg>\n"


def _placed_boxes(edges: Iterable[Edge], column: int, top: float) -> tuple[tuple[PlacedBox, ...], float]:
    """Return the boxes below an edge, the first row at ``top``, and where the next row begins."""
    boxes = []
    for edge in edges:
        below, bottom = _placed_boxes(edge.below, column + 1, top)
        middle = sum(box.middle for box in below) / len(below) if below else top + ROW_HEIGHT / 2
        boxes.append(PlacedBox(edge, column, middle, below))
        top = bottom if below else top + ROW_HEIGHT
    return tuple(boxes), top


def _column_positions(roots: Sequence[PlacedBox]) -> tuple[list[tuple[float, float]], float]:
    widest: dict[int, int] = {}
    rest = list(roots)
    while rest:
        box = rest.pop()
        widest[box.column] = max(widest.get(box.column, 0), *map(len, box.lines))
        rest += box.below
    left, columns = float(MARGIN), []
    for column in sorted(widest):
        width = widest[column] * CHARACTER_WIDTH + 16
        columns.append((left, width))
        left += width + COLUMN_GAP
    return columns, left - COLUMN_GAP + MARGIN


def _of_root(heading: str, root: PlacedBox, columns: Sequence[tuple[float, float]]) -> Iterator[str]:
    rows = [root]
    for box in rows:
        rows += box.below
    highest = min(box.middle for box in rows) - BOX_HEIGHT / 2 - HEADING_HEIGHT / 2
    yield f'<text class="heading" x="{MARGIN}" y="{highest:.1f}">{_xml_text(heading)}</text>'
    for box in rows:
        yield from _box_lines(box, columns)


def _box_lines(box: PlacedBox, columns: Sequence[tuple[float, float]]) -> Iterator[str]:
    left, width = columns[box.column]
    top, colour, (title, text) = box.middle - BOX_HEIGHT / 2, BOX_COLOURS[box.edge.kind], box.lines
    yield f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{BOX_HEIGHT}" rx="5" stroke="{colour}"/>'
    first = box.middle - 3 if text else box.middle + 4
    yield f'<text class="to" x="{left + 8:.1f}" y="{first:.1f}" style="fill:{colour}">{_xml_text(title)}</text>'
    if text:
        yield f'<text class="says" x="{left + 8:.1f}" y="{box.middle + 11:.1f}">{_xml_text(text)}</text>'
    children = box.below if box.column else box.below[:1]
    if not box.column:  # a packet meets one table after the other
        for upper, lower in itertools.pairwise(box.below):
            middle = columns[upper.column][0] + 20
            begin, end = upper.middle + BOX_HEIGHT / 2, lower.middle - BOX_HEIGHT / 2
            yield f'<path d="M{middle:.1f} {begin:.1f}V{end - 6:.1f}" stroke="{BOX_COLOURS["table"]}"/>'
            yield f'<path d="M{middle - 4:.1f} {end - 7:.1f}l4 6l4-6Z" style="fill:{BOX_COLOURS["table"]}"/>'
    for child in children:
        begin, (end, _) = left + width, columns[child.column]
        bend, stroke = (end - begin) / 3, BOX_COLOURS[child.edge.kind]
        curve = f"M{begin:.1f} {box.middle:.1f}C{begin + bend:.1f} {box.middle:.1f} {begin + bend / 2:.1f} "
        curve += f"{child.middle:.1f} {begin + bend:.1f} {child.middle:.1f}L{end - 6:.1f} {child.middle:.1f}"
        yield f'<path d="{curve}" stroke="{stroke}" stroke-width="{2.5 if child.edge.rate else 1}"/>'
        tip = f"M{end - 7:.1f} {child.middle - 4:.1f}l6 4l-6 4Z"
        yield f'<path d="{tip}" style="fill:{stroke}"/>'
        place = f'x="{end - 10:.1f}" y="{child.middle - 5:.1f}" text-anchor="end"'
        label = " · ".join(filter(None, (count_text(child.edge.packets), rate_text(child.edge.rate))))
        yield f'<text class="count" {place}>{_xml_text(label)}</text>'


def _cut_text(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _xml_text(text: str) -> str:
    """Return text of XML; what is not printable is escaped before."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
