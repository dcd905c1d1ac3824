"""A namespace that a veth pair joins to the pod for a moment, so that connections come in from outside."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from capture.errors import CaptureError, PrivilegeError
from capture.model.addresses import IPV4, IPV6, Family
from capture.model.conventions import IPPROTO_TCP
from capture.netlink.interfaces import add_address
from capture.netlink.links import add_default_route, add_veth, interface_index, remove_link, set_up
from capture.netlink.routing import look_up_route
from capture.netlink.rtnetlink import open_rtnetlink
from capture.system.netns import CLONE_NEWNET, CURRENT, InNamespace

PROBE_INTERFACE = "capture-probe"
"""The interface in the pod, as long as the probe lasts."""
PEER = "eth0"
POD_END = {IPV4: ("198.18.0.1", 30), IPV6: ("2001:2::1", 126)}
OUTSIDE_END = {IPV4: ("198.18.0.2", 30), IPV6: ("2001:2::2", 126)}
"""Networks for benchmarks (RFC 2544, RFC 5180), which no pod has."""


@contextmanager
def outside_namespace(families: Sequence[Family]) -> Iterator[str]:
    """A context in which the pod we are in has an outside, a namespace with this path. CaptureError where none can be.

    That takes the capabilities NET_ADMIN and SYS_ADMIN.
    """
    with ExitStack() as cleanup:
        descriptor = _new_namespace()
        cleanup.callback(os.close, descriptor)
        with open_rtnetlink() as rtnetlink:
            add_veth(rtnetlink, PROBE_INTERFACE, PEER, descriptor)
            cleanup.callback(_remove_veth)
        _set_up(PROBE_INTERFACE, POD_END, families)
        path = f"/proc/self/fd/{descriptor}"
        with InNamespace(path):
            index = _set_up(PEER, OUTSIDE_END, families)
            with open_rtnetlink() as rtnetlink:
                for family in families:
                    add_default_route(rtnetlink, POD_END[family][0], index)
        yield path


def _remove_veth() -> None:
    with suppress(CaptureError), open_rtnetlink() as rtnetlink:  # else it goes with the namespace of its other end
        remove_link(rtnetlink, PROBE_INTERFACE)


def _set_up(name: str, addresses: dict[Family, tuple[str, int]], families: Sequence[Family]) -> int:
    with open_rtnetlink() as rtnetlink:
        index = interface_index(rtnetlink, name)
        set_up(rtnetlink, index)
        for family in families:
            add_address(rtnetlink, *addresses[family], index)
    return index


def replies_come_back(family: Family, own: str) -> bool:
    """Return whether the pod's routes send replies to the outside there; source-based routing may not."""
    with open_rtnetlink() as rtnetlink:
        route_back = look_up_route(rtnetlink, OUTSIDE_END[family][0], IPPROTO_TCP, source=own)
        return route_back.interface == interface_index(rtnetlink, PROBE_INTERFACE)


def _new_namespace() -> int:
    """Return a descriptor of a new network namespace; the thread stays where it is."""
    with InNamespace(CURRENT):  # which comes back here
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise PrivilegeError("make a network namespace (capability SYS_ADMIN)")
        return os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)
