"""Which packets can occur in a pod; no other is a witness.

The fields of a packet depend on each other in ways that rules do not know: a packet to an address of the pod goes
over lo, the first packet of a connection has a socket and no mark on its connection, what comes in is for the pod; a
socket has no mark but those by which policy rules, or those of the capture, route it.
"""

from __future__ import annotations

from capture.analysis.compiler import INBOUND, OUTBOUND, PathCompiler
from capture.analysis.ownership import jumps_to_own_chain
from capture.analysis.rerouting import UNCHANGED, routed_marks
from capture.analysis.space import PROTOCOL_RANGES, Field, PacketSpace, mark_tests
from capture.model import ruleset as model
from capture.model.addresses import LOOPBACK_NETWORKS, Family, Network, merge_ranges, network_ranges, parse_network
from capture.model.conventions import MAX_PORT
from capture.model.packet import KNOWN_CONNECTION_STATES, LOOPBACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from capture.analysis.base_chains import Situation
    from capture.analysis.compiler import Compiler, Direction
    from capture.analysis.outcome import Fate, PendingFate

INVALID = model.ConnectionState(("INVALID",))
NO_HOSTS: dict[Family, tuple[Network, ...]] = {
    "ipv4": (parse_network("0.0.0.0/8"), parse_network("224.0.0.0/3")),  # RFC 1122 3.2.1.3, RFC 5771
    "ipv6": (parse_network("::/128"), parse_network("ff00::/8")),  # RFC 4291 2.5.2, 2.7
}
"""Networks to which no TCP connection is possible."""


def possible_packets(space: PacketSpace, compilers: Sequence[Compiler]) -> dict[Direction, int]:
    """Return for both directions whether a packet can occur, in the network of the first situation."""
    packets = _PossiblePackets(space, [compiler.situation for compiler in compilers])
    possible = {INBOUND: packets.incoming(), OUTBOUND: packets.outgoing()}
    no_mark = space.has_mark("connection", 0, model.ALL_BITS)
    marks = _connection_marks(space, compilers, possible)
    mark = space.diagrams.choose(space.has_state(*KNOWN_CONNECTION_STATES), marks, no_mark)
    return {direction: space.diagrams.both(each, mark) for direction, each in possible.items()}


class _PossiblePackets:
    """Packets of one family, without what their connections remember."""

    def __init__(self, space: PacketSpace, situations: Sequence[Situation]) -> None:
        self.space = space
        self.diagrams = space.diagrams
        self.situation = situation = situations[0]
        own_rules = (rule for each in situations for rule in each.ruleset.rules if jumps_to_own_chain(rule))
        self.may_be_invalid = any(match == INVALID for rule in own_rules for match in rule.matches)
        self.family = space.family
        self.lo = space.number_of(LOOPBACK)
        needed = [each.network for each in situation.ruleset.loopback_addresses if each.network.family == self.family]
        self.own = situation.network.own_addresses(self.family)
        local = [network for network in situation.network.local or () if network.family == self.family]
        by_route = {route.mark for route in situation.network.mark_routes if route.family == self.family}
        self.marks = {0, *by_route}.union(*(routed_marks(each.ruleset) for each in situations))
        """Of sockets: a program sets one (SO_MARK) that leads somewhere; what rules alone test, rules alone set."""
        self.local = (*self.own, *needed, *local, LOOPBACK_NETWORKS[self.family])

    def incoming(self) -> int:
        """Return packets from outside: to the pod's own addresses; by other interfaces than the outward one, to any."""
        space = self.space
        outward = space.number_of(self.situation.network.interface)
        for_us = self._in_networks(Field.DESTINATION, self.own)
        elsewhere = self.diagrams.negation(self._in_networks(Field.DESTINATION, (LOOPBACK_NETWORKS[self.family],)))
        is_outward = space.field_in(Field.IN, [(outward, outward)])
        return self.diagrams.all_of(
            (
                self._usable_interface(Field.IN),
                *map(space.is_absent, (Field.OUT, Field.UID, Field.GID)),
                self.diagrams.choose(is_outward, for_us, elsewhere),
                self.diagrams.negation(space.is_absent(Field.SOURCE)),
                self.diagrams.negation(self._in_networks(Field.SOURCE, (*self.local, *NO_HOSTS[self.family]))),
                space.has_mark("mark", 0, model.ALL_BITS),
                self._always_possible(),
            )
        )

    def outgoing(self) -> int:
        """Return packets that processes of the pod send, from its own addresses."""
        space, choose = self.space, self.diagrams.choose
        stays = self._in_networks(Field.DESTINATION, self.local)
        has_owner = self.diagrams.negation(self.diagrams.either(space.is_absent(Field.UID), space.is_absent(Field.GID)))
        over_lo = space.field_in(Field.OUT, [(self.lo, self.lo)])
        marked = self._has_one_of_marks(routed_marks(self.situation.ruleset))
        has_source = self.diagrams.negation(space.is_absent(Field.SOURCE))
        from_pod = choose(
            over_lo, self._in_networks(Field.SOURCE, self.local), self._in_networks(Field.SOURCE, self.own)
        )
        return self.diagrams.all_of(
            (
                space.is_absent(Field.IN),
                choose(stays, over_lo, self._usable_interface(Field.OUT)),
                # A transparent proxy sends to the app with its mark, and from the client's address.
                self.diagrams.either(from_pod, self.diagrams.all_of((marked, over_lo, has_source))),
                choose(space.has_state("NEW", "RELATED"), has_owner, self.diagrams.yes),
                self._has_one_of_marks(self.marks),
                self._routed_by_mark(),
                self._always_possible(),
            )
        )

    def _has_one_of_marks(self, marks: Iterable[int]) -> int:
        return self.diagrams.any_of(self.space.has_mark("mark", mark, model.ALL_BITS) for mark in sorted(marks))

    def _routed_by_mark(self) -> int:
        """Return packets that leave as the policy rules for their first mark let them, if any is for it."""
        node = self.diagrams.yes
        routes = self.situation.mark_routes(self.family)
        for condition, interface, is_certain in reversed([*self.space.leaving_by_mark(routes)]):
            number = self.space.number_of(interface)
            leaves = self.space.field_in(Field.OUT, [(number, number)]) if interface else self.diagrams.no
            is_free = interface == UNCHANGED or not is_certain
            node = self.diagrams.choose(condition, self.diagrams.yes if is_free else leaves, node)
        return node

    def _always_possible(self) -> int:
        """Return what holds for all packets: ports, a possible destination, a state of connection tracking.

        TCP and UDP are RELATED by a helper alone (nf_conntrack_helper.c): a rule assigns it, which cannot be judged.
        No packet of a connection is INVALID; others count where the capture drops them (--drop-invalid).
        """
        space = self.space
        udp = space.field_in(Field.PROTOCOL, PROTOCOL_RANGES["udp"])
        no_hosts = self._in_networks(Field.DESTINATION, NO_HOSTS[self.family])
        return self.diagrams.all_of(
            (
                space.has_state("NEW", "ESTABLISHED", *(["INVALID"] if self.may_be_invalid else ())),
                space.field_in(Field.PORT, [(1, MAX_PORT)]),
                space.field_in(Field.SOURCE_PORT, [(1, MAX_PORT)]),
                self.diagrams.either(udp, self.diagrams.negation(no_hosts)),
            )
        )

    def _usable_interface(self, level: int) -> int:
        """Return whether a packet uses an interface that exists, or that rules name, but not lo."""
        usable = self.space.usable_interfaces[level]
        return self.space.field_in(level, merge_ranges((number, number) for number in usable))

    def _in_networks(self, level: int, networks: Iterable[Network]) -> int:
        return self.space.field_in(level, network_ranges(networks))


