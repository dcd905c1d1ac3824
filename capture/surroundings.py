"""What a namespace has for packets to go by: the pod's own addresses, and the interface that leads out."""

from __future__ import annotations

from capture.addresses import parse_address
from capture.examples import Surroundings
from capture.netlink.interfaces import read_addresses, read_links
from capture.netlink.rtnetlink import open_route


def read_surroundings() -> Surroundings:
    """Return what the namespace we are in has; where it has none, plausible stand-ins."""
    with open_route() as route:
        links = {link.index: link for link in read_links(route) if not link.is_loopback}
        addresses = [address for address in read_addresses(route) if address.interface in links]
    own = tuple(parse_address(address.address) for address in addresses)
    global_ones = tuple(address for address in own if not address.is_link_local)
    default = Surroundings()
    up = [link.name for link in links.values() if link.is_up]
    return Surroundings(
        own=global_ones + tuple(a for a in default.own if a.family not in {o.family for o in global_ones}),
        interface=next(iter(up), default.interface),
    )
