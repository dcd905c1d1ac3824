"""What happens to a packet, and which rule decides: one packet, rule by rule, as in a kernel.

::

    outbound   raw OUTPUT -> mangle OUTPUT -> nat OUTPUT -> filter OUTPUT -> (route) -> POSTROUTING -+-> another host
               ,------------------------------------------------------------------------------- lo <-'
               `-> raw PREROUTING -> mangle PREROUTING -> INPUT -> socket
    inbound    raw PREROUTING -> mangle PREROUTING -> nat PREROUTING -> INPUT -> socket

nat sees the first packet of a connection, once: what comes in over ``lo`` was sent by the pod, passed nat OUTPUT, and
does not meet nat PREROUTING; after the first rule that translates the destination no other is tried (nf_nat_core.c).
A redirect in OUTPUT makes the destination the loopback address; in PREROUTING it stays in the pod. nat at INPUT and
POSTROUTING translates sources: only SNAT counts (``losing_rule``). Foreign chains are met where ``base_chains`` has
them. A redirected connection is lost, too, if its later packets are dropped.
"""

from __future__ import annotations

from capture.analysis.meaning import effective_verdict, has_no_effect, losing_rule, rule_matches
from capture.analysis.outcome import PROXY_INBOUND, Fate, redirect_outcome
from capture.analysis.rerouting import UNCHANGED, MarkRoute, is_led_to_proxy, routed_marks
from capture.model import ruleset as model
from capture.model.addresses import LOOPBACK_ADDRESSES, Family, Network
from capture.model.foreign import Either, Translate, TranslateSource, Untrack
from capture.model.location import Location
from capture.model.packet import KNOWN_CONNECTION_STATES, LOOPBACK, Packet
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.base_chains import BaseChain, Situation
    from capture.analysis.outcome import Outcome
    from capture.model.routing import MissingRoute


class Step(Value):
    """One rule that the packet met and matched; ``position`` counts from 1 within the chain, in its family.

    ``table`` is one of our tables, or what a foreign chain's table is called. ``is_certain`` is False where a rule has
    a match that we cannot judge. ``base_chain`` is where the rule was reached from, by a packet of a ``family``.
    """

    not_compared = ("base_chain",)

    table: str
    chain: str
    position: int
    rule: model.Rule
    depth: int = 0
    is_certain: bool = True
    base_chain: BaseChain | None = None
    family: Family | None = None

    @property
    def location(self) -> Location:
        """Return where the rule is."""
        if self.base_chain is not None:
            return self.base_chain.location(self.chain, self.position, self.family)
        return Location(self.table, self.chain, self.position, self.family)


