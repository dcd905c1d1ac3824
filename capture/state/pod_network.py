"""The network of a namespace: the pod's own addresses, and the interface that leads out."""

from __future__ import annotations

from contextlib import suppress

from capture.analysis.base_chains import PodNetwork
from capture.analysis.rerouting import MarkRoute, mark_routes
from capture.errors import UnsupportedError
from capture.model.addresses import FAMILY_NUMBERS, IPV4, address_text, parse_address
from capture.model.conventions import PROTOCOL_NUMBERS
from capture.model.packet import LOOPBACK, Packet
from capture.netlink.interfaces import read_addresses, read_links
from capture.netlink.policy_rules import RT_TABLE_LOCAL, read_policy_rules
from capture.netlink.routing import REFUSING_KINDS, RTN_LOCAL, Route, look_up_route, read_routes, way_out
from capture.netlink.rtnetlink import LOOPBACK_INDEX, open_route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Literal

    from capture.model.addresses import Family
    from capture.netlink.sockets import NetlinkSocket

NO_ROUTE = "none"
"""In the place of an interface: no route leads there, but rules see the packet before the kernel gives it up."""


def read_pod_network() -> PodNetwork:
    """Return the network of the namespace we are in; where it has no address, plausible ones."""
    with open_route() as route:
        every = {link.index: link for link in read_links(route)}
        everywhere = read_addresses(route)
        families = dict.fromkeys(each.address.family for each in everywhere)
        default_routes = [way_out(route, FAMILY_NUMBERS[family]) for family in families]
        only = [link.index for link in every.values() if not link.is_loopback]
        answered = tuple(family for family in families if len(only) == 1 and _all_leaves_by(only[0], route, family))
        by_marks = tuple(_read_mark_routes(route, {index: link.name for index, link in every.items()}))
    links = {index: link for index, link in every.items() if not link.is_loopback}
    own = tuple(each.address for each in everywhere if each.interface in links)
    global_ones = tuple(address for address in own if not address.is_link_local)
    default = PodNetwork()
    up = [index for index, link in links.items() if link.is_up]
    outward = next((index for index in (*default_routes, *up) if index in links), 0)
    return PodNetwork(
        own=global_ones + tuple(a for a in default.own if a.family not in {o.family for o in global_ones}),
        interface=links[outward].name if outward else default.interface,
        other_interfaces=tuple(link.name for index, link in links.items() if index != outward),
        families_with_return_route=answered,
        local=tuple(each.address for each in everywhere if every[each.interface].is_up),
        names=tuple((index, link.name) for index, link in every.items()),
        mark_routes=by_marks,
    )


def _read_mark_routes(route: NetlinkSocket, names: Mapping[int, str]) -> Iterator[MarkRoute]:
    for family, number in FAMILY_NUMBERS.items():
        try:
            rules = read_policy_rules(route, number)
        except UnsupportedError:
            continue  # a kernel without policy routing, or without the family
        if any(rule.mask for rule in rules):
            yield from mark_routes(family, rules, read_routes(route, number), names)


def _all_leaves_by(interface: int, route: NetlinkSocket, family: Family) -> bool:
    """Return whether there is a default route, by an interface, and no route or policy rule that leads elsewhere."""
    number = FAMILY_NUMBERS[family]
    with suppress(UnsupportedError):
        rules = read_policy_rules(route, number)
        interfaces = {each.interface for each in read_routes(route, number) if each.table != RT_TABLE_LOCAL}
        is_usual = not any(rule.selector or rule.mask or rule.is_inverted for rule in rules)
        return is_usual and interfaces <= {interface, LOOPBACK_INDEX} and way_out(route, number) == interface
    return False


def lost_by_routing(
    packet: Packet, marks: Iterable[int], *, is_redirected: bool
) -> Literal["", "interface", "inbound", "answers"]:
    """Return what loses a packet that comes in: its interface has no address, it is refused, or the answers are.

    It is refused if it is with each of the marks: the kernel validates a source without one, if not told otherwise.
    A redirect makes the first address of the interface its destination; without one it is dropped (nf_nat_redirect.c).
    """
    client, pod = (address_text(packet.family, end.first) if end else "" for end in (packet.source, packet.destination))
    with open_route() as route:
        index = next((link.index for link in read_links(route) if link.name == packet.in_interface), 0)
        listed = read_addresses(route, FAMILY_NUMBERS[packet.family])
        own = [address_text(packet.family, each.address.first) for each in listed if each.interface == index]
        if is_redirected and index and not own:
            return "interface"
        to = own[0] if is_redirected and own else pod
        found = (look_up_route(route, to, client, mark, incoming=index) for mark in marks if index and client)
        kinds = [each.kind for each in found]
        if kinds and RTN_LOCAL not in kinds:
            return "inbound"
        is_refused = client and look_up_route(route, client, pod).kind in REFUSING_KINDS
    return "answers" if is_refused else ""


def refuses_user(packet: Packet, uid: int) -> bool:
    """Return whether routes lead a packet out of the pod, and not if this user sends it: by a policy rule."""
    sent = packet.replace(in_interface=None, out_interface=None, source=None)
    return routed(sent).out_interface != NO_ROUTE == routed(sent.replace(uid=uid)).out_interface


def routed(packet: Packet) -> Packet:
    """Return the packet with the interface and the source that the namespace's routes give what it sends itself."""
    if packet.in_interface is not None or packet.out_interface is not None:
        return packet
    source = address_text(packet.family, packet.source.first) if packet.source else ""
    with open_route() as route:
        route_found = _look_up(route, packet, source)
        chosen = source or route_found.source
        if chosen != source and packet.family == IPV4:  # IPv4 looks once more, now with the source
            route_found = _look_up(route, packet, chosen)
        names = {link.index: link.name for link in read_links(route)}
    interface = LOOPBACK if route_found.kind == RTN_LOCAL else names.get(route_found.interface, NO_ROUTE)
    return packet.replace(out_interface=interface, source=parse_address(chosen) if chosen else None)


def refusal(packet: Packet) -> str:
    """Return as what a route or a policy rule refuses what is sent, such as "blackhole"; "" where none leads there."""
    with open_route() as route:
        return REFUSING_KINDS.get(_look_up(route, packet).kind, "")


def _look_up(route: NetlinkSocket, packet: Packet, source: str = "") -> Route:
    destination = address_text(packet.family, packet.destination.first)
    protocol, ports = PROTOCOL_NUMBERS[packet.protocol], (packet.source_port or 0, packet.port)
    return look_up_route(route, destination, source, packet.mark, packet.uid, protocol, ports)
