"""The expressions of nf_tables, which both backends are made of, byte for byte as the kernel keeps them. Pure.

A condition loads a field into register 1 and compares:

    10.0.0.0/8     payload load 1b @ network header + 16 => reg 1, cmp eq reg 1 10
    mark 1/0xff    meta load mark => reg 1, bitwise reg 1 = reg 1 & 0xff ^ 0, cmp eq reg 1 1
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.netlink.attributes import attribute, c_string, s32be, u32be, u64be

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Made = TypeVar("Made", bytes, str)

REGISTER = u32be(nf.NFT_REG_1)
PORT_SIZE = 2  # RFC 9293 3.1, RFC 768: both ports are the first four bytes


def nest(kind: int, *parts: bytes) -> bytes:
    """Return attributes in an attribute as the kernel writes it for nf_tables: without the flag NLA_F_NESTED.

    Its parser does not check the flag (nla_parse_nested_deprecated in net/netfilter/nf_tables_api.c), and
    without it what comes back can be compared with what was sent (``exact``).
    """
    return attribute(kind, b"".join(parts))


def expression(name: str, *attributes: bytes) -> bytes:
    """Return an expression with its attributes."""
    return nest(nf.NFTA_LIST_ELEM, attribute(nf.NFTA_EXPR_NAME, c_string(name)), nest(nf.NFTA_EXPR_DATA, *attributes))


def always(made: Made) -> Callable[[object], Made]:
    """Return what makes the same of everything."""
    return lambda _: made


_FRAMES: dict[tuple[object, ...], bytes] = {}


def framed(key: tuple[object, ...], payload: bytes, make: Callable[[bytes], bytes]) -> bytes:
    """Return ``make(payload)``, an expression that ends with its payload.

    What comes before the payload depends on its size alone. It is made once for each ``key``, which has the size.
    """
    frame = _FRAMES.get(key)
    padding = -len(payload) & 3
    if frame is None:
        whole = make(payload)
        frame = _FRAMES[key] = whole[: len(whole) - len(payload) - padding]
    return frame + payload + bytes(padding)


def load_meta(key: int) -> bytes:
    """Return: register = a fact about the packet."""
    return expression("meta", attribute(nf.NFTA_META_KEY, u32be(key)), attribute(nf.NFTA_META_DREG, REGISTER))


def store_meta(key: int) -> bytes:
    """Return: a fact about the packet = register."""
    return expression("meta", attribute(nf.NFTA_META_KEY, u32be(key)), attribute(nf.NFTA_META_SREG, REGISTER))


def load_ct(key: int) -> bytes:
    """Return: register = a fact about the connection."""
    return expression("ct", attribute(nf.NFTA_CT_DREG, REGISTER), attribute(nf.NFTA_CT_KEY, u32be(key)))


def store_ct(key: int) -> bytes:
    """Return: a fact about the connection = register."""
    return expression("ct", attribute(nf.NFTA_CT_SREG, REGISTER), attribute(nf.NFTA_CT_KEY, u32be(key)))


def load_payload(base: int, offset: int, length: int) -> bytes:
    """Return: register = bytes of a header."""
    key = (load_payload, base, offset, length)
    frame = _FRAMES.get(key)
    if frame is None:
        frame = _FRAMES[key] = expression(
            "payload",
            attribute(nf.NFTA_PAYLOAD_DREG, REGISTER),
            attribute(nf.NFTA_PAYLOAD_BASE, u32be(base)),
            attribute(nf.NFTA_PAYLOAD_OFFSET, u32be(offset)),
            attribute(nf.NFTA_PAYLOAD_LEN, u32be(length)),
        )
    return frame


def immediate(value: bytes) -> bytes:
    """Return: register = value."""
    return expression("immediate", attribute(nf.NFTA_IMMEDIATE_DREG, REGISTER), data(nf.NFTA_IMMEDIATE_DATA, value))


def data(kind: int, value: bytes) -> bytes:
    """Return a value as an attribute."""
    return nest(kind, attribute(nf.NFTA_DATA_VALUE, value))


def equals(value: bytes, *, negated: bool = False) -> bytes:
    """Return: go on if the register is this value, or, negated, if it is another."""
    return compare(nf.NFT_CMP_NEQ if negated else nf.NFT_CMP_EQ, value)


def compare(operator: int, value: bytes) -> bytes:
    """Return: go on if the register compares so with the value."""
    return framed(
        (compare, operator, len(value)),
        value,
        lambda value: expression(
            "cmp",
            attribute(nf.NFTA_CMP_SREG, REGISTER),
            attribute(nf.NFTA_CMP_OP, u32be(operator)),
            data(nf.NFTA_CMP_DATA, value),
        ),
    )


def in_range(low: bytes, high: bytes, *, negated: bool) -> bytes:
    """Return: go on if the register lies between two values, or, negated, if it does not."""
    return expression(
        "range",
        attribute(nf.NFTA_RANGE_SREG, REGISTER),
        attribute(nf.NFTA_RANGE_OP, u32be(nf.NFT_RANGE_NEQ if negated else nf.NFT_RANGE_EQ)),
        data(nf.NFTA_RANGE_FROM_DATA, low),
        data(nf.NFTA_RANGE_TO_DATA, high),
    )


def bitwise(mask: bytes, flip: bytes = b"") -> bytes:
    """Return: register = register & mask ^ flip."""
    return expression(
        "bitwise",
        attribute(nf.NFTA_BITWISE_SREG, REGISTER),
        attribute(nf.NFTA_BITWISE_DREG, REGISTER),
        attribute(nf.NFTA_BITWISE_LEN, u32be(len(mask))),
        attribute(nf.NFTA_BITWISE_OP, u32be(nf.NFT_BITWISE_MASK_XOR)),  # unknown before Linux 5.6, and skipped there
        data(nf.NFTA_BITWISE_MASK, mask),
        data(nf.NFTA_BITWISE_XOR, flip or bytes(len(mask))),
    )


def in_network(offset: int, packed: bytes, prefix: int, *, negated: bool) -> bytes:
    """Return the comparison of an address in the network header with a network.

    Of the bytes of the prefix if it has whole ones, else of the address under a mask. ``offset`` is that of the
    address in the header, ``packed`` the network's first address.
    """
    if prefix % 8 == 0 and prefix > 0:
        length = prefix // 8
        return load_payload(nf.NFT_PAYLOAD_NETWORK_HEADER, offset, length) + equals(packed[:length], negated=negated)
    size = len(packed)
    mask = ((1 << prefix) - 1 << size * 8 - prefix).to_bytes(size, "big")
    return load_payload(nf.NFT_PAYLOAD_NETWORK_HEADER, offset, size) + bitwise(mask) + equals(packed, negated=negated)


def verdict(code: int, chain: bytes = b"") -> bytes:
    """Return the expression that ends a rule; ``chain`` is the attribute of the chain to jump to."""
    value = nest(nf.NFTA_DATA_VERDICT, attribute(nf.NFTA_VERDICT_CODE, s32be(code)), chain)
    register = attribute(nf.NFTA_IMMEDIATE_DREG, u32be(nf.NFT_REG_VERDICT))
    return expression("immediate", register, nest(nf.NFTA_IMMEDIATE_DATA, value))


def jump(chain: str) -> bytes:
    """Return the verdict that jumps to a chain."""
    name = c_string(chain)
    return framed((jump, len(name)), name, lambda name: verdict(nf.NFT_JUMP, attribute(nf.NFTA_VERDICT_CHAIN, name)))


COUNTER = expression(
    "counter", attribute(nf.NFTA_COUNTER_BYTES, u64be(0)), attribute(nf.NFTA_COUNTER_PACKETS, u64be(0))
)