class Trace(Value):
    """The end of a packet and its path; ``step`` is the rule that decided, None for a policy.

    ``translated`` is the translation of a packet that is direct.
    ``is_marked`` is whether a mark of TPROXY leads the packet, or a later one of its connection, to the proxy.
    ``missing_routes`` are those on which the outcome depends. ``policy`` is the base chain whose policy
    dropped the packet. ``reroute`` is the policy rule by which another mark refused it, or sent it out by another
    interface.
    """

    not_compared = ("policy", "reroute", "mark", "connection_mark", "is_tracked", "lost_reply")

    packet: Packet
    outcome: Outcome
    port: int
    step: Step | None
    path: tuple[Step, ...]
    transparent: bool = False
    is_marked: bool = False
    translated: Translate | None = None
    missing_routes: tuple[MissingRoute, ...] = ()
    policy: BaseChain | None = None
    reroute: MarkRoute | None = None
    interface: str | None = None
    mark: int = 0
    connection_mark: int = 0
    """The marks with which the packet and its connection end."""
    is_tracked: bool = True
    """Whether no rule keeps it out of connection tracking, or a later one undoes that."""
    impediments: tuple[str, ...] = ()
    """Why a packet that is redirected does not arrive, whatever the rules are."""
    lost_reply: Trace | None = None
    """The way of a reply to a direct connection that does not arrive, if that was looked for."""
    refusal: str = ""
    """The kind of route that refuses the packet, such as "blackhole"; "" where no route leads there."""
    is_applied: bool = True
    """Whether there are rules of a capture."""
    is_order_known: bool = True
    """Whether it fares alike in each order that base chains of one priority may have."""

    @property
    def location(self) -> Location | None:
        """Return where the packet was decided on: at a rule, or at the chain whose policy dropped it."""
        if self.step is not None or self.policy is None:
            return self.step.location if self.step else None
        return self.policy.location(self.policy.chain.name, family=self.packet.family)

    @property
    def address(self) -> Network | None:
        """Return where the packet goes in place of where it was addressed to; None if no rule translated that."""
        sent = self.translated
        return sent.destination(self.packet.destination) if sent is not None and sent.address is not None else None

    @property
    def fate(self) -> Fate:
        """Return all that a packet and its connection notice of the rules."""
        if self.outcome not in ("direct", "dropped"):
            return Fate(self.outcome, self.port, None, self.is_marked)
        sent = self.translated
        port, address = (sent.port, sent.address) if sent else (None, None)
        interface = self.interface if self.outcome == "direct" else None
        return Fate(self.outcome, port, address, self.is_marked, interface)

    @property
    def is_certain(self) -> bool:
        """Return whether every rule on the way could be judged."""
        return self.is_order_known and all(step.is_certain for step in self.path)

    @property
    def may_be_spared(self) -> bool:
        """Return whether a rule that cannot be judged may keep a packet from being dropped.

        One that drops it does not, nor one that accepts it in another base chain.
        """
        dropped_in = self.policy or (self.step and self.step.base_chain)
        doubtful = ((step.base_chain, effective_verdict(step.rule)) for step in self.path if not step.is_certain)
        return self.outcome == "dropped" and any(
            not isinstance(verdict, model.Drop)
            and (base == dropped_in or not isinstance(verdict, model.Accept | model.Return))
            for base, verdict in doubtful
        )

    def with_doubtful_order(self, other: Trace) -> Trace:
        """Return the trace with the first step in doubt that its path in another order of chains does not have."""
        pairs = zip(self.path, other.path, strict=False)
        differing = next((step for step, there in pairs if step != there), self.path[-1])
        doubtful = differing.replace(is_certain=False)
        path = tuple(doubtful if each is differing else each for each in self.path)
        return self.replace(path=path, step=doubtful if self.step == differing else self.step, is_order_known=False)


def trace_whole_path(packet: Packet, situation: Situation) -> Trace:
    """Return a packet's way through all that a situation has: its tables, second captures and foreign chains.

    Where their order is unknown, it is that in which they are listed; a step that another order lacks is not certain.
    """
    traced, *in_other_orders = (_trace(packet, each) for each in situation.reordered_situations(packet.family))
    other = next((other for other in in_other_orders if other.fate != traced.fate), None)
    return traced if other is None else traced.with_doubtful_order(other)


def _trace(packet: Packet, situation: Situation) -> Trace:
    passage = _Passage(situation, packet)
    passage.run()
    if passage.is_dropped or not passage.is_redirected:
        return passage.result()
    later = passage.passage_of_later_packets()
    later.run()
    if later.is_dropped:
        return later.result()
    passage.path += [step for step in later.path[len(passage.path) :] if not (step.is_certain or step in passage.path)]
    return passage.result()


