"""What a capture needs apart from rules: an address on ``lo``, and the routes of TPROXY. Read, added, removed."""

from __future__ import annotations

import errno

from capture.errors import CaptureError, KernelError, UnsupportedError
from capture.model.addresses import FAMILIES, FAMILY_BY_NUMBER, FAMILY_NUMBERS, IPV6, Family, Network
from capture.model.conventions import ISTIO_MARK, ISTIO_ROUTE_TABLE, PASSTHROUGH_SOURCE, SET_LO_UP
from capture.model.routing import LoopbackAddress, MissingRoute, PolicyRoute
from capture.model.ruleset import Ruleset
from capture.netlink.interfaces import add_address, is_loopback_up, read_addresses, remove_address
from capture.netlink.policy_rules import has_mark_rule, read_policy_rules, remove_mark_rule, set_mark_rule
from capture.netlink.routing import add_local_route, has_local_route, read_routes, remove_local_route
from capture.netlink.rtnetlink import LOOPBACK_INDEX, open_rtnetlink
from capture.system.files import content_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.netlink.sockets import NetlinkSocket

DISABLE_IPV6_ON_LO = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"
NO_IPV6_ON_LO = (
    "IPv6 is disabled on lo (net.ipv6.conf.lo.disable_ipv6), which therefore cannot have the address ::6:"
    " inbound IPv6 connections fail until it is enabled and the rules are applied again"
)
PREFERENCE = 0
"""The preference of our policy rule: it comes right after that for the pod's own addresses, which has 0 too.

Source-based routing (Multus) and VPNs mostly let the kernel choose a preference: one less than the second rule has, so
that a later rule precedes every earlier one. Where that one has 0, the later rule gets 0, too, and comes after it
(fib_default_rule_pref and fib_nl_newrule in net/core/fib_rules.c).
"""


def add_missing(ruleset: Ruleset) -> bool:
    """Add what the rule set needs and is not there; return whether anything was missing."""
    if not ruleset.loopback_addresses and not ruleset.policy_routes:
        return False
    changed = False
    with open_rtnetlink() as rtnetlink:
        for address in _possible_addresses(ruleset):
            changed |= add_address(rtnetlink, address.network.shown, address.network.prefix)
        for policy in ruleset.policy_routes:
            # The rule first, and last when removed: it shows that a table is our own, wherever we were killed.
            changed |= set_mark_rule(rtnetlink, FAMILY_NUMBERS[policy.family], policy.mark, policy.table, PREFERENCE)
            try:
                changed |= add_local_route(rtnetlink, FAMILY_NUMBERS[policy.family], policy.table)
            except KernelError as error:
                if error.errno == errno.EEXIST:
                    (command,) = MissingRoute(policy, has_rule=True, has_route=False).commands
                    remedy = f"Run `{command}`, or take another table (--istio-inbound-tproxy-route-table)."
                    raise CaptureError(f"{error.message}: another default route is there", remedy) from error
                if error.errno != errno.ENETDOWN:
                    raise
                raise CaptureError(f"{error.message}: lo is down", SET_LO_UP) from error
    return changed


def is_lo_up() -> bool:
    """Return whether ``lo`` of the namespace we are in is set up."""
    with open_rtnetlink() as rtnetlink:
        return is_loopback_up(rtnetlink)


def missing_parts(ruleset: Ruleset) -> list[LoopbackAddress | MissingRoute]:
    """Return what the rule set needs and is not there."""
    if not ruleset.loopback_addresses and not ruleset.policy_routes:
        return []
    with open_rtnetlink() as rtnetlink:
        return [
            *[address for address in _possible_addresses(ruleset) if not _has_address(rtnetlink, address)],
            *_missing_routes(rtnetlink, ruleset),
        ]


def missing_routes(ruleset: Ruleset) -> tuple[MissingRoute, ...]:
    """Return what of the routes of a transparent capture is not there."""
    return tuple(need for need in missing_parts(ruleset) if isinstance(need, MissingRoute))


def _missing_routes(rtnetlink: NetlinkSocket, ruleset: Ruleset) -> Iterator[MissingRoute]:
    for policy in ruleset.policy_routes:
        has_rule, has_route = _has_rule_and_route(rtnetlink, policy)
        if not has_rule or not has_route:
            yield MissingRoute(policy, has_rule, has_route, not has_route and _has_default_route(rtnetlink, policy))


def _has_default_route(rtnetlink: NetlinkSocket, policy: PolicyRoute) -> bool:
    try:
        routes = read_routes(rtnetlink, FAMILY_NUMBERS[policy.family])
    except UnsupportedError:
        return False
    return any((each.table, each.prefix) == (policy.table, 0) for each in routes)


def routes_of_marks(live: Ruleset) -> tuple[PolicyRoute, ...]:
    """Return the policy routes that live rules of a transparent capture need, of which nothing is recorded.

    Their table is the one of the policy rule for their mark; without such a rule, upstream's default.
    """
    marks = sorted({verdict.mark for verdict in live.transparent_verdicts})
    if not marks:
        return ()
    with open_rtnetlink() as rtnetlink:
        tables = {(FAMILY_BY_NUMBER.get(rule.family), rule.mark): rule.table for rule in read_policy_rules(rtnetlink)}
    return tuple(
        PolicyRoute(family, mark, tables.get((family, mark), ISTIO_ROUTE_TABLE))
        for family in live.families
        for mark in marks
    )


