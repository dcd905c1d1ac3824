"""What iptables' matches and targets look like to the kernel: C structures, in and out. Pure.

nf_tables carries them as they are ("compat": a name, a revision, a blob), so these are the very structures of
x_tables. Each function that writes one is next to the one that reads it. Numbers are in the byte order
of the machine unless a header says ``__be16`` or ``__be32``; a structure is padded to a multiple of 8 bytes
(XT_ALIGN in linux/netfilter/x_tables.h; 4 on 32-bit x86 alone, which no mesh runs on).

A revision is a version of the structure. Ours are those that iptables 1.8.9 takes on any kernel since 4.18;
what older releases of iptables wrote is read too.

Readers return None for what the model has no word for: ``xt_words`` has words to print for it.
"""

from __future__ import annotations

from capture.model.addresses import IPV4, split
from capture.model.ruleset import (
    ALL_BITS,
    CONNECTION_STATES,
    ConnectionMark,
    ConnectionState,
    Destination,
    DestinationPort,
    Log,
    Mark,
    OwnerGid,
    OwnerUid,
    Redirect,
    RestoreMark,
    SaveMark,
    SetMark,
    SetZone,
    Source,
    SourcePort,
    Span,
    TransparentProxy,
)
from capture.netlink.attributes import BYTE_ORDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.model.addresses import Family, Network
    from capture.model.ruleset import Match, Verdict

    MatchReader = Callable[[bytes, Family], tuple[Match, ...] | None]
    TargetReader = Callable[[bytes, Family], Verdict | None]

MATCH_REVISIONS = {"owner": 1, "multiport": 1, "connmark": 1, "conntrack": 3, "iprange": 1, "comment": 0}
TARGET_REVISIONS = {"REDIRECT": 0, "TPROXY": 1, "MARK": 2, "CONNMARK": 2, "CT": 2, "LOG": 0}
"""The revisions in which we write."""

MULTIPORT_SLOTS = 15
"""Ports in one multiport match; a range takes two (XT_MULTI_PORTS in linux/netfilter/xt_multiport.h)."""
COMMENT_SIZE = 256
LOG_PREFIX_SIZE = 30


def aligned(structure: bytes) -> bytes:
    """Return the structure padded as the kernel expects it (XT_ALIGN)."""
    return structure + bytes(-len(structure) & 7)


def _u16(number: int) -> bytes:
    return number.to_bytes(2, BYTE_ORDER)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, BYTE_ORDER)


def _be16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def u16_at(structure: bytes, place: int) -> int:
    """Return the number of 16 bits at a place, in the order of the machine."""
    return int.from_bytes(structure[place : place + 2], BYTE_ORDER)


def u32_at(structure: bytes, place: int) -> int:
    """Return the number of 32 bits at a place, in the order of the machine."""
    return int.from_bytes(structure[place : place + 4], BYTE_ORDER)


def be16_at(structure: bytes, place: int) -> int:
    """Return the big-endian number of 16 bits at a place."""
    return int.from_bytes(structure[place : place + 2], "big")


# --- owner: linux/netfilter/xt_owner.h, struct xt_owner_match_info --------------------------------
#
#     0        4        8        12       16      17
#     | uid_min| uid_max| gid_min| gid_max| match | invert |

OWNER_UID, OWNER_GID = 1, 2  # XT_OWNER_UID, XT_OWNER_GID; the others are the socket itself and supplementary groups


def owner(kind: type[OwnerUid | OwnerGid], ids: Span, *, negated: bool) -> bytes:
    """Return the match for one span of user or group ids."""
    span = _u32(ids.first) + _u32(ids.last)
    if kind is OwnerUid:
        return span + bytes(8) + bytes((OWNER_UID, OWNER_UID * negated)) + bytes(6)
    return bytes(8) + span + bytes((OWNER_GID, OWNER_GID * negated)) + bytes(6)


