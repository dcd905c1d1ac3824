"""The facts of a pod other than its rules, read where they are: links, addresses, listeners, counts."""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterator, Sequence

from capture.analysis.captured_pod import AttachedProgram, IngressRedirect, PodFacts
from capture.errors import CaptureError
from capture.model.addresses import BITS, FAMILY_NUMBERS, IPV4, IPV6, Family, Network
from capture.model.conventions import PROTOCOL_NUMBERS
from capture.model.ruleset import Span
from capture.netlink.interfaces import Link, read_addresses, read_links
from capture.netlink.routing import RTN_UNSPEC, outgoing_route
from capture.netlink.rtnetlink import LOOPBACK_INDEX, open_rtnetlink
from capture.netlink.sock_diag import TCP_LISTEN, Listener, open_sock_diag, read_listeners
from capture.netlink.sockets import NetlinkSocket
from capture.netlink.traffic_control import (
    TC_H_EGRESS,
    TC_H_INGRESS,
    has_deciding_filter,
    read_lossy_qdiscs,
    read_redirects,
)
from capture.system.files import content_of, open_files, process_ids
from capture.system.netns import read_connection_counts
from capture.system.socket_lb import BPF_TCX_EGRESS, BPF_TCX_INGRESS, has_programs
from capture.system.user_namespace import IdMaps, foreign_ids


def read_facts(proxy_uids: tuple[Span, ...]) -> PodFacts:
    """Return the facts of the namespace we are in; what the kernel does not report is left out."""
    with open_rtnetlink() as rtnetlink:
        links = tuple(read_links(rtnetlink))
        redirects = ingress_redirects(rtnetlink, links)
        programs = tuple(_attached_programs(rtnetlink, links, {each.interface for each in redirects}))
        listed = [each for each in read_addresses(rtnetlink) if each.interface != LOOPBACK_INDEX]
        families = dict.fromkeys(each.address.family for each in listed)
        routes = {family: outgoing_route(rtnetlink, FAMILY_NUMBERS[family]) for family in families}
        unrouted = tuple(family for family in families if routes[family].kind == RTN_UNSPEC)
    outer = {each.interface for each in listed if not each.address.is_link_local}
    ids = foreign_ids()
    listeners = _pod_listeners(ids)
    other_inodes = {
        listener.inode
        for listener in listeners or ()
        if not any(span.first <= listener.uid <= span.last for span in proxy_uids)
    }
    return PodFacts(
        links,
        tuple(each.address for each in listed if not each.address.is_link_local),
        listeners,
        _groups_of(other_inodes, ids),
        *read_connection_counts(),
        redirects,
        unrouted,
        programs,
        tuple(_sockets_of_stopped({listener.inode for listener in listeners or ()})),
        tuple(link.name for link in links if link.is_bridged and link.index in outer),
    )


def ingress_redirects(rtnetlink: NetlinkSocket, links: Sequence[Link]) -> tuple[IngressRedirect, ...]:
    """Return the interfaces with a filter that diverts incoming packets, each with its target."""
    names = {link.index: link.name for link in links}
    return tuple(
        IngressRedirect(link.name, names.get(target, f"interface {target}"))
        for link in links
        if not link.is_loopback
        for target in dict.fromkeys(read_redirects(rtnetlink, link.index))
    )


def _attached_programs(
    rtnetlink: NetlinkSocket, links: Sequence[Link], diverted: Container[str]
) -> Iterator[AttachedProgram]:
    """Yield what may drop packets where no rule sees them."""
    names = {link.index: link.name for link in links}
    for name, kind in ((names.get(index), kind) for index, kind in read_lossy_qdiscs(rtnetlink)):
        if name is not None:  # else the interface came after the links were read
            yield AttachedProgram(name, f"the queueing discipline {kind}", f"tc qdisc show dev {name}")
    for link in links:
        if link.has_xdp:
            yield AttachedProgram(link.name, "an XDP program", f"ip link show dev {link.name}")
        for direction, parent, attach_type in DIRECTIONS_OF_TC:
            is_known = direction == "ingress" and link.name in diverted
            if not is_known and has_deciding_filter(rtnetlink, link.index, parent):
                yield AttachedProgram(
                    link.name, f"a tc filter ({direction})", f"tc filter show dev {link.name} {direction}"
                )
            if has_programs(link.index, attach_type):
                yield AttachedProgram(link.name, f"a tcx program ({direction})", f"bpftool net show dev {link.name}")


DIRECTIONS_OF_TC = (("ingress", TC_H_INGRESS, BPF_TCX_INGRESS), ("egress", TC_H_EGRESS, BPF_TCX_EGRESS))


def _pod_listeners(ids: IdMaps | None) -> tuple[Listener, ...] | None:
    """Return the listening sockets, with the users as the pod sees them; the kernel reports them as we see them."""
    listeners: list[Listener] = []
    try:
        with open_sock_diag() as diag:
            for protocol in PROTOCOL_NUMBERS.values():
                listeners += read_listeners(diag, protocol)
    except CaptureError:
        return None
    return tuple(listeners if ids is None else (each.replace(uid=ids.users.inside(each.uid)) for each in listeners))


def listening_tcp_ports(*, from_outside: bool) -> set[int]:
    """Return the ports where TCP connections from outside, or those over lo, find a listening socket.

    By /proc/net/tcp (proc(5)): ``capture host apply`` must know them on every kernel, and one may lack the module
    tcp_diag.
    """
    listed = ((family, content_of(f"/proc/net/{name}").decode()) for family, name in ((IPV4, "tcp"), (IPV6, "tcp6")))
    sockets = [(family, line.split()) for family, lines in listed for line in lines.splitlines()[1:]]
    ends = [(family, words[1].split(":")) for family, words in sockets if int(words[3], 16) == TCP_LISTEN]
    bound = [(_address_in_proc(family, address), int(port, 16)) for family, (address, port) in ends]
    return {port for address, port in bound if not address.first or address.is_loopback != from_outside}


def _address_in_proc(family: Family, text: str) -> Network:
    """Return an address that is written in words of 32 bits, each in the byte order of the machine."""
    words = (int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8))
    return Network(family, int.from_bytes(b"".join(words), "big"), BITS[family])


def _sockets_of_stopped(sockets: set[int]) -> Iterator[tuple[int, str]]:
    """Yield the sockets that stopped processes hold, each with its process: state T, proc_pid_stat(5)."""
    inodes = {f"socket:[{inode}]": inode for inode in sockets}
    for process in process_ids() if inodes else ():
        if content_of(f"/proc/{process}/stat").rpartition(b") ")[2][:1] == b"T":
            yield from ((inodes[target], process) for target in inodes.keys() & open_files(process))


def _groups_of(sockets: set[int], ids: IdMaps | None) -> dict[int, int]:
    """Return the group, as the pod sees it, of the process that holds each socket, as far as /proc shows it."""
    groups: dict[int, int] = {}
    inodes = {f"socket:[{inode}]": inode for inode in sockets}
    for process in process_ids():
        if not inodes:
            break
        for target in inodes.keys() & open_files(process):
            try:
                group = os.stat(f"/proc/{process}").st_gid
                groups[inodes.pop(target)] = group if ids is None else ids.groups.inside(group)
            except OSError:
                continue  # it has ended
    return groups
