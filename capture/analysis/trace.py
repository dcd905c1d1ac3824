"""What happens to a packet, and which rule decides: the model walked as a kernel walks it.

::

    outbound   raw OUTPUT -> mangle OUTPUT -> nat OUTPUT -+-> another host
                                                          `-> lo -> raw PREROUTING -> mangle PREROUTING -> socket
    inbound    raw PREROUTING -> mangle PREROUTING -> nat PREROUTING -> socket

nat is asked about the first packet of a connection, and once: what came through nat OUTPUT does not
meet nat PREROUTING when it comes back over ``lo``, and behind the first rule that maps the destination no
other is asked (nf_nat_core.c). A redirect in OUTPUT makes the destination the loopback address; in PREROUTING
it stays in the pod. Foreign chains are met where ``stations`` has them.
"""

from __future__ import annotations

from capture.analysis.meaning import Goto, Translate, Untrack, holds_for, meaning
from capture.analysis.stations import Situation
from capture.model.addresses import BITS, IPV4, IPV6, Network
from capture.model.packet import LOOPBACK, Packet
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    Accept,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Jump,
    Log,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    Rule,
    SaveMark,
    SetMark,
    Source,
    SourcePort,
    Span,
    TransparentProxy,
    UnknownMatch,
    UnknownVerdict,
)
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from capture.analysis.foreign import ForeignChain
    from capture.analysis.meaning import Meaning
    from capture.analysis.stations import Station
    from capture.model.ruleset import Chain, Ruleset

    Outcome = Literal["direct", "proxy-outbound", "proxy-inbound", "dns", "dropped", "redirected", "no-route"]

NAT_STATES = ("NEW", "RELATED")
"""Connection states in which the nat table is asked; later packets follow the first one."""
OF_KNOWN_CONNECTIONS = ("RELATED", "ESTABLISHED")

REDIRECTED_BY: dict[str, Outcome] = {
    "ISTIO_REDIRECT": "proxy-outbound",
    "ISTIO_IN_REDIRECT": "proxy-inbound",
    "ISTIO_OUTPUT_DNS": "dns",
}
"""What a redirect in one of our chains means."""


class Step(Value):
    """One rule that the packet met and matched; ``position`` counts from 1 within the chain, in its family.

    ``table`` is one of ours, or what a foreign chain's table is called. ``certain`` is False where the rule asks for
    something that we cannot judge. ``station`` is the base chain from which the rule was reached.
    """

    not_compared = ("station",)

    table: str
    chain: str
    position: int
    rule: Rule
    depth: int = 0
    certain: bool = True
    station: Station | None = None


class Fate(Value):
    """All that a packet and its connection notice of rules.

    ``port`` and ``address`` are None where they stay what the packet is addressed to. ``marked`` is whether a
    transparent capture's mark leads it, or what else its connection sends, to the proxy.
    """

    outcome: Outcome
    port: int | None = None
    address: Network | None = None
    marked: bool = False


class Trace(Value):
    """Where the packet ends and how it came there; ``step`` is the rule that decided, None for a policy.

    ``translated`` is what a rule made of where the packet was addressed to.
    ``marked`` is whether a transparent capture's mark leads it, or what else its connection sends, to the proxy.
    ``lacks`` says which routes the outcome depends on and the namespace does not have. ``policy`` is the base chain
    whose policy dropped the packet.
    """

    not_compared = ("policy",)

    packet: Packet
    outcome: Outcome
    port: int
    step: Step | None
    path: tuple[Step, ...]
    transparent: bool = False
    marked: bool = False
    translated: Translate | None = None
    lacks: tuple[str, ...] = ()
    policy: Station | None = None

    @property
    def address(self) -> Network | None:
        """Return where the packet goes in place of where it was addressed to; None if no rule translated that."""
        return self.translated.address if self.translated else None

    @property
    def fate(self) -> Fate:
        """Return all that a packet and its connection notice of the rules."""
        if self.outcome not in ("direct", "dropped"):
            return Fate(self.outcome, self.port, None, self.marked)
        if self.translated is not None:
            return Fate(self.outcome, self.translated.port, self.translated.address, self.marked)
        return Fate(self.outcome, None, None, self.marked)

    @property
    def certain(self) -> bool:
        """Return whether every rule on the way could be judged."""
        return all(step.certain for step in self.path)


def trace(
    ruleset: Ruleset, packet: Packet, foreign_chains: tuple[ForeignChain, ...] = (), *, is_native: bool = False
) -> Trace:
    """Return what the rules do to the packet, and foreign ones on its way."""
    return whole_way(packet, Situation(ruleset, foreign_chains, is_native))


