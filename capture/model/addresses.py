"""Networks of both families as values, without the cost of importing ``ipaddress`` (5 ms).

A network is its family, its first address as an integer, and a prefix length in bits. Text is read
and written by the C library (inet_pton(3), inet_ntop(3)), so that what we print is canonical.
"""

from __future__ import annotations

import _socket

from capture.model.values import Value, set_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    Family = Literal["ipv4", "ipv6"]
else:
    Family = str  # a name to import for those who can afford it; `typing` costs the hot path milliseconds

IPV4: Family = "ipv4"
IPV6: Family = "ipv6"
FAMILIES: tuple[Family, ...] = (IPV4, IPV6)
FAMILY_NAMES: dict[Family, str] = {IPV4: "IPv4", IPV6: "IPv6"}
ANY_ADDRESS: dict[Family, str] = {IPV4: "0.0.0.0", IPV6: "::"}

BITS = {IPV4: 32, IPV6: 128}
FAMILY_NUMBERS: dict[Family, int] = {IPV4: _socket.AF_INET, IPV6: _socket.AF_INET6}
FAMILY_BY_NUMBER: dict[int, Family] = {number: family for family, number in FAMILY_NUMBERS.items()}
"""Those of sockets and routes (AF_INET in linux/socket.h), and of netfilter (NFPROTO_IPV4 in linux/netfilter.h)."""


