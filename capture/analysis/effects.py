"""Which packets two situations treat differently, exactly, with the most ordinary packet of each difference.

Every value of the difference is one of three: the packet is treated alike, it is certainly treated differently, or that
depends on a match, a verdict or an order of chains that cannot be judged. A packet on which something else decides is
not in doubt.
"""

from __future__ import annotations

from functools import partial

from capture.analysis.captured_pod import ROOT, proxy_id_ranges
from capture.analysis.chains import UNKNOWN_FATE
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler
from capture.analysis.outcome import DNS, PROXY_INBOUND, PROXY_OUTBOUND, TO_PROXY, Fate
from capture.analysis.possible_packets import possible_packets
from capture.analysis.regions import region_text, regions_of, witness
from capture.analysis.replies import lost_reply, untracking_step
from capture.analysis.rerouting import routed_marks
from capture.analysis.space import Field, PacketSpace
from capture.analysis.trace import Trace, trace_whole_path
from capture.model.addresses import LOOPBACK_NETWORKS, Family, merge_ranges, network_ranges
from capture.model.conventions import PASSTHROUGH_SOURCE
from capture.model.packet import EPHEMERAL_PORTS, KNOWN_CONNECTION_STATES, LOOPBACK, Packet
from capture.model.ruleset import (
    ALL_BITS,
    CONNECTION_STATES,
    OwnerGid,
    OwnerUid,
    Redirect,
    Rule,
    Ruleset,
    TransparentProxy,
)
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator

    from capture.analysis.base_chains import Situation
    from capture.analysis.compiler import Direction
    from capture.analysis.outcome import Outcome


MAX_EFFECTS = 24
"""With more kinds of difference in one direction, packets are grouped by their outcome before."""
MANY_ADDRESSES = "elsewhere"
"""The value where packets are sent to one of many addresses to which they were not sent before."""
NEW = CONNECTION_STATES.index("NEW")


class FateChange(Value):
    """The fates of packets before and after; ``after`` is None where it is unknown.

    ``is_certain`` is False where something that cannot be judged decides whether they differ. ``is_loop`` is whether
    they are the proxy's own, and come back to it.
    """

    before: Fate
    after: Fate | None
    is_certain: bool = True
    is_loop: bool = False

    @property
    def is_certain_diversion(self) -> bool:
        """Return whether packets certainly go elsewhere; False where they only carry another mark."""
        is_moved = self.after is None or self.before.replace(is_marked=False) != self.after.replace(is_marked=False)
        return self.is_certain and is_moved


class Effect(Value):
    """Packets that are treated differently, all in the same way.

    ``packet`` is the witness, ``before`` and ``after`` its way in both situations, ``regions`` are the packets in
    words. ``is_certain`` is False where it depends on something that cannot be judged.
    """

    not_compared = ("before", "after")

    family: Family
    direction: Direction
    packet: Packet
    before: Trace
    after: Trace
    change: FateChange
    regions: tuple[str, ...]

    @property
    def weight(self) -> tuple[bool, ...]:
        """Return what orders effects, the heaviest first."""
        return weight(self.change, self.direction)

    @property
    def is_certain(self) -> bool:
        """Return whether the packets are certainly treated differently."""
        return self.change.is_certain


