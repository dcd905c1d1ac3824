"""The sets of nf_tables that hold lists: their elements as they are written, and as the kernel dumps them. Pure."""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import data, nest
from capture.backends.nf_tables.native import ADDRESS_FAMILIES, DPORT, FIELD_SIZES, HOST_ORDER, SKGID, SKUID, SPORT
from capture.model.addresses import IPV4, IPV6, merge_ranges
from capture.model.values import Value
from capture.netlink.attributes import Fields, attribute, decode_elements, decode_fields, decode_number, u32be

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from capture.backends.nf_tables.native import Among, Range

    ByteOrder = Literal["little", "big"]

UNDERSTOOD_SETS = nf.NFT_SET_ANONYMOUS | nf.NFT_SET_CONSTANT | nf.NFT_SET_INTERVAL | nf.NFT_SET_MAP

MAX_PLAIN = 1000
"""Up to so many numbers are a plain set. The kernel keeps one of ports as a bitmap, whose every insertion visits all
that is there (nft_bitmap_elem_find() in net/netfilter/nft_set_bitmap.c): 20,000 intervals take an eighth of that."""

ADDRESS_KEY_TYPES = {IPV4: nf.TYPE_IPADDR, IPV6: nf.TYPE_IP6ADDR}
KEY_TYPES = {SKUID: nf.TYPE_UID, SKGID: nf.TYPE_GID}
KEY_TYPES |= dict.fromkeys((*SPORT.values(), *DPORT.values()), nf.TYPE_INET_SERVICE)
KEY_TYPES |= {field: ADDRESS_KEY_TYPES[family] for field, family in ADDRESS_FAMILIES.items()}


def set_flags(condition: Among) -> int:
    """Return the flags of the set for a list."""
    return nf.NFT_SET_ANONYMOUS | nf.NFT_SET_CONSTANT | (0 if _is_plain(condition) else nf.NFT_SET_INTERVAL)


def set_elements(condition: Among) -> list[bytes]:
    """Return the elements of the set for a list, in ascending order.

    Of intervals there is an element where each begins, and one marked as an end where it has ended. As nft does, the
    part before the first range is an end too, and a range that reaches the highest number has none.
    """
    ranges, size = condition.ranges, FIELD_SIZES[condition.field]
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
    is_understood: bool = True
    data: tuple[bytes, ...] = ()


def decode_set(description: Fields, messages: Iterable[bytes]) -> NativeSet:
    """Return a set or a map from its description and the messages with its elements."""
    flags = decode_number(description.get(nf.NFTA_SET_FLAGS, b""))
    size = decode_number(description[nf.NFTA_SET_KEY_LEN])
    keys: list[bytes] = []
    ends: list[bytes] = []
    targets: list[bytes] = []
    shapes: dict[bytes, bytes | bool | None] = {}
    key_end = KEY_OFFSET + size
    for message in messages:
        for element in decode_elements(decode_fields(message).get(nf.NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
            # Most elements are alike but for the key, so that they need no decoding: there may be thousands.
            shape = element[key_end:]
            if shape not in shapes:
                shapes[shape] = _data_or_end(element, size, is_map=bool(flags & nf.NFT_SET_MAP))
            leads_to = shapes[shape]
            if leads_to is None:
                return NativeSet(flags, size, (), (), is_understood=False)
            (ends if leads_to is True else keys).append(element[KEY_OFFSET:key_end])
            if isinstance(leads_to, bytes):
                targets.append(leads_to)
    return NativeSet(flags, size, tuple(keys), tuple(ends), data=tuple(targets))


KEY_OFFSET = 8
"""Bytes before the key: the headers of the key and of its value."""


def _data_or_end(element: bytes, size: int, *, is_map: bool) -> bytes | bool | None:
    """Return the data of an element of a map, else whether it ends an interval; None if it has more than that."""
    fields = decode_fields(element)
    key = decode_fields(fields.pop(nf.NFTA_SET_ELEM_KEY, b"")).get(nf.NFTA_DATA_VALUE)
    flags = decode_number(fields.pop(nf.NFTA_SET_ELEM_FLAGS, b""))
    target = fields.pop(nf.NFTA_SET_ELEM_DATA, None)
    fields.pop(nf.NFTA_SET_ELEM_USERDATA, None)
    is_end = flags == nf.NFT_SET_ELEM_INTERVAL_END
    if fields or key != element[KEY_OFFSET : KEY_OFFSET + size] or (flags and not is_end):
        return None
    if (target is not None) != (is_map and not is_end):
        return None
    return is_end if target is None else target


def cases_of(native: NativeSet, order: ByteOrder) -> dict[bytes, tuple[Range, ...]]:
    """Return the numbers that a map leads to each of its data, as sorted ranges that do not touch; for a set to b"".

    Empty if it holds something else than numbers.
    """
    ranges = _key_ranges(native, order)
    targets = dict(zip([int.from_bytes(key, order) for key in native.keys], native.data, strict=False))
    ranges_of: dict[bytes, list[Range]] = {}
    for first, last in ranges:
        ranges_of.setdefault(targets.get(first, b""), []).append((first, last))
    return {each: tuple(merge_ranges(ranges)) for each, ranges in ranges_of.items()}


def _key_ranges(native: NativeSet, order: ByteOrder) -> Iterable[Range]:
    """Return the range of each key in ascending order; none if a flag is not among the understood ones.

    An interval reaches to the next end, or the next beginning, or the highest number.
    """
    is_interval = bool(native.flags & nf.NFT_SET_INTERVAL)
    if not native.is_understood or native.flags & ~UNDERSTOOD_SETS or (is_interval and order != "big"):
        return ()  # the kernel compares keys byte by byte: in another order they are no numbers
    firsts = sorted(int.from_bytes(key, order) for key in native.keys)
    if not is_interval:
        return zip(firsts, firsts, strict=True)
    limits = sorted({*firsts, *(int.from_bytes(key, order) for key in native.ends), 1 << native.key_size * 8})
    following = dict(zip(limits, [*limits[1:], 0], strict=True))
    return [(first, following[first] - 1) for first in firsts]
