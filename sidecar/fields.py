"""Strict reading of documents: where the known fields are listed, any other is an error that names its path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from capture.errors import EXIT_USAGE, CaptureError
from capture.model.addresses import is_decimal


class FieldError(CaptureError):
    """A field of a document that cannot be used: the document, the path of the field, and what is expected."""

    exit_code = EXIT_USAGE

    def __init__(self, document: str, path: str, problem: str) -> None:
        super().__init__(f"{document}: {path or 'document'}: {problem}")
        self.path = path


class Fields:
    """An object of a document (a mapping) with the path that leads to it. Every read checks the type.

    ``FieldError`` if a value has another type, or a key is not among the ``known`` ones, where there are any.
    """

    def __init__(self, plain: object, document: str, path: str = "", known: tuple[str, ...] = ()) -> None:
        self.document = document
        self.path = path
        if plain is None:
            plain = {}
        if not isinstance(plain, dict):
            raise FieldError(document, path, f"expected an object, got {_shown(plain)}")
        self._plain = plain
        if known:
            self.require_known(*known)

    def require_known(self, *known: str) -> Fields:
        """Return these fields if there is no other key; FieldError that names the first other one."""
        for key in self._plain:
            if key not in known:
                raise FieldError(
                    self.document, self.path_of(str(key)), f"not supported; supported here: {', '.join(sorted(known))}"
                )
        return self

    def __contains__(self, key: str) -> bool:
        return self._plain.get(key) is not None

    def keys(self) -> tuple[str, ...]:
        return tuple(str(key) for key, value in self._plain.items() if value is not None)

    def path_of(self, key: str) -> str:
        """Return the path of a field of this object."""
        return f"{self.path}.{key}" if self.path else key

    def error(self, key: str, problem: str) -> FieldError:
        """Return the error for a field of this object, with its value if it has one."""
        value = self._plain.get(key)
        shown = "" if value is None else f"invalid value {_shown(value)}: "
        return FieldError(self.document, self.path_of(key), shown + problem)

    def text(self, key: str, default: str = "") -> str:
        value = self._plain.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(key, "expected a string; put it in quotes")
        return value

    def name(self, key: str) -> str:
        """Return a text that is there and has no control characters."""
        text = self.text(key)
        if text and text.isprintable():
            return text
        raise self.error(key, "expected a name without control characters")

    def one_of(self, key: str, *words: str) -> str:
        """Return one of these words; the first is the default."""
        value = self.text(key) or words[0]
        if value not in words:
            raise self.error(key, f"expected one of {', '.join(words)}")
        return value

    def flag(self, key: str) -> bool:
        """Return a truth value; false if nothing is given."""
        value = self._plain.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self.error(key, "expected true or false")

    def number(self, key: str, default: int, lowest: int, highest: int) -> int:
        """Return a number within bounds; 64-bit numbers may be written as text, as protobuf does."""
        value = self._plain.get(key)
        if value is None:
            return default
        if isinstance(value, str) and is_decimal(value, 20):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self.error(key, f"expected a number from {lowest} to {highest}")
        return value

    def port(self, key: str) -> int:
        """Return a port; FieldError if there is none."""
        if key not in self:
            raise FieldError(self.document, self.path_of(key), "missing: expected a port (1-65535)")
        return self.number(key, 0, 1, 65535)

    def duration(self, key: str, default: str) -> str:
        """Return a duration such as 0.2s, 200ms or 1m30s as protobuf's JSON writes it: seconds, then ``s``."""
        value = self.text(key, default)
        try:
            return f"{_parse_duration(value):.9f}".rstrip("0").rstrip(".") + "s"
        except ValueError:
            raise self.error(key, "expected a duration such as 5s or 200ms") from None

    def texts(self, key: str) -> list[str]:
        texts = self._list(key)
        for position, value in enumerate(texts):
            if not isinstance(value, str):
                raise FieldError(
                    self.document, f"{self.path_of(key)}[{position}]", f"expected a string, got {_shown(value)}"
                )
        return texts

    def labels(self, key: str) -> dict[str, str]:
        """Return a mapping of texts."""
        inner = self.inner(key)
        return {name: inner.text(name) for name in inner.keys()}  # noqa: SIM118  # not a mapping

    def inner(self, key: str, *known: str) -> Fields:
        """Return an inner object; an empty one if there is none."""
        return Fields(self._plain.get(key), self.document, self.path_of(key), known)

    def objects(self, key: str, *known: str) -> Iterator[Fields]:
        for position, value in enumerate(self._list(key)):
            yield Fields(value, self.document, f"{self.path_of(key)}[{position}]", known)

    def plain(self) -> dict[str, Any]:
        """Return the mapping itself."""
        return self._plain

    def _list(self, key: str) -> list[Any]:
        value = self._plain.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(key, "expected a list")
        return value


DURATION_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
MAX_PROTOBUF_SECONDS = 315_576_000_000
"""About 10,000 years (google/protobuf/duration.proto)."""


def _parse_duration(text: str) -> float:
    """Return Go's notation of a duration (time.ParseDuration) in seconds; ValueError for anything else."""
    import re

    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)", text, re.ASCII)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(text)
    seconds = sum(float(number) * DURATION_UNITS[unit] for number, unit in parts)
    if seconds > MAX_PROTOBUF_SECONDS:
        raise ValueError(text)
    return seconds


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
