"""All rules of a situation as two functions: the fate of each packet that comes in, and of each that is sent.

The semantics are those of ``trace``; tests compare the two. A packet's way is compiled from its end:
what a rule does is a change of the function of all that comes after it. A verdict chooses another function, a mark
that is set fixes fields of the rest, a redirect fixes port and address of what later tables see, and lo leads on to
what PREROUTING makes of it.
"""

from __future__ import annotations

from capture.analysis.chains import CHANGED_MATCH, UNKNOWN_FATE, ChainCompiler, is_about_tracking
from capture.analysis.long_lists import DecisionList
from capture.analysis.meaning import effective_verdict, losing_rule
from capture.analysis.outcome import PROXY_INBOUND, Fate, PendingFate, redirect_outcome
from capture.analysis.rerouting import routed_marks
from capture.analysis.space import ABSENT, PROTOCOL_RANGES, Field, PacketSpace
from capture.model import ruleset as model
from capture.model.addresses import LOOPBACK_ADDRESSES, LOOPBACK_NETWORKS, Network, merge_ranges, network_ranges
from capture.model.foreign import Either, Translate, TranslateSource
from capture.model.packet import KNOWN_CONNECTION_STATES, LOOPBACK, NAT_STATES
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Literal

    from capture.analysis.base_chains import BaseChain, Situation
    from capture.analysis.outcome import Reason

    Direction = Literal["inbound", "outbound"]
    Leg = Literal["in", "out", "post", "lo", "input"]
else:
    Direction = str

INBOUND: Direction = "inbound"
OUTBOUND: Direction = "outbound"

REPLIES_TO_PROXY = "a mark leads its answers to the proxy, which has no part in the connection"
UNSETTLED = Fate("direct", 0)
"""The fate of translated packets until their destination is known."""


class Stage(Value):
    """A packet's place on its path: the leg, the order of base chains, and the next of them."""

    leg: Leg
    order: int
    number: int
    pending: PendingFate
    chosen_by: str = ""
    """The reason of the last rule that led to the chain that it is in, where reasons are looked for."""

    @property
    def following(self) -> Stage:
        """Return the stage at the next base chain."""
        return self.replace(number=self.number + 1, chosen_by="")


class Compiler:
    """The functions of one situation."""

    def __init__(self, space: PacketSpace, situation: Situation) -> None:
        self.space = space
        self.situation = situation
        self.routed = sorted(routed_marks(situation.ruleset))
        self.mark_routes = tuple(space.leaving_by_mark(situation.mark_routes(space.family)))
        self.flags = tuple(space.unknown(name, name) for name in ("a changed mark", "a zone", "no tracking"))
        self.orders = {
            "in": list(situation.orders(model.PREROUTING, space.family)),
            "out": list(situation.orders(model.OUTPUT, space.family)),
            "post": list(situation.orders(model.POSTROUTING, space.family, with_nat=False)),
            "lo": list(situation.orders(model.PREROUTING, space.family, with_nat=False)),
            "input": list(situation.orders(model.INPUT, space.family, with_nat=False)),
        }
        before = (
            base for leg in ("in", "out") for _, order in self.orders[leg] for base in order if not base.is_tracked
        )
        self.may_depend_on_tracking = any(is_about_tracking(rule) for base in before for rule in base.contents.rules)
        """Whether rules before connection tracking may be about it."""
        self.lists = DecisionList(
            space.diagrams, lambda level: space.domains[level], lambda act: not isinstance(act[0], model.Jump)
        )
        self.decision_lists: dict[Hashable, int] = {}
        """The lists of decisions of long runs of rules, by where they are."""
        self._fates: dict[Direction, int] = {}
        self._changing: dict[tuple[int, str], frozenset[type]] = {}
        self._chains: dict[int, dict[str, model.Chain]] = {}

    def fates(self, direction: Direction) -> int:
        """Return the function to ``Fate``, or to UNKNOWN_FATE, of packets that come in or are sent."""
        return self.space.switches.expanded(self.fates_with_switches(direction))

    def fates_with_switches(self, direction: Direction) -> int:
        """Return the same with a switch in the place of each long list of rules."""
        if direction not in self._fates:
            self._fates[direction] = PathCompiler(self, direction).root()
        return self._fates[direction]

    def chain_of(self, contents: model.Table, name: str) -> model.Chain | None:
        """Return a chain of a table, which may have thousands."""
        known = self._chains.get(id(contents))
        if known is None:
            known = self._chains[id(contents)] = {chain.name: chain for chain in contents.chains}
        return known.get(name)

    def changes(self, contents: model.Table, name: str) -> frozenset[type]:
        """Return what is changed of a packet that comes back from a chain, as the matches that test it."""
        key = (id(contents), name)
        if key not in self._changing:
            self._changing[key] = frozenset()  # should it lead to itself
            chain = self.chain_of(contents, name)
            verdicts = [effective_verdict(rule) for rule in (chain.rules if chain else ())]
            kinds = {CHANGED_MATCH[type(verdict)] for verdict in verdicts if type(verdict) in CHANGED_MATCH}
            targets = {verdict.chain for verdict in verdicts if isinstance(verdict, model.Jump | model.Goto)}
            self._changing[key] = frozenset(kinds.union(*(self.changes(contents, target) for target in targets)))
        return self._changing[key]