def whole_way(packet: Packet, situation: Situation) -> Trace:
    """Return what becomes of a packet in a situation: all tables on its way, second captures and foreign chains."""
    walk = _Walk(situation, packet)
    if packet.in_interface is not None:
        walk.through(PREROUTING)
    else:
        walk.through(OUTPUT)
        if walk.goes_over_lo and not walk.is_dropped:
            walk.packet = walk.packet.replace(in_interface=LOOPBACK, out_interface=None)
            walk.through(PREROUTING, with_nat=False)
    return walk.result()


class _Walk:
    """A packet on its way; it changes as rules act on it."""

    def __init__(self, situation: Situation, packet: Packet) -> None:
        self.situation = situation
        self.ruleset = situation.ruleset
        self.first = packet
        self.packet = packet
        self.path: list[Step] = []
        self.mapped: Step | None = None
        """The rule of nat that decided on the connection; there is one at most."""
        self.transparent: Step | None = None
        self.is_dropped = False
        self.is_redirected = False
        self.policy: Station | None = None
        self._entered: list[str] = []

    @property
    def goes_over_lo(self) -> bool:
        """Return whether the packet comes back into the pod.

        A redirected one is routed anew, but what follows at OUTPUT still sees the interface by which it was to leave
        (``state->out`` stays as it was, nf_nat_ipv4_local_fn in net/netfilter/nf_nat_proto.c).
        """
        return self.is_redirected or self.packet.out_interface == LOOPBACK

    def through(self, hook: str, *, with_nat: bool = True) -> None:
        """Take the packet through the base chains at one hook."""
        for station in self.situation.stations(hook, self.packet.family, with_nat=with_nat):
            if self.is_dropped:
                return
            if station.is_nat and (self.packet.state not in NAT_STATES or self.mapped):
                continue
            decided = self._chain(station, station.entry, 0)
            if not decided and station.entry.policy_for(self.packet.family) == "DROP":
                self.is_dropped = True
                self.policy = station

    def _chain(self, station: Station, chain: Chain, depth: int) -> bool:
        """Take the packet through a chain; return whether a rule decided on the whole table."""
        for position, rule in enumerate(chain.rules_for(self.packet.family), 1):
            matched = judge(rule, self.packet, is_native=station.is_native)
            if matched is False:
                continue
            step = Step(station.table, chain.name, position, rule, depth, matched is True, station)
            if matched is None:
                self._note_uncertain(step)
                continue
            self.path.append(step)
            match meaning(rule.verdict):
                case Jump(chain=target):
                    if self._called(station, target, depth):
                        return True
                case Goto(chain=target):
                    return self._called(station, target, depth) or (depth == 0 and self._end_of_built_in(station))
                case Return():
                    return depth == 0 and self._end_of_built_in(station)
                case UnknownVerdict():
                    self.path[-1] = step.replace(certain=False)
                case verdict:
                    if self._act(verdict, step):
                        return True
        return False

    def _called(self, station: Station, target: str, depth: int) -> bool:
        called = station.contents.chain(target)
        if called is None or target in self._entered:  # a loop, which no kernel takes
            return False
        self._entered.append(target)
        decided = self._chain(station, called, depth + 1)
        self._entered.pop()
        return decided

    def _end_of_built_in(self, station: Station) -> bool:
        """Leave a built-in chain by RETURN: its policy decides."""
        if station.entry.policy_for(self.packet.family) == "DROP":
            self.is_dropped = True
            self.policy = station
        return True

    def _note_uncertain(self, step: Step) -> None:
        """Note a rule that might have matched, if that would have mattered."""
        if not isinstance(meaning(step.rule.verdict), Log | Continue):
            self.path.append(step)

    def _act(self, verdict: Meaning, step: Step) -> bool:
        """Do to the packet what a verdict says; return whether that ends the table."""
        packet = self.packet
        match verdict:
            case Accept():
                pass
            case Drop():
                self.is_dropped = True
            case Redirect(port=port):
                self.mapped = step
                self.is_redirected = True
                self.packet = _redirected(packet, port)
            case Translate():
                self.mapped = step
                self.packet = _translated(packet, verdict, self.situation)
            case TransparentProxy(mark=mark, mask=mask):
                self.transparent = step
                self.packet = packet.replace(mark=packet.mark & ~mask | mark)
            case _:
                self._go_on(verdict)
                return False
        return True

    def _go_on(self, verdict: Meaning) -> None:
        """Do to the packet what a verdict does after which it goes on to the next rule."""
        packet = self.packet
        match verdict:
            case SetMark(value=value, mask=mask):
                self.packet = packet.replace(mark=packet.mark & ~mask | value)
            case SaveMark():
                self.packet = packet.replace(connection_mark=packet.mark)
            case RestoreMark():
                self.packet = packet.replace(mark=packet.connection_mark)
            case Untrack():
                self.packet = packet.replace(state="UNTRACKED")

    def result(self) -> Trace:
        """Return where the packet is now."""
        outcome: Outcome = "direct"
        step, port = self._last_decision(), self.first.port
        if self.is_dropped:
            outcome = "dropped"
        elif self.transparent is not None and isinstance(self.transparent.rule.verdict, TransparentProxy):
            outcome, step, port = "proxy-inbound", self.transparent, self.transparent.rule.verdict.port
        elif self.mapped is not None:
            outcome, step, port = _meaning(self.mapped), self.mapped, self.packet.port
        elif self._goes_to_the_transparent_socket():
            outcome, port = "proxy-inbound", self._transparent_port()
        elif self._reply_bypasses_proxy():
            outcome = "dropped"
        mapping = meaning(self.mapped.rule.verdict) if self.mapped and outcome == "direct" else None
        is_transparent = outcome == "proxy-inbound" and not self.mapped
        return Trace(
            self.first,
            outcome,
            port,
            step,
            tuple(self.path),
            transparent=is_transparent,
            marked=self._is_marked(),
            translated=mapping if isinstance(mapping, Translate) else None,
            lacks=self._lacks() if is_transparent else (),
            policy=self.policy,
        )

    def _lacks(self) -> tuple[str, ...]:
        of_ipv6 = self.first.family == IPV6
        return tuple(command for command in self.situation.without if command.startswith("ip -6") == of_ipv6)

    def _last_decision(self) -> Step | None:
        """Return the last rule that let go of the packet or threw it away."""
        decisive = [
            step for step in self.path if isinstance(step.rule.verdict, Return | Accept | Drop) and step.certain
        ]
        in_nat = [step for step in decisive if step.table == NAT]
        if self.is_dropped:
            return next((step for step in reversed(decisive) if isinstance(step.rule.verdict, Drop)), None)
        return next(reversed(in_nat or decisive), None)

    def _goes_to_the_transparent_socket(self) -> bool:
        """Return whether a packet of a known connection got a mark that routes it to the proxy's socket."""
        is_known = self.packet.state in OF_KNOWN_CONNECTIONS and self.packet.protocol == "tcp"
        marked = self.packet.mark in self._routed_marks() and self.first.mark != self.packet.mark
        return is_known and self._arrives() and marked and bool(self._transparent_rules())

    def _reply_bypasses_proxy(self) -> bool:
        """Return whether a connection goes past the proxy to the app, but is one whose answers go to the proxy."""
        is_new = self.packet.state not in OF_KNOWN_CONNECTIONS
        return is_new and self._arrives() and self.packet.connection_mark in self._routed_marks()

    def _arrives(self) -> bool:
        return self.first.in_interface not in (None, LOOPBACK)

    def _is_marked(self) -> bool:
        """Return whether it leaves with a mark that leads back to the proxy, or its connection has kept one."""
        leaves = self.packet.out_interface not in (None, LOOPBACK)
        marks = self._routed_marks()
        return (leaves and self.packet.mark in marks) or self.packet.connection_mark in marks

    def _routed_marks(self) -> set[int]:
        return {policy.mark for policy in self.ruleset.policy_routes} or self._transparent_marks()

    def _transparent_rules(self) -> list[TransparentProxy]:
        mangle = self.ruleset.table(MANGLE)
        rules = [rule for chain in mangle.chains for rule in chain.rules] if mangle else []
        return [rule.verdict for rule in rules if isinstance(rule.verdict, TransparentProxy)]

    def _transparent_marks(self) -> set[int]:
        return {verdict.mark for verdict in self._transparent_rules()}

    def _transparent_port(self) -> int:
        return next((verdict.port for verdict in self._transparent_rules()), self.first.port)


