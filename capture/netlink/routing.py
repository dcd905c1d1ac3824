"""Policy rules, local routes and route lookups in the current namespace.

TPROXY needs two objects per address family, which deliver marked packets to this host:

    packet with mark 1337 --(rule: fwmark 1337 lookup 133)--> table 133 --(local default dev lo)--> a socket here

What changes something says whether it did: False means that the state was already the wanted one. All
functions raise KernelError, PrivilegeError, and UnsupportedError for a family that the kernel does not have.
"""

from __future__ import annotations

import errno

from capture.errors import KernelError
from capture.model.values import Value
from capture.netlink.attributes import attribute, decode_fields, decode_host_number, u32
from capture.netlink.messages import NLM_F_CREATE, NLM_F_EXCL
from capture.netlink.rtnetlink import (
    ADDRESS_BITS,
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    LOOPBACK_INDEX,
    RT_SCOPE_HOST,
    RT_SCOPE_UNIVERSE,
    address_text,
    pack_address,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.netlink.sockets import NetlinkSocket

# linux/rtnetlink.h: messages, and what kinds of route there are
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26
RTM_NEWRULE = 32
RTM_DELRULE = 33
RTM_GETRULE = 34
RTN_UNSPEC = 0
RTN_UNICAST = 1
RTN_LOCAL = 2
RTN_BLACKHOLE = 6
RTN_UNREACHABLE = 7
RTN_PROHIBIT = 8
RTPROT_UNSPEC = 0
RTPROT_BOOT = 3

# linux/rtnetlink.h: struct rtmsg, attributes of routes
RTMSG_SIZE = 12
RTA_DST = 1
RTA_SRC = 2
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PRIORITY = 6
RTA_PREFSRC = 7
RTA_TABLE = 15
RTA_MARK = 16
RTA_UID = 25

# linux/fib_rules.h
FIB_RULE_HDR_SIZE = 12
FR_ACT_TO_TBL = 1
FRA_PRIORITY = 6
FRA_FWMARK = 10
FRA_SUPPRESS_PREFIXLEN = 14
FRA_TABLE = 15
FRA_FWMASK = 16
FRA_PROTOCOL = 21

WHOLE_MARK = u32(0xFFFFFFFF)
NO_SUPPRESSION = u32(0xFFFFFFFF)

# All that the kernel says of a rule that is nothing but `fwmark M lookup T`; whatever else narrows it down.
PLAIN_RULE = {FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL}
NEEDED_IN_RULE = {FRA_FWMARK, FRA_FWMASK, FRA_TABLE}
BARE_HEADER = (0, 0, 0, FR_ACT_TO_TBL, u32(0))
"""Of a struct fib_rule_hdr: dst_len, src_len, tos, action, flags."""

# A lookup whose result is a refusal is answered with an error (fib_props in net/ipv4/fib_semantics.c).
REFUSALS = {
    errno.ENETUNREACH: RTN_UNREACHABLE,
    errno.EHOSTUNREACH: RTN_UNREACHABLE,
    errno.EACCES: RTN_PROHIBIT,
    errno.EINVAL: RTN_BLACKHOLE,
}

# An empty IPv6 table still holds its null entry, which cannot be removed: ENOENT (__ip6_del_rt in net/ipv6/route.c).
NO_SUCH_ROUTE = (errno.ESRCH, errno.ENOENT)


class Route(Value):
    """Where a packet goes: ``kind`` is an RTN_... number, ``interface`` an index or 0, addresses are text or empty."""

    kind: int
    interface: int = 0
    source: str = ""
    gateway: str = ""


class MarkRule(Value):
    """A policy rule `fwmark MARK lookup TABLE` that has no other condition; ``family`` is AF_INET or AF_INET6."""

    family: int
    mark: int
    table: int


def read_mark_rules(route: NetlinkSocket) -> list[MarkRule]:
    """Return the policy rules of both families that are `fwmark MARK lookup TABLE` and nothing else."""
    # Of all families, multicast routing's too.
    return [rule for rule, _ in _mark_rules(route, AF_UNSPEC) if rule.family in (AF_INET, AF_INET6)]


def has_mark_rule(route: NetlinkSocket, family: int, mark: int, table: int) -> bool:
    """Return whether there is a policy rule `fwmark MARK lookup TABLE` that has no other condition."""
    return bool(_priorities(route, family, mark, table))


def put_mark_rule(route: NetlinkSocket, family: int, mark: int, table: int, preference: int) -> bool:
    """Let the policy rule `fwmark MARK lookup TABLE` be there with this preference, and with no other."""
    found = _priorities(route, family, mark, table)
    added = u32(preference) not in found and _add_mark_rule(route, family, mark, table, preference)
    elsewhere = [priority for priority in found if priority != u32(preference)]
    return _remove_mark_rules(route, family, mark, table, elsewhere) or added


def _add_mark_rule(route: NetlinkSocket, family: int, mark: int, table: int, preference: int) -> bool:
    doing = f"add {_family_name(family)} policy rule fwmark {mark} lookup {table}"
    body = _rule_body(family, mark, table) + attribute(FRA_PRIORITY, u32(preference))
    try:
        route.request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, body, doing)
    except KernelError as error:
        if error.errno == errno.EEXIST:  # another process was faster
            return False
        raise
    return True


