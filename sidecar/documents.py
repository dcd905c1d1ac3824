"""YAML and JSON documents of files, each with its kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from capture.cli.input import origin_of, read_input
from capture.errors import EXIT_USAGE, CaptureError
from capture.model.text import shortened
from capture.model.values import Value
from sidecar.fields import FieldError, Fields

TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"
MAX_DOCUMENT_VALUES = 2_000_000
"""Values of a file with its aliases written out; the largest meshes have some hundred thousand."""

MESH_CONFIG = "mesh config"
DOCUMENT_KINDS = (MESH_CONFIG, "ConfigMap", "Telemetry", "Service", "EndpointSlice", "DestinationRule", "Pod")


class DocumentError(CaptureError):
    """A document that cannot be used: not YAML, no object, too large, or changed; or there is no PyYAML."""

    exit_code = EXIT_USAGE


class Document(Value):
    """One document: its kind, its name ("" if it has none), where it comes from (for errors), and its content."""

    kind: str
    name: str
    origin: str
    plain: dict[str, object]

    def fields(self, *known: str) -> Fields:
        """Return its content for strict reading."""
        return Fields(self.plain, self.origin, "", known)


def load_yaml(text: str, origin: str) -> list[object]:
    """Return the documents of a YAML stream; DocumentError names file and line."""
    yaml = yaml_module()
    try:
        loaded = list(yaml.load_all(text, Loader=_loader_class(yaml)))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as `!!int x`
        raise not_yaml(error, text, origin) from None
    except RecursionError:
        raise DocumentError(f"{origin}: nested too deeply") from None
    _require_bounded(loaded, origin)
    return loaded


def not_yaml(error: Exception, text: str, origin: str) -> DocumentError:
    """Return the error for a text that is not YAML: file, line and column, and PyYAML's words."""
    mark, context = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    words = getattr(error, "problem", None) or str(error).partition("\n")[0]
    if context:
        words += f" {getattr(error, 'context', '')} (from line {context.line + 1})"
    position = getattr(error, "position", None)  # of a character that YAML forbids
    if mark is not None:
        origin += f", line {mark.line + 1}, column {mark.column + 1}"
    elif position is not None:
        origin += f", line {text.count(chr(10), 0, position) + 1}"
    return DocumentError(f"{origin}: not YAML: {words}")


def _loader_class(yaml: Any) -> Any:
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]  # PyYAML has no types
        """Reads dates and 80:59 (a number to the base of 60 in YAML 1.1) as texts, as Kubernetes does."""

        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
            first: [(tag, _WithoutColon(pattern)) for tag, pattern in resolvers if tag != TIMESTAMP_TAG]
            for first, resolvers in base.yaml_implicit_resolvers.items()
        }

    return Loader


class _WithoutColon:
    """A pattern for plain scalars that takes none with a colon."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def match(self, text: str) -> re.Match[str] | None:
        return None if ":" in text else self._pattern.match(text)


def _require_bounded(loaded: list[object], origin: str) -> None:
    """Raise DocumentError for aliases that make a text endless, or far longer than it is."""
    sizes: dict[int, int] = {}
    try:
        total = _count_values(loaded, sizes)
    except RecursionError:
        raise DocumentError(f"{origin}: an alias holds itself, or values are nested too deeply") from None
    if total > MAX_DOCUMENT_VALUES:
        raise DocumentError(
            f"{origin}: with its aliases written out it has {total} values; at most {MAX_DOCUMENT_VALUES} are read"
        )


def _count_values(value: object, sizes: dict[int, int]) -> int:
    """Return how many values there are in a value with its aliases written out; ``sizes`` has those that are known."""
    if not isinstance(value, list | dict):
        return 1
    known = sizes.get(id(value))
    if known is None:
        inner = value.values() if isinstance(value, dict) else value
        known = sizes[id(value)] = 1 + sum(_count_values(each, sizes) for each in inner)
    return known


def yaml_module() -> Any:
    """Return PyYAML; DocumentError names how to get it."""
    try:
        import yaml
    except ImportError:
        raise DocumentError(
            "PyYAML is not installed; reading documents needs it",
            "Install it with `pip install PyYAML`, or the package python3-yaml of the distribution.",
        ) from None
    return yaml


def read_files(names: Iterable[str]) -> list[Document]:
    """Return the documents of files; ``-`` is standard input. Lists are taken apart."""
    return [document for name in names for document in documents(read_input(name), origin_of(name))]


def documents(text: str, origin: str) -> Iterator[Document]:
    """Yield the documents of a text, items of a List one by one; FieldError for a kind that is not supported."""
    for number, plain in enumerate(load_yaml(text, origin), 1):
        if plain is not None:
            require_object(plain, f"{origin}, document {number}")
            yield from _split(plain, f"{origin}, document {number}")


def require_object(plain: object, origin: str) -> None:
    """Raise DocumentError for a document that is a text, a number or a list: the file is no manifest."""
    if not isinstance(plain, dict):
        shown = repr(shortened(str(plain)))
        raise DocumentError(
            f"{origin}: expected an object with keys such as `kind`, got {shown}",
            "Name a file of Kubernetes objects, as `kubectl get -o yaml` prints them.",
        )


def _split(plain: object, origin: str, implied: str = MESH_CONFIG) -> Iterator[Document]:
    """Yield a document, or those of a list; in a typed one, such as ServiceList, they need no kind."""
    fields = Fields(plain, origin)
    kind = fields.text("kind", implied)
    if kind == "List" or (kind.endswith("List") and "items" in fields):
        for position, item in enumerate(fields.objects("items")):
            yield from _split(item.plain(), f"{origin}, item {position + 1}", kind.removesuffix("List") or implied)
        return
    if kind not in DOCUMENT_KINDS:
        raise FieldError(origin, "kind", f"{kind} is not supported; supported here: {', '.join(DOCUMENT_KINDS[1:])}")
    content = dict(fields.plain())
    name = "" if kind == MESH_CONFIG else _document_name(kind, fields)
    yield Document(kind, name, f"{name or kind} ({origin})", content)


def _document_name(kind: str, fields: Fields) -> str:
    metadata = fields.inner("metadata")
    name = metadata.text("name")
    return f"{kind} {metadata.text('namespace', 'default')}/{name}" if name else ""
