"""Netlink messages: the header, the split of a datagram into messages, and the text of a refusal. No I/O.

Layout (linux/netlink.h, struct nlmsghdr), in the byte order of the machine:

    0        4      6       8          12        16
    | length | type | flags | sequence | port id | body ...
"""

from __future__ import annotations

from capture.model.values import Value
from capture.netlink.attributes import BYTE_ORDER, MalformedMessageError, decode_fields, decode_host_number, decode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_SIZE = 16  # struct nlmsghdr

# Types that every protocol has (linux/netlink.h).
NLMSG_ERROR, NLMSG_DONE = 2, 3

# Flags of requests, and of answers (linux/netlink.h).
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x001, 0x004, 0x300
NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800
NLM_F_NONREC = 0x100  # delete only what is empty
NLM_F_DUMP_INTR, NLM_F_ACK_TLVS = 0x010, 0x200

# Attributes of an extended acknowledgement (linux/netlink.h, enum nlmsgerr_attrs).
NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS = 1, 2


class Message(Value):
    """One netlink message; ``body`` is what follows the header, without padding."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class Refusal(Value):
    """Why the kernel refused: an errno and, where it sends them, words and the byte of the message that is wrong."""

    errno: int
    words: str = ""
    offset: int | None = None

    @property
    def explanation(self) -> str:
        where = "" if self.offset is None else f"at byte {self.offset} of the message"
        return ", ".join(filter(None, (self.words, where)))


def encode_message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a message to the kernel (port id 0). The body is made of 4-aligned parts."""
    return (
        (HEADER_SIZE + len(body)).to_bytes(4, BYTE_ORDER)
        + kind.to_bytes(2, BYTE_ORDER)
        + flags.to_bytes(2, BYTE_ORDER)
        + sequence.to_bytes(4, BYTE_ORDER)
        + b"\0\0\0\0"
        + body
    )


def decode_messages(datagram: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram. Raise MalformedMessageError on bad lengths."""
    offset, end = 0, len(datagram)
    while offset < end:
        length = int.from_bytes(datagram[offset : offset + 4], BYTE_ORDER)
        if length < HEADER_SIZE or offset + length > end:
            raise MalformedMessageError(
                f"netlink message at byte {offset} says it has {length} bytes; {end - offset} are left of {end}"
            )
        yield Message(
            int.from_bytes(datagram[offset + 4 : offset + 6], BYTE_ORDER),
            int.from_bytes(datagram[offset + 6 : offset + 8], BYTE_ORDER),
            int.from_bytes(datagram[offset + 8 : offset + 12], BYTE_ORDER),
            datagram[offset + HEADER_SIZE : offset + length],
        )
        offset += (length + 3) & ~3


def decode_refusal(message: Message) -> Refusal | None:
    """Return why a request failed, from its NLMSG_ERROR or NLMSG_DONE; None if it succeeded.

    An error repeats the header of the request, and no more of it: sockets that get attributes set NETLINK_CAP_ACK.
    """
    errno = -int.from_bytes(message.body[:4], BYTE_ORDER, signed=True)
    if errno <= 0:
        return None
    if not message.flags & NLM_F_ACK_TLVS:
        return Refusal(errno)
    start = 4 if message.kind == NLMSG_DONE else 4 + HEADER_SIZE
    acknowledgement = decode_fields(message.body[start:])
    offset = acknowledgement.get(NLMSGERR_ATTR_OFFS)
    return Refusal(
        errno,
        decode_text(acknowledgement.get(NLMSGERR_ATTR_MSG, b"")),
        None if offset is None else decode_host_number(offset),
    )
