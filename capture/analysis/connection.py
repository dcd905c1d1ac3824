"""Why one connection does not reach the proxy, judged by its way through the rules. Pure."""

from __future__ import annotations

from capture.analysis.canonical import canonical_rule
from capture.analysis.cause_texts import cause
from capture.analysis.causes import among, causes_at_port, down_interface, no_way_out
from capture.analysis.meaning import Untrack, meaning
from capture.model.addresses import FAMILY_NAMES, address_text
from capture.model.chain_names import is_our_chain
from capture.model.ruleset import TABLES
from capture.model.values import Value
from capture.netlink.sock_diag import IPPROTO_TCP, IPPROTO_UDP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.analysis.cause_texts import Cause
    from capture.analysis.causes import Capture, PodFacts
    from capture.analysis.trace import Step, Trace
    from capture.model.addresses import Family
    from capture.model.ruleset import Rule

    TextOf = Callable[[Rule, Family], str]

DNS_PORT = 53
TO_PROXY = ("proxy-outbound", "proxy-inbound", "dns")


class Ways(Value):
    """The way of a connection by the live rules, and by the recorded ones where there is a record."""

    live: Trace
    desired: Trace | None
    has_route: bool = True


def causes_of_connection(ways: Ways, facts: PodFacts, capture: Capture, text_of: TextOf) -> Iterator[Cause]:
    """Yield why the connection does not reach a proxy that listens; none where it does. ``text_of`` words rules."""
    live, packet, step = ways.live, ways.live.packet, ways.live.step
    is_own = step is not None and is_our_chain(step.chain)
    if not ways.has_route:
        yield no_way_out(facts, packet.family, address_text(packet.family, packet.destination.first))
    elif packet.in_interface is not None and packet.in_interface == down_interface(facts):
        yield cause("interface-down", packet.in_interface, name=packet.in_interface)
    elif live.outcome == "direct":
        yield _why_direct(ways, capture)
    elif live.outcome == "dropped":
        yield dropped(live, text_of)
    elif step is not None and is_own and (step.table not in TABLES or live.outcome not in TO_PROXY):
        yield cause("second-set: decides", place_of(step), port=live.port)
    elif live.outcome in TO_PROXY:
        protocol, is_over_lo = IPPROTO_UDP if packet.protocol == "udp" else IPPROTO_TCP, packet.in_interface is None
        yield from causes_at_port(
            facts, capture, live.outcome, live.port, packet.family, protocol, is_over_lo=is_over_lo
        )
    else:
        yield cause("nat-first: port", place_of(step), port=live.port)


def _why_direct(ways: Ways, capture: Capture) -> Cause:
    """Return why the packet bypasses the proxy."""
    packet, step = ways.live.packet, ways.live.step
    untracked = next((each for each in ways.live.path if isinstance(meaning(each.rule), Untrack)), None)
    if untracked is not None and not is_own(untracked):
        return cause("foreign-rule: untracked", place_of(untracked))
    if step is not None and not is_own(step) and not _is_desired(step, ways.desired):
        return _foreign(ways.live, step)
    if packet.protocol != "tcp":
        return cause("dns-not-captured") if packet.port == DNS_PORT else cause("not-tcp", protocol=packet.protocol)
    if packet.family not in capture.families:
        name = FAMILY_NAMES[packet.family]
        return cause("family-not-captured", name, family=name)
    if ways.desired is not None and ways.desired.outcome in TO_PROXY:
        return cause("rule-missing", place_of(ways.desired.step), outcome=ways.desired.outcome)
    if among(packet.uid, capture.uids) or among(packet.gid, capture.gids):
        return cause("proxy-user", uid=packet.uid, gid=packet.gid)
    if step is None:
        return cause("excluded: no rule")
    return cause("excluded", place_of(step), reason=f": {step.rule.why}" if step.rule.why else "")


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


def _foreign(live: Trace, step: Step) -> Cause:
    if live.address is None:
        return cause("foreign-rule", place_of(step))
    return cause(
        "nat-first", place_of(step), address=address_text(live.address.family, live.address.first), port=live.port
    )


def dropped(live: Trace, text_of: TextOf) -> Cause:
    """Return why a packet is dropped: by the settings, or by a foreign rule or policy."""
    step, policy = live.step, live.policy
    if step is not None and live.rerouted is not None:
        words = step.rule.why or text_of(step.rule, live.packet.family)
        return cause("rerouted", place_of(step), mark=live.mark, rule=live.rerouted.words, words=words)
    if step is not None and is_own(step):
        return cause("excluded: drop", place_of(step), reason=step.rule.why or "by its settings")
    if step is not None:
        words = step.rule.why or text_of(step.rule, live.packet.family)
        return cause("filtered", place_of(step), filter=f"a foreign rule drops the packet: {words}")
    if policy is not None:
        says = "no rule accepts the packet, and the policy of a foreign chain is DROP"
        return cause("filtered", f"{policy.table} {policy.entry.name}", filter=says)
    return cause("filtered", filter="a foreign rule or policy drops the packet")


def place_of(step: Step | None) -> str:
    """Return where a rule is; nothing for none."""
    return f"{step.table} {step.chain}, rule {step.position}" if step else ""
