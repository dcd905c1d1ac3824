"""Policy rules (ip-rule(8)) in the order in which the kernel applies them, and those of TPROXY: `fwmark M lookup T`.

linux/fib_rules.h::

    struct fib_rule_hdr   family, dst_len, src_len, tos, table, two reserved, action, flags(4), then attributes

What changes something returns whether it did. All functions raise KernelError, PrivilegeError, and UnsupportedError for
a family that the kernel does not have.
"""

from __future__ import annotations

import errno

from capture.model.addresses import FAMILY_BY_NUMBER, FAMILY_NAMES
from capture.model.conventions import PROTOCOL_BY_NUMBER
from capture.model.values import Value
from capture.netlink.attributes import Fields, attribute, decode_fields, decode_host_number, decode_text, u32
from capture.netlink.messages import NLM_F_CREATE, NLM_F_EXCL
from capture.netlink.routing import RTN_THROW, header_table, read_routes
from capture.netlink.rtnetlink import AF_INET, AF_INET6, AF_UNSPEC, packed_address_text, request_change

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.netlink.sockets import NetlinkSocket

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34  # linux/rtnetlink.h

# linux/fib_rules.h
FIB_RULE_HDR_SIZE = 12
FIB_RULE_INVERT = 0x2
FR_ACT_TO_TBL, FR_ACT_GOTO, FR_ACT_NOP = 1, 2, 3
REFUSING_ACTIONS = {6: "blackhole", 7: "unreachable", 8: "prohibit"}
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_GOTO, FRA_OIFNAME = 1, 2, 3, 4, 17
FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL = 6, 10, 14, 15, 16, 21
FRA_TUN_ID, FRA_UID_RANGE, FRA_IP_PROTO, FRA_SPORT, FRA_DPORT, FRA_DSCP = 12, 20, 22, 23, 24, 25
PROTOCOL_TCP, PORTS_SIZE, PORT_MASKS, WHOLE_PORT = bytes((6,)), 4, (28, 29), b"\xff\xff"
SHOWN_BY_THEMSELVES = {FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_DSCP}
SHOWN_BY_THEMSELVES |= {FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL}

WHOLE_MARK = 0xFFFFFFFF
NO_SUPPRESSION = u32(0xFFFFFFFF)

RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255  # linux/rtnetlink.h
ROUTING_TABLE_NAMES = {253: "default", RT_TABLE_MAIN: "main", RT_TABLE_LOCAL: "local"}


class PolicyRule(Value):
    """A policy rule: its mark, the networks and the incoming interface that it tests, and ``others`` in words.

    If ``is_inverted``, it is for packets for which these tests do not all hold.
    """

    preference: int
    action: int
    table: int
    mark: int
    mask: int
    is_inverted: bool
    source: str = ""
    destination: str = ""
    incoming: str = ""
    type_of_service: str = ""
    others: str = ""
    suppress_prefixlength: int | None = None
    """Routes with prefixes up to this length do not count (``suppress_prefixlength``)."""
    family: int = AF_UNSPEC
    is_for_rerouted: bool = True
    """Whether TCP that is routed again may match: it has no outgoing interface, and in IPv4 always user 0."""

    @property
    def selector(self) -> str:
        """Return what it tests apart from the mark."""
        return " ".join(filter(None, (self.source, self.destination, self.type_of_service, self.incoming, self.others)))

    @property
    def looks_up(self) -> bool:
        """Return whether it looks into a routing table, and does not refuse packets or jump."""
        return self.action == FR_ACT_TO_TBL

    @property
    def is_plain(self) -> bool:
        has_more_conditions = self.selector or self.is_inverted or self.suppress_prefixlength is not None
        return not has_more_conditions and self.looks_up and self.mask == WHOLE_MARK

    def is_for_mark(self, mark: int, table: int) -> bool:
        """Return whether it is `fwmark MARK lookup TABLE` with these, and nothing else."""
        return self.is_plain and (self.mark, self.table) == (mark, table)

    def may_match_mark(self, mark: int) -> bool:
        """Return whether packets with this mark fulfil what it tests of the mark."""
        return (mark ^ self.mark) & self.mask == 0

    def __str__(self) -> str:
        words = [f"{self.preference}:", "not" if self.is_inverted else "", f"from {self.source or 'all'}"]
        words += [f"to {self.destination}" if self.destination else "", self.type_of_service]
        if self.mask:
            words.append(f"fwmark {self.mark:#x}" + (f"/{self.mask:#x}" if self.mask != WHOLE_MARK else ""))
        words += [f"iif {self.incoming}" if self.incoming else "", self.others]
        action = {**REFUSING_ACTIONS, FR_ACT_NOP: "nop"}.get(self.action, "")
        words.append(f"lookup {ROUTING_TABLE_NAMES.get(self.table, self.table)}" if self.looks_up else action)
        if self.suppress_prefixlength is not None:
            words.append(f"suppress_prefixlength {self.suppress_prefixlength}")
        return " ".join(filter(None, words))


