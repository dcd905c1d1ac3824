"""The driver ``netlink``: what iptables-nft would write, over a netlink socket and without iptables.

Both families and all tables change in one transaction. What stands there afterwards is what iptables-nft and
ip6tables-nft write themselves, so people see it with ``iptables -t nat -nvL`` and change it as they are used to.
"""

from __future__ import annotations

import errno

from capture.backends.iptables.driver import IptablesDriver
from capture.backends.iptables.tables import families_here
from capture.backends.iptables.xt_changes import changes
from capture.backends.iptables.xt_decode import Reader, decode_chain, decode_table
from capture.backends.iptables.xt_encode import NFPROTO, TABLE_FAMILIES
from capture.backends.iptables.xt_tables import ruleset_of, standing_table
from capture.backends.nftables import constants as nf
from capture.errors import KernelError, UnsupportedError
from capture.model import TABLES
from capture.netlink.attributes import attribute, text
from capture.netlink.batch import RulesetChangedError, commit
from capture.netlink.nfnetlink import NFPROTO_UNSPEC, open_netfilter, read_generation, read_objects
from capture.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    from capture.addresses import Family
    from capture.backends.iptables.plan import TableEdit
    from capture.backends.iptables.xt_decode import FoundChain, FoundRule
    from capture.backends.iptables.xt_tables import Standing
    from capture.model import Ruleset, TableName
    from capture.netlink.batch import Change
    from capture.netlink.sockets import NetlinkSocket

    T = TypeVar("T")

ATTEMPTS = 10
"""Of reading or writing while somebody else writes."""
WRITING = "change the tables of iptables"

FAMILIES_BY_NUMBER = {number: family for family, number in NFPROTO.items()}
TABLES_BY_NAME: dict[str, TableName] = {name: name for name in TABLES}


class Reading(Value):
    """What stood at one moment: as rules, as handles to change it by, and the number of that moment."""

    ruleset: Ruleset
    standing: Standing
    generation: int


class NetlinkDriver(IptablesDriver):
    """The tables of iptables-nft by our own messages: one transaction for all tables and both families."""

    name = "netlink"
    variant = "nft"

    def __init__(self) -> None:
        self._reading: Reading | None = None

    def read(self) -> Ruleset:
        """Return what the kernel holds, for IPv4 and, if the kernel has it, IPv6. Nothing comes to be by it.

        Raises UnsupportedError without nf_tables, PrivilegeError or KernelError.
        """
        self._reading = None
        return self._what_stands().ruleset

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        """Make ours be ``desired``, in one transaction; if somebody changed what is live, then of what there is now.

        Raises UnsupportedError with the name of what the kernel lacks, PrivilegeError, KernelError, or CaptureError
        if somebody's chain is in the way; nothing is changed then.
        """
        write = super().write
        self._on_what_stands(live, lambda now: write(desired, now, recorded))

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        """Remove all that is ours, and the tables and chains that were made for it. Raises as ``write``."""
        clean = super().clean
        self._on_what_stands(live, lambda now: clean(now, recorded))

    def execute(self, edits: Sequence[TableEdit]) -> None:
        """Carry out all edits in one transaction. Raises RulesetChangedError if what was read stands no more."""
        if edits:
            reading = self._what_stands()
            with open_netfilter() as netfilter:
                _commit(netfilter, list(changes(edits, reading.standing)), reading.generation)

    def title(self, family: Family) -> str:
        from capture.backends.iptables.programs import COMMANDS  # which this driver does without

        return f"{COMMANDS[family]}-{self.variant}-restore --noflush"

    def _what_stands(self) -> Reading:
        """Return what was read last, or is read now."""
        if self._reading is None:
            with open_netfilter() as netfilter:
                self._reading = _read(netfilter)
        return self._reading

    def _on_what_stands(self, live: Ruleset, act: Callable[[Ruleset], None]) -> None:
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
        raise _never_quiet(WRITING)


def _commit(netfilter: NetlinkSocket, batch: list[Change], generation: int) -> None:
    try:
        commit(netfilter, batch, generation, WRITING)
    except RulesetChangedError:
        raise
    except (KernelError, UnsupportedError) as error:
        from capture.backends.iptables.xt_support import explained  # only needed when the kernel refuses

        raise explained(netfilter, error, batch) from error


def _never_quiet(doing: str) -> KernelError:
    return KernelError(
        doing, errno.EINTR, f"the ruleset changed during each of {ATTEMPTS} attempts; who keeps writing?"
    )


# --- reading -------------------------------------------------------------------------------------


def _read(netfilter: NetlinkSocket) -> Reading:
    """Return the tables as they were at one moment."""
    families = families_here()
    for _ in range(ATTEMPTS):
        generation = read_generation(netfilter)
        standing = _read_standing(netfilter, families)
        if read_generation(netfilter) == generation:
            return Reading(ruleset_of(families, standing), standing, generation)
    raise _never_quiet("read the tables of iptables")


def _read_standing(netfilter: NetlinkSocket, families: Sequence[Family]) -> Standing:
    """Return the tables of iptables that we have to do with; the others (filter, security) are not looked at."""
    tables = list(_find(decode_table, netfilter, nf.NFT_MSG_GETTABLE, "read the tables of nf_tables"))
    places = [
        (family, TABLES_BY_NAME[table.name], table.uses)
        for family, table in tables
        if family in families and table.name in TABLES_BY_NAME
    ]
    if not places:
        return {}
    chains: dict[tuple[Family, str], list[FoundChain]] = {}
    for family, chain in _find(decode_chain, netfilter, nf.NFT_MSG_GETCHAIN, "read the chains of nf_tables"):
        chains.setdefault((family, chain.table), []).append(chain)
    readers = {family: Reader(family) for family in families}
    return {
        (family, table): standing_table(
            table, uses, chains.get((family, table), ()), _read_rules(netfilter, readers[family], family, table)
        )
        for family, table, uses in places
    }


def _find(decode: Callable[[bytes], T], netfilter: NetlinkSocket, kind: int, doing: str) -> Iterator[tuple[Family, T]]:
    """Yield what the kernel dumps for IPv4 and IPv6."""
    for number, attributes in read_objects(netfilter, kind, NFPROTO_UNSPEC, b"", doing):
        if number in FAMILIES_BY_NUMBER:
            yield FAMILIES_BY_NUMBER[number], decode(attributes)


def _read_rules(netfilter: NetlinkSocket, reader: Reader, family: Family, table: TableName) -> Iterator[FoundRule]:
    doing = f"read the rules of table {TABLE_FAMILIES[family]} {table}"
    of_table = attribute(nf.NFTA_RULE_TABLE, text(table))
    for _, attributes in read_objects(netfilter, nf.NFT_MSG_GETRULE, NFPROTO[family], of_table, doing):
        yield reader.read(attributes)
