"""Messages and refusals, from bytes as the kernel writes them (linux/netlink.h, struct nlmsgerr)."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.netlink.attributes import MalformedMessageError, attribute, c_string, u32
from capture.netlink.messages import (
    NLM_F_ACK_TLVS,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSGERR_ATTR_MSG,
    NLMSGERR_ATTR_OFFS,
    Message,
    Refusal,
    decode_messages,
    decode_refusal,
    encode_message,
)

REPLIES = attribute(NLMSGERR_ATTR_MSG, c_string("Nexthop device is not up")) + attribute(NLMSGERR_ATTR_OFFS, u32(36))
REQUEST = encode_message(25, 5, 7, b"abcdef")


def negative(number: int) -> bytes:
    return u32(2**32 - number)


@given(st.lists(st.binary(max_size=9), max_size=4))
def test_messages_of_a_datagram_come_back(bodies: list[bytes]) -> None:
    datagram = b"".join(encode_message(3, 5, 7, body) + bytes(-len(body) & 3) for body in bodies)
    assert list(decode_messages(datagram)) == [Message(3, 5, 7, body) for body in bodies]


@given(st.binary(max_size=128))
def test_any_bytes_end_in_messages_or_an_error(data: bytes) -> None:
    try:
        found = list(decode_messages(data))
    except MalformedMessageError:
        return
    assert sum(16 + len(message.body) for message in found) <= len(data)


@pytest.mark.parametrize("cut", [1, 15, 16, 21])
def test_a_truncated_datagram_is_an_error(cut: int) -> None:
    with pytest.raises(MalformedMessageError, match="at byte 0"):
        list(decode_messages(REQUEST[:cut]))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Message(NLMSG_ERROR, 0, 7, u32(0) + REQUEST), None),
        (Message(NLMSG_DONE, 0, 7, u32(0)), None),
        (Message(NLMSG_DONE, 0, 7, b""), None),
        (Message(NLMSG_ERROR, 0, 7, negative(errno.ENOENT) + REQUEST), Refusal(errno.ENOENT)),
        (
            Message(NLMSG_ERROR, NLM_F_ACK_TLVS, 7, negative(errno.ENOENT) + REQUEST[:16] + REPLIES),
            Refusal(errno.ENOENT, "Nexthop device is not up", 36),
        ),
        (
            Message(NLMSG_DONE, NLM_F_ACK_TLVS, 7, negative(errno.EBUSY) + REPLIES),
            Refusal(errno.EBUSY, "Nexthop device is not up", 36),
        ),
    ],
)
def test_a_refusal_is_read_wherever_the_kernel_puts_it(message: Message, expected: Refusal | None) -> None:
    assert decode_refusal(message) == expected


@pytest.mark.parametrize(
    ("refusal", "explanation"),
    [
        (Refusal(2), ""),
        (Refusal(2, "no"), "no"),
        (Refusal(2, "", 0), "at byte 0 of the message"),
        (Refusal(2, "no", 20), "no, at byte 20 of the message"),
    ],
)
def test_an_explanation_has_what_is_known(refusal: Refusal, explanation: str) -> None:
    assert refusal.explanation == explanation
