"""What older releases of iptables, nft and strangers leave in the tables, read as rules."""

import sys

import pytest

from capture.backends.iptables import xt_encode as enc
from capture.backends.iptables.xt_decode import RuleReader
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import expressions as kernel
from capture.model.addresses import IPV4, IPV6, Family, Network, parse_network
from capture.model.ruleset import (
    Accept,
    ConnectionMark,
    ConnectionState,
    Continue,
    Counters,
    Destination,
    DestinationPort,
    InInterface,
    Jump,
    Mark,
    OwnerUid,
    Protocol,
    Rule,
    SetMark,
    Source,
    SourcePort,
    Span,
    UnknownMatch,
    UnknownVerdict,
    only,
)
from capture.netlink.attributes import attribute, c_string, nested, u8, u16be, u32, u32be, u64be

TCP = Protocol("tcp")
OF_TCP = enc.PROTOCOL_TESTS["tcp"]
ACCEPT = enc.encode_verdict(Rule(Accept()), IPV4)
EQ, NEQ, LT, LTE, GT, GTE = range(6)


def read(expressions: bytes, family: Family = IPV4, userdata: bytes = b"") -> Rule:
    """Return the rule that the kernel dumps with these expressions."""
    dumped = (
        attribute(nf.NFTA_RULE_TABLE, c_string("nat"))
        + attribute(nf.NFTA_RULE_CHAIN, c_string("OUTPUT"))
        + attribute(nf.NFTA_RULE_HANDLE, u64be(5))
        + nested(nf.NFTA_RULE_EXPRESSIONS, expressions)
    )
    if userdata:
        dumped += attribute(nf.NFTA_RULE_USERDATA, userdata)
    found = RuleReader(family).read(dumped)
    assert (found.chain, found.handle) == ("OUTPUT", 5)
    return found.rule


def meta(key: int, register: int = 1) -> bytes:
    return expression("meta", attribute(nf.NFTA_META_KEY, u32be(key)), attribute(nf.NFTA_META_DREG, u32be(register)))


def expression(name: str, *attributes: bytes) -> bytes:
    return nested(
        nf.NFTA_LIST_ELEM, attribute(nf.NFTA_EXPR_NAME, c_string(name)), nested(nf.NFTA_EXPR_DATA, *attributes)
    )


def compare(value: bytes, operator: int = EQ, register: int = 1) -> bytes:
    return expression(
        "cmp",
        attribute(nf.NFTA_CMP_SREG, u32be(register)),
        attribute(nf.NFTA_CMP_OP, u32be(operator)),
        nested(nf.NFTA_CMP_DATA, attribute(nf.NFTA_DATA_VALUE, value)),
    )


def payload(base: int, offset: int, length: int) -> bytes:
    return kernel.load_payload(base, offset, length)


def network(prefix: str) -> tuple[Network, ...]:
    return (parse_network(prefix),)


def extension(kind: str, name: str, revision: int, structure: bytes) -> bytes:
    return expression(
        kind,
        attribute(nf.NFTA_MATCH_NAME, c_string(name)),
        attribute(nf.NFTA_MATCH_REV, u32be(revision)),
        attribute(nf.NFTA_MATCH_INFO, structure),
    )


class TestOlderReleases:
    def test_ports_of_the_match_tcp_are_read(self) -> None:
        structure = bytes(2) + b"\xff\xff" + u16_pair(80, 80) + bytes(8)
        rule = read(OF_TCP + extension("match", "tcp", 0, structure))
        assert rule.matches == (TCP, DestinationPort((only(80),)))

    def test_a_mark_of_the_match_mark_is_read(self) -> None:
        assert read(extension("match", "mark", 1, u32(5) + u32(7) + bytes(8))).matches == (Mark(5, 7),)

    def test_the_protocol_is_read_by_its_place_in_the_header(self) -> None:
        assert read(payload(1, 9, 1) + compare(b"\6")).matches == (TCP,)
        assert read(payload(1, 6, 1) + compare(b"\6"), IPV6).matches == (TCP,)

    def test_a_whole_address_under_a_mask_is_read(self) -> None:
        expressions = payload(1, 16, 4) + kernel.bitwise(b"\xff\0\0\0") + compare(b"\n\0\0\0", NEQ)
        assert read(expressions).matches == (Destination(network("10.0.0.0/8"), negated=True),)

    def test_a_comment_next_to_the_rule_is_read(self) -> None:
        assert read(b"", userdata=b"\5\1x" + b"\0\7others\0").why == "others"
        assert read(b"", userdata=b"\5\1x").why == ""

    def test_copied_marks_are_read(self) -> None:
        structure = bytes(4) + b"\xff" * 8 + b"\2" + bytes(3)
        assert type(read(extension("target", "CONNMARK", 1, structure)).verdict).__name__ == "RestoreMark"


