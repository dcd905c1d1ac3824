"""Entries of connection tracking in the current namespace, by ctnetlink: made, listed, removed.

linux/netfilter/nfnetlink_conntrack.h. An entry has two tuples, what packets look like each way::

    original   source -> destination       of who began the connection
    reply      destination -> source       another than the reverse where NAT translates

Numbers in attributes are big endian.
"""

from __future__ import annotations

from capture.errors import KernelError
from capture.model.conventions import IPPROTO_TCP
from capture.model.values import Value
from capture.netlink.attributes import attribute, decode_fields, decode_number, nested, u8, u16be, u32be
from capture.netlink.messages import NLM_F_CREATE, NLMSG_ERROR, Refusal, decode_refusal
from capture.netlink.nfnetlink import NFGENMSG_SIZE, nfgenmsg
from capture.netlink.rtnetlink import AF_INET, AF_INET6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from capture.netlink.sockets import NetlinkSocket

NFNL_SUBSYS_CTNETLINK = 1  # linux/netfilter/nfnetlink.h
IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = (NFNL_SUBSYS_CTNETLINK << 8 | kind for kind in range(3))

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_TIMEOUT, CTA_MARK = 1, 2, 3, 4, 7, 8
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_ENDS = {AF_INET: (1, 2), AF_INET6: (3, 4)}  # CTA_IP_V4_SRC, CTA_IP_V4_DST; CTA_IP_V6_SRC, CTA_IP_V6_DST
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_PROTOINFO_TCP = 1
CTA_PROTOINFO_TCP_STATE, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY = 1, 4, 5

# linux/netfilter/nf_conntrack_common.h
IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED, IPS_DST_NAT = 1 << 1, 1 << 2, 1 << 3, 1 << 5

# linux/netfilter/nf_conntrack_tcp.h
TCP_CONNTRACK_SYN_SENT, TCP_CONNTRACK_SYN_RECV, TCP_CONNTRACK_ESTABLISHED = 1, 2, 3
IP_CT_TCP_FLAG_BE_LIBERAL = 0x08

LIFETIMES = {TCP_CONNTRACK_SYN_SENT: 120, TCP_CONNTRACK_SYN_RECV: 60, TCP_CONNTRACK_ESTABLISHED: 432_000}
"""How long an entry lives without a packet: the kernel's own defaults (tcp_timeouts in nf_conntrack_proto_tcp.c)."""

STATUS_BY_TCP_STATE = {
    TCP_CONNTRACK_SYN_SENT: IPS_CONFIRMED,
    TCP_CONNTRACK_SYN_RECV: IPS_CONFIRMED | IPS_SEEN_REPLY,
    TCP_CONNTRACK_ESTABLISHED: IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED,
}
"""The kernel confirms an entry before it sets the status, and refuses one without that bit (EBUSY)."""

MAX_ENTRIES = 100
"""Entries in one datagram. Each refusal takes a place in the receive buffer, whose default has room for some 250."""


