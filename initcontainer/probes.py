"""The connections that the validation dials: the rules would capture them, and we may act as their users."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Literal

from capture.analysis.base_chains import Situation
from capture.analysis.trace import trace_whole_path
from capture.model.addresses import FAMILY_NAMES, IPV4, IPV6, Family, Network, address_text, parse_address
from capture.model.conventions import PASSTHROUGH_SOURCE
from capture.model.packet import Packet
from capture.model.ruleset import Ruleset
from capture.model.values import Value
from capture.settings.config import CaptureConfig
from capture.system.capabilities import missing_capabilities
from capture.system.pod_network import NO_ROUTE, with_route
from initcontainer.outside import OUTSIDE_END, PROBE_INTERFACE, replies_come_back

Side = Literal["outbound", "inbound"]

DOCUMENTATION_ADDRESSES: dict[Family, list[Network]] = {
    IPV4: [*map(parse_address, ("192.0.2.1", "198.51.100.1", "203.0.113.1"))],
    IPV6: [parse_address("2001:db8::1")],
}
"""Addresses for documentation, where no host is (RFC 5737, RFC 3849)."""
USUAL_PORTS = (80, 443, 8080, 9080, 3306, 5432)
ORDINARY_IDS = (65534, 1000, 12345)
"""Users and groups to act as, where our own is the proxy's or is left alone."""


class Probe(Value):
    """One connection: who dials what, by the numbers of user and group, and where it must arrive."""

    side: Side
    destination: Network
    port: int
    uid: int
    gid: int
    arrives_on: int
    namespace_path: str = ""
    """The path of the namespace from which it comes; empty for the pod's own."""

    @property
    def endpoint(self) -> tuple[str, int]:
        """Return address and port as a socket takes them."""
        return address_text(self.destination.family, self.destination.first), self.port

    def __str__(self) -> str:
        origin = " from outside" if self.namespace_path else ""
        return f"{FAMILY_NAMES[self.destination.family]} {self.side}{origin}"


class Proof(Value):
    """A line about a proof, or about why there is none."""

    message: str
    holds: bool


def captured_sides(config: CaptureConfig) -> Iterator[Side]:
    """Yield which ways of connections are captured at all."""
    if config.outbound_networks or config.outbound_ports:
        yield "outbound"
    if config.inbound_ports:
        yield "inbound"


class ProbeChooser:
    """Knows a capture and the pod's own addresses, and chooses what to dial."""

    def __init__(self, config: CaptureConfig, ruleset: Ruleset, own: Iterable[Network], port: int) -> None:
        self._config = config
        self._ruleset = ruleset
        self._own = [address for address in own if not address.is_link_local]
        self._port = port

    def families(self) -> list[Family]:
        """Return the captured families that the pod has addresses of; all of them if it has none yet."""
        present = {address.family for address in self._own}
        return [family for family in self._config.families if family in present or not present]

    def own(self, family: Family) -> Iterator[Network]:
        yield from (address for address in self._own if address.family == family)

    def choose(self, side: Side, family: Family) -> Probe | Proof:
        """Return a connection that the rules would capture, or why there is none that can be made here."""
        config, own = self._config, list(self.own(family))
        is_outbound = side == "outbound"
        destinations = [*_destinations(config, family, own)] if is_outbound else [*own, PASSTHROUGH_SOURCE[family]]
        identities = [*_identities(config, side)]
        why = "no route leads anywhere"
        if not identities:
            why = "not permitted to act as another user (capabilities SETUID and SETGID)"
        for destination, port, (uid, gid) in product(destinations, self._ports_to_try(), identities):
            packet = with_route(Packet("tcp", destination, port, uid=uid, gid=gid))
            if packet.out_interface == NO_ROUTE:
                continue
            why = "nothing that could be dialled from here is captured"
            traced = trace_whole_path(packet, Situation(self._ruleset))
            if traced.outcome == f"proxy-{side}":
                return Probe(side, destination, port, uid, gid, traced.port)
        return Proof(f"{FAMILY_NAMES[family]} {side}: {why}", holds=False)

    def inbound_packet(self, interface: str, source: Network) -> tuple[Packet, int] | None:
        """Return a packet that comes in by an interface and should reach the proxy, and on which port."""
        for destination, port in product(self.own(source.family), self._ports_to_try()):
            packet = Packet("tcp", destination, port, source=source, in_interface=interface)
            traced = trace_whole_path(packet, Situation(self._ruleset))
            if traced.outcome == "proxy-inbound":
                return packet, traced.port
        return None

    def choose_from_outside(self, outside: str, family: Family) -> Probe | Proof:
        """Return a connection from the outside at a path, or why there is none."""
        why = "nothing that could be dialled from outside is captured"
        captured = self.inbound_packet(PROBE_INTERFACE, parse_address(OUTSIDE_END[family][0]))
        if captured:
            packet, arrives_on = captured
            if replies_come_back(family, address_text(family, packet.destination.first)):
                own = os.geteuid(), os.getegid()
                return Probe("inbound", packet.destination, packet.port, *own, arrives_on, outside)
            why = "the pod's routes send answers elsewhere (source-based routing)"
        return Proof(f"{FAMILY_NAMES[family]} inbound from outside: {why}", holds=False)

    def _ports_to_try(self) -> list[int]:
        return list(dict.fromkeys((self._port, *(span.first for span in self._config.outbound_ports), *USUAL_PORTS)))


def _destinations(config: CaptureConfig, family: Family, own: Iterable[Network]) -> Iterator[Network]:
    """Yield destinations that are not the pod: in what is captured, in networks of no one, near the pod."""
    for network in config.outbound_networks.entries:
        if network.family == family:
            first = network.first if network.is_address else network.first + 1  # more than the network's name
            yield parse_address(address_text(family, first))
    yield from DOCUMENTATION_ADDRESSES[family]
    for address in own:
        yield address.replace(first=address.first ^ 1)


def _identities(config: CaptureConfig, side: Side) -> Iterator[tuple[int, int]]:
    """Yield users and groups to dial as, first our own: inbound those of the proxy, outbound any others."""
    is_inbound = side == "inbound"
    uids = [span.first for span in config.proxy_uids] if is_inbound else ORDINARY_IDS
    groups = config.proxy_gids if is_inbound else config.owner_groups.entries
    further = product(uids, (*(span.first for span in groups), *ORDINARY_IDS))
    for uid, gid in ((os.geteuid(), os.getegid()), *(() if missing_capabilities("SETUID", "SETGID") else further)):
        has_proxys_uid = any(span.contains(uid) for span in config.proxy_uids)
        has_proxys_gid = any(span.contains(gid) for span in config.proxy_gids)
        dials = has_proxys_uid if is_inbound else not (has_proxys_uid or has_proxys_gid)
        if dials:
            yield uid, gid
