"""The driver ``netlink``: what iptables-nft would write, over a netlink socket and without iptables.

Both families and all tables change in one transaction. What is there afterwards is what iptables-nft and
ip6tables-nft write themselves, so people see it with ``iptables -t nat -nvL`` and change it as they are used to.
"""

from __future__ import annotations

from capture.backends.iptables.driver import IptablesDriver
from capture.backends.iptables.plan import TableView
from capture.backends.iptables.tables import families_here
from capture.backends.iptables.xt_changes import changes, removals
from capture.backends.iptables.xt_encode import matches_of, verdict_of
from capture.backends.iptables.xt_messages import TableMessages
from capture.backends.iptables.xt_tables import live_table, ruleset_of
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.exact import chains_are, rules_are
from capture.backends.nf_tables.listing import read_chains, read_rules, read_tables
from capture.errors import KernelError, UnsupportedError
from capture.model.ruleset import BUILT_IN_CHAINS, TABLES
from capture.model.values import Value
from capture.netlink.attributes import decode_number, decode_text
from capture.netlink.batch import RulesetChangedError, commit
from capture.netlink.nfnetlink import ATTEMPTS, open_netfilter, read_consistently, ruleset_busy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from capture.backends.iptables.plan import TableEdit
    from capture.backends.iptables.xt_decode import FoundChain
    from capture.backends.iptables.xt_tables import LiveTables
    from capture.model.addresses import Family
    from capture.model.ruleset import Ruleset, TableName
    from capture.netlink.batch import Change
    from capture.netlink.sockets import NetlinkSocket

WRITING = "change the tables of iptables"

TABLES_BY_NAME: dict[str, TableName] = {name: name for name in TABLES}


class Reading(Value):
    """What was live at one moment: as rules, as handles to change it by, and the number of that moment."""

    ruleset: Ruleset
    live: LiveTables
    generation: int


class NetlinkDriver(IptablesDriver):
    """The tables of iptables-nft by our own messages: one transaction for all tables and both families."""

    name = "netlink"

    def __init__(self) -> None:
        self._reading: Reading | None = None

    def holds(self, desired: Ruleset) -> bool:
        """Return whether the tables hold the desired rules to the byte and nothing else; no means "read it"."""
        with open_netfilter() as netfilter:
            return _hold_exactly(netfilter, desired)

    def read(self) -> Ruleset:
        """Return what the kernel holds, for IPv4 and, if the kernel has it, IPv6. Nothing comes to be by it.

        Raises UnsupportedError without nf_tables, PrivilegeError or KernelError.
        """
        self._reading = None
        return self._read().ruleset

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        """Make our rules those of ``desired``, in one transaction; if another program changed what is live, from that.

        Raises UnsupportedError with the name of what the kernel lacks, PrivilegeError, KernelError, or CaptureError
        if a foreign chain is in the way; nothing is changed then.
        """
        write = super().write
        self._act(live, lambda now: write(desired, now, recorded))

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        """Remove everything of the capture, and the tables and chains that were made for it. Raises as ``write``."""
        clean = super().clean
        self._act(live, lambda now: clean(now, recorded))

    def execute(self, edits: Sequence[TableEdit]) -> None:
        """Carry out all edits in one transaction. Raises RulesetChangedError if what was read has changed."""
        if edits:
            reading = self._read()
            with open_netfilter() as netfilter:
                _commit(netfilter, lambda: changes(edits, reading.live), reading.generation)

    def _read(self) -> Reading:
        """Return what was read last, or is read now."""
        if self._reading is None:
            with open_netfilter() as netfilter:
                self._reading = _read(netfilter)
        return self._reading

    def _act(self, live: Ruleset, act: Callable[[Ruleset], None]) -> None:
        """Act on what is live, if it is what was read last, else on what is there now; and again if that changes."""
        for _ in range(ATTEMPTS):
            known = self._reading is not None and self._reading.ruleset is live
            try:
                act(live if known else self.read())
            except RulesetChangedError:
                pass
            else:
                return
            finally:
                self._reading = None
        raise ruleset_busy(WRITING)


