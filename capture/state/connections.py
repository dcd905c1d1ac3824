"""Connections that are open when the first rules come, and those that end when the last rules go.

Connection tracking works in a namespace only while a rule needs it. To the first rule every open connection is
new: tracking takes a packet from its middle for its first (``tcp_loose``, tcp_new in nf_conntrack_proto_tcp.c), nat
redirects that, and where it arrives no such connection is known. A connection that has an entry is not redirected
(nf_nat_inet_fn in nf_nat_core.c applies rules to new ones only). So each gets one, before the first rule.

Connections that begin meanwhile need more than a second look: that comes too late for those that talk. So rules that
track and redirect nothing (``rules.build_tracking``) come between. From then on every packet has an entry::

    sockets listed, entries made  ->  tracking rules  ->  sockets listed, entries made  ->  the rules
"""

from __future__ import annotations

import errno
import os

from capture.errors import CaptureError
from capture.model.ruleset import Redirect, Ruleset, TransparentProxy
from capture.netlink import conntrack, sock_diag
from capture.netlink.conntrack import Flow, TrackedConnection
from capture.netlink.nfnetlink import open_nfnetlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.netlink.sock_diag import TcpSocket

CONNTRACK_STATES = {
    sock_diag.TCP_SYN_SENT: conntrack.TCP_CONNTRACK_SYN_SENT,
    # Half-closed ones too: an entry in such a state ends after a minute without packets.
    **dict.fromkeys(sock_diag.OPEN_STATES, conntrack.TCP_CONNTRACK_ESTABLISHED),
    sock_diag.TCP_SYN_RECV: conntrack.TCP_CONNTRACK_SYN_RECV,
}
"""In which state a socket's connection is tracked."""

ALREADY_TRACKED = (errno.EEXIST, errno.EBUSY)
"""Refusals for connections that are tracked already, translated or further on than the socket was when listed."""
TABLE_FULL = "conntrack's table is full; raise net.netfilter.nf_conntrack_max on the node"


def count_captured(rulesets: Iterable[Ruleset]) -> int:
    """Return how many open connections pass the proxy by rules like these: those that end with the rules.

    Raises CaptureError where they cannot be listed.
    """
    ports, marks = _redirect_ports_and_marks(rulesets)
    if not ports and not marks:
        return 0
    with sock_diag.open_sock_diag() as diag:
        ends = {_flow_of_socket(socket) for socket in sock_diag.read_tcp_sockets(diag, CONNTRACK_STATES)}
    with open_nfnetlink() as netfilter:
        entries = list(conntrack.read_entries(netfilter))
    # An entry outlives its connection by days, if it did not see the end. The replies' source has the socket.
    return sum(1 for entry in entries if is_captured(entry, ports, marks) and entry.reply in ends)


def _redirect_ports_and_marks(rulesets: Iterable[Ruleset]) -> tuple[frozenset[int], frozenset[int]]:
    verdicts = {rule.verdict for ruleset in rulesets for rule in ruleset.rules}
    return (
        frozenset(verdict.port for verdict in verdicts if isinstance(verdict, Redirect)),
        frozenset(verdict.mark for verdict in verdicts if isinstance(verdict, TransparentProxy)),
    )


def is_captured(entry: TrackedConnection, ports: frozenset[int], marks: frozenset[int]) -> bool:
    """Return whether a connection is redirected to one of these ports, or has one of these marks."""
    is_redirected = bool(entry.status & conntrack.IPS_DST_NAT) and entry.reply.source_port in ports
    return is_redirected or entry.mark in marks


def track_open_connections(first_ruleset: Ruleset | None = None) -> tuple[str, ...]:
    """Make entries for all open connections; return a warning if some could not get one.

    With ``first_ruleset``, which comes where nothing tracks yet, entries of connections that earlier rules redirected
    are removed: those have ended, and a connection of now may have the same addresses and ports.
    """
    try:
        with sock_diag.open_sock_diag() as diag:
            sockets = list(sock_diag.read_tcp_sockets(diag, (*CONNTRACK_STATES, sock_diag.TCP_LISTEN)))
        entries = list(tracked_flows(sockets))
        if not entries:
            return ()
        with open_nfnetlink() as netfilter:
            if first_ruleset is not None:
                ports, _ = _redirect_ports_and_marks([first_ruleset])
                for entry in list(conntrack.read_entries(netfilter)):
                    if is_captured(entry, ports, frozenset()):
                        conntrack.remove_entry(netfilter, entry.original)
            refused = conntrack.add_entries(netfilter, entries)
    except CaptureError as error:
        remedy = "to keep them, load tcp_diag and nf_conntrack_netlink on the node before the rules are applied"
        return (f"existing connections may be cut: {error.message}; {remedy}",)
    failures = [refusal for refusal in refused if refusal.errno not in ALREADY_TRACKED]
    if not failures:
        return ()
    reason = TABLE_FULL if failures[0].errno == errno.ENOMEM else os.strerror(failures[0].errno)
    return (f"{len(failures)} of {len(entries)} existing connections may be cut: they cannot be tracked: {reason}",)


def tracked_flows(sockets: list[TcpSocket]) -> Iterator[tuple[Flow, int]]:
    """Yield each connection, from its client to its server, with its state; both ends of one may be here."""
    listening = {socket.local_port for socket in sockets if socket.state == sock_diag.TCP_LISTEN}
    flows: dict[Flow, int] = {}
    for socket in sockets:
        if socket.state not in CONNTRACK_STATES:
            continue
        flow = _flow_of_socket(socket)
        if socket.local_port in listening:
            flow = flow.reversed
        flows[flow] = max(CONNTRACK_STATES[socket.state], flows.get(flow, 0))
    return iter(flows.items())


def _flow_of_socket(socket: TcpSocket) -> Flow:
    return Flow(socket.local, socket.local_port, socket.remote, socket.remote_port)