class _Passage:
    """A packet on its way; it changes as rules act on it."""

    def __init__(self, situation: Situation, packet: Packet) -> None:
        self.situation = situation
        self.ruleset, self.network = situation.ruleset, situation.network
        self.first = self.packet = packet
        self.is_from_outside = packet.in_interface not in (None, LOOPBACK)
        self.path: list[Step] = []
        self.translating_step: Step | None = None
        """The rule of nat that decided on the connection; there is one at most."""
        self.translation: model.Redirect | Translate | None = None
        self.transparent: Step | None = None
        self.is_dropped = self.is_redirected = False
        self.is_moved = False
        """Whether a rule has sent it to another address."""
        self.mark_changes: list[Step] = []
        """The rules of a base chain that changed its mark."""
        self.reroute: MarkRoute | None = None
        self.interface: str | None = None
        """The interface by which a changed mark lets it leave."""
        self.refused_by: Step | None = None
        """The rule that made a policy rule refuse it."""
        self.policy: BaseChain | None = None
        self.has_zone = False
        """Whether a rule has given it a zone, so that it is tracked."""
        self._as_redirected: Packet
        """The packet as the redirect left it, if one did."""
        self._resumes_behind: BaseChain | None = None
        self._entered: list[str] = []

    def run(self) -> None:
        """Take the packet all its way."""
        if self.packet.in_interface is None:
            self._pass_hook(model.OUTPUT)
            self._reroute()
            self._pass_hook(model.POSTROUTING)
            if self.packet.out_interface != LOOPBACK or self.packet.is_reply:
                return  # a reply comes in again as what the app has called, not as the proxy
            # Over lo it has no socket any more (skb_orphan in drivers/net/loopback.c).
            self.packet = self.packet.replace(in_interface=LOOPBACK, out_interface=None, uid=None, gid=None)
        self._pass_hook(model.PREROUTING)
        is_for_the_pod = self.packet.in_interface == LOOPBACK or self.network.is_local(self.packet.destination)
        if self.is_redirected or self.transparent or is_for_the_pod:
            self._pass_hook(model.INPUT)

    def _reroute(self) -> None:
        """Let the packet leave by another interface if its destination was changed, or an answer got the proxy's mark.

        What follows at OUTPUT still saw the one by which it was to leave (``state->out`` stays as it was,
        nf_nat_ipv4_local_fn in net/netfilter/nf_nat_proto.c).
        """
        leaves_by = self.packet.out_interface
        if self.is_redirected or (self.first.is_reply and self.packet.mark in routed_marks(self.ruleset)):
            self.interface, leaves_by = None, LOOPBACK
        elif self.interface is not None:
            leaves_by = self.interface
        elif self.is_moved and self.network.is_local(self.packet.destination):
            leaves_by = LOOPBACK
        elif self.is_moved and leaves_by == LOOPBACK:
            leaves_by = self.network.interface
        self.packet = self.packet.replace(out_interface=leaves_by)

    def passage_of_later_packets(self) -> _Passage:
        """Return the passage of the packets that follow, translated as this one, from the chain on that did so."""
        later = _Passage(self.situation, self.first)
        later.path, later.is_redirected = [*self.path], True
        later.translating_step, later.translation = self.translating_step, self.translation
        later.packet = self._as_redirected.replace(state="ESTABLISHED")
        later._resumes_behind = self.translating_step.base_chain if self.translating_step else None
        return later

    def _pass_hook(self, hook: str) -> None:
        with_nat = hook == model.OUTPUT or (hook == model.PREROUTING and self.packet.in_interface != LOOPBACK)
        for base_chain in self.situation.base_chains(hook, self.packet.family, with_nat=with_nat):
            if self._resumes_behind is not None:
                if base_chain == self._resumes_behind:
                    self._resumes_behind = None
                continue
            if self.is_dropped:
                return
            if base_chain.is_nat and (self.translating_step or not self.packet.meets_nat):
                continue
            self.mark_changes.clear()
            if not self._pass_chain(base_chain, base_chain.chain, 0):
                self._apply_policy(base_chain)
            if base_chain.reroutes and self.mark_changes and not self.is_dropped:
                self._route_by_mark(self.mark_changes[-1])

    def _is_tracked(self, base_chain: BaseChain) -> bool:
        return base_chain.is_tracked or self.packet.in_interface == LOOPBACK

    def _route_by_mark(self, cause: Step) -> None:
        """Route the packet again; ``cause`` is the rule whose mark or destination requires it."""
        self.interface = self.reroute = None
        for route in self.situation.mark_routes(self.packet.family):
            target = route.target_of(self.packet.destination) if route.is_for(self.packet) else None
            if target is None:
                continue
            if not route.is_certain:
                self.path = [step.replace(is_certain=False) if step is cause else step for step in self.path]
                return
            if target[2] is None:
                self.is_dropped, self.refused_by = True, cause
            if target[2] != UNCHANGED:
                self.reroute, self.interface = route, target[2]
            return

    def _pass_chain(self, base_chain: BaseChain, chain: model.Chain, depth: int) -> bool:
        """Take the packet through a chain; return whether a rule decided on the whole table."""
        is_tracked = self._is_tracked(base_chain)
        for position, rule in enumerate(chain.rules_for(self.packet.family), 1):
            matched = rule_matches(
                rule, self.packet, self.network, is_native=base_chain.is_native, is_tracked=is_tracked
            )
            verdict = effective_verdict(rule)
            if matched is False or has_no_effect(verdict, is_certain=matched is True, is_tracked=is_tracked):
                continue
            where = base_chain.table, chain.name, rule.number or position
            step = Step(*where, rule, depth, matched is True, base_chain, self.packet.family)
            self.path.append(step)
            match verdict:
                case _ if matched is None:
                    continue
                case model.Jump(chain=target):
                    if self._enter_chain(base_chain, target, depth):
                        return True
                case model.Goto(chain=target):
                    return self._enter_chain(base_chain, target, depth) or (
                        depth == 0 and self._apply_policy(base_chain)
                    )
                case model.Return():
                    return depth == 0 and self._apply_policy(base_chain)
                case model.UnknownVerdict():
                    self.path[-1] = step.replace(is_certain=False)
                case verdict:
                    if self._apply_verdict(verdict, step):
                        return True
        return False

    def _enter_chain(self, base_chain: BaseChain, target: str, depth: int) -> bool:
        called = base_chain.contents.chain(target)
        if called is None or target in self._entered:  # a loop, which no kernel takes
            return False
        self._entered.append(target)
        decided = self._pass_chain(base_chain, called, depth + 1)
        self._entered.pop()
        return decided

    def _apply_policy(self, base_chain: BaseChain) -> bool:
        """Leave a built-in chain by RETURN or at its end: its policy decides. Return True: that ends the table."""
        if base_chain.chain.policy_for(self.packet.family) == "DROP":
            self.is_dropped = True
            self.policy = base_chain
        return True

    def _apply_verdict(self, verdict: model.Verdict, step: Step) -> bool:
        """Do to the packet what a verdict does; return whether that ends the table."""
        packet = self.packet
        match verdict:
            case model.Accept():
                pass
            case TranslateSource():
                self.is_dropped = rule_matches(losing_rule(verdict, self.network), packet, self.network) is True
            case model.Drop():
                self.is_dropped = True
            case Either():  # of two translations, the last rule of the path is not certain
                self.path[-1] = step.replace(is_certain=False)
                return self._apply_verdict(verdict.ways[-1], self.path[-1])
            case model.Redirect(port=port):
                self.translating_step, self.translation = step, verdict
                self.is_redirected = True
                goes_out = packet.in_interface is None
                target = LOOPBACK_ADDRESSES[packet.family] if goes_out else packet.destination
                self.packet = self._as_redirected = packet.replace(port=port, destination=target, is_translated=True)
            case Translate():
                self.translating_step = step
                self.translation = sent = verdict if packet.in_interface else verdict.for_sent_packets(packet.family)
                self.is_moved = sent.address is not None
                destination, port = sent.destination(packet.destination), sent.port or packet.port
                self.packet = packet.replace(destination=destination, port=port, is_translated=True)
                if self.is_moved and packet.in_interface is None:
                    self._route_by_mark(step)
            case model.TransparentProxy(mark=mark, mask=mask):
                self.transparent = step
                self.packet = packet.replace(mark=packet.mark & ~mask | mark)
            case _:
                self._apply_and_go_on(verdict, step)
                return False
        return True

    def _apply_and_go_on(self, verdict: model.Verdict, step: Step) -> None:
        """Do to the packet what a verdict does after which it goes on to the next rule.

        A mark that is restored, or set and set back, counts as changed. That matters after an earlier chain changed it.
        """
        packet = self.packet
        is_tracked = step.base_chain is not None and self._is_tracked(step.base_chain)
        match verdict:
            case model.SetMark(value=value, mask=mask):
                self.packet = packet.replace(mark=packet.mark & ~mask | value)
                if self.packet.mark != packet.mark:
                    self.mark_changes.append(step)
            case model.SaveMark() if is_tracked:  # else there is no connection yet
                self.packet = packet.replace(connection_mark=packet.mark)
            case model.RestoreMark() if is_tracked:
                self.packet = packet.replace(mark=packet.connection_mark)
                self.mark_changes.append(step)
            case Untrack() if not self.has_zone:
                self.packet = packet.replace(state="UNTRACKED")
            case model.SetZone() if not is_tracked:
                if packet.state == "UNTRACKED" and step.base_chain and step.base_chain.is_native:
                    self.packet = packet.replace(state=self.first.state)
                self.has_zone = self.packet.state != "UNTRACKED"

    def result(self) -> Trace:
        """Return where the packet is now."""
        outcome: Outcome = "direct"
        step, port = self._deciding_step(), self.first.port
        if self.is_dropped:
            outcome = "dropped"
        elif self.transparent and isinstance(sent_to := self.transparent.rule.verdict, model.TransparentProxy):
            step, port = self.transparent, sent_to.port
            outcome = redirect_outcome(step.chain, sent_to, self.ruleset)
        elif self.translating_step is not None:
            step, port = self.translating_step, self.packet.port
            if isinstance(self.translation, model.Redirect):
                outcome = redirect_outcome(step.chain, self.translation, self.ruleset)
        elif self._is_delivered_by_mark():
            outcome, port = "proxy-inbound", self.ruleset.transparent_verdicts[0].port
        elif self._reply_bypasses_proxy():
            outcome = "dropped"
        interface = self.interface if self.interface != self.first.out_interface else None
        is_transparent = outcome in (PROXY_INBOUND, "redirected") and not self.translating_step
        needed = self.situation.missing_routes if is_transparent else ()
        return Trace(
            self.first,
            outcome,
            port,
            step,
            tuple(self.path),
            transparent=is_transparent,
            is_marked=outcome != "dropped" and is_led_to_proxy(self.packet, self.ruleset),
            translated=self.translation if isinstance(self.translation, Translate) and outcome == "direct" else None,
            missing_routes=tuple(route for route in needed if route.family == self.first.family),
            policy=self.policy,
            reroute=self.reroute if self.refused_by or (outcome == "direct" and interface) else None,
            interface=interface,
            mark=self.packet.mark,
            connection_mark=self.packet.connection_mark,
            is_tracked=self.packet.state != "UNTRACKED",
        )

    def _deciding_step(self) -> Step | None:
        if self.policy is not None or self.refused_by is not None:
            return self.refused_by
        certain = [step for step in self.path if step.is_certain]
        if self.is_dropped:
            drops = (step for step in reversed(certain) if isinstance(effective_verdict(step.rule), model.Drop))
            return next(drops, None)
        decisive = [step for step in certain if isinstance(effective_verdict(step.rule), model.Return | model.Accept)]
        in_nat = [step for step in decisive if step.table == model.NAT]
        return next(reversed(in_nat or decisive), None)

    def _is_delivered_by_mark(self) -> bool:
        """Return whether a packet of a known connection got a mark that routes it to the proxy's socket."""
        is_known = self.packet.state in KNOWN_CONNECTION_STATES and self.packet.protocol == "tcp"
        marked = self.packet.mark in routed_marks(self.ruleset) and self.first.mark != self.packet.mark
        return is_known and self.is_from_outside and marked and bool(self.ruleset.transparent_verdicts)

    def _reply_bypasses_proxy(self) -> bool:
        """Return whether a connection goes past the proxy to the app, but is one whose replies go to the proxy."""
        is_new = self.packet.state not in KNOWN_CONNECTION_STATES
        return is_new and self.is_from_outside and self.packet.connection_mark in routed_marks(self.ruleset)
