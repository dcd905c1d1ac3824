"""Local routes and route lookups in the current namespace.

TPROXY needs two objects per address family, which deliver marked packets to this host:

    packet with mark 1337 --(rule: fwmark 1337 lookup 133)--> table 133 --(local default dev lo)--> a socket here

What changes something returns whether it did: False means that the state was already the requested one. All
functions raise KernelError, PrivilegeError, and UnsupportedError for a family that the kernel does not have.
"""

from __future__ import annotations

import errno

from capture.errors import KernelError
from capture.model.addresses import FAMILY_BY_NUMBER, FAMILY_NAMES
from capture.model.conventions import IPPROTO_TCP, MAX_ID
from capture.model.values import Value
from capture.netlink.attributes import attribute, decode_fields, decode_host_number, u32
from capture.netlink.messages import NLM_F_CREATE, NLM_F_EXCL
from capture.netlink.rtnetlink import (
    ADDRESS_BITS,
    AF_INET6,
    LOOPBACK_INDEX,
    RT_SCOPE_HOST,
    pack_address,
    packed_address_text,
    request_change,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.netlink.sockets import NetlinkSocket

# linux/rtnetlink.h: messages, and what kinds of route there are
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTN_UNSPEC, RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST = 0, 1, 2, 3, 5
RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW = 6, 7, 8, 9
REFUSING_KINDS = {RTN_UNSPEC: "", RTN_BLACKHOLE: "blackhole", RTN_UNREACHABLE: "unreachable", RTN_PROHIBIT: "prohibit"}
"""With their names in ip-route(8) and ip-rule(8); RTN_UNSPEC means no route, or a policy rule `unreachable`."""
GROUP_KINDS = {RTN_BROADCAST: "broadcast", RTN_MULTICAST: "multicast"}
"""Those to many hosts: connect() of TCP refuses them (tcp_v4_connect, tcp_v6_connect)."""
RTPROT_UNSPEC, RTPROT_BOOT = 0, 3

# linux/rtnetlink.h: struct rtmsg (family, dst_len, src_len, tos, table, protocol, scope, type, flags), and attributes
RTMSG_SIZE = 12
RTA_DST, RTA_SRC, RTA_IIF, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 2, 3, 4, 5, 6, 7
RTA_MULTIPATH, RTA_TABLE, RTA_MARK, RTA_UID, RTA_IP_PROTO, RTA_SPORT, RTA_DPORT = 9, 15, 16, 25, 27, 28, 29

# A lookup whose result is a refusal is answered with an error (fib_props in net/ipv4/fib_semantics.c).
REFUSALS = {
    errno.ENETUNREACH: RTN_UNSPEC,
    errno.EHOSTUNREACH: RTN_UNREACHABLE,
    errno.EACCES: RTN_PROHIBIT,
    errno.EINVAL: RTN_BLACKHOLE,
    errno.EXDEV: RTN_PROHIBIT,  # by rp_filter (fib_validate_source in net/ipv4/fib_frontend.c)
}

# An empty IPv6 table still holds its null entry, which cannot be removed: ENOENT (__ip6_del_rt in net/ipv6/route.c).
NO_SUCH_ROUTE = (errno.ESRCH, errno.ENOENT)


class Route(Value):
    """A packet's route: ``kind`` is an RTN_... number, ``interface`` an index or 0, ``source`` an address or empty."""

    kind: int
    interface: int = 0
    source: str = ""
    gateway: str = ""
    """The next hop; "" where the destination is on the link."""


class TableRoute(Value):
    """A route of a table: to the addresses from ``first`` on that share a prefix; ``kind`` is an RTN_... number.

    ``interface`` is an index, the first of several, or 0. Of routes to the same addresses the lowest metric counts.
    """

    table: int
    first: int
    prefix: int
    kind: int
    interface: int
    metric: int


def read_routes(rtnetlink: NetlinkSocket, family: int) -> list[TableRoute]:
    """Return the routes of a family in all tables."""
    routes = []
    for body in rtnetlink.dump(RTM_GETROUTE, bytes((family, *bytes(RTMSG_SIZE - 1))), "list routes"):
        fields = decode_fields(body[RTMSG_SIZE:])
        hop = fields.get(RTA_OIF) or fields.get(RTA_MULTIPATH, b"")[4:8]  # of struct rtnexthop, rtnh_ifindex
        routes.append(
            TableRoute(
                table=decode_host_number(fields.get(RTA_TABLE, body[4:5])),
                first=int.from_bytes(fields.get(RTA_DST, b""), "big"),
                prefix=body[1],
                kind=body[7],
                interface=decode_host_number(hop),
                metric=decode_host_number(fields.get(RTA_PRIORITY, b"")),
            )
        )
    return routes


def has_local_route(rtnetlink: NetlinkSocket, family: int, table: int) -> bool:
    """Return whether the table has the route `local default dev lo`."""
    return bool(_local_route_metrics(rtnetlink, family, table))


def add_local_route(rtnetlink: NetlinkSocket, family: int, table: int) -> bool:
    """Add the route `local default dev lo` to the table; return whether it was missing. ``lo`` must be up."""
    task = f"add {FAMILY_NAMES[FAMILY_BY_NUMBER[family]]} route local default dev lo table {table}"
    try:
        rtnetlink.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, _local_route_body(family, table, RTPROT_BOOT), task)
    except KernelError as error:
        if error.errno == errno.EEXIST and has_local_route(rtnetlink, family, table):
            return False
        raise  # another default route is in the table's way
    return True


