"""Impediments: routing and switches of the kernel that keep captured packets from the proxy, whatever the rules are."""

from __future__ import annotations

from capture.errors import UnsupportedError
from capture.model.addresses import (
    FAMILY_NUMBERS,
    IPV4,
    IPV6,
    LOOPBACK_ADDRESSES,
    LOOPBACK_NETWORKS,
    Network,
    parse_network,
)
from capture.model.conventions import APPLY_RECORDED, IPPROTO_TCP, LO_DOWN_MESSAGE, PASSTHROUGH_SOURCE, REPAIR_LO
from capture.model.location import Cause
from capture.model.ruleset import MANGLE, PREROUTING, InInterface, Return, Ruleset
from capture.netlink.interfaces import is_loopback_up, read_addresses
from capture.netlink.rtnetlink import LOOPBACK_INDEX, open_rtnetlink
from capture.rules import outbound_port, redirects_inbound
from capture.state.routes import PREFERENCE, takes_ipv6_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.compiler import Direction
    from capture.model.addresses import Family
    from capture.model.routing import PolicyRoute
    from capture.netlink.policy_rules import PolicyRule
    from capture.netlink.sockets import NetlinkSocket
    from capture.state.sysctls import Sysctl

NOT_TO_LO: dict[Direction, str] = {
    "outbound": "does not lead to lo: outbound connections that are redirected do not reach the proxy",
    "inbound": "does not lead to lo: the proxy cannot call the app from it, so that inbound connections fail",
}


class Impediment(Cause):
    """Something other than a rule by which captured traffic is lost; ``family`` is None if it concerns both.

    Kinds: ``lo-down``, ``no-route``, ``policy-route`` and ``sysctl``.
    """

    family: Family | None = None
    directions: tuple[Direction, ...] = ("inbound",)
    """Of which connections captured traffic is lost: those of the pod, those that come in, or both."""


def impediments(ruleset: Ruleset, sent: tuple[int, int] | None = None) -> tuple[Impediment, ...]:
    """Return what keeps packets of a rule set from the proxy here: of TCP, or of those sent to a protocol and port."""
    with open_rtnetlink() as rtnetlink:
        impeding = [*_loopback_impediments(rtnetlink, ruleset, sent or (IPPROTO_TCP, outbound_port(ruleset)))]
        for policy in ruleset.policy_routes:
            impeding += (*_preceding_rules(rtnetlink, policy), *_diverting_routes(rtnetlink, policy))
        if ruleset.policy_routes:
            impeding += _sysctl_impediments(rtnetlink, ruleset)
    return tuple(impeding)


def _loopback_impediments(rtnetlink: NetlinkSocket, ruleset: Ruleset, sent: tuple[int, int]) -> Iterator[Impediment]:
    """Yield why redirected connections do not arrive: those of the pod go to 127.0.0.1 or ::1 (nf_nat_redirect.c).

    From 127.0.0.6 or ::6 the proxy calls the app. Where ::6 alone is missing, it is missed as an address.
    """
    if not is_loopback_up(rtnetlink):
        yield LO_DOWN
        return
    for family in ruleset.families:
        loopback, source = LOOPBACK_ADDRESSES[family], PASSTHROUGH_SOURCE[family]
        needed: dict[Direction, tuple[Network, int, int]] = {"outbound": (loopback, *sent)}
        if redirects_inbound(ruleset) and (family == IPV4 or not takes_ipv6_addresses()):
            needed["inbound"] = source, IPPROTO_TCP, 0
        lost = {way: end for way, (end, *by) in needed.items() if not _leads_to_lo(rtnetlink, end.shown, *by)}
        if not lost or (family == IPV6 and all(each.is_link_local for each in _outer_addresses(rtnetlink, IPV6))):
            continue  # a pod without a global address of IPv6 mostly lacks ::1, too
        switch = "`sysctl -w net.ipv6.conf.lo.disable_ipv6=0`, then run " if family == IPV6 else ""
        again = f" Then run {APPLY_RECORDED}, which adds ::6." if family == IPV6 and source in lost.values() else ""
        network = loopback.replace(prefix=LOOPBACK_NETWORKS[family].prefix)
        remedy = f"Run {switch}`ip address replace {network} dev lo` in the pod's namespace.{again}"
        on_lo = [each.address for each in read_addresses(rtnetlink) if each.interface == LOOPBACK_INDEX]
        if "outbound" in lost and loopback in on_lo:
            flag = "-6 " if family == IPV6 else ""
            remedy = f"Run `ip {flag}rule add pref 0 lookup local` in the pod's namespace: table local has to be first."
        message = "; ".join(f"{end.shown} {NOT_TO_LO[direction]}" for direction, end in lost.items())
        yield Impediment("no-route", message, remedy, family=family, directions=tuple(lost))


