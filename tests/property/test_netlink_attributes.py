"""Laws of the attribute codec: what is encoded comes back, and no bytes make it hang or lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.netlink import attributes
from capture.netlink.attributes import (
    MalformedMessageError,
    attribute,
    c_string,
    decode_attributes,
    decode_text,
    nested,
)

KINDS = st.integers(0, attributes.NLA_TYPE_MASK)
RECORDS = st.lists(st.tuples(KINDS, st.binary(max_size=64)), max_size=8)


def encode(records: list[tuple[int, bytes]]) -> bytes:
    return b"".join(attribute(kind, payload) for kind, payload in records)


@given(RECORDS)
def test_encoded_attributes_are_decoded(records: list[tuple[int, bytes]]) -> None:
    assert list(decode_attributes(encode(records))) == records


@given(RECORDS)
def test_everything_starts_on_a_multiple_of_four(records: list[tuple[int, bytes]]) -> None:
    assert len(encode(records)) % 4 == 0


@given(KINDS, RECORDS)
def test_a_nest_is_a_payload(kind: int, records: list[tuple[int, bytes]]) -> None:
    ((found, payload),) = decode_attributes(nested(kind, encode(records)))
    assert (found, list(decode_attributes(payload))) == (kind, records)


@given(RECORDS)
def test_fields_are_the_first_of_each_type(records: list[tuple[int, bytes]]) -> None:
    assert attributes.decode_fields(encode(records)) == dict(reversed(records))


@given(RECORDS)
def test_elements_keep_order_and_duplicates(records: list[tuple[int, bytes]]) -> None:
    assert attributes.decode_elements(encode(records)) == [payload for _, payload in records]


@given(RECORDS.filter(bool), st.data())
def test_a_truncated_list_is_an_error_or_a_shorter_list(records: list[tuple[int, bytes]], data: st.DataObject) -> None:
    encoded = encode(records)
    cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    try:
        found = list(decode_attributes(cut))
    except MalformedMessageError:
        return
    assert found == records[: len(found)]


@given(st.binary(max_size=256))
def test_any_bytes_end_in_attributes_or_an_error(data: bytes) -> None:
    try:
        found = list(decode_attributes(data))
    except MalformedMessageError:
        return
    assert sum(4 + len(payload) for _, payload in found) <= len(data)


@given(st.binary(max_size=32).filter(lambda name: b"\0" not in name))
def test_names_of_any_bytes_survive(name: bytes) -> None:
    as_text = decode_text(name + b"\0")
    assert c_string(as_text) == name + b"\0"


@given(st.integers(0, 2**32 - 1))
def test_numbers_survive(number: int) -> None:
    assert attributes.decode_number(attributes.u32be(number)) == number
    assert attributes.decode_host_number(attributes.u32(number)) == number


@pytest.mark.parametrize("kind", [1, 1 | attributes.NLA_F_NESTED, 1 | 0x4000])
def test_flags_are_no_part_of_the_type(kind: int) -> None:
    assert list(decode_attributes(attribute(kind, b"x"))) == [(1, b"x")]
