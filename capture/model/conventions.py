"""Numbers on which kernel, proxy, agent and capture agree, and sentences that several of our programs print."""

from __future__ import annotations

from capture.model.addresses import IPV4, IPV6, Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model.ruleset import ProtocolName

IPPROTO_TCP, IPPROTO_UDP = 6, 17  # linux/in.h
PROTOCOL_NUMBERS: dict[ProtocolName, int] = {"tcp": IPPROTO_TCP, "udp": IPPROTO_UDP}
PROTOCOL_BY_NUMBER: dict[int, ProtocolName] = {number: name for name, number in PROTOCOL_NUMBERS.items()}
MAX_PORT = 0xFFFF
SSH_PORT = 22
PROXY_ID, APP_ID = 1337, 1000
"""The usual user and group of the proxy, and those of an app in examples."""
MAX_ID = 0xFFFF_FFFE
"""The highest user or group id; 2**32 - 1 means "no id" (credentials(7), chown(2))."""
INTERFACE_NAME_SIZE = 16
"""IFNAMSIZ in linux/if.h, with the closing zero."""
MAX_INTERFACE_BYTES = INTERFACE_NAME_SIZE - 1

ADDRESS_TYPES = (
    *("unspec", "unicast", "local", "broadcast", "anycast", "multicast"),
    *("blackhole", "unreachable", "prohibit", "throw", "nat", "xresolve"),
)
"""What filters call an address by the kind of its route (linux/rtnetlink.h, RTN_*), in the order of the numbers."""

SIDECAR_PORTS = range(15000, 15100)
"""Where Envoy and Istio's agent listen: for captured traffic, DNS, probes and metrics, and for commands."""
TRAFFIC_PORTS = (15001, 15006)
"""Of these, where Istio's Envoy takes captured connections: outbound and inbound ones."""

STATUS_PORT, HEALTH_PORT, METRICS_PORT = 15020, 15021, 15090
"""Inbound ports of the proxy itself, left alone by default: metrics of the agent, health, metrics of Envoy."""

# Istio's design of DNS and TPROXY
DNS_PORT = 53
AGENT_DNS_PORT = 15053
"""The port on which the agent next to the proxy answers DNS."""
ISTIO_MARK, ISTIO_ROUTE_TABLE = 1337, 133
"""The defaults for the mark of a transparent proxy, and for the table with its routes."""
PROXY_TO_SELF_MARK = 1338
"""0x53a marks what a transparent proxy sends to its own pod; with the proxy's own mark it would not come in."""
PASSTHROUGH_SOURCE = {IPV4: Network(IPV4, 0x7F000006, 32), IPV6: Network(IPV6, 6, 128)}
"""127.0.0.6 and ::6: the address from which the proxy calls the app for connections it passes through unchanged."""

NOTHING_APPLIED = "nothing is applied here: the namespace has no rules of the capture"
"""What programs conclude where there are none."""
NO_IPV4 = "IPv4 has no rules of the capture, which every capture has"
LO_DOWN_MESSAGE = "the interface lo is down: redirected connections are delivered over it"
APPLY_RECORDED = "`capture apply --recorded`"
"""The remedy of whatever differs from what was applied."""
SET_LO_UP = "Set it up: `ip link set lo up` in the pod's namespace; the loopback CNI plugin does that."
REPAIR_LO = f"{SET_LO_UP} Then run {APPLY_RECORDED}: a capture of IPv6 needs ::6 on it, too."
REJECT_REASON = "--other-family reject refuses TCP of this family"
"""The reason (``why``) of our rules in the table istio-proxy-reject; a foreign rule there does not have it."""
