"""What happens to a packet, and which rule decides: the model walked as a kernel walks it.

::

    outbound   raw OUTPUT -> mangle OUTPUT -> nat OUTPUT -+-> another host
                                                          `-> lo -> raw PREROUTING -> mangle PREROUTING -> socket
    inbound    raw PREROUTING -> mangle PREROUTING -> nat PREROUTING -> socket

nat is asked about the first packet of a connection, and once: what came through nat OUTPUT does not
meet nat PREROUTING when it comes back over ``lo`` (nf_nat_core.c: one destination manipulation per
connection). A redirect in OUTPUT makes the destination the loopback address; in PREROUTING it stays
in the pod. Bystanders, chains of others in tables of their own, are met by their priorities.
"""

from __future__ import annotations

from capture.model.addresses import BITS, IPV4, Network
from capture.model.packet import LOOPBACK, Packet
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    RAW,
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
    SetZone,
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
    from collections.abc import Iterator
    from typing import Literal

    from capture.analysis.foreign import ForeignChain
    from capture.model.ruleset import (
        Chain,
        Match,
        Ruleset,
        Table,
        TableName,
        Verdict,
    )

    Outcome = Literal["direct", "proxy-outbound", "proxy-inbound", "dns", "dropped", "redirected"]

NAT_STATES = ("NEW", "RELATED")
"""Connection states in which the nat table is asked; later packets follow the first one."""
OF_KNOWN_CONNECTIONS = ("RELATED", "ESTABLISHED")

REDIRECTED_BY = {
    "ISTIO_REDIRECT": "proxy-outbound",
    "ISTIO_IN_REDIRECT": "proxy-inbound",
    "ISTIO_OUTPUT_DNS": "dns",
}
"""What a redirect in one of our chains means."""


class Step(Value):
    """One rule that the packet met and matched; ``position`` counts from 1 within the chain, in its family.

    ``table`` is one of ours, or that of a bystander. ``certain`` is False where the rule asks for something that we
    cannot judge.
    """

    table: str
    chain: str
    position: int
    rule: Rule
    depth: int = 0
    certain: bool = True


class Trace(Value):
    """Where the packet ends and how it came there; ``step`` is the rule that decided, None for a policy.

    ``marked`` is whether a transparent capture's mark leads it, or what else its connection sends, to the proxy.
    """

    packet: Packet
    outcome: Outcome
    port: int
    step: Step | None
    path: tuple[Step, ...]
    transparent: bool = False
    marked: bool = False

    @property
    def fate(self) -> tuple[str, int, bool]:
        """Return all that a packet and its connection notice of the rules."""
        return self.outcome, self.port, self.marked

    @property
    def certain(self) -> bool:
        """Return whether no rule on the way was beyond our judgement."""
        return all(step.certain for step in self.path)


class _Station(Value):
    """A base chain where a packet comes by: ``table`` is what a step there calls it."""

    table: str
    entry: Chain
    contents: Table
    is_nat: bool


def trace(ruleset: Ruleset, packet: Packet, foreign_chains: tuple[ForeignChain, ...] = ()) -> Trace:
    """Return what the rules do to the packet, and those of others on its way."""
    walk = _Walk(ruleset, packet, foreign_chains)
    if packet.in_interface is not None:
        walk.through(PREROUTING, (RAW, MANGLE, NAT))
    else:
        walk.through(OUTPUT, (RAW, MANGLE, NAT))
        if walk.packet.out_interface == LOOPBACK and not walk.is_dropped:
            walk.packet = walk.packet.replace(in_interface=LOOPBACK, out_interface=None)
            walk.through(PREROUTING, (RAW, MANGLE))
    return walk.result()


