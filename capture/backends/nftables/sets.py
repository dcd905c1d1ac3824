"""The sets of nf_tables that hold lists: their elements as they are written, and as the kernel dumps them. Pure."""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import data, nest
from capture.backends.nftables.native import ADDRESS_FAMILIES, DPORT, HOST_ORDER, SIZES, SKGID, SKUID, SPORT
from capture.model.addresses import merge_ranges
from capture.model.values import Value
from capture.netlink.attributes import (
    BYTE_ORDER,
    attribute,
    decode_elements,
    decode_fields,
    decode_number,
    u32be,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from capture.backends.nftables.native import Among, Range

    ByteOrder = Literal["little", "big"]

UNDERSTOOD_SETS = nf.NFT_SET_ANONYMOUS | nf.NFT_SET_CONSTANT | nf.NFT_SET_INTERVAL


MAX_PLAIN = 1000
"""Up to so many numbers are a plain set. The kernel keeps one of ports as a bitmap, whose every insertion visits all
that is there (nft_bitmap_elem_find() in net/netfilter/nft_set_bitmap.c): intervals of 20,000 take an eighth of it."""

# Data types of keys, as nft numbers them (enum datatypes in nftables' datatype.h): to the kernel a mere note.
KEY_TYPES = {SKUID: 24, SKGID: 25}
KEY_TYPES |= dict.fromkeys((*SPORT.values(), *DPORT.values()), 13)
KEY_TYPES |= {field: {"ipv4": 7, "ipv6": 8}[family] for field, family in ADDRESS_FAMILIES.items()}


def flags_of(condition: Among) -> int:
    """Return the flags of the set for a list."""
    return nf.NFT_SET_ANONYMOUS | nf.NFT_SET_CONSTANT | (0 if _is_plain(condition) else nf.NFT_SET_INTERVAL)


def elements_of(condition: Among) -> list[bytes]:
    """Return the elements of the set for a list, in ascending order.

    Of intervals there is an element where each begins, and one marked as an end where it has ended. As nft does, the
    part before the first range is an end too, and a range that reaches the highest number has none.
    """
    ranges, size = condition.ranges, SIZES[condition.field]
    start, after_start = _element_frame(size)
    if _is_plain(condition):
        return [start + first.to_bytes(size, "big") + after_start for first, _ in ranges]
    end, after_end = _element_frame(size, attribute(nf.NFTA_SET_ELEM_FLAGS, u32be(nf.NFT_SET_ELEM_INTERVAL_END)))
    beyond = 1 << size * 8
    elements = [
        element
        for first, last in ranges
        for element in (
            start + first.to_bytes(size, "big") + after_start,
            end + ((last + 1) % beyond).to_bytes(size, "big") + after_end,
        )
    ]
    before = [end + bytes(size) + after_end] if ranges[0][0] > 0 else []
    return before + (elements[:-1] if ranges[-1][1] + 1 == beyond else elements)


def _is_plain(condition: Among) -> bool:
    few = len(condition.ranges) <= MAX_PLAIN
    return few and condition.field not in HOST_ORDER and all(first == last for first, last in condition.ranges)


def _element_frame(size: int, *after_key: bytes) -> tuple[bytes, bytes]:
    """Return what comes before and after the key of an element; elements differ in nothing else."""
    element = nest(nf.NFTA_LIST_ELEM, data(nf.NFTA_SET_ELEM_KEY, bytes(size)), *after_key)
    key_end = len(element) - len(b"".join(after_key)) - (-size & 3)
    return element[: key_end - size], element[key_end:]


class NativeSet(Value):
    """A set as it was dumped: its keys, those that end an interval apart; not understood if it has more than keys.

    Of a map, ``data`` has what each of its keys leads to, as bytes.
    """

    flags: int
    key_size: int
    keys: tuple[bytes, ...]
    ends: tuple[bytes, ...]
    understood: bool = True
    data: tuple[bytes, ...] = ()


def decode_set(description: dict[int, bytes], elements: Iterable[bytes]) -> NativeSet:
    """Return a set from its description and the messages with its elements."""
    flags = decode_number(description.get(nf.NFTA_SET_FLAGS, b""))
    size = decode_number(description[nf.NFTA_SET_KEY_LEN])
    if flags & nf.NFT_SET_MAP:
        return _decode_map(flags, size, elements)
    keys: list[bytes] = []
    ends: list[bytes] = []
    shapes: dict[bytes, list[bytes] | None] = {}
    key_end = KEY_OFFSET + size
    for message in elements:
        part = decode_fields(message).get(nf.NFTA_SET_ELEM_LIST_ELEMENTS, b"")
        offset, end = 0, len(part)
        while offset < end:
            length = int.from_bytes(part[offset : offset + 2], BYTE_ORDER)
            element = part[offset : offset + length]
            # All elements are alike but for the key, so that most need no decoding: there may be thousands.
            shape = element[key_end:]
            if shape not in shapes:
                is_end = _is_end(element, size)
                shapes[shape] = None if is_end is None else ends if is_end else keys
            one_of = shapes[shape]
            if one_of is None:
                return NativeSet(flags, size, (), (), understood=False)
            one_of.append(element[KEY_OFFSET:key_end])
            offset += (length + 3) & ~3
    return NativeSet(flags, size, tuple(keys), tuple(ends))


def _decode_map(flags: int, size: int, messages: Iterable[bytes]) -> NativeSet:
    """Return a map from the messages with its elements; it is not understood where they have more than key and data."""
    keys: list[bytes] = []
    ends: list[bytes] = []
    data: list[bytes] = []
    for message in messages:
        for element in decode_elements(decode_fields(message).get(nf.NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
            fields = decode_fields(element)
            key = decode_fields(fields.get(nf.NFTA_SET_ELEM_KEY, b"")).get(nf.NFTA_DATA_VALUE, b"")
            is_end = decode_number(fields.get(nf.NFTA_SET_ELEM_FLAGS, b"")) == nf.NFT_SET_ELEM_INTERVAL_END
            if len(key) != size or not fields.keys() <= PARTS_OF_MAPS or is_end == (nf.NFTA_SET_ELEM_DATA in fields):
                return NativeSet(flags, size, (), (), understood=False)
            (ends if is_end else keys).append(key)
            data += () if is_end else (fields[nf.NFTA_SET_ELEM_DATA],)
    return NativeSet(flags, size, tuple(keys), tuple(ends), data=tuple(data))


PARTS_OF_MAPS = {nf.NFTA_SET_ELEM_KEY, nf.NFTA_SET_ELEM_DATA, nf.NFTA_SET_ELEM_FLAGS, nf.NFTA_SET_ELEM_USERDATA}
KEY_OFFSET = 12
"""Bytes before the key: the headers of the element, of its key, and of the key's value."""


def _is_end(element: bytes, size: int) -> bool | None:
    """Return whether an element ends an interval; None if it is not just a key at the usual place."""
    fields = decode_fields(element[4:])
    key = decode_fields(fields.get(nf.NFTA_SET_ELEM_KEY, b"")).get(nf.NFTA_DATA_VALUE)
    flags = decode_number(fields.get(nf.NFTA_SET_ELEM_FLAGS, b""))
    if key != element[KEY_OFFSET : KEY_OFFSET + size] or flags & ~nf.NFT_SET_ELEM_INTERVAL_END:
        return None
    if not fields.keys() <= {nf.NFTA_SET_ELEM_KEY, nf.NFTA_SET_ELEM_FLAGS, nf.NFTA_SET_ELEM_USERDATA}:
        return None
    return bool(flags)


def ranges_of(native: NativeSet, order: ByteOrder) -> tuple[Range, ...] | None:
    """Return the numbers of a set as sorted ranges that do not touch; None if it holds something else."""
    if not native.understood or native.flags & ~UNDERSTOOD_SETS:
        return None
    firsts = sorted(int.from_bytes(key, order) for key in native.keys)
    if not native.flags & nf.NFT_SET_INTERVAL:
        return tuple(merge_ranges((number, number) for number in firsts))
    if order != "big":
        return None  # intervals of numbers in another order are no intervals of numbers
    beyond = 1 << native.key_size * 8
    ends = sorted(int.from_bytes(key, order) for key in native.ends)
    return tuple(merge_ranges(_ranges_between(firsts, ends, beyond)))


def cases_of(native: NativeSet, order: ByteOrder) -> dict[bytes, tuple[Range, ...]] | None:
    """Return what a map leads to, each with the numbers that lead there as in ``ranges_of``."""
    is_interval = bool(native.flags & nf.NFT_SET_INTERVAL)
    unknown = native.flags & ~(UNDERSTOOD_SETS | nf.NFT_SET_MAP)
    if not native.understood or not native.data or unknown or (is_interval and order != "big"):
        return None
    data = dict(zip([int.from_bytes(key, order) for key in native.keys], native.data, strict=True))
    firsts = sorted(data)
    ends = sorted(int.from_bytes(key, order) for key in native.ends)
    between = _ranges_between(firsts, ends, 1 << native.key_size * 8)
    found: dict[bytes, list[Range]] = {}
    for first, last in between if is_interval else zip(firsts, firsts, strict=True):
        found.setdefault(data[first], []).append((first, last))
    return {each: tuple(merge_ranges(ranges)) for each, ranges in found.items()}


def _ranges_between(firsts: list[int], ends: list[int], beyond: int) -> Iterator[Range]:
    """Yield from where to where intervals reach: to the next end, or the next beginning, or the highest number."""
    place = 0
    for first, following in zip(firsts, [*firsts[1:], beyond], strict=True):
        while place < len(ends) and ends[place] <= first:
            place += 1
        yield first, min(ends[place] if place < len(ends) else beyond, following) - 1
