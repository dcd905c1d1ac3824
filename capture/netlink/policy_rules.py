"""Policy rules (ip-rule(8)) in the order in which the kernel asks them, with what they ask for.

linux/fib_rules.h::

    struct fib_rule_hdr   family, dst_len, src_len, tos, table, two reserved, action, flags(4), then attributes
"""

from __future__ import annotations

from capture.model.values import Value
from capture.netlink.attributes import decode_fields, decode_host_number, decode_text
from capture.netlink.routing import (
    FIB_RULE_HDR_SIZE,
    FR_ACT_TO_TBL,
    FRA_FWMARK,
    FRA_FWMASK,
    FRA_PRIORITY,
    FRA_SUPPRESS_PREFIXLEN,
    FRA_TABLE,
    NO_SUPPRESSION,
    RTA_TABLE,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTMSG_SIZE,
)
from capture.netlink.rtnetlink import address_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.netlink.sockets import NetlinkSocket

# linux/fib_rules.h
FIB_RULE_INVERT = 0x2
FR_ACT_NOP = 3
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_OIFNAME = 1, 2, 3, 17

RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255  # linux/rtnetlink.h
TABLE_NAMES = {253: "default", RT_TABLE_MAIN: "main", RT_TABLE_LOCAL: "local"}


class PolicyRule(Value):
    """A policy rule; ``selector`` is what it asks for besides the mark, in the words of ip-rule(8).

    ``is_inverted`` turns all that it asks for round: it is for packets for which that does not hold.
    """

    preference: int
    action: int
    table: int
    mark: int
    mask: int
    is_inverted: bool
    selector: str
    suppressed: int | None = None
    """Routes with prefixes up to this length do not count (``suppress_prefixlength``)."""

    @property
    def looks_up(self) -> bool:
        """Whether it looks into a routing table, and does not refuse packets or jump."""
        return self.action == FR_ACT_TO_TBL

    def is_for_mark(self, mark: int, table: int) -> bool:
        """Return whether it is `fwmark MARK lookup TABLE` and nothing else."""
        plain = not self.selector and not self.is_inverted and self.suppressed is None and self.looks_up
        return plain and (self.mark, self.mask, self.table) == (mark, 0xFFFFFFFF, table)

    def may_match_mark(self, mark: int) -> bool:
        """Return whether packets with this mark may be meant."""
        asks_for_it = (mark ^ self.mark) & self.mask == 0
        only_mark = not self.selector
        return not (asks_for_it and only_mark and self.mask) if self.is_inverted else asks_for_it

    def __str__(self) -> str:
        words = [f"{self.preference}:", "not" if self.is_inverted else "", self.selector or "from all"]
        if self.mask:
            words.append(f"fwmark {self.mark:#x}" + (f"/{self.mask:#x}" if self.mask != 0xFFFFFFFF else ""))
        words.append(f"lookup {TABLE_NAMES.get(self.table, self.table)}" if self.looks_up else "...")
        if self.suppressed is not None:
            words.append(f"suppress_prefixlength {self.suppressed}")
        return " ".join(filter(None, words))


def read_policy_rules(route: NetlinkSocket, family: int) -> list[PolicyRule]:
    """Return the policy rules of a family, AF_INET or AF_INET6, in the order in which they are asked."""
    bodies = route.dump(RTM_GETRULE, bytes((family, *bytes(11))), "list policy rules")
    return [_decode(body) for body in bodies if body[0] == family]


def has_routes(route: NetlinkSocket, family: int, table: int) -> bool:
    """Return whether a routing table has any route; one that has none lets packets go on to the next rule."""
    bodies = route.dump(RTM_GETROUTE, bytes((family, *bytes(RTMSG_SIZE - 1))), "list routes")
    found = (decode_host_number(decode_fields(body[RTMSG_SIZE:]).get(RTA_TABLE, b"")) for body in bodies)
    return table in found


def _decode(body: bytes) -> PolicyRule:
    fields = decode_fields(body[FIB_RULE_HDR_SIZE:])
    suppressed = fields.get(FRA_SUPPRESS_PREFIXLEN, NO_SUPPRESSION)
    return PolicyRule(
        preference=decode_host_number(fields.get(FRA_PRIORITY, b"")),
        action=body[7],
        table=decode_host_number(fields[FRA_TABLE]) if FRA_TABLE in fields else body[4],
        mark=decode_host_number(fields.get(FRA_FWMARK, b"")),
        mask=decode_host_number(fields.get(FRA_FWMASK, b"")),
        is_inverted=bool(decode_host_number(body[8:12]) & FIB_RULE_INVERT),
        selector=_selector(body, fields),
        suppressed=None if suppressed == NO_SUPPRESSION else decode_host_number(suppressed),
    )


def _selector(body: bytes, fields: dict[int, bytes]) -> str:
    words = []
    for word, kind, bits in (("from", FRA_SRC, body[2]), ("to", FRA_DST, body[1])):
        if bits:
            words.append(f"{word} {address_text(body[0], fields.get(kind))}/{bits}")
    if body[3]:
        words.append(f"tos {body[3]:#x}")
    for word, kind in (("iif", FRA_IIFNAME), ("oif", FRA_OIFNAME)):
        if kind in fields:
            words.append(f"{word} {decode_text(fields[kind])}")
    words += [f"{word} ..." for kind, word in OTHER_SELECTORS.items() if kind in fields]
    return " ".join(words)


OTHER_SELECTORS = {20: "uidrange", 22: "ipproto", 23: "sport", 24: "dport"}
"""Attributes that narrow a rule down further (linux/fib_rules.h)."""
