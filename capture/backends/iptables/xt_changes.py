"""From a plan to the messages of one transaction, for both families and all tables. Pure.

The messages come in the order in which iptables-nft-restore sends them for ``restore_text``, so that tables,
chains and handles end up alike: our chains made or emptied, their rules, rules in shared chains, chains
dropped. A rule is inserted before one that stays, named by its handle.

Like iptables, we make a table and its built-in chains when the first rule needs them. Unlike iptables, we remove
them again: an empty chain that we made (``own_built_in``), then the table if nothing is left in it.
"""

from __future__ import annotations

from capture.backends.iptables.xt_encode import encode_rule
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.messages import TableMessages
from capture.backends.nf_tables.names import HOOKS
from capture.errors import CaptureError
from capture.model.addresses import FAMILY_NUMBERS, Family
from capture.model.chain_names import NOT_HOOKED, is_own_chain, state_name
from capture.model.ruleset import BUILT_IN_CHAINS, OUTPUT, PREROUTING, Rule, TableName
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from capture.backends.iptables.plan import TableEdit
    from capture.backends.iptables.xt_decode import FoundRule
    from capture.backends.nf_tables.listing import FoundChain
    from capture.netlink.nfnetlink import Change


class LiveTable(Value):
    """A live table: its chains by the model's names, and how many chains, sets and other things are in it."""

    uses: int
    chains: Mapping[str, FoundChain]
    rules: Mapping[str, Sequence[FoundRule]]
    """In order, by the kernel's names of their chains; none for a chain without rules."""
    is_dormant: bool = False

    def rules_of(self, chain: FoundChain) -> Sequence[FoundRule]:
        return self.rules.get(chain.name, ())


if TYPE_CHECKING:
    LiveTables = Mapping[tuple[Family, TableName], LiveTable]

ABSENT_TABLE = LiveTable(0, {}, {})
USED_CHAINS = (PREROUTING, OUTPUT)
"""The built-in chains that our rule sets and upstream's have rules in."""


def changes(edits: Iterable[TableEdit], live: LiveTables) -> Iterator[Change]:
    """Yield the messages that carry out a plan for live tables.

    Raises ValueError for a rule that iptables cannot express, and CaptureError where a chain is in the
    place of a built-in one that is none.
    """
    for edit in edits:
        table = live.get((edit.family, edit.table))
        yield from _TableChanges(edit, table).messages()


def removals(edits: Iterable[TableEdit], live: LiveTables) -> Iterator[Change]:
    """Yield the messages that delete what edits of iptables-nft have left: empty chains, tables without any.

    It never does so itself, and the kernel goes on tracking connections for a nat table without rules.
    """
    for edit in edits:
        table = live.get((edit.family, edit.table))
        if table is not None and (edit.removals or edit.dropped_chains):
            shared = {chain for chain, _ in edit.removals} & table.chains.keys()
            idle = frozenset(chain for chain in shared if table.chains[chain].policy == "ACCEPT")
            yield from _TableChanges(edit, table).deletions(idle, had_chains=True)


