"""The replies to a connection, and whether they are lost. Pure.

Replies to what is not tracked are first packets for the kernel: INVALID ones, and a later segment of TCP begins a
connection (nf_conntrack_tcp_loose in nf_conntrack-sysctl.rst). So rules may take them for calls, and redirect them.
"""

from __future__ import annotations

from capture.analysis.meaning import ACK, PSH, SYN, effective_verdict
from capture.analysis.outcome import DNS, PROXY_INBOUND, PROXY_OUTBOUND, TO_PROXY
from capture.analysis.trace import Step, Trace, trace_whole_path
from capture.model import ruleset as model
from capture.model.addresses import LOOPBACK_ADDRESSES, Family, Network, parse_address
from capture.model.chain_names import is_own_chain
from capture.model.conventions import APP_ID, DNS_PORT, PASSTHROUGH_SOURCE, PROXY_TO_SELF_MARK
from capture.model.foreign import Untrack
from capture.model.packet import EPHEMERAL_PORT, LOOPBACK, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.analysis.base_chains import PodNetwork, Situation


OUTSIDE: dict[Family, Network] = {each.family: each for each in map(parse_address, ("203.0.113.7", "2001:db8::7"))}
"""A host that is not in the pod's cluster (RFC 5737, RFC 3849)."""
SENT_ON = "what the proxy sends on"

MARKING = (model.SetMark, model.SaveMark, model.RestoreMark)


def replies(traced: Trace, uid: int = APP_ID, gid: int = APP_ID) -> Iterator[Packet]:
    """Yield the reply to the first packet of a connection: as a user sends it, or as it comes in; over lo both.

    Nothing where the source of that packet is unknown.
    """
    packet = traced.packet
    if packet.source is None:
        return
    back = Packet(
        packet.protocol,
        packet.source,
        packet.source_port or EPHEMERAL_PORT,
        connection_mark=traced.connection_mark,
        state="ESTABLISHED",
        is_reply=True,
        is_translated=_is_mapped(traced),
    )
    is_of_proxy = traced.outcome in TO_PROXY
    called = LOOPBACK_ADDRESSES[packet.family] if is_of_proxy and not packet.in_interface else packet.destination
    port = packet.port if traced.transparent else traced.port
    owner = back.replace(source=called, source_port=port, uid=uid, gid=gid)
    if packet.in_interface:
        yield owner.replace(out_interface=packet.in_interface)
    elif traced.outcome == "direct" and packet.out_interface != LOOPBACK:
        called_at = traced.address or packet.destination
        yield back.replace(source=called_at, source_port=port, in_interface=traced.interface or packet.out_interface)
    else:
        yield owner.replace(out_interface=LOOPBACK)
        yield back.replace(source=packet.destination, source_port=packet.port, in_interface=LOOPBACK)


def _is_mapped(traced: Trace) -> bool:
    """Return whether nat has changed where a connection goes."""
    return traced.translated is not None or (traced.outcome not in ("direct", "dropped") and not traced.transparent)


def replies_on_way(traced: Trace, situation: Situation, uid: int = APP_ID, gid: int = APP_ID) -> Iterator[Packet]:
    """Yield the replies by the interface that the hook OUTPUT sees.

    The app answers a transparent proxy at the client's address: routes lead there until a mark is restored, and what
    follows at OUTPUT sees that interface still (``state->out``).
    """
    network = situation.network
    for reply in replies(traced, uid, gid):
        is_to_client = reply.out_interface == LOOPBACK and not network.is_local(reply.destination)
        yield reply.replace(out_interface=network.interface) if is_to_client else reply


def onward_packet(traced: Trace, uid: int, gid: int) -> Packet | None:
    """Return what the proxy, a user and group, sends on: to others, or to the app; None if it sends nothing there.

    A transparent proxy calls the app from the client's address, with the mark of the capture.
    """
    packet = traced.packet.replace(uid=uid, gid=gid)
    if traced.outcome in (PROXY_OUTBOUND, DNS):
        return None if packet.in_interface else packet
    if traced.outcome != PROXY_INBOUND or not packet.in_interface:
        return None
    to_app = packet.replace(in_interface=None, out_interface=LOOPBACK)
    handed_over = handing_over(traced)
    return (
        to_app.replace(mark=handed_over.mark)
        if handed_over
        else to_app.replace(source=PASSTHROUGH_SOURCE[packet.family])
    )