class PathCompiler:
    """The fates of packets of one direction, compiled from the end of their path."""

    def __init__(self, compiler: Compiler, direction: Direction) -> None:
        self.compiler, self.situation = compiler, compiler.situation
        self.space = space = compiler.space
        self.diagrams, self.switches = space.diagrams, space.switches
        self.lo = space.number_of(LOOPBACK)
        self.leaves_by_lo = space.field_in(Field.OUT, [(self.lo, self.lo)])
        self.routed, self.mark_routes = compiler.routed, compiler.mark_routes
        self.has_new_mark, self.has_zone, self.is_untracked = compiler.flags
        self._direction = direction
        self._known: dict[Hashable, int] = {}
        self._entered: list[tuple[Stage, str]] = []

    def root(self) -> int:
        """Return the function of packets as they come in or are sent."""
        is_inbound = self._direction == INBOUND
        node = self._fates_at_hook("in" if is_inbound else "out", PendingFate())
        if self.compiler.may_depend_on_tracking:
            node = self.with_flag(node, self.has_zone, 0)
            ways = [self.with_flag(node, self.is_untracked, number) for number in (1, 0)]
            node = self.diagrams.choose(self.space.has_state("UNTRACKED"), *ways)
        node = self.switches.restricted(node, Field.OUT if is_inbound else Field.IN, ABSENT)
        first = self.space.mark_levels("first", "mark")
        return self.switches.renamed(node, first, "first is mark") if self.routed else node

    def _fates_at_hook(self, leg: Leg, pending: PendingFate) -> int:
        """Return the fates of packets at a hook; where it is unknown which chain is first, by a truth value."""
        nodes = {
            tuple(sorted(firsts.items())): self._fates_at_base_chain(Stage(leg, order, 0, pending))
            for order, (firsts, _) in enumerate(self.compiler.orders[leg])
        }
        while len(nodes) > 1:
            merged = {}
            for firsts, node in nodes.items():
                *others, (number, is_first) = firsts
                if is_first:
                    is_before = self.space.unknown(("order", number), "the order of foreign chains")
                    merged[tuple(others)] = self.diagrams.choose(is_before, node, nodes[(*others, (number, False))])
            nodes = merged
        (node,) = nodes.values()
        return node

    def _fates_at_base_chain(self, stage: Stage) -> int:
        node = self._known.get(stage)
        if node is None:
            ahead = self.compiler.orders[stage.leg][stage.order][1][stage.number :]
            node = self._fates_through_base_chain(ahead[0], stage) if ahead else self._fates_after_hook(stage)
            self._known[stage] = node
        return node

    def _fates_after_hook(self, stage: Stage) -> int:
        pending = stage.pending
        if stage.leg == "out":
            return self._leaving_fates(pending)
        if stage.leg == "post":
            return self.diagrams.choose(self.leaves_by_lo, self._fates_over_lo(pending), self._fate_at_end(pending))
        if stage.leg == "input":
            return self._fate_at_end(pending)
        delivered = self._fates_at_hook("input", pending)
        if stage.leg == "lo" or pending.is_redirected or pending.transparent is not None:
            return delivered
        return self.diagrams.choose(self._is_for_the_pod(), delivered, self._fate_at_end(pending))

    def _leaving_fates(self, pending: PendingFate) -> int:
        """Return the fates of packets that leave: by another interface if their destination was changed."""
        leaves = self._fates_at_hook("post", pending)
        stays = self.switches.restricted(leaves, Field.OUT, self.lo)
        if pending.is_redirected:
            return stays
        if pending.interface is not None:
            number = self.space.number_of(pending.interface)
            as_before = self._fates_at_hook("post", pending.replace(interface=None))
            is_same = self.space.field_in(Field.OUT, [(number, number)])
            return self.diagrams.choose(is_same, as_before, self.switches.restricted(leaves, Field.OUT, number))
        if not pending.is_moved:
            return leaves
        outward = self.switches.restricted(leaves, Field.OUT, self.space.number_of(self.situation.network.interface))
        goes_out = self.diagrams.choose(self.leaves_by_lo, outward, leaves)
        return self.diagrams.choose(self._is_for_the_pod(), stays, goes_out)

    def _fates_over_lo(self, pending: PendingFate) -> int:
        """Return the fates of packets that come in again over lo, where they have no socket any more."""
        node = self._fates_at_hook("lo", pending)
        for level, number in ((Field.IN, self.lo), (Field.OUT, ABSENT), (Field.UID, ABSENT), (Field.GID, ABSENT)):
            node = self.switches.restricted(node, level, number)
        return node

    def _is_for_the_pod(self) -> int:
        """Return packets to the pod's own addresses, which came in from outside or are translated to these."""
        own = (*self.situation.network.own_addresses(self.space.family), LOOPBACK_NETWORKS[self.space.family])
        is_own = self.space.field_in(Field.DESTINATION, network_ranges(own))
        return self.diagrams.either(is_own, self.space.field_in(Field.IN, [(self.lo, self.lo)]))

    def _fates_through_base_chain(self, base_chain: BaseChain, stage: Stage) -> int:
        after = self._fates_after_base_chain(stage, base_chain)
        if base_chain.is_nat and stage.pending.translated is not None:
            return after
        fall_through = after
        if base_chain.chain.policy_for(self.space.family) == "DROP":
            policy = base_chain.location(base_chain.chain.name).short
            fall_through = self._dropped_fate(f"the policy DROP of {policy}")
        node = self._chain_fates(base_chain, base_chain.chain, fall_through, stage)
        if self.mark_routes:
            node = self.with_flag(node, self.has_new_mark, 0)
        return self.diagrams.choose(self._seen_by_nat(stage), node, after) if base_chain.is_nat else node

    def _dropped_fate(self, why: str) -> int:  # noqa: ARG002  # only ReasonCompiler keeps it
        return self._fate_node(Fate("dropped"))

    def _fates_after_base_chain(self, stage: Stage, base_chain: BaseChain) -> int:
        """Return the fates of packets that a base chain lets pass; with another mark they may be routed again."""
        following = stage.following
        after = self._fates_at_base_chain(following)
        if base_chain.reroutes:
            after = self.diagrams.choose(self.has_new_mark, self._routed_again(following), after)
        if not self.compiler.may_depend_on_tracking or base_chain.is_tracked or stage.leg == "lo":
            return after
        base_chains = self.compiler.orders[stage.leg][stage.order][1]
        if following.number < len(base_chains) and not base_chains[following.number].is_tracked:
            return after
        return self.diagrams.choose(self.is_untracked, self.space.with_state(after, "UNTRACKED"), after)

    def _routed_again(self, stage: Stage) -> int:
        node = self._fates_at_base_chain(stage.replace(pending=stage.pending.replace(interface=None)))
        for condition, interface, _ in reversed(self.mark_routes):
            later_stage = stage.replace(pending=stage.pending.replace(interface=interface or None))
            leads = self._fate_node(Fate("dropped")) if interface is None else self._fates_at_base_chain(later_stage)
            node = self.diagrams.choose(condition, leads, node)
        return node

    def _seen_by_nat(self, stage: Stage) -> int:
        """Return packets that nat translates: those of ``Packet.meets_nat``."""
        no_mark = self.space.has_mark("connection", 0, model.ALL_BITS)
        follows = self.diagrams.both(self.space.has_state("ESTABLISHED"), no_mark)
        if stage.leg == "out":
            follows = self.diagrams.both(follows, self.diagrams.negation(self.space.is_absent(Field.UID)))
        return self.diagrams.either(self.space.has_state(*NAT_STATES), follows)

    def _fate_at_end(self, pending: PendingFate) -> int:
        if pending.transparent is not None:
            return self._fate_node(pending.transparent)
        if pending.translated is not None:
            fate = pending.translated
            return self._fate_node(fate if pending.is_redirected else fate.replace(interface=pending.interface))
        direct = self._fate_node(Fate("direct", interface=pending.interface))
        return direct if self._direction == OUTBOUND or not self.routed else self._delivered_by_mark(direct)

    def _delivered_by_mark(self, direct: int) -> int:
        """Return the end of packets of a transparent capture that no rule of it has taken."""
        choose, both = self.diagrams.choose, self.diagrams.both
        arrives = self._is_by_other_interface(Field.IN)
        known = self.space.has_state(*KNOWN_CONNECTION_STATES)
        in_vain = both(both(arrives, self.diagrams.negation(known)), self._is_routed("connection"))
        node = choose(in_vain, self._dropped_fate(REPLIES_TO_PROXY), direct)
        ports = [each.port for each in self.situation.ruleset.transparent_verdicts]
        if not ports:
            return node
        to_proxy = self._fate_node(Fate(PROXY_INBOUND, ports[0]))
        for mark in self.routed:
            is_new = self.diagrams.negation(self.space.has_mark("first", mark, model.ALL_BITS))
            is_tcp = self.space.field_in(Field.PROTOCOL, PROTOCOL_RANGES["tcp"])
            is_marked = self.space.has_mark("mark", mark, model.ALL_BITS)
            node = choose(self.diagrams.all_of((arrives, known, is_tcp, is_marked, is_new)), to_proxy, node)
        return node

    def _fate_node(self, fate: Fate) -> int:
        """Return a fate, for packets that carry a mark of the transparent proxy and for those that do not."""
        if fate.outcome == "dropped":
            return self.diagrams.leaf(fate)
        key = ("fate", fate)
        node = self._known.get(key)
        if node is None:
            leaves = self.diagrams.both(self._is_by_other_interface(Field.OUT), self._is_routed("mark"))
            is_marked = self.diagrams.either(leaves, self._is_routed("connection"))
            marked, plain = self.diagrams.leaf(fate.replace(is_marked=True)), self.diagrams.leaf(fate)
            node = self._known[key] = self.diagrams.choose(is_marked, marked, plain)
        return node

    def _is_by_other_interface(self, level: int) -> int:
        return self.diagrams.negation(self.space.field_in(level, merge_ranges([(ABSENT, ABSENT), (self.lo, self.lo)])))

    def _is_routed(self, kind: Literal["mark", "connection"]) -> int:
        return self.diagrams.any_of(self.space.has_mark(kind, mark, model.ALL_BITS) for mark in self.routed)

    # --- chains ------------------------------------------------------------------------------------

    def _chain_fates(self, base_chain: BaseChain, chain: model.Chain, fall_through: int, stage: Stage) -> int:
        """Return the fates of packets that enter a chain; ``fall_through`` are those of packets that leave it."""
        key = (stage, base_chain.table, chain.name, fall_through)
        node = self._known.get(key)
        if node is None:
            node = self._known[key] = ChainCompiler(self, base_chain, chain, fall_through, stage).node()
        return node

    def enter_chain(self, base_chain: BaseChain, name: str, fall_through: int, stage: Stage) -> int:
        """Return the fates of packets that jump to a chain."""
        chain = self.compiler.chain_of(base_chain.contents, name)
        entry = (stage, name)
        if chain is None or entry in self._entered:  # a loop, which no kernel takes
            return fall_through
        self._entered.append(entry)
        node = self._chain_fates(base_chain, chain, fall_through, stage)
        self._entered.pop()
        return node

    # --- reasons -----------------------------------------------------------------------------------

    def reason(self, chain: ChainCompiler, positions: str, rule: model.Rule) -> Reason | None:
        """Return a rule as the reason of a fate; None here, since ReasonCompiler alone keeps reasons."""

    def with_reason(self, node: int, verdict: model.Verdict, reason: Reason | None) -> int:  # noqa: ARG002  # only ReasonCompiler keeps it
        """Return the fates of packets that match a rule, with it as the reason of those for which it is one."""
        return node

    def apply_verdict(
        self, verdict: model.Verdict, chain: str, fall_through: int, stage: Stage, base_chain: BaseChain
    ) -> int:
        """Return the fates of packets by a verdict that ends a chain."""
        following = stage.following
        match verdict:
            case model.Return():
                return fall_through
            case model.Goto(chain=target):
                return self.enter_chain(base_chain, target, fall_through, stage)
            case TranslateSource():
                lost = self.space.rule(losing_rule(verdict, self.situation.network), None, is_native=True)
                accepted = self._fates_after_base_chain(stage, base_chain)
                return self.diagrams.choose(lost, self._fate_node(Fate("dropped")), accepted)
            case model.Drop():
                return self._fate_node(Fate("dropped"))
            case model.Redirect(port=port):
                outcome = redirect_outcome(chain, verdict, self.situation.ruleset)
                pending = stage.pending.replace(translated=Fate(outcome, port), interface=None)
                onward = self._fates_at_base_chain(following.replace(pending=pending))
                sent_to = LOOPBACK_ADDRESSES[self.space.family] if stage.leg == "out" else None
                return self._with_later_packets(self._translated_fates(onward, port, sent_to))
            case Either():
                ways = [self.apply_verdict(way, chain, fall_through, stage, base_chain) for way in verdict.ways]
                return self.diagrams.choose(self.space.unknown(verdict, "a translation to one of several"), *ways)
            case Translate():
                sent = verdict.for_sent_packets(self.space.family) if stage.leg == "out" else verdict
                pending = stage.pending.replace(translated=UNSETTLED, is_moved=sent.address is not None)
                later_stage = following.replace(pending=pending)
                leaves = pending.is_moved and stage.leg == "out"
                onward = self._routed_again(later_stage) if leaves else self._fates_at_base_chain(later_stage)
                return self._translated_fates(onward, sent.port, sent.address)
            case model.TransparentProxy(port=port, mark=mark, mask=mask):
                outcome = redirect_outcome(chain, verdict, self.situation.ruleset)
                pending = stage.pending.replace(transparent=Fate(outcome, port))
                after = self._fates_after_base_chain(stage.replace(pending=pending), base_chain)
                return self.space.with_mark(after, mark, mask)
            case _:
                return self._fates_after_base_chain(stage, base_chain)

    def _with_later_packets(self, node: int) -> int:
        """Return the fates of redirected connections: one whose later packets are dropped is lost."""
        diagrams = self.diagrams
        later = self.space.with_state(node, "ESTABLISHED")

        def join(first: int, second: int) -> int | None:
            if first == second or (diagrams.is_leaf(second) and not _is_lost(diagrams.value(second))):
                return first
            if not diagrams.is_leaf(first) or not diagrams.is_leaf(second):
                return None
            return first if _is_lost(diagrams.value(first)) else second

        return diagrams.combine(node, later, join, "lasting")

    def _translated_fates(self, node: int, port: int | None, address: Network | None) -> int:
        """Return the fates of translated packets, whose destination is known now."""

        def known(value: Hashable) -> Hashable:
            if isinstance(value, Fate) and value.replace(is_marked=False, interface=None, reason=None) == UNSETTLED:
                return value.replace(port=port, address=address)
            return value

        node = self.diagrams.mapped(node, known, ("sent on", port, address))
        if port is not None:
            node = self.switches.restricted(node, Field.PORT, port)
        if address is None:
            return node
        sent_on = self.switches.restricted(node, Field.DESTINATION, address.first)
        inside = self.space.field_in(Field.DESTINATION, [(address.first, address.last)])
        # Rules behind that tell addresses of a network apart would have to be moved with it.
        is_alike = address.is_address or self.diagrams.choose(inside, node, sent_on) == sent_on
        return sent_on if is_alike else self.diagrams.leaf(UNKNOWN_FATE)

    def _with_new_mark(self, node: int) -> int:
        return self.with_flag(node, self.has_new_mark, 1) if self.mark_routes else node

    def with_flag(self, node: int, flag: int, number: int) -> int:
        """Return the fates of packets with a note about them set to 0 or 1."""
        return self.switches.restricted(node, self.diagrams.level(flag), number)

    def changed(self, verdict: model.Verdict, node: int) -> int:
        """Return the fates of packets by a verdict that changes them and lets them go on."""
        match verdict:
            case model.SetMark(value=value, mask=mask):
                is_so = self.space.has_mark("mark", value, mask)
                return self.diagrams.choose(is_so, node, self.space.with_mark(self._with_new_mark(node), value, mask))
            case model.SaveMark():
                return self.switches.renamed(node, self.space.mark_levels("connection", "mark"), "save mark")
            case _:
                restored = self._with_new_mark(node)
                return self.switches.renamed(restored, self.space.mark_levels("mark", "connection"), "restore mark")


def _is_lost(value: Hashable) -> bool:
    return value == UNKNOWN_FATE or (isinstance(value, Fate) and value.outcome == "dropped")