def u16_pair(first: int, last: int) -> bytes:
    return first.to_bytes(2, sys.byteorder) + last.to_bytes(2, sys.byteorder)


class TestNft:
    """``nft add rule ip nat OUTPUT ...``, as far as it means what iptables could express."""

    @pytest.mark.parametrize(
        ("comparison", "expected"),
        [(compare(u16be(80), GTE) + compare(u16be(90), LTE), [Span(80, 90)]), (compare(u16be(80), LTE), [Span(0, 80)])],
    )
    def test_two_comparisons_are_a_range_of_ports(self, comparison: bytes, expected: list[Span]) -> None:
        matches = [DestinationPort((span,)) for span in expected]
        assert read(OF_TCP + payload(2, 2, 2) + comparison).matches == (TCP, *matches)

    @pytest.mark.parametrize(("operator", "span"), [(LT, Span(80, 65535)), (GT, Span(0, 80))])
    def test_less_and_greater_exclude_the_rest(self, operator: int, span: Span) -> None:
        rule = read(OF_TCP + payload(2, 0, 2) + compare(u16be(80), operator))
        assert rule.matches == (TCP, SourcePort((span,), negated=True))

    def test_padded_names_of_interfaces_are_read(self) -> None:
        assert read(meta(6) + compare(b"lo".ljust(16, b"\0"))).matches == (InInterface("lo"),)

    def test_a_mark_that_is_set_is_read(self) -> None:
        value = nested(nf.NFTA_IMMEDIATE_DATA, attribute(nf.NFTA_DATA_VALUE, u32(7)))
        immediate = expression("immediate", attribute(nf.NFTA_IMMEDIATE_DREG, u32be(1)), value)
        store = expression("meta", attribute(nf.NFTA_META_KEY, u32be(3)), attribute(nf.NFTA_META_SREG, u32be(1)))
        assert read(immediate + store).verdict == SetMark(7)

    def test_registers_are_distinguished(self) -> None:
        load_both = meta(6, register=1) + meta(7, register=2)
        matches = read(load_both + compare(b"lo\0", register=2) + compare(b"eth", register=1)).matches
        assert [type(match).__name__ for match in matches] == ["InInterface", "OutInterface"]

    @pytest.mark.parametrize(
        ("expressions", "shown"),
        [
            (expression("lookup"), "[lookup]"),
            (meta(1) + compare(u32be(0)), "meta protocol == 0x00000000"),
            (compare(b"\0"), "[cmp 1=00000001 2=00000000 3=00]"),
            (payload(0, 6, 2) + compare(b"\1\2", NEQ), "@ll,48,16 != 0x0102"),
            (payload(2, 0, 4) + compare(b"\0\1\0\2", NEQ), "@th,0,32 != 0x00010002"),
            (OF_TCP + payload(2, 0, 4) + compare(b"\0\1\0\2", NEQ), "@th,0,32 != 0x00010002"),
            (payload(2, 2, 2) + compare(u16be(53)), "@th,16,16 == 0x0035"),
            (payload(2, 0, 2) + compare(u16be(53), NEQ), "@th,0,16 != 0x0035"),
            (payload(1, 12, 4) + kernel.bitwise(b"\xff\0\0\0") + compare(b"\n\1\0\0"), None),
        ],
    )
    def test_a_rule_that_iptables_could_not_express_is_shown(self, expressions: bytes, shown: str | None) -> None:
        match = read(expressions).matches[-1]
        assert isinstance(match, UnknownMatch)
        assert match.text == (shown or "@nh,96,32 & 0xff000000 ^ 0x00000000 == 0x0a010000")

    def test_no_address_is_less_than_the_first(self) -> None:
        below = payload(1, 12, 4) + compare(bytes(4), LT)
        assert read(below).matches == (Source(network("0.0.0.0/0"), negated=True),)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("masq", "[masq]"),
            ("nat", "[nat]"),
            ("queue", "[queue]"),
            ("reject", "reject with icmp net-unreachable"),
            ("redir", "redirect"),
            ("tproxy", "tproxy, not to a port of any address"),
        ],
    )
    def test_verdicts_of_nft_are_shown(self, name: str, words: str) -> None:
        assert read(expression(name)) == Rule(UnknownVerdict(words), (), IPV4)

    def test_two_verdicts_at_once_are_shown(self) -> None:
        rule = read(expression("redir") + ACCEPT)
        assert rule.verdict == UnknownVerdict("redirect accept")