def handing_over(traced: Trace) -> model.TransparentProxy | None:
    """Return the verdict that hands a connection to a socket, if one decides; what is none for it is dropped there.

    Whatever nat does behind it: the packet has its socket, which must be transparent (tproxy_tg4 in xt_TPROXY.c).
    """
    verdict = traced.step and traced.step.rule.verdict
    return verdict if isinstance(verdict, model.TransparentProxy) else None


def reply_to_proxy(network: PodNetwork, family: Family) -> Packet | None:
    """Return a reply that comes in to what the proxy sent to another host; None where the pod has no address."""
    caller, interface = next(iter(network.own_addresses(family)), None), network.interface
    to_proxy = Packet("tcp", caller, EPHEMERAL_PORT, source_port=80, in_interface=interface) if caller else None
    return to_proxy and to_proxy.replace(source=OUTSIDE[family], state="ESTABLISHED", is_reply=True)


def look_ups(situation: Situation, family: Family) -> Iterator[Packet]:
    """Yield a look-up of an app at a name server outside, and at each that is captured by its name."""
    zoning = [rule.matches for rule in situation.ruleset.rules if isinstance(rule.verdict, model.SetZone)]
    named = (match.networks[0] for matches in zoning for match in matches if isinstance(match, model.Destination))
    caller, interface = next(iter(situation.network.own_addresses(family)), None), situation.network.interface
    for server in (OUTSIDE[family], *named) if caller and zoning else ():
        if server.family == family:
            yield Packet("udp", server, DNS_PORT, caller, EPHEMERAL_PORT, APP_ID, APP_ID, None, interface)


FIRST, LATER = SYN | ACK, (ACK, PSH | ACK)
"""The flags of replies: of the first, and of those without which nothing comes back."""


def trace_with_flags(packet: Packet, situation: Situation) -> Trace:
    """Return the way of replies, or of later packets; of one that is dropped, where the flags of TCP decide."""
    traced = trace_whole_path(packet, situation)
    if traced.is_certain or packet.protocol != "tcp" or packet.flags is not None:
        return traced
    flags = (FIRST, *LATER) if packet.is_reply else LATER
    traces = [trace_whole_path(packet.replace(flags=flag), situation) for flag in flags]
    known = traces[0] if all(each.is_certain for each in traces) else traced
    return next((trace for trace in traces if trace.is_certain and trace.outcome == "dropped"), known)


def lost_reply(traced: Trace, situation: Situation) -> Trace | None:
    """Return the path of a reply to a direct connection that is certainly lost; None if none is."""
    if traced.outcome != "direct":
        return None
    is_tracked = untracking_step(traced) is None
    for packet in replies(traced):
        for reply in (packet,) if is_tracked else _untracked_replies(packet):
            back = trace_with_flags(reply, situation)
            is_lost = back.outcome == "dropped" or (back.outcome in TO_PROXY and not is_tracked)
            if is_lost and back.is_certain:
                return back
    return None


def _untracked_replies(reply: Packet) -> Iterator[Packet]:
    """Yield replies to a connection that is not tracked, as the kernel takes them."""
    first = reply.replace(connection_mark=0, state="NEW", is_reply=False)
    if reply.protocol == "tcp":
        yield first.replace(state="INVALID", flags=FIRST)
    yield first if reply.protocol != "tcp" else first.replace(flags=LATER[-1])


