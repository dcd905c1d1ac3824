"""Packets that tell two rule sets apart: the proof that a difference matters, or the sign that it does not.

A packet that goes elsewhere must match one of the rules that differ. So for each of them packets are
made that match it, with all that the rule leaves open taken from the boundaries that occur in either rule
set: the first and the last of every range, and what lies just outside.
"""

from __future__ import annotations

from itertools import islice

from capture.analysis.trace import Trace, is_inside, judge, trace
from capture.model.addresses import BITS, IPV4, Network
from capture.model.packet import LOOPBACK, Packet
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    ConnectionMark,
    ConnectionState,
    Destination,
    DestinationPort,
    InInterface,
    Jump,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    RestoreMark,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    Source,
    SourcePort,
    Span,
)
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from capture.analysis.foreign import ForeignChain
    from capture.analysis.stations import PodNetwork
    from capture.model.addresses import Family
    from capture.model.ruleset import Match, ProtocolName, TableName

    Way = Literal["inbound", "over lo", "outbound"]

INBOUND: Way = "inbound"
OVER_LO: Way = "over lo"
"""Sent by the pod to itself, as it comes in again."""
OUTBOUND: Way = "outbound"

MAX_TRIES = 6000
"""Packets that are tried for one difference and way of a packet; a trace takes some 20 microseconds."""

APP_ID = 1000
EPHEMERAL_PORT = 45000
PORT_IN_QUESTION = 80


class Example(Value):
    """A packet that goes one way by the rules that were asked for, and another by those that are there."""

    packet: Packet
    asked: Trace
    live: Trace

    @property
    def is_plain(self) -> bool:
        """Return whether it ends elsewhere beyond doubt; else only its mark is another, or it may meet another rule."""
        elsewhere = (self.asked.outcome, self.asked.port) != (self.live.outcome, self.live.port)
        return elsewhere and self.asked.certain and self.live.certain


def example(
    desired: Ruleset,
    live: Ruleset,
    family: Family,
    table: TableName,
    chain: str,
    rule: Rule | None,
    pod_network: PodNetwork,
) -> Example | None:
    """Return a packet that matches the rule and fares otherwise by the live rules, a plain example if there is one.

    None if no packet is found. Without a rule, a whole chain is in question (its policy): any packet of its hook
    will do.
    """
    boundaries = _Boundaries((desired, live), family, pod_network)
    return _best(
        Example(packet, trace(desired, packet), trace(live, packet))
        for way in _ways(table, _hooks(desired, live, table, chain))
        for packet in islice(boundaries.packets(rule, way), MAX_TRIES)
    )


def _best(tried: Iterable[Example]) -> Example | None:
    """Return the first plain example of those whose packet fares otherwise; else the first of them."""
    first: Example | None = None
    for each in tried:
        if each.asked.fate != each.live.fate:
            if each.is_plain:
                return each
            first = first or each
    return first


def disturbance(
    desired: Ruleset, foreign_chain: ForeignChain, rule: Rule | None, pod_network: PodNetwork
) -> Example | None:
    """Return a packet that is captured by our rules alone and fares otherwise where a bystander's own rule meets it.

    Without a rule: by the bystander's policy. A plain example if there is one; None if no packet is found.
    """
    return _best(
        tried
        for family in foreign_chain.families
        if family in desired.families and (rule is None or rule.family in (None, family))
        for tried in _beside(desired, foreign_chain, rule, family, pod_network)
    )


def _beside(
    desired: Ruleset, foreign_chain: ForeignChain, rule: Rule | None, family: Family, pod_network: PodNetwork
) -> Iterator[Example]:
    """Yield what becomes of packets that are captured, where the rule meets them."""
    harmless = () if rule else (_accepting(foreign_chain),)
    boundaries = _Boundaries((desired, Ruleset((family,), (foreign_chain.contents,))), family, pod_network)
    for way in _ways(NAT if foreign_chain.is_nat else MANGLE, (foreign_chain.hook,)):
        for packet in islice(boundaries.packets(rule, way), MAX_TRIES):
            asked = trace(desired, packet, harmless)
            if asked.outcome != "direct" or asked.marked:
                there = trace(desired, packet, (foreign_chain,))
                if rule is None or any(step.rule is rule for step in there.path):
                    yield Example(packet, asked, there)


def _accepting(foreign_chain: ForeignChain) -> ForeignChain:
    """Return the bystander with another policy."""
    entry, *others = foreign_chain.contents.chains
    accepting = entry.replace(policy="ACCEPT", ipv6_policy=None)
    return foreign_chain.replace(contents=foreign_chain.contents.replace(chains=(accepting, *others)))