class TestWords:
    def test_words_are_those_of_iptables_where_it_has_any(self) -> None:
        rule = read(
            kernel.load_meta(nf.NFT_META_L4PROTO) + compare(b"\1") + extension("target", "MASQUERADE", 0, bytes(24))
        )
        assert rule == Rule(UnknownVerdict("MASQUERADE"), (UnknownMatch("-p icmp"),), IPV4)

    def test_unknown_bytes_are_shown(self) -> None:
        rule = read(extension("match", "recent", 1, b"\1\2" + bytes(6)) + extension("target", "TCPMSS", 0, bytes(8)))
        assert rule.matches == (UnknownMatch("-m recent [ revision 1, 0x0102 ]"),)
        assert rule.verdict == UnknownVerdict("TCPMSS [ revision 0 ]")

    def test_a_goto_has_words(self) -> None:
        verdict = nested(
            nf.NFTA_DATA_VERDICT,
            attribute(nf.NFTA_VERDICT_CODE, (-4).to_bytes(4, "big", signed=True)),
            attribute(nf.NFTA_VERDICT_CHAIN, c_string("ISTIO_OUTPUT")),
        )
        goto = expression(
            "immediate", attribute(nf.NFTA_IMMEDIATE_DREG, u32be(0)), nested(nf.NFTA_IMMEDIATE_DATA, verdict)
        )
        assert read(goto).verdict == UnknownVerdict("-g ISTIO_OUTPUT")


NOT_0 = kernel.bitwise(b"\x1f\xff") + compare(b"\0\0", NEQ)
HOLES = kernel.bitwise(b"\xff\0\xff\0") + compare(b"\n\0\1\0")
HOLES6 = kernel.bitwise(b"\xff\0" * 8) + compare(b"\xfd\0" * 8)
IN_HOLES6 = ":".join(["fd00"] * 8) + "/" + ":".join(["ff00"] * 8)


