"""All base chains that packets of a namespace meet, foreign ones too, in the order in which the kernel enters them.

Tables are independent of each other, but at each hook the kernel enters their base chains by their priorities::

    output     ip foreign first, -200  ->   our nat OUTPUT, -100   ->   inet foreign last, 0
               drop: it is gone             redirect to the proxy       of no concern for the capture
               redirect: decided
               accept: it goes on

So accepting ends nothing but that chain. Of chains with one priority the newest is entered first
(nf_hook_entries_grow in net/netfilter/core.c). Base chains of type nat are special (nf_nat_core.c): the kernel has one
entry of its own for all of them, at priority -100, and calls them there in the order of their priorities, for the first
packet of a connection, until one translates it. So a nat chain of priority -160 comes after mangle (-150).
"""

from __future__ import annotations

from itertools import compress, islice, product

from capture.analysis.rerouting import MarkRoute, foreign_routes
from capture.model import ruleset as model
from capture.model.addresses import IPV4, IPV6, Family, Network
from capture.model.chain_names import is_own_chain
from capture.model.location import Location
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from capture.model.routing import MissingRoute

MAX_UNKNOWN_ORDERS = 3
"""More foreign chains whose order is unknown are taken as they are listed."""

PRIORITIES: dict[model.TableName, int] = {model.RAW: -300, model.MANGLE: -150, model.NAT: -100}
"""Priorities of our own base chains at PREROUTING and OUTPUT (enum nf_ip_hook_priorities in linux/netfilter_ipv4.h)."""
SOURCE_PRIORITY = 100
"""That of iptables' nat at POSTROUTING (NF_IP_PRI_NAT_SRC)."""
CONNTRACK_PRIORITY = -200
"""The priority of connection tracking at PREROUTING and OUTPUT (NF_IP_PRI_CONNTRACK)."""
BEYOND = 1 << 32
"""More than any priority, which has 32 bits."""

UNNAMED = "__chain"
"""How the kernel's names of chains begin that are written as a part of a rule, and that nft does not list by name."""
SOURCE_HOOKS = (model.INPUT, model.POSTROUTING)
"""Hooks at which nat translates sources: SNAT and MASQUERADE change the sender's address for the receiver; DNAT cannot
be there (nf_nat_inet_fn). A filter behind them sees the new source; the analysis sees the old one. Of these nat chains
only those at POSTROUTING with SNAT are read: that may be to an address of another host."""


class BaseChain(Value):
    """A base chain on a packet's way: of the capture (``is_own``), foreign, or of a second capture.

    ``table`` is what listings call its table, nft(8) for example "ip filter". ``contents`` has the base chain, then
    those that one can jump to, in the terms of our model; foreign rules have their words of nft(8) as ``why``.
    """

    table: str
    families: tuple[Family, ...]
    hook: str
    """PREROUTING, INPUT, OUTPUT or POSTROUTING."""
    priority: int
    is_nat: bool
    """Whether it sees the first packet of a connection only, and none that another nat chain has translated."""
    contents: model.Table
    is_older: bool = False
    """Whether its table was there before our own. Of chains with one priority the kernel enters the newest first."""
    is_age_unknown: bool = False
    """Whether its age is unknown: nothing orders legacy tables and nf_tables."""
    is_native: bool = True
    """Whether it is written in nf_tables' own expressions, not in those of iptables."""
    is_route: bool = False
    """Whether packets that leave are routed again where its rules changed the mark."""
    devices: tuple[str, ...] = ()
    """The interfaces whose packets meet it, before PREROUTING or behind POSTROUTING; its rules name them."""
    is_own: bool = False
    """Whether it is in the tables of the capture in question."""
    place: tuple[str, str] | None = None
    """The backend and variant that write such tables for a capture; None for tables that no capture is in."""

    @property
    def order(self) -> int:
        """Return what orders chains at a hook: the priority, but chains of devices are first, or last."""
        return self.priority + (0 if not self.devices else -BEYOND if self.hook == model.PREROUTING else BEYOND)

    @property
    def reroutes(self) -> bool:
        """Return whether a packet whose mark it changes is routed again."""
        return self.is_route and self.hook == model.OUTPUT

    @property
    def is_tracked(self) -> bool:
        """Return whether packets come here behind connection tracking, which begins as soon as a rule needs it."""
        is_behind = self.order > CONNTRACK_PRIORITY or (self.order == CONNTRACK_PRIORITY and self.is_older)
        return is_behind or self.hook in SOURCE_HOOKS

    @property
    def is_of_capture(self) -> bool:
        """Return whether it is in a table of a capture, or in one of iptables that has chains of one."""
        has_own = any(is_own_chain(each.name) for each in self.contents.chains)
        return self.is_own or (self.place is not None and (has_own or self.place[0] == "nftables"))

    @property
    def hook_text(self) -> str:
        """Return its hook in words."""
        if not self.devices:
            return self.hook
        return f"{'ingress' if self.hook == model.PREROUTING else 'egress'} of {', '.join(self.devices)}"

    @property
    def policies(self) -> tuple[str | None, str | None]:
        """Return what happens in each family to packets on which no rule decides."""
        return self.chain.policy_for(IPV4), self.chain.policy_for(IPV6)

    @property
    def chain(self) -> model.Chain:
        """Return the base chain itself."""
        return self.contents.chains[0]

    def location(self, chain: str, position: int = 0, family: Family | None = None) -> Location:
        """Return where a rule is that is met from here; one of a chain without a name is a part of what jumps there."""
        if chain.startswith(UNNAMED):
            for caller in self.contents.chains:
                for number, rule in enumerate(caller.rules, 1):
                    if getattr(getattr(rule.verdict, "then", rule.verdict), "chain", "") == chain:
                        return self.location(caller.name, rule.number or number, family)
        if self.table in model.TABLES or (self.place and self.place[0] == "iptables"):  # of that name in both families
            return Location(self.table, chain, position, family)
        hook = f"hook {self.hook_text}, priority {self.priority}" if chain == self.chain.name else ""
        return Location(self.table, chain, position, hook=hook)

    def with_chain(self, chain: model.Chain) -> BaseChain:
        """Return the same with another base chain."""
        return self.replace(contents=self.contents.replace(chains=(chain, *self.contents.chains[1:])))