class Flow(Value):
    """A TCP connection as its packets look in one direction; addresses are packed."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int

    @property
    def family(self) -> int:
        return AF_INET if len(self.source) == 4 else AF_INET6

    @property
    def reversed(self) -> Flow:
        """Return the other direction, where nothing is translated."""
        return Flow(self.destination, self.destination_port, self.source, self.source_port)


class TrackedConnection(Value):
    """A TCP connection that is tracked; ``status`` are IPS_... bits, ``state`` is a TCP_CONNTRACK_... number."""

    original: Flow
    reply: Flow
    status: int
    state: int
    mark: int


def add_entries(netfilter: NetlinkSocket, entries: Sequence[tuple[Flow, int]]) -> list[Refusal]:
    """Track connections, each in a TCP_CONNTRACK_... state, as if they had been since they began; no NAT.

    Those that are tracked already get the state, and keep their translation. Return why the kernel refused some;
    without the capability NET_ADMIN there is one refusal (EPERM) for each datagram.
    """
    refused: list[Refusal] = []
    for start in range(0, len(entries), MAX_ENTRIES):
        bodies = [encode_entry(*entry) for entry in entries[start : start + MAX_ENTRIES]]
        for _, message in netfilter.request_each(IPCTNL_MSG_CT_NEW, NLM_F_CREATE, bodies, "track open connections"):
            refusal = decode_refusal(message) if message.kind == NLMSG_ERROR else None
            if refusal:
                refused.append(refusal)
    return refused


def read_entries(netfilter: NetlinkSocket) -> Iterator[TrackedConnection]:
    """Yield the TCP connections that are tracked, of both families. Raises KernelError, PrivilegeError."""
    for family in (AF_INET, AF_INET6):
        for body in netfilter.dump(IPCTNL_MSG_CT_GET, nfgenmsg(family), "list tracked connections"):
            entry = decode_entry(body)
            if entry is not None:
                yield entry


def remove_entry(netfilter: NetlinkSocket, original: Flow) -> bool:
    """Forget a connection; return whether the kernel did: not if it has ended already."""
    body = nfgenmsg(original.family) + _flow_attributes(CTA_TUPLE_ORIG, original)
    try:
        netfilter.request(IPCTNL_MSG_CT_DELETE, 0, body, "forget a tracked connection")
    except KernelError:
        return False
    return True


# Tracking that did not see the connection begin cannot judge whether packets fit the window.
BE_LIBERAL = bytes((IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_BE_LIBERAL))  # struct nf_ct_tcp_flags: flags, mask


def encode_entry(flow: Flow, state: int) -> bytes:
    """Return the body of a message that makes an entry, in a TCP_CONNTRACK_... state."""
    tcp = nested(
        CTA_PROTOINFO_TCP,
        attribute(CTA_PROTOINFO_TCP_STATE, u8(state)),
        attribute(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, BE_LIBERAL),
        attribute(CTA_PROTOINFO_TCP_FLAGS_REPLY, BE_LIBERAL),
    )
    return (
        nfgenmsg(flow.family)
        + _flow_attributes(CTA_TUPLE_ORIG, flow)
        + _flow_attributes(CTA_TUPLE_REPLY, flow.reversed)
        + attribute(CTA_STATUS, u32be(STATUS_BY_TCP_STATE[state]))
        + attribute(CTA_TIMEOUT, u32be(LIFETIMES[state]))
        + nested(CTA_PROTOINFO, tcp)
    )


def _flow_attributes(kind: int, flow: Flow) -> bytes:
    source, destination = CTA_IP_ENDS[flow.family]
    return nested(
        kind,
        nested(CTA_TUPLE_IP, attribute(source, flow.source), attribute(destination, flow.destination)),
        nested(
            CTA_TUPLE_PROTO,
            attribute(CTA_PROTO_NUM, u8(IPPROTO_TCP)),
            attribute(CTA_PROTO_SRC_PORT, u16be(flow.source_port)),
            attribute(CTA_PROTO_DST_PORT, u16be(flow.destination_port)),
        ),
    )


def decode_entry(body: bytes) -> TrackedConnection | None:
    """Return the entry of a message; None for other protocols than TCP."""
    fields = decode_fields(body[NFGENMSG_SIZE:])
    original, reply = (_decode_tuple(fields[kind], body[0]) for kind in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY))
    if original is None or reply is None:
        return None
    tcp = decode_fields(decode_fields(fields.get(CTA_PROTOINFO, b"")).get(CTA_PROTOINFO_TCP, b""))
    return TrackedConnection(
        original,
        reply,
        decode_number(fields.get(CTA_STATUS, b"")),
        decode_number(tcp.get(CTA_PROTOINFO_TCP_STATE, b"")),
        decode_number(fields.get(CTA_MARK, b"")),
    )


def _decode_tuple(data: bytes, family: int) -> Flow | None:
    parts = decode_fields(data)
    protocol = decode_fields(parts[CTA_TUPLE_PROTO])
    if protocol[CTA_PROTO_NUM] != u8(IPPROTO_TCP):
        return None
    addresses = decode_fields(parts[CTA_TUPLE_IP])
    source, destination = (addresses[kind] for kind in CTA_IP_ENDS[family])
    source_port, destination_port = (decode_number(protocol[kind]) for kind in (CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT))
    return Flow(source, source_port, destination, destination_port)