def diverted(desired: Ruleset, other: Ruleset, pod_network: PodNetwork) -> Example | None:
    """Return a packet that a second rule set beside the desired one sends elsewhere; None if none is found.

    Of hooks with one priority the kernel asks the one first that was registered last (nf_hook_entries_grow
    in net/netfilter/core.c), so a set that came later decides where it does anything at all.
    """
    for family in other.families:
        boundaries = _Boundaries((desired, other), family, pod_network)
        for way in (INBOUND, OUTBOUND):
            for packet in islice(boundaries.packets(None, way), MAX_TRIES):
                asked, there = trace(desired, packet), trace(other, packet)
                if there.outcome != "direct" and (asked.outcome, asked.port) != (there.outcome, there.port):
                    return Example(packet, asked, there)
    return None


def _ways(table: TableName, hooks: tuple[str, ...]) -> tuple[Way, ...]:
    """Return by which ways packets come to a table at these hooks; nat is not asked again about what came over lo."""
    inbound: tuple[Way, ...] = (INBOUND,) if table == NAT else (INBOUND, OVER_LO)
    return (inbound if PREROUTING in hooks else ()) + ((OUTBOUND,) if OUTPUT in hooks else ())


def _hooks(desired: Ruleset, live: Ruleset, table: TableName, chain: str) -> tuple[str, ...]:
    """Return the hooks from which a chain can be reached in either rule set."""
    hooks = tuple(
        hook
        for hook in (PREROUTING, OUTPUT)
        if any(chain in _reached(ruleset, table, hook) for ruleset in (desired, live))
    )
    return hooks or (PREROUTING, OUTPUT)


def _reached(ruleset: Ruleset, table: TableName, hook: str) -> set[str]:
    """Return the chains of a table that a packet may enter from a built-in chain, itself included."""
    known = ruleset.table(table)
    chains = known.chains if known else ()
    jumps = {c.name: {rule.verdict.chain for rule in c.rules if isinstance(rule.verdict, Jump)} for c in chains}
    reached, frontier = {hook}, [hook]
    while frontier:
        new = jumps.get(frontier.pop(), set()) - reached
        reached |= new
        frontier += new
    return reached


