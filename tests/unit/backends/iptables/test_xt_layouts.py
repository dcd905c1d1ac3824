"""Structures of x_tables against their definitions in the kernel's headers, as ctypes lays them out."""

import ctypes
from ctypes import c_char, c_uint8, c_uint16, c_uint32, c_void_p

import pytest

from capture.backends.iptables import xt_encode as enc
from capture.backends.iptables.parse import parse_matches, parse_verdict, split_words
from capture.backends.iptables.xt_text import extension_text
from capture.backends.nf_tables import constants as nf
from capture.model.addresses import IPV4, IPV6, Family, parse_network
from capture.model.ruleset import (
    Accept,
    ConnectionMark,
    ConnectionState,
    Destination,
    DestinationPort,
    Log,
    Mark,
    Match,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Rule,
    SaveMark,
    SetMark,
    SetZone,
    Source,
    SourcePort,
    Span,
    TransparentProxy,
    UnknownMatch,
    UnknownVerdict,
    Verdict,
    only,
)
from capture.netlink.attributes import c_string, decode_elements, decode_fields, decode_text

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

    _fields_ = (*Conntrack._fields_[:7], ("state_mask", c_uint8), ("status_mask", c_uint8))


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

    _fields_ = (("mark_mask", c_uint32), ("mark_value", c_uint32), ("laddr", c_uint32 * 4), ("lport", c_uint8 * 2))


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


def address(c_string: str) -> ctypes.Array[c_uint8]:
    return Address(*parse_network(c_string).packed.ljust(16, b"\0"))


def structure_of(expressions: bytes) -> bytes:
    """Return the structure in the only match or target of x_tables among expressions."""
    outer = [decode_fields(each) for each in decode_elements(expressions)]
    (found,) = (each for each in outer if each[nf.NFTA_EXPR_NAME] in (c_string("match"), c_string("target")))
    return decode_fields(found[nf.NFTA_EXPR_DATA])[nf.NFTA_MATCH_INFO]


def read_match(name: str, revision: int, structure: bytes, family: Family) -> tuple[Match, ...]:
    return tuple(parse_matches(split_words(f"-m {extension_text(name, revision, structure, family)}")))


def read_target(name: str, revision: int, structure: bytes, family: Family) -> Verdict:
    return parse_verdict(split_words(f"-j {extension_text(name, revision, structure, family)}"))


def beyond_the_first(match: Match) -> tuple[Match, ...]:
    """Return a match so that a network is compared by a structure: for the first one there is ``-s``."""
    return (match, match) if isinstance(match, Source | Destination) else (match,)


NETWORK4, NETWORK6 = parse_network("172.16.0.0/12"), parse_network("fd00::/16")

MATCHES: dict[str, tuple[ctypes.Structure, tuple[str, int], Match]] = {
    "a user": (Owner(uid_min=1337, uid_max=1337, match=1), ("owner", 1), OwnerUid((only(1337),))),
    "no group of some": (
        Owner(gid_min=5, gid_max=9, match=2, invert=2),
        ("owner", 1),
        OwnerGid((Span(5, 9),), negated=True),
    ),
    "ports": (
        Multiport(flags=1, count=4, ports=(53, 1, 7, 15008), pflags=(0, 1), invert=1),
        ("multiport", 1),
        DestinationPort((only(53), Span(1, 7), only(15008)), negated=True),
    ),
    "source ports": (
        Multiport(flags=0, count=15, ports=tuple(range(15))),
        ("multiport", 1),
        SourcePort(tuple(only(port) for port in range(15))),
    ),
    "a connection's mark": (
        MarkMatch(mark=5, mask=0xFF, invert=1),
        ("connmark", 1),
        ConnectionMark(5, 0xFF, negated=True),
    ),
    "states": (Conntrack(match_flags=1, state_mask=6), ("conntrack", 3), ConnectionState(("RELATED", "ESTABLISHED"))),
    "no states": (
        Conntrack(match_flags=1, invert_flags=1, state_mask=1 | 8 | 256),
        ("conntrack", 3),
        ConnectionState(("INVALID", "NEW", "UNTRACKED"), negated=True),
    ),
    "a network": (
        Iprange(src_min=address("172.16.0.0"), src_max=address("172.31.255.255"), flags=1),
        ("iprange", 1),
        Source((NETWORK4,)),
    ),
    "not a network": (
        Iprange(dst_min=address("172.16.0.0"), dst_max=address("172.31.255.255"), flags=2 | 32),
        ("iprange", 1),
        Destination((NETWORK4,), negated=True),
    ),
}

