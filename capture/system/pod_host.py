"""The facts about host and pod with which settings are resolved."""

from __future__ import annotations

import os

from capture.model.addresses import FAMILIES, FAMILY_NUMBERS, Network, parse_address
from capture.netlink.interfaces import read_addresses, read_links
from capture.netlink.routing import outgoing_route
from capture.netlink.rtnetlink import LOOPBACK_INDEX, open_rtnetlink
from capture.netlink.sockets import has_ipv6
from capture.system.files import content_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

RESOLV_CONF = "/etc/resolv.conf"
DEFAULT_PROXY_USER = "istio-proxy"


class PodFromInside:
    """We run in the pod, as the init container does: its files are our own."""

    def __init__(self, environ: Mapping[str, str] | None = None, servers: tuple[Network, ...] = ()) -> None:
        self.environ = os.environ if environ is None else environ
        self.servers = servers
        """Name servers that are known already."""

    def user_id(self, name: str) -> int | None:
        """Look the user up, by passwd(5) or the sources of nsswitch.conf(5)."""
        import pwd

        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            return None

    def group_id(self, name: str) -> int | None:
        """Look the group up, by group(5) or the sources of nsswitch.conf(5)."""
        import grp

        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            return None

    def default_proxy_user(self) -> str:
        """Return $ENVOY_USER, as upstream calls it."""
        return self.environ.get("ENVOY_USER") or DEFAULT_PROXY_USER

    def pod_addresses(self) -> tuple[Network, ...]:
        """Return the addresses of the namespace we are in, without those on ``lo``: we put one there ourselves."""
        with open_rtnetlink() as rtnetlink:
            return tuple(each.address for each in read_addresses(rtnetlink) if each.interface != LOOPBACK_INDEX)

    def primary_address(self) -> Network | None:
        """Return the address that Kubernetes knows the pod by: a global one of the interface of the default route.

        IPv4 comes first where both families have one, as in upstream's look-up. None without any global address.
        """
        with open_rtnetlink() as rtnetlink:
            defaults = [outgoing_route(rtnetlink, family).interface for family in FAMILY_NUMBERS.values()]
            addresses = [(each.interface, each.address) for each in read_addresses(rtnetlink)]
        return choose_primary(addresses, defaults)

    def interface_names(self) -> tuple[str, ...] | None:
        with open_rtnetlink() as rtnetlink:
            return tuple(link.name for link in read_links(rtnetlink) if not link.is_loopback)

    def has_ipv6(self) -> bool:
        return has_ipv6()

    def name_servers(self) -> tuple[Network, ...]:
        """Return the servers that resolv.conf(5) names; IPv6 ones without their zone."""
        if self.servers:
            return self.servers
        return tuple(parse_name_servers(content_of(RESOLV_CONF).decode("utf-8", "replace").splitlines()))


def choose_primary(addresses: Iterable[tuple[int, Network]], defaults: Container[int]) -> Network | None:
    """Return the primary one of addresses with their interfaces, of which some have a default route."""
    reachable = [
        (interface, own)
        for interface, own in addresses
        if interface != LOOPBACK_INDEX and not own.is_link_local and not own.is_loopback
    ]
    ranked = sorted(reachable, key=lambda each: (each[0] not in defaults, FAMILIES.index(each[1].family)))
    return ranked[0][1] if ranked else None


class PodFromOutside(PodFromInside):
    """We run on the host and look into the pod's network namespace: files here are not the pod's."""

    def user_id(self, _name: str) -> int | None:
        """Return None: a user of the host is not the pod's."""
        return None

    def group_id(self, _name: str) -> int | None:
        """Return None: a group of the host is not the pod's."""
        return None

    def name_servers(self) -> tuple[Network, ...]:
        return self.servers


class AnyPod(PodFromInside):
    """No pod at all: it has no addresses and no interfaces. Users and name servers are those of this machine."""

    def pod_addresses(self) -> tuple[Network, ...]:
        """Return no address, so that both families are shown."""
        return ()

    def primary_address(self) -> None:
        return

    def interface_names(self) -> None:
        return

    def has_ipv6(self) -> bool:
        """Return True, so that both families are shown."""
        return True


def parse_name_servers(lines: list[str]) -> list[Network]:
    """Return the name servers of the lines of a resolv.conf(5), each once; what is no address does not count."""
    servers: dict[Network, None] = {}
    for line in lines:
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values:
            try:
                servers[parse_address(values[0].partition("%")[0])] = None
            except ValueError:
                continue
    return list(servers)