class Comparison:
    """Two situations, as packets of one family meet them. The first one decides which packets are possible.

    ``compiler`` is one of the first situation, in a space that knows all rules of both. Raises TooLargeError where
    rules are too entangled to be judged.
    """

    def __init__(
        self, family: Family, before: Situation, after: Situation, *, compiler: Compiler | None = None
    ) -> None:
        self.family = family
        self.space = compiler.space if compiler else PacketSpace(family, (before, after))
        self.diagrams = self.space.diagrams
        self.situations = before, after
        self._compilers = compiler or Compiler(self.space, before), Compiler(self.space, after)
        self._possible = possible_packets(self.space, self._compilers)
        self._nothing = self.diagrams.leaf(None)
        self._fates: dict[Direction, tuple[int, int]] = {}

    def with_after(self, after: Situation) -> Comparison:
        """Return the comparison with another second situation, which has no rules but those of these two."""
        return Comparison(self.family, self.situations[0], after, compiler=self._compilers[0])

    def effects(self, *, only_captured: bool = False, like: Comparison | None = None) -> Iterator[Effect]:
        """Yield what differs for first packets of connections without a mark; if nothing does, for others.

        ``only_captured`` keeps captured packets, those that the proxy sends on, and later ones of such connections;
        ``like`` keeps those that fare alike in another comparison with the first situation.
        """
        for direction in (INBOUND, OUTBOUND):
            node = self.difference(direction, only_captured=only_captured)
            if like is not None:
                node = self.diagrams.where_equal(node, like.difference(direction), self._nothing)
            for frame in self._search_frames() if node != self._nothing else ():
                framed = self.space.switches.expanded(self.diagrams.choose(frame, node, self._nothing))
                if framed != self._nothing:
                    yield from self._effects_in_frame(direction, framed, frame)
                    break

    def is_doubtful(self, among: Comparison) -> bool:
        """Return whether a packet that another comparison tells apart may fare otherwise, which cannot be judged."""
        for direction in (INBOUND, OUTBOUND):
            told_apart = self.diagrams.mapped(among.difference(direction), lambda each: each is not None, "told apart")
            node = self.diagrams.choose(told_apart, self.difference(direction, only_captured=True), self._nothing)
            if any(not each.is_certain for each in self._fate_changes(node)[1]):
                return True
        return False

    def first(self, apart_from: Collection[Rule | None] = ()) -> Effect | None:
        """Return the heaviest of what differs for captured packets, without its regions; None if nothing does.

        Packets that certain rules may match are left out; with None for a policy, all.
        """
        effects = (self._heaviest_captured(direction, apart_from) for direction in (INBOUND, OUTBOUND))
        return min((each for each in effects if each is not None), key=lambda each: each.weight, default=None)

    def _heaviest_captured(self, direction: Direction, apart_from: Collection[Rule | None]) -> Effect | None:
        node = self.difference(direction, only_captured=True)
        for rule in apart_from if node != self._nothing else ():
            matched = self.diagrams.yes if rule is None else self._may_match(rule)
            node = self.diagrams.choose(matched, self._nothing, node)
        for frame in self._search_frames():
            framed, changes = self._fate_changes(self.diagrams.choose(frame, node, self._nothing))
            for change in sorted(changes, key=lambda each: weight(each, direction)):
                packets = self.diagrams.mapped(framed, change.__eq__, ("is", change))
                packet = witness(self.space, packets, direction)
                if packet is not None:
                    return self._traced_effect(direction, change, packet)
        return None

    def _may_match(self, rule: Rule) -> int:
        """Return packets that a rule may match, wherever on their way they come to it, and with whatever mark."""
        matches = self.space.rule(rule, ("any", rule), is_native=self.situations[0].is_native)
        changing = {Field.IN, Field.OUT, *range(Field.COUNT, len(self.space.domains))}
        return self.diagrams.exists(matches, changing)

    def _search_frames(self) -> Iterator[int]:
        """Yield sets of packets, the most ordinary ones first."""
        new = self.space.has_state("NEW")
        yield self.diagrams.both(new, self.space.has_mark("mark", 0, ALL_BITS))
        yield new
        yield self.diagrams.yes

    def difference(self, direction: Direction, *, only_captured: bool = False) -> int:
        """Return None for packets that are treated alike, else a FateChange; long lists stay switches."""
        if direction not in self._fates:
            fates = [compiler.fates_with_switches(direction) for compiler in self._compilers]
            self._fates[direction] = fates[0], self._with_joined_addresses(*fates)
        before, after = self._fates[direction]
        if before == after:
            return self._nothing
        among = self._possible[direction]
        if only_captured:
            among = self.diagrams.both(among, self._relevant_packets(direction, before, after))
        raw = self.diagrams.choose(among, self.diagrams.difference(before, after), self._nothing)
        node = self.space.folded(raw, _fate_change, "effects")
        if direction == INBOUND:
            delivered = self.diagrams.mapped(node, _none_if_delivered, "unless delivered")
            return self.diagrams.choose(self._has_pod_socket(), delivered, node)
        source = PASSTHROUGH_SOURCE[self.family].first
        passed_on = self.diagrams.both(self._is_by_proxy(), self.space.field_in(Field.SOURCE, [(source, source)]))
        for packets, loop_outcomes in ((self._is_by_proxy(), (PROXY_OUTBOUND, DNS)), (passed_on, TO_PROXY)):
            mark = partial(_marked_as_loop, loop_outcomes=loop_outcomes)
            looped = self.diagrams.mapped(node, mark, ("of the proxy", loop_outcomes))
            node = self.diagrams.choose(packets, looped, node)
        return node

    def _with_joined_addresses(self, before: int, after: int) -> int:
        """Return the fates after; new destinations, if they are many, as MANY_ADDRESSES.

        A table of services has thousands, and a report names them together.
        """
        fates = [self.diagrams.value(leaf) for leaf in self.diagrams.leaves(after)]
        if len(fates) <= MAX_EFFECTS:
            return after
        known = {self.diagrams.value(leaf) for leaf in self.diagrams.leaves(before)}
        new = {fate for fate in fates if isinstance(fate, Fate) and fate.address and fate not in known}
        return self.diagrams.mapped(after, lambda fate: MANY_ADDRESSES if fate in new else fate, "new addresses joined")

    def _relevant_packets(self, direction: Direction, before: int, after: int) -> int:
        """Return packets that the capture is for: captured ones, the proxy's own, and those that follow a first one."""
        diagrams, space = self.diagrams, self.space
        known = space.switches.expanded(diagrams.mapped(before, _is_captured, "captured"))
        captured = diagrams.both(known, self._possible[direction])
        if self.situations[0].ruleset.transparent_verdicts:
            captured = diagrams.both(captured, diagrams.negation(self._is_never_sent(direction)))
        marks = [space.mark_level("connection", group) for group in range(len(space.groups))]
        by_any_user = diagrams.exists(captured, [Field.UID, Field.GID, *marks])
        by_proxy = self._is_by_proxy()
        first = diagrams.either(diagrams.exists(captured, marks), diagrams.both(by_any_user, by_proxy))
        replies = diagrams.no
        if direction == OUTBOUND and not self.situations[0].ruleset.transparent_verdicts:
            calls, replies = self._app_calls_and_replies()
            first = diagrams.either(first, diagrams.both(calls, by_proxy))
        lo = space.number_of(LOOPBACK)
        # Over lo, later packets of a redirected connection have another destination, by which they cannot be judged.
        has_port = diagrams.mapped(before, lambda fate: isinstance(fate, Fate) and fate.port is not None, "redirected")
        redirected = space.switches.expanded(has_port)
        stays = diagrams.both(redirected, space.field_in(Field.OUT, [(lo, lo)]))
        later = diagrams.restricted(diagrams.both(first, diagrams.negation(stays)), Field.STATE, NEW)
        follows = diagrams.both(space.has_state("ESTABLISHED", "RELATED"), later)
        newly = diagrams.mapped(after, _is_captured, "captured")
        return diagrams.any_of((first, follows, newly, replies))

    def _has_pod_socket(self) -> int:
        """Return packets of connections to the pod that have a socket: they come to it with whatever mark."""
        if not self.situations[0].ruleset.transparent_verdicts:
            return self.diagrams.no
        own = self.situations[0].network.own_addresses(self.family)
        is_own = self.space.field_in(Field.DESTINATION, network_ranges(own))
        return self.diagrams.both(is_own, self.space.has_state(*KNOWN_CONNECTION_STATES))

    def _is_never_sent(self, direction: Direction) -> int:
        """Return packets that a transparent capture would take, and that no client and no process sends.

        None calls a port of the proxy by its number. Processes of the users that the settings name would be sent their
        own calls; the proxy's calls to the app are its own, and have the client's address.
        """
        diagrams, space, ruleset = self.diagrams, self.space, self.situations[0].ruleset
        ports, loopback = _ports_of_proxy(ruleset), network_ranges((LOOPBACK_NETWORKS[self.family],))
        if direction == INBOUND:
            return space.field_in(Field.PORT, ports)
        marks = (
            space.has_mark(kind, mark, ALL_BITS) for kind in ("mark", "connection") for mark in routed_marks(ruleset)
        )
        of_no_client = diagrams.any_of(space.field_in(level, loopback) for level in (Field.SOURCE, Field.DESTINATION))
        begun = diagrams.both(space.has_state("NEW"), diagrams.negation(self._is_by_proxy()))
        of_others = diagrams.both(diagrams.any_of(marks), diagrams.either(of_no_client, begun))
        of_ports = diagrams.any_of(space.field_in(level, ports) for level in (Field.PORT, Field.SOURCE_PORT))
        by_lo = space.field_in(Field.OUT, [(space.number_of(LOOPBACK),) * 2])
        of_users = space.field_in(Field.UID, merge_ranges(proxy_id_ranges(ruleset, OwnerUid)))
        return diagrams.any_of((of_users, of_others, diagrams.both(by_lo, of_ports)))

    def _is_by_proxy(self) -> int:
        ruleset, numbers = self.situations[0].ruleset, self.space.field_in
        users = [(ROOT, ROOT)] if ruleset.transparent_verdicts else merge_ranges(proxy_id_ranges(ruleset, OwnerUid))
        groups = merge_ranges(proxy_id_ranges(ruleset, OwnerGid))
        return self.diagrams.both(numbers(Field.UID, users), numbers(Field.GID, groups))

    def _app_calls_and_replies(self) -> tuple[int, int]:
        """Return packets that begin a call to the app of what came in, over lo from PASSTHROUGH_SOURCE, and replies.

        With TPROXY they have the client's address, and a mark by which they count as captured.
        """
        diagrams, space = self.diagrams, self.space
        captured = diagrams.mapped(self._compilers[0].fates(INBOUND), _is_captured, "captured")
        other_levels = {*range(len(space.domains))} - {Field.PROTOCOL, Field.PORT, Field.DESTINATION}
        called = diagrams.exists(diagrams.both(captured, self._possible[INBOUND]), other_levels)
        of_proxy = space.field_in(Field.PORT, _ports_of_proxy(self.situations[0].ruleset))
        called = diagrams.both(called, diagrams.negation(of_proxy))
        swapped = {Field.PORT: Field.SOURCE_PORT, Field.DESTINATION: Field.SOURCE}
        replying = diagrams.renamed(called, swapped, "replies")
        lo, proxy = space.number_of(LOOPBACK), PASSTHROUGH_SOURCE[self.family].first

        def packets_over_lo(node: int, level: int, state: str) -> int:
            by_lo, is_proxy = space.field_in(Field.OUT, [(lo, lo)]), space.field_in(level, [(proxy, proxy)])
            return diagrams.all_of((node, by_lo, is_proxy, space.has_state(state)))

        # A later packet with a socket would meet nat like a first one, which a reply does not.
        back = (replying, space.is_absent(Field.UID), space.field_in(Field.PORT, [EPHEMERAL_PORTS]))
        reply = packets_over_lo(diagrams.all_of(back), Field.DESTINATION, "ESTABLISHED")
        return packets_over_lo(called, Field.SOURCE, "NEW"), reply

    def _effects_in_frame(self, direction: Direction, node: int, frame: int) -> Iterator[Effect]:
        among = self.diagrams.both(self._possible[direction], frame)
        node, changes = self._fate_changes(node)
        for change in changes:
            packets = self.diagrams.mapped(node, change.__eq__, ("is", change))
            packet = witness(self.space, packets, direction)
            described = regions_of(self.space, packets, among)
            if packet is not None:
                effect = self._traced_effect(direction, change, packet)
                yield effect.replace(regions=tuple(region_text(self.space, part) for part in described))

    def changes(self, direction: Direction) -> list[FateChange]:
        """Return in which ways packets of a direction are treated differently."""
        return self._fate_changes(self.difference(direction))[1]

    def _fate_changes(self, node: int) -> tuple[int, list[FateChange]]:
        """Return what differs, and in which ways; if they are many, by the fate before."""
        if len(self.diagrams.leaves(node)) > MAX_EFFECTS:
            node = self.diagrams.mapped(
                node, lambda value: value.replace(after=None) if isinstance(value, FateChange) else value, "by before"
            )
        values = [self.diagrams.value(leaf) for leaf in self.diagrams.leaves(node)]
        return node, [value for value in values if isinstance(value, FateChange)]

    def _traced_effect(self, direction: Direction, change: FateChange, packet: Packet) -> Effect:
        before, after = (trace_whole_path(packet, situation) for situation in self.situations)
        if untracking_step(after) is not None:
            after = after.replace(lost_reply=lost_reply(after, self.situations[1]))
        return Effect(self.family, direction, packet, before, after, change, ())


