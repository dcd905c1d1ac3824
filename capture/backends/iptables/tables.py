"""Which families and legacy tables a network namespace has; looking makes none.

The kernel makes a legacy table when a program uses it, even to list it. /proc/net shows
which there are; thread-self, because threads may be in different namespaces.
"""

from __future__ import annotations

import os

from capture.errors import PrivilegeError
from capture.model.addresses import FAMILIES, IPV4, IPV6, Family
from capture.netlink.sockets import has_ipv6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Variant = Literal["nft", "legacy"]

VARIANTS: tuple[Variant, ...] = ("nft", "legacy")
"""The variants of iptables: on nf_tables, and on tables of its own."""

NAMES_FILES: dict[Family, str] = {
    IPV4: "/proc/thread-self/net/ip_tables_names",
    IPV6: "/proc/thread-self/net/ip6_tables_names",
}
NAMESPACE_LOCK = "/proc/self/ns/net"
"""The lock file of programs of iptables (XTABLES_LOCKFILE, iptables(8)): one for each namespace, and always there."""


def families_here() -> tuple[Family, ...]:
    """Return IPv4, and IPv6 if the kernel has it."""
    return FAMILIES if has_ipv6() else (IPV4,)


def has_legacy(family: Family) -> bool:
    """Return whether the kernel has legacy tables of the family, loaded or built in."""
    return os.path.exists(NAMES_FILES[family])


def legacy_tables(family: Family) -> tuple[str, ...]:
    """Return the legacy tables that exist in this namespace. Raise PrivilegeError if only root may know."""
    try:
        with open(NAMES_FILES[family], "rb", buffering=0) as names:  # as text it would cost the import of a codec
            return tuple(names.read().decode().split())
    except FileNotFoundError:
        return ()
    except PermissionError as error:
        raise PrivilegeError("read which legacy tables there are") from error
