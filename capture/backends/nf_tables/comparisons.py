"""The meaning of comparisons of a register in nf_tables: conditions on fields. Pure."""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import native
from capture.model.addresses import FAMILY_BY_NUMBER, FAMILY_NUMBERS, IPV4, IPV6
from capture.model.values import Value
from capture.netlink.attributes import BYTE_ORDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from capture.backends.nf_tables.sets import ByteOrder
    from capture.model.addresses import Family
    from capture.model.ruleset import Match, ProtocolName


META_FIELDS = {key: field for field, key in native.META_KEYS.items()} | {nf.NFT_META_IIF: "iif", nf.NFT_META_OIF: "oif"}
META_FIELDS |= {0: "meta length", 1: "meta protocol", 19: "meta pkttype", 20: "meta cpu", 23: "meta cgroup"}
META_FIELDS |= {
    8: "meta iiftype",
    9: "meta oiftype",
    13: "meta rtclassid",
    21: "iifgroup",
    22: "oifgroup",
    33: "meta sdif",
}
META_FIELDS |= {24: "meta random", 25: "meta ipsec", 30: "meta time", 31: "meta day", 32: "meta hour"}
CT_NAMES = {key: field.removeprefix("ct ") for field, key in native.CT_KEYS.items()}
CT_NAMES |= {1: "direction", 2: "status", 5: "expiration", 6: "helper", 7: "l3proto", 10: "protocol", 11: "proto-src"}
CT_NAMES |= {12: "proto-dst", 14: "packets", 15: "bytes", 16: "avgpkt", 17: "zone"}
CT_NAMES |= {19: "ip saddr", 20: "ip daddr", 21: "ip6 saddr", 22: "ip6 daddr"}
FIB_FIELDS = {
    (nf.NFT_FIB_RESULT_ADDRTYPE, nf.NFTA_FIB_F_SADDR): "fib saddr type",
    (nf.NFT_FIB_RESULT_ADDRTYPE, nf.NFTA_FIB_F_DADDR): "fib daddr type",
}
CT_DIRECTIONS = {b"\0": "original ", b"\1": "reply "}


ACTING_ON_ONE_FAMILY: dict[str, tuple[int, Mapping[int, Family]]] = {
    "nat": (nf.NFTA_NAT_FAMILY, FAMILY_BY_NUMBER),
    "tproxy": (nf.NFTA_TPROXY_FAMILY, FAMILY_BY_NUMBER),
    "ct": (nf.NFTA_CT_KEY, {19: IPV4, 20: IPV4, 21: IPV6, 22: IPV6}),
    "rt": (2, {1: IPV4, 2: IPV6}),
}
"""Expressions that in a table of both families act on one, or match one, by a number in one of their attributes."""


class Register(Value):
    """The content of a register: a field or bytes of a header (base, offset, length), and what happened to it."""

    field: str
    header: tuple[int, int, int] | None = None
    mask: bytes = b""
    flip: bytes = b""
    is_network_order: bool = False

    @property
    def words(self) -> str:
        """Return what it holds in nft's notation, ``@nh,96,32`` for bits of a header."""
        words = self.field
        if self.header is not None:
            base, offset, length = self.header
            words = f"@{HEADER_NAMES.get(base, base)},{offset * 8},{length * 8}"
        return f"{words} & 0x{self.mask.hex()} ^ 0x{self.flip.hex()}" if self.mask else words

    @property
    def byte_order(self) -> ByteOrder:
        """Return in which order its bytes are a number; ranges of others than "big" cannot be compared."""
        return BYTE_ORDER if self.field in native.HOST_ORDER and not self.is_network_order else "big"

    @property
    def is_pure(self) -> bool:
        """Return whether it is the same for one packet, wherever it is loaded."""
        return self.field not in ("meta random", "meta time", "meta day", "meta hour")


HEADER_NAMES = {0: "ll", nf.NFT_PAYLOAD_NETWORK_HEADER: "nh", nf.NFT_PAYLOAD_TRANSPORT_HEADER: "th", 3: "ih"}


class OtherRegister(Register):
    """The content of a register that only foreign rules load: one of the numbers of a generator, or a way back.

    ``numbers`` is empty if it is of no generator; a way back is 0 if there is none.
    """

    numbers: range = range(0)
    is_way_back: bool = False

    @property
    def is_pure(self) -> bool:
        return not self.numbers


ETHER_TYPE = Register("meta protocol")
"""NFT_META_PROTOCOL: how a table of family netdev distinguishes IPv4 from IPv6."""
FAMILY_OF_ETHER_TYPE = {b"\x08\x00": FAMILY_NUMBERS[IPV4], b"\x86\xdd": FAMILY_NUMBERS[IPV6]}
"""linux/if_ether.h"""


