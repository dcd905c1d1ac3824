"""Waiting for ``lo``: containerd starts the plugin "loopback" along with the plugins of the network, in no order.

That plugin sets ``lo`` up, and refuses it if it has another address than those of loopback, such as our ``::6``
(plugins/main/loopback of containernetworking). We mostly come much later::

    loopback    lo up, ::1 appears -> lists addresses -> done
    bridge      ......................................... -> we: ::6

Where ``lo`` is down, that plugin has yet to come, or there is none and ``lo`` stays down.
"""

from __future__ import annotations

import time

from capture.state.routes import is_lo_up

ADDRESSES = "/proc/thread-self/net/if_inet6"
OF_LOOPBACK = b"00000000000000000000000000000001 "
"""``::1``, which the kernel puts on ``lo`` as that comes up."""

LOOPBACK_TIMEOUT = 1.0
"""Seconds to wait for ``lo``; without such a plugin, and with ``lo`` down, that time is lost."""
PAUSE = 0.01
TIME_TO_LIST = 0.05
"""Seconds that the plugin may take from setting ``lo`` up to having seen its addresses."""


def wait_for_loopback() -> None:
    """Return when ``lo`` of the namespace we are in is up, or has been down for long enough."""
    if _is_up():
        return
    end = time.monotonic() + LOOPBACK_TIMEOUT
    while time.monotonic() < end:
        time.sleep(PAUSE)
        if _is_up():
            time.sleep(TIME_TO_LIST)
            return


def _is_up() -> bool:
    return _has_its_address() or is_lo_up()  # where ``disable_ipv6`` is set, it has no address of IPv6 when up


def _has_its_address() -> bool:
    """Return whether ``::1`` is there, which is quickly seen and nearly always so."""
    try:
        with open(ADDRESSES, "rb", buffering=0) as addresses:
            return OF_LOOPBACK in addresses.read()
    except FileNotFoundError:  # no IPv6: no address that could be in the way
        return True
