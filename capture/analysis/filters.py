"""What filters do with a connection after our rules have sent it to a port of this pod. Pure.

::

    outbound   nat OUTPUT: redirect -> filter OUTPUT (still by eth0) -> filter INPUT (from lo) -> the proxy
    inbound    nat PREROUTING: redirect -> filter INPUT (from eth0) -> the proxy

A reject counts as a drop: in neither case the proxy sees the connection.
"""

from __future__ import annotations

from capture.analysis.trace import trace
from capture.model.addresses import FAMILIES, parse_address
from capture.model.packet import LOOPBACK
from capture.model.ruleset import INPUT, OUTPUT, PREROUTING, Drop, Ruleset, UnknownVerdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.analysis.foreign import ForeignChain
    from capture.analysis.trace import Trace
    from capture.model.packet import Packet
    from capture.model.ruleset import Rule, Table

NO_RULES = Ruleset(FAMILIES, ())
LOCALHOST = {"ipv4": parse_address("127.0.0.1"), "ipv6": parse_address("::1")}
AFTER_NAT = -100
"""The priority of nat: what comes later sees the packet as it was redirected (linux/netfilter_ipv4.h)."""


def filtered(live: Trace, filters: Iterable[ForeignChain]) -> Trace | None:
    """Return how a filter drops what the rules send to the proxy; None where none does."""
    for chain in filters:
        packet = _as_seen(chain, live)
        if packet is not None and packet.family in chain.families:
            judged = trace(NO_RULES, packet, (_as_judged(chain),))
            if judged.outcome == "dropped":
                return judged
    return None


def _as_seen(chain: ForeignChain, live: Trace) -> Packet | None:
    """Return the redirected packet as it comes to the chain; None if it does not come there."""
    packet = live.packet
    is_outbound = packet.in_interface is None
    destination = LOCALHOST[packet.family] if is_outbound and not live.transparent else packet.destination
    port = packet.port if live.transparent else live.port
    if chain.hook == OUTPUT:
        if not is_outbound or chain.priority <= AFTER_NAT:
            return None
        # It is routed anew, but the hooks that follow still see the interface that it was to leave by
        # (nf_nat_ipv4_local_fn in net/netfilter/nf_nat_proto.c does not change state->out).
        return packet.replace(destination=destination, port=port)
    inbound = packet.replace(destination=destination, port=port, uid=None, gid=None, out_interface=None)
    return inbound.replace(in_interface=LOOPBACK) if is_outbound else inbound


def _as_judged(chain: ForeignChain) -> ForeignChain:
    """Return the chain at a hook that ``trace`` knows, with rejects as drops."""
    contents: Table = chain.contents
    chains = tuple(each.replace(rules=tuple(map(_without_reject, each.rules))) for each in contents.chains)
    hook = PREROUTING if chain.hook == INPUT else chain.hook
    return chain.replace(hook=hook, contents=contents.replace(chains=chains))


def _without_reject(rule: Rule) -> Rule:
    verdict = rule.verdict
    is_reject = isinstance(verdict, UnknownVerdict) and "reject" in verdict.text.lower()
    return rule.replace(verdict=Drop()) if is_reject else rule
