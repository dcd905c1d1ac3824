"""The packet's path as lines for a terminal, as lists for JSON, and the words that picture and lines share. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from capture.analysis.flow import Edge, PathTree
from capture.model.addresses import FAMILY_NAMES, Family
from capture.report.fold import width_of
from capture.report.output import BOLD, GREEN, RED, YELLOW

Line = tuple[str, str]
"""A line, and its colour."""

SOURCES = {"outbound": ("out of the pod", "app or proxy"), "inbound": ("into the pod", "client")}
"""What each direction is called, and who sends."""
KIND_COLOURS = {"proxy": GREEN, "dns": GREEN, "foreign": RED, "dropped": RED, "direct": YELLOW, "table": BOLD}
UNICODE = ("├▶ ", "└▶ ", "│  ", "…")
ASCII = ("+> ", "`> ", "|  ", "~")
"""Branch, last branch, what continues below a branch, and what replaces text that has no room."""
NUMBER_WIDTH = 10
"""Columns of each of the two numbers, before which is a blank."""
FOOTNOTE = "nat sees the first packet of each connection"


def flow_lines(
    flows: Sequence[PathTree], width: int | None, families: Sequence[Family], *, is_ascii: bool = False
) -> Iterator[Line]:
    """Yield the lines of all paths, each with its colour; labels are cut where a ``width`` leaves them no room."""
    signs = ASCII if is_ascii else UNICODE
    rows = [row for flow in flows for row in _flow_rows(flow, families, signs)]
    room = max(width_of(label) for label, *_ in rows) if width is None else width - 2 * (NUMBER_WIDTH + 1)
    for label, packets, per_second, colour in rows:
        yield _aligned_line(label, packets, per_second, room, signs[-1]), colour
    yield FOOTNOTE, ""


def _flow_rows(flow: PathTree, families: Sequence[Family], signs: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the heading and a row for each edge, each a label, two numbers and a colour; then an empty row."""
    heading, source = SOURCES[flow.direction]
    yield f"{heading}: {source}", "packets", "per second", BOLD
    for text, edge in _tree_lines(flow.tables, "", signs):
        family_note = f" ({FAMILY_NAMES[edge.families[0]]} only)" if 0 < len(edge.families) < len(families) else ""
        edge_text = f": {edge.text}{family_note}" if edge.text else family_note
        colour = "" if edge.kind == "direct" and not edge.rate else KIND_COLOURS.get(edge.kind, "")
        yield f"{text}{edge.to}{edge_text}", count_text(edge.packets), rate_text(edge.rate), colour
    yield "", "", "", ""


def _tree_lines(edges: Iterable[Edge], indentation: str, signs: Sequence[str]) -> Iterator[tuple[str, Edge]]:
    branch, last, continues, _ = signs
    in_order = [*edges]
    for number, edge in enumerate(in_order, 1):
        is_final = number == len(in_order)
        yield indentation + (last if is_final else branch), edge
        below = indentation + (" " * len(continues) if is_final else continues)
        yield from _tree_lines(edge.below, below, signs)


def _aligned_line(label: str, packets: str, per_second: str, room: int, cut: str) -> str:
    if width_of(label) > room:
        while width_of(label) > room - 1:
            label = label[:-1]
        label += cut
    return f"{label}{' ' * (room - width_of(label))} {packets:>{NUMBER_WIDTH}} {per_second:>{NUMBER_WIDTH}}".rstrip()


def count_text(number: int | None) -> str:
    """Return a count; nothing where there is none."""
    return "" if number is None else str(number)


def rate_text(number: float | None) -> str:
    """Return a rate: with a decimal below ten; nothing before a second look."""
    if number is None:
        return ""
    return f"{number:.1f}/s" if 0 < number < 10 else f"{number:.0f}/s"


def flows_as_plain(flows: Iterable[PathTree]) -> list[dict[str, object]]:
    """Return the paths as plain values for JSON."""
    return [{"direction": flow.direction, "edges": [*map(_edge_as_plain, flow.tables)]} for flow in flows]


def _edge_as_plain(edge: Edge) -> dict[str, object]:
    return {
        "to": edge.to,
        "kind": edge.kind,
        "says": edge.text,
        "packets": edge.packets,
        "bytes": edge.bytes,
        "per_second": None if edge.rate is None else round(edge.rate, 3),
        "families": list(edge.families),
        "edges": [*map(_edge_as_plain, edge.below)],
    }
