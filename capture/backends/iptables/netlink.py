"""The driver ``netlink``: what iptables-nft would write, over a netlink socket and without iptables.

Both families and all tables change in one transaction. What is there afterwards is what iptables-nft and
ip6tables-nft write themselves, so people see it with ``iptables -t nat -nvL`` and change it as they are used to.
"""

from __future__ import annotations

import errno

from capture.backends.iptables.driver import IptablesDriver, require_awake, require_families
from capture.backends.iptables.families import merge_families, single_family_ruleset
from capture.backends.iptables.plan import TableEdit, plan
from capture.backends.iptables.tables import families_here
from capture.backends.iptables.xt_changes import LiveTable, changes, removals, state_of
from capture.backends.nf_tables.exact import has_exactly
from capture.backends.nf_tables.listing import FoundTable, read_rules, read_tables
from capture.errors import KernelError, UnsupportedError
from capture.model.addresses import FAMILY_BY_NUMBER, Family
from capture.model.chain_names import DORMANT, state_name
from capture.model.ruleset import BUILT_IN_CHAINS, TABLES_BY_NAME, Chain, Counters, Ruleset, TableName
from capture.netlink.nfnetlink import Change, open_nfnetlink, read_consistently, transact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from capture.backends.iptables.xt_changes import LiveTables
    from capture.backends.iptables.xt_decode import FoundRule
    from capture.netlink.sockets import NetlinkSocket

WRITING = "change the tables of iptables"

MAX_REMEMBERED = 1000
"""Messages: each takes half a kilobyte, and the plugin's memory is the node's."""


class IptablesNetlinkDriver(IptablesDriver):
    """The tables of iptables-nft by our own messages: one transaction for all tables and both families."""

    name = "netlink"

    def __init__(self) -> None:
        self._made: tuple[Ruleset, tuple[Change, ...]] | None = None

    def has_exactly(self, desired: Ruleset) -> bool:
        """Return whether the tables hold the desired rules to the byte and nothing else; False means "read it"."""
        messages = self._messages_for(desired)
        with open_nfnetlink() as netfilter:
            return bool(messages) and has_exactly(netfilter, "nft", messages)

    def read(self) -> Ruleset:
        """Return what the kernel holds, for IPv4 and, if the kernel has it, IPv6. It makes no table.

        Base chains that iptables does not have are foreign chains, of whatever name their table is. Packets meet no
        chain of a dormant table; its built-in ones are listed as others, marked.

        Raises UnsupportedError without nf_tables, PrivilegeError or KernelError.
        """
        with open_nfnetlink() as netfilter:
            live, _ = read_consistently(netfilter, "read the tables of iptables", lambda: _read(netfilter))
        return ruleset_of(families_here(), _iptables_view(live))

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        """Make our rules those of ``desired``, in one transaction and from what is live now.

        Raises UnsupportedError with the name of what the kernel lacks, PrivilegeError, KernelError, or CaptureError
        if a foreign chain is in the way or a table is dormant; nothing is changed then.
        """
        del live

        def changes_of(live: LiveTables) -> Iterable[Change]:
            families = families_here()
            require_families(desired, families)
            require_awake(desired, [place for place, table in live.items() if table.is_dormant])
            if not live:
                return self._messages_for(desired)
            return changes(plan(ruleset_of(families, live), desired, recorded), live)

        _transact(changes_of)

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        """Remove everything of the capture, and the tables and chains that were made for it. Raises as ``write``."""
        del live
        _transact(lambda live: changes(plan(ruleset_of(families_here(), live), None, recorded), live))

    def _messages_for(self, desired: Ruleset) -> Iterable[Change]:
        """Return the messages that make the rules where there are none.

        They are remembered, unless there are thousands: what is written is looked for right afterwards.
        """
        if self._made is None or self._made[0] is not desired:
            edits = plan(Ruleset(desired.families, ()), desired)
            if sum(len(rules) for edit in edits for rules in edit.rewritten_chains.values()) > MAX_REMEMBERED:
                return changes(edits, {})
            self._made = desired, tuple(changes(edits, {}))
        return self._made[1]


