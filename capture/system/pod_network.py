"""The network of a namespace: the pod's own addresses, and the interface that leads out."""

from __future__ import annotations

from contextlib import suppress

from capture.analysis.base_chains import PodNetwork
from capture.analysis.rerouting import MarkRoute, mark_routes
from capture.errors import UnsupportedError
from capture.model.addresses import FAMILY_NUMBERS, IPV4, IPV6, LOOPBACK_ADDRESSES, parse_address
from capture.model.conventions import PROTOCOL_NUMBERS
from capture.model.packet import LOOPBACK, Packet
from capture.netlink.interfaces import (
    NUD_CONFIRMED,
    NUD_KNOWN,
    NUD_UNANSWERED,
    read_addresses,
    read_links,
    read_neighbours,
)
from capture.netlink.policy_rules import RT_TABLE_LOCAL, read_policy_rules
from capture.netlink.routing import (
    GROUP_KINDS,
    REFUSING_KINDS,
    RTN_LOCAL,
    RTN_UNICAST,
    Route,
    look_up_route,
    outgoing_route,
    read_routes,
)
from capture.netlink.rtnetlink import LOOPBACK_INDEX, open_rtnetlink, pack_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Literal

    from capture.model.addresses import Family
    from capture.netlink.sockets import NetlinkSocket

NO_ROUTE = "none"
"""In the place of an interface: no route leads there, but rules see the packet before the kernel gives it up."""
TO_LO, NOT_OWN = "lo", "not own"
"""Why a route is none, as cases of the cause."""


def read_pod_network() -> PodNetwork:
    """Return the network of the namespace we are in; where it has no address, plausible ones."""
    with open_rtnetlink() as rtnetlink:
        all_links = {link.index: link for link in read_links(rtnetlink)}
        all_addresses = read_addresses(rtnetlink)
        families = dict.fromkeys(each.address.family for each in all_addresses)
        default_routes = [outgoing_route(rtnetlink, FAMILY_NUMBERS[family]).interface for family in families]
        links = {index: link for index, link in all_links.items() if not link.is_loopback}
        single = next(iter(links)) if len(links) == 1 else 0
        answered = tuple(family for family in families if single and _all_leaves_by(single, rtnetlink, family))
        by_marks = tuple(_read_mark_routes(rtnetlink, {index: link.name for index, link in all_links.items()}))
    own = tuple(each.address for each in all_addresses if each.interface in links)
    global_ones = tuple(address for address in own if not address.is_link_local)
    default = PodNetwork()
    up = [index for index, link in links.items() if link.is_up]
    outward = next((index for index in (*default_routes, *up) if index in links), 0)
    return PodNetwork(
        own=global_ones + tuple(each for each in default.own if each.family not in {own.family for own in global_ones}),
        interface=links[outward].name if outward else default.interface,
        other_interfaces=tuple(link.name for index, link in links.items() if index != outward),
        families_with_return_route=answered,
        local=tuple(each.address for each in all_addresses if all_links[each.interface].is_up),
        names=tuple((index, link.name) for index, link in all_links.items()),
        mark_routes=by_marks,
    )


def _read_mark_routes(rtnetlink: NetlinkSocket, names: Mapping[int, str]) -> Iterator[MarkRoute]:
    for family, number in FAMILY_NUMBERS.items():
        try:
            rules = read_policy_rules(rtnetlink, number)
        except UnsupportedError:
            continue  # a kernel without policy routing, or without the family
        if any(rule.mask for rule in rules):
            yield from mark_routes(family, rules, read_routes(rtnetlink, number), names)


def _all_leaves_by(interface: int, rtnetlink: NetlinkSocket, family: Family) -> bool:
    """Return whether there is a default route, by an interface, and no route or policy rule that leads elsewhere."""
    number = FAMILY_NUMBERS[family]
    with suppress(UnsupportedError):
        rules = read_policy_rules(rtnetlink, number)
        interfaces = {route.interface for route in read_routes(rtnetlink, number) if route.table != RT_TABLE_LOCAL}
        is_usual = not any(rule.selector or rule.mask or rule.is_inverted for rule in rules)
        leaves_by_others = not interfaces <= {interface, LOOPBACK_INDEX}
        return is_usual and not leaves_by_others and outgoing_route(rtnetlink, number).interface == interface
    return False


