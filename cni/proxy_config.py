"""The environment that a pod's annotation ``proxy.istio.io/config`` gives its proxy: ``proxyMetadata``.

The annotation is YAML (istio/api, mesh/v1alpha1, ProxyConfig). What is read of it is what people write: JSON, or a
block with one variable a line. Anything else gives no variables; a source that knows the container knows better.
"""

from __future__ import annotations

from capture.state.json_text import JsonError, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PROXY_CONFIG_ANNOTATION = "proxy.istio.io/config"
METADATA = "proxyMetadata"


def proxy_metadata(annotation: str) -> dict[str, str]:
    """Return the variables that the annotation gives to the proxy."""
    try:
        plain = decode(annotation)
    except JsonError:
        return dict(_of_block(annotation.splitlines()))
    metadata = plain.get(METADATA) if isinstance(plain, dict) else None
    return {name: _as_text(value) for name, value in metadata.items()} if isinstance(metadata, dict) else {}


def _as_text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _of_block(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs below the line ``proxyMetadata:``, or those in braces behind it."""
    depth: int | None = None
    for line in lines:
        text = _without_comment(line)
        indent = len(line) - len(line.lstrip(" "))
        if not text:
            continue
        if depth is not None and indent > depth:
            yield from _pair(text)
            continue
        depth = None
        name, colon, value = text.partition(":")
        if colon and _unquoted(name) == METADATA:
            depth = indent
            inner = value.strip()
            if inner.startswith("{") and inner.endswith("}"):
                for pair in inner[1:-1].split(","):
                    yield from _pair(pair)


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line.partition(" #")[0].strip()


def _pair(text: str) -> Iterator[tuple[str, str]]:
    name, colon, value = text.partition(":")
    if colon:
        yield _unquoted(name), _unquoted(value)


def _unquoted(text: str) -> str:
    bare = text.strip()
    return bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'" else bare
