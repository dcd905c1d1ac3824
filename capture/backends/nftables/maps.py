"""Sets and maps of foreign rules, key by key: of interfaces, of several fields at once, and what maps lead to. Pure.

A key of several fields has each of them in registers of its own, in whole ones of four bytes.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nftables import native
from capture.backends.nftables.comparisons import ETHER_TYPE, Bounds, Register, conditions_of
from capture.backends.nftables.sets import MAX_PLAIN, NativeSet
from capture.model import ruleset as model
from capture.model.conventions import PROTOCOL_OF
from capture.model.values import Value
from capture.netlink.attributes import decode_host_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from capture.model.addresses import Family
    from capture.model.ruleset import ProtocolName

    Case = tuple[tuple[model.Match, ...], bytes]

REGISTER_SIZE = 4
SINGLE_KEYS = nf.NFT_SET_ANONYMOUS | nf.NFT_SET_CONSTANT | nf.NFT_SET_MAP
SIZES = (
    native.SIZES
    | {native.IIFNAME: 16, native.OIFNAME: 16, ETHER_TYPE.field: 2}
    | dict.fromkeys(native.MARKS.values(), 0)
)
"""Of fields; none of marks, which may change between two keys."""
NUMGEN = "numgen "


class Found(Value):
    """What a register holds after a look-up in a map: by the conditions of each key, its data from a byte on."""

    subject: str
    cases: tuple[Case, ...]
    offset: int = 0


Content = Register | Found | bytes | None
"""What is known of a register."""


def done_by_key(make: Callable[..., model.Verdict], *values: tuple[Content, int]) -> model.Verdict | None:
    """Return what is done with values in registers, each with its size; by key, if they are from a map.

    ``make`` returns it for their bytes. None if a value is not known.
    """
    maps = dict.fromkeys((each.subject, each.cases) for each, _ in values if isinstance(each, Found))
    if len(maps) > 1 or not all(isinstance(each, bytes | Found) for each, _ in values):
        return None
    if not maps:
        return make(*[each for each, _ in values])
    ((subject, cases),) = maps

    def of(data: bytes) -> list[bytes]:
        return [data[at.offset :][:size] if isinstance(at, Found) else at for at, size in values]  # type: ignore[misc]  # checked above

    return native.VerdictMap(subject, tuple((key, make(*of(data))) for key, data in cases))


def cases_by_key(
    listed: NativeSet,
    registers: Mapping[int, Content],
    first: int,
    family: Family | None,
    protocol: ProtocolName | None,
) -> tuple[Case, ...]:
    """Return for each key in the registers from the first on what it means, and its data.

    None if a key has no words, or may change, or if there are many. Keys exclude each other; the last of all that a
    generator of numbers gives is for what is left.
    """
    fields = _fields(registers, first, listed.key_size)
    if not fields or not listed.understood or listed.flags & ~SINGLE_KEYS or len(listed.keys) > MAX_PLAIN:
        return ()
    found = [_conditions(key, fields, family, protocol) for key in listed.keys]
    if fields[0].field.startswith(NUMGEN) and fields[0].field.rpartition(" mod ")[2] == str(len(found)):
        found[-1] = ()
    data = listed.data or (b"",) * len(found)
    return () if None in found else tuple((each or (), value) for each, value in zip(found, data, strict=True))


def _fields(registers: Mapping[int, Content], first: int, key_size: int) -> list[Register]:
    """Return the fields in the registers of a key; none if the size of one is unknown, or a mark may change."""
    fields: list[Register] = []
    position = 0
    while position < key_size:
        loaded = registers.get(first + position // REGISTER_SIZE)
        if (
            not isinstance(loaded, Register)
            or loaded.mask
            or loaded.field in native.MARKS.values()
            or not _size(loaded)
        ):
            return []
        fields.append(loaded)
        position += _size(loaded) + -_size(loaded) % REGISTER_SIZE
    return fields


def _size(loaded: Register) -> int:
    if loaded.header is not None:
        return loaded.header[2]
    return REGISTER_SIZE if loaded.field.startswith(NUMGEN) else SIZES.get(loaded.field, 0)


def _conditions(
    key: bytes, fields: list[Register], family: Family | None, protocol: ProtocolName | None
) -> tuple[model.Match, ...] | None:
    """Return what one key means, a port by the protocol before it; None if the model has no words for it."""
    found: list[model.Match] = []
    position = 0
    for loaded in fields:
        value = key[position : position + _size(loaded)]
        conditions = [*conditions_of(loaded, Bounds(value, value), family, protocol)]
        if loaded.field.startswith(NUMGEN):
            conditions = [model.UnknownMatch(f"{loaded.field} == {decode_host_number(value)}")]
        if not conditions:
            return None
        if isinstance(conditions[0], native.Among) and conditions[0].field == native.L4PROTO:
            protocol = PROTOCOL_OF.get(conditions[0].ranges[0][0])
        found += conditions
        position += _size(loaded) + -_size(loaded) % REGISTER_SIZE
    return tuple(found)
