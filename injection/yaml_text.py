"""YAML as text with positions: an edit by position leaves every other byte as it is.

PyYAML gives the beginning and end of each node, and no more is needed of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from capture.model.values import Value
from sidecar.documents import not_yaml, yaml_module

Node = Any
"""A node of PyYAML, which has no types."""

NULL_TAG = "tag:yaml.org,2002:null"
PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}]*\s+)*")
"""Anchor and tag of a node, which PyYAML counts as its beginning."""
AMBIGUOUS = re.compile(r"[yYnN]|[-+]?(?:0[bBoOxX][0-9a-fA-F_]+|[0-9_]*\.?[0-9_]+(?:[eE][-+]?[0-9_]+)?\.?)")
"""Texts that are truth values and numbers for kubectl (Go), of which PyYAML knows not all (``y``, ``1e3``, ``08``)."""


class Edit(Value):
    """A piece of text, and what takes its place; an insertion replaces nothing."""

    start: int
    end: int
    text: str


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """Return the text with all edits made; equal ones (of a node that is used twice) count once."""
    pieces, position = [], 0
    for edit in sorted(dict.fromkeys(edits), key=lambda edit: (edit.start, edit.end)):
        if edit.start < position:
            raise ValueError("edits overlap")
        pieces += [text[position : edit.start], edit.text]
        position = edit.end
    return "".join([*pieces, text[position:]])


# --- reading -------------------------------------------------------------------------------------


def compose(text: str, origin: str) -> list[Node]:
    """Return the root node of each document; DocumentError with the line of what is no YAML.

    An alias is a node of its own here (``is_alias``), so that it is not taken for the place of its anchor.
    """
    yaml = yaml_module()
    loader = _loader_class(yaml)(without_tabs(text))
    nodes = []
    try:
        while loader.check_node():
            nodes.append(loader.get_node())
    except yaml.YAMLError as error:
        raise not_yaml(error, text, origin) from None
    finally:
        loader.dispose()
    return nodes


def without_tabs(text: str) -> str:
    """Return JSON with blanks for tabs: between tokens, where PyYAML does not take them, and inside no string."""
    if "\t" in text and text.lstrip("\ufeff \t\r\n")[:1] == "{":
        try:
            json.loads(text.removeprefix("\ufeff"))
        except ValueError:
            return text
        return text.replace("\t", " ")
    return text


def _loader_class(yaml: Any) -> Any:
    class PositionLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
        """Composes nodes; an alias becomes a scalar node with a mark."""

        def compose_node(self, parent: Node, index: Node) -> Node:
            if not self.check_event(yaml.AliasEvent):
                return super().compose_node(parent, index)
            event = self.peek_event()
            target = super().compose_node(parent, index)
            node = yaml.ScalarNode("!alias", event.anchor, event.start_mark, event.end_mark)
            node.target = target
            return node

    return PositionLoader


def is_alias(node: Node) -> bool:
    """Return whether a node is an alias of an anchored one."""
    return hasattr(node, "target")


def is_null(node: Node) -> bool:
    """Return whether a node is a null, written out or not."""
    return getattr(node, "tag", "") == NULL_TAG


def is_collection(node: Node) -> bool:
    """Return whether a node is a mapping or a list."""
    return isinstance(node.value, list)


def is_mapping(node: Node) -> bool:
    """Return whether a node is a mapping."""
    return bool(node.id == "mapping")


def key_and_value(mapping: Node, key: str) -> tuple[Node, Node] | None:
    """Return the key and value nodes of a mapping's key; None if it is not there."""
    if not is_mapping(mapping):
        return None
    return next(((name, value) for name, value in mapping.value if name.value == key), None)


def node_at(root: Node, path: Sequence[str | int]) -> Node | None:
    """Return the node at a path, going through aliases; None if there is none."""
    node: Node | None = root
    for step in path:
        node = getattr(node, "target", node)
        if node is None or not is_collection(node):
            return None
        if isinstance(step, int):
            node = node.value[step] if step < len(node.value) else None
        else:
            pair = key_and_value(node, step)
            node = pair[1] if pair else None
    return getattr(node, "target", node)


def child(node: Node | None, key: str) -> Node | None:
    """Return a value of a mapping, not followed where it is an alias."""
    pair = key_and_value(getattr(node, "target", node), key) if node is not None else None
    return pair[1] if pair else None


# --- positions -----------------------------------------------------------------------------------


def line_start(text: str, position: int) -> int:
    """Return where the line of a position begins."""
    return text.rfind("\n", 0, position) + 1


def line_end(text: str, position: int) -> int:
    """Return the position after the line's newline, or the end of the text."""
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def is_at_line_start(text: str, position: int) -> bool:
    """Return whether nothing but blanks comes before a position in its line."""
    return not text[line_start(text, position) : position].strip(" ")


def start_with_comments(text: str, position: int) -> int:
    """Return the start of the line, or of the comments with the same indentation right above it."""
    start = line_start(text, position)
    indentation = text[start:position]
    while start:
        previous = line_start(text, start - 1)
        if not text[previous:start].startswith(f"{indentation}#"):
            break
        start = previous
    return start


def content_start(text: str, node: Node) -> int:
    """Return where a node begins after its anchor and tag."""
    start = node.start_mark.index
    properties = PROPERTIES.match(text, start)
    return properties.end() if properties else int(start)


def content_end(text: str, node: Node) -> int:
    """Return where the last token of a node ends; comments and blank lines after it do not count."""
    if is_alias(node) or not is_collection(node):
        end: int = node.end_mark.index
        if getattr(node, "style", None) in ("|", ">"):
            header = text[node.start_mark.index : line_end(text, node.start_mark.index)]
            if "+" in header.partition("#")[0]:
                return max(line_start(text, end) - 1, 0)  # trailing blank lines belong to it
            return len(text[:end].rstrip(" \t\r\n"))
        return end
    if node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return content_end(text, last[1] if isinstance(last, tuple) else last)


def dash_of(text: str, sequence: Node, item: Node) -> int:
    """Return where the dash of an item of a block sequence is: comments between the two may have dashes as well."""
    first = content_start(text, sequence)
    column = first - line_start(text, first)
    dash = text.rfind("-", 0, item.start_mark.index)
    while dash > first and not (is_at_line_start(text, dash) and dash - line_start(text, dash) == column):
        dash = text.rfind("-", 0, dash)
    return dash


# --- writing -------------------------------------------------------------------------------------


def flow(value: object) -> str:
    """Return a value in one line; it is JSON, too."""
    return json.dumps(value, ensure_ascii=False)


def block(value: object, indentation: str, newline: str) -> str:
    """Return a value in block style, each line indented; every string is in one line."""
    return "".join(f"{indentation}{line}{newline}" for line in _dumped_yaml(value, '"').splitlines())


def as_yaml(documents: Iterable[object]) -> str:
    """Return documents in block style, long texts line by line."""
    return "---\n".join(_dumped_yaml(document, "|") for document in documents)


def _dumped_yaml(value: object, style_of_lines: str) -> str:
    """Return a value in block style; ``style_of_lines`` is that of strings with line breaks."""
    yaml: Any = yaml_module()

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
        """Writes everything in full."""

        def ignore_aliases(self, _data: object) -> bool:
            return True

    def represent(dumper: Any, text: str) -> Any:
        style = style_of_lines if "\n" in text else "'" if AMBIGUOUS.fullmatch(text) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, represent)
    dumped: str = yaml.dump(
        value, Dumper=Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return dumped