def read_policy_rules(rtnetlink: NetlinkSocket, family: int = AF_UNSPEC) -> list[PolicyRule]:
    """Return the policy rules of a family, or of IPv4 and IPv6, in the order in which the kernel tries them."""
    families = (AF_INET, AF_INET6) if family == AF_UNSPEC else (family,)  # multicast routing has some, too
    bodies = rtnetlink.dump(RTM_GETRULE, bytes((family, *bytes(11))), "list policy rules")
    return [_decode_rule(body) for body in bodies if body[0] in families]


def has_routes(rtnetlink: NetlinkSocket, family: int, rule: PolicyRule) -> bool:
    """Return whether a rule finds any route in its table; if not, packets go on to the next rule."""
    shortest = -1 if rule.suppress_prefixlength is None else rule.suppress_prefixlength
    in_table = [each for each in read_routes(rtnetlink, family) if each.table == rule.table and each.kind != RTN_THROW]
    return any(each.prefix > shortest for each in in_table)


def _decode_rule(body: bytes) -> PolicyRule:
    fields = decode_fields(body[FIB_RULE_HDR_SIZE:])
    suppressed = fields.get(FRA_SUPPRESS_PREFIXLEN, NO_SUPPRESSION)
    return PolicyRule(
        preference=decode_host_number(fields.get(FRA_PRIORITY, b"")),
        action=body[7],
        table=decode_host_number(fields[FRA_TABLE]) if FRA_TABLE in fields else body[4],
        mark=decode_host_number(fields.get(FRA_FWMARK, b"")),
        mask=decode_host_number(fields.get(FRA_FWMASK, b"")),
        is_inverted=bool(decode_host_number(body[8:12]) & FIB_RULE_INVERT),
        source=_network_text(body[0], fields.get(FRA_SRC), body[2]),
        destination=_network_text(body[0], fields.get(FRA_DST), body[1]),
        incoming=decode_text(fields.get(FRA_IIFNAME, b"")),
        type_of_service=f"dscp {fields[FRA_DSCP][0]}" if FRA_DSCP in fields else f"tos {body[3]:#x}" if body[3] else "",
        others=_other_conditions(fields),
        suppress_prefixlength=None if suppressed == NO_SUPPRESSION else decode_host_number(suppressed),
        family=body[0],
        is_for_rerouted=_is_for_rerouted(body[0], fields),
    )


def _is_for_rerouted(family: int, fields: Fields) -> bool:
    is_other_user = family == AF_INET and decode_host_number(fields.get(FRA_UID_RANGE, b"")[:4]) > 0
    is_other_protocol = fields.get(FRA_IP_PROTO, PROTOCOL_TCP) != PROTOCOL_TCP
    return FRA_OIFNAME not in fields and not is_other_user and not is_other_protocol


def _network_text(family: int, address: bytes | None, bits: int) -> str:
    return f"{packed_address_text(family, address)}/{bits}" if bits else ""


