"""A namespace that a veth pair joins to the pod for a moment, so that connections come in from outside."""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack, suppress
from typing import Self

from capture.errors import CaptureError, PrivilegeError
from capture.model.addresses import IPV4, IPV6, Family
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


class OutsideNamespace:
    """A context in which the pod we are in has an outside. Raises CaptureError where none can be made.

    That takes the capabilities NET_ADMIN and SYS_ADMIN.
    """

    def __init__(self, families: tuple[Family, ...]) -> None:
        self._families = families
        self._cleanup = ExitStack()
        self.path = ""

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            descriptor = _new_namespace()
            cleanup.callback(os.close, descriptor)
            self.path = f"/proc/self/fd/{descriptor}"
            with open_rtnetlink() as rtnetlink:
                add_veth(rtnetlink, PROBE_INTERFACE, PEER, descriptor)
                cleanup.callback(self._remove)
                self._set_up(PROBE_INTERFACE, POD_END)
            with InNamespace(self.path):
                index = self._set_up(PEER, OUTSIDE_END)
                with open_rtnetlink() as rtnetlink:
                    for family in self._families:
                        add_default_route(rtnetlink, POD_END[family][0], index)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._cleanup.close()

    def replies_come_back(self, family: Family, own: str) -> bool:
        """Return whether the pod's routes send replies to this outside there; source-based routing may not."""
        with open_rtnetlink() as rtnetlink:
            route_back = look_up_route(rtnetlink, OUTSIDE_END[family][0], own)
            return route_back.interface == interface_index(rtnetlink, PROBE_INTERFACE)

    def _remove(self) -> None:
        with suppress(CaptureError), open_rtnetlink() as rtnetlink:  # else it goes with the namespace of its other end
            remove_link(rtnetlink, PROBE_INTERFACE)

    def _set_up(self, name: str, addresses: dict[Family, tuple[str, int]]) -> int:
        with open_rtnetlink() as rtnetlink:
            index = interface_index(rtnetlink, name)
            set_up(rtnetlink, index)
            for family in self._families:
                add_address(rtnetlink, *addresses[family], index)
        return index


def _new_namespace() -> int:
    """Return a descriptor of a new network namespace; the thread stays where it is."""
    with InNamespace(CURRENT):  # which comes back here
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise PrivilegeError("make a network namespace (capability SYS_ADMIN)")
        return os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)
