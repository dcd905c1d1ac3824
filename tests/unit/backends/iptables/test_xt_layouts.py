"""Structures of x_tables against their definitions in the kernel's headers, as ctypes lays them out."""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_uint8, c_uint16, c_uint32, c_void_p

import pytest

from capture.backends.iptables import xt_layouts
from capture.model.addresses import IPV4, IPV6, parse_network
from capture.model.ruleset import (
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
    only,
)

Address = c_uint8 * 16  # union nf_inet_addr


class Owner(ctypes.Structure):
    """linux/netfilter/xt_owner.h, struct xt_owner_match_info."""

    _fields_ = (
        ("uid_min", c_uint32),
        ("uid_max", c_uint32),
        ("gid_min", c_uint32),
        ("gid_max", c_uint32),
        ("match", c_uint8),
        ("invert", c_uint8),
    )


class Multiport(ctypes.Structure):
    """linux/netfilter/xt_multiport.h, struct xt_multiport_v1."""

    _fields_ = (
        ("flags", c_uint8),
        ("count", c_uint8),
        ("ports", c_uint16 * 15),
        ("pflags", c_uint8 * 15),
        ("invert", c_uint8),
    )


class MarkMatch(ctypes.Structure):
    """linux/netfilter/xt_mark.h and xt_connmark.h, struct xt_mark_mtinfo1 and xt_connmark_mtinfo1."""

    _fields_ = (("mark", c_uint32), ("mask", c_uint32), ("invert", c_uint8))


class Conntrack(ctypes.Structure):
    """linux/netfilter/xt_conntrack.h, struct xt_conntrack_mtinfo3."""

    _fields_ = (
        ("addresses", Address * 8),
        ("expires_min", c_uint32),
        ("expires_max", c_uint32),
        ("l4proto", c_uint16),
        ("ports", c_uint16 * 4),
        ("match_flags", c_uint16),
        ("invert_flags", c_uint16),
        ("state_mask", c_uint16),
        ("status_mask", c_uint16),
        ("ports_high", c_uint16 * 4),
    )


class Conntrack1(ctypes.Structure):
    """linux/netfilter/xt_conntrack.h, struct xt_conntrack_mtinfo1."""

    _fields_ = (
        *Conntrack._fields_[:7],
        ("state_mask", c_uint8),
        ("status_mask", c_uint8),
    )


class Iprange(ctypes.Structure):
    """linux/netfilter/xt_iprange.h, struct xt_iprange_mtinfo."""

    _fields_ = (
        ("src_min", Address),
        ("src_max", Address),
        ("dst_min", Address),
        ("dst_max", Address),
        ("flags", c_uint8),
    )


class Tcp(ctypes.Structure):
    """linux/netfilter/xt_tcpudp.h, struct xt_tcp."""

    _fields_ = (
        ("spts", c_uint16 * 2),
        ("dpts", c_uint16 * 2),
        ("option", c_uint8),
        ("flg_mask", c_uint8),
        ("flg_cmp", c_uint8),
        ("invflags", c_uint8),
    )


class Udp(ctypes.Structure):
    """linux/netfilter/xt_tcpudp.h, struct xt_udp."""

    _fields_ = (("spts", c_uint16 * 2), ("dpts", c_uint16 * 2), ("invflags", c_uint8))


class Nat4(ctypes.BigEndianStructure):
    """linux/netfilter/nf_nat.h, struct nf_nat_ipv4_multi_range_compat; its first two fields are the machine's."""

    _fields_ = (
        ("rangesize", c_uint8 * 4),
        ("flags", c_uint8 * 4),
        ("min_ip", c_uint32),
        ("max_ip", c_uint32),
        ("min", c_uint16),
        ("max", c_uint16),
    )


class Nat6(ctypes.BigEndianStructure):
    """linux/netfilter/nf_nat.h, struct nf_nat_range; its first field is the machine's."""

    _fields_ = (
        ("flags", c_uint8 * 4),
        ("min_addr", Address),
        ("max_addr", Address),
        ("min_proto", c_uint16),
        ("max_proto", c_uint16),
    )


class Tproxy(ctypes.Structure):
    """linux/netfilter/xt_TPROXY.h, struct xt_tproxy_target_info_v1."""

    _fields_ = (
        ("mark_mask", c_uint32),
        ("mark_value", c_uint32),
        ("laddr", c_uint32 * 4),
        ("lport", c_uint8 * 2),
    )


class MarkTarget(ctypes.Structure):
    """linux/netfilter/xt_mark.h, struct xt_mark_tginfo2."""

    _fields_ = (("mark", c_uint32), ("mask", c_uint32))