def _other_conditions(fields: Fields) -> str:
    words = [f"{word} {decode(fields[kind])}" for kind, (word, decode) in OTHER_CONDITIONS.items() if kind in fields]
    further = {kind for kind, value in fields.items() if kind not in PORT_MASKS or value != WHOLE_PORT}
    further -= OTHER_CONDITIONS.keys() | SHOWN_BY_THEMSELVES
    return " ".join([*words, *(["another condition"] if further else [])])


def _range_text(value: bytes) -> str:
    first, last = decode_host_number(value[: len(value) // 2]), decode_host_number(value[len(value) // 2 :])
    return str(first) if first == last and len(value) == PORTS_SIZE else f"{first}-{last}"


OTHER_CONDITIONS: dict[int, tuple[str, Callable[[bytes], object]]] = {
    FRA_OIFNAME: ("oif", decode_text),
    FRA_UID_RANGE: ("uidrange", _range_text),
    FRA_IP_PROTO: ("ipproto", lambda value: PROTOCOL_BY_NUMBER.get(value[0], value[0])),
    FRA_SPORT: ("sport", _range_text),
    FRA_DPORT: ("dport", _range_text),
    FRA_TUN_ID: ("tun_id", lambda value: int.from_bytes(value, "big")),
    FRA_GOTO: ("goto", decode_host_number),
}
"""What makes a rule more than `fwmark M lookup T`, in the order of ip-rule(8)."""


# --- the rules of TPROXY -------------------------------------------------------------------------


def has_mark_rule(rtnetlink: NetlinkSocket, family: int, mark: int, table: int) -> bool:
    """Return whether there is a policy rule `fwmark MARK lookup TABLE` that has no other condition."""
    return bool(_preferences_of_mark(rtnetlink, family, mark, table))


def set_mark_rule(rtnetlink: NetlinkSocket, family: int, mark: int, table: int, preference: int | None) -> bool:
    """Let the policy rule `fwmark MARK lookup TABLE` be there with this preference, and with no other.

    With None, remove every rule that is exactly that, and none with more conditions. Return whether anything changed.
    """
    words = f"{FAMILY_NAMES[FAMILY_BY_NUMBER[family]]} policy rule fwmark {mark:#x} lookup {table}"
    preferences = _preferences_of_mark(rtnetlink, family, mark, table)
    changes = []
    if preference is not None and preference not in preferences:
        rule = _mark_rule(family, mark, table, preference)  # another process may be faster: EEXIST
        flags = NLM_F_CREATE | NLM_F_EXCL
        changes.append(request_change(rtnetlink, RTM_NEWRULE, flags, rule, f"add {words}", errno.EEXIST))
    for other_preference in preferences:
        if other_preference != preference:
            rule = _mark_rule(family, mark, table, other_preference)
            changes.append(request_change(rtnetlink, RTM_DELRULE, 0, rule, f"remove {words}", errno.ENOENT))
    return any(changes)


def remove_mark_rule(rtnetlink: NetlinkSocket, family: int, mark: int, table: int) -> bool:
    """Remove every policy rule that is exactly `fwmark MARK lookup TABLE`; return whether there was one."""
    return set_mark_rule(rtnetlink, family, mark, table, None)


def _preferences_of_mark(rtnetlink: NetlinkSocket, family: int, mark: int, table: int) -> list[int]:
    rules = read_policy_rules(rtnetlink, family)
    return [rule.preference for rule in rules if rule.is_for_mark(mark, table)]


def _mark_rule(family: int, mark: int, table: int, preference: int) -> bytes:
    return (
        bytes((family, 0, 0, 0, header_table(table), 0, 0, FR_ACT_TO_TBL))
        + u32(0)
        + attribute(FRA_FWMARK, u32(mark))
        + attribute(FRA_FWMASK, u32(WHOLE_MARK))
        + attribute(FRA_TABLE, u32(table))
        + attribute(FRA_PRIORITY, u32(preference))
    )