def remove_mark_rule(route: NetlinkSocket, family: int, mark: int, table: int) -> bool:
    """Remove every policy rule that is exactly `fwmark MARK lookup TABLE`, and none that says more."""
    return _remove_mark_rules(route, family, mark, table, _priorities(route, family, mark, table))


def _remove_mark_rules(route: NetlinkSocket, family: int, mark: int, table: int, priorities: list[bytes]) -> bool:
    doing = f"remove {_family_name(family)} policy rule fwmark {mark} lookup {table}"
    removed = False
    for priority in priorities:
        body = _rule_body(family, mark, table) + attribute(FRA_PRIORITY, priority)
        removed = _remove(route, RTM_DELRULE, body, doing, errno.ENOENT) or removed
    return removed


def has_local_route(route: NetlinkSocket, family: int, table: int) -> bool:
    """Return whether the table has the route `local default dev lo`."""
    return bool(_metrics(route, family, table))


def add_local_route(route: NetlinkSocket, family: int, table: int) -> bool:
    """Add the route `local default dev lo` to the table. ``lo`` must be up."""
    doing = f"add {_family_name(family)} route local default dev lo table {table}"
    try:
        route.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, _local_route_body(family, table, RTPROT_BOOT), doing)
    except KernelError as error:
        if error.errno == errno.EEXIST and has_local_route(route, family, table):
            return False
        raise  # another default route is in the table's way
    return True


def remove_local_route(route: NetlinkSocket, family: int, table: int) -> bool:
    """Remove the route `local default dev lo` from the table, of any maker.

    It is read first, because only its metric tells the kernel an IPv6 route from another default route
    by ``lo``, such as an unreachable one (ip6_route_del in net/ipv6/route.c does not look at the type).
    """
    doing = f"remove {_family_name(family)} route local default dev lo table {table}"
    removed = False
    for metric in _metrics(route, family, table):
        body = _local_route_body(family, table, RTPROT_UNSPEC) + attribute(RTA_PRIORITY, metric)
        removed = _remove(route, RTM_DELROUTE, body, doing, *NO_SUCH_ROUTE) or removed
    return removed


def look_up_route(
    route: NetlinkSocket, destination: str, source: str = "", mark: int = 0, uid: int | None = None
) -> Route:
    """Return where this namespace sends a packet of its own, after its policy rules.

    No route at all is RTN_UNREACHABLE, and so is an IPv4 source that is not ours.
    """
    family, packed = pack_address(destination)
    bits = ADDRESS_BITS[family]
    body = _route_header(family, destination_bits=bits, source_bits=bits if source else 0)
    body += attribute(RTA_DST, packed) + attribute(RTA_MARK, u32(mark))
    if source:
        body += attribute(RTA_SRC, pack_address(source)[1])
    if uid is not None:
        body += attribute(RTA_UID, u32(uid))
    try:
        (found,) = route.request(RTM_GETROUTE, 0, body, f"look up the route to {destination}")
    except KernelError as error:
        if error.errno in REFUSALS:
            return Route(REFUSALS[error.errno])
        raise
    return _decode_route(found)