class _TableChanges:
    """The messages for one edit, and what is in the table as they take effect."""

    def __init__(self, edit: TableEdit, table: LiveTable | None) -> None:
        self._edit = edit
        self._messages = TableMessages(FAMILY_NUMBERS[edit.family], edit.table)
        self._is_new = table is None
        self._table = table or ABSENT_TABLE
        self._rules: dict[str, list[int | None]] = {
            name: [rule.handle for rule in self._table.rules_of(chain)] for name, chain in self._table.chains.items()
        }
        """The chains and the handles of their rules; None for rules that are new and have none yet."""

    def messages(self) -> Iterator[Change]:
        own = own_built_in(self._edit.table, self._table, self._edit.removals)
        yield from self._edit_messages()
        yield from self.deletions(own, had_chains=bool(self._table.chains))

    def _edit_messages(self) -> Iterator[Change]:
        edit, messages = self._edit, self._messages
        dropped = [chain for chain in edit.dropped_chains if chain in self._rules]
        if self._is_new and (edit.rewritten_chains or edit.insertions):
            yield messages.add_table()
        for chain in (*edit.rewritten_chains, *dropped):
            yield messages.flush_chain(chain) if chain in self._rules else messages.add_chain(chain, None)
            self._rules[chain] = []
        for chain, rules in edit.rewritten_chains.items():
            for rule in rules:
                yield self._insert(chain, None, rule)
        for chain, position in edit.removals:
            handle = self._rules[chain].pop(position)
            if handle is not None:
                yield messages.delete_rule(self._table.chains[chain].name, handle)
        for chain, index, rule in edit.insertions:
            yield from self._built_in_chain(chain)
            yield self._insert(chain, index, rule)
        for chain in dropped:
            del self._rules[chain]
            yield messages.delete_chain(chain)

    def _built_in_chain(self, chain: str) -> Iterator[Change]:
        """Yield the message that makes a built-in chain, if it is not there. Raise CaptureError if it is another's."""
        if chain in self._rules:
            return
        for live in self._table.chains.values():
            if live.name == chain:
                table = f"{nf.NFT_FAMILIES[FAMILY_NUMBERS[self._edit.family]]} {self._edit.table}"
                raise CaptureError(
                    f"the chain {chain} of table {table} is not the one that iptables has:"
                    f" {state_name(chain, state_of(self._edit.table, live))}",
                    f"Remove it (`nft delete chain {table} {chain}`), or use the backend nftables.",
                )
        self._rules[chain] = []
        yield self._messages.add_chain(chain, HOOKS[self._edit.table, chain])

    def _insert(self, chain: str, position: int | None, rule: Rule) -> Change:
        """Return the message that inserts a rule before the next one that has a handle, or else at the end."""
        rules = self._rules[chain]
        at = len(rules) if position is None else position
        before = next((handle for handle in rules[at:] if handle is not None), None)
        rules.insert(at, None)
        return self._messages.add_rule(chain, encode_rule(rule, self._edit.family), before=before)

    def deletions(self, own: frozenset[str], *, had_chains: bool) -> Iterator[Change]:
        """Yield the messages that delete our built-in chains that are empty now, and a table with nothing in it."""
        empty = [chain for chain in USED_CHAINS if chain in own and not self._rules[chain]]
        for chain in empty:
            del self._rules[chain]
            yield self._messages.delete_chain(chain)
        if had_chains and not self._rules and self._table.uses == len(self._table.chains):
            yield self._messages.delete_table(only_empty=True)


def state_of(table: TableName, chain: FoundChain) -> str:
    """Return the state of a chain that looks like a built-in one and is none; "" for any other.

    The kernel enters one with the hook ``nat prerouting -5`` at another time, and never one that is not hooked.
    """
    if chain.name not in BUILT_IN_CHAINS[table] or chain.hook == HOOKS[table, chain.name]:
        return ""
    return str(chain.hook or NOT_HOOKED)


def own_built_in(name: TableName, table: LiveTable, own_positions: Collection[tuple[str, int]]) -> frozenset[str]:
    """Return the built-in chains that were made for our rules and accept what has no rule.

    ``own_positions`` are our rules in other chains than our own, by chain and position.

    It is written down nowhere, but handles show it: they count up in a table with everything that is made there, a
    chain or a rule, and are never used again. We make a built-in chain when the first rule needs it, as iptables 1.8.9
    does, so at first that rule follows it. Later the rule may be gone; then the next object of that time follows.

        1 PREROUTING, 2 INPUT, 3 OUTPUT, 4 POSTROUTING, 5 ISTIO_INBOUND, ...    foreign: chains follow at once
        1 PREROUTING, 2 a rule of others, 3 OUTPUT, 4 our jump, ...             PREROUTING is foreign, OUTPUT our own
        1 ISTIO_INBOUND, 2 its rule, 3 PREROUTING, 4 our jump, 5 OUTPUT, ...    our own
        3 PREROUTING, 19 ISTIO-INBOUND, ...                                     our own, of an earlier rule set
    """
    undecided = {
        chain.handle: chain.name
        for chain in table.chains.values()
        if chain.name in USED_CHAINS and chain.policy == "ACCEPT" and chain.hook == HOOKS[name, chain.name]
    }
    chains = {chain.handle for chain in table.chains.values()}
    is_own: dict[int, bool] = {}
    for called, chain in table.chains.items():
        is_own[chain.handle] = is_own_chain(called)
        for position, rule in enumerate(table.rules_of(chain)):
            is_own[rule.handle] = is_own_chain(called) or (called, position) in own_positions
    following = None
    for handle in sorted(is_own, reverse=True):
        if handle in undecided:
            at_once_a_chain = following == handle + 1 and following in chains
            is_own[handle] = following is not None and is_own[following] and not at_once_a_chain
        following = handle
    return frozenset(called for handle, called in undecided.items() if is_own[handle])
