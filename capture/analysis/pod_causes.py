"""Why connections to and from a pod fail, whichever is meant: interfaces, routes, listeners of the proxy. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from capture.analysis.captured_pod import Capture, PodFacts
from capture.analysis.cause_text import as_one, cause
from capture.analysis.meaning import is_in_spans
from capture.analysis.outcome import DNS, PROXY_INBOUND, PROXY_OUTBOUND, TO_PROXY
from capture.analysis.trace import Trace
from capture.model.addresses import (
    ANY_ADDRESS,
    FAMILIES,
    FAMILY_BY_NUMBER,
    FAMILY_NAMES,
    FAMILY_NUMBERS,
    IPV4,
    IPV6,
    LOOPBACK_ADDRESSES,
    Family,
    Network,
    address_text,
)
from capture.model.conventions import PROTOCOL_BY_NUMBER, PROTOCOL_NUMBERS, SIDECAR_PORTS, TRAFFIC_PORTS
from capture.model.location import Cause
from capture.model.packet import LOOPBACK
from capture.model.ruleset import ProtocolName
from capture.model.text import plural
from capture.netlink.interfaces import Link
from capture.netlink.routing import GROUP_KINDS, REFUSING_KINDS
from capture.netlink.sock_diag import Listener

CONNECTION_KINDS: dict[str, str] = {PROXY_OUTBOUND: "outbound", PROXY_INBOUND: "inbound", DNS: "DNS"}
USUAL_INTERFACE = "eth0"
"""The name of a pod's interface in container runtimes."""
MODES = {True: "TPROXY", False: "REDIRECT"}
NEARLY_FULL = 0.95
"""Share of the conntrack table above which new connections are about to fail, and some already do."""


