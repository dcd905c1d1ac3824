"""What a capture needs besides rules: an address on ``lo``, and the routes of TPROXY. Read, added, removed."""

from __future__ import annotations

from capture.addresses import FAMILIES, IPV6, address_text
from capture.errors import UnsupportedError
from capture.model import MANGLE, LoopbackAddress, PolicyRoute, Ruleset, TransparentProxy
from capture.netlink.interfaces import add_address, read_addresses, remove_address
from capture.netlink.routing import (
    add_local_route,
    add_mark_rule,
    has_local_route,
    has_mark_rule,
    remove_local_route,
    remove_mark_rule,
)
from capture.netlink.rtnetlink import AF_INET, AF_INET6, LOOPBACK_INDEX, open_route
from capture.rules.nat import PASSTHROUGH_SOURCE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.netlink.sockets import NetlinkSocket

AF = {"ipv4": AF_INET, "ipv6": AF_INET6}
DEFAULT_MARK, DEFAULT_TABLE = 1337, 133


def ensure(ruleset: Ruleset) -> bool:
    """Add what the rule set needs and is not there; return whether anything was missing."""
    if not ruleset.loopback_addresses and not ruleset.policy_routes:
        return False
    changed = False
    with open_route() as route:
        for address in ruleset.loopback_addresses:
            changed |= add_address(route, _text(address), address.network.prefix)
        for policy in ruleset.policy_routes:
            changed |= add_local_route(route, AF[policy.family], policy.table)
            changed |= add_mark_rule(route, AF[policy.family], policy.mark, policy.table)
    return changed


def missing(ruleset: Ruleset) -> list[LoopbackAddress | PolicyRoute]:
    """Return what the rule set needs and is not there."""
    if not ruleset.loopback_addresses and not ruleset.policy_routes:
        return []
    with open_route() as route:
        return [
            *[address for address in ruleset.loopback_addresses if not _has_address(route, address)],
            *[policy for policy in ruleset.policy_routes if not all(_halves(route, policy))],
        ]


def present(live: Ruleset, recorded: Ruleset | None) -> Ruleset:
    """Return a rule set without tables that holds the plumbing of ours that stands in the namespace.

    Candidates are what we recorded, what the live rules speak of, and the defaults.
    """
    with open_route() as route:
        candidates = {*(recorded.policy_routes if recorded else ()), *_routes_of(live)}
        passthrough = LoopbackAddress(PASSTHROUGH_SOURCE[IPV6])
        return Ruleset(
            families=FAMILIES,
            tables=(),
            loopback_addresses=(passthrough,) if _has_address(route, passthrough) else (),
            policy_routes=tuple(policy for policy in candidates if any(_halves(route, policy))),
        )


def stale(desired: Ruleset, before: Ruleset, recorded: Ruleset | None) -> Ruleset:
    """Return the plumbing of an earlier rule set of ours that the desired one has no use for."""
    if recorded is None and before.table(MANGLE) is None:
        return Ruleset(families=desired.families, tables=())
    there = present(before, recorded)
    return there.replace(
        loopback_addresses=tuple(a for a in there.loopback_addresses if a not in desired.loopback_addresses),
        policy_routes=tuple(policy for policy in there.policy_routes if policy not in desired.policy_routes),
    )


def remove(ruleset: Ruleset) -> bool:
    """Remove the plumbing of the rule set; return whether any was there."""
    if not ruleset.loopback_addresses and not ruleset.policy_routes:
        return False
    changed = False
    with open_route() as route:
        for policy in ruleset.policy_routes:
            changed |= remove_mark_rule(route, AF[policy.family], policy.mark, policy.table)
            changed |= remove_local_route(route, AF[policy.family], policy.table)
        for address in ruleset.loopback_addresses:
            changed |= remove_address(route, _text(address), address.network.prefix)
    return changed


def _text(address: LoopbackAddress) -> str:
    return address_text(address.network.family, address.network.first)


def _has_address(route: NetlinkSocket, wanted: LoopbackAddress) -> bool:
    family = AF[wanted.network.family]
    return any(
        address.interface == LOOPBACK_INDEX and address.address == _text(wanted)
        for address in read_addresses(route, family)
    )


def _halves(route: NetlinkSocket, policy: PolicyRoute) -> tuple[bool, bool]:
    """Return whether the rule and whether the route of a policy are there."""
    family = AF[policy.family]
    try:
        return (
            has_mark_rule(route, family, policy.mark, policy.table),
            has_local_route(route, family, policy.table),
        )
    except UnsupportedError:
        return False, False  # a kernel without this family, or without policy routing, has none of ours


def _routes_of(live: Ruleset) -> set[PolicyRoute]:
    """Return the routes that the transparent proxy rules of a live rule set can belong to."""
    mangle = live.table(MANGLE)
    marks = {DEFAULT_MARK} if mangle else set()
    for chain in mangle.chains if mangle else ():
        marks |= {rule.verdict.mark for rule in chain.rules if isinstance(rule.verdict, TransparentProxy)}
    return {PolicyRoute(family, mark, DEFAULT_TABLE) for family in FAMILIES for mark in marks}
