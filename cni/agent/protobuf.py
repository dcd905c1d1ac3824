"""Protocol buffers' wire format, for the few messages that the agent exchanges with a container runtime.

Generated classes would need the package ``protobuf`` at run time (5 MB, and its version has to match the generator's);
what is sent and read here is five messages of strings. Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class MessageError(ValueError):
    """The bytes are no message."""


def message(**values: bytes | str | bool) -> bytes:
    """Return a message; keywords are ``f`` and the number of the field: ``message(f1=True, f2="id")``."""
    return b"".join(_encoded_field(int(name[1:]), value) for name, value in values.items())


def _encoded_field(number: int, value: bytes | str | bool) -> bytes:  # noqa: FBT001  # a value, no switch
    if isinstance(value, bool):
        return _encoded_varint(number << 3 | VARINT) + _encoded_varint(int(value))
    content = value.encode() if isinstance(value, str) else value
    return _encoded_varint(number << 3 | BYTES) + _encoded_varint(len(content)) + content


def _encoded_varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def decode_fields(received: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message: number, and a number or bytes. Raises MessageError."""
    position = 0
    while position < len(received):
        key, position = _read_varint(received, position)
        value: int | bytes
        if key & 7 == VARINT:
            value, position = _read_varint(received, position)
        else:
            length, position = _value_length(key & 7, received, position)
            value, position = received[position : position + length], position + length
            if position > len(received):
                raise MessageError(f"field {key >> 3} is cut off")
        yield key >> 3, value


def _value_length(kind: int, received: bytes, position: int) -> tuple[int, int]:
    if kind == BYTES:
        return _read_varint(received, position)
    if kind in {FIXED32, FIXED64}:
        return (4 if kind == FIXED32 else 8), position
    raise MessageError(f"wire type {kind} is unknown")


def _read_varint(received: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if position >= len(received) or shift > 63:
            raise MessageError("a number is cut off")
        byte = received[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position


def submessages(received: bytes, number: int) -> list[bytes]:
    """Return the messages, texts or byte strings in a field that may be repeated."""
    return [value for field, value in decode_fields(received) if field == number and isinstance(value, bytes)]


def text_field(received: bytes, number: int) -> str:
    """Return the text in a field; "" if it is absent."""
    return next((value.decode("utf-8", "replace") for value in submessages(received, number)), "")


def integer_field(received: bytes, number: int) -> int:
    """Return the number in a field; 0 if it is absent."""
    return next((value for field, value in decode_fields(received) if field == number and isinstance(value, int)), 0)


def text_map(received: bytes, number: int) -> dict[str, str]:
    """Return the map of texts in a field: on the wire, messages with a key (1) and a value (2)."""
    return {text_field(entry, 1): text_field(entry, 2) for entry in submessages(received, number)}
