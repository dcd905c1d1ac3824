"""Filters of traffic control (tc(8)) that send elsewhere what comes in by an interface, before any rule sees it.

A filter has actions, and "mirred" is the one that hands a packet to another interface (tc-mirred(8))::

    RTM_NEWTFILTER  kind, options -> actions -> number -> kind "mirred", options -> struct tc_mirred
"""

from __future__ import annotations

from capture.errors import KernelError, UnsupportedError
from capture.netlink.attributes import Fields, decode_fields, decode_host_number, decode_text, u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.netlink.sockets import NetlinkSocket

# linux/rtnetlink.h
RTM_GETTFILTER = 46
TCMSG_SIZE = 20
TCA_KIND, TCA_OPTIONS = 1, 2

TC_H_INGRESS = 0xFFFF_FFF2
"""linux/pkt_sched.h: TC_H_MIN_INGRESS of "clsact"; "ingress", which has one place only, answers to it, too."""

ACTIONS_OF = {"u32": 7, "matchall": 2, "flower": 3, "basic": 3, "fw": 4}
"""linux/pkt_cls.h, TCA_..._ACT: where each kind of filter keeps its actions."""

TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TC_GEN_SIZE = 20
TCA_EGRESS_REDIR, TCA_INGRESS_REDIR = 1, 3
"""linux/tc_act/tc_mirred.h; the other numbers copy a packet, and it goes on here as well."""


def read_redirects(rtnetlink: NetlinkSocket, interface: int) -> list[int]:
    """Return the interfaces (by index) to which filters send what comes in by one; a kernel without them has none."""
    query = bytes(4) + u32(interface) + bytes(4) + u32(TC_H_INGRESS) + bytes(4)
    try:
        bodies = rtnetlink.dump(RTM_GETTFILTER, query, f"list the ingress filters of interface {interface}")
    except (KernelError, UnsupportedError):
        return []
    return [target for body in bodies for target in _targets(decode_fields(body[TCMSG_SIZE:]))]


def _targets(filter_fields: Fields) -> Iterator[int]:
    kind = decode_text(filter_fields.get(TCA_KIND, b""))
    options = decode_fields(filter_fields.get(TCA_OPTIONS, b""))
    for action in decode_fields(options.get(ACTIONS_OF.get(kind, 0), b"")).values():
        fields = decode_fields(action)
        if decode_text(fields.get(TCA_ACT_KIND, b"")) != "mirred":
            continue
        mirred = decode_fields(fields.get(TCA_ACT_OPTIONS, b"")).get(TCA_MIRRED_PARMS, b"")[TC_GEN_SIZE:]
        if decode_host_number(mirred[:4]) in (TCA_EGRESS_REDIR, TCA_INGRESS_REDIR):
            yield decode_host_number(mirred[4:8])