def _leads_to_lo(rtnetlink: NetlinkSocket, address: str, protocol: int, port: int) -> bool:
    from capture.netlink.routing import look_up_route

    try:
        return look_up_route(rtnetlink, address, protocol, (0, port)).interface == LOOPBACK_INDEX
    except UnsupportedError:  # a kernel without the family
        return False


def _outer_addresses(rtnetlink: NetlinkSocket, family: Family) -> list[Network]:
    listed = read_addresses(rtnetlink, FAMILY_NUMBERS[family])
    return [each.address for each in listed if each.interface != LOOPBACK_INDEX]


BOTH: tuple[Direction, ...] = ("inbound", "outbound")
LO_DOWN = Impediment("lo-down", LO_DOWN_MESSAGE, REPAIR_LO, directions=BOTH)


def _preceding_rules(rtnetlink: NetlinkSocket, policy: PolicyRoute) -> Iterator[Impediment]:
    from capture.netlink import policy_rules as rules  # TPROXY only

    try:
        listed = rules.read_policy_rules(rtnetlink, FAMILY_NUMBERS[policy.family])
    except UnsupportedError:
        return  # a kernel without policy routing; that our rule is missing is reported elsewhere
    own_addresses = _outer_addresses(rtnetlink, policy.family)
    is_own = [rule.is_for_mark(policy.mark, policy.table) for rule in listed]
    local_is_first = listed[0].table == rules.RT_TABLE_LOCAL if listed else False
    for rule in listed[: is_own.index(True)] if any(is_own) else ():
        decides = rule.action != rules.FR_ACT_NOP and rule.table != rules.RT_TABLE_LOCAL
        if not decides or not _may_be_for_answers(rule, policy.mark, own_addresses):
            continue
        if local_is_first and _is_to_the_pod(rule, own_addresses):
            continue
        if rule.looks_up and not rules.has_routes(rtnetlink, FAMILY_NUMBERS[policy.family], rule):
            continue
        yield Impediment(
            "policy-route",
            f"the policy rule `{rule}` precedes ours and routes packets with mark {policy.mark:#x} away from the proxy",
            f"Run {APPLY_RECORDED}, which gives ours preference {PREFERENCE}; a rule that had it before needs a greater"
            " one.",
            family=policy.family,
        )


def _diverting_routes(rtnetlink: NetlinkSocket, policy: PolicyRoute) -> Iterator[Impediment]:
    """Yield the routes in the table of TPROXY that lead answers away: those to a network that are not local."""
    from capture.netlink.routing import RTN_LOCAL, read_routes  # TPROXY only

    for route in read_routes(rtnetlink, FAMILY_NUMBERS[policy.family]):
        if route.table == policy.table and route.prefix and route.kind != RTN_LOCAL:
            network = Network(policy.family, route.first, route.prefix)
            yield Impediment(
                "policy-route",
                f"the route to {network} in table {policy.table} leads packets with mark {policy.mark:#x} away from the"
                " proxy",
                f"Remove it (`ip route del {network} table {policy.table}`), or take a table of its own"
                " (--istio-inbound-tproxy-route-table).",
                family=policy.family,
            )


