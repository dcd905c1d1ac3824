"""Changes of a pod in a manifest's text: what is added, where, and how it is taken out again. Pure.

Additions go before what is there (or after it, for lists that are appended to): in block style as whole lines, in flow
style inside the brackets. Only a value that cannot be added to is written anew (a null, an alias, a container that is
merged into an injected one, an annotation with another value); its text is kept, so that it can be put back.
"""

from __future__ import annotations

from typing import Any

from injection.yaml_text import (
    Edit,
    Node,
    block,
    content_end,
    content_start,
    dash_of,
    flow,
    is_alias,
    is_at_line_start,
    is_collection,
    is_null,
    key_and_value,
    line_end,
    line_start,
    start_with_comments,
)
from sidecar.documents import DocumentError


class ManifestText:
    """The text of a manifest, and the edits that are to be made in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.newline = "\r\n" if "\r\n" in text else "\n"
        self.edits: list[Edit] = []

    def insert(self, position: int, text: str) -> None:
        """Insert text at a position; a missing last newline stays missing."""
        if position == len(self.text) and not self.text.endswith("\n") and text.endswith(self.newline):
            text = self.newline + text.removesuffix(self.newline)
        self.edits.append(Edit(position, position, text))

    def replace(self, start: int, end: int, text: str) -> None:
        self.edits.append(Edit(start, end, text))

    def remove_lines(self, start: int, end: int) -> None:
        """Remove whole lines; at the end of a text without last newline, the newline before them."""
        first, last = line_start(self.text, start), line_end(self.text, end)
        if last == len(self.text) and not self.text.endswith("\n") and first:
            first -= len(self.newline)
        self.replace(first, last, "")

    # -- mappings

    def add_pairs(self, mapping: Node, pairs: dict[str, Any], before: str = "") -> None:
        """Add keys to a mapping: in block style before another key, or the first."""
        if mapping.flow_style or not mapping.value:
            inner = ", ".join(f"{flow(key)}: {flow(value)}" for key, value in pairs.items())
            self.insert(content_start(self.text, mapping) + 1, inner + (", " if mapping.value else ""))
            return
        keys = [name for name, _ in mapping.value if is_at_line_start(self.text, name.start_mark.index)]
        anchor = next((name for name in keys if name.value == before), keys[0] if keys else None)
        if anchor is None:
            raise _not_in_lines_error(mapping)
        position = start_with_comments(self.text, anchor.start_mark.index)
        self.insert(position, block(pairs, " " * anchor.start_mark.column, self.newline))

    def remove_pair(self, mapping: Node, key: str) -> None:
        """Remove a key that ``add_pairs`` added."""
        pair = key_and_value(mapping, key)
        if pair is None:
            return
        name, value = pair
        start, end = name.start_mark.index, content_end(self.text, value)
        if not mapping.flow_style:
            self.remove_lines(start, end)
        else:
            self.replace(start, end + (2 if self.text[end : end + 2] == ", " else 0), "")

    # -- lists

    def change_list(
        self, name: Node, sequence: Node, first: list[Any], last: list[Any], gone: list[int]
    ) -> list[tuple[int, str]]:
        """Add items before and after those of a list, and take out some; ``name`` is the list's key.

        Returns what was taken out: after how many of the items that stay, and the text, comments before it included.
        """
        if not sequence.value:
            self.insert(content_start(self.text, sequence) + 1, ", ".join(map(flow, [*first, *last])))
            return []
        if sequence.flow_style:
            return self._change_flow(sequence, first, last, gone)
        dash = dash_of(self.text, sequence, sequence.value[0])
        if not is_at_line_start(self.text, dash):
            raise _not_in_lines_error(sequence)
        indentation = self.text[line_start(self.text, dash) : dash]
        begin = line_end(self.text, name.end_mark.index)
        if first:
            position = begin if 0 in gone else start_with_comments(self.text, dash)
            self.insert(position, block(first, indentation, self.newline))
        ends = [line_end(self.text, content_end(self.text, item)) for item in sequence.value]
        taken = self._take_out([*zip([begin, *ends], ends, strict=False)], gone)
        if last:
            self.insert(ends[-1], block(last, indentation, self.newline))
        return taken

    def _change_flow(self, sequence: Node, first: list[Any], last: list[Any], gone: list[int]) -> list[tuple[int, str]]:
        items = sequence.value
        starts = [item.start_mark.index for item in items]
        ends = [content_end(self.text, item) for item in items]
        if len(gone) == len(items):
            self.replace(starts[0], ends[-1], ", ".join(map(flow, [*first, *last])))
            return [(0, self.text[starts[0] : ends[-1]])]
        if first:
            self.insert(content_start(self.text, sequence) + 1, ", ".join(map(flow, first)) + ", ")
        leading = next(number for number in range(len(items)) if number not in gone)
        ranges = [
            (starts[number], starts[number + 1]) if number < leading else (ends[number - 1], ends[number])
            for number in range(len(items))
        ]
        taken = self._take_out(ranges, gone)
        if last:
            self.insert(ends[-1], "".join(f", {flow(item)}" for item in last))
        return taken

    def _take_out(self, ranges: list[tuple[int, int]], gone: list[int]) -> list[tuple[int, str]]:
        taken = []
        for count, number in enumerate(gone):
            start, end = ranges[number]
            taken.append((number - count, self.text[start:end]))
            self.replace(start, end, "")
        return taken

    def restore_list(self, name: Node, sequence: Node, added: list[str], taken: list[tuple[int, str]]) -> None:
        """Undo ``change_list``: remove the items with these names, and put back what was taken out."""
        stay = [item for item in sequence.value if item_name(item) not in added]
        if taken and not stay and sequence.flow_style:
            first, last = sequence.value[0], sequence.value[-1]
            self.replace(first.start_mark.index, content_end(self.text, last), "".join(text for _, text in taken))
            return
        for noted, text in taken:
            after = min(noted, len(stay))  # some may have been removed since then
            start = stay[0].start_mark.index if sequence.flow_style else name.end_mark.index
            end = content_end(self.text, stay[after - 1]) if after else start
            position = end if sequence.flow_style else line_end(self.text, end)
            self.replace(position, position, text)
        self._remove_items(sequence, added)

    def _remove_items(self, sequence: Node, names: list[str]) -> None:
        items = sequence.value
        for first, last in _number_runs([number for number, item in enumerate(items) if item_name(item) in names]):
            start, end = items[first].start_mark.index, content_end(self.text, items[last])
            if not sequence.flow_style:
                self.remove_lines(dash_of(self.text, sequence, items[first]), end)
            elif last + 1 < len(items):
                self.replace(start, end + (2 if self.text[end : end + 2] == ", " else 0), "")
            else:
                self.replace(content_end(self.text, items[first - 1]) if first else start, end, "")

    # -- values

    def original(self, node: Node) -> str:
        """Return the text of a value that is to be written anew."""
        return self.text[node.start_mark.index : content_end(self.text, node)]

    def rewrite(self, node: Node, value: object, *, alias: bool = False) -> None:
        """Write a value anew, in one line."""
        start, end = node.start_mark.index, content_end(self.text, node)
        text = flow(value)
        if alias and isinstance(value, dict):
            text = (
                "{<<: *"
                + str(node.value)
                + "".join(f", {flow(key)}: {flow(each)}" for key, each in value.items())
                + "}"
            )
        self.replace(start, end, f" {text}" if start == end else text)

    def put_back(self, node: Node, text: str) -> None:
        """Put back the text of a value that was written anew."""
        start, end = node.start_mark.index, content_end(self.text, node)
        self.replace(start - 1 if not text else start, end, text)


def can_be_added_to(node: Node) -> bool:
    """Return whether a value is a mapping or list in its own place."""
    return is_collection(node) and not is_alias(node)


def needs_rewriting(node: Node | None) -> bool:
    """Return whether a value is there and cannot be added to."""
    return node is not None and (is_null(node) or is_alias(node))


def item_name(item: Node) -> str:
    """Return the name of a list's item; "" if it has none."""
    item = getattr(item, "target", item)
    pair = key_and_value(item, "name")
    return str(pair[1].value) if pair else ""


def _not_in_lines_error(node: Node) -> DocumentError:
    return DocumentError(
        f"nothing can be added in line {node.start_mark.line + 1}: no key or dash begins a line there",
        "Write each key as `key: value` in a line of its own, with line feeds between the lines.",
    )


def _number_runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Return numbers as ranges of those that follow each other."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
