"""The kernel's IPsec policies (ip-xfrm(8)), which decide on packets apart from all rules.

linux/xfrm.h::

    struct xfrm_userpolicy_info   selector(56), limits(64), use(32), priority, index, direction(1), action(1), ...
    struct xfrm_selector          destination(16), source(16), then ports with masks: destination(4), source(4),
                                  family(2), prefix of destination(1) and source(1), protocol(1), ...

Of those that cover a packet the one with the lowest priority counts.
"""

from __future__ import annotations

from capture.errors import CaptureError
from capture.model.addresses import FAMILY_NUMBERS, IPV6
from capture.model.values import Value
from capture.netlink.attributes import decode_fields, decode_host_number
from capture.netlink.rtnetlink import address_text
from capture.netlink.sock_diag import IPPROTO_TCP, IPPROTO_UDP
from capture.netlink.sockets import NetlinkSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model.packet import Packet

NETLINK_XFRM = 6  # linux/netlink.h
XFRM_MSG_GETPOLICY = 0x15
POLICY_INFO_SIZE = 168
XFRMA_TMPL = 5
DIRECTIONS = ("in", "out")
XFRM_POLICY_BLOCK = 1


class IpsecPolicy(Value):
    """A policy that drops packets, or has them encrypted; ``words`` are those of ip-xfrm(8)."""

    words: str
    is_blocking: bool


def policy_for(packet: Packet) -> IpsecPolicy | None:
    """Return the policy that decides on a packet; None if none does, or none can be read."""
    try:
        with open("/proc/thread-self/net/netlink") as sockets:  # a request to it would load the module
            if all(line.split()[1] != str(NETLINK_XFRM) for line in sockets):
                return None
        with NetlinkSocket.open(NETLINK_XFRM, "open a socket for IPsec policies") as xfrm:
            bodies = [
                body for body in xfrm.dump(XFRM_MSG_GETPOLICY, b"", "list IPsec policies") if _covers(body, packet)
            ]
    except (CaptureError, OSError):
        return None
    body = min(bodies, key=lambda body: decode_host_number(body[152:156]), default=b"")
    is_blocking = body[161:162] == bytes((XFRM_POLICY_BLOCK,))
    has_template = bool(body) and XFRMA_TMPL in decode_fields(body[POLICY_INFO_SIZE:])
    return IpsecPolicy(_words(body), is_blocking) if is_blocking or has_template else None


def _covers(body: bytes, packet: Packet) -> bool:
    direction = DIRECTIONS.index("out" if packet.in_interface is None else "in")
    of_family = decode_host_number(body[40:42]) == FAMILY_NUMBERS[packet.family]
    bits = 128 if packet.family == IPV6 else 32
    ends = ((packet.destination, body[:16], body[42]), (packet.source, body[16:32], body[43]))
    inside = all(
        not prefix or (end is not None and end.first >> bits - prefix == _number(packed[: bits // 8]) >> bits - prefix)
        for end, packed, prefix in ends
    )
    ports = ((packet.port, body[32:36]), (packet.source_port or 0, body[36:40]))
    fits = all(port & _number(tested[2:]) == _number(tested[:2]) for port, tested in ports)
    protocol = IPPROTO_UDP if packet.protocol == "udp" else IPPROTO_TCP
    return body[160] == direction and of_family and inside and fits and body[44] in (0, protocol)


def _number(packed: bytes) -> int:
    return int.from_bytes(packed, "big")


def _words(body: bytes) -> str:
    family = decode_host_number(body[40:42])
    size = 4 if family == FAMILY_NUMBERS["ipv4"] else 16
    source, destination = (address_text(family, packed[:size]) for packed in (body[16:32], body[:16]))
    return f"src {source}/{body[43]} dst {destination}/{body[42]} dir {DIRECTIONS[body[160]]}"
