"""The kernel's IPsec policies (ip-xfrm(8)), which decide on packets apart from all rules.

linux/xfrm.h::

    struct xfrm_userpolicy_info   selector(56), limits(64), use(32), priority, index, direction(1), action(1), ...
    struct xfrm_selector          destination(16), source(16), then ports with masks: destination(4), source(4),
                                  family(2), prefix of destination(1) and source(1), protocol(1), ...
"""

from __future__ import annotations

from capture.errors import CaptureError
from capture.model.addresses import BITS, FAMILY_BY_NUMBER, IPV4, Network
from capture.model.conventions import PROTOCOL_NUMBERS
from capture.model.values import Value
from capture.netlink.attributes import decode_fields, decode_host_number
from capture.netlink.sockets import NetlinkSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.model.packet import Packet

NETLINK_XFRM = 6  # linux/netlink.h
XFRM_MSG_GETPOLICY = 0x15
XFRMA_TMPL = 5
POLICY_DIRECTIONS = ("in", "out", "fwd")
XFRM_POLICY_BLOCK = 1
DESTINATION_OFFSET, SOURCE_OFFSET, DESTINATION_PORT_OFFSET, SOURCE_PORT_OFFSET = 0, 16, 32, 36
FAMILY_OFFSET, DESTINATION_PREFIX_OFFSET, SOURCE_PREFIX_OFFSET, PROTOCOL_OFFSET = 40, 42, 43, 44
PRIORITY_OFFSET, DIRECTION_OFFSET, ACTION_OFFSET, POLICY_INFO_SIZE = 152, 160, 161, 168
NETLINK_SOCKETS = "/proc/thread-self/net/netlink"


class IpsecPolicy(Value):
    """A policy: which packets it covers, and whether it drops them or has a template, by which they are encrypted.

    A port is a number and the mask of what is compared; protocol 0 is any.
    """

    direction: str
    priority: int
    source: Network
    destination: Network
    source_port: tuple[int, int]
    destination_port: tuple[int, int]
    protocol: int
    is_blocking: bool
    has_template: bool

    @property
    def words(self) -> str:
        """Return it in the words of ip-xfrm(8)."""
        return f"src {self.source} dst {self.destination} dir {self.direction}"

    def covers(self, packet: Packet) -> bool:
        """Return whether a packet is one of those that it is for."""
        ports = ((packet.port, self.destination_port), (packet.source_port, self.source_port))
        return (
            self.direction == ("out" if packet.in_interface is None else "in")
            and _holds_address(self.destination, packet.destination)
            and (_holds_address(self.source, packet.source) if packet.source else self.source.prefix == 0)
            and all(mask == 0 if port is None else port & mask == number for port, (number, mask) in ports)
            and self.protocol in (0, PROTOCOL_NUMBERS[packet.protocol])
        )


def policy_for(packet: Packet, policies: Iterable[IpsecPolicy]) -> IpsecPolicy | None:
    """Return the policy that drops a packet, or has it encrypted; None if it goes as it is.

    Of those that cover it, the one with the lowest priority decides.
    """
    policy = min((each for each in policies if each.covers(packet)), key=lambda each: each.priority, default=None)
    return policy if policy and (policy.is_blocking or policy.has_template) else None


def _holds_address(network: Network, address: Network) -> bool:
    host_bits = BITS[network.family] - network.prefix
    return network.family == address.family and network.first >> host_bits == address.first >> host_bits


def read_policies() -> list[IpsecPolicy]:
    """Return the policies of the namespace we are in; none where no socket shows that the kernel has the module.

    A request would load it. Raises CaptureError if they cannot be read.
    """
    try:
        with open(NETLINK_SOCKETS) as sockets:
            if all(line.split()[1] != str(NETLINK_XFRM) for line in sockets):
                return []
    except OSError as error:
        raise CaptureError(f"{NETLINK_SOCKETS} cannot be read: {error.strerror}") from None
    with NetlinkSocket.open(NETLINK_XFRM, "open a socket for IPsec policies") as xfrm:
        bodies = xfrm.dump(XFRM_MSG_GETPOLICY, b"", "list IPsec policies")
    # Policies of a socket's own (IP_XFRM_POLICY) have directions that come after these.
    of_all = [body for body in bodies if body[DIRECTION_OFFSET] < len(POLICY_DIRECTIONS)]
    return [_decoded_policy(body) for body in of_all if _family_number(body) in FAMILY_BY_NUMBER]


def _family_number(body: bytes) -> int:
    return decode_host_number(body[FAMILY_OFFSET : FAMILY_OFFSET + 2])


def _decoded_policy(body: bytes) -> IpsecPolicy:
    return IpsecPolicy(
        direction=POLICY_DIRECTIONS[body[DIRECTION_OFFSET]],
        priority=decode_host_number(body[PRIORITY_OFFSET : PRIORITY_OFFSET + 4]),
        source=_decoded_network(body, SOURCE_OFFSET, SOURCE_PREFIX_OFFSET),
        destination=_decoded_network(body, DESTINATION_OFFSET, DESTINATION_PREFIX_OFFSET),
        source_port=_decoded_port(body, SOURCE_PORT_OFFSET),
        destination_port=_decoded_port(body, DESTINATION_PORT_OFFSET),
        protocol=body[PROTOCOL_OFFSET],
        is_blocking=body[ACTION_OFFSET] == XFRM_POLICY_BLOCK,
        has_template=XFRMA_TMPL in decode_fields(body[POLICY_INFO_SIZE:]),
    )


def _decoded_network(body: bytes, offset: int, prefix: int) -> Network:
    family = FAMILY_BY_NUMBER[_family_number(body)]
    size = 4 if family == IPV4 else 16
    return Network(family, int.from_bytes(body[offset : offset + size], "big"), body[prefix])


def _decoded_port(body: bytes, offset: int) -> tuple[int, int]:
    return int.from_bytes(body[offset : offset + 2], "big"), int.from_bytes(body[offset + 2 : offset + 4], "big")
