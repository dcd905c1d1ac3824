"""Expressions of foreign rules that the model has no value for, in nft's notation. Pure.

What has no words here is shown by name and numbered attributes: ``[queue 1=0005]``.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.model.addresses import IPV4, IPV6, Family
from capture.netlink.attributes import Fields, decode_number, decode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


# linux/netfilter/nf_tables.h: enum nft_reject_attributes, nft_limit_attributes, nft_quota_attributes, nft_ng_attributes
NFTA_REJECT_TYPE, NFTA_REJECT_ICMP_CODE = 1, 2
NFTA_LIMIT_RATE, NFTA_LIMIT_UNIT, NFTA_LIMIT_BURST, NFTA_LIMIT_TYPE, NFTA_LIMIT_FLAGS = 1, 2, 3, 4, 5
NFTA_QUOTA_BYTES, NFTA_QUOTA_FLAGS = 1, 2
NFTA_NG_MODULUS, NFTA_NG_TYPE, NFTA_NG_OFFSET = 2, 3, 4
NFTA_DYNSET_EXPRESSIONS = (7, 10)  # one, or several
INVERTED = 1  # NFT_LIMIT_F_INV, NFT_QUOTA_F_INV
NFT_REJECT_TCP_RST = 1

ANSWERS: dict[tuple[int, Family | None], tuple[str, ...]] = {
    (0, IPV4): ("icmp net-unreachable", "icmp host-unreachable", "icmp prot-unreachable", "icmp port-unreachable"),
    (0, IPV6): ("icmpv6 no-route", "icmpv6 admin-prohibited", "", "icmpv6 addr-unreachable", "icmpv6 port-unreachable"),
    (2, None): ("icmpx no-route", "icmpx port-unreachable", "icmpx host-unreachable", "icmpx admin-prohibited"),
}
"""The answers of a rule, by its type, and by its family where the codes are those of one; then by the code."""
UNITS = {1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}


def unknown_text(name: str, fields: Fields, family: Family | None) -> str:
    """Return an expression of a rule for a family in nft's words, or as its name and its numbered attributes."""
    if nf.NFTA_MATCH_NAME in fields and name in ("match", "target"):  # of iptables, by way of nft_compat
        return f"[{name} {decode_text(fields[nf.NFTA_MATCH_NAME])} of iptables]"
    words = WORDS[name](fields, family) if name in WORDS else ""
    return words or " ".join([f"[{name}", *(f"{kind}={value.hex()}" for kind, value in fields.items())]) + "]"


PASSING_EXPRESSIONS: dict[str, tuple[int, tuple[int, ...]]] = {
    "meta": (nf.NFTA_META_KEY, (2, 12, 14)),  # priority, nftrace, secmark
    "ct": (nf.NFTA_CT_KEY, (4, 13, 18)),  # secmark, label, event
    "objref": (1, (1, 3, 7, 8, 9)),  # a counter, ct helper, ct timeout, secmark, ct expectation by its name
    **dict.fromkeys(("last", "dup"), (0, (0,))),
}
"""Expressions that write no register and after which a packet goes on: by a number in one of their attributes."""


def goes_on(name: str, fields: Fields) -> bool:
    """Return whether a packet goes on after an expression, unchanged in all that the model knows."""
    if name == "dynset":
        return fields.keys().isdisjoint(NFTA_DYNSET_EXPRESSIONS)  # such as a limit
    kind, numbers = PASSING_EXPRESSIONS.get(name, (0, ()))
    return _number(fields, kind) in numbers


def _number(fields: Fields, kind: int) -> int:
    return decode_number(fields.get(kind, b""))


def _reject(fields: Fields, family: Family | None) -> str:
    kind, code = _number(fields, NFTA_REJECT_TYPE), _number(fields, NFTA_REJECT_ICMP_CODE)
    answers = ANSWERS.get((kind, family if kind == 0 else None), ())
    answer = "tcp reset" if kind == NFT_REJECT_TCP_RST else answers[code] if code < len(answers) else ""
    return f"reject with {answer}" if answer else ""


def _over(fields: Fields, kind: int) -> str:
    return "over " * (_number(fields, kind) & INVERTED)


def _limit(fields: Fields, _: Family | None) -> str:
    unit = UNITS.get(_number(fields, NFTA_LIMIT_UNIT))
    counted = "bytes" if _number(fields, NFTA_LIMIT_TYPE) else "packets"
    rate = f"{_number(fields, NFTA_LIMIT_RATE)}{' bytes' if counted == 'bytes' else ''}/{unit}"
    burst = _number(fields, NFTA_LIMIT_BURST)
    more = f" burst {burst} {counted}" if burst else ""
    return f"limit rate {_over(fields, NFTA_LIMIT_FLAGS)}{rate}{more}" if unit else ""


def _numgen(fields: Fields, _: Family | None) -> str:
    kind = "random" if _number(fields, NFTA_NG_TYPE) else "inc"
    offset = _number(fields, NFTA_NG_OFFSET)
    return f"numgen {kind} mod {_number(fields, NFTA_NG_MODULUS)}{f' offset {offset}' if offset else ''}"


WORDS: dict[str, Callable[[Fields, Family | None], str]] = {
    "reject": _reject,
    "limit": _limit,
    "quota": lambda fields, _: (
        f"quota {_over(fields, NFTA_QUOTA_FLAGS) or 'until '}{_number(fields, NFTA_QUOTA_BYTES)} bytes"
    ),
    "numgen": _numgen,
    "notrack": lambda _, _family: "notrack",
}