class _Walk:
    """A packet on its way; it changes as rules act on it."""

    def __init__(self, ruleset: Ruleset, packet: Packet, foreign_chains: tuple[ForeignChain, ...]) -> None:
        self.ruleset = ruleset
        self.foreign_chains = foreign_chains
        self.first = packet
        self.packet = packet
        self.path: list[Step] = []
        self.redirect: Step | None = None
        self.transparent: Step | None = None
        self.is_dropped = False

    def through(self, hook: str, tables: tuple[TableName, ...]) -> None:
        """Take the packet through the tables at one hook."""
        for station in self._stations(hook, tables):
            if self.is_dropped:
                return
            if station.is_nat and (self.packet.state not in NAT_STATES or self.redirect):
                continue
            decided = self._chain(station, station.entry, 0)
            if not decided and station.entry.policy_for(self.packet.family) == "DROP":
                self.is_dropped = True

    def _stations(self, hook: str, tables: tuple[TableName, ...]) -> Iterator[_Station]:
        """Yield the base chains of a hook, as the packet comes to them."""
        beside = [each for each in self.foreign_chains if each.hook == hook and self.packet.family in each.families]
        if NAT not in tables:  # nat has been asked about this packet already
            beside = [each for each in beside if not each.is_nat]
        for name in tables:
            while beside and beside[0].is_before(name):
                yield _station_of(beside.pop(0))
            table = self.ruleset.table(name)
            chain = table.chain(hook) if table else None
            if table is not None and chain is not None:
                yield _Station(name, chain, table, name == NAT)
        yield from map(_station_of, beside)

    def _chain(self, station: _Station, chain: Chain, depth: int) -> bool:
        """Take the packet through a chain; return whether a rule decided on the whole table."""
        for position, rule in enumerate(chain.rules_for(self.packet.family), 1):
            matched = judge(rule, self.packet)
            if matched is False:
                continue
            step = Step(station.table, chain.name, position, rule, depth, matched is True)
            if matched is None:
                self._note_uncertain(step)
                continue
            self.path.append(step)
            match rule.verdict:
                case Jump(chain=target):
                    called = station.contents.chain(target)
                    if called is not None and self._chain(station, called, depth + 1):
                        return True
                case Return():
                    return depth == 0 and self._end_of_built_in(chain)
                case UnknownVerdict():
                    self.path[-1] = step.replace(certain=False)
                case verdict:
                    if self._act(verdict, step):
                        return True
        return False

    def _end_of_built_in(self, chain: Chain) -> bool:
        """Leave a built-in chain by RETURN: its policy decides."""
        if chain.policy_for(self.packet.family) == "DROP":
            self.is_dropped = True
        return True

    def _note_uncertain(self, step: Step) -> None:
        """Note a rule that might have matched, if that would have mattered."""
        if not isinstance(step.rule.verdict, Log | Continue):
            self.path.append(step)

    def _act(self, verdict: Verdict, step: Step) -> bool:
        """Do to the packet what a verdict says; return whether that ends the table."""
        packet = self.packet
        match verdict:
            case Accept():
                return True
            case Drop():
                self.is_dropped = True
                return True
            case Redirect(port=port):
                self.redirect = step
                self.packet = _redirected(packet, port)
                return True
            case TransparentProxy(mark=mark, mask=mask):
                self.transparent = step
                self.packet = packet.replace(mark=packet.mark & ~mask | mark)
                return True
            case SetMark(value=value, mask=mask):
                self.packet = packet.replace(mark=packet.mark & ~mask | value)
            case SaveMark():
                self.packet = packet.replace(connection_mark=packet.mark)
            case RestoreMark():
                self.packet = packet.replace(mark=packet.connection_mark)
            case SetZone() | Log() | Continue():
                pass
        return False

    def result(self) -> Trace:
        """Return where the packet is now."""
        outcome: Outcome = "direct"
        step, port = self._last_decision(), self.first.port
        if self.is_dropped:
            outcome = "dropped"
        elif self.transparent is not None and isinstance(self.transparent.rule.verdict, TransparentProxy):
            outcome, step, port = "proxy-inbound", self.transparent, self.transparent.rule.verdict.port
        elif self.redirect is not None:
            outcome, step, port = _meaning(self.redirect), self.redirect, self.packet.port
        elif self._goes_to_the_transparent_socket():
            outcome, port = "proxy-inbound", self._transparent_port()
        elif self._reply_bypasses_proxy():
            outcome = "dropped"
        return Trace(
            self.first,
            outcome,
            port,
            step,
            tuple(self.path),
            transparent=outcome == "proxy-inbound" and not self.redirect,
            marked=self._is_marked(),
        )

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
        is_known = self.first.state in OF_KNOWN_CONNECTIONS
        marked = self.packet.mark in self._routed_marks() and self.first.mark != self.packet.mark
        return is_known and self._arrives() and marked

    def _reply_bypasses_proxy(self) -> bool:
        """Return whether a connection goes past the proxy to the app, but is one whose answers go to the proxy."""
        is_new = self.first.state not in OF_KNOWN_CONNECTIONS
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


