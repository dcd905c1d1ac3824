"""What is encoded is read back, and any bytes are read or refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.agent import protobuf
from cni.agent.protobuf import MessageError, decode_fields, integer_field, message, submessages, text_field, text_map


def test_known_bytes_of_the_encoding() -> None:
    """protobuf.dev, "Encoding": the examples of its text."""
    assert message(f2="testing") == b"\x12\x07testing"
    assert message(f2="x" * 127) == b"\x12\x7f" + b"x" * 127, "a number takes no more bytes than it needs"
    assert [*decode_fields(b"\x08\x96\x01")] == [(1, 150)]
    assert [*decode_fields(b"\x1a\x03\x08\x96\x01")] == [(3, b"\x08\x96\x01")]
    assert [*decode_fields(b"\x08" + b"\xff" * 9 + b"\x01")] == [(1, 2**64 - 1)], "ten bytes are the most"


@given(st.text(), st.binary(max_size=300), st.booleans())
def test_a_written_value_is_read_back(words: str, content: bytes, flag: bool) -> None:  # noqa: FBT001  # drawn
    received = message(f1=words, f16=content, f200=flag)
    assert (text_field(received, 1), submessages(received, 16), integer_field(received, 200)) == (
        words,
        [content],
        int(flag),
    )


def test_fields_of_other_kinds_are_passed_over() -> None:
    fixed = b"\x09" + b"\1" * 8 + b"\x15" + b"\2" * 4  # field 1 of 64 bits, field 2 of 32
    assert text_field(fixed + message(f3="here"), 3) == "here"


def test_a_malformed_text_is_read_up_to_its_fault() -> None:
    assert text_field(message(f1=b"a\xff"), 1) == "a\ufffd"
    assert text_field(b"", 1) == ""
    assert integer_field(b"", 1) == 0


def test_maps_are_read() -> None:
    entries = b"".join(message(f2=message(f1=key, f2=value)) for key, value in {"a": "1", "b": "2"}.items())
    assert text_map(entries, 2) == {"a": "1", "b": "2"}


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(MessageError):
        assert all(number >= 0 for number, _ in decode_fields(content))


@pytest.mark.parametrize("content", [b"\x0a\x05abc", b"\x08", b"\x08" + b"\xff" * 10 + b"\x01", b"\x0b"])
def test_a_message_that_is_cut_off_is_refused(content: bytes) -> None:
    with pytest.raises(MessageError):
        [*protobuf.decode_fields(content)]
