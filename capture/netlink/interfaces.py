"""Interfaces of the current namespace and their addresses.

What changes something returns whether it did: False means that the state was already the requested one. All
functions raise KernelError, PrivilegeError, and UnsupportedError for a family that the kernel does not have.
"""

from __future__ import annotations

import errno

from capture.errors import KernelError, UnsupportedError
from capture.model.addresses import BITS, FAMILY_BY_NUMBER, Network
from capture.model.values import Value
from capture.netlink.attributes import attribute, decode_fields, decode_host_number, decode_text, u32
from capture.netlink.messages import NLM_F_CREATE, NLM_F_EXCL
from capture.netlink.rtnetlink import (
    AF_INET6,
    AF_UNSPEC,
    LOOPBACK_INDEX,
    RT_SCOPE_HOST,
    RT_SCOPE_UNIVERSE,
    pack_address,
    request_change,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.netlink.sockets import NetlinkSocket

# linux/rtnetlink.h
RTM_GETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, RTM_GETNEIGH = 18, 20, 21, 22, 30
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFINFOMSG_SIZE, IFADDRMSG_SIZE = 16, 8

# linux/if_link.h, linux/if.h, linux/if_addr.h
IFLA_IFNAME, IFLA_LINKINFO, IFLA_EXT_MASK, IFLA_LINK_NETNSID, IFLA_XDP = 3, 18, 29, 37, 43
IFLA_INFO_SLAVE_KIND = 4
IFLA_XDP_ATTACHED = 2
IFF_UP, IFF_LOOPBACK, IFF_LOWER_UP = 1 << 0, 1 << 3, 1 << 16
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFA_F_NODAD = 0x02
NDA_DST, NDA_CACHEINFO = 1, 3
NDMSG_SIZE, NUD_CONFIRMED, NUD_KNOWN = 12, 0x02 | 0x80, 0x02 | 0x80 | 0x04 | 0x08 | 0x10
"""linux/neighbour.h: NUD_REACHABLE and _PERMANENT; with _STALE, _DELAY, and _PROBE."""
NUD_UNANSWERED = 0x01 | 0x20
"""NUD_INCOMPLETE and _FAILED."""
USER_HZ = 100  # of the times in struct nda_cacheinfo: ndm_confirmed, ndm_used, ndm_updated, ndm_refcnt

WITHOUT_STATISTICS = attribute(IFLA_EXT_MASK, u32(RTEXT_FILTER_SKIP_STATS))


class Link(Value):
    """An interface; ``flags`` are IFF_... bits. ``peer_namespace`` is the number of the namespace of its other end."""

    index: int
    name: str
    flags: int
    peer_namespace: int | None = None
    has_xdp: bool = False
    """Whether a program sees what comes in before all else."""
    is_bridged: bool = False
    """Whether it is a port of a bridge, which takes what comes in."""

    @property
    def has_carrier(self) -> bool:
        """Return whether it is up, and its other end is, too."""
        return self.is_up and bool(self.flags & IFF_LOWER_UP)

    @property
    def is_up(self) -> bool:
        """Return whether its administrator set it up."""
        return bool(self.flags & IFF_UP)

    @property
    def is_loopback(self) -> bool:
        return bool(self.flags & IFF_LOOPBACK)


class Address(Value):
    """An address of an interface, which is named by its index."""

    address: Network
    interface: int


def read_links(rtnetlink: NetlinkSocket) -> list[Link]:
    """Return all interfaces of the namespace."""
    query = bytes(IFINFOMSG_SIZE) + WITHOUT_STATISTICS
    return [_decode_link(body) for body in rtnetlink.dump(RTM_GETLINK, query, "list interfaces")]


def is_loopback_up(rtnetlink: NetlinkSocket) -> bool:
    """Return whether ``lo`` is set up."""
    query = bytes(4) + u32(LOOPBACK_INDEX) + bytes(8) + WITHOUT_STATISTICS
    (body,) = rtnetlink.request(RTM_GETLINK, 0, query, "read the state of lo")
    return _decode_link(body).is_up


def read_addresses(rtnetlink: NetlinkSocket, family: int = AF_UNSPEC) -> list[Address]:
    """Return the addresses of all interfaces, of one family or of both."""
    bodies = rtnetlink.dump(RTM_GETADDR, bytes((family, *bytes(IFADDRMSG_SIZE - 1))), "list addresses")
    return [_decode_address(body) for body in bodies if body[0] in FAMILY_BY_NUMBER]


def read_neighbours(rtnetlink: NetlinkSocket, family: int, interface: int) -> dict[bytes, tuple[int, int]]:
    """Return, by their addresses, the states (NUD_...) of neighbours on an interface, and since how many seconds."""
    bodies = rtnetlink.dump(RTM_GETNEIGH, bytes((family, *bytes(NDMSG_SIZE - 1))), "list neighbours")
    here = [(body[8:10], decode_fields(body[NDMSG_SIZE:])) for body in bodies if body[4:8] == u32(interface)]
    found = ((state, fields.get(NDA_DST, b""), fields.get(NDA_CACHEINFO, b"")[8:12]) for state, fields in here)
    return {address: (decode_host_number(state), decode_host_number(at) // USER_HZ) for state, address, at in found}


def add_address(rtnetlink: NetlinkSocket, address: str, prefix: int, interface: int = LOOPBACK_INDEX) -> bool:
    """Give an interface an address, usable at once (no duplicate address detection); return whether it was missing."""
    shown = "lo" if interface == LOOPBACK_INDEX else f"interface {interface}"
    task = f"add address {address}/{prefix} to {shown}"
    body = _address_body(address, prefix, interface)
    try:
        return request_change(rtnetlink, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, task, errno.EEXIST)
    except KernelError as error:
        if error.errno == errno.EACCES and ":" in address:  # ipv6_add_addr in net/ipv6/addrconf.c
            remedy = "See the sysctls net.ipv6.conf.{all,default,lo}.disable_ipv6, or do without IPv6."
            raise UnsupportedError(f"cannot {task}: IPv6 is switched off there", remedy) from error
        raise


def remove_address(rtnetlink: NetlinkSocket, address: str, prefix: int) -> bool:
    """Take an address from ``lo``; return whether it was there."""
    task = f"remove address {address}/{prefix} from lo"
    body = _address_body(address, prefix, LOOPBACK_INDEX)
    return request_change(rtnetlink, RTM_DELADDR, 0, body, task, errno.EADDRNOTAVAIL)


def _address_body(address: str, prefix: int, interface: int) -> bytes:
    family, packed = pack_address(address)
    scope = RT_SCOPE_HOST if interface == LOOPBACK_INDEX else RT_SCOPE_UNIVERSE
    flags = IFA_F_NODAD if family == AF_INET6 else 0
    header = bytes((family, prefix, flags, scope)) + u32(interface)  # struct ifaddrmsg
    return header + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)


def _decode_address(body: bytes) -> Address:
    """Return the address of an RTM_NEWADDR.

    On a point-to-point link IFA_ADDRESS is the other end and IFA_LOCAL is the own one; IPv6 may have IFA_ADDRESS alone.
    """
    fields, family = decode_fields(body[IFADDRMSG_SIZE:]), FAMILY_BY_NUMBER[body[0]]
    first = int.from_bytes(fields.get(IFA_LOCAL) or fields.get(IFA_ADDRESS, b""), "big")
    return Address(Network(family, first, BITS[family]), decode_host_number(body[4:8]))


def _decode_link(body: bytes) -> Link:
    """Return the interface of an RTM_NEWLINK (struct ifinfomsg: family, pad, type, index, flags, change)."""
    fields = decode_fields(body[IFINFOMSG_SIZE:])
    return Link(
        index=decode_host_number(body[4:8]),
        name=decode_text(fields[IFLA_IFNAME]),
        flags=decode_host_number(body[8:12]),
        peer_namespace=decode_host_number(fields[IFLA_LINK_NETNSID]) if IFLA_LINK_NETNSID in fields else None,
        is_bridged=decode_text(decode_fields(fields.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_SLAVE_KIND, b""))
        == "bridge",
        has_xdp=any(decode_fields(fields.get(IFLA_XDP, b"")).get(IFLA_XDP_ATTACHED, b"")),
    )