class TestWordsOfHeaders:
    """Comparisons of headers that iptables has words for, and the model has not; others are shown by their place."""

    @pytest.mark.parametrize(
        ("expressions", "words"),
        [
            (payload(1, 6, 2) + NOT_0, "-f"),
            (payload(1, 6, 2) + kernel.bitwise(b"\x1f\xff") + compare(b"\0\0"), "! -f"),
            (
                payload(1, 6, 2) + kernel.bitwise(b"\x1f\xff") + compare(b"\0\1"),
                "@nh,48,16 & 0x1fff ^ 0x0000 == 0x0001",
            ),
            (payload(2, 13, 1) + kernel.bitwise(b"\x12") + compare(b"\2"), "-m tcp --tcp-flags SYN,ACK SYN"),
            (payload(2, 13, 1) + compare(b"\2", NEQ), "-m tcp ! --tcp-flags FIN,SYN,RST,PSH,ACK,URG SYN"),
            (payload(1, 12, 4) + HOLES, "-s 10.0.1.0/255.0.255.0"),
            (payload(1, 16, 4) + HOLES, "-d 10.0.1.0/255.0.255.0"),
            (payload(2, 12, 4) + HOLES, "@th,96,32 & 0xff00ff00 ^ 0x00000000 == 0x0a000100"),
            (
                payload(1, 12, 2) + kernel.bitwise(b"\xf0\xf0") + compare(b"\x10\0"),
                "@nh,96,16 & 0xf0f0 ^ 0x0000 == 0x1000",
            ),
            (
                payload(1, 12, 4) + kernel.bitwise(b"\xff\0\xff\0") + compare(b"\n\1\1\0"),
                "@nh,96,32 & 0xff00ff00 ^ 0x00000000 == 0x0a010100",
            ),
        ],
    )
    def test_addresses_of_ipv4_under_a_mask_have_words(self, expressions: bytes, words: str) -> None:
        assert read(expressions).matches == (UnknownMatch(words),)

    def test_addresses_of_ipv6_under_a_mask_have_words(self) -> None:
        assert read(payload(1, 8, 16) + HOLES6, IPV6).matches == (UnknownMatch(f"-s {IN_HOLES6}"),)
        assert read(payload(1, 24, 16) + HOLES6, IPV6).matches == (UnknownMatch(f"-d {IN_HOLES6}"),)
        (no_fragment,) = read(payload(1, 6, 2) + NOT_0, IPV6).matches
        assert no_fragment == UnknownMatch("@nh,48,16 & 0x1fff ^ 0x0000 != 0x0000")

    def test_words_are_where_a_listing_has_them(self) -> None:
        rule = read(OF_TCP + meta(6) + compare(b"lo\0") + payload(1, 16, 4) + HOLES + payload(1, 6, 2) + NOT_0)
        assert rule.matches == (UnknownMatch("-d 10.0.1.0/255.0.255.0"), InInterface("lo"), TCP, UnknownMatch("-f"))

    def test_a_limit_has_words(self) -> None:
        fields = [(1, u64be(5)), (2, u64be(60)), (3, u32be(5)), (4, u32be(0)), (5, u32be(0))]
        limit = expression("limit", *(attribute(kind, value) for kind, value in fields))
        assert read(limit + ACCEPT) == Rule(Accept(), (UnknownMatch("-m limit --limit 5/min"),), IPV4)

    def test_a_trace_has_words(self) -> None:
        value = nested(nf.NFTA_IMMEDIATE_DATA, attribute(nf.NFTA_DATA_VALUE, u32(1)))
        immediate = expression("immediate", attribute(nf.NFTA_IMMEDIATE_DREG, u32be(1)), value)
        store = expression("meta", attribute(nf.NFTA_META_KEY, u32be(12)), attribute(nf.NFTA_META_SREG, u32be(1)))
        assert read(immediate + store).verdict == UnknownVerdict("TRACE")


class TestRules:
    def test_ports_excluded_together_are_one_match(self) -> None:
        ids = OwnerUid((only(3), only(4)), negated=True)
        networks = Source((*network("10.0.0.0/8"), *network("172.16.0.0/12")), negated=True)
        written = Rule(Jump("FOO"), (networks, ids, ConnectionMark(1), ConnectionState(("NEW",))))
        assert read(enc.encode_expressions(written, IPV4)).matches == written.matches

    def test_the_order_is_that_of_a_listing(self) -> None:
        written = Rule(Jump("FOO"), (Mark(1), TCP, InInterface("lo"), Source(network("10.0.0.0/8"))))
        kinds = [type(match).__name__ for match in read(enc.encode_expressions(written, IPV4)).matches]
        assert kinds == ["Source", "InInterface", "Protocol", "Mark"]

    def test_counters_are_read(self) -> None:
        counter = expression(
            "counter", attribute(nf.NFTA_COUNTER_BYTES, u64be(180)), attribute(nf.NFTA_COUNTER_PACKETS, u64be(3))
        )
        assert read(counter) == Rule(Continue(), (), IPV4)
        assert read(counter).counters == Counters(3, 180)

    def test_any_name_of_an_interface_is_read(self) -> None:
        assert read(enc.encode_expressions(Rule(Accept(), (InInterface("+"),)), IPV4)).matches == ()
        never = InInterface("+", negated=True)
        assert read(enc.encode_expressions(Rule(Accept(), (never,)), IPV4)).matches == (never,)


def test_an_expression_that_is_broken_off_is_shown_by_its_name() -> None:
    broken = nested(nf.NFTA_LIST_ELEM, attribute(nf.NFTA_EXPR_NAME, c_string("cmp")), attribute(2, u8(1)))
    assert read(broken).matches == (UnknownMatch("[cmp]"),)
