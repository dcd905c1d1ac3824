"""A pod whose facts are given, not read: what ``resolve`` reads from a host, from memory."""

from dataclasses import dataclass, field
from typing import Any

from capture.model.addresses import Network, parse_address
from capture.model.ruleset import Ruleset
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig, resolve
from capture.settings.families import global_addresses
from capture.settings.options import IP_FAMILIES
from capture.settings.settings import ExplicitValue, Settings

Texts = dict[Any, str]
"""Values by option; options of all types are keys, which no type but Any expresses."""


@dataclass
class FakePod:
    """Addresses and name servers are written as text; loopback addresses are those every namespace has."""

    addresses: tuple[str, ...] = ("127.0.0.1", "::1", "10.0.0.5", "fd00::5", "fe80::5")
    servers: tuple[str, ...] = ()
    users: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    proxy_user: str = "istio-proxy"
    ipv6: bool = True
    interfaces: tuple[str, ...] | None = None

    def user_id(self, name: str) -> int | None:
        return self.users.get(name)

    def group_id(self, name: str) -> int | None:
        return self.groups.get(name)

    def default_proxy_user(self) -> str:
        return self.proxy_user

    def pod_addresses(self) -> tuple[Network, ...]:
        return tuple(parse_address(address) for address in self.addresses)

    def primary_address(self) -> Network | None:
        return next(iter(global_addresses(self.pod_addresses())), None)

    def interface_names(self) -> tuple[str, ...] | None:
        return self.interfaces

    def has_ipv6(self) -> bool:
        return self.ipv6

    def name_servers(self) -> tuple[Network, ...]:
        return tuple(parse_address(server) for server in self.servers)


POD = FakePod()
IPV4_ALONE: Texts = {IP_FAMILIES: "ipv4"}
IPV4_POD = FakePod(addresses=("127.0.0.1", "10.0.0.5"))
IPV6_POD = FakePod(addresses=("::1", "fd00::5"))


def explicit(texts: Texts) -> Settings:
    """Return settings with these texts on the command line."""
    return Settings({option: ExplicitValue(text, "command line") for option, text in texts.items()})


def config_of(texts: Texts, pod: FakePod = POD) -> CaptureConfig:
    """Return the configuration that these texts give in the pod."""
    return resolve(explicit(texts), pod)[0]


def ruleset_of(texts: Texts, pod: FakePod = POD) -> Ruleset:
    """Return the rules that these texts give in the pod."""
    return build_ruleset(config_of(texts, pod))
