"""Why one connection does not reach the proxy, judged by its way through the rules. Pure."""

from __future__ import annotations

from capture.analysis.canonical import canonical_rule
from capture.analysis.causes import Cause, among, causes_at_port
from capture.analysis.meaning import Untrack, meaning
from capture.model.addresses import FAMILY_NAMES, address_text
from capture.model.chain_names import is_our_chain
from capture.model.ruleset import TABLES
from capture.model.values import Value
from capture.netlink.sock_diag import IPPROTO_TCP, IPPROTO_UDP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.causes import Capture, PodFacts
    from capture.analysis.trace import Step, Trace
    from capture.model.packet import Packet

DNS_PORT = 53
TO_PROXY = ("proxy-outbound", "proxy-inbound", "dns")


class Ways(Value):
    """The way of a connection by the live rules, and by the recorded ones where there is a record."""

    live: Trace
    desired: Trace | None
    has_route: bool = True


def causes_of_connection(ways: Ways, facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield why the connection does not reach a proxy that listens; none where it does."""
    live = ways.live
    if not ways.has_route:
        yield _no_route(live.packet)
    elif live.outcome in TO_PROXY and live.step is not None and is_of_second_set(live.step):
        yield _second_set(live)
    elif live.outcome in TO_PROXY:
        protocol = IPPROTO_UDP if live.packet.protocol == "udp" else IPPROTO_TCP
        over_lo = live.packet.in_interface is None
        yield from causes_at_port(
            facts, capture, live.outcome, live.port, live.packet.family, protocol, is_over_lo=over_lo
        )
    elif live.outcome == "direct":
        yield _why_direct(ways, capture)
    elif live.outcome == "dropped":
        yield dropped(live)
    elif live.step is not None and is_our_chain(live.step.chain):
        yield _second_set(live)
    else:
        yield _redirected(live)


def _no_route(packet: Packet) -> Cause:
    family = FAMILY_NAMES[packet.family]
    return Cause(
        "no-route",
        f"the pod has no route to {address_text(packet.family, packet.destination.first)}:"
        " the connection fails before any rule decides",
        f"Look at `ip {'-6 ' if packet.family == 'ipv6' else ''}route` in the pod's namespace; is it an {family} pod?",
    )


def _why_direct(ways: Ways, capture: Capture) -> Cause:
    """Return why the packet bypasses the proxy."""
    packet, step = ways.live.packet, ways.live.step
    untracked = next((each for each in ways.live.path if isinstance(meaning(each.rule.verdict), Untrack)), None)
    if untracked is not None and not is_own(untracked):
        return _untracked(untracked)
    if step is not None and not is_own(step) and not _is_desired(step, ways.desired):
        return _foreign(ways.live, step)
    if packet.protocol != "tcp":
        return _not_tcp(packet)
    if packet.family not in capture.families:
        return _family(packet)
    if ways.desired is not None and ways.desired.outcome in TO_PROXY:
        return _rule_missing(ways.desired)
    if among(packet.uid, capture.uids) or among(packet.gid, capture.gids):
        return _of_proxy(packet)
    return _excluded(step)


def is_own(step: Step) -> bool:
    """Return whether a rule is in one of our chains, or leads into one."""
    target = getattr(step.rule.verdict, "chain", "")
    return step.table in TABLES and (is_our_chain(step.chain) or is_our_chain(target))


def _is_desired(step: Step, desired: Trace | None) -> bool:
    """Return whether the desired rules decide by the same rule, which need not be in one of our chains."""
    return (
        desired is not None
        and desired.step is not None
        and canonical_rule(desired.step.rule) == canonical_rule(step.rule)
    )


def is_of_second_set(step: Step) -> bool:
    """Return whether a rule is in one of our chains, in tables where the capture is not."""
    return step.table not in TABLES and is_our_chain(step.chain)


def _second_set(live: Trace) -> Cause:
    return Cause(
        "second-set",
        f"a second set of capture rules decides first, and sends the connection to port {live.port}",
        "Run `capture apply` again: it removes every set but the one it writes.",
        place_of(live.step) if live.step is not None else "",
    )


def _foreign(live: Trace, step: Step) -> Cause:
    where = address_text(live.address.family, live.address.first) if live.address else ""
    does = f"sends the connection to {where} port {live.port}" if where else "lets the connection bypass the proxy"
    return Cause(
        "nat-first" if where else "foreign-rule",
        f"a foreign rule decides before ours, and {does}",
        "Remove the rule, or let its program put it behind ours. `capture trace` shows the whole way.",
        place_of(step),
    )


def _untracked(step: Step) -> Cause:
    return Cause(
        "foreign-rule",
        "a foreign rule keeps the connection out of connection tracking, and nat rules see tracked connections only",
        "Remove the rule, or restrict it to what it is for: node-local DNS caches write such rules.",
        place_of(step),
    )


def _not_tcp(packet: Packet) -> Cause:
    if packet.port == DNS_PORT:
        return Cause(
            "dns-not-captured",
            "DNS is not captured: the look-up goes to the name server directly",
            "Apply with --redirect-dns, or set ISTIO_META_DNS_CAPTURE=true in the proxy's environment"
            " (proxyMetadata in proxy.istio.io/config).",
        )
    return Cause(
        "not-tcp",
        f"only TCP is captured (and DNS, if that is on), and this is {packet.protocol}",
        "Nothing to do; a NetworkPolicy can forbid what must not bypass the proxy.",
    )


def _family(packet: Packet) -> Cause:
    name = FAMILY_NAMES[packet.family]
    return Cause(
        "family-not-captured",
        f"{name} is not captured in this pod",
        "Apply with --ip-families both, or --dual-stack; the proxy must listen on it, too.",
        name,
    )


def _rule_missing(desired: Trace) -> Cause:
    return Cause(
        "rule-missing",
        f"the recorded rules send the connection to the proxy ({desired.outcome}), the live ones do not",
        "Run `capture verify` for what is missing; run `capture apply` again, or recreate the pod.",
        place_of(desired.step) if desired.step is not None else "",
    )


def _of_proxy(packet: Packet) -> Cause:
    return Cause(
        "proxy-user",
        f"the connection comes from the proxy's user or group (user {packet.uid}, group {packet.gid}),"
        " which is never captured",
        "If this is the application: run it as another user and group than the proxy.",
    )


def _excluded(step: Step | None) -> Cause:
    if step is None:
        return Cause(
            "excluded",
            "no rule of the capture is about this connection",
            "Look at `capture explain` for what is captured, and at the settings of the pod.",
        )
    reason = f": {step.rule.why}" if step.rule.why else ""
    return Cause(
        "excluded",
        f"the settings leave this connection out{reason}",
        "Change the option or annotation behind that rule, if it should be captured; `capture explain` lists them.",
        place_of(step),
    )


def dropped(live: Trace) -> Cause:
    """Return why a packet is dropped: by the settings, or by a foreign rule or policy."""
    step = live.step
    if step is not None and is_own(step):
        return Cause(
            "excluded",
            f"a rule of the capture drops the packet: {step.rule.why or 'by its settings'}",
            "Look at --drop-invalid and at the mode; `capture explain` lists what is dropped.",
            place_of(step),
        )
    if step is not None:
        says, where = f"a foreign rule drops the packet{f': {step.rule.why}' if step.rule.why else ''}", place_of(step)
    elif live.policy is not None:
        where = f"{live.policy.table} {live.policy.entry.name}"
        says = "no rule accepts the packet, and the policy of a foreign chain is DROP"
    else:
        says, where = "a foreign rule or policy drops the packet", ""
    return Cause(
        "filtered",
        says,
        "Remove or relax it: NetworkPolicy agents and firewalls in the pod's namespace write such rules.",
        where,
    )


def _redirected(live: Trace) -> Cause:
    return Cause(
        "nat-first",
        f"a foreign rule translates the destination first, to port {live.port}; the first NAT mapping wins",
        "Remove the rule, or let its program put it behind ours.",
        place_of(live.step) if live.step is not None else "",
    )


def place_of(step: Step) -> str:
    """Return where a rule is."""
    return f"{step.table} {step.chain}, rule {step.position}"
