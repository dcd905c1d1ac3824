"""The rule model: what a rule set means, without a word about who enforces it.

This file is the manual of the domain. A packet of a family meets *tables*, each table has *chains*,
a chain is an ordered list of *rules*, a rule has *matches* (all must hold) and a *verdict*.
Built-in chains are entered by the kernel at a hook; the others only by a jump.

::

    inbound    -> raw PREROUTING -> mangle PREROUTING -> nat PREROUTING -> (routing) -> INPUT -> socket
    outbound   socket -> (routing) -> raw OUTPUT -> mangle OUTPUT -> nat OUTPUT -> (re-routing) -> POSTROUTING
    on lo      outbound first, then the same packet comes in again (but nat sees a connection's first packet once)

Rules of this file: values only, no input or output, and no backend is mentioned by name except where
a fact needs its source. Words are those of iptables(8): they are what people see in listings.
Numbers are plain integers (ports, ids, marks), times are seconds.
"""

from __future__ import annotations

from capture.model.addresses import IPV6, Family, Network
from capture.model.chain_names import is_own_chain, state_name
from capture.model.conventions import DNS_PORT
from capture.model.values import Value, set_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Literal

    from capture.model.routing import LoopbackAddress, PolicyRoute

    TableName = Literal["raw", "mangle", "nat"]
    ProtocolName = Literal["tcp", "udp", "ipv6-icmp"]
else:
    TableName = ProtocolName = str

RAW: TableName = "raw"
MANGLE: TableName = "mangle"
NAT: TableName = "nat"
TABLES: tuple[TableName, ...] = (RAW, MANGLE, NAT)
"""In the order in which a packet meets them at PREROUTING and OUTPUT (netfilter_ipv4.h, NF_IP_PRI_*)."""
TABLES_BY_NAME: dict[str, TableName] = {name: name for name in TABLES}
SHOWN_TABLES: tuple[TableName, ...] = (NAT, MANGLE, RAW)
"""In the order in which they matter to a reader."""

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"

BUILT_IN_CHAINS: dict[TableName, tuple[str, ...]] = {
    RAW: (PREROUTING, OUTPUT),
    MANGLE: (PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING),
    NAT: (PREROUTING, INPUT, OUTPUT, POSTROUTING),
}
"""The chains the kernel enters by itself, in the order of ``iptables -L``."""

ALL_BITS = 0xFFFF_FFFF

MAX_SINGLE_RULES = 16
"""Up to so many entries of a list are one rule each, so that each has a counter of its own; more are one rule."""

MAX_SEPARATE_PORTS = 256
"""Up to so many ports of a list keep their entries and their order, and are one rule each where no set holds them."""

CONNECTION_STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")
"""In the order in which iptables-save prints them (libxt_conntrack.c prints bits upwards)."""


class Span(Value):
    """Numbers from ``first`` to ``last``, both included: ports, user ids, group ids."""

    first: int
    last: int

    def __init__(self, first: int, last: int) -> None:
        # What every value can do, in half the time: lists have thousands of these.
        set_field(self, "first", first)
        set_field(self, "last", last)

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def contains(self, number: int) -> bool:
        return self.first <= number <= self.last


def only(number: int) -> Span:
    """Return the span of a single number."""
    return Span(number, number)


# --- matches: what a packet must be like -------------------------------------------------------


class Match(Value):
    """Something that a packet must be like; many kinds have a field ``negated``."""

    negated = False


class AddressMatch(Match):
    """An address lies in one of the networks, all of one family."""

    networks: tuple[Network, ...]
    negated: bool = False


class InterfaceMatch(Match):
    """The packet passes an interface of this name; a trailing ``+`` means any ending."""

    name: str
    negated: bool = False


class PortMatch(Match):
    """A port is one of these; only in a rule with a protocol."""

    ports: tuple[Span, ...]
    negated: bool = False


class OwnerMatch(Match):
    """The sending socket belongs to one of these users or groups (``-m owner``).

    A packet without a socket belongs to no user and fails the plain match. The negated match holds for
    it in iptables (xt_owner.c) and does not in nftables (nft_meta.c breaks off the rule); the first
    packet of a connection, which is what nat looks at, always has a socket.
    """

    ids: tuple[Span, ...]
    negated: bool = False


class MarkMatch(Match):
    """A mark, under the mask, is this value."""

    value: int
    mask: int = ALL_BITS
    negated: bool = False


class Protocol(Match):
    """The transport protocol is this one (``-p tcp``)."""

    name: ProtocolName


class Source(AddressMatch):
    """The source address lies in one of the networks (``-s``)."""


