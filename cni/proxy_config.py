"""The environment that a pod's annotation ``proxy.istio.io/config`` gives its proxy: ``proxyMetadata``.

The annotation is YAML (istio/api, mesh/v1alpha1, ProxyConfig). What is read of it is what people write: JSON, a
block with one variable a line, or mappings in braces. Anything else gives no variables; a source that knows the
container knows better.
"""

from __future__ import annotations

from capture.state.json_text import JsonError, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PROXY_CONFIG_ANNOTATION = "proxy.istio.io/config"
METADATA = "proxyMetadata"


def proxy_metadata(annotation: str) -> dict[str, str]:
    """Return the variables that the annotation gives to the proxy."""
    try:
        plain = decode(annotation)
    except JsonError:
        lines = [_without_comment(line) for line in annotation.splitlines()]
        text = " ".join(line.strip() for line in lines).removeprefix("---").lstrip()
        if not text.startswith("{"):
            return dict(_of_block(lines))
        plain = flow_mapping(text)
    metadata = plain.get(METADATA) if isinstance(plain, dict) else None
    return {name: _as_text(value) for name, value in metadata.items()} if isinstance(metadata, dict) else {}


def _as_text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _of_block(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs below the line ``proxyMetadata:``, or those in braces behind it."""
    depth: int | None = None
    for number, line in enumerate(lines):
        text = line.strip()
        indent = len(line) - len(line.lstrip(" "))
        if not text:
            continue
        if depth is not None and indent > depth:
            yield from _pair(text)
            continue
        depth = None
        name, colon, value = text.partition(":")
        if colon and _unquoted(name) == METADATA:
            if value.lstrip().startswith("{"):
                rest = " ".join([value.strip(), *map(str.strip, lines[number + 1 :])])
                yield from ((key, _as_text(inner)) for key, inner in flow_mapping(rest).items())
                return
            depth = indent


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line.partition(" #")[0].rstrip()


def _pair(text: str) -> Iterator[tuple[str, str]]:
    name, colon, value = text.partition(":")
    if colon:
        yield _unquoted(name), _unquoted(value)


def _unquoted(text: str) -> str:
    bare = text.strip()
    return bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'" else bare


# --- flow style: {name: value, other: {name: "value"}} -------------------------------------------


def flow_mapping(text: str) -> dict[str, Any]:
    """Return the mapping in braces that a text begins with, texts as values; an empty one if it does not end."""
    found, place = _flow(text, 0)
    return found if isinstance(found, dict) and place else {}


def _flow(text: str, start: int) -> tuple[Any, int]:
    """Return the value at a place, and the place after it; 0 if the text ends before it does."""
    place = _after_blanks(text, start)
    opening = text[place : place + 1]
    if opening in ("{", "["):
        return _collection(text, place + 1, closing="}" if opening == "{" else "]")
    if opening in ('"', "'"):
        end = text.find(opening, place + 1)
        return text[place + 1 : end], end + 1
    end = place
    while end < len(text) and text[end] not in ",{}[]" and text[end : end + 2] != ": ":
        end += 1
    return text[place:end].rstrip(" "), end


def _collection(text: str, place: int, closing: str) -> tuple[Any, int]:
    found: dict[str, Any] = {}
    while place and (place := _after_blanks(text, place)) < len(text):
        if text[place] == closing:
            return found, place + 1
        if text[place] in ",:":
            place += 1
            continue
        name, end = _flow(text, place)
        colon = _after_blanks(text, end)
        if end and text[colon : colon + 1] == ":":
            found[str(name)], end = _flow(text, colon + 1)
        if end == place:  # a bracket that closes nothing
            return found, 0
        place = end
    return found, 0


def _after_blanks(text: str, place: int) -> int:
    while text[place : place + 1] == " ":
        place += 1
    return place
