"""Filters and queues of traffic control (tc(8)), which drop or send elsewhere what passes an interface.

No rule sees that.
A filter has actions, and "mirred" is the one that hands a packet to another interface (tc-mirred(8))::

    RTM_NEWTFILTER  kind, options -> actions -> number -> kind "mirred", options -> struct tc_mirred
"""

from __future__ import annotations

from collections.abc import Iterator

from capture.errors import UnsupportedError
from capture.netlink.attributes import Fields, decode_fields, decode_host_number, decode_text, u32
from capture.netlink.sockets import NetlinkSocket

# linux/rtnetlink.h
RTM_GETQDISC, RTM_GETTFILTER = 38, 46
TCMSG_SIZE = 20
TCA_KIND, TCA_OPTIONS = 1, 2

TC_H_INGRESS, TC_H_EGRESS = 0xFFFF_FFF2, 0xFFFF_FFF3
"""linux/pkt_sched.h: TC_H_MIN_... of "clsact"; "ingress", which has one place only, answers to the first, too."""

ACTIONS_OF = {"u32": 7, "matchall": 2, "flower": 3, "basic": 3, "fw": 4}
"""linux/pkt_cls.h, TCA_..._ACT: where each kind of filter keeps its actions."""

LOSSY_QDISCS = ("netem", "blackhole", "plug")
"""Queueing disciplines that are made to lose or hold packets: chaos experiments write the first (tc-netem(8))."""

TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TC_GEN_SIZE = 20
TCA_EGRESS_REDIR, TCA_INGRESS_REDIR = 1, 3
"""linux/tc_act/tc_mirred.h; the other numbers copy a packet, and it goes on here as well."""


def read_redirects(rtnetlink: NetlinkSocket, interface: int) -> list[int]:
    """Return the interfaces (by index) to which filters send what comes in by one; a kernel without them has none."""
    return [target for each in _read_filters(rtnetlink, interface, TC_H_INGRESS) for target in _redirect_targets(each)]


def has_deciding_filter(rtnetlink: NetlinkSocket, interface: int, parent: int) -> bool:
    """Return whether a filter may drop or divert what comes in by an interface (TC_H_INGRESS), or leaves by it."""
    return any(_is_deciding(each) for each in _read_filters(rtnetlink, interface, parent))


def _read_filters(rtnetlink: NetlinkSocket, interface: int, parent: int) -> list[Fields]:
    query = bytes(4) + u32(interface) + bytes(4) + u32(parent) + bytes(4)
    task = f"list the filters of interface {interface}"
    return [decode_fields(body[TCMSG_SIZE:]) for body in _dump(rtnetlink, RTM_GETTFILTER, query, task)]


def read_lossy_qdiscs(rtnetlink: NetlinkSocket) -> Iterator[tuple[int, str]]:
    """Yield the queueing disciplines that lose packets by design: the index of the interface, and the kind."""
    for body in _dump(rtnetlink, RTM_GETQDISC, bytes(TCMSG_SIZE), "list queueing disciplines"):
        kind = decode_text(decode_fields(body[TCMSG_SIZE:]).get(TCA_KIND, b""))
        if kind in LOSSY_QDISCS:
            yield decode_host_number(body[4:8]), kind


def _dump(rtnetlink: NetlinkSocket, kind: int, query: bytes, task: str) -> list[bytes]:
    try:
        return rtnetlink.dump(kind, query, task)
    except UnsupportedError:
        return []


def _is_deciding(filter_fields: Fields) -> bool:
    if decode_text(filter_fields.get(TCA_KIND, b"")) == "bpf" and TCA_OPTIONS in filter_fields:
        return True
    kinds = [decode_text(action.get(TCA_ACT_KIND, b"")) for action in _filter_actions(filter_fields)]
    return any(kind != "mirred" for kind in kinds) or any(_redirect_targets(filter_fields))


def _filter_actions(filter_fields: Fields) -> list[Fields]:
    kind = decode_text(filter_fields.get(TCA_KIND, b""))
    options = decode_fields(filter_fields.get(TCA_OPTIONS, b""))
    return [decode_fields(action) for action in decode_fields(options.get(ACTIONS_OF.get(kind, 0), b"")).values()]


def _redirect_targets(filter_fields: Fields) -> Iterator[int]:
    for fields in _filter_actions(filter_fields):
        if decode_text(fields.get(TCA_ACT_KIND, b"")) != "mirred":
            continue
        mirred = decode_fields(fields.get(TCA_ACT_OPTIONS, b"")).get(TCA_MIRRED_PARMS, b"")[TC_GEN_SIZE:]
        if decode_host_number(mirred[:4]) in (TCA_EGRESS_REDIR, TCA_INGRESS_REDIR):
            yield decode_host_number(mirred[4:8])