class Destination(AddressMatch):
    """The destination address lies in one of the networks (``-d``)."""


class InInterface(InterfaceMatch):
    """The packet came in through this interface (``-i``)."""


class OutInterface(InterfaceMatch):
    """The packet leaves through this interface (``-o``)."""


class SourcePort(PortMatch):
    """The source port is one of these (``--sport``)."""


class DestinationPort(PortMatch):
    """The destination port is one of these (``--dport``)."""


class OwnerUid(OwnerMatch):
    """The user of the sending socket is one of these (``--uid-owner``)."""


class OwnerGid(OwnerMatch):
    """The group of the sending socket is one of these (``--gid-owner``)."""


class Mark(MarkMatch):
    """The packet's mark, under the mask, is this value (``-m mark``)."""


class ConnectionMark(MarkMatch):
    """The connection's mark, under the mask, is this value (``-m connmark``)."""


class ConnectionState(Match):
    """The connection is in one of these states, in the order of CONNECTION_STATES (``--ctstate``)."""

    states: tuple[str, ...]
    negated: bool = False


class UnknownMatch(Match):
    """Something that a foreign rule tests and our vocabulary lacks, as the backend prints it.

    ``test`` is what it tests (``model.foreign``); None where that is not known. It is pure if it gives one answer for
    one packet, wherever it is evaluated: it does not count, or look at the time.
    """

    not_compared = ("test", "is_pure")

    text: str
    test: Match | None = None
    is_pure: bool = True


TCP, UDP, ON_LO, ONLY_DNS = Protocol("tcp"), Protocol("udp"), OutInterface("lo"), only(DNS_PORT)
TO_DNS, FROM_DNS = DestinationPort((ONLY_DNS,)), SourcePort((ONLY_DNS,))


# --- verdicts: what happens to a packet that matches ---------------------------------------------


class Verdict(Value):
    """What happens to a packet that matches."""


class Jump(Verdict):
    """Go through another chain of the same table, and come back unless it decides."""

    chain: str


class Goto(Verdict):
    """Go through another chain, and from its end back to the chain that called this one (``-g``)."""

    chain: str


class Return(Verdict):
    """Go back to the calling chain; in a built-in chain, let the policy decide."""


class Accept(Verdict):
    """Leave this table; the packet goes on to the next one."""


class Drop(Verdict):
    """Throw the packet away."""


class Redirect(Verdict):
    """Send the connection to this port of the machine itself (``-j REDIRECT --to-ports``)."""

    port: int


class TransparentProxy(Verdict):
    """Hand the packet to the local socket on this port, its addresses unchanged, and mark it (``-j TPROXY``)."""

    port: int
    mark: int
    mask: int = ALL_BITS


class SetMark(Verdict):
    """Replace the bits of ``mask`` in the packet's mark, then go on with the next rule (``-j MARK``)."""

    value: int
    mask: int = ALL_BITS


class SaveMark(Verdict):
    """Copy the packet's mark to its connection, then go on (``-j CONNMARK --save-mark``)."""


class RestoreMark(Verdict):
    """Copy the connection's mark to the packet, then go on (``-j CONNMARK --restore-mark``)."""


class SetZone(Verdict):
    """Track the packet in this conntrack zone, then go on (``-j CT --zone``)."""

    zone: int


class Log(Verdict):
    """Write a line to the kernel's log, then go on (``-j LOG --log-prefix``)."""

    prefix: str


class Continue(Verdict):
    """Count the packet and go on: a rule without a target."""


class UnknownVerdict(Verdict):
    """A target of a foreign rule that our vocabulary lacks, as the backend prints it.

    ``then`` is what it comes to for a packet (also of ``model.foreign``); None where that is not known.
    """

    not_compared = ("then",)

    text: str
    then: Verdict | None = None

    @property
    def target(self) -> str:
        """Return the chain that it goes to, or the name of the target."""
        return self.then.chain if isinstance(self.then, Goto) else self.text.partition(" ")[0]

    @property
    def options(self) -> str:
        """Return the options of the target, which follow its name."""
        return "" if isinstance(self.then, Goto) else self.text.partition(" ")[2]


def called_chain(verdict: Verdict) -> str:
    """Return the chain that a verdict leads to, by jump or by goto; "" if it leads to none."""
    if isinstance(verdict, UnknownVerdict) and verdict.then is not None:
        verdict = verdict.then
    return verdict.chain if isinstance(verdict, Jump | Goto) else ""


# --- rules, chains, tables -----------------------------------------------------------------------


class Counters(Value):
    """How many packets and bytes a rule, or a policy, has decided on."""

    packets: int
    bytes: int


