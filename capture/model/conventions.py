"""Numbers on which proxy, agent and capture agree, and which no option changes (Istio's design of DNS and TPROXY)."""

from __future__ import annotations

from capture.model.addresses import IPV4, IPV6, Network

DNS_PORT = 53
AGENT_DNS_PORT = 15053
"""Where the agent next to the proxy answers DNS."""
PROXY_TO_SELF_MARK = 1338
"""0x53a, of what a transparent proxy sends to its own pod: with the proxy's own mark it would not come in."""
PASSTHROUGH_SOURCE = {IPV4: Network(IPV4, 0x7F000006, 32), IPV6: Network(IPV6, 6, 128)}
"""127.0.0.6 and ::6: the address from which the proxy calls the app for connections it passes through unchanged."""
