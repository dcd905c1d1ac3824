"""Links, addresses and default routes of the calling thread's namespace, by rtnetlink(7).

A pod takes a dozen requests, and a test run some thousand pods: pyroute2 takes half a millisecond for each.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys

# linux/netlink.h, linux/rtnetlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL = 0x1, 0x4, 0x400, 0x200
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 20, 24
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST = 254, 4, 1
RTA_GATEWAY = 5
# linux/if_link.h, linux/if_addr.h, linux/veth.h, net/if.h
IFLA_IFNAME, IFLA_LINKINFO, IFLA_NET_NS_FD = 3, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
IFF_UP = 0x1


def set_up(interface: str) -> None:
    """Set an interface up."""
    _request(RTM_NEWLINK, _link(socket.if_nametoindex(interface), IFF_UP))


def add_veth(name: str, peer: str, peer_namespace: int) -> None:
    """Make a veth pair with one end here, and one in a namespace by its descriptor."""
    there = (
        _link() + _attribute(IFLA_IFNAME, _text(peer)) + _attribute(IFLA_NET_NS_FD, struct.pack("=I", peer_namespace))
    )
    kind = _attribute(IFLA_INFO_KIND, _text("veth"))
    info = kind + _attribute(IFLA_INFO_DATA, _attribute(VETH_INFO_PEER, there))
    made = _link() + _attribute(IFLA_IFNAME, _text(name)) + _attribute(IFLA_LINKINFO, info)
    _request(RTM_NEWLINK, made, NLM_F_CREATE | NLM_F_EXCL)


def add_address(address: str, prefix_length: int, interface: str) -> None:
    """Add an address; one of IPv6 is usable at once."""
    family, packed = _parsed(address)
    head = struct.pack("=BBBBI", family, prefix_length, 0, 0, socket.if_nametoindex(interface))
    flags = _attribute(IFA_FLAGS, struct.pack("=I", IFA_F_NODAD)) if family == socket.AF_INET6 else b""
    body = head + _attribute(IFA_LOCAL, packed) + _attribute(IFA_ADDRESS, packed) + flags
    _request(RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_EXCL)


def add_default_route(gateway: str) -> None:
    """Add the default route of the gateway's family."""
    family, packed = _parsed(gateway)
    head = struct.pack("=BBBBBBBBI", family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0)
    _request(RTM_NEWROUTE, head + _attribute(RTA_GATEWAY, packed), NLM_F_CREATE | NLM_F_EXCL)


def _request(kind: int, body: bytes, flags: int = 0) -> None:
    """Send a request, and raise OSError with the kernel's answer if it refuses."""
    message = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as rtnetlink:
        rtnetlink.send(message)
        answer = rtnetlink.recv(1 << 16)
    code = -int.from_bytes(answer[16:20], sys.byteorder, signed=True)
    if code:
        raise OSError(code, os.strerror(code))


def _link(index: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)  # struct ifinfomsg


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _text(name: str) -> bytes:
    return name.encode() + b"\0"


def _parsed(address: str) -> tuple[int, bytes]:
    parsed = ipaddress.ip_address(address)
    return socket.AF_INET if parsed.version == 4 else socket.AF_INET6, parsed.packed
