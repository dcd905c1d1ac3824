"""Which families of addresses are captured: IPv4 always, IPv6 by ``--ip-families``.

    both    rules for both, also without addresses: one that comes later is captured, too
    mesh    as Istio's own program: Envoy of a mesh without dual stack listens on 0.0.0.0 alone
    ipv4    never

A family with a global address and without rules bypasses the proxy, or --other-family rejects it: a warning says which.
"""

from __future__ import annotations

from capture.model.addresses import FAMILIES, FAMILY_NAMES, IPV4, IPV6, Family, Network, address_text
from capture.model.values import Value
from capture.settings.options import DUAL_STACK, IP_FAMILIES, OTHER_FAMILY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.settings.config import Host
    from capture.settings.settings import Settings


class ChosenFamilies(Value):
    """The families to capture, why these, and the warnings about them."""

    families: tuple[Family, ...]
    is_reached_by_ipv6: bool
    decided_by: str
    warnings: tuple[str, ...] = ()


def choose_families(settings: Settings, host: Host) -> ChosenFamilies:
    """Return the families to capture in a pod."""
    addresses = global_addresses(host.pod_addresses())
    requests_ipv6, decided_by = _requests_ipv6(settings, host, addresses)
    warnings = _contradictions(settings)
    if requests_ipv6 and not host.has_ipv6():
        requests_ipv6 = False
        decided_by = f"{decided_by}; this kernel cannot capture IPv6"
        warnings.append("this kernel cannot capture IPv6: only IPv4 is captured")
    chosen = FAMILIES if requests_ipv6 else (IPV4,)
    warnings += uncaptured_warnings(settings, chosen, addresses)
    is_reached_by_ipv6 = any(address.family == IPV6 for address in addresses)
    return ChosenFamilies(chosen, is_reached_by_ipv6, decided_by, tuple(warnings))


def global_addresses(addresses: Iterable[Network]) -> list[Network]:
    """Return the addresses by which others reach the pod: neither loopback nor link-local ones."""
    return [address for address in addresses if not address.is_loopback and not address.is_link_local]


def _requests_ipv6(settings: Settings, host: Host, addresses: list[Network]) -> tuple[bool, str]:
    origin = settings.origin(IP_FAMILIES)
    choice = settings[IP_FAMILIES]
    if settings[DUAL_STACK] and IP_FAMILIES not in settings.explicit:
        return True, f"{DUAL_STACK.name}, {settings.origin(DUAL_STACK)}"
    if choice != "mesh":
        return choice == "both", f"{choice}, {origin}"
    if settings[DUAL_STACK]:
        return True, f"mesh, {origin}: dual stack, {settings.origin(DUAL_STACK)}"
    primary = host.primary_address()
    if not addresses or primary is None:
        return True, f"mesh, {origin}: the pod has no global address yet"
    if primary.family == IPV6:
        return True, f"mesh, {origin}: the pod's primary address is IPv6"
    has_ipv6 = any(address.family == IPV6 for address in addresses)
    if has_ipv6 and not settings.knows_proxy_environment and DUAL_STACK not in settings.explicit:
        return True, f"mesh, {origin}: whether the proxy is dual stack is not known, and the pod has an IPv6 address"
    return False, f"mesh, {origin}: the pod's primary address is IPv4"


def _contradictions(settings: Settings) -> list[str]:
    if IP_FAMILIES not in settings.explicit or DUAL_STACK not in settings.explicit:
        return []
    choice, is_dual = settings[IP_FAMILIES], settings[DUAL_STACK]
    if (choice, is_dual) not in (("ipv4", True), ("both", False)):
        return []
    what_counts = f"{IP_FAMILIES.name} {choice} ({settings.origin(IP_FAMILIES)})"
    what_does_not = f"{DUAL_STACK.name}={'true' if is_dual else 'false'} ({settings.origin(DUAL_STACK)})"
    return [f"{what_counts} beats {what_does_not}"]


def uncaptured_warnings(settings: Settings, chosen: tuple[Family, ...], addresses: Iterable[Network]) -> list[str]:
    """Return a warning for each family that has a global address and is not captured."""
    fate = "its TCP is rejected" if settings[OTHER_FAMILY] == "reject" else "its traffic bypasses the proxy"
    warnings: dict[Family, str] = {}
    for address in global_addresses(addresses):
        if address.family not in chosen and address.family not in warnings:
            warnings[address.family] = (
                f"{FAMILY_NAMES[address.family]} is not captured ({IP_FAMILIES.name} {settings[IP_FAMILIES]},"
                f" {settings.origin(IP_FAMILIES)}), but the pod has the address"
                f" {address_text(address.family, address.first)}: {fate}"
            )
    return list(warnings.values())


def link_local_note(settings: Settings, chosen: tuple[Family, ...], addresses: Iterable[Network]) -> str:
    """Return a line about link-local IPv6 where only that is there, neither captured nor rejected; else ""."""
    ipv6 = [address for address in addresses if address.family == IPV6 and not address.is_loopback]
    if IPV6 in chosen or settings[OTHER_FAMILY] == "reject" or not ipv6 or global_addresses(ipv6):
        return ""
    return "IPv6 is not captured: what comes to fe80:: addresses on the pod's own link goes straight to the app"


def judge_families(
    captured: tuple[Family, ...], settings: Settings, addresses: tuple[Network, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is drift, and what is a note, about families with an address and without rules, in words.

    Where the settings choose both families, it is drift.
    """
    uncaptured = tuple(uncaptured_warnings(settings, captured, addresses))
    note = link_local_note(settings, captured, addresses)
    notes = (note,) if note else ()
    if settings[IP_FAMILIES] == "both":
        return uncaptured, notes
    return (), (*uncaptured, *notes)
