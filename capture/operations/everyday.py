"""Connections that every pod has, by which a whole pod is diagnosed, and what the proxy sends on."""

from __future__ import annotations

from capture.analysis.causes import Cause
from capture.analysis.connection import TO_PROXY, dropped
from capture.analysis.filters import filtered
from capture.backends.iptables.render import rule_text
from capture.backends.nftables.foreign import read_filters
from capture.model.addresses import IPV4, parse_address
from capture.model.packet import Packet
from capture.operations.tracing import trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.causes import Capture, PodFacts
    from capture.analysis.trace import Trace
    from capture.model.addresses import Family
    from capture.model.ruleset import Rule

SOMEWHERE = (parse_address("203.0.113.7"), parse_address("2001:db8::7"))
"""Outside, in each family (RFC 5737, RFC 3849)."""
APP, HTTP = 1000, 80
"""A user who is not the proxy, and a port that few settings leave out."""


def filtered_connections(facts: PodFacts) -> Iterator[Cause]:
    """Yield which filters drop what the rules send to the proxy, of the connections that every pod has."""
    filters = read_filters()
    if not filters:
        return
    for packet in _everyday(facts):
        live = trace(packet)
        found = filtered(live, filters) if live.outcome in TO_PROXY else None
        if found is not None:
            yield dropped(found)


def _everyday(facts: PodFacts) -> Iterator[Packet]:
    """Yield a packet to the outside and one that comes in, for each family that the pod has addresses of."""
    interface = next((link.name for link in facts.links if not link.is_loopback), None)
    for outside in SOMEWHERE:
        own = next((each for each in facts.addresses if each.family == outside.family), None)
        if own is not None:
            yield Packet("tcp", outside, HTTP, uid=APP, gid=APP)
            if interface is not None:
                yield Packet("tcp", own, HTTP, source=outside, source_port=45000, in_interface=interface)


def circle(live: Trace, capture: Capture) -> Iterator[Cause]:
    """Yield a cause if what the proxy sends on would come back to it: the rule that leaves it out has no effect."""
    if live.outcome != "proxy-outbound" or not capture.uids or not capture.gids:
        return
    uid, gid = capture.uids[0].first, capture.gids[0].first
    if trace(live.packet.replace(uid=uid, gid=gid)).outcome == "proxy-outbound":
        yield Cause(
            "rule-missing",
            f"what the proxy sends on (user {uid}) is captured again, and comes back to it for ever",
            "Run `capture apply` again, or recreate the pod; `capture verify` has the rule that is missing.",
        )


def rule_of(rule: Rule | None, family: Family = IPV4) -> str:
    """Return a rule in the words of iptables-save; of none, the policy."""
    if rule is None:
        return "the policy DROP"
    try:
        return rule_text(rule.replace(family=family, why=""))
    except ValueError as error:
        return str(error)