def read_owner(structure: bytes, _family: Family) -> tuple[Match, ...] | None:
    """Return what ``owner`` wrote, or both at once."""
    flags, inverted = structure[16], structure[17]
    if not flags or flags & ~(OWNER_UID | OWNER_GID):
        return None
    matches: list[Match] = []
    if flags & OWNER_UID:
        span = Span(u32_at(structure, 0), u32_at(structure, 4))
        matches.append(OwnerUid((span,), bool(inverted & OWNER_UID)))
    if flags & OWNER_GID:
        span = Span(u32_at(structure, 8), u32_at(structure, 12))
        matches.append(OwnerGid((span,), bool(inverted & OWNER_GID)))
    return tuple(matches)


# --- ports: linux/netfilter/xt_multiport.h, struct xt_multiport_v1 --------------------------------
#
#     0       1       2            32            47
#     | flags | count | ports [15] | pflags [15] | invert |     pflags: the next port is the end of a range

PORT_KINDS: tuple[type[SourcePort | DestinationPort], ...] = (SourcePort, DestinationPort)
# XT_MULTIPORT_SOURCE, XT_MULTIPORT_DESTINATION


def multiport(kind: type[SourcePort | DestinationPort], ports: list[Span], *, negated: bool) -> bytes:
    """Return the match for as many ports as have room."""
    numbers: list[int] = []
    ranges: list[int] = []
    for span in ports:
        if span.first == span.last:
            numbers.append(span.first)
            ranges.append(0)
        else:
            numbers += (span.first, span.last)
            ranges += (1, 0)
    return (
        bytes((PORT_KINDS.index(kind), len(numbers)))
        + b"".join(map(_u16, numbers)).ljust(2 * MULTIPORT_SLOTS, b"\0")
        + bytes(ranges).ljust(MULTIPORT_SLOTS, b"\0")
        + bytes((negated,))
    )


def read_multiport(structure: bytes, _family: Family) -> tuple[Match, ...] | None:
    """Return what ``multiport`` wrote."""
    spans = spans_of(structure)
    if spans is None or structure[0] >= len(PORT_KINDS):
        return None
    return (PORT_KINDS[structure[0]](spans, bool(structure[47])),)


def spans_of(structure: bytes) -> tuple[Span, ...] | None:
    """Return the ports of a multiport match; None for a number of them that it cannot hold."""
    count = structure[1]
    if not 0 < count <= MULTIPORT_SLOTS:
        return None
    spans: list[Span] = []
    slot = 0
    while slot < count:
        first = u16_at(structure, 2 + 2 * slot)
        slot += structure[32 + slot]
        spans.append(Span(first, u16_at(structure, 2 + 2 * slot)))
        slot += 1
    return tuple(spans)


def read_tcp(structure: bytes, _family: Family) -> tuple[Match, ...] | None:
    """Return the ports of linux/netfilter/xt_tcpudp.h, struct xt_tcp, which iptables wrote up to 1.8.7.

    ``| sport | to | dport | to | option | flg_mask | flg_cmp | invflags |``, the ports of 16 bits.
    """
    option, flags, _, inverted = structure[8:12]
    return None if option or flags else _ports(structure, inverted)


def read_udp(structure: bytes, _family: Family) -> tuple[Match, ...] | None:
    """Return the ports of linux/netfilter/xt_tcpudp.h, struct xt_udp: ``| sport | to | dport | to | invflags |``."""
    return _ports(structure, structure[8])


def _ports(structure: bytes, inverted: int) -> tuple[Match, ...]:
    """Return source and destination ports, where they are tested; XT_TCP_INV_SRCPT is 1, _DSTPT is 2."""
    matches: list[Match] = []
    for direction, kind in enumerate(PORT_KINDS):
        span = Span(u16_at(structure, 4 * direction), u16_at(structure, 4 * direction + 2))
        negated = bool(inverted & 1 << direction)
        if negated or (span.first, span.last) != (0, 0xFFFF):
            matches.append(kind((span,), negated))
    return tuple(matches)


# --- marks: linux/netfilter/xt_mark.h and xt_connmark.h, struct xt_mark_mtinfo1, xt_connmark_mtinfo1 ---
#
#     0      4      8
#     | mark | mask | invert |


def connmark(match: ConnectionMark) -> bytes:
    """Return the match for the connection's mark."""
    return _u32(match.value) + _u32(match.mask) + bytes((match.negated,)) + bytes(7)