def _redirected(packet: Packet, port: int) -> Packet:
    """Return the packet with a destination in the pod: the loopback address for what goes out."""
    if packet.in_interface is not None:
        return packet.replace(port=port)
    first = 0x7F000001 if packet.family == IPV4 else 1
    here = Network(packet.family, first, BITS[packet.family])
    return packet.replace(port=port, destination=here)


def _translated(packet: Packet, verdict: Translate, situation: Situation) -> Packet:
    """Return the packet with another destination, to which the pod's routes lead."""
    address = verdict.address or packet.destination
    changed = packet.replace(destination=address, port=verdict.port or packet.port)
    if packet.in_interface is not None or verdict.address is None:
        return changed
    if situation.network.is_local(address):
        return changed.replace(out_interface=LOOPBACK)
    interface = situation.network.interface if packet.out_interface == LOOPBACK else packet.out_interface
    return changed.replace(out_interface=interface)


def _meaning(step: Step) -> Outcome:
    """Return what a redirect means, by the chain that it stands in."""
    if not isinstance(step.rule.verdict, Redirect):
        return "direct"
    outcome = REDIRECTED_BY.get(step.chain.replace("-", "_"))
    if outcome == "proxy-outbound":
        return "proxy-outbound"
    if outcome == "proxy-inbound":
        return "proxy-inbound"
    return "dns" if outcome == "dns" else "redirected"


