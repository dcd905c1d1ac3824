"""A packet, as the rules and the kernel's tables see it."""

from __future__ import annotations

from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model.addresses import Family, Network
    from capture.model.ruleset import ProtocolName

LOOPBACK = "lo"
EPHEMERAL_PORT = 45000
"""One of those that a kernel chooses (ip-sysctl.rst, ip_local_port_range), for a packet whose own is not known."""
EPHEMERAL_PORTS = (32768, 60999)
"""All of them, unless the setting is another."""
NAT_STATES = ("NEW", "RELATED")
"""Connection states whose packets meet the nat table; later packets are translated as the first one was."""
KNOWN_CONNECTION_STATES = ("RELATED", "ESTABLISHED")


class Packet(Value):
    """A packet as the first table sees it.

    With ``in_interface`` it comes in, else the process with ``uid`` and ``gid`` sends it through
    ``out_interface``. Addresses are networks of a single address; a source that is not known matches no rule
    with a source but 0.0.0.0/0. Marks are numbers; ``state`` is one of CONNECTION_STATES. A reply goes back to
    where the connection came from: nat leaves it. ``port`` is the type of ICMPv6. ``flags`` are TCP's (RFC 9293 3.1);
    None for any that a packet in its state has. ``is_translated`` is whether nat has changed where it goes; of a later
    packet of which it is known whether it ``is_reply``, whether nat has changed where its connection goes.
    """

    protocol: ProtocolName
    destination: Network
    port: int
    source: Network | None = None
    source_port: int | None = None
    uid: int | None = None
    gid: int | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    mark: int = 0
    connection_mark: int = 0
    state: str = "NEW"
    is_reply: bool | None = None
    flags: int | None = None
    is_translated: bool = False

    @property
    def family(self) -> Family:
        return self.destination.family

    @property
    def meets_nat(self) -> bool:
        """Return whether nat translates the packet: the first of a connection, or a later one as it did the first.

        A later one counts only if it can be no reply (no mark on its connection, no ``is_reply``), and either comes in
        or has a socket, by which its sender is known.
        """
        is_first_way = self.connection_mark == 0 and not self.is_reply
        is_known = is_first_way and (self.in_interface is not None or self.uid is not None)
        return self.state in NAT_STATES or (self.state == "ESTABLISHED" and is_known)