class Network(Value):
    """A range of addresses that share a prefix; one address is a network with all bits fixed."""

    family: Family
    first: int
    prefix: int

    def __init__(self, family: Family, first: int, prefix: int) -> None:
        # What every value can do, in half the time: lists have thousands of these.
        set_field(self, "family", family)
        set_field(self, "first", first)
        set_field(self, "prefix", prefix)

    def __hash__(self) -> int:
        return hash((self.first, self.prefix))

    @property
    def last(self) -> int:
        """Return the highest address of the network, as an integer."""
        return self.first | ((1 << (BITS[self.family] - self.prefix)) - 1)

    @property
    def packed(self) -> bytes:
        """Return the first address in network byte order."""
        return self.first.to_bytes(BITS[self.family] // 8, "big")

    @property
    def is_address(self) -> bool:
        return self.prefix == BITS[self.family]

    @property
    def is_everything(self) -> bool:
        """Return whether the network holds every address of its family."""
        return self.prefix == 0

    @property
    def is_loopback(self) -> bool:
        """Return whether the network starts in 127.0.0.0/8 or is ::1 (RFC 1122 3.2.1.3, RFC 4291 2.5.3)."""
        if self.family == IPV4:
            return self.first >> 24 == 127
        return self.first == 1

    @property
    def unmapped(self) -> Network:
        """Return the IPv4 address that IPv6 sockets write as ::ffff:10.0.0.1 (RFC 4291 2.5.5.2), else this one."""
        is_mapped = self.prefix == BITS[IPV6] and self.first >> 32 == 0xFFFF
        return Network(IPV4, self.first & 0xFFFF_FFFF, 32) if is_mapped else self

    @property
    def is_link_local(self) -> bool:
        """Return whether the network starts in 169.254.0.0/16 or fe80::/10 (RFC 3927, RFC 4291 2.5.6)."""
        if self.family == IPV4:
            return self.first >> 16 == 0xA9FE
        return self.first >> 118 == 0xFE80 >> 6

    def contains(self, address: int) -> bool:
        """Return whether an address of the same family, as an integer, lies in the network."""
        return self.first <= address <= self.last

    @property
    def shown(self) -> str:
        """Return a single address without its prefix, ``10.0.0.1``, and a network as ``str()`` has it."""
        return address_text(self.family, self.first) if self.is_address else str(self)

    def __str__(self) -> str:
        return f"{address_text(self.family, self.first)}/{self.prefix}"


LOOPBACK_ADDRESSES: dict[Family, Network] = {IPV4: Network(IPV4, 0x7F000001, 32), IPV6: Network(IPV6, 1, 128)}
LOOPBACK_NETWORKS: dict[Family, Network] = {IPV4: Network(IPV4, 127 << 24, 8), IPV6: Network(IPV6, 1, 128)}


def address_text(family: Family, address: int) -> str:
    """Return an address as people write it: 127.0.0.1, ::1."""
    return _socket.inet_ntop(FAMILY_NUMBERS[family], address.to_bytes(BITS[family] // 8, "big"))


def parse_address(text: str) -> Network:
    """Return one address as a network of full length; ValueError if it is none."""
    family, address = _parsed_address(text)
    return Network(family, address, BITS[family])


def _parsed_address(text: str) -> tuple[Family, int]:
    try:
        return IPV4, int.from_bytes(_socket.inet_pton(_socket.AF_INET, text), "big")
    except (OSError, ValueError):
        pass
    try:
        return IPV6, int.from_bytes(_socket.inet_pton(_socket.AF_INET6, text), "big")
    except (OSError, ValueError):
        raise ValueError(f"not an IP address: {text!r}") from None


PREFIX_LENGTHS = {str(length): length for length in range(129)}
"""Prefix lengths as they are written; ``int()`` would also take signs, blanks and other scripts' digits."""


class PrefixError(ValueError):
    """What is wrong with the length of a network's prefix, in words."""


def parse_network(text: str) -> Network:
    """Return the network that ``text`` names; host bits are cleared. Raises ValueError for anything else."""
    return Network(*network_parts(text)[0])


def network_parts(text: str) -> tuple[tuple[Family, int, int], bool]:
    """Return the parts of the network that ``text`` names, and whether host bits were set, which are cleared.

    A single address is a network of one. Raises ValueError for anything else.
    """
    written_address, slash, written_prefix = text.partition("/")
    family, address = _parsed_address(written_address)
    bits = BITS[family]
    if not slash:
        return (family, address, bits), False
    prefix = PREFIX_LENGTHS.get(written_prefix)
    if prefix is None:
        raise PrefixError(f"not a prefix length: {written_prefix!r}")
    if prefix > bits:
        raise PrefixError(f"the prefix length {prefix} is longer than the {bits} bits of an address")
    first = address >> bits - prefix << bits - prefix
    return (family, first, prefix), first != address


def is_decimal(text: str, max_digits: int) -> bool:
    """Return whether ``text`` is 1 to ``max_digits`` ASCII digits without a superfluous leading zero."""
    return text.isascii() and text.isdigit() and len(text) <= max_digits and (text[0] != "0" or len(text) == 1)


def network_ranges(networks: Iterable[Network]) -> list[tuple[int, int]]:
    """Return networks of one family as sorted ranges (first, last), overlapping and adjacent ones joined."""
    bits = BITS
    return merge_ranges([(each.first, each.first | (1 << bits[each.family] - each.prefix) - 1) for each in networks])


def merge_ranges(ranges_in_any_order: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges (first, last) in order, overlapping and adjacent ones joined."""
    in_order = sorted(ranges_in_any_order)
    if len(in_order) < 2:
        return in_order
    ranges: list[tuple[int, int]] = []
    end = -3  # of the last range; -1 is a number, too
    for first, last in in_order:
        if first > end + 1:
            ranges.append((first, last))
            end = last
        elif last > end:
            ranges[-1] = (ranges[-1][0], last)
            end = last
    return ranges


def gaps(ranges: Iterable[tuple[int, int]], low: int, high: int) -> list[tuple[int, int]]:
    """Return the parts of ``low`` to ``high`` that are in none of the ranges, which are in order and apart."""
    free = []
    for first, last in ranges:
        if first > low:
            free.append((low, first - 1))
        low = max(low, last + 1)
    return [*free, (low, high)] if low <= high else free


def networks_in_range(family: Family, first: int, last: int) -> Iterator[Network]:
    """Yield the fewest networks that together are the range from ``first`` to ``last``."""
    bits = BITS[family]
    while first <= last:
        alignment = (first & -first).bit_length() - 1 if first else bits
        size = min(alignment, (last - first + 1).bit_length() - 1)
        yield Network(family, first, bits - size)
        first += 1 << size


def collapse(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Return the fewest networks, in order, that hold the same addresses as ``networks`` of one family.

    Networks that nothing merges with are returned as they are: that is most of them, and creating new ones for a
    long list takes time.
    """
    networks = tuple(networks)
    if len(networks) < 2:
        return networks
    family = networks[0].family
    by_range = {(network.first, network.last): network for network in networks}
    collapsed: list[Network] = []
    for first, last in merge_ranges(by_range):
        same = by_range.get((first, last))
        if same is not None:
            collapsed.append(same)
        else:
            collapsed += networks_in_range(family, first, last)
    return tuple(collapsed)