TARGETS: dict[str, tuple[ctypes.Structure | ctypes.BigEndianStructure, tuple[str, int], Verdict]] = {
    "REDIRECT": (Nat4(rangesize=number(1), flags=number(2), min=15001, max=15001), ("REDIRECT", 0), Redirect(15001)),
    "TPROXY": (
        Tproxy(mark_mask=0xFF, mark_value=5, lport=(0x12, 0x34)),
        ("TPROXY", 1),
        TransparentProxy(0x1234, 5, 0xFF),
    ),
    "MARK": (MarkTarget(mark=5, mask=7), ("MARK", 2), SetMark(5, 7)),
    "CONNMARK save": (Connmark(ctmask=ALL, nfmask=ALL, mode=1), ("CONNMARK", 2), SaveMark()),
    "CONNMARK restore": (Connmark(ctmask=ALL, nfmask=ALL, mode=2), ("CONNMARK", 2), RestoreMark()),
    "CT": (Ct(zone=1000), ("CT", 2), SetZone(1000)),
    "LOG": (LogTarget(level=4, prefix=b"why not "), ("LOG", 0), Log("why not ")),
}


@pytest.mark.parametrize("case", MATCHES)
def test_a_match_is_laid_out_as_the_header_says_and_read_back(case: str) -> None:
    defined, (name, revision), match = MATCHES[case]
    written = structure_of(enc.encode_matches(Rule(Accept(), (Protocol("tcp"), *beyond_the_first(match))), IPV4))
    assert written == padded(defined)
    assert read_match(name, revision, written, IPV4) == (match,)


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_is_laid_out_as_the_header_says_and_read_back(case: str) -> None:
    defined, (name, revision), verdict = TARGETS[case]
    written = structure_of(enc.encode_verdict(Rule(verdict), IPV4))
    assert written == padded(defined)
    assert read_target(name, revision, written, IPV4) == verdict


def test_a_redirection_of_ipv6_has_its_own_structure() -> None:
    written = structure_of(enc.encode_verdict(Rule(Redirect(15001)), IPV6))
    assert written == padded(Nat6(flags=number(2), min_proto=15001, max_proto=15001))
    assert read_target("REDIRECT", 0, written, IPV6) == Redirect(15001)


def test_a_range_of_ipv6_takes_the_whole_address() -> None:
    written = structure_of(enc.encode_matches(Rule(Accept(), (Source((NETWORK6, NETWORK6)),)), IPV6))
    last = "fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    assert written == padded(Iprange(src_min=address("fd00::"), src_max=address(last), flags=1))
    assert read_match("iprange", 1, written, IPV6) == (Source((NETWORK6,)),)


def test_a_comment_fills_its_structure() -> None:
    written = structure_of(enc.encode_matches(Rule(Accept(), (), IPV4, "größer"), IPV4))
    assert written == "größer".encode().ljust(256, b"\0")
    assert decode_text(written) == "größer"


class TestOlderRevisions:
    """What releases of iptables before 1.8.9 wrote."""

    def test_ports_of_tcp_are_read(self) -> None:
        structure = padded(Tcp(spts=(0, 65535), dpts=(80, 90), invflags=2))
        assert read_match("tcp", 0, structure, IPV4) == (DestinationPort((Span(80, 90),), negated=True),)

    def test_the_match_tcp_without_ports_is_read(self) -> None:
        assert read_match("tcp", 0, padded(Tcp(spts=(0, 65535), dpts=(0, 65535))), IPV4) == ()

    def test_ports_of_udp_are_read(self) -> None:
        structure = padded(Udp(spts=(53, 53), dpts=(0, 65535)))
        assert read_match("udp", 0, structure, IPV4) == (SourcePort((only(53),)),)

    def test_a_mark_is_read(self) -> None:
        assert read_match("mark", 1, padded(MarkMatch(mark=1, mask=3, invert=1)), IPV4) == (Mark(1, 3, negated=True),)

    def test_states_are_read(self) -> None:
        structure = padded(Conntrack1(match_flags=1, state_mask=8))
        assert read_match("conntrack", 1, structure, IPV4) == (ConnectionState(("NEW",)),)

    def test_states_of_the_match_state_are_read(self) -> None:
        structure = padded(Conntrack(match_flags=1 | 1 << 13, state_mask=8))
        assert read_match("conntrack", 3, structure, IPV4) == (ConnectionState(("NEW",)),)

    def test_a_copied_mark_is_read(self) -> None:
        structure = padded(Connmark1(ctmask=ALL, nfmask=ALL, mode=2))
        assert read_target("CONNMARK", 1, structure, IPV4) == RestoreMark()