class Connmark(ctypes.Structure):
    """linux/netfilter/xt_connmark.h, struct xt_connmark_tginfo2."""

    _fields_ = (
        ("ctmark", c_uint32),
        ("ctmask", c_uint32),
        ("nfmask", c_uint32),
        ("shift_dir", c_uint8),
        ("shift_bits", c_uint8),
        ("mode", c_uint8),
    )


class Connmark1(ctypes.Structure):
    """linux/netfilter/xt_connmark.h, struct xt_connmark_tginfo1."""

    _fields_ = (("ctmark", c_uint32), ("ctmask", c_uint32), ("nfmask", c_uint32), ("mode", c_uint8))


class Ct(ctypes.Structure):
    """linux/netfilter/xt_CT.h, struct xt_ct_target_info_v1."""

    _fields_ = (
        ("flags", c_uint16),
        ("zone", c_uint16),
        ("ct_events", c_uint32),
        ("exp_events", c_uint32),
        ("helper", c_char * 16),
        ("timeout", c_char * 32),
        ("ct", c_void_p),
    )


class LogTarget(ctypes.Structure):
    """linux/netfilter/xt_LOG.h, struct xt_log_info."""

    _fields_ = (("level", c_uint8), ("logflags", c_uint8), ("prefix", c_char * 30))


ALL = 0xFFFF_FFFF