class Bounds(Value):
    """The values that a comparison lets pass, or, negated, those it does not; empty if there are none."""

    low: bytes
    high: bytes
    negated: bool = False

    @property
    def is_single(self) -> bool:
        return self.low == self.high

    def __str__(self) -> str:
        values = f"0x{self.low.hex()}" if self.is_single else f"0x{self.low.hex()}-0x{self.high.hex()}"
        return f"!= {values}" if self.negated else f"== {values}"


class HeaderField(Value):
    """A field in some bytes of a header: its first ``taken`` bytes are there, from byte ``start`` on."""

    field: str
    start: int
    taken: int


def comparison_conditions(
    loaded: Register, bounds: Bounds, family: Family | None, protocol: ProtocolName | None
) -> Iterator[Match]:
    """Yield what it means that a register lies between two values; nothing if the model has no words for it."""
    low, negated = bounds.low, bounds.negated
    if loaded.header is not None:
        if len(low) == loaded.header[2]:
            yield from _header_conditions(loaded, bounds, header_fields(loaded.header, family, protocol))
    elif loaded == ETHER_TYPE:
        if bounds.is_single and low in FAMILY_OF_ETHER_TYPE:
            yield native.Among(native.NFPROTO, ((FAMILY_OF_ETHER_TYPE[low],) * 2,), negated)
    elif loaded.field in (native.IIFNAME, native.OIFNAME):
        if bounds.is_single and low and not loaded.mask:
            # With a NUL it is a whole name, without one a beginning; nft pads to 16 bytes, iptables-nft does not.
            name = low.rstrip(b"\0").decode("utf-8", "surrogateescape")
            yield native.Named(loaded.field, name, b"\0" not in low, negated)
    elif len(low) == native.FIELD_SIZES.get(loaded.field):
        order = loaded.byte_order
        first, last = int.from_bytes(low, order), int.from_bytes(bounds.high, order)
        if loaded.mask and bounds.is_single:
            mask, flip = int.from_bytes(loaded.mask, order), int.from_bytes(loaded.flip, order)
            yield native.Masked(loaded.field, mask, first ^ flip, negated)
        elif not loaded.mask and (bounds.is_single or order == "big"):
            yield native.Among(loaded.field, ((first, last),), negated)


def _header_conditions(loaded: Register, bounds: Bounds, parts: list[HeaderField]) -> Iterator[Match]:
    if bounds.is_single:
        conditions = [_prefix_condition(loaded, bounds, part) for part in parts]
        if None not in conditions and not (bounds.negated and len(conditions) > 1):
            yield from (condition for condition in conditions if condition is not None)
    elif len(parts) == 1 and parts[0].taken == native.FIELD_SIZES[parts[0].field] and not loaded.mask:
        ends = int.from_bytes(bounds.low, "big"), int.from_bytes(bounds.high, "big")
        yield native.Among(parts[0].field, (ends,), bounds.negated)


def _prefix_condition(loaded: Register, bounds: Bounds, part: HeaderField) -> native.Among | None:
    """Return what a comparison with one value means for a field; None if it is not about its first bits."""
    size = native.FIELD_SIZES[part.field]
    missing = (size - part.taken) * 8
    place = slice(part.start, part.start + part.taken)
    mask = int.from_bytes(loaded.mask[place], "big") if loaded.mask else (1 << part.taken * 8) - 1
    flip = int.from_bytes(loaded.flip[place], "big")
    first = (int.from_bytes(bounds.low[place], "big") ^ flip) << missing
    free = (1 << size * 8) - 1 ^ mask << missing
    if free & free + 1 or first & free:
        return None
    return native.Among(part.field, ((first, first | free),), bounds.negated)


def header_fields(
    header: tuple[int, int, int], family: Family | None, protocol: ProtocolName | None
) -> list[HeaderField]:
    """Return the fields in some bytes of a header.

    Bytes that are not all of known fields, each from its beginning, give an empty list.
    """
    base, offset, length = header
    fields: tuple[str, ...] = ()
    if base == nf.NFT_PAYLOAD_NETWORK_HEADER and family is not None:
        fields = (native.SADDR[family], native.DADDR[family])
        if family == IPV4:  # where iptables-nft compares the protocol since 1.8.11
            fields = (native.L4PROTO, *fields)
    elif base == nf.NFT_PAYLOAD_TRANSPORT_HEADER and protocol is not None:
        fields = (native.SPORT[protocol], native.DPORT[protocol])
    parts: list[HeaderField] = []
    position = offset
    for field in fields:
        if native.OFFSETS[field] == position < offset + length:
            taken = min(native.FIELD_SIZES[field], offset + length - position)
            parts.append(HeaderField(field, position - offset, taken))
            position += taken
    return parts if position == offset + length else []