# --- does a rule match? --------------------------------------------------------------------------


def judge(rule: Rule, packet: Packet, *, is_native: bool = False) -> bool | None:
    """Return whether the packet fulfils all matches of the rule; None if that cannot be known.

    ``is_native`` is whether nf_tables' own expressions ask, which know no owner of a packet without a socket.
    """
    found: bool | None = True
    for match in rule.matches:
        holds = HOLDS[type(match)](match, packet, is_native)
        if holds is False:
            return False
        if holds is None:
            found = None
    return found


def _is_from(match: Source, packet: Packet, _: bool) -> bool:  # noqa: FBT001  # the shape of all in HOLDS
    return packet.source is not None and is_inside(packet.source, match.networks) != match.negated


def _is_from_port(match: SourcePort, packet: Packet, _: bool) -> bool:  # noqa: FBT001  # the shape of all in HOLDS
    return packet.source_port is not None and _among(packet.source_port, match.ports) != match.negated


HOLDS: dict[type, Callable[[Any, Packet, bool], bool | None]] = {
    Protocol: lambda match, packet, _: packet.protocol == match.name,
    Source: _is_from,
    Destination: lambda match, packet, _: is_inside(packet.destination, match.networks) != match.negated,
    InInterface: lambda match, packet, _: _is_interface(match.name, packet.in_interface) != match.negated,
    OutInterface: lambda match, packet, _: _is_interface(match.name, packet.out_interface) != match.negated,
    SourcePort: _is_from_port,
    DestinationPort: lambda match, packet, _: _among(packet.port, match.ports) != match.negated,
    OwnerUid: lambda match, packet, is_native: _is_owner(packet.uid, match, is_native=is_native),
    OwnerGid: lambda match, packet, is_native: _is_owner(packet.gid, match, is_native=is_native),
    Mark: lambda match, packet, _: (packet.mark & match.mask == match.value) != match.negated,
    ConnectionMark: lambda match, packet, _: (packet.connection_mark & match.mask == match.value) != match.negated,
    ConnectionState: lambda match, packet, _: (packet.state in match.states) != match.negated,
    UnknownMatch: lambda match, packet, _: holds_for(match.text, packet.protocol),
}
"""Whether one match holds, by its kind; None for what cannot be judged."""


def is_inside(address: Network, networks: tuple[Network, ...]) -> bool:
    """Return whether an address lies in one of the networks."""
    first, family = address.first, address.family
    for network in networks:  # noqa: SIM110  # a chain may have 60,000 rules
        if network.contains(first) and network.family == family:
            return True
    return False


def _among(number: int, spans: tuple[Span, ...]) -> bool:
    for span in spans:  # noqa: SIM110  # a chain may have 60,000 rules
        if span.first <= number <= span.last:
            return True
    return False


def _is_owner(number: int | None, match: OwnerUid | OwnerGid, *, is_native: bool) -> bool:
    """Return whether an owner match holds. A packet without a socket fulfils the negated one in iptables alone."""
    if number is None:
        return match.negated and not is_native  # owner_mt in xt_owner.c; nft_meta_get_eval_skugid in nft_meta.c
    return _among(number, match.ids) != match.negated


def _is_interface(pattern: str, name: str | None) -> bool:
    if name is None:
        return False
    if pattern.endswith("+"):
        return name.startswith(pattern[:-1])
    return name == pattern