def with_loopback_address(recorded: Ruleset, addresses: Iterable[Network]) -> Ruleset:
    """Return the recorded rule set, with ::6 on lo if the pod is reached by IPv6 since then."""
    is_reached = any(address.family == IPV6 for address in addresses)
    if recorded.loopback_addresses or IPV6 not in recorded.families or not is_reached:
        return recorded
    return recorded.replace(loopback_addresses=(LoopbackAddress(PASSTHROUGH_SOURCE[IPV6]),))


def _possible_addresses(ruleset: Ruleset) -> tuple[LoopbackAddress, ...]:
    """Return the addresses that ``lo`` can have: none of IPv6 while that is disabled there."""
    if takes_ipv6_addresses():
        return ruleset.loopback_addresses
    return tuple(address for address in ruleset.loopback_addresses if address.network.family != IPV6)


def takes_ipv6_addresses() -> bool:
    """Return whether ``lo`` takes IPv6 addresses (ipv6_add_addr() in net/ipv6/addrconf.c looks at the same switch)."""
    return content_of(DISABLE_IPV6_ON_LO).strip() != b"1"  # without /proc/sys the kernel answers


def existing_parts(live: Iterable[Ruleset], recorded: Iterable[PolicyRoute]) -> Ruleset:
    """Return a rule set without tables that holds our own and upstream's routes and addresses in the namespace.

    The routes are the recorded ones, those of the marks in live rules, and upstream's defaults.
    """
    marks = {verdict.mark for ruleset in live for verdict in ruleset.transparent_verdicts}
    with open_rtnetlink() as rtnetlink:
        passthrough = LoopbackAddress(PASSTHROUGH_SOURCE[IPV6])
        return Ruleset(
            families=FAMILIES,
            tables=(),
            loopback_addresses=(passthrough,) if _has_address(rtnetlink, passthrough) else (),
            policy_routes=tuple(dict.fromkeys(_routes_present(rtnetlink, marks, recorded))),
        )


def _routes_present(
    rtnetlink: NetlinkSocket, marks: set[int], recorded: Iterable[PolicyRoute]
) -> Iterator[PolicyRoute]:
    recorded_routes = tuple(recorded)
    followed: set[tuple[Family, int]] = set()
    for rule in filter(lambda rule: rule.is_plain, read_policy_rules(rtnetlink)):
        policy = PolicyRoute(FAMILY_BY_NUMBER[rule.family], rule.mark, rule.table)
        of_upstream = (policy.mark, policy.table) == (ISTIO_MARK, ISTIO_ROUTE_TABLE)
        is_own = of_upstream or policy in recorded_routes
        if is_own or (policy.mark in marks and _has_rule_and_route(rtnetlink, policy)[1]):
            followed.add((policy.family, policy.mark))
            yield policy
    routes_alone = [PolicyRoute(family, mark, ISTIO_ROUTE_TABLE) for family in FAMILIES for mark in sorted(marks)]
    for policy in (*recorded_routes, *routes_alone):
        if (policy.family, policy.mark) not in followed and _has_rule_and_route(rtnetlink, policy)[1]:
            yield policy


def stale_parts(desired: Ruleset, live: Iterable[Ruleset], recorded: Iterable[PolicyRoute]) -> Ruleset:
    """Return the routes and addresses of one of our earlier rule sets that the desired one has no use for."""
    earlier = existing_parts(live, recorded)
    return earlier.replace(
        loopback_addresses=tuple(each for each in earlier.loopback_addresses if each not in desired.loopback_addresses),
        policy_routes=tuple(policy for policy in earlier.policy_routes if policy not in desired.policy_routes),
    )


def remove(ruleset: Ruleset, needed_still: Ruleset | None = None) -> bool:
    """Remove routes and addresses of the rule set, but those that another needs; return whether any was there."""
    if not ruleset.loopback_addresses and not ruleset.policy_routes:
        return False
    needed = {(policy.family, policy.table) for policy in needed_still.policy_routes} if needed_still else set()
    changed = False
    with open_rtnetlink() as rtnetlink:
        for policy in ruleset.policy_routes:
            if (policy.family, policy.table) not in needed:
                changed |= remove_local_route(rtnetlink, FAMILY_NUMBERS[policy.family], policy.table)
            changed |= remove_mark_rule(rtnetlink, FAMILY_NUMBERS[policy.family], policy.mark, policy.table)
        for address in ruleset.loopback_addresses:
            changed |= remove_address(rtnetlink, address.network.shown, address.network.prefix)
    return changed


def _has_address(rtnetlink: NetlinkSocket, desired: LoopbackAddress) -> bool:
    listed = read_addresses(rtnetlink, FAMILY_NUMBERS[desired.network.family])
    return any(each.interface == LOOPBACK_INDEX and each.address == desired.network for each in listed)


def _has_rule_and_route(rtnetlink: NetlinkSocket, policy: PolicyRoute) -> tuple[bool, bool]:
    family, table = FAMILY_NUMBERS[policy.family], policy.table
    try:
        has_rule = has_mark_rule(rtnetlink, family, policy.mark, table)
        return has_rule, has_local_route(rtnetlink, family, table)
    except UnsupportedError:
        return False, False  # a kernel without this family, or without policy routing, has none of our routes