def _station_of(foreign_chain: ForeignChain) -> _Station:
    return _Station(foreign_chain.table, foreign_chain.entry, foreign_chain.contents, foreign_chain.is_nat)


def _redirected(packet: Packet, port: int) -> Packet:
    """Return the packet with a destination in the pod: the loopback address for what goes out."""
    if packet.in_interface is not None:
        return packet.replace(port=port)
    first = 0x7F000001 if packet.family == IPV4 else 1
    here = Network(packet.family, first, BITS[packet.family])
    return packet.replace(port=port, destination=here, out_interface=LOOPBACK)


def _meaning(step: Step) -> Outcome:
    """Return what a redirect means, by the chain that it stands in."""
    outcome = REDIRECTED_BY.get(step.chain.replace("-", "_"))
    if outcome == "proxy-outbound":
        return "proxy-outbound"
    if outcome == "proxy-inbound":
        return "proxy-inbound"
    return "dns" if outcome == "dns" else "redirected"


# --- does a rule match? --------------------------------------------------------------------------


def judge(rule: Rule, packet: Packet) -> bool | None:
    """Return whether the packet fulfils all matches of the rule; None if that cannot be known."""
    answers = [_holds(match, packet) for match in rule.matches]
    if False in answers:
        return False
    return None if None in answers else True


def _holds(match: Match, packet: Packet) -> bool | None:  # noqa: C901, PLR0911, PLR0912  # one case for each match
    """Return whether one match holds; None for what we cannot judge."""
    match match:
        case Protocol(name=name):
            return packet.protocol == name
        case Source(networks=networks, negated=negated):
            return packet.source is not None and is_inside(packet.source, networks) != negated
        case Destination(networks=networks, negated=negated):
            return is_inside(packet.destination, networks) != negated
        case InInterface(name=name, negated=negated):
            return _is_interface(name, packet.in_interface) != negated
        case OutInterface(name=name, negated=negated):
            return _is_interface(name, packet.out_interface) != negated
        case SourcePort(ports=ports, negated=negated):
            return packet.source_port is not None and _among(packet.source_port, ports) != negated
        case DestinationPort(ports=ports, negated=negated):
            return _among(packet.port, ports) != negated
        case OwnerUid(ids=ids, negated=negated):
            return packet.uid is not None and _among(packet.uid, ids) != negated
        case OwnerGid(ids=ids, negated=negated):
            return packet.gid is not None and _among(packet.gid, ids) != negated
        case Mark(value=value, mask=mask, negated=negated):
            return (packet.mark & mask == value) != negated
        case ConnectionMark(value=value, mask=mask, negated=negated):
            return (packet.connection_mark & mask == value) != negated
        case ConnectionState(states=states, negated=negated):
            return (packet.state in states) != negated
        case UnknownMatch():
            return None


def is_inside(address: Network, networks: tuple[Network, ...]) -> bool:
    """Return whether an address lies in one of the networks."""
    return any(network.family == address.family and network.contains(address.first) for network in networks)


def _among(number: int, spans: tuple[Span, ...]) -> bool:
    return any(span.contains(number) for span in spans)


def _is_interface(pattern: str, name: str | None) -> bool:
    if name is None:
        return False
    if pattern.endswith("+"):
        return name.startswith(pattern[:-1])
    return name == pattern