def remove_local_route(rtnetlink: NetlinkSocket, family: int, table: int) -> bool:
    """Remove the route `local default dev lo` from the table, of any maker; return whether there was one.

    It is read first, because only its metric distinguishes an IPv6 route from another default route
    by ``lo``, such as an unreachable one (ip6_route_del in net/ipv6/route.c does not look at the type).
    """
    task = f"remove {FAMILY_NAMES[FAMILY_BY_NUMBER[family]]} route local default dev lo table {table}"
    removed = False
    for metric in _local_route_metrics(rtnetlink, family, table):
        body = _local_route_body(family, table, RTPROT_UNSPEC) + attribute(RTA_PRIORITY, u32(metric))
        removed = request_change(rtnetlink, RTM_DELROUTE, 0, body, task, *NO_SUCH_ROUTE) or removed
    return removed


OUTSIDE_ADDRESSES = ("198.51.100.1", "2001:db8::1")
"""Addresses of IPv4 and IPv6 that only a default route leads to (RFC 5737, RFC 3849)."""


def outgoing_route(rtnetlink: NetlinkSocket, family: int) -> Route:
    """Return the route by which TCP of a family leaves this namespace; its interface is 0 if none leads out."""
    return look_up_route(rtnetlink, OUTSIDE_ADDRESSES[family == AF_INET6], IPPROTO_TCP)


def look_up_route(
    rtnetlink: NetlinkSocket,
    destination: str,
    protocol: int,
    ports: tuple[int, int] = (0, 0),
    source: str = "",
    mark: int = 0,
    uid: int | None = None,
    incoming: int = 0,
) -> Route:
    """Return where this namespace sends a packet of its own, after its policy rules, or one that comes in.

    ``protocol`` is an IPPROTO_ number, ``ports`` are the source's and the destination's; a port of 0 is one that no
    policy rule names. Kernels before 4.18 have no policy rules by these, and ignore them.
    No route at all is RTN_UNSPEC, and so is an IPv4 source that is not an address of the namespace.
    """
    family, packed = pack_address(destination)
    bits = ADDRESS_BITS[family]
    body = bytes((family, bits, bits if source else 0, *bytes(9)))
    body += attribute(RTA_DST, packed) + attribute(RTA_MARK, u32(mark))
    if source:
        body += attribute(RTA_SRC, pack_address(source)[1])
    if incoming:
        body += attribute(RTA_IIF, u32(incoming))
    if uid is not None or not incoming:  # without a user the kernel takes us, root: `uidrange 0-0`
        body += attribute(RTA_UID, u32(MAX_ID if uid is None else uid))
    body += attribute(RTA_IP_PROTO, bytes((protocol,)))
    for kind, port in zip((RTA_SPORT, RTA_DPORT), ports, strict=True):
        body += attribute(kind, port.to_bytes(2, "big")) if port else b""
    try:
        (message,) = rtnetlink.request(RTM_GETROUTE, 0, body, f"look up the route to {destination}")
    except KernelError as error:
        if error.errno in REFUSALS:
            return Route(REFUSALS[error.errno])
        raise
    fields = decode_fields(message[RTMSG_SIZE:])
    interface = decode_host_number(fields.get(RTA_OIF, b""))
    source, gateway = (packed_address_text(family, fields.get(kind)) for kind in (RTA_PREFSRC, RTA_GATEWAY))
    return Route(message[7], interface, source, gateway)


def header_table(table: int) -> int:
    """Return the 8 bits of a header for a table: larger numbers are in an attribute alone."""
    return table if table < 256 else 0


def _local_route_body(family: int, table: int, protocol: int) -> bytes:
    header = bytes((family, 0, 0, 0, header_table(table), protocol, RT_SCOPE_HOST, RTN_LOCAL))
    return header + u32(0) + attribute(RTA_TABLE, u32(table)) + attribute(RTA_OIF, u32(LOOPBACK_INDEX))


def _local_route_metrics(rtnetlink: NetlinkSocket, family: int, table: int) -> list[int]:
    wanted = table, 0, RTN_LOCAL, LOOPBACK_INDEX
    routes = read_routes(rtnetlink, family)
    return [each.metric for each in routes if (each.table, each.prefix, each.kind, each.interface) == wanted]