def _commit(netfilter: NetlinkSocket, batch: Callable[[], Iterable[Change]], generation: int) -> None:
    try:
        commit(netfilter, batch(), generation, WRITING)
    except RulesetChangedError:
        raise
    except (KernelError, UnsupportedError) as error:
        from capture.backends.iptables.refusals import refusal_of_kernel  # only needed when the kernel refuses

        raise refusal_of_kernel(netfilter, error, list(batch())) from error


def tidy(edits: Sequence[TableEdit]) -> None:
    """Delete what edits of iptables-nft have left empty; if other programs keep changing the ruleset, it stays."""
    with open_netfilter() as netfilter:
        for _ in range(ATTEMPTS):
            reading = _read(netfilter)
            try:
                commit(netfilter, list(removals(edits, reading.live)), reading.generation, WRITING)
            except RulesetChangedError:
                continue
            return


def _read(netfilter: NetlinkSocket) -> Reading:
    """Return the tables as they were at one moment."""
    families = families_here()

    def read() -> LiveTables:
        tables = _read_tables(netfilter, families)
        return _read_contents(netfilter, tables) if tables else {}

    live, generation = read_consistently(netfilter, "read the tables of iptables", read)
    return Reading(ruleset_of(families, live), live, generation)


def _read_tables(netfilter: NetlinkSocket, families: Sequence[Family]) -> dict[tuple[Family, TableName], int]:
    """Return the live tables of iptables, but for those we never touch, with how many things are in each."""
    tables: dict[tuple[Family, TableName], int] = {}
    for number, fields in read_tables(netfilter):
        family, table = nf.FAMILIES.get(number), decode_text(fields[nf.NFTA_TABLE_NAME])
        if family is not None and family in families and table in TABLES_BY_NAME:
            tables[family, TABLES_BY_NAME[table]] = decode_number(fields.get(nf.NFTA_TABLE_USE, b""))
    return tables


def _read_contents(netfilter: NetlinkSocket, tables: Mapping[tuple[Family, TableName], int]) -> LiveTables:
    """Return the tables with their chains and rules."""
    from capture.backends.iptables.xt_decode import Reader, decode_chain  # not needed in a new pod, where nothing is

    chains: dict[tuple[int, str], list[FoundChain]] = {}
    for number, fields in read_chains(netfilter):
        chain = decode_chain(fields)
        chains.setdefault((number, chain.table), []).append(chain)
    readers = {family: Reader(family) for family, _ in tables}
    return {
        (family, table): live_table(
            table,
            uses,
            chains.get((nf.FAMILY_NUMBERS[family], table), ()),
            map(readers[family].read, read_rules(netfilter, nf.FAMILY_NUMBERS[family], table)),
        )
        for (family, table), uses in tables.items()
    }


def _hold_exactly(netfilter: NetlinkSocket, desired: Ruleset) -> bool:
    """Return whether the tables of iptables are the desired ones, to the byte; False does not mean that they differ."""
    views = [
        (family, TableView(desired, family, table.name)) for family in desired.families for table in desired.tables
    ]
    chains = [message for family, view in views for message in _desired_chains(family, view)]
    return (
        bool(chains)
        and chains_are(netfilter, nf.FAMILIES, TABLES, chains)
        and all(_rules_are(netfilter, family, view) for family, view in views)
    )


def _desired_chains(family: Family, view: TableView) -> Iterator[Change]:
    """Yield the messages for the chains of one table that ``write`` makes."""
    used = [chain for chain in BUILT_IN_CHAINS[view.table] if view.rules(chain)]
    return map(TableMessages(family, view.table).add_chain, (*used, *view.our_chains()))


def _rules_are(netfilter: NetlinkSocket, family: Family, view: TableView) -> bool:
    desired_rules = {
        chain.name: ((matches_of(rule, family), verdict_of(rule, family), b"") for rule in view.rules(chain.name))
        for chain in view.chains()
    }
    has_rules = any(view.rules(chain) for chain in desired_rules)
    return not has_rules or rules_are(netfilter, nf.FAMILY_NUMBERS[family], view.table, desired_rules)