def read_connmark(structure: bytes, _family: Family) -> tuple[Match, ...]:
    """Return what ``connmark`` wrote."""
    return (ConnectionMark(u32_at(structure, 0), u32_at(structure, 4), bool(structure[8])),)


def read_mark(structure: bytes, _family: Family) -> tuple[Match, ...]:
    """Return the packet's mark, which iptables wrote so up to 1.8.8."""
    return (Mark(u32_at(structure, 0), u32_at(structure, 4), bool(structure[8])),)


# --- connection state: linux/netfilter/xt_conntrack.h, struct xt_conntrack_mtinfo3 ----------------
#
#     0                      146           148            150          152
#     | addresses, ports ... | match_flags | invert_flags | state_mask | status_mask | ports to |
#
# Revision 2 lacks the ports at the end, revision 1 has masks of 8 bits.

CONNTRACK_SIZE = 164
CONNTRACK_STATE = 1  # XT_CONNTRACK_STATE
CONNTRACK_STATE_ALIAS = 1 << 13  # written as ``-m state --state``
STATE_BITS = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 256}  # XT_CONNTRACK_STATE_*


def conntrack(match: ConnectionState) -> bytes:
    """Return the match for states. Raise ValueError for a state that there is not."""
    bits = 0
    for state in match.states:
        if state not in STATE_BITS:
            raise ValueError(f"not a state of a connection: {state!r}")
        bits |= STATE_BITS[state]
    flags = _u16(CONNTRACK_STATE) + _u16(CONNTRACK_STATE * match.negated) + _u16(bits)
    return aligned((bytes(146) + flags).ljust(CONNTRACK_SIZE, b"\0"))


def read_conntrack(structure: bytes, _family: Family) -> tuple[Match, ...] | None:
    """Return the states of revision 2 or 3."""
    return _read_states(structure, u16_at(structure, 150))


def read_conntrack_1(structure: bytes, _family: Family) -> tuple[Match, ...] | None:
    """Return the states of revision 1."""
    return _read_states(structure, structure[150])


def _read_states(structure: bytes, bits: int) -> tuple[Match, ...] | None:
    flags, inverted = u16_at(structure, 146), u16_at(structure, 148)
    if flags & ~CONNTRACK_STATE_ALIAS != CONNTRACK_STATE or inverted & ~CONNTRACK_STATE:
        return None
    states = tuple(state for state in CONNECTION_STATES if bits & STATE_BITS[state])
    if not states or bits & ~sum(STATE_BITS.values()):
        return None
    return (ConnectionState(states, bool(inverted)),)


# --- further networks: linux/netfilter/xt_iprange.h, struct xt_iprange_mtinfo ---------------------
#
#     0         16        32        48        64
#     | src_min | src_max | dst_min | dst_max | flags |     addresses big endian, an IPv4 one in the first 4 bytes

IPRANGE_SOURCE, IPRANGE_DESTINATION = 1, 2  # IPRANGE_SRC, IPRANGE_DST
IPRANGE_NEGATED = 4  # bits to shift by, to IPRANGE_SRC_INV, IPRANGE_DST_INV


def iprange(kind: type[Source | Destination], network: Network, *, negated: bool) -> bytes:
    """Return the match for a network, as the range of its addresses."""
    size = 4 if network.family == IPV4 else 16
    ends = network.packed.ljust(16, b"\0") + network.last.to_bytes(size, "big").ljust(16, b"\0")
    flag = IPRANGE_SOURCE if kind is Source else IPRANGE_DESTINATION
    addresses = ends + bytes(32) if kind is Source else bytes(32) + ends
    return addresses + bytes((flag | flag << IPRANGE_NEGATED * negated,)) + bytes(7)


def read_iprange(structure: bytes, family: Family) -> tuple[Match, ...] | None:
    """Return ranges of addresses, where they are networks."""
    size = 4 if family == IPV4 else 16
    flags = structure[64]
    matches: list[Match] = []
    kinds: tuple[tuple[int, type[Source | Destination], int], ...] = (
        (IPRANGE_SOURCE, Source, 0),
        (IPRANGE_DESTINATION, Destination, 32),
    )
    for flag, kind, place in kinds:
        if flags & flag:
            first = int.from_bytes(structure[place : place + size], "big")
            last = int.from_bytes(structure[place + 16 : place + 16 + size], "big")
            networks = tuple(split(family, first, last))
            if len(networks) != 1:
                return None
            matches.append(kind(networks, bool(flags & flag << IPRANGE_NEGATED)))
    return tuple(matches) or None