def lost_later_packets(traced: Trace, situation: Situation, owner: tuple[int, int] | None) -> Iterator[Trace]:
    """Yield how later packets and replies of a connection to the proxy, or to the app, are dropped, or may be."""
    mark = traced.packet.mark
    later_packet = traced.packet.replace(state="ESTABLISHED", is_reply=False, is_translated=_is_mapped(traced))
    for packet in (later_packet, *replies_of_receiver(traced, situation, owner)):
        later = trace_with_flags(
            packet.replace(mark=mark if packet.in_interface == LOOPBACK else packet.mark), situation
        )
        mark = later.mark  # which a reply keeps over lo
        is_lost = later.outcome == "dropped" or not (later.transparent or untracking_step(later) is None)
        is_lost |= later.reroute is not None  # to where the client need not be
        is_lost |= later.outcome in TO_PROXY and bool(packet.is_reply)  # whose socket is not transparent
        if is_lost or not later.is_certain:
            yield later


def replies_of_receiver(traced: Trace, situation: Situation, owner: tuple[int, int] | None) -> Iterator[Packet]:
    """Yield a reply to a connection, of the proxy or of the app, as it leaves and as it comes in."""
    if owner is not None:
        yield from replies_on_way(traced, situation, *(owner if traced.outcome in TO_PROXY else ()))


def zone_conflict(
    traced: Trace, situation: Situation, owner: tuple[int, int] | None
) -> tuple[Trace, Step | None] | None:
    """Return the agent's answer to a look-up, if it is lost: tracked in another zone; and the foreign rule of that.

    A zone is that of the first rule for one (xt_ct_target in xt_CT.c, nft_ct_set_zone_eval in nft_ct.c).
    """
    reply = next(replies_of_receiver(traced, situation, owner), None)
    if traced.outcome != DNS or traced.packet.in_interface or reply is None:
        return None
    answer = trace_whole_path(reply, situation)
    steps = [next(filter(_is_zoning, each.path), None) for each in (traced, answer)]
    if len({getattr(step.rule.verdict, "zone", 0) if step else 0 for step in steps}) == 1:
        return None
    return answer, next((step for step in steps if step and not is_own_step(step)), None)


def _is_zoning(step: Step) -> bool:
    at_output = step.base_chain is not None and step.base_chain.hook == model.OUTPUT
    return at_output and step.is_certain and isinstance(step.rule.verdict, model.SetZone)


def loss_text(reply: Trace) -> str:
    """Return in words how a reply is lost."""
    if reply.outcome == "dropped":
        return f"its answers are dropped by {reply.location}: the connection hangs"
    if reply.reroute is not None:
        return f"its answers leave by {reply.interface}, by the policy rule `{reply.reroute.words}`"
    step = untracking_step(reply)
    if reply.outcome not in TO_PROXY and step is not None:
        return f"{step.location} keeps its answers out of connection tracking: the connection hangs"
    return f"its answers go to port {reply.port}: the connection hangs"


def untracked_text(traced: Trace) -> str:
    """Return in words why a connection that is not tracked does not reach the proxy."""
    return loss_text(traced.lost_reply) if traced.lost_reply else "nat rules see tracked connections only"


def marking_step(traced: Trace) -> Step | None:
    """Return the foreign rule that changes a packet's mark, the last one; None if none does."""
    marking = (step for step in reversed(traced.path) if isinstance(step.rule.verdict, MARKING))
    return next((step for step in marking if not (is_own_step(step) or _keeps_marks(step))), None)


def _keeps_marks(step: Step) -> bool:
    """Return whether a rule is one by which a capture keeps its marks, in a chain that it shares."""
    verdict, matches = step.rule.verdict, step.rule.matches
    is_by_mark = any(isinstance(each, model.MarkMatch) for each in matches)
    by_mark = is_by_mark and isinstance(verdict, model.SaveMark | model.RestoreMark)
    return step.table == model.MANGLE and (by_mark or verdict == model.SetMark(PROXY_TO_SELF_MARK))


def untracking_step(traced: Trace) -> Step | None:
    """Return the foreign rule that keeps a packet out of connection tracking; None if it is tracked."""
    untracking = (
        step for step in traced.path if isinstance(effective_verdict(step.rule), Untrack) and not is_own_step(step)
    )
    return None if traced.is_tracked else next(untracking, None)


def is_own_step(step: Step) -> bool:
    """Return whether a rule is in one of our chains, or leads into one."""
    target = getattr(step.rule.verdict, "chain", "")
    return step.table in model.TABLES and (is_own_chain(step.chain) or is_own_chain(target))
