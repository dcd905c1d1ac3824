"""Captures to choose from: settings that differ in everything but that they capture, and every driver.

All of VARIANTS send TCP of uid 1000 to ``OUTSIDE`` to one of ``OUTBOUND_PORTS``, and TCP that comes in for
``APP_PORT`` to one of ``INBOUND_PORTS``.
"""

from typing import Any

from capture.settings import options as option
from capture.settings.settings import ExplicitValue, Settings

Texts = dict[Any, str]
"""Values by option; options of all types are keys, which no type but Any expresses."""

OUTSIDE = (("203.0.113.7", 80), ("2001:db8::7", 80))
APP_PORT = 8080
OUTBOUND_PORTS = (15001, 16001)
INBOUND_PORTS = (15006, 16006)

VARIANTS: dict[str, Texts] = {
    "classic": {},
    "current": {option.PROFILE: "current"},
    "classic, underscores": {option.CHAIN_NAMES: "underscore"},
    "current, dashes": {option.PROFILE: "current", option.CHAIN_NAMES: "dash"},
    "other ports": {option.PROXY_PORT: "16001", option.INBOUND_CAPTURE_PORT: "16006"},
    "TPROXY": {option.INTERCEPTION_MODE: "TPROXY"},
    "TPROXY by other numbers": {
        option.PROFILE: "current",
        option.INTERCEPTION_MODE: "TPROXY",
        option.TPROXY_MARK: "77",
        option.TPROXY_ROUTE_TABLE: "88",
        option.DROP_INVALID: "true",
    },
    "lists": {option.OUTBOUND_NETWORKS: "203.0.113.0/24,2001:db8::/32", option.INBOUND_PORTS: "8080,9000-9010"},
    "long lists": {
        option.EXCLUDED_OUTBOUND_NETWORKS: ",".join(f"198.51.{third}.0/24" for third in range(0, 60, 2)),
        option.EXCLUDED_OUTBOUND_PORTS: ",".join(str(port) for port in range(5000, 5060, 2)),
        option.EXCLUDED_INBOUND_NETWORKS: "192.0.2.0/24,2001:db8:1::/48",
    },
    "DNS": {
        option.REDIRECT_DNS: "true",
        option.CAPTURE_ALL_DNS: "true",
        option.DROP_INVALID: "true",
        option.EXCLUDED_INTERFACES: "other0",
    },
    "comments and logs": {option.RULE_COMMENTS: "true", option.RULE_LOGS: "true"},
    "users": {
        option.PROXY_UID: "1337,4444",
        option.UID_PORT_EXCLUSIONS: "tcp:443:2000-2010",
        option.EXCLUDED_OWNER_GROUPS: "3333",
        option.REROUTED_INTERFACES: "tap0",
    },
}

DRIVERS: dict[str, Texts] = {
    "nftables-netlink": {option.BACKEND: "nftables", option.DRIVER: "netlink"},
    "nftables-libnftables": {option.BACKEND: "nftables", option.DRIVER: "libnftables"},
    "iptables-netlink": {option.BACKEND: "iptables", option.DRIVER: "netlink"},
    "iptables-nft": {option.BACKEND: "iptables", option.DRIVER: "restore", option.FORCE_IPTABLES_BINARY: "nft"},
    "iptables-legacy": {option.BACKEND: "iptables", option.DRIVER: "restore", option.FORCE_IPTABLES_BINARY: "legacy"},
    "iptables-iptc": {option.BACKEND: "iptables", option.DRIVER: "iptc"},
}
ONE_FOR_EACH_PLACE = ("nftables-netlink", "iptables-netlink", "iptables-legacy")
"""For what depends on the live rules alone: the other drivers make the same ones, as test_nftables_listings,
test_iptables_netlink and test_iptables_cases compare."""


def settings(*texts: Texts) -> Settings:
    """Return settings with all of these; the last one counts."""
    return Settings({each: ExplicitValue(text, "command line") for some in texts for each, text in some.items()})


def arguments(*texts: Texts) -> list[str]:
    """Return the same as flags of ``istio-init``; for options that have none, see ``environment``."""
    return [f"--{each.flag}={text}" for some in texts for each, text in some.items() if each.flag]


def environment(*texts: Texts) -> dict[str, str]:
    """Return those that have no flag, as variables."""
    return {each.variables[0]: text for some in texts for each, text in some.items() if not each.flag}
