"""Making and removing interfaces in the current namespace: a veth pair whose other end is in another namespace.

Where start-up time does not count. All functions raise KernelError and PrivilegeError, UnsupportedError without veth.
"""

from __future__ import annotations

from capture.netlink.attributes import attribute, c_string, decode_host_number, nested, u32
from capture.netlink.interfaces import IFF_UP, IFLA_IFNAME, IFLA_LINKINFO, RTM_GETLINK
from capture.netlink.messages import NLM_F_CREATE, NLM_F_EXCL
from capture.netlink.policy_rules import RT_TABLE_MAIN
from capture.netlink.routing import RTA_GATEWAY, RTA_OIF, RTM_NEWROUTE, RTN_UNICAST, RTPROT_BOOT
from capture.netlink.rtnetlink import RT_SCOPE_UNIVERSE, pack_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.netlink.sockets import NetlinkSocket

# linux/rtnetlink.h, linux/if_link.h, linux/veth.h
RTM_NEWLINK, RTM_DELLINK = 16, 17
IFLA_NET_NS_FD = 28
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER = 1


def add_veth(rtnetlink: NetlinkSocket, name: str, peer_name: str, peer_namespace: int) -> None:
    """Make a veth pair; its peer goes to the namespace behind a file descriptor."""
    peer = _header() + attribute(IFLA_IFNAME, c_string(peer_name)) + attribute(IFLA_NET_NS_FD, u32(peer_namespace))
    info = nested(
        IFLA_LINKINFO,
        attribute(IFLA_INFO_KIND, c_string("veth")),
        nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer)),
    )
    body = _header() + attribute(IFLA_IFNAME, c_string(name)) + info
    rtnetlink.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"make the interface {name}")


def set_up(rtnetlink: NetlinkSocket, index: int) -> None:
    """Set an interface up."""
    rtnetlink.request(RTM_NEWLINK, 0, _header(index, IFF_UP), f"set interface {index} up")


def remove_link(rtnetlink: NetlinkSocket, name: str) -> None:
    """Remove an interface, and with it the other end of a pair."""
    rtnetlink.request(
        RTM_DELLINK, 0, _header() + attribute(IFLA_IFNAME, c_string(name)), f"remove the interface {name}"
    )


def interface_index(rtnetlink: NetlinkSocket, name: str) -> int:
    """Return the index of an interface."""
    query = _header() + attribute(IFLA_IFNAME, c_string(name))
    (body,) = rtnetlink.request(RTM_GETLINK, 0, query, f"find the interface {name}")
    return decode_host_number(body[4:8])


def add_default_route(rtnetlink: NetlinkSocket, gateway: str, index: int) -> None:
    """Send everything of the gateway's family to it."""
    family, packed = pack_address(gateway)
    header = bytes((family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST)) + u32(0)
    body = header + attribute(RTA_GATEWAY, packed) + attribute(RTA_OIF, u32(index))
    rtnetlink.request(RTM_NEWROUTE, NLM_F_CREATE, body, f"add the default route by {gateway}")


def _header(index: int = 0, flags: int = 0) -> bytes:
    """Return a struct ifinfomsg: family, pad, type, index, flags, and which of those are to be changed."""
    return bytes(4) + u32(index) + u32(flags) + u32(flags)