def lost_by_routing(
    packet: Packet, marks: Iterable[int], port: int, uid: int | None, *, is_redirected: bool
) -> Literal["", "interface", "martian", "inbound", "answers"]:
    """Return what loses a packet that comes in: its interface has no address, it is refused, or the answers are.

    It is refused if it is with each of the marks: the kernel validates a source without one, if not told otherwise.
    A source is martian if the pod's routes lead to no other host by it (fib_validate_source); of IPv6, loopback and
    multicast, which no look-up refuses (ip6_rcv_core). ``port`` is where it arrives, and user ``uid`` answers it.
    A redirect makes the first address of the interface its destination; without one it is dropped (nf_nat_redirect.c).
    """
    client, pod = (end.shown if end else "" for end in (packet.source, packet.destination))
    with open_rtnetlink() as rtnetlink:
        index = next((link.index for link in read_links(rtnetlink) if link.name == packet.in_interface), 0)
        listed = read_addresses(rtnetlink, FAMILY_NUMBERS[packet.family])
        own = [each.address.shown for each in listed if each.interface == index]
        if is_redirected and index and not own:
            return "interface"
        target = own[0] if is_redirected and own else pod
        protocol, ports = PROTOCOL_NUMBERS[packet.protocol], (packet.source_port or 0, port)
        marks = marks if index and client else ()
        kinds = [look_up_route(rtnetlink, target, protocol, ports, client, each, incoming=index).kind for each in marks]
        answer = look_up_route(rtnetlink, client, protocol, ports[::-1], target, uid=uid) if client else None
    if answer is None or packet.source is None:
        return ""
    is_no_host = packet.source.is_loopback or answer.kind in GROUP_KINDS
    if kinds and (RTN_LOCAL not in kinds or (is_no_host and packet.family == IPV6)):
        return "martian" if is_no_host or answer.kind == RTN_LOCAL else "inbound"
    return "answers" if answer.kind in REFUSING_KINDS or _ends_at_lo(answer) else ""


def _ends_at_lo(route: Route) -> bool:
    """Return whether ``lo`` discards what goes by a route: only local addresses are there. IPv6 has no such route."""
    return (route.kind, route.interface) == (RTN_UNICAST, LOOPBACK_INDEX)


def refuses_user(packet: Packet, uid: int) -> bool:
    """Return whether a policy rule keeps a packet of this user in the pod that routes would lead out of it."""
    sent = packet.replace(in_interface=None, out_interface=None, source=None)
    return not _is_lost(sent) and _is_lost(sent.replace(uid=uid))


def _is_lost(sent: Packet) -> bool:
    return with_route(sent).out_interface == NO_ROUTE or refusing_route(sent) == TO_LO


def silent_next_hop(packet: Packet) -> tuple[str, int]:
    """Return the next hop of a packet and for how many seconds it is not known to answer; "" where it may.

    A neighbour that did not answer stays in the kernel's table until it is called again (neigh_periodic_work).
    """
    with open_rtnetlink() as rtnetlink:
        route = _look_up_route(rtnetlink, packet)
        next_hop = route.gateway or packet.destination.shown
        family, packed = pack_address(next_hop)
        state, seconds = read_neighbours(rtnetlink, family, route.interface).get(packed, (0, 0))
    return next_hop if state & NUD_UNANSWERED else "", seconds


def knows_neighbour(interface: str, *, is_confirmed: bool) -> bool:
    """Return whether the kernel knows where to send what is for any IPv6 neighbour on an interface.

    With ``is_confirmed``: for one that has answered shortly before.
    """
    states = NUD_CONFIRMED if is_confirmed else NUD_KNOWN
    with open_rtnetlink() as rtnetlink:
        indexes = [link.index for link in read_links(rtnetlink) if link.name == interface]
        neighbours = [read_neighbours(rtnetlink, FAMILY_NUMBERS[IPV6], index).values() for index in indexes]
    return any(state & states for known in neighbours for state, _ in known)


def with_route(packet: Packet) -> Packet:
    """Return a packet that the namespace sends, with the interface and the source that its routes give it."""
    if packet.in_interface is not None or packet.out_interface is not None:
        return packet
    if not packet.destination.first:  # connect() takes any address for loopback
        packet = packet.replace(destination=LOOPBACK_ADDRESSES[packet.family])
    source = packet.source.shown if packet.source else ""
    with open_rtnetlink() as rtnetlink:
        route = _look_up_route(rtnetlink, packet, source)
        chosen = source or route.source
        if chosen != source and packet.family == IPV4:  # IPv4 looks once more, now with the source
            route = _look_up_route(rtnetlink, packet, chosen)
        names = {link.index: link.name for link in read_links(rtnetlink)}
    names = {} if packet.protocol == "tcp" and route.kind in GROUP_KINDS else names
    interface = LOOPBACK if route.kind == RTN_LOCAL else names.get(route.interface, NO_ROUTE)
    return packet.replace(out_interface=interface, source=parse_address(chosen) if chosen else None)


def refusing_route(packet: Packet) -> str:
    """Return the type of the route or policy rule that refuses a packet, such as "blackhole"; "" without one.

    Or that the route ends at ``lo``, or that the packet's source is no address of the pod, which IPv4 refuses.
    """
    with open_rtnetlink() as rtnetlink:
        route = _look_up_route(rtnetlink, packet)
        source = packet.source.shown if packet.source else ""
        is_own = not source or look_up_route(rtnetlink, source, PROTOCOL_NUMBERS[packet.protocol]).kind == RTN_LOCAL
    refusal = (REFUSING_KINDS | GROUP_KINDS).get(route.kind, TO_LO if _ends_at_lo(route) else "")
    return refusal or ("" if is_own else NOT_OWN)


def _look_up_route(rtnetlink: NetlinkSocket, packet: Packet, source: str = "") -> Route:
    protocol, ports = PROTOCOL_NUMBERS[packet.protocol], (packet.source_port or 0, packet.port)
    return look_up_route(rtnetlink, packet.destination.shown, protocol, ports, source, packet.mark, packet.uid)
