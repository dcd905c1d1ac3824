"""Expressions of nf_tables for rules of iptables: bytes as iptables-nft 1.8.9 had the kernel keep them."""

import sys

import pytest

from capture.backends.iptables.xt_encode import encode_expressions, encode_matches, encode_rule
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import COUNTER
from capture.model.addresses import IPV4, Family, Network, parse_network
from capture.model.ruleset import (
    Destination,
    DestinationPort,
    InInterface,
    Jump,
    Mark,
    Match,
    OutInterface,
    OwnerUid,
    Protocol,
    Return,
    Rule,
    SetMark,
    Source,
    SourcePort,
    Span,
    UnknownMatch,
    UnknownVerdict,
    only,
)
from capture.netlink.attributes import decode_elements, decode_fields, decode_text

TCP = Protocol("tcp")
little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes were noted on such a machine")


def network(text: str) -> tuple[Network, ...]:
    return (parse_network(text),)


def shown(*matches: Match, family: Family = IPV4) -> list[str]:
    """Return the expressions of matches by name, loads with what is loaded and comparisons with what is compared."""
    found = []
    for element in decode_elements(encode_matches(Rule(Return(), matches), family)):
        fields = decode_fields(element)
        name, data = decode_text(fields[nf.NFTA_EXPR_NAME]), decode_fields(fields[nf.NFTA_EXPR_DATA])
        if name == "cmp":
            value = decode_fields(data[nf.NFTA_CMP_DATA])[nf.NFTA_DATA_VALUE]
            found.append(f"{('==', '!=', '<', '<=', '>', '>=')[data[nf.NFTA_CMP_OP][-1]]} {value.hex()}")
        elif name == "range":
            low, high = (
                decode_fields(data[part])[nf.NFTA_DATA_VALUE].hex()
                for part in (nf.NFTA_RANGE_FROM_DATA, nf.NFTA_RANGE_TO_DATA)
            )
            found.append(f"{('in', 'not in')[data[nf.NFTA_RANGE_OP][-1]]} {low}-{high}")
        elif name == "payload":
            place = (data[part][-1] for part in (nf.NFTA_PAYLOAD_BASE, nf.NFTA_PAYLOAD_OFFSET, nf.NFTA_PAYLOAD_LEN))
            found.append("payload {}:{}+{}".format(*place))
        elif name == "meta":
            found.append(f"meta {data[nf.NFTA_META_KEY][-1]}")
        elif name == "bitwise":
            found.append(f"& {decode_fields(data[nf.NFTA_BITWISE_MASK])[nf.NFTA_DATA_VALUE].hex()}")
        else:
            found.append(f"{name} {decode_text(data[1])} {data[2][-1]}")
    return found


class TestMatches:
    def test_matches_are_in_the_order_of_iptables(self) -> None:
        matches = (
            Mark(1),
            Destination(network("10.1.0.0/16")),
            OwnerUid((only(1),)),
            DestinationPort((only(80),)),
            TCP,
            OutInterface("eth0"),
            Source(network("10.0.0.0/8")),
            InInterface("lo"),
        )
        assert shown(*matches) == [
            *("meta 6", "== 6c6f00"),
            *("meta 7", "== 6574683000"),
            *("meta 16", "== 06"),
            *("payload 1:12+1", "== 0a"),
            *("payload 1:16+2", "== 0a01"),
            *("payload 2:2+2", "== 0050"),
            *("meta 3", f"== {(1).to_bytes(4, sys.byteorder).hex()}"),
            "match owner 1",
        ]

    @pytest.mark.parametrize(
        ("matches", "expected"),
        [
            ((SourcePort((Span(0, 5),)),), ["payload 2:0+2", "<= 0005"]),
            ((SourcePort((Span(0, 5),), negated=True),), ["payload 2:0+2", "> 0005"]),
            ((DestinationPort((Span(5, 65535),)),), ["payload 2:2+2", "in 0005-ffff"]),
            ((DestinationPort((Span(5, 9),), negated=True),), ["payload 2:2+2", "not in 0005-0009"]),
            ((DestinationPort((Span(0, 65535),)),), []),
            ((DestinationPort((Span(0, 65535),), negated=True),), ["payload 2:2+2", "not in 0000-ffff"]),
            ((DestinationPort((only(80),)), SourcePort((only(53),))), ["payload 2:0+4", "== 00350050"]),
            (
                (SourcePort((only(53),), negated=True), DestinationPort((only(80),), negated=True)),
                ["payload 2:0+2", "!= 0035", "payload 2:2+2", "!= 0050"],
            ),
            (
                (SourcePort((only(0),)), DestinationPort((only(80),))),
                ["payload 2:0+2", "== 0000", "payload 2:2+2", "== 0050"],
            ),
            ((DestinationPort((only(53), only(80))),), ["match multiport 1"]),
            (
                (
                    DestinationPort(tuple(only(port) for port in range(0, 40, 2)), negated=True),
                    SourcePort((only(1),)),
                ),
                ["payload 2:0+2", "== 0001", "match multiport 1", "match multiport 1"],
            ),
        ],
    )
    def test_ports_are_compared_in_their_header(self, matches: tuple[Match, ...], expected: list[str]) -> None:
        assert shown(TCP, *matches) == ["meta 16", "== 06", *expected]