def _remove(route: NetlinkSocket, kind: int, body: bytes, doing: str, *absent: int) -> bool:
    try:
        route.request(kind, 0, body, doing)
    except KernelError as error:
        if error.errno in absent:
            return False
        raise
    return True


def _family_name(family: int) -> str:
    return "IPv6" if family == AF_INET6 else "IPv4"


def _header_table(table: int) -> int:
    """Return what the 8 bits of a header say of a table: larger numbers are in an attribute alone."""
    return table if table < 256 else 0


def _rule_header(family: int, table: int = 0, action: int = 0) -> bytes:
    """Return a struct fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, action, flags."""
    return bytes((family, 0, 0, 0, _header_table(table), 0, 0, action)) + u32(0)


def _rule_body(family: int, mark: int, table: int) -> bytes:
    return (
        _rule_header(family, table, FR_ACT_TO_TBL)
        + attribute(FRA_FWMARK, u32(mark))
        + attribute(FRA_FWMASK, WHOLE_MARK)
        + attribute(FRA_TABLE, u32(table))
    )


def _priorities(route: NetlinkSocket, family: int, mark: int, table: int) -> list[bytes]:
    """Return the FRA_PRIORITY of each rule that is exactly `fwmark MARK lookup TABLE`."""
    wanted = MarkRule(family, mark, table)
    return [priority for rule, priority in _mark_rules(route, family) if rule == wanted]


def _mark_rules(route: NetlinkSocket, family: int) -> Iterator[tuple[MarkRule, bytes]]:
    """Yield the rules that are exactly `fwmark MARK lookup TABLE`, each with its FRA_PRIORITY."""
    for body in route.dump(RTM_GETRULE, _rule_header(family), "list policy rules"):
        header = (body[1], body[2], body[3], body[7], body[8:12])
        fields = decode_fields(body[FIB_RULE_HDR_SIZE:])
        if (
            header == BARE_HEADER
            and NEEDED_IN_RULE <= fields.keys() <= PLAIN_RULE
            and fields[FRA_FWMASK] == WHOLE_MARK
            and fields.get(FRA_SUPPRESS_PREFIXLEN, NO_SUPPRESSION) == NO_SUPPRESSION
        ):
            rule = MarkRule(body[0], decode_host_number(fields[FRA_FWMARK]), decode_host_number(fields[FRA_TABLE]))
            yield rule, fields.get(FRA_PRIORITY, u32(0))


def _route_header(
    family: int,
    destination_bits: int = 0,
    source_bits: int = 0,
    table: int = 0,
    protocol: int = RTPROT_UNSPEC,
    scope: int = RT_SCOPE_UNIVERSE,
    kind: int = RTN_UNSPEC,
) -> bytes:
    """Return a struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
    return bytes((family, destination_bits, source_bits, 0, _header_table(table), protocol, scope, kind)) + u32(0)


def _local_route_body(family: int, table: int, protocol: int) -> bytes:
    header = _route_header(family, table=table, protocol=protocol, scope=RT_SCOPE_HOST, kind=RTN_LOCAL)
    return header + attribute(RTA_TABLE, u32(table)) + attribute(RTA_OIF, u32(LOOPBACK_INDEX))


def _metrics(route: NetlinkSocket, family: int, table: int) -> list[bytes]:
    """Return the RTA_PRIORITY of each route `local default dev lo` of the table."""
    found = []
    for body in route.dump(RTM_GETROUTE, _route_header(family), "list routes"):
        fields = decode_fields(body[RTMSG_SIZE:])
        if (
            (body[0], body[1], body[2], body[7]) == (family, 0, 0, RTN_LOCAL)
            and fields.get(RTA_TABLE) == u32(table)
            and fields.get(RTA_OIF) == u32(LOOPBACK_INDEX)
        ):
            found.append(fields.get(RTA_PRIORITY, u32(0)))
    return found


def _decode_route(body: bytes) -> Route:
    family = body[0]
    fields = decode_fields(body[RTMSG_SIZE:])
    return Route(
        kind=body[7],
        interface=decode_host_number(fields.get(RTA_OIF, b"")),
        source=address_text(family, fields.get(RTA_PREFSRC)),
        gateway=address_text(family, fields.get(RTA_GATEWAY)),
    )