def _may_be_for_answers(rule: PolicyRule, mark: int, own_addresses: list[Network]) -> bool:
    """Return whether a policy rule may be for the application's answers: by mark they are routed again, to the proxy.

    Such a packet is the pod's own (``iif lo``), and from an address of the pod.
    """
    network = parse_network(rule.source) if rule.source and own_addresses else None
    inside = [address for address in own_addresses if network is None or network.contains(address.first)]
    has_mark, is_by_lo = rule.may_match_mark(mark), rule.incoming in ("", "lo")
    if rule.is_inverted:
        is_from_pod = all(address in inside or address.is_link_local for address in own_addresses)
        return not (has_mark and is_by_lo and is_from_pod) or bool(rule.destination or rule.others)
    return has_mark and rule.is_for_rerouted and is_by_lo and (network is None or bool(inside))


def _is_to_the_pod(rule: PolicyRule, own_addresses: list[Network]) -> bool:
    """Return whether a policy rule is for packets to the pod's own addresses alone, on which table local decides."""
    if rule.is_inverted or not rule.destination:
        return False
    destination = parse_network(rule.destination)
    local = (LOOPBACK_NETWORKS[destination.family], *own_addresses)
    return any(network.contains(destination.first) and network.contains(destination.last) for network in local)


def source_validating_rule(rtnetlink: NetlinkSocket) -> PolicyRule | None:
    """Return the policy rule, as VPNs have it (`not fwmark ...`), for which sources are validated with their mark."""
    from capture.netlink.policy_rules import read_policy_rules

    rules = read_policy_rules(rtnetlink, FAMILY_NUMBERS[IPV4])
    return next((rule for rule in rules if rule.is_inverted and rule.mask), None)


def _sysctl_impediments(rtnetlink: NetlinkSocket, ruleset: Ruleset) -> Iterator[Impediment]:
    from capture.state import sysctls  # TPROXY only

    accepting = sysctls.mark_accepting_sysctl()
    if accepting:
        message = f"{accepting.name} is {accepting.value}: answers of the proxy get its own mark, and are lost"
        yield Impediment("sysctl", message, f"Set {accepting.name} to 0 in the pod's network namespace.")
    if sysctls.always_sends_cookies():
        message = "net.ipv4.tcp_syncookies is 2: handshakes end past the proxy's listener, and clients get a reset"
        yield Impediment("sysctl", message, "Set net.ipv4.tcp_syncookies to 1 in the pod's network namespace.")
    if not any(policy.family == IPV4 for policy in ruleset.policy_routes):
        return
    switches = [*sysctls.source_validating_sysctls(_interfaces_left_alone(ruleset))]
    vpn = source_validating_rule(rtnetlink) if switches else None
    for name, value in ((each.name, each.value) for each in switches):
        message = f"{name} is {value}: inbound packets and answers to the proxy are dropped as martians"
        remedy = f"Set {name} to 0 in the pod's network namespace, or capture by REDIRECT."
        # What comes in for the proxy's own connections has the mark, too: their answers.
        yield Impediment("sysctl", message, _remedy_with_vpn(vpn) if vpn else remedy, family=IPV4, directions=BOTH)


def sysctls_to_change() -> tuple[Sysctl, ...]:
    """Return the switches that are on, must be off for a transparent proxy, and that nothing in the namespace needs."""
    from capture.state.sysctls import sysctls_to_turn_off

    with open_rtnetlink() as rtnetlink:
        return sysctls_to_turn_off(spares_validation=source_validating_rule(rtnetlink) is not None)


def _remedy_with_vpn(vpn: PolicyRule) -> str:
    return (
        f"The VPN's policy rule `{vpn}` needs it, so that it was left alone. Set net.ipv4.conf.all.accept_local to 1"
        " with rp_filter 0 or 2, or capture by REDIRECT."
    )


def _interfaces_left_alone(ruleset: Ruleset) -> list[str]:
    chain = ruleset.chain(MANGLE, PREROUTING)
    return [
        match.name
        for rule in (chain.rules if chain else ())
        for match in rule.matches
        if rule.verdict == Return() and isinstance(match, InInterface) and len(rule.matches) == 1
    ]