# --- text: linux/netfilter/xt_comment.h, struct xt_comment_info -----------------------------------


def comment(text: str) -> bytes:
    """Return a comment, which matches every packet. Raise ValueError if it does not fit."""
    return _c_string(text, COMMENT_SIZE, "a comment")


def read_comment(structure: bytes) -> str:
    """Return what ``comment`` wrote."""
    return structure.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _c_string(text: str, size: int, what: str) -> bytes:
    """Return text with a NUL at its end, filled with NUL to a size."""
    encoded = text.encode("utf-8", "surrogateescape")
    if len(encoded) >= size or b"\0" in encoded:
        raise ValueError(f"{what} has at most {size - 1} bytes and no NUL: {text!r}")
    return encoded.ljust(size, b"\0")


# --- REDIRECT: linux/netfilter/nf_nat.h -----------------------------------------------------------
#
#     IPv4, struct nf_nat_ipv4_multi_range_compat     0           4       8        12       16    18
#                                                     | rangesize | flags | min_ip | max_ip | min | max |
#     IPv6, struct nf_nat_range                       0       4          20         36    38
#                                                     | flags | min_addr | max_addr | min | max |     ports __be16

NAT_PORTS = 2  # NF_NAT_RANGE_PROTO_SPECIFIED


def redirect(port: int, family: Family) -> bytes:
    """Return the target that sends connections to a port of the machine itself."""
    ports = _be16(port) * 2
    if family == IPV4:
        return aligned(_u32(1) + _u32(NAT_PORTS) + bytes(8) + ports)
    return aligned(_u32(NAT_PORTS) + bytes(32) + ports)


def read_redirect(structure: bytes, family: Family) -> Verdict | None:
    """Return a redirection to one port, without further wishes."""
    flags, ports = (4, 16) if family == IPV4 else (0, 36)
    first, last = be16_at(structure, ports), be16_at(structure, ports + 2)
    return Redirect(first) if u32_at(structure, flags) == NAT_PORTS and first == last else None


# --- TPROXY: linux/netfilter/xt_TPROXY.h, struct xt_tproxy_target_info_v1 -------------------------
#
#     0           4            8            24
#     | mark_mask | mark_value | laddr [16] | lport |     laddr and lport big endian


def tproxy(verdict: TransparentProxy) -> bytes:
    """Return the target that hands packets to a local socket, whatever its address."""
    mark = changed_bits(verdict.mark, verdict.mask)
    return aligned(_u32(verdict.mask) + mark + bytes(16) + _be16(verdict.port))


def read_tproxy(structure: bytes, _family: Family) -> Verdict | None:
    """Return what ``tproxy`` wrote."""
    mask, mark = u32_at(structure, 0), u32_at(structure, 4)
    if any(structure[8:24]) or mark & ~mask:
        return None
    return TransparentProxy(be16_at(structure, 24), mark, mask)


# --- MARK: linux/netfilter/xt_mark.h, struct xt_mark_tginfo2 --------------------------------------
#
#     0      4
#     | mark | mask |


def set_mark(verdict: SetMark) -> bytes:
    """Return the target that replaces bits of a packet's mark."""
    return changed_bits(verdict.value, verdict.mask) + _u32(verdict.mask)


def read_set_mark(structure: bytes, _family: Family) -> Verdict | None:
    """Return what ``set_mark`` wrote."""
    mark, mask = u32_at(structure, 0), u32_at(structure, 4)
    return None if mark & ~mask else SetMark(mark, mask)


def changed_bits(value: int, mask: int) -> bytes:
    """Return a mark to set. The kernel flips bits of the value that are outside of the mask, which is never meant."""
    if value & ~mask:
        raise ValueError(f"mark {value:#x} has bits outside of its mask {mask:#x}")
    return _u32(value)


