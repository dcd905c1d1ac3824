"""Switches of the kernel that keep marked packets from a transparent proxy: found, switched off, restored.

Two are switched off, and ``tcp_syncookies`` 2 is named; docs/how-capture-works.md has the verdict on each:

``net.ipv4.conf.*.src_valid_mark``   the source of a packet is validated with its mark (__fib_validate_source in
    net/ipv4/fib_frontend.c). By our policy rule every address is local then, and a local source is refused, unless
    ``accept_local`` is on and the strict ``rp_filter`` (1) is not. IPv4 alone; on for ``all`` is on for each interface.
``net.ipv4.tcp_fwmark_accept``       a connection takes over the mark of its first packet (inet_request_mark in
    linux/inet_sock.h). The proxy's answers to the client have it then, and are routed to the proxy. Both families.

A network namespace takes over those of the first one when it is made, so that a VPN on the node is enough.
"""

from __future__ import annotations

import os

from capture.model.values import Value
from capture.system.files import content_of, names_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DIRECTORY = "/proc/sys/net"
"""Its content depends on the namespace of the thread that opens it."""
INTERFACES_FOLDER = "ipv4/conf"
FWMARK_ACCEPT = "ipv4/tcp_fwmark_accept"
MARK_ON_SOURCE = "src_valid_mark"
COOKIES, COOKIES_ALWAYS = "ipv4/tcp_syncookies", "2"
OFF = "0"
NOT_INTERFACES = ("all", "default", "lo")
"""``lo`` keeps the route of what it carries (loopback_xmit), so that no source is validated there."""


class Sysctl(Value):
    """A switch with the value that it has or had; ``path`` is below /proc/sys/net."""

    path: str
    value: str

    @property
    def name(self) -> str:
        """Return the name as sysctl(8) writes it: a dot in an interface's name is a slash there."""
        return "net." + self.path.translate(DOTS_AND_SLASHES)


DOTS_AND_SLASHES = str.maketrans("./", "/.")


def sysctls_to_turn_off(*, spares_validation: bool = False) -> tuple[Sysctl, ...]:
    """Return the switches that are on, should be off, and may be written; in most containers /proc/sys is read-only.

    ``spares_validation`` leaves those of source validation out: a policy rule needs them.
    """
    sysctls = (Sysctl(path, _read_value(path)) for path in ([FWMARK_ACCEPT] if spares_validation else _own_paths()))
    on = (sysctl for sysctl in sysctls if sysctl.value not in ("", OFF))
    return tuple(sysctl for sysctl in on if os.access(f"{DIRECTORY}/{sysctl.path}", os.W_OK))


def switch_off(sysctls: Iterable[Sysctl]) -> bool:
    """Switch them off; return whether any was."""
    return bool([sysctl for sysctl in sysctls if _try_to_write(sysctl.path, OFF)])


def restore(sysctls: Iterable[Sysctl]) -> bool:
    """Give the switches that are still as we left them their values of before; return whether there was one."""
    paths = _own_paths()
    own = [sysctl for sysctl in sysctls if sysctl.path in paths and _read_value(sysctl.path) == OFF]
    return bool([sysctl for sysctl in own if _try_to_write(sysctl.path, sysctl.value)])


def _own_paths() -> list[str]:
    """Return the switches that we change."""
    return [FWMARK_ACCEPT, *(f"{INTERFACES_FOLDER}/{name}/{MARK_ON_SOURCE}" for name in _interface_names())]


def always_sends_cookies() -> bool:
    """Return whether the kernel remembers no connection until its handshake is over, in either family."""
    return _read_value(COOKIES) == COOKIES_ALWAYS


def mark_accepting_sysctl() -> Sysctl | None:
    """Return the switch by which connections take over marks, if it is on."""
    value = _read_value(FWMARK_ACCEPT)
    return Sysctl(FWMARK_ACCEPT, value) if value not in ("", OFF) else None


def source_validating_sysctls(excluded: Iterable[str] = ()) -> Iterator[Sysctl]:
    """Yield the switches that make interfaces refuse marked packets, the excluded ones aside."""
    general = {
        name: _read_value(f"{INTERFACES_FOLDER}/all/{name}") for name in (MARK_ON_SOURCE, "accept_local", "rp_filter")
    }
    left_alone = (*NOT_INTERFACES, *excluded)
    named: set[str] = set()
    for interface in (name for name in _interface_names() if name not in left_alone):
        own = {name: _read_value(f"{INTERFACES_FOLDER}/{interface}/{name}") for name in general}
        accepts_local = "1" in (general["accept_local"], own["accept_local"])
        is_strict = max(general["rp_filter"], own["rp_filter"]) == "1"
        if accepts_local and not is_strict:
            continue
        for owner, values in (("all", general), (interface, own)):
            if values[MARK_ON_SOURCE] not in ("", OFF) and owner not in named:
                named.add(owner)
                yield Sysctl(f"{INTERFACES_FOLDER}/{owner}/{MARK_ON_SOURCE}", values[MARK_ON_SOURCE])


def _interface_names() -> list[str]:
    return names_in(f"{DIRECTORY}/{INTERFACES_FOLDER}")


def _read_value(path: str) -> str:
    """Return the value; nothing if this kernel, or this container, has no such switch."""
    return content_of(f"{DIRECTORY}/{path}").decode().strip()


def _try_to_write(path: str, value: str) -> bool:
    try:
        with open(f"{DIRECTORY}/{path}", "wb", buffering=0) as file:
            file.write(value.encode())
    except OSError:
        return False
    return True