def causes_of_pod(facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield what is wrong with the pod, whatever connection is meant; for one, see ``can_stop_connection``."""
    if any(link.is_loopback and not link.is_up for link in facts.links):
        yield cause("lo-down", where=LOOPBACK)
    alone = unconnected_interface(facts)
    if alone is not None:
        yield cause("interface-down", "carrier", where=alone, name=alone)
    yield from (cause("interface-down", "bridged", where=name, name=name) for name in facts.bridged)
    present = ", ".join(sorted(link.name for link in facts.links if not link.is_loopback))
    for name in missing_interfaces(facts, capture):
        yield cause("interface-missing", where=name, name=name, present=present or "none")
    for each in facts.ingress_redirects:
        yield cause("ingress-filter", where=each.interface, name=each.interface, target=each.target)
    if is_nearly_full(facts.tracked, facts.max_tracked):
        kind = "conntrack-full" if facts.tracked >= facts.max_tracked else "conntrack-nearly-full"
        setting = "net.netfilter.nf_conntrack_max"
        yield cause(kind, where=setting, tracked=facts.tracked, max_tracked=facts.max_tracked)


def unjudged_programs(facts: PodFacts, traced: Trace | None = None) -> Iterator[Cause]:
    """Yield a note on each program and filter of an interface that may drop a connection; without one, any."""
    used = (LOOPBACK, traced.packet.in_interface, traced.packet.out_interface) if traced else None
    for program in facts.programs:
        name = program.interface
        if used is None or name in used:
            yield cause("unjudged", "program", where=name, name=name, what=program.kind, shown_by=program.shown_by)


def missing_interfaces(facts: PodFacts, capture: Capture) -> list[str]:
    """Return the excluded interfaces that do not exist; a pattern may be for later ones."""
    names = {link.name for link in facts.links}
    return [name for name in capture.excluded_interfaces if not name.endswith("+") and name not in names]


def can_stop_connection(pod_cause: Cause, traced: Trace | None = None) -> bool:
    """Return whether what is wrong with the pod or its proxy stops a connection; without one, whether it stops any.

    An interface that does not exist is no reason by itself: nothing comes in by it, and nothing leaves. Nor is a table
    in which there is some room yet, or a second capture that does as the first one.
    """
    if pod_cause.kind == "conntrack-nearly-full" or pod_cause.case == "alike":
        return False
    if traced is None:
        return pod_cause.kind != "interface-missing"
    interfaces = traced.packet.in_interface, traced.packet.out_interface
    if pod_cause.kind == "lo-down":
        return LOOPBACK in interfaces or traced.outcome in TO_PROXY  # and the proxy calls the app by it
    if pod_cause.kind == "ingress-filter":
        return pod_cause.where == traced.packet.in_interface
    if pod_cause.kind == "proxy-wrong-user":
        return traced.outcome != PROXY_INBOUND or traced.transparent  # else its calls to the app pass by their source
    return pod_cause.where in interfaces or (pod_cause.kind != "interface-missing" and pod_cause.case != "bridged")


def default_route_causes(facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield why outbound packets get no further. Next to IPv4, IPv6 without a default route is usual."""
    families = {address.family for address in facts.addresses}.intersection(capture.families)
    if not facts.addresses and any(link.is_up and not link.is_loopback for link in facts.links):
        yield cause("no-route", "address")
    needed = IPV4 if IPV4 in families else IPV6
    if needed in families.intersection(facts.families_without_route):
        yield no_route_cause(facts, needed)


def no_route_cause(facts: PodFacts, family: Family, address: str = "", refusal: str = "") -> Cause:
    """Return why no route leads to an address, or out of the pod: an interface is down, one refuses, there is none."""
    down = down_interface(facts)
    if down is not None:
        return cause("interface-down", where=down, name=down)
    if family in facts.families_without_route and refusal in ("", "answers"):
        return cause("no-route", "default", flag="-6 " if family == IPV6 else "", family=FAMILY_NAMES[family])
    return refusal_cause(family, address, refusal)


def refusal_cause(family: Family, address: str, refusal: str) -> Cause:
    """Return that no route leads to an address, which kind of route refuses it, or the case of this kind."""
    is_type = refusal in REFUSING_KINDS.values()
    case = "group" if refusal in GROUP_KINDS.values() else "refused" if refusal and is_type else refusal
    return cause("no-route", case, address=address, flag="-6 " if family == IPV6 else "", refusal=refusal)


def down_interface(facts: PodFacts) -> str | None:
    """Return the pod's interface if it is down. Every namespace has others that are, such as tunl0 and sit0."""
    return _pod_interface(facts, lambda link: not link.is_up)


def unconnected_interface(facts: PodFacts) -> str | None:
    """Return the pod's interface if it is up, and its other end is not."""
    return _pod_interface(facts, lambda link: link.is_up and not link.has_carrier)


def _pod_interface(facts: PodFacts, is_such: Callable[[Link], bool]) -> str | None:
    """Return the pod's interface if it is such a one; another one if all are."""
    links = [link for link in facts.links if not link.is_loopback]
    down = [link.name for link in links if is_such(link)]
    if USUAL_INTERFACE in down:
        return USUAL_INTERFACE
    return down[0] if down and len(down) == len(links) else None


def is_nearly_full(tracked: int, max_tracked: int) -> bool:
    """Return whether so many connections are tracked that new ones fail soon; not if the limit is unknown."""
    return max_tracked > 0 and tracked >= NEARLY_FULL * max_tracked


def causes_of_proxy(facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield what is wrong with the proxy: nothing listens on a port, or not as the rules expect it."""
    of_pod = {address.family for address in facts.addresses}
    if of_pod and of_pod.isdisjoint(capture.families):
        name = FAMILY_NAMES[facts.addresses[0].family]
        yield cause("family-not-captured", "pod", where=name, family=name)
    causes: list[Cause] = []
    for outcome, family, port in capture.ports:
        if outcome == DNS and family == IPV4:
            causes += causes_at_port(facts, capture, outcome, port, family, "udp")
        # What is redirected arrives at lo: without another interface, too.
        elif outcome != DNS and (family in of_pod or (not of_pod and outcome == PROXY_OUTBOUND)):
            causes += causes_at_port(facts, capture, outcome, port, family)
    yield from as_one(causes)


# --- one port ------------------------------------------------------------------------------------


def causes_at_port(
    facts: PodFacts,
    capture: Capture,
    outcome: str,
    port: int,
    family: Family,
    protocol: ProtocolName = "tcp",
    *,
    is_over_lo: bool = False,
) -> Iterator[Cause]:
    """Yield why no listener serves connections that the rules send to a port of this pod.

    ``outcome``, ``port``, ``family`` and ``protocol`` are where the rules send them.
    They arrive at the loopback address; inbound ones that do not come over lo, at an address of the pod.
    """
    if facts.listeners is None:
        return
    kind, where = CONNECTION_KINDS.get(outcome, ""), f"{protocol} port {port}"
    of_protocol = [listener for listener in facts.listeners if listener.protocol == PROTOCOL_NUMBERS[protocol]]
    on_port = [listener for listener in of_protocol if listener.port == port]
    of_family = [listener for listener in on_port if listener.takes(FAMILY_NUMBERS[family])]
    arrival = LOOPBACK_ADDRESSES.values() if is_over_lo or outcome != PROXY_INBOUND else facts.addresses
    addresses = [address for address in arrival if address.family == family]
    serving = [listener for listener in of_family if _is_bound_to_any(listener, addresses)]
    if serving:
        yield from _misconfigured_listener_causes(serving, facts, capture, outcome, port)
    elif of_family or (on_port and addresses and any(on_port[0].address)):
        yield _other_address_cause([*of_family, *on_port][0], facts, kind, addresses[0], where)
    elif on_port:
        yield _family_cause(family, where)
    else:
        ports = {each.port for each in proxy_listeners(facts, capture)}
        known = {*SIDECAR_PORTS}.difference(TRAFFIC_PORTS).union(of_rules for _, _, of_rules in capture.ports)
        case = "" if not ports else "DNS" if outcome == DNS else "other ports" if ports - known else "this port"
        case = "TPROXY" if ports and outcome == PROXY_INBOUND and capture.is_transparent else case
        words = {"others": ", ".join(map(str, sorted(ports))), "groups": ",".join(map(str, capture.gids))}
        yield cause("not-listening", case, where=where, port=where, kind=kind, **words)


def proxy_listeners(facts: PodFacts, capture: Capture) -> list[Listener]:
    """Return the listeners of TCP that the proxy's user has."""
    return [
        listener
        for listener in facts.listeners or ()
        if listener.protocol == PROTOCOL_NUMBERS["tcp"] and is_in_spans(listener.uid, capture.uids)
    ]


def app_ports(facts: PodFacts, capture: Capture) -> list[int]:
    """Return the ports of TCP on which something listens that is not the proxy."""
    others = {*(facts.listeners or ())}.difference(proxy_listeners(facts, capture))
    ports = {each.port for each in others if each.protocol == PROTOCOL_NUMBERS["tcp"]}
    return sorted(ports.difference(SIDECAR_PORTS, (port for _, _, port in capture.ports)))


def notes_on_proxy(facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield notes: one port for both directions, a proxy that is slow, listeners of its user as an app has them."""
    inbound, outbound = ({port for to, _, port in capture.ports if to == o} for o in (PROXY_INBOUND, PROXY_OUTBOUND))
    for port in inbound & outbound:
        yield cause("proxy-mode", "one port", where=f"tcp port {port}", port=port)
    of_rules = {port for _, _, port in capture.ports}
    of_tcp = [each for each in facts.listeners or () if each.protocol == PROTOCOL_NUMBERS["tcp"]]
    for listener in of_tcp:
        if listener.port in of_rules and listener.waiting and not listener.is_full:
            where, waiting = f"tcp port {listener.port}", plural(listener.waiting, "connection")
            yield cause("not-listening", "waiting", where=where, port=where, waiting=waiting)
    expected = (*of_rules, *SIDECAR_PORTS)
    of_proxy = proxy_listeners(facts, capture)
    for uid in sorted({each.uid for each in of_proxy}):
        ports = sorted({each.port for each in of_proxy if each.uid == uid}.difference(expected))
        if ports:
            yield cause("proxy-user", "listener", where=f"user {uid}", uid=uid, ports=", ".join(map(str, ports)))
    for listener in of_tcp:  # a socket of UDP may be a client's
        gid = facts.gids_by_inode.get(listener.inode)
        if is_in_spans(gid, capture.gids) and listener.port not in expected:
            yield cause(
                "proxy-user", "group", where=f"port {listener.port}", gid=gid, uid=listener.uid, port=listener.port
            )


def unreached_app_notes(traced: Trace, facts: PodFacts) -> Iterator[Cause]:
    """Yield a note if the app listens where the proxy does not call it: on an address like 127.0.0.1 alone."""
    packet = traced.packet
    on_port = [
        listener
        for listener in facts.listeners or ()
        if listener.protocol == PROTOCOL_NUMBERS[packet.protocol]
        and listener.port == packet.port
        and listener.takes(FAMILY_NUMBERS[packet.family])
    ]
    if packet.in_interface is None or not on_port:
        return
    if not any(_is_bound_to_any(each, [packet.destination]) for each in on_port):
        bound = address_text(FAMILY_BY_NUMBER[on_port[0].family], int.from_bytes(on_port[0].address, "big"))
        arrive = packet.destination.shown
        yield cause("not-listening", "app", where=f"port {packet.port}", port=packet.port, bound=bound, arrive=arrive)


def _is_bound_to_any(listener: Listener, addresses: list[Network]) -> bool:
    """Return whether a listener takes connections to one of these addresses; with none known, to whatever is there."""
    bound = int.from_bytes(listener.address, "big")
    is_over_lo = any(address in addresses for address in LOOPBACK_ADDRESSES.values())
    is_there = bound == 0 or any(address.first == bound for address in addresses)
    return not addresses or (is_there and listener.takes_over(lo=is_over_lo))


def _family_cause(family: Family, end: str) -> Cause:
    (other,) = (FAMILY_NAMES[each] for each in FAMILIES if each != family)
    alternative = ", or capture IPv4 alone: `capture apply --recorded --ip-families ipv4`" if family == IPV6 else ""
    words = {"other": other, "family": FAMILY_NAMES[family], "any_address": ANY_ADDRESS[family]}
    return cause("not-listening", "family", where=end, port=end, alternative=alternative, **words)


def _other_address_cause(listener: Listener, facts: PodFacts, kind: str, arrives_at: Network, where: str) -> Cause:
    is_elsewhere = not listener.takes_over(lo=arrives_at.is_loopback)
    interface = next((link.name for link in facts.links if is_elsewhere and link.index == listener.interface), "")
    bound = interface or address_text(FAMILY_BY_NUMBER[listener.family], int.from_bytes(listener.address, "big"))
    words = {"bound": bound, "arrive": arrives_at.shown, "any_address": ANY_ADDRESS[arrives_at.family]}
    case = "interface" if interface else "address"
    return cause("not-listening", case, where=where, port=where, kind=kind, **words)


def _misconfigured_listener_causes(
    serving: list[Listener], facts: PodFacts, capture: Capture, outcome: str, port: int
) -> Iterator[Cause]:
    """Yield in which ways a port is not served as expected: not by all its sockets, by another user, in another mode.

    Of sockets that share a port (SO_REUSEPORT) a hash chooses one, whether it is full or not.
    """
    where = f"{PROTOCOL_BY_NUMBER[serving[0].protocol]} port {port}"
    full = [each for each in serving if each.is_full]
    process = next((process for inode, process in facts.stopped_by_inode if inode in {s.inode for s in serving}), "")
    if process:
        yield cause("not-listening", "stopped", where=where, port=where, process=process)
    elif full:
        case = "full" if len(full) == len(serving) else "some full"
        waiting = plural(sum(each.waiting for each in full), "connection")
        words = {"waiting": waiting, "full": len(full), "sockets": len(serving)}
        yield cause("not-listening", case, where=where, port=where, **words)
    if all(_is_captured(each, facts, capture, outcome) for each in serving):
        yield _wrong_user_cause(serving[0], facts, capture, where)
    if outcome == PROXY_INBOUND and all(each.transparent != capture.is_transparent for each in serving):
        mode, other = MODES[capture.is_transparent], MODES[not capture.is_transparent]
        kind = "not transparent" if capture.is_transparent else "transparent"
        yield cause("proxy-mode", where=where, port=port, mode=mode, other=other, kind=kind)


def _wrong_user_cause(listener: Listener, facts: PodFacts, capture: Capture, where: str) -> Cause:
    """Return that the owner of a listener is captured."""
    uids, groups = (",".join(map(str, spans)) for spans in (capture.uids, capture.gids))
    group = f"group {facts.gids_by_inode[listener.inode]}" if listener.inode in facts.gids_by_inode else "another group"
    # The calls of a transparent proxy to the app and to its own pod differ by the user alone.
    case = "" if not capture.is_transparent else "root" if is_in_spans(listener.uid, capture.uids) else "TPROXY"
    words = {"port": where, "uid": listener.uid, "expected": uids, "group": group, "groups": groups}
    return cause("proxy-wrong-user", case, where=where, **words)


def _is_captured(listener: Listener, facts: PodFacts, capture: Capture, outcome: str) -> bool:
    """Return whether the listener's own connections, of TPROXY those to the app, are captured, and come back to it."""
    if outcome == PROXY_INBOUND and capture.is_transparent and is_in_spans(listener.uid, capture.uids):
        return listener.transparent
    if outcome == PROXY_INBOUND and not (capture.is_transparent or capture.captures(PROXY_OUTBOUND)):
        return False  # to the app it calls from an address that is left out for every user
    gid = facts.gids_by_inode.get(listener.inode)
    if gid is None and listener.uid == 0 and capture.is_transparent:
        return False  # Istio's way for TPROXY is root with the proxy's group, which only the process' own /proc tells
    return not is_in_spans(listener.uid, capture.uids) and not is_in_spans(gid, capture.gids)
