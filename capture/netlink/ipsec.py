"""The kernel's IPsec policies (ip-xfrm(8)), which decide on packets apart from all rules."""

from __future__ import annotations

from capture.errors import CaptureError
from capture.model.addresses import BITS, FAMILY_BY_NUMBER, Network
from capture.model.conventions import PROTOCOL_NUMBERS
from capture.model.values import Value
from capture.netlink.attributes import Layout, decode_fields
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
POLICY_LAYOUT = Layout(
    "destination [16], source [16], destination_port >2, destination_port_mask >2, source_port >2, source_port_mask >2,"
    " family 2, destination_prefix 1, source_prefix 1, protocol 1, further_tests [11], limits [64], use [32],"
    " priority 4, index 4, direction 1, action 1, flags 1, share 1"
)
"""linux/xfrm.h, struct xfrm_userpolicy_info, which begins with its struct xfrm_selector."""
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
    return [policy for policy in map(_decoded_policy, bodies) if policy]


def _decoded_policy(body: bytes) -> IpsecPolicy | None:
    """Return a policy; None for a socket's own (IP_XFRM_POLICY), whose directions come after those that are named."""
    fields = POLICY_LAYOUT.read(body)
    family = FAMILY_BY_NUMBER.get(fields["family"])
    if family is None or fields["direction"] >= len(POLICY_DIRECTIONS):
        return None
    source, destination = (
        Network(family, int.from_bytes(fields[end][: BITS[family] // 8], "big"), fields[f"{end}_prefix"])
        for end in ("source", "destination")
    )
    return IpsecPolicy(
        direction=POLICY_DIRECTIONS[fields["direction"]],
        priority=fields["priority"],
        source=source,
        destination=destination,
        source_port=(fields["source_port"], fields["source_port_mask"]),
        destination_port=(fields["destination_port"], fields["destination_port_mask"]),
        protocol=fields["protocol"],
        is_blocking=fields["action"] == XFRM_POLICY_BLOCK,
        has_template=XFRMA_TMPL in decode_fields(body[POLICY_LAYOUT.size :]),
    )
