"""What becomes of a packet: its outcome, which a redirect means by the chain it is in, and all else that is noticed."""

from __future__ import annotations

from capture.analysis.meaning import RedirectOfDns
from capture.model import ruleset as model
from capture.model.chain_names import DASH, UNDERSCORE, is_own_chain
from capture.model.conventions import AGENT_DNS_PORT
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from capture.model.addresses import Network

    Outcome = Literal["direct", "proxy-outbound", "proxy-inbound", "dns", "dropped", "redirected", "no-route"]
else:
    Outcome = str

Reason = tuple[int, str]
"""A rule or policy in words, by which packets fare as they do; it yields to one of a higher rank."""

PROXY_OUTBOUND: Outcome = "proxy-outbound"
PROXY_INBOUND: Outcome = "proxy-inbound"
DNS: Outcome = "dns"
TO_PROXY = (PROXY_OUTBOUND, PROXY_INBOUND, DNS)

REDIRECTED_BY: dict[str, Outcome] = {
    name: outcome
    for names in (UNDERSCORE, DASH)
    for name, outcome in ((names.redirect, PROXY_OUTBOUND), (names.in_redirect, PROXY_INBOUND), (names.output_dns, DNS))
}
"""The outcome of a redirect, by our chain that it is in."""


def redirect_outcome(chain: str, verdict: model.Redirect | model.TransparentProxy, ruleset: model.Ruleset) -> Outcome:
    """Return the outcome of a redirect: that of our chain that it is in, else of our chain that redirects to its port.

    Older upstream had no chain for DNS.
    """
    if chain in REDIRECTED_BY:
        return REDIRECTED_BY[chain]
    if isinstance(verdict, model.TransparentProxy) and is_own_chain(chain):
        return PROXY_INBOUND
    for name, outcome in REDIRECTED_BY.items():
        own = ruleset.chain(model.NAT, name)
        if own is not None and any(rule.verdict == model.Redirect(verdict.port) for rule in own.rules):
            return outcome
    return DNS if isinstance(verdict, RedirectOfDns) and verdict.port == AGENT_DNS_PORT else "redirected"


class Fate(Value):
    """All that a packet and its connection notice of rules.

    ``port`` and ``address`` are None where they stay what the packet is addressed to. ``is_marked`` is whether a
    mark of TPROXY leads the packet, or a later one of its connection, to the proxy. ``interface`` is the one by
    which another mark lets it leave; None where it leaves as it was to. ``reason`` is None where none is looked for.
    """

    outcome: Outcome
    port: int | None = None
    address: Network | None = None
    is_marked: bool = False
    interface: str | None = None
    reason: Reason | None = None


class PendingFate(Value):
    """The decisions about a packet so far: what nat translated it to, and what TPROXY sends it to."""

    translated: Fate | None = None
    transparent: Fate | None = None
    is_moved: bool = False
    """Whether nat sent it to another address."""
    interface: str | None = None
    """The interface by which a changed mark lets it leave."""

    @property
    def is_redirected(self) -> bool:
        """Return whether nat sent it to a port of the pod."""
        return self.translated is not None and self.translated.outcome != "direct"