def weight(change: FateChange, direction: Direction) -> tuple[bool, ...]:
    """Return what orders effects: the certain ones first, loops, those of captured packets, of apps and clients."""
    outcomes = (change.before.outcome, change.after.outcome if change.after else None)
    is_everyday = PROXY_OUTBOUND in outcomes or direction == INBOUND
    is_direct = change.before.outcome == "direct"
    return not change.is_certain, not change.is_certain_diversion, not change.is_loop, is_direct, not is_everyday


def _ports_of_proxy(ruleset: Ruleset) -> list[tuple[int, int]]:
    verdicts = (rule.verdict for rule in ruleset.rules)
    return merge_ranges((each.port, each.port) for each in verdicts if isinstance(each, Redirect | TransparentProxy))


def _none_if_delivered(value: Hashable) -> Hashable:
    """Return None for a change after which packets come to their socket as before."""
    if not isinstance(value, FateChange) or value.after is None:
        return value
    before, after = value.before, value.after
    arrives = all(each.outcome in (PROXY_INBOUND, "direct") and not each.address for each in (before, after))
    return None if arrives and before.is_marked == after.is_marked else value


def _is_captured(fate: Hashable) -> bool:
    return isinstance(fate, Fate) and (fate.outcome in TO_PROXY or fate.is_marked)


def _marked_as_loop(value: Hashable, loop_outcomes: Collection[Outcome]) -> Hashable:
    """Return the change of packets of the proxy, as a loop if they went past it and now come back to it.

    Its calls to its own pod may come in through it, as any other call; what it passes on to the app may not.
    """
    if not isinstance(value, FateChange) or value.before.outcome != "direct" or value.after is None:
        return value
    return value.replace(is_loop=value.after.outcome in loop_outcomes)


def _fate_change(values: list[Hashable]) -> FateChange | None:
    """Return the change of packets for which each of some values is possible."""
    pairs = [value for value in values if isinstance(value, tuple)]
    if not pairs:
        return None
    before = pairs[0][0]
    afters = {after for _, after in pairs}
    if len(pairs) < len(values) or UNKNOWN_FATE in afters or not isinstance(before, Fate):
        return FateChange(before if isinstance(before, Fate) else Fate("direct"), None, is_certain=False)
    after = next(iter(afters)) if len(afters) == 1 else None
    return FateChange(before, after if isinstance(after, Fate) else None)
