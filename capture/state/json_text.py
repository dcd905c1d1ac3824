"""JSON texts (RFC 8259), without the json package.

``import json`` compiles regular expressions: 6.5 ms, more than the interpreter needs to start. The
scanner and the string encoder it is built around are C functions of the module ``_json``, which loads
in 0.2 ms, so they are used directly here. Where an interpreter has no ``_json``, the pure Python ones of
the json package take their place, with the same calling conventions.

Stricter than ``json.loads`` in one point, as RFC 8259 is: NaN and Infinity are no JSON. Objects keep the
order of their members; of members with one name the last counts.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar

    T = TypeVar("T")

WHITESPACE = " \t\n\r"
LITERALS = {None: "null", True: "true", False: "false"}


class JsonError(ValueError):
    """A text is not JSON: what is wrong, and at which line and column (both counted from 1)."""

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(f"line {line} column {column}: {reason}")
        self.reason = reason
        self.line = line
        self.column = column

    @classmethod
    def at(cls, text: str, position: int, reason: str) -> JsonError:
        """Return the error for the character at ``position`` of ``text``."""
        return cls(reason, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


class _Dialect:
    """The options of the scanner in C, by the names of ``json.JSONDecoder``."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


def _in_ascii(number: type[int | float]) -> Any:
    """Return ``number`` for the scanner in Python, which takes the digits of every script for digits."""

    def read(digits: str) -> int | float:
        if not digits.isascii():
            raise ValueError("digits outside ASCII are no JSON number")
        return number(digits)

    return read


if TYPE_CHECKING:
    # How the scanners work: they take the text and a position, and return a value and the position after it.
    def _scan(text: str, position: int) -> tuple[Any, int]: ...
    def _scan_string(text: str, position: int) -> tuple[str, int]: ...
    def _quoted(text: str) -> str: ...
else:
    try:
        from _json import encode_basestring_ascii as _quoted
        from _json import make_scanner
        from _json import scanstring as _scan_string

        _scan = make_scanner(_Dialect)
    except ImportError:  # an interpreter built without its C accelerators
        from json.decoder import JSONDecoder
        from json.decoder import scanstring as _scan_string
        from json.encoder import py_encode_basestring_ascii as _quoted

        _scan = JSONDecoder(
            parse_int=_in_ascii(int), parse_float=_in_ascii(float), parse_constant=_refuse_constant
        ).scan_once


def decode(text: str) -> Any:
    """Return the value of ``text``; raise ``JsonError`` unless it is exactly one JSON value."""
    value, end = _scanned(_scan, text, _skip(text, 0))
    _require_end(text, end)
    return value


def decode_object(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the members of the JSON object in ``text``, and the text that each member's value had.

    With the text, a value can be handed on exactly as it came: no digit of a number is lost, however it was
    written. Raise ``JsonError`` unless ``text`` is exactly one JSON object.
    """
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        raise JsonError.at(text, position, "expected an object, which starts with {")
    position = _skip(text, position + 1)
    more = text[position : position + 1] != "}"
    while more:
        if text[position : position + 1] != '"':
            raise JsonError.at(text, position, 'expected the name of a member, which starts with "')
        name, position = _scanned(_scan_string, text, position + 1, position)
        position = _skip(text, position)
        if text[position : position + 1] != ":":
            raise JsonError.at(text, position, "expected : after the name of a member")
        start = _skip(text, position + 1)
        values[name], position = _scanned(_scan, text, start)
        texts[name] = text[start:position]
        position = _skip(text, position)
        more = text[position : position + 1] == ","
        if more:
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "}":
            raise JsonError.at(text, position, "expected , or } after a member")
    _require_end(text, position + 1)
    return values, texts


def _require_end(text: str, position: int) -> None:
    end = _skip(text, position)
    if end != len(text):
        raise JsonError.at(text, end, "expected the end of the text")


def encode(value: object) -> str:
    """Return ``value`` as JSON in ASCII, on one line.

    ``value`` is made of str, int, float, bool, None, and dict (with str keys), list and tuple of these. Raise
    ``TypeError`` for other types and ``ValueError`` for numbers that JSON does not have.
    """
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return LITERALS[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if value - value != 0.0:  # infinities and NaN
            raise ValueError(f"{value!r} is no JSON number")
        return float.__repr__(value)
    if isinstance(value, dict):
        return "{" + ", ".join([f"{_member_name(name)}: {encode(member)}" for name, member in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join([encode(member) for member in value]) + "]"
    raise TypeError(f"JSON has nothing for a value of type {type(value).__name__}")


def _member_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"members of a JSON object have strings as names, not {type(name).__name__}")
    return _quoted(name)


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] in WHITESPACE and position < len(text):
        position += 1
    return position


def _scanned(
    scan: Callable[[str, int], tuple[T, int]], text: str, position: int, shown: int | None = None
) -> tuple[T, int]:
    """Return what ``scan`` finds at ``position``; its errors as ``JsonError``, at ``shown`` if it names no place."""
    place = position if shown is None else shown
    try:
        try:
            return scan(text, position)
        except SystemError:
            # Up to Python 3.12 the C scanner has no exception for a bad text unless json.decoder is loaded
            # ("returned NULL without setting an exception"). Bad texts are rare: load it then, and scan again.
            import json.decoder  # noqa: F401 - for the exception that the scanner looks up in it

            return scan(text, position)
    except StopIteration as stopped:
        raise JsonError.at(text, int(stopped.value), "expected a value") from None
    except RecursionError:
        raise JsonError.at(text, place, "nested too deeply") from None
    except ValueError as wrong:  # JSONDecodeError knows the place, an integer too long for int() does not
        reason: str = getattr(wrong, "msg", str(wrong))
        for end in (" starting at", " at", ": "):  # before the place, which comes first here
            reason = reason.removesuffix(end)
        raise JsonError.at(text, getattr(wrong, "pos", place), reason) from None
