"""Why a connection does not reach a proxy that listens: causes, each with what to do about it. Pure.

A cause is looked for where a packet's way may break::

    address, route -> rules (own, foreign) -> a filter after the redirect -> a listener: port, family, user, mode

Causes of the whole pod (``lo`` down, a full conntrack table, a missing interface) come first.
"""

from __future__ import annotations

from capture.model.addresses import FAMILIES, FAMILY_NAMES, IPV4, IPV6, address_text, parse_address
from capture.model.values import Value
from capture.netlink.rtnetlink import AF_INET, AF_INET6
from capture.netlink.sock_diag import IPPROTO_TCP, IPPROTO_UDP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from capture.model.addresses import Family, Network
    from capture.model.ruleset import Span
    from capture.netlink.interfaces import Link
    from capture.netlink.sock_diag import Listener

    Kind = Literal[
        "no-rules", "rule-missing", "foreign-rule", "second-set", "nat-first", "excluded", "proxy-user",
        "proxy-wrong-user", "proxy-mode", "not-listening", "filtered", "family-not-captured", "dns-not-captured",
        "not-tcp", "no-route", "route-missing", "policy-route", "sysctl", "lo-down", "interface-missing", "left-alone",
        "translated-before", "conntrack-full", "privileged", "ingress-filter",
    ]  # fmt: skip

LOOPBACKS = (parse_address("127.0.0.1"), parse_address("::1"))
AF: dict[Family, int] = {IPV4: AF_INET, IPV6: AF_INET6}
PORT_OF = {"proxy-outbound": "outbound", "proxy-inbound": "inbound", "dns": "DNS"}
NEARLY_FULL = 0.95
"""Of the conntrack table: above it new connections are about to fail, and some already do."""


class Cause(Value):
    """One reason: its kind, the fault in words, what to do about it, and where it is (a rule, a port, a setting)."""

    kind: Kind
    says: str
    remedy: str
    where: str = ""


class Capture(Value):
    """What the rules expect of the proxy: ports, the users that are not captured, and the mode."""

    outbound_port: int
    inbound_port: int
    dns_port: int | None
    uids: tuple[Span, ...]
    gids: tuple[Span, ...]
    is_transparent: bool
    families: tuple[Family, ...]
    excluded_interfaces: tuple[str, ...] = ()


class PodFacts(Value):
    """The facts of a namespace other than its rules.

    ``listeners`` is None where the kernel does not list them. ``gid_of`` has the group of the process behind a
    listener whose user is not the proxy's. ``tracked`` and ``max_tracked`` count connections; 0 is unknown.
    """

    links: tuple[Link, ...]
    addresses: tuple[Network, ...]
    listeners: tuple[Listener, ...] | None
    gid_of: dict[int, int]
    tracked: int = 0
    max_tracked: int = 0
    diverted: tuple[tuple[str, str], ...] = ()
    """Pairs of interfaces: what comes in by the first, filters send to the second, before any rule."""


# --- the whole pod -------------------------------------------------------------------------------