def source_translations(table: model.Table) -> list[model.Rule]:
    """Return the rules of a table that map sources to addresses that they name."""
    from capture.model.foreign import TranslateSource  # CHECK of a pod without foreign rules needs none of these

    return [rule for rule in table.rules if isinstance(getattr(rule.verdict, "then", None), TranslateSource)]


def _is_read(table: model.Table, hook: str) -> bool:
    """Return whether packets of a pod meet the rules of a table at a hook, and they count."""
    if table.name == model.NAT and hook in SOURCE_HOOKS:
        return hook == model.POSTROUTING and bool(source_translations(table))
    return hook in (model.PREROUTING, model.OUTPUT, *SOURCE_HOOKS)


def base_chains_of_iptables(ruleset: model.Ruleset, is_older: Callable[[model.TableName], bool]) -> Iterator[BaseChain]:
    """Yield the chains of a rule set of iptables that packets of a pod meet, with all their rules."""
    for table in ruleset.tables:
        for chain in table.chains:
            if _is_read(table, chain.name):
                maps = table.name == model.NAT and chain.name == model.POSTROUTING
                entry = chain.replace(rules=tuple(rule.replace(why="") for rule in chain.rules))
                called = tuple(each for each in table.chains if each is not chain)
                yield BaseChain(
                    f"{table.name} of iptables",
                    ruleset.families,
                    chain.name,
                    SOURCE_PRIORITY if maps else PRIORITIES[table.name],
                    table.name == model.NAT and not maps,
                    table.replace(chains=(entry, *called)),
                    is_older(table.name),
                    is_native=False,
                    is_route=table.name == model.MANGLE,
                    place=("iptables", "nft"),
                )


class PodNetwork(Value):
    """The network of a namespace: its addresses, and the interface that leads out."""

    own: tuple[Network, ...] = (
        Network(IPV4, 0xC0000202, 32),  # 192.0.2.2 (RFC 5737)
        Network(IPV6, 0x20010DB8 << 96 | 2, 128),  # 2001:db8::2 (RFC 3849)
    )
    interface: str = "eth0"
    other_interfaces: tuple[str, ...] = ()
    """Further interfaces, without ``lo``."""
    families_with_return_route: tuple[Family, ...] = ()
    """Families in which the answers to every client leave by the only interface."""
    local: tuple[Network, ...] | None = None
    """All its addresses, those of every scope and on ``lo`` among them; None where no namespace was read."""
    names: tuple[tuple[int, str], ...] | None = None
    """Its interfaces by their indexes; None where no namespace was read."""
    mark_routes: tuple[MarkRoute, ...] = ()
    """Where packets go by their marks, in both families, in the order of the policy rules."""

    def own_addresses(self, family: Family) -> tuple[Network, ...]:
        """Return the pod's addresses of a family."""
        return tuple(address for address in self.own if address.family == family)

    def is_local(self, address: Network) -> bool:
        """Return whether packets to an address stay in the namespace."""
        return address.is_loopback or address in self.own or address in (self.local or ())


