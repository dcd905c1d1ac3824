"""JSON texts (RFC 8259), without the json package.

``import json`` compiles regular expressions: 6.5 ms, more than the interpreter needs to start. The
scanner and the string encoder it is built around are C functions of CPython's module ``_json``, which loads
in 0.2 ms, so they are used directly here.

Stricter than ``json.loads`` in one point, as RFC 8259 is: NaN and Infinity are no JSON. Objects keep the
order of their members; of members with one name the last counts.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

WHITESPACE = " \t\n\r"
LITERALS = {None: "null", True: "true", False: "false"}


class JsonError(ValueError):
    """A text is not JSON: what is wrong, and at which line and column (both counted from 1)."""

    def __init__(self, text: str, position: int, reason: str) -> None:
        self.reason = reason
        self.line = text.count("\n", 0, position) + 1
        self.column = position - text.rfind("\n", 0, position)
        super().__init__(f"line {self.line} column {self.column}: {reason}")


class WrittenNumber(float):
    """A number that is no integer, with its text: ``encode_json`` writes that again, and no digit is lost."""

    def __init__(self, text: str) -> None:
        self.text = text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


class _Dialect:
    """The options of the scanner in C, by the names of ``json.JSONDecoder``."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = WrittenNumber
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


if TYPE_CHECKING:
    # How the scanner works: it takes the text and a position, and returns a value and the position after it.
    def _scan(text: str, position: int) -> tuple[Any, int]: ...
    def _quoted(text: str) -> str: ...
else:
    from _json import encode_basestring_ascii as _quoted
    from _json import make_scanner

    _scan = make_scanner(_Dialect)


def decode_json(text: str) -> Any:
    """Return the value of ``text``; raise ``JsonError`` unless it is exactly one JSON value."""
    start = _skip(text, 0)
    try:
        value, end = _scanned(text, start)
    except StopIteration as stopped:
        raise JsonError(text, int(stopped.value), "expected a value") from None
    except RecursionError:
        raise JsonError(text, start, "nested too deeply") from None
    except ValueError as wrong:  # JSONDecodeError knows the place, an integer too long for int() does not
        reason: str = getattr(wrong, "msg", str(wrong).partition("; ")[0])  # without advice for Python
        reason = reason.replace("Expecting", "expected")
        for words in (" starting at", " at", ": "):  # before the place, which comes first here
            reason = reason.removesuffix(words)
        raise JsonError(text, getattr(wrong, "pos", start), reason) from None
    end = _skip(text, end)
    if end != len(text):
        raise JsonError(text, end, "expected the end of the text")
    return value


def decode_object(text: bytes | bytearray) -> dict[str, Any] | None:
    """Return the object that a text in UTF-8 holds; None if it holds none."""
    try:
        plain = decode_json(text.decode())
    except (JsonError, UnicodeDecodeError):
        return None
    return plain if isinstance(plain, dict) else None


def _scanned(text: str, position: int) -> tuple[Any, int]:
    try:
        return _scan(text, position)
    except SystemError:
        # Up to Python 3.12 the C scanner has no exception for a bad text unless json.decoder is loaded
        # ("returned NULL without setting an exception"). Bad texts are rare: load it then, and scan again.
        import json.decoder  # noqa: F401 - for the exception that the scanner looks up in it

        return _scan(text, position)


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] in WHITESPACE and position < len(text):
        position += 1
    return position


def encode_json(value: object) -> str:
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
    if isinstance(value, WrittenNumber):
        return value.text
    if isinstance(value, float):
        if value - value != 0.0:  # infinities and NaN
            raise ValueError(f"{value!r} is no JSON number")
        return float.__repr__(value)
    if isinstance(value, dict):
        return "{" + ", ".join([f"{_member_name(name)}: {encode_json(member)}" for name, member in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join([encode_json(member) for member in value]) + "]"
    raise TypeError(f"JSON has nothing for a value of type {type(value).__name__}")


def _member_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"members of a JSON object have strings as names, not {type(name).__name__}")
    return _quoted(name)
