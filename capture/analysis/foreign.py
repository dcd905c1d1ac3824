"""Foreign base chains in tables of their own, which captured packets pass, too.

Tables of nf_tables are independent of each other, but at each hook of a packet's path the kernel enters their base
chains in the order of their priorities, our own among them::

    output     ip foreign first, -200  ->   our nat OUTPUT, -100   ->   inet foreign last, 0
               drop: it is gone             redirect to the proxy       of no concern for the capture
               redirect: decided
               accept: it goes on

Of two with one priority, the one that was registered last is entered first (nf_hook_entries_grow in core.c).
So accepting ends nothing but that chain. The first redirect is the only one (nf_nat_inet_fn in nf_nat_core.c).
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capture.model.addresses import Family

PRIORITIES: dict[model.TableName, int] = {model.RAW: -300, model.MANGLE: -150, model.NAT: -100}
"""Of our own base chains at PREROUTING and OUTPUT (linux/netfilter_ipv4.h, enum nf_ip_hook_priorities)."""


FAR = 1 << 32
"""More than any priority, which has 32 bits."""

SOURCE_HOOKS = (model.INPUT, model.POSTROUTING)
"""Where nat maps sources. Their chains are not read: SNAT and MASQUERADE change the sender's address for the receiver,
and DNAT cannot be there (nf_nat_inet_fn maps by hook). That a filter behind tests the new source is not seen."""


class ForeignChain(Value):
    """A foreign base chain.

    ``table`` is what nft(8) calls its table, like "ip filter". ``contents`` are its rules in the terms of our model,
    and what nft(8) calls them as ``why``: the base chain first, then those that one can jump to.
    """

    table: str
    families: tuple[Family, ...]
    hook: str
    """PREROUTING, INPUT, OUTPUT or POSTROUTING."""
    priority: int
    is_nat: bool
    """Whether it sees the first packet of a connection only, and never one that is redirected."""
    contents: model.Table
    is_older: bool = False
    """Whether its table was there before our own. Of chains with one priority the kernel enters the newest first."""
    is_of_any_age: bool = False
    """Whether its age is unknown: nothing orders legacy tables and nf_tables."""
    is_native: bool = True
    """Whether it is written in nf_tables' own expressions, not in those of iptables."""
    is_worth_notes: bool = True
    """Whether a rule of it without effect is worth a note."""
    is_route: bool = False
    """Whether packets that leave are routed again where its rules changed the mark."""
    devices: tuple[str, ...] = ()
    """The interfaces whose packets meet it, before PREROUTING or behind POSTROUTING; its rules name them."""

    @property
    def turn(self) -> int:
        """Return what orders chains at a hook: the priority, but chains of devices are first, or last."""
        return self.priority + (0 if not self.devices else -FAR if self.hook == model.PREROUTING else FAR)

    @property
    def place(self) -> str:
        """Return its hook in words."""
        if not self.devices:
            return self.hook
        return f"{'ingress' if self.hook == model.PREROUTING else 'egress'} of {', '.join(self.devices)}"

    @property
    def entry(self) -> model.Chain:
        """Return the base chain itself."""
        return self.contents.chains[0]

    def with_entry(self, entry: model.Chain) -> ForeignChain:
        """Return the same with another base chain."""
        return self.replace(contents=self.contents.replace(chains=(entry, *self.contents.chains[1:])))

    def is_before(self, table: model.TableName) -> bool:
        """Return whether packets come here before our table, or may do so.

        A chain may have been put into an old table later than our own; the kernel does not show that.
        """
        return self.turn < PRIORITIES[table] or (self.priority == PRIORITIES[table] and not self.is_older)


def in_tables_of_iptables(
    ruleset: model.Ruleset, is_older: Callable[[model.TableName], bool]
) -> Iterator[ForeignChain]:
    """Yield the chains of a rule set of iptables that packets of a pod meet, with all their rules."""
    for table in ruleset.tables:
        for chain in table.chains:
            if chain.name in (model.PREROUTING, model.OUTPUT) or (
                chain.name in SOURCE_HOOKS and table.name != model.NAT
            ):
                entry = chain.replace(rules=tuple(rule.replace(why="") for rule in chain.rules))
                others = tuple(each for each in table.chains if each is not chain)
                yield ForeignChain(
                    f"{table.name} of iptables",
                    ruleset.families,
                    chain.name,
                    PRIORITIES[table.name],
                    table.name == model.NAT,
                    table.replace(chains=(entry, *others)),
                    is_older(table.name),
                    is_native=False,
                    is_route=table.name == model.MANGLE,
                )
