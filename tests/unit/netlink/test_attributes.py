"""Attributes against bytes written out by hand from linux/netlink.h."""

import sys

import pytest

from capture.netlink import attributes
from capture.netlink.attributes import (
    MalformedMessageError,
    attribute,
    c_string,
    decode_attributes,
    nested,
    s32be,
    u8,
    u16be,
)

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes are those of a little-endian machine")


@little_endian
@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (attribute(1), "0400 0100"),
        (attribute(3, b"abcd"), "0800 0300 61626364"),
        (attribute(3, c_string("abcd")), "0900 0300 61626364 00 000000"),
        (attribute(2, u16be(15001)), "0600 0200 3a99 0000"),
        (nested(4, attribute(1, u8(6))), "0c00 0480 0500 0100 06 000000"),
        (nested(4), "0400 0480"),
        (attributes.u32(0x12345678), "78563412"),
        (s32be(-100), "ffffff9c"),
        (attributes.u64be(5), "0000000000000005"),
    ],
)
def test_attributes_are_encoded_byte_for_byte(encoded: bytes, expected: str) -> None:
    assert encoded == bytes.fromhex(expected)


@little_endian
@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("00", "at byte 0 says it has 0 bytes; 1 are left of 1"),
        ("0000 0000", "at byte 0 says it has 0 bytes"),
        ("0300 0100", "at byte 0 says it has 3 bytes"),
        ("0800 0100 00", "at byte 0 says it has 8 bytes; 5 are left of 5"),
        ("0500 0100 06 000000 0400", "at byte 8 says it has 4 bytes; 2 are left of 10"),
    ],
)
def test_bad_lengths_are_named(data: str, complaint: str) -> None:
    with pytest.raises(MalformedMessageError, match=complaint):
        list(decode_attributes(bytes.fromhex(data)))


def test_the_last_attribute_may_lack_its_padding() -> None:
    assert list(decode_attributes(attribute(1, b"abcde")[:9])) == [(1, b"abcde")]


def test_an_attribute_has_16_bits_of_length() -> None:
    longest = attributes.NLA_LENGTH_MAX - attributes.NLA_HEADER_SIZE
    assert list(decode_attributes(attribute(1, bytes(longest)))) == [(1, bytes(longest))]
    with pytest.raises(ValueError, match="attribute 2: 65532 bytes do not fit"):
        nested(2, bytes(longest + 1))


def test_a_name_with_a_nul_is_refused_rather_than_cut_short() -> None:
    with pytest.raises(ValueError, match="NUL"):
        c_string("istio\0output")