# --- marks of connections ------------------------------------------------------------------------

OTHER_MARK = "other"


class MarkCompiler(PathCompiler):
    """The mark that packets of one direction leave on their connection: one of some, or OTHER_MARK.

    It is None for packets that are dropped: there is no connection.
    """

    def __init__(self, compiler: Compiler, direction: Direction, marks: Sequence[int]) -> None:
        super().__init__(compiler, direction)
        self._marks = self.diagrams.leaf(OTHER_MARK)
        for mark in marks:
            is_so = self.space.has_mark("connection", mark, model.ALL_BITS)
            self._marks = self.diagrams.choose(is_so, self.diagrams.leaf(mark), self._marks)

    def _fate_at_end(self, pending: PendingFate) -> int:  # noqa: ARG002  # a mark stays, whatever becomes of the packet
        return self._marks

    def _fate_node(self, fate: Fate) -> int:  # noqa: ARG002  # PathCompiler asks for "dropped" alone here
        return self.diagrams.leaf(None)

    def _with_later_packets(self, node: int) -> int:
        return node


def _connection_marks(space: PacketSpace, compilers: Sequence[Compiler], possible: dict[Direction, int]) -> int:
    """Return which marks connections can have; of each protocol by itself, since no connection changes it."""
    diagrams = space.diagrams
    rules = [rule for compiler in compilers for rule in compiler.situation.rules]
    if not any(isinstance(rule.verdict, model.SaveMark) for rule in rules):
        return space.has_mark("connection", 0, model.ALL_BITS)
    constants = sorted({0} | {mark for rule in rules for mark, _ in mark_tests(rule)})
    saved_marks = [
        (space.switches.expanded(MarkCompiler(compiler, direction, constants).root()), packets)
        for compiler in compilers
        for direction, packets in possible.items()
    ]
    udp = space.field_in(Field.PROTOCOL, PROTOCOL_RANGES["udp"])
    node = diagrams.no
    for kind in (udp, diagrams.negation(udp)):
        saved_by_kind = [(marks, diagrams.both(packets, kind)) for marks, packets in saved_marks]
        node = diagrams.either(node, diagrams.both(kind, _possible_marks(space, saved_by_kind)))
    return node


def _possible_marks(space: PacketSpace, saved_marks: Sequence[tuple[int, int]]) -> int:
    """Return which marks connections can have: those that packets leave there, in any of the situations.

    That is the least set that holds 0 and, with a mark, every mark that rules make of it. If rules save marks that
    are no constants, it is every mark.
    """
    diagrams = space.diagrams
    node = space.has_mark("connection", 0, model.ALL_BITS)
    of_connection = diagrams.no
    while of_connection != node:
        of_connection = node
        for marks, packets in saved_marks:
            met = diagrams.choose(diagrams.both(packets, of_connection), marks, diagrams.leaf(None))
            for leaf in diagrams.leaves(met):
                mark = diagrams.value(leaf)
                if mark == OTHER_MARK:
                    return diagrams.yes
                if isinstance(mark, int):
                    node = diagrams.either(node, space.has_mark("connection", mark, model.ALL_BITS))
    return of_connection