# --- CONNMARK: linux/netfilter/xt_connmark.h, struct xt_connmark_tginfo2 --------------------------
#
#     0        4        8        12          13           14
#     | ctmark | ctmask | nfmask | shift_dir | shift_bits | mode |     revision 1 has the mode at 12 and no shifts

CONNMARK_SAVE, CONNMARK_RESTORE = 1, 2  # XT_CONNMARK_SAVE, XT_CONNMARK_RESTORE
CONNMARK_ALL_BITS = bytes(4) + _u32(ALL_BITS) * 2


def copy_mark(mode: int) -> bytes:
    """Return the target that copies all bits of a mark, from packet to connection (SAVE) or back (RESTORE)."""
    return CONNMARK_ALL_BITS + bytes((0, 0, mode, 0))


def read_copy_mark(structure: bytes, _family: Family) -> Verdict | None:
    """Return what ``copy_mark`` wrote."""
    if structure[:14] != CONNMARK_ALL_BITS + b"\0\0":
        return None
    return _COPY_MODES.get(structure[14])


def read_copy_mark_1(structure: bytes, _family: Family) -> Verdict | None:
    """Return what revision 1 says, which kernels before 4.18 have."""
    return _COPY_MODES.get(structure[12]) if structure[:12] == CONNMARK_ALL_BITS else None


_COPY_MODES: dict[int, Verdict] = {CONNMARK_SAVE: SaveMark(), CONNMARK_RESTORE: RestoreMark()}


# --- CT: linux/netfilter/xt_CT.h, struct xt_ct_target_info_v1 -------------------------------------
#
#     0       2      4           8            12            28             64
#     | flags | zone | ct_events | exp_events | helper [16] | timeout [32] | pointer of the kernel's |

CT_SIZE = 72


def set_zone(zone: int) -> bytes:
    """Return the target that assigns a conntrack zone."""
    return (bytes(2) + _u16(zone)).ljust(CT_SIZE, b"\0")


def read_set_zone(structure: bytes, _family: Family) -> Verdict | None:
    """Return what ``set_zone`` wrote."""
    return None if u16_at(structure, 0) or any(structure[4:60]) else SetZone(u16_at(structure, 2))


# --- LOG: linux/netfilter/xt_LOG.h, struct xt_log_info --------------------------------------------
#
#     0       1          2
#     | level | logflags | prefix [30] |

LOG_WARNING = 4  # LOG_WARNING of syslog(3), which iptables writes unless told otherwise


def log(verdict: Log) -> bytes:
    """Return the target that writes a line to the kernel's log. Raise ValueError for a long prefix."""
    return bytes((LOG_WARNING, 0)) + _c_string(verdict.prefix, LOG_PREFIX_SIZE, "a log prefix")


def read_log(structure: bytes, _family: Family) -> Verdict | None:
    """Return what ``log`` wrote; None also for a prefix of several lines, which no listing can show."""
    prefix = read_comment(structure[2:])
    if structure[:2] != bytes((LOG_WARNING, 0)) or "\n" in prefix or "\r" in prefix:
        return None
    return Log(prefix)


MATCH_READERS: dict[tuple[str, int], MatchReader] = {
    ("owner", 1): read_owner,
    ("multiport", 1): read_multiport,
    ("tcp", 0): read_tcp,
    ("udp", 0): read_udp,
    ("mark", 1): read_mark,
    ("connmark", 1): read_connmark,
    ("conntrack", 1): read_conntrack_1,
    ("conntrack", 2): read_conntrack,
    ("conntrack", 3): read_conntrack,
    ("iprange", 1): read_iprange,
}
TARGET_READERS: dict[tuple[str, int], TargetReader] = {
    ("REDIRECT", 0): read_redirect,
    ("TPROXY", 1): read_tproxy,
    ("MARK", 2): read_set_mark,
    ("CONNMARK", 1): read_copy_mark_1,
    ("CONNMARK", 2): read_copy_mark,
    ("CT", 1): read_set_zone,
    ("CT", 2): read_set_zone,
    ("LOG", 0): read_log,
}
"""By name and revision. All structures that the kernel hands out have their full size."""
