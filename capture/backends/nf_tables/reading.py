"""Reads the parts of a message that both backends need: expressions, a rule's comment. Pure."""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.model.ruleset import Accept, Continue, Drop, Return, UnknownVerdict
from capture.model.text import without_line_ends
from capture.netlink.attributes import Fields, MalformedMessageError, decode_elements, decode_fields, decode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = {
    "cmp": (nf.NFTA_CMP_DATA,),
    "range": (nf.NFTA_RANGE_FROM_DATA, nf.NFTA_RANGE_TO_DATA),
    "bitwise": (nf.NFTA_BITWISE_MASK, nf.NFTA_BITWISE_XOR),
}
"""Attributes that hold nothing but a nested value."""

VERDICT_OF_CODE: dict[int, Accept | Drop | Return | UnknownVerdict] = {
    nf.NF_ACCEPT: Accept(),
    nf.NF_DROP: Drop(),
    nf.NFT_RETURN: Return(),
    nf.NFT_CONTINUE: UnknownVerdict("continue", Continue()),
}
"""The verdicts without a chain, by their codes."""


def read_expressions(rule: Fields, known: dict[bytes, tuple[str, Fields]]) -> Iterator[tuple[str, Fields]]:
    """Yield the expressions of a rule; ``known`` remembers them, since most were in another rule before."""
    for expression in decode_elements(rule.get(nf.NFTA_RULE_EXPRESSIONS, b"")):
        decoded = known.get(expression)
        if decoded is None:
            decoded = known[expression] = read_expression(expression)
        yield decoded


def read_expression(expression: bytes) -> tuple[str, Fields]:
    """Return the name and the fields of an expression, values unwrapped; no fields where they are malformed."""
    outer = decode_fields(expression)
    name = decode_text(outer[nf.NFTA_EXPR_NAME])
    try:
        fields = decode_fields(outer.get(nf.NFTA_EXPR_DATA, b""))
        for kind in VALUES.get(name, ()):
            if kind in fields:
                fields[kind] = decode_fields(fields[kind]).get(nf.NFTA_DATA_VALUE, b"")
    except MalformedMessageError:  # another kernel than those we know writes so
        return name, {}
    return name, fields


def read_verdict(fields: Fields) -> tuple[int, str]:
    """Return the code of a verdict, and the chain to which it leads, if any."""
    code = int.from_bytes(fields[nf.NFTA_VERDICT_CODE], "big", signed=True)
    return code, decode_text(fields.get(nf.NFTA_VERDICT_CHAIN, b""))


def read_comment(userdata: bytes) -> str:
    """Return the comment among a rule's userdata (libnftnl/udata.h).

    It holds records: a byte of type, a byte of length, and that many bytes.
    """
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == nf.NFTNL_UDATA_RULE_COMMENT:
            return without_line_ends(decode_text(userdata[offset + 2 : offset + 2 + length]))
        offset += 2 + length
    return ""