class TestWhatTheModelLacks:
    """It has words anyway."""

    @pytest.mark.parametrize(
        "structure",
        [
            Owner(match=4),  # --socket-exists
            Owner(match=1 | 8),  # --suppl-groups
            Owner(),
        ],
    )
    def test_other_owners_have_words(self, structure: Owner) -> None:
        assert isinstance(read_match("owner", 1, padded(structure), IPV4)[0], UnknownMatch)

    @pytest.mark.parametrize("structure", [Multiport(flags=2, count=1), Multiport(), Multiport(count=16)])
    def test_lists_of_ports_have_words(self, structure: Multiport) -> None:
        assert isinstance(read_match("multiport", 1, padded(structure), IPV4)[0], UnknownMatch)

    @pytest.mark.parametrize("structure", [Tcp(flg_mask=2, flg_cmp=2), Tcp(option=5)])
    def test_options_of_tcp_have_words(self, structure: Tcp) -> None:
        assert any(isinstance(match, UnknownMatch) for match in read_match("tcp", 0, padded(structure), IPV4))

    @pytest.mark.parametrize(
        "structure",
        [
            Conntrack(match_flags=1 | 2, state_mask=8),  # --ctproto as well
            Conntrack(match_flags=1, state_mask=64),  # SNAT
            Conntrack(match_flags=1, state_mask=0),
            Conntrack(match_flags=1, invert_flags=2, state_mask=8),
        ],
    )
    def test_other_states_have_words(self, structure: Conntrack) -> None:
        assert isinstance(read_match("conntrack", 3, padded(structure), IPV4)[0], UnknownMatch)

    def test_ranges_that_are_no_network_have_words(self) -> None:
        structure = Iprange(src_min=address("10.0.0.1"), src_max=address("10.0.0.3"), flags=1)
        assert isinstance(read_match("iprange", 1, padded(structure), IPV4)[0], UnknownMatch)

    @pytest.mark.parametrize(
        "structure",
        [Nat4(flags=number(2), min=1, max=2), Nat4(flags=number(2 | 4), min=1, max=1), Nat4(flags=number(0))],
    )
    def test_redirections_to_several_ports_have_words(self, structure: Nat4) -> None:
        assert isinstance(read_target("REDIRECT", 0, padded(structure), IPV4), UnknownVerdict)

    @pytest.mark.parametrize("structure", [Tproxy(laddr=(1,)), Tproxy(mark_value=2, mark_mask=1)])
    def test_transparent_proxies_with_an_address_have_words(self, structure: Tproxy) -> None:
        assert isinstance(read_target("TPROXY", 1, padded(structure), IPV4), UnknownVerdict)

    def test_flipped_marks_have_words(self) -> None:
        assert isinstance(read_target("MARK", 2, padded(MarkTarget(mark=5, mask=1)), IPV4), UnknownVerdict)

    @pytest.mark.parametrize(
        "structure",
        [
            Connmark(ctmask=ALL, nfmask=ALL, mode=0),
            Connmark(ctmask=0xFF, nfmask=ALL, mode=1),
            Connmark(ctmask=ALL, nfmask=ALL, mode=1, shift_bits=8),
        ],
    )
    def test_marks_that_are_copied_in_part_have_words(self, structure: Connmark) -> None:
        assert isinstance(read_target("CONNMARK", 2, padded(structure), IPV4), UnknownVerdict)

    @pytest.mark.parametrize("structure", [Ct(flags=1), Ct(zone=1, helper=b"ftp"), Ct(ct_events=1)])
    def test_settings_of_tracking_have_words(self, structure: Ct) -> None:
        assert isinstance(read_target("CT", 2, padded(structure), IPV4), UnknownVerdict)

    @pytest.mark.parametrize("structure", [LogTarget(level=7), LogTarget(level=4, logflags=8)])
    def test_settings_of_logs_have_words(self, structure: LogTarget) -> None:
        assert isinstance(read_target("LOG", 0, padded(structure), IPV4), UnknownVerdict)

    def test_every_flag_of_a_log_has_its_word(self) -> None:
        words = extension_text("LOG", 0, padded(LogTarget(level=7, logflags=47)), IPV4)
        flags = "--log-tcp-sequence --log-tcp-options --log-ip-options --log-uid --log-macdecode"
        assert words == f"LOG --log-level 7 {flags}"

    def test_a_prefix_of_two_lines_is_shown_on_one(self) -> None:
        structure = padded(LogTarget(level=4, prefix=b"two\nlines"))
        assert read_target("LOG", 0, structure, IPV4) == Log("two lines")


@pytest.mark.parametrize(
    "write",
    [
        lambda: enc.encode_verdict(Rule(SetMark(8, 7)), IPV4),
        lambda: enc.encode_verdict(Rule(TransparentProxy(1, 8, 7)), IPV4),
        lambda: enc.encode_verdict(Rule(Log("x" * 30)), IPV4),
        lambda: enc.encode_verdict(Rule(Log("a\0b")), IPV4),
        lambda: enc.encode_matches(Rule(Accept(), (ConnectionState(("OLD",)),)), IPV4),
    ],
)
def test_a_value_without_a_place_is_refused(write: object) -> None:
    assert callable(write)
    with pytest.raises(ValueError, match=r"bits outside of its mask|has at most|not a state"):
        write()