def causes_of_pod(facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield what is wrong with the pod, whatever connection is meant."""
    names = {link.name for link in facts.links}
    if any(link.is_loopback and not link.is_up for link in facts.links):
        yield Cause(
            "lo-down",
            "the interface lo is down: redirected connections are delivered over it",
            "Set it up: `ip link set lo up` in the pod's namespace; the loopback CNI plugin does that.",
            "lo",
        )
    for name in capture.excluded_interfaces:
        if not name.endswith("+") and name not in names:
            yield Cause(
                "interface-missing",
                f"the excluded interface {name} does not exist; there are: {', '.join(sorted(names))}",
                "Correct --istio-exclude-interfaces, or the annotation excludeInterfaces.",
                name,
            )
    for name, target in facts.diverted:
        yield Cause(
            "ingress-filter",
            f"a filter (tc) sends what comes in by {name} to {target}, before any rule: so does Kata Containers, whose"
            " pods have a network stack in a virtual machine",
            "Leave the pod out of the mesh, or run it with a runtime that uses the pod's network namespace.",
            name,
        )
    if is_nearly_full(facts.tracked, facts.max_tracked):
        yield Cause(
            "conntrack-full",
            f"the conntrack table is full: {facts.tracked} of {facts.max_tracked} connections",
            "Raise net.netfilter.nf_conntrack_max on the node; a captured connection takes two entries.",
            "net.netfilter.nf_conntrack_max",
        )


def is_nearly_full(tracked: int, max_tracked: int) -> bool:
    """Return whether so many connections are tracked that new ones fail soon; not if the limit is unknown."""
    return max_tracked > 0 and tracked >= NEARLY_FULL * max_tracked


def causes_of_proxy(facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield what is wrong with the proxy: nothing listens on a port, or not as the rules expect it."""
    if facts.addresses and not any(address.family in capture.families for address in facts.addresses):
        name = FAMILY_NAMES[facts.addresses[0].family]
        yield Cause(
            "family-not-captured",
            f"the pod has {name} addresses only, and {name} is not captured",
            "Apply with --ip-families both, or --dual-stack; the proxy must listen on it, too.",
            name,
        )
    for family in capture.families:
        if any(address.family == family for address in facts.addresses):
            for outcome, port in (("proxy-outbound", capture.outbound_port), ("proxy-inbound", capture.inbound_port)):
                yield from causes_at_port(facts, capture, outcome, port, family)
    if capture.dns_port is not None:
        yield from causes_at_port(facts, capture, "dns", capture.dns_port, IPV4, IPPROTO_UDP)


# --- one port ------------------------------------------------------------------------------------


def causes_at_port(  # what arrives where; the last ones are mostly as they are
    facts: PodFacts,
    capture: Capture,
    outcome: str,
    port: int,
    family: Family,
    protocol: int = IPPROTO_TCP,
    *,
    is_over_lo: bool = False,
) -> Iterator[Cause]:
    """Yield why what the rules send to a port of this pod is not served there.

    It arrives at the loopback address; inbound connections that do not come over lo, at an address of the pod.
    """
    if facts.listeners is None:
        return
    on_port = [each for each in facts.listeners if (each.protocol, each.port) == (protocol, port)]
    of_family = [each for each in on_port if each.takes(AF[family])]
    where = LOOPBACKS if is_over_lo or outcome != "proxy-inbound" else facts.addresses
    addresses = [address for address in where if address.family == family]
    serving = [each for each in of_family if _is_bound_to_any(each, addresses)]
    if not serving and of_family:
        yield _bound_elsewhere(of_family[0], outcome, port, addresses)
        return
    if not serving:
        own = {each.port for each in facts.listeners if each.protocol == protocol and among(each.uid, capture.uids)}
        yield _not_listening(on_port, outcome, port, family, protocol, sorted(own))
        return
    if all(_is_captured(each, facts, capture) for each in serving):
        yield _wrong_user(serving[0], capture, port)
    if outcome == "proxy-inbound" and all(each.transparent != capture.is_transparent for each in serving):
        yield _wrong_mode(capture, port)


def _not_listening(
    on_port: list[Listener], outcome: str, port: int, family: Family, protocol: int, own: list[int]
) -> Cause:
    """Return why a port is not served; ``own`` are the ports on which the proxy's user listens."""
    name, where = FAMILY_NAMES[family], f"{'udp' if protocol == IPPROTO_UDP else 'tcp'} port {port}"
    if on_port:
        other = FAMILY_NAMES[next(each for each in FAMILIES if each != family)]
        says = f"the listener on {where} takes {other} only, and {name} is captured, too"
        remedy = f"Let the proxy listen on {'::' if family == IPV6 else '0.0.0.0'} as well, or capture {other} only."
    else:
        says = f"no process listens on {where}, to which {PORT_OF.get(outcome, '')} connections are sent"
        remedy = "Start the proxy, or look why it ended: kubectl logs POD -c istio-proxy."
        if own:
            says += f"; the proxy's user listens on {', '.join(map(str, own))}"
            remedy = "Apply the rules with the proxy's ports (-p, -z), or look at kubectl logs POD -c istio-proxy."
    return Cause("not-listening", says, remedy, where)


def _is_bound_to_any(listener: Listener, addresses: list[Network]) -> bool:
    """Return whether a listener takes connections to one of these addresses; with none known, to whatever is there."""
    bound = int.from_bytes(listener.address, "big")
    return bound == 0 or not addresses or any(address.first == bound for address in addresses)


def _bound_elsewhere(listener: Listener, outcome: str, port: int, addresses: list[Network]) -> Cause:
    family = IPV4 if listener.family == AF_INET else IPV6
    bound = address_text(family, int.from_bytes(listener.address, "big"))
    arrive = address_text(addresses[0].family, addresses[0].first)
    return Cause(
        "not-listening",
        f"the listener on tcp port {port} is bound to {bound}, and {PORT_OF.get(outcome, '')} connections"
        f" arrive at {arrive}",
        f"Let the proxy listen on {'0.0.0.0' if family == IPV4 else '::'}.",
        f"tcp port {port}",
    )


def _is_captured(listener: Listener, facts: PodFacts, capture: Capture) -> bool:
    """Return whether what the listener's process sends is captured, and so comes back to it for ever."""
    gid = facts.gid_of.get(listener.inode)
    if gid is None and listener.uid == 0 and capture.is_transparent:
        return False  # Istio's way for TPROXY is root with the proxy's group, which only the process' own /proc tells
    return not among(listener.uid, capture.uids) and not (gid is not None and among(gid, capture.gids))


def _wrong_user(listener: Listener, capture: Capture, port: int) -> Cause:
    expected = ",".join(map(str, capture.uids))
    remedy = f"Run the proxy as user {expected} (runAsUser), or apply the rules with --proxy-uid {listener.uid}."
    if capture.is_transparent:  # its calls to the app and to its own pod differ by the user alone
        groups = ",".join(map(str, capture.gids))
        remedy = f"Run the proxy as root with group {groups} (runAsUser: 0, runAsGroup: {groups})."
    return Cause(
        "proxy-wrong-user",
        f"the listener on port {port} runs as user {listener.uid}, and the rules leave out user {expected}:"
        " what the proxy sends is captured again",
        remedy,
        f"tcp port {port}",
    )


def _wrong_mode(capture: Capture, port: int) -> Cause:
    mode, other = ("TPROXY", "REDIRECT") if capture.is_transparent else ("REDIRECT", "TPROXY")
    return Cause(
        "proxy-mode",
        f"the rules use {mode}, and the listener on port {port} is configured for {other}"
        f" ({'not ' if capture.is_transparent else ''}transparent)",
        f"Configure the proxy for {mode}, or apply the rules with -m {other}: annotation"
        " sidecar.istio.io/interceptionMode sets both.",
        f"tcp port {port}",
    )


def among(number: int | None, spans: tuple[Span, ...]) -> bool:
    """Return whether a user or group is one of these."""
    return number is not None and any(span.first <= number <= span.last for span in spans)
