"""Sets and maps of foreign rules, key by key: of interfaces, of several fields at once, and what maps lead to. Pure.

A key of several fields has each of them in registers of its own, in whole ones of four bytes.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import native
from capture.backends.nf_tables.comparisons import ETHER_TYPE, Bounds, OtherRegister, Register, comparison_conditions
from capture.model import foreign
from capture.model import ruleset as model
from capture.model.conventions import INTERFACE_NAME_SIZE, PROTOCOL_BY_NUMBER
from capture.model.values import Value
from capture.netlink.attributes import decode_host_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from capture.backends.nf_tables.sets import NativeSet
    from capture.model.addresses import Family
    from capture.model.ruleset import ProtocolName

    Case = tuple[tuple[native.Condition, ...], bytes]

REGISTER_SIZE = 4
SINGLE_KEYS = nf.NFT_SET_ANONYMOUS | nf.NFT_SET_CONSTANT | nf.NFT_SET_MAP
KEY_SIZES = native.FIELD_SIZES | {
    native.IIFNAME: INTERFACE_NAME_SIZE,
    native.OIFNAME: INTERFACE_NAME_SIZE,
    ETHER_TYPE.field: 2,
}
KEY_SIZES |= dict.fromkeys(native.MARK_FIELDS.values(), 0)
"""Of fields; none of marks, which may change between two keys."""
ANY_PROTOCOL = foreign.Protocols((), negated=True)
"""A test that holds for every packet."""
MAX_KEY_CASES = 100
"""A set or a map with more keys, or with more different addresses, stays unknown: to judge thousands takes long."""


class MapData(Value):
    """What a register holds after a look-up in a map: its data by the conditions of each key."""

    subject: str
    cases: tuple[Case, ...]


Content = Register | MapData | bytes | None
"""What is known of a register."""


def done_by_key(make: Callable[..., native.Action], *values: tuple[Content, int]) -> native.Action | None:
    """Return what ``make`` returns for values in registers, each with its size, by the key of the map that has them.

    None if a value is not known, or if they are from several maps.
    """
    mapped = [value for value, _ in values if isinstance(value, MapData)]
    keys = {tuple(key for key, _ in data.cases) for data in mapped}
    if len(keys) != 1 or not all(isinstance(value, bytes | MapData) for value, _ in values):
        return None
    columns = [[data[:size] for _, data in each.cases] if isinstance(each, MapData) else each for each, size in values]
    rows = [[each[row] if isinstance(each, list) else each for each in columns] for row in range(len(mapped[0].cases))]
    return native.Cases(mapped[0].subject, tuple(zip(keys.pop(), (make(*row) for row in rows), strict=True)))


def cases_by_key(
    listed: NativeSet, registers: Mapping[int, Content], first: int, packets: tuple[Family | None, ProtocolName | None]
) -> tuple[Case, ...]:
    """Return what each key means, by the registers from ``first`` on that it is compared with, and its data.

    Empty if a key has no words, or may change, or if there are many. Keys exclude each other; the last of all that a
    generator of numbers gives is for what is left.
    """
    fields = key_fields(registers, first, listed.key_size)
    if not fields or not listed.is_understood or listed.flags & ~SINGLE_KEYS or len(listed.keys) > MAX_KEY_CASES:
        return ()
    conditions = [_key_conditions(key, fields, *packets) for key in listed.keys]
    numbers = getattr(fields[0][0], "numbers", ()) if len(fields) == 1 else ()
    if len(numbers) == len(conditions) and all(decode_host_number(key) in numbers for key in listed.keys):
        conditions[-1] = tuple(each.replace(test=ANY_PROTOCOL) for each in conditions[-1] or ())
    data = listed.data or (b"",) * len(conditions)
    cases = zip(conditions, data, strict=True)
    return () if None in conditions else tuple((each or (), value) for each, value in cases)


def key_fields(registers: Mapping[int, Content], first: int, key_size: int) -> list[tuple[Register, slice]]:
    """Return the fields in the registers of a key, with their places in it; none if the size of one is unknown."""
    fields: list[tuple[Register, slice]] = []
    position = 0
    while position < key_size:
        loaded = registers.get(first + position // REGISTER_SIZE)
        if not isinstance(loaded, Register) or loaded.mask or not _field_size(loaded):
            return []
        fields.append((loaded, slice(position, position + _field_size(loaded))))
        position += _field_size(loaded) + -_field_size(loaded) % REGISTER_SIZE
    end = position if len(fields) > 1 else fields[0][1].stop
    return fields if end == key_size else []


def _field_size(loaded: Register) -> int:
    if loaded.header is not None:
        return loaded.header[2]
    return REGISTER_SIZE if isinstance(loaded, OtherRegister) and loaded.numbers else KEY_SIZES.get(loaded.field, 0)


def _key_conditions(
    key: bytes, fields: list[tuple[Register, slice]], family: Family | None, protocol: ProtocolName | None
) -> tuple[native.Condition, ...] | None:
    """Return what one key means, a port by the protocol before it; None if the model has no words for it."""
    key_conditions: list[native.Condition] = []
    for loaded, place in fields:
        conditions = [*comparison_conditions(loaded, Bounds(key[place], key[place]), family, protocol)]
        if isinstance(loaded, OtherRegister) and loaded.numbers:
            conditions = [model.UnknownMatch(f"{loaded.field} {decode_host_number(key[place])}", is_pure=False)]
        if not conditions:
            return None
        if isinstance(conditions[0], native.Among) and conditions[0].field == native.L4PROTO:
            protocol = PROTOCOL_BY_NUMBER.get(conditions[0].ranges[0][0])
        key_conditions += conditions
    return tuple(key_conditions)
