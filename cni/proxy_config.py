"""The environment that a pod's annotation ``proxy.istio.io/config`` gives its proxy: ``proxyMetadata``.

The annotation is YAML (istio/api, mesh/v1alpha1, ProxyConfig). What is read of it is what people write: JSON, a
block with one variable a line, or mappings in braces. Only truth values decide on the capture, so other values need
not come out whole; a source that knows the container knows better.
"""

from __future__ import annotations

from capture.state.json_text import JsonError, decode

PROXY_CONFIG_ANNOTATION = "proxy.istio.io/config"
METADATA = "proxyMetadata"
SEPARATORS = str.maketrans(dict.fromkeys("{}[],", "\n"))


def proxy_metadata(annotation: str) -> dict[str, str]:
    """Return the variables that the annotation gives to the proxy."""
    try:
        plain = decode(annotation)
    except JsonError:
        return _pairs_of_yaml(annotation)
    metadata = plain.get(METADATA) if isinstance(plain, dict) else None
    return {name: _as_text(value) for name, value in metadata.items()} if isinstance(metadata, dict) else {}


def _as_text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _pairs_of_yaml(text: str) -> dict[str, str]:
    """Return the pairs behind the word ``proxyMetadata``; the first of each name, as others of it belong elsewhere."""
    lines = [_without_comment(line) for line in text.splitlines()]
    before, _, behind = "\n".join(filter(None, lines)).partition(METADATA)
    first, *others = behind.lstrip("\"' :").split("\n")
    if "{" not in first:
        others = _deeper(others, _indent(before.rpartition("\n")[2]))
    pairs: dict[str, str] = {}
    for piece in "\n".join([first, *others]).translate(SEPARATORS).split("\n"):
        name, colon, value = piece.partition(":")
        if colon:
            pairs.setdefault(_unquoted(name), _unquoted(value))
    return pairs


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line.partition(" #")[0].rstrip()


def _deeper(lines: list[str], depth: int) -> list[str]:
    """Return the lines of a block: it ends at the first one that is no deeper than its name."""
    end = next((number for number, line in enumerate(lines) if _indent(line) <= depth), len(lines))
    return lines[:end]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _unquoted(text: str) -> str:
    bare = text.strip()
    return bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'" else bare
