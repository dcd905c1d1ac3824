"""What a host answered when settings were resolved. The record keeps it, and it serves as the host later."""

from __future__ import annotations

from capture.model.addresses import BITS, FAMILIES, Family, Network
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.settings.config import Host


class HostAnswers(Value):
    """The answers of a host, as ``resolve`` got them; a host, too."""

    users: dict[str, int | None]
    groups: dict[str, int | None]
    proxy_user: str
    families: tuple[Family, ...]
    ipv6: bool
    servers: tuple[Network, ...]
    primary: Family | None = None
    """The family of the pod's primary address; None if it was not looked up, or there was none."""
    fallback: Host | None = None
    """The host that answers what was not looked up then; it is not recorded."""

    def user_id(self, name: str) -> int | None:
        return self.fallback.user_id(name) if self.fallback and name not in self.users else self.users.get(name)

    def group_id(self, name: str) -> int | None:
        return self.fallback.group_id(name) if self.fallback and name not in self.groups else self.groups.get(name)

    def default_proxy_user(self) -> str:
        return self.proxy_user

    def pod_addresses(self) -> tuple[Network, ...]:
        """Return an address of each family in which the pod had one."""
        return tuple(map(_any_address, self.families))

    def primary_address(self) -> Network | None:
        """Return an address of the family of the primary one."""
        if self.primary is None:
            return self.fallback.primary_address() if self.fallback else None
        return _any_address(self.primary)

    def interface_names(self) -> tuple[str, ...] | None:
        """Return those of now: only warnings need them, and those about the recorded ones were printed at that time."""
        return self.fallback.interface_names() if self.fallback else None

    def has_ipv6(self) -> bool:
        return self.ipv6

    def name_servers(self) -> tuple[Network, ...]:
        return self.servers or (self.fallback.name_servers() if self.fallback else ())


def _any_address(family: Family) -> Network:
    return Network(family, 1 << (BITS[family] - 1), BITS[family])


class RecordingHost:
    """A host that records its answers."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.users: dict[str, int | None] = {}
        self.groups: dict[str, int | None] = {}
        self._addresses: tuple[Network, ...] | None = None
        self._primary: Network | None = None
        self._servers: tuple[Network, ...] = ()
        self._has_ipv6: bool | None = None

    def user_id(self, name: str) -> int | None:
        if name not in self.users:
            self.users[name] = self._host.user_id(name)
        return self.users[name]

    def group_id(self, name: str) -> int | None:
        if name not in self.groups:
            self.groups[name] = self._host.group_id(name)
        return self.groups[name]

    def default_proxy_user(self) -> str:
        return self._host.default_proxy_user()

    def pod_addresses(self) -> tuple[Network, ...]:
        if self._addresses is None:
            self._addresses = self._host.pod_addresses()
        return self._addresses

    def primary_address(self) -> Network | None:
        self._primary = self._host.primary_address()
        return self._primary

    def interface_names(self) -> tuple[str, ...] | None:
        return self._host.interface_names()

    def has_ipv6(self) -> bool:
        return self._host.has_ipv6() if self._has_ipv6 is None else self._has_ipv6

    def forget_ipv6(self) -> None:
        """Answer "no IPv6" from now on: the kernel cannot capture it."""
        self._has_ipv6 = False

    def name_servers(self) -> tuple[Network, ...]:
        self._servers = self._host.name_servers()
        return self._servers

    def answers(self) -> HostAnswers:
        own = [each for each in self.pod_addresses() if not each.is_loopback and not each.is_link_local]
        return HostAnswers(
            users=self.users,
            groups=self.groups,
            proxy_user=self.default_proxy_user(),
            families=tuple(family for family in FAMILIES if any(address.family == family for address in own)),
            ipv6=self.has_ipv6(),
            servers=self._servers,
            primary=self._primary.family if self._primary else None,
        )