def _transact(changes_of: Callable[[LiveTables], Iterable[Change]]) -> None:
    latest: LiveTables | None = None

    def changes_now(live: LiveTables) -> Iterable[Change]:
        nonlocal latest
        latest = live
        return changes_of(live)

    try:
        transact(WRITING, _read, changes_now)
    except (KernelError, UnsupportedError) as error:
        if latest is None:
            raise
        from capture.backends.iptables.refusals import kernel_refusal  # only needed when the kernel refuses

        raise kernel_refusal(error, list(changes_of(latest))) from error


def remove_empty_tables(edits: Sequence[TableEdit]) -> None:
    """Delete what edits of iptables-nft have left empty; if other programs keep changing the ruleset, it stays."""
    try:
        transact(WRITING, _read, lambda live: removals(edits, live))
    except KernelError as error:
        if error.errno != errno.EINTR:
            raise


def _read(netfilter: NetlinkSocket) -> LiveTables:
    """Return the live tables of iptables with their chains and rules, but for tables that we never touch."""
    families = families_here()
    found = (each for each in read_tables(netfilter) if each.flavour == "nft")
    tables = [each for each in found if FAMILY_BY_NUMBER[each.family] in families]
    if not tables:
        return {}
    from capture.backends.iptables.xt_decode import RuleReader  # not needed in a new pod, where nothing is

    readers = {table.family: RuleReader(FAMILY_BY_NUMBER[table.family]) for table in tables}
    live: dict[tuple[Family, TableName], LiveTable] = {}
    for table in tables:
        rules = map(readers[table.family].read, read_rules(netfilter, table.family, table.name))
        live[FAMILY_BY_NUMBER[table.family], TABLES_BY_NAME[table.name]] = live_table(table, rules)
    return live


def _iptables_view(live: LiveTables) -> LiveTables:
    """Return tables without the base chains that iptables does not have; those of a dormant one are marked."""
    return {
        (family, name): table.replace(
            chains={
                state_name(chain_name, DORMANT) if table.is_dormant and chain.hook else chain_name: chain
                for chain_name, chain in table.chains.items()
                if chain.hook is None or chain_name in BUILT_IN_CHAINS[name]
            }
        )
        for (family, name), table in live.items()
    }


def live_table(table: FoundTable, rules: Iterable[FoundRule]) -> LiveTable:
    """Return a table that was found, with its rules in the kernel's order."""
    by_chain: dict[str, list[FoundRule]] = {}
    for rule in rules:
        by_chain.setdefault(rule.chain, []).append(rule)
    name = TABLES_BY_NAME[table.name]
    by_name = {state_name(chain.name, state_of(name, chain)): chain for chain in table.chains}
    return LiveTable(table.uses, by_name, by_chain, table.is_dormant)


def ruleset_of(families: Sequence[Family], live: LiveTables) -> Ruleset:
    """Return the rule set of all families."""
    of_each = (
        single_family_ruleset(
            family, {name: _listed_chains(name, table) for (other, name), table in live.items() if other == family}
        )
        for family in families
    )
    return merge_families(list(of_each))


def _listed_chains(name: TableName, table: LiveTable) -> Iterator[Chain]:
    """Yield the chains of a table as iptables lists them: built-in ones even if they are not there, others by name."""
    built_in = BUILT_IN_CHAINS[name]
    for chain in (*built_in, *sorted(table.chains.keys() - set(built_in))):
        live = table.chains.get(chain)
        if live is None:
            yield Chain(chain, (), "ACCEPT", Counters(0, 0))
        else:
            # In a plan, chains of a dormant table are called as the kernel calls them.
            state = "" if chain == live.name else DORMANT if table.is_dormant and live.hook else state_of(name, live)
            rules = tuple(rule.rule for rule in table.rules_of(live))
            yield Chain(live.name, rules, live.policy, live.counters).in_state(state)