class Situation(Value):
    """All that decides on the packets of a namespace.

    ``ruleset`` is the capture with all rules in its tables, foreign ones too; ``other_chains`` are the base chains in
    all other tables, those of a second capture and of the other variant of iptables among them.
    """

    ruleset: model.Ruleset
    other_chains: tuple[BaseChain, ...] = ()
    is_native: bool = False
    """Whether the capture is in native tables of nf_tables."""
    network: PodNetwork = PodNetwork()
    missing_routes: tuple[MissingRoute, ...] = ()
    """Routes that the capture needs and the namespace lacks."""

    def mark_routes(self, family: Family) -> tuple[MarkRoute, ...]:
        """Return where packets of a family go by foreign marks."""
        return foreign_routes([each for each in self.network.mark_routes if each.family == family], self.ruleset)

    @property
    def tables(self) -> tuple[model.Table, ...]:
        return (*self.ruleset.tables, *[each.contents for each in self.other_chains])

    @property
    def has_capture(self) -> bool:
        """Return whether there is any chain of a capture."""
        return any(is_own_chain(chain.name) for table in self.tables for chain in table.chains)

    @property
    def rules(self) -> Iterator[model.Rule]:
        """Yield the rules of all tables; those of a table twice that has two base chains."""
        for table in self.tables:
            yield from table.rules

    def base_chains(
        self, hook: str, family: Family, *, with_nat: bool = True, is_first: Mapping[int, bool] | None = None
    ) -> tuple[BaseChain, ...]:
        """Return the base chains at a hook, as packets of a family meet them, by what is known of their order.

        ``is_first`` decides on some of ``other_chains``, by their numbers there.
        """
        keyed = [(_sort_key(base, is_late=True), base) for base in _own_chains(self, hook)]
        for number, base in enumerate(self.other_chains):
            if base.hook == hook and family in base.families:
                is_newer = (is_first or {}).get(number, not base.is_older)
                keyed.append((_sort_key(base, is_late=not is_newer), base))
        return tuple(base for _, base in sorted(keyed, key=lambda pair: pair[0]) if with_nat or not base.is_nat)

    def reordered_situations(self, family: Family) -> Iterator[Situation]:
        """Yield the situation as it is, and with the chains of unknown age in each other possible order."""
        yield self
        free = [number for number, _ in self._unordered_chains(family)][: 2 * MAX_UNKNOWN_ORDERS]
        for moved in islice(product((False, True), repeat=len(free)), 1, None):
            chains = list(self.other_chains)
            for number in compress(free, moved):
                chains[number] = chains[number].replace(is_older=not chains[number].is_older)
            yield self.replace(other_chains=tuple(chains))

    def _unordered_chains(self, family: Family) -> Iterator[tuple[int, BaseChain]]:
        for number, base in enumerate(self.other_chains):
            if base.is_age_unknown and family in base.families and _has_tied_priority(self, base):
                yield number, base

    def orders(
        self, hook: str, family: Family, *, with_nat: bool = True
    ) -> Iterator[tuple[dict[int, bool], tuple[BaseChain, ...]]]:
        """Yield each possible order of the base chains, and for those of unknown age whether it is first.

        Those are named by their numbers in ``other_chains``.
        """
        free = [number for number, base in self._unordered_chains(family) if base.hook == hook][:MAX_UNKNOWN_ORDERS]
        for first in product((False, True), repeat=len(free)):
            known = dict(zip(free, first, strict=True))
            yield known, self.base_chains(hook, family, with_nat=with_nat, is_first=known)


def _own_chains(situation: Situation, hook: str) -> Iterator[BaseChain]:
    families, is_native = situation.ruleset.families, situation.is_native
    for name in model.TABLES:
        table = situation.ruleset.table(name)
        chain = table.chain(hook) if table else None
        if table is not None and chain is not None and _is_read(table, hook):
            contents = table.replace(chains=(chain, *[each for each in table.chains if each is not chain]))
            is_nat = name == model.NAT and hook != model.POSTROUTING
            is_route, priority = name == model.MANGLE, PRIORITIES[name]
            yield BaseChain(
                name, families, hook, priority, is_nat, contents, is_native=is_native, is_route=is_route, is_own=True
            )


def _sort_key(base: BaseChain, *, is_late: bool) -> tuple[int, ...]:
    """Return what orders a chain: the priority of its kernel entry, whether it is behind newer ones, its own priority.

    The entry of nat counts as late, and comes before older chains.
    """
    return (PRIORITIES[model.NAT], True, base.priority, is_late) if base.is_nat else (base.order, is_late, BEYOND)


def _has_tied_priority(situation: Situation, base: BaseChain) -> bool:
    """Return whether a chain has the priority of one of the capture's at its hook."""
    tables = [table.name for table in situation.ruleset.tables if table.chain(base.hook) is not None]
    if base.is_nat:
        return model.NAT in tables and base.priority == PRIORITIES[model.NAT]
    return base.order in [PRIORITIES[name] for name in tables]