def padded(structure: ctypes.Structure | ctypes.BigEndianStructure) -> bytes:
    """Return the bytes of a structure, padded as XT_ALIGN does (linux/netfilter/x_tables.h)."""
    laid_out = bytes(structure)
    return laid_out.ljust((len(laid_out) + 7) // 8 * 8, b"\0")


def number(value: int) -> ctypes.Array[c_uint8]:
    return (c_uint8 * 4)(*c_uint32(value).value.to_bytes(4, "little" if bytes(c_uint32(1))[0] else "big"))


def address(text: str) -> ctypes.Array[c_uint8]:
    return Address(*parse_network(text).packed.ljust(16, b"\0"))


NETWORK4, NETWORK6 = parse_network("172.16.0.0/12"), parse_network("fd00::/16")

MATCHES = {
    "a user": (
        xt_layouts.owner(OwnerUid, only(1337), negated=False),
        Owner(uid_min=1337, uid_max=1337, match=1),
        xt_layouts.read_owner,
        OwnerUid((only(1337),)),
    ),
    "no group of some": (
        xt_layouts.owner(OwnerGid, Span(5, 9), negated=True),
        Owner(gid_min=5, gid_max=9, match=2, invert=2),
        xt_layouts.read_owner,
        OwnerGid((Span(5, 9),), negated=True),
    ),
    "ports": (
        xt_layouts.multiport(DestinationPort, [only(53), Span(1, 7), only(15008)], negated=True),
        Multiport(flags=1, count=4, ports=(53, 1, 7, 15008), pflags=(0, 1), invert=1),
        xt_layouts.read_multiport,
        DestinationPort((only(53), Span(1, 7), only(15008)), negated=True),
    ),
    "source ports": (
        xt_layouts.multiport(SourcePort, [only(port) for port in range(15)], negated=False),
        Multiport(flags=0, count=15, ports=tuple(range(15))),
        xt_layouts.read_multiport,
        SourcePort(tuple(only(port) for port in range(15))),
    ),
    "a connection's mark": (
        xt_layouts.connmark(ConnectionMark(5, 0xFF, negated=True)),
        MarkMatch(mark=5, mask=0xFF, invert=1),
        xt_layouts.read_connmark,
        ConnectionMark(5, 0xFF, negated=True),
    ),
    "states": (
        xt_layouts.conntrack(ConnectionState(("RELATED", "ESTABLISHED"))),
        Conntrack(match_flags=1, state_mask=6),
        xt_layouts.read_conntrack,
        ConnectionState(("RELATED", "ESTABLISHED")),
    ),
    "no states": (
        xt_layouts.conntrack(ConnectionState(("INVALID", "NEW", "UNTRACKED"), negated=True)),
        Conntrack(match_flags=1, invert_flags=1, state_mask=1 | 8 | 256),
        xt_layouts.read_conntrack,
        ConnectionState(("INVALID", "NEW", "UNTRACKED"), negated=True),
    ),
    "a network": (
        xt_layouts.iprange(Source, NETWORK4, negated=False),
        Iprange(src_min=address("172.16.0.0"), src_max=address("172.31.255.255"), flags=1),
        xt_layouts.read_iprange,
        Source((NETWORK4,)),
    ),
    "not a network": (
        xt_layouts.iprange(Destination, NETWORK4, negated=True),
        Iprange(dst_min=address("172.16.0.0"), dst_max=address("172.31.255.255"), flags=2 | 32),
        xt_layouts.read_iprange,
        Destination((NETWORK4,), negated=True),
    ),
}

TARGETS = {
    "REDIRECT": (
        xt_layouts.redirect(15001, IPV4),
        Nat4(rangesize=number(1), flags=number(2), min=15001, max=15001),
        xt_layouts.read_redirect,
        Redirect(15001),
    ),
    "TPROXY": (
        xt_layouts.tproxy(TransparentProxy(0x1234, 5, 0xFF)),
        Tproxy(mark_mask=0xFF, mark_value=5, lport=(0x12, 0x34)),
        xt_layouts.read_tproxy,
        TransparentProxy(0x1234, 5, 0xFF),
    ),
    "MARK": (
        xt_layouts.set_mark(SetMark(5, 7)),
        MarkTarget(mark=5, mask=7),
        xt_layouts.read_set_mark,
        SetMark(5, 7),
    ),
    "CONNMARK save": (
        xt_layouts.copy_mark(xt_layouts.CONNMARK_SAVE),
        Connmark(ctmask=ALL, nfmask=ALL, mode=1),
        xt_layouts.read_copy_mark,
        SaveMark(),
    ),
    "CONNMARK restore": (
        xt_layouts.copy_mark(xt_layouts.CONNMARK_RESTORE),
        Connmark(ctmask=ALL, nfmask=ALL, mode=2),
        xt_layouts.read_copy_mark,
        RestoreMark(),
    ),
    "CT": (xt_layouts.set_zone(1000), Ct(zone=1000), xt_layouts.read_set_zone, SetZone(1000)),
    "LOG": (
        xt_layouts.log(Log("why not ")),
        LogTarget(level=4, prefix=b"why not "),
        xt_layouts.read_log,
        Log("why not "),
    ),
}


@pytest.mark.parametrize("case", MATCHES)
def test_a_match_is_laid_out_as_the_header_says_and_read_back(case: str) -> None:
    written, defined, read, match = MATCHES[case]
    assert written == padded(defined)
    assert read(written, IPV4) == (match,)


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_is_laid_out_as_the_header_says_and_read_back(case: str) -> None:
    written, defined, read, verdict = TARGETS[case]
    assert written == padded(defined)
    assert read(written, IPV4) == verdict


def test_a_redirection_of_ipv6_has_its_own_structure() -> None:
    written = xt_layouts.redirect(15001, IPV6)
    assert written == padded(Nat6(flags=number(2), min_proto=15001, max_proto=15001))
    assert xt_layouts.read_redirect(written, IPV6) == Redirect(15001)


def test_a_range_of_ipv6_takes_the_whole_address() -> None:
    written = xt_layouts.iprange(Source, NETWORK6, negated=False)
    last = "fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    assert written == padded(Iprange(src_min=address("fd00::"), src_max=address(last), flags=1))
    assert xt_layouts.read_iprange(written, IPV6) == (Source((NETWORK6,)),)


def test_a_comment_fills_its_structure() -> None:
    assert xt_layouts.comment("größer") == "größer".encode().ljust(256, b"\0")
    assert xt_layouts.read_comment(xt_layouts.comment("größer")) == "größer"


class TestOlderRevisions:
    """What releases of iptables before 1.8.9 wrote."""

    def test_ports_of_tcp(self) -> None:
        structure = padded(Tcp(spts=(0, 65535), dpts=(80, 90), invflags=2))
        assert xt_layouts.read_tcp(structure, IPV4) == (DestinationPort((Span(80, 90),), negated=True),)

    def test_no_ports_of_tcp(self) -> None:
        assert xt_layouts.read_tcp(padded(Tcp(spts=(0, 65535), dpts=(0, 65535))), IPV4) == ()

    def test_ports_of_udp(self) -> None:
        structure = padded(Udp(spts=(53, 53), dpts=(0, 65535)))
        assert xt_layouts.read_udp(structure, IPV4) == (SourcePort((only(53),)),)

    def test_a_mark(self) -> None:
        assert xt_layouts.read_mark(padded(MarkMatch(mark=1, mask=3, invert=1)), IPV4) == (Mark(1, 3, negated=True),)

    def test_states(self) -> None:
        structure = padded(Conntrack1(match_flags=1, state_mask=8))
        assert xt_layouts.read_conntrack_1(structure, IPV4) == (ConnectionState(("NEW",)),)

    def test_states_said_with_the_match_state(self) -> None:
        structure = padded(Conntrack(match_flags=1 | 1 << 13, state_mask=8))
        assert xt_layouts.read_conntrack(structure, IPV4) == (ConnectionState(("NEW",)),)

    def test_a_copied_mark(self) -> None:
        structure = padded(Connmark1(ctmask=ALL, nfmask=ALL, mode=2))
        assert xt_layouts.read_copy_mark_1(structure, IPV4) == RestoreMark()


class TestWhatTheModelLacks:
    """Readers say None, so that somebody else finds words."""

    @pytest.mark.parametrize(
        "structure",
        [
            Owner(match=4),  # --socket-exists
            Owner(match=1 | 8),  # --suppl-groups
            Owner(),
        ],
    )
    def test_owners(self, structure: Owner) -> None:
        assert xt_layouts.read_owner(padded(structure), IPV4) is None

    @pytest.mark.parametrize("structure", [Multiport(flags=2, count=1), Multiport(), Multiport(count=16)])
    def test_ports(self, structure: Multiport) -> None:
        assert xt_layouts.read_multiport(padded(structure), IPV4) is None

    @pytest.mark.parametrize("structure", [Tcp(flg_mask=2, flg_cmp=2), Tcp(option=5)])
    def test_tcp(self, structure: Tcp) -> None:
        assert xt_layouts.read_tcp(padded(structure), IPV4) is None

    @pytest.mark.parametrize(
        "structure",
        [
            Conntrack(match_flags=1 | 2, state_mask=8),  # --ctproto as well
            Conntrack(match_flags=1, state_mask=64),  # SNAT
            Conntrack(match_flags=1, state_mask=0),
            Conntrack(match_flags=1, invert_flags=2, state_mask=8),
        ],
    )
    def test_states(self, structure: Conntrack) -> None:
        assert xt_layouts.read_conntrack(padded(structure), IPV4) is None

    def test_ranges_that_are_no_network(self) -> None:
        structure = Iprange(src_min=address("10.0.0.1"), src_max=address("10.0.0.3"), flags=1)
        assert xt_layouts.read_iprange(padded(structure), IPV4) is None

    @pytest.mark.parametrize(
        "structure",
        [Nat4(flags=number(2), min=1, max=2), Nat4(flags=number(2 | 4), min=1, max=1), Nat4(flags=number(0))],
    )
    def test_redirections(self, structure: Nat4) -> None:
        assert xt_layouts.read_redirect(padded(structure), IPV4) is None

    @pytest.mark.parametrize("structure", [Tproxy(laddr=(1,)), Tproxy(mark_value=2, mark_mask=1)])
    def test_transparent_proxies(self, structure: Tproxy) -> None:
        assert xt_layouts.read_tproxy(padded(structure), IPV4) is None

    def test_flipped_marks(self) -> None:
        assert xt_layouts.read_set_mark(padded(MarkTarget(mark=5, mask=1)), IPV4) is None

    @pytest.mark.parametrize(
        "structure",
        [
            Connmark(ctmask=ALL, nfmask=ALL, mode=0),
            Connmark(ctmask=0xFF, nfmask=ALL, mode=1),
            Connmark(ctmask=ALL, nfmask=ALL, mode=1, shift_bits=8),
        ],
    )
    def test_copied_marks(self, structure: Connmark) -> None:
        assert xt_layouts.read_copy_mark(padded(structure), IPV4) is None

    @pytest.mark.parametrize("structure", [Ct(flags=1), Ct(zone=1, helper=b"ftp"), Ct(ct_events=1)])
    def test_tracking(self, structure: Ct) -> None:
        assert xt_layouts.read_set_zone(padded(structure), IPV4) is None

    @pytest.mark.parametrize(
        "structure", [LogTarget(level=7), LogTarget(level=4, logflags=8), LogTarget(level=4, prefix=b"two\nlines")]
    )
    def test_logs(self, structure: LogTarget) -> None:
        assert xt_layouts.read_log(padded(structure), IPV4) is None


@pytest.mark.parametrize(
    "write",
    [
        lambda: xt_layouts.set_mark(SetMark(8, 7)),
        lambda: xt_layouts.tproxy(TransparentProxy(1, 8, 7)),
        lambda: xt_layouts.log(Log("x" * 30)),
        lambda: xt_layouts.comment("x" * 256),
        lambda: xt_layouts.comment("a\0b"),
        lambda: xt_layouts.conntrack(ConnectionState(("OLD",))),
    ],
)
def test_what_has_no_place_is_refused(write: object) -> None:
    assert callable(write)
    with pytest.raises(ValueError, match=r"bits outside of its mask|has at most|not a state"):
        write()