class _Boundaries:
    """The values worth trying in each dimension of a packet."""

    def __init__(self, rulesets: Iterable[Ruleset], family: Family, pod_network: PodNetwork) -> None:
        self.family = family
        self.pod_network = pod_network
        own = pod_network.own_address(family)
        bits = BITS[family]
        loopback = Network(family, 0x7F000001 if family == IPV4 else 1, bits)
        passthrough = Network(family, 0x7F000006 if family == IPV4 else 6, bits)
        elsewhere = Network(family, 0xCB007107 if family == IPV4 else 0x20010DB8 << 96 | 7, bits)
        self.here = own or loopback
        self.outbound = dict.fromkeys([elsewhere, self.here, loopback])
        self.sources = dict.fromkeys([elsewhere])
        self.local_sources = dict.fromkeys([self.here, passthrough])
        self.ports = dict.fromkeys([PORT_IN_QUESTION])
        self.ids = dict.fromkeys([APP_ID])
        self.in_interfaces = dict.fromkeys([pod_network.interface])
        self.marks: dict[int, None] = {}
        self.connection_marks: dict[int, None] = {}
        self.protocols: tuple[ProtocolName, ...] = ("tcp", "udp")
        for ruleset in rulesets:
            for table in ruleset.tables:
                for chain in table.chains:
                    for rule in chain.rules_for(family):
                        for match in rule.matches:
                            self._note(match)

    def _note(self, match: Match) -> None:
        match match:
            case Destination(networks=networks):
                self.outbound.update(dict.fromkeys(self._edges(networks)))
            case Source(networks=networks):
                self.sources.update(dict.fromkeys(self._edges(networks)))
            case DestinationPort(ports=spans):
                self.ports.update(dict.fromkeys(_edges(spans, 1, 65535)))
            case OwnerUid(ids=spans) | OwnerGid(ids=spans):
                self.ids.update(dict.fromkeys(_edges(spans, 0, 0xFFFF_FFFE)))
            case InInterface(name=name):
                self.in_interfaces[name.replace("+", "0")] = None
            case Mark(value=value):
                self.marks[value] = None
            case ConnectionMark(value=value):
                self.connection_marks[value] = None
            case _:
                pass

    def _edges(self, networks: tuple[Network, ...]) -> Iterator[Network]:
        """Yield the first and last address of networks, and their neighbours outside."""
        bits = BITS[self.family]
        for network in networks[:64]:
            for address in (network.first, network.last, network.first - 1, network.last + 1):
                if network.family == self.family and 0 < address < (1 << bits) - 1:
                    yield Network(self.family, address, bits)

    def packets(self, rule: Rule | None, way: Way) -> Iterator[Packet]:
        """Yield packets of one way that match the rule as far as its own matches can be met."""
        wanted = rule.matches if rule else ()
        protocols = [m.name for m in wanted if isinstance(m, Protocol)] or self.protocols
        make = self._inbound_packets if way == INBOUND else self._outbound_packets
        changes_marks = rule is not None and isinstance(rule.verdict, SetMark | RestoreMark | SaveMark)
        for protocol in protocols:
            for made in make(protocol, wanted):
                for packet in self._with_marks(made) if changes_marks and way != INBOUND else (made,):
                    if _may_hold(wanted, packet, way):
                        yield packet

    def _with_marks(self, packet: Packet) -> Iterator[Packet]:
        """Yield what the pod sends, and with each mark that some rule asks for: its own, or its connection's."""
        yield packet
        yield from (packet.replace(mark=mark) for mark in self.marks)
        yield from (packet.replace(connection_mark=mark, state="ESTABLISHED") for mark in self.connection_marks)

    def _inbound_packets(self, protocol: ProtocolName, wanted: tuple[Match, ...]) -> Iterator[Packet]:
        for port in self._some_ports(wanted):
            for source in self._some(Source, wanted, self.sources):
                for interface in self.in_interfaces:
                    for state in _states(wanted):
                        yield Packet(
                            protocol,
                            self.here,
                            port,
                            source=source,
                            source_port=_source_port(wanted),
                            in_interface=interface,
                            mark=_mark(wanted),
                            state=state,
                        )

    def _outbound_packets(self, protocol: ProtocolName, wanted: tuple[Match, ...]) -> Iterator[Packet]:
        for destination in self._some(Destination, wanted, self.outbound):
            for uid, gid in self._owners(wanted):
                for port in self._some_ports(wanted):
                    for interface, sources in self._ways_out(destination, wanted):
                        for source in sources:
                            yield Packet(
                                protocol,
                                destination,
                                port,
                                source=source,
                                source_port=_source_port(wanted),
                                uid=uid,
                                gid=gid,
                                out_interface=interface,
                                mark=_mark(wanted),
                                connection_mark=_connection_mark(wanted),
                            )

    def _ways_out(self, destination: Network, wanted: tuple[Match, ...]) -> Iterator[tuple[str, list[Network]]]:
        """Yield through which interface a destination is reached, and from which addresses."""
        if destination.is_loopback:
            yield LOOPBACK, [destination]
        elif destination == self.here:
            yield LOOPBACK, list(self.local_sources)
        else:
            named = [m.name.replace("+", "0") for m in wanted if isinstance(m, OutInterface) and not m.negated]
            for interface in [name for name in named if name != LOOPBACK] or [self.pod_network.interface]:
                yield interface, [self.here]

    def _some(
        self, kind: type[Source | Destination], wanted: tuple[Match, ...], pool: dict[Network, None]
    ) -> list[Network]:
        """Return addresses that meet the rule's own match, or all boundaries."""
        for match in wanted:
            if isinstance(match, kind):
                return [address for address in pool if is_inside(address, match.networks) != match.negated]
        return list(pool)

    def _some_ports(self, wanted: tuple[Match, ...]) -> list[int]:
        for match in wanted:
            if isinstance(match, DestinationPort):
                return [port for port in self.ports if any(s.contains(port) for s in match.ports) != match.negated]
        return list(self.ports)

    def _owners(self, wanted: tuple[Match, ...]) -> Iterator[tuple[int, int]]:
        """Yield pairs of uid and gid: equal ones first, as processes have them."""
        uids, gids = list(self.ids), list(self.ids)
        for match in wanted:
            if isinstance(match, OwnerUid):
                uids = [number for number in uids if any(s.contains(number) for s in match.ids) != match.negated]
            if isinstance(match, OwnerGid):
                gids = [number for number in gids if any(s.contains(number) for s in match.ids) != match.negated]
        yield from ((number, number) for number in uids if number in gids)
        yield from ((uid, gid) for uid in uids for gid in gids if uid != gid)


def _edges(spans: tuple[Span, ...], lowest: int, highest: int) -> Iterator[int]:
    for span in spans:
        for number in (span.first, span.last, span.first - 1, span.last + 1):
            if lowest <= number <= highest:
                yield number


def _may_hold(matches: tuple[Match, ...], packet: Packet, way: Way) -> bool:
    """Return whether a packet may fulfil the matches of a rule to which it comes this way."""
    if way == OVER_LO:
        if packet.out_interface != LOOPBACK:
            return False
        packet = packet.replace(in_interface=LOOPBACK, out_interface=None)
        matches = tuple(match for match in matches if not isinstance(match, Mark))  # which it may get before
    return judge(Rule(Jump(""), matches), packet) is not False


def _states(wanted: tuple[Match, ...]) -> tuple[str, ...]:
    for match in wanted:
        if isinstance(match, ConnectionState) and not match.negated:
            return match.states
    return ("NEW",)


def _mark(wanted: tuple[Match, ...]) -> int:
    return next((match.value for match in wanted if isinstance(match, Mark) and not match.negated), 0)


def _connection_mark(wanted: tuple[Match, ...]) -> int:
    return next((match.value for match in wanted if isinstance(match, ConnectionMark) and not match.negated), 0)


def _source_port(wanted: tuple[Match, ...]) -> int:
    spans = next((match.ports for match in wanted if isinstance(match, SourcePort) and not match.negated), None)
    return spans[0].first if spans else EPHEMERAL_PORT
