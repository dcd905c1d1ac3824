"""Facts of hosts, as detection finds them, without a host."""

from __future__ import annotations

from capture.backends.host_facts import HostFacts
from capture.model.addresses import FAMILIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.backends.host_facts import ProgramKey
    from capture.backends.iptables.tables import Variant

COMMANDS = {"ipv4": "iptables", "ipv6": "ip6tables"}


def programs(*variants: Variant, families: Iterable[str] = FAMILIES) -> dict[ProgramKey, str]:
    """Return the programs of some variants as installed."""
    return {
        (variant, family, purpose): f"/usr/sbin/{COMMANDS[family]}-{variant}-{purpose}"
        for variant in variants
        for family in FAMILIES
        if family in families
        for purpose in ("save", "restore")
    }


WITH_EVERYTHING = HostFacts(
    programs=programs("nft", "legacy"),
    ipv6=True,
    has_nf_tables=True,
    has_nft_compat=True,
    legacy="present",
    legacy_tables=(),
    chains=(),
    has_python_iptables=True,
    has_libnftables=True,
)
"""Nothing is missing, and nothing is there."""
