"""Netlink attributes: encode and decode the type-length-value records that every message is made of; C structures.

Layout (linux/netlink.h, struct nlattr), header fields in the byte order of the machine:

    0        2        4                      length   4-aligned
    | length | type   | payload ...          | padding |
               `- 0x8000 nested, 0x4000 payload in network order, 14 bits of type

The length counts the header and not the padding, and has 16 bits: no attribute, and so no nest, is
longer than 65,535 bytes. Numbers inside nf_tables payloads are big endian (``u32be``); numbers
inside rtnetlink payloads are in the order of the machine (``u32``).
"""

from __future__ import annotations

import sys

from capture.errors import CaptureError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Literal

    Unpacked = dict[str, Any]
    """The fields of a structure by name: numbers, or bytes."""

BYTE_ORDER = sys.byteorder

# linux/netlink.h
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
NLA_HEADER_SIZE = 4
NLA_LENGTH_MAX = 0xFFFF

Fields = dict[int, bytes]
"""Payloads by the type of their attribute."""

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # indexed by length % 4


class MalformedMessageError(CaptureError):
    """Bytes that claim to be netlink and are not: a length that is too short or runs past the end."""


def attribute(kind: int, payload: bytes = b"") -> bytes:
    """Return one attribute, padded. Raise ValueError if the payload does not fit 16 bits of length."""
    length = NLA_HEADER_SIZE + len(payload)
    if length > NLA_LENGTH_MAX:
        raise ValueError(f"attribute {kind & NLA_TYPE_MASK}: {len(payload)} bytes do not fit; split the list")
    return length.to_bytes(2, BYTE_ORDER) + kind.to_bytes(2, BYTE_ORDER) + payload + PADDING[length & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    """Return an attribute whose payload is the given attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def c_string(value: str) -> bytes:
    """Return a payload for a name: NUL-terminated. Bytes that are no UTF-8 survive a round trip."""
    if "\0" in value:
        raise ValueError(f"a name cannot contain NUL: {value!r}")
    return value.encode("utf-8", "surrogateescape") + b"\0"


def _big_endian(size: int) -> Callable[[int], bytes]:
    return lambda value: value.to_bytes(size, "big")


u8, u16be, u32be, u64be = map(_big_endian, (1, 2, 4, 8))
"""Make big-endian payloads of 8, 16, 32 and 64 bits."""


def s32be(value: int) -> bytes:
    """Return a big-endian payload of 32 bits that may be negative: priorities, verdicts."""
    return value.to_bytes(4, "big", signed=True)


def u32(value: int) -> bytes:
    """Return a payload of 32 bits in the order of the machine: interface indexes, tables, marks, uids."""
    return value.to_bytes(4, BYTE_ORDER)


def decode_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type without flags, payload) of each attribute. Raise MalformedMessageError on bad lengths."""
    offset, end = 0, len(data)
    numbers = memoryview(data[: end & ~1]).cast("H")  # both are in the order of the machine
    while offset < end:
        length = numbers[offset >> 1] if offset + 1 < end else 0
        if length < NLA_HEADER_SIZE or offset + length > end:
            raise MalformedMessageError(
                f"netlink attribute at byte {offset} says it has {length} bytes; {end - offset} are left of {end}"
            )
        yield numbers[(offset >> 1) + 1] & NLA_TYPE_MASK, data[offset + NLA_HEADER_SIZE : offset + length]
        offset += (length + 3) & ~3


def decode_fields(data: bytes) -> Fields:
    """Return the payloads by type. Where a type occurs twice, the first counts."""
    fields: Fields = {}
    for kind, payload in decode_attributes(data):
        if kind not in fields:
            fields[kind] = payload
    return fields


def decode_elements(data: bytes) -> list[bytes]:
    """Return the payloads of a list in its order: expressions of a rule, elements of a set."""
    return [payload for _, payload in decode_attributes(data)]


def decode_text(payload: bytes) -> str:
    """Return the name up to the first NUL, the inverse of ``c_string``."""
    return payload.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def decode_number(payload: bytes) -> int:
    """Return the number in a big-endian payload of any width, as nf_tables has them."""
    return int.from_bytes(payload, "big")


def decode_host_number(payload: bytes) -> int:
    """Return the number in a payload in the order of the machine, as rtnetlink has them."""
    return int.from_bytes(payload, BYTE_ORDER)


class Layout:
    """A structure of C, padded to a multiple of 8 bytes: where its fields are, and how long it is.

    A field is described by its name and its bytes: ``4`` is a number in the byte order of the machine, ``>2`` a
    big-endian one (``__be16``), ``[30]`` bytes.
    """

    def __init__(self, description: str) -> None:
        self._slices: dict[str, tuple[int, int, Literal["little", "big"] | None]] = {}
        end = 0
        for field in description.split(", "):
            name, size = field.split()
            start, end = end, end + int(size.strip(">[]"))
            self._slices[name] = start, end, "big" if size[0] == ">" else None if size[0] == "[" else BYTE_ORDER
        self.size = (end + 7) // 8 * 8

    def write(self, **values: int | bytes) -> bytes:
        """Return the structure with these values, and NUL in all other fields. Raise ValueError for long bytes."""
        structure = bytearray(self.size)
        for name, value in values.items():
            start, end, order = self._slices[name]
            if isinstance(value, bytes):
                if len(value) > end - start:
                    raise ValueError(f"{name} has at most {end - start} bytes: {value!r}")
                end = start + len(value)
            structure[start:end] = value if isinstance(value, bytes) else value.to_bytes(end - start, order or "big")
        return bytes(structure)

    def read(self, structure: bytes) -> Unpacked:
        """Return the fields of a structure. The kernel hands out structures in full."""
        return {
            name: int.from_bytes(structure[start:end], order) if order else structure[start:end]
            for name, (start, end, order) in self._slices.items()
        }