class Rule(Value):
    """All matches must hold for the verdict to happen; for one family, or for both (``family`` None).

    ``why`` is the reason in words, for comments on request and for ``trace``; ``counters`` are what a
    kernel reports, and ``number`` is that of the kernel's rule, of which this may be a part; 0 if it is not known.
    None of these is part of what makes two rules the same.
    """

    not_compared = ("why", "counters", "number")

    verdict: Verdict
    matches: tuple[Match, ...] = ()
    family: Family | None = None
    why: str = ""
    counters: Counters | None = None
    number: int = 0


class Chain(Value):
    """Rules in order. A built-in chain that was read has a policy ("ACCEPT" or "DROP"); others have none.

    iptables keeps its tables by family, so the policy of IPv6 may be another one than that of IPv4;
    where there is one chain for both, ``ipv6_policy`` and ``ipv6_counters`` are None.
    """

    not_compared = ("counters", "ipv6_counters")

    name: str
    rules: tuple[Rule, ...] = ()
    policy: str | None = None
    counters: Counters | None = None
    ipv6_policy: str | None = None
    ipv6_counters: Counters | None = None
    state: str = ""
    """Why packets do not enter it as a built-in chain of its table: "dormant", "not hooked", or the hook it has."""

    def in_state(self, state: str) -> Chain:
        """Return the chain in a state, which its name shows, so that nothing takes it for a built-in chain."""
        return self.replace(name=state_name(self.name, state), state=state)

    def policy_for(self, family: Family) -> str | None:
        return self.ipv6_policy if family == IPV6 and self.ipv6_policy is not None else self.policy

    def counters_for(self, family: Family) -> Counters | None:
        """Return what the policy has decided on for the family, or for both where there is one chain for both."""
        return self.ipv6_counters if family == IPV6 and self.ipv6_policy is not None else self.counters

    def rules_for(self, family: Family) -> Iterator[Rule]:
        for rule in self.rules:
            if rule.family is None or rule.family == family:
                yield rule


class Table(Value):
    """The chains of one table: built-in ones first, then the others in the order of the listing."""

    name: TableName
    chains: tuple[Chain, ...]

    @property
    def rules(self) -> Iterator[Rule]:
        for chain in self.chains:
            yield from chain.rules

    def chain(self, name: str) -> Chain | None:
        for chain in self.chains:
            if chain.name == name:
                return chain
        return None


def in_listing_order(table: TableName, chains: Iterable[Chain]) -> tuple[Chain, ...]:
    """Return built-in chains in the order of ``iptables -L``, then the others as they are."""
    built_in = BUILT_IN_CHAINS[table]
    return tuple(sorted(chains, key=lambda each: built_in.index(each.name) if each.name in built_in else len(built_in)))


VERDICTS_WITHOUT_EFFECT = (Log, Continue)
"""Verdicts after which a packet goes on to the next rule, as if nothing had been."""
MARK_CHANGING_VERDICTS: dict[type, type] = {SetMark: Mark, RestoreMark: Mark, SaveMark: ConnectionMark}
"""Verdicts after which a packet goes on with another mark, each with the match that tests that mark."""


class Ruleset(Value):
    """A whole capture: the families it is for, its tables, and what else it needs.

    A rule with family None is in every family of ``families``.
    """

    families: tuple[Family, ...]
    tables: tuple[Table, ...]
    loopback_addresses: tuple[LoopbackAddress, ...] = ()
    policy_routes: tuple[PolicyRoute, ...] = ()
    has_comments: bool = False
    """Whether each rule carries its reason as a comment in the kernel."""

    @property
    def rules(self) -> Iterator[Rule]:
        for table in self.tables:
            yield from table.rules

    def with_chains(self, change: Callable[[TableName, Chain], Chain]) -> Ruleset:
        """Return the rule set with each chain changed; ``change`` also gets the name of its table."""
        tables = [
            table.replace(chains=tuple([change(table.name, chain) for chain in table.chains])) for table in self.tables
        ]
        return self.replace(tables=tuple(tables))

    @property
    def transparent_verdicts(self) -> list[TransparentProxy]:
        """Return the verdicts of our chains that hand packets to a transparent proxy."""
        mangle = self.table(MANGLE)
        own = (chain for chain in (mangle.chains if mangle else ()) if is_own_chain(chain.name))
        return [rule.verdict for chain in own for rule in chain.rules if isinstance(rule.verdict, TransparentProxy)]

    def table(self, name: TableName) -> Table | None:
        for table in self.tables:
            if table.name == name:
                return table
        return None

    def chain(self, table: TableName, name: str) -> Chain | None:
        holder = self.table(table)
        return holder.chain(name) if holder else None