class TestBytes:
    """Dumped after ``iptables-nft-restore``, iptables 1.8.9."""

    @little_endian
    def test_a_rule_with_a_match_of_x_tables_is_encoded_byte_for_byte(self) -> None:
        matches = (Destination(network("127.0.0.1"), negated=True), OutInterface("lo"), OwnerUid((only(1337),)))
        dumped = (
            # meta load oifname => reg 1, cmp eq reg 1 "lo"
            "24000100 09000100 6d657461 00000000 14000200 08000200 00000007 08000100 00000001"
            "2c000100 08000100 636d7000 20000200 08000100 00000001 08000200 00000000 0c000300 07000100 6c6f0000"
            # payload load 4b @ network header + 16 => reg 1, cmp neq reg 1 127.0.0.1
            "34000100 0c000100 7061796c 6f616400 24000200 08000100 00000001 08000200 00000001"
            "08000300 00000010 08000400 00000004"
            "2c000100 08000100 636d7000 20000200 08000100 00000001 08000200 00000001 0c000300 08000100 7f000001"
            # match name owner rev 1
            "44000100 0a000100 6d617463 68000000 34000200 0a000100 6f776e65 72000000 08000200 00000001"
            "1c000300 39050000 39050000 00000000 00000000 01000000 00000000"
            # counter pkts 0 bytes 0
            "2c000100 0c000100 636f756e 74657200 1c000200 0c000100 00000000 00000000 0c000200 00000000 00000000"
            # immediate reg 0 jump -> FOO
            "38000100 0e000100 696d6d65 64696174 65000000 24000200 08000100 00000000"
            "18000200 14000200 08000100 fffffffd 08000200 464f4f00"
        )
        assert encode_expressions(Rule(Jump("FOO"), matches), IPV4) == bytes.fromhex(dumped)


class TestWithoutWords:
    @pytest.mark.parametrize(
        ("rule", "why"),
        [
            (Rule(Return(), (UnknownMatch("-m recent"),)), "a foreign rule can be kept, but not written"),
            (Rule(UnknownVerdict("MASQUERADE")), "a foreign rule can be kept, but not written"),
            (Rule(Return(), (DestinationPort((only(80),)),)), "ports without a protocol"),
            (Rule(Return(), (Source(network("::1")),)), "a rule for ipv4 compares with an address of ipv6"),
            (Rule(SetMark(2, 1)), "bits outside of its mask"),
        ],
    )
    def test_rules_without_words_in_iptables_are_refused(self, rule: Rule, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            encode_expressions(rule, IPV4)


def test_matches_that_need_a_protocol_get_it() -> None:
    assert nf.NFTA_RULE_COMPAT not in decode_fields(encode_rule(Rule(Return()), IPV4))
    compat = decode_fields(encode_rule(Rule(Return(), (TCP,)), IPV4))[nf.NFTA_RULE_COMPAT]
    assert decode_fields(compat) == {1: b"\0\0\0\6", 2: bytes(4)}


def test_the_counter_starts_at_nothing() -> None:
    (element,) = decode_fields(COUNTER).values()
    name, values = decode_fields(element).values()
    assert (name, decode_fields(values)) == (b"counter\0", {1: bytes(8), 2: bytes(8)})
