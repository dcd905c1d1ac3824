"""The driver ``netlink``: what iptables-nft would write, over a netlink socket and without iptables.

Both families and all tables change in one transaction. What stands there afterwards is what iptables-nft and
ip6tables-nft write themselves, so people see it with ``iptables -t nat -nvL`` and change it as they are used to.
"""

from __future__ import annotations

import errno

from capture.backends.iptables.plan import plan
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

FAMILIES_BY_NUMBER = {number: family for family, number in NFPROTO.items()}
TABLES_BY_NAME: dict[str, TableName] = {name: name for name in TABLES}


class Reading(Value):
    """What stood at one moment: as rules, as handles to change it by, and the number of that moment."""

    ruleset: Ruleset
    standing: Standing
    generation: int


class NetlinkDriver:
    """The tables of iptables-nft by our own messages: one transaction for all tables and both families."""

    backend = "iptables"
    name = "netlink"
    variant = "nft"

    def __init__(self) -> None:
        self._last: Reading | None = None

    def render(self, ruleset: Ruleset) -> list[tuple[str, str]]:
        """Return the input of ip(6)tables-nft-restore that does the same, by family."""
        from capture.backends.iptables.restore import RestoreDriver  # not needed to write

        return RestoreDriver("nft").render(ruleset)

    def read(self) -> Ruleset:
        """Return what the kernel holds, for IPv4 and, if the kernel has it, IPv6. Nothing comes to be by it.

        Raises UnsupportedError without nf_tables, PrivilegeError or KernelError.
        """
        with open_netfilter() as netfilter:
            self._last = _read(netfilter)
        return self._last.ruleset

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        """Make ours be ``desired``, in one transaction; if somebody changed what is live, of what there is now.

        Raises UnsupportedError with the name of what the kernel lacks, PrivilegeError, KernelError, or CaptureError
        if somebody's chain is in the way; nothing is changed then.
        """
        for family in desired.families:
            if family not in live.families:
                raise UnsupportedError(
                    f"this kernel has no {family.replace('ip', 'IP')}",
                    "Leave the family out, or boot without `ipv6.disable=1`.",
                )
        self._change("write the rules of capture", live, lambda now: plan(now, desired, recorded))

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        """Remove all that is ours, and the tables and chains that we made for it. Raises as ``write``."""
        self._change("remove the rules of capture", live, lambda now: plan(now, None, recorded))

    def _change(self, doing: str, live: Ruleset, edits: Callable[[Ruleset], Sequence[TableEdit]]) -> None:
        """Commit the edits of what stands, in one transaction and only if nobody changes it meanwhile."""
        last, self._last = self._last, None
        reading = last if last is not None and last.ruleset is live else None
        with open_netfilter() as netfilter:
            for _ in range(ATTEMPTS):
                now = reading or _read(netfilter)
                batch = list(changes(edits(now.ruleset), now.standing))
                try:
                    return _commit(netfilter, batch, now.generation, doing)
                except RulesetChangedError:
                    reading = None
        raise _never_quiet(doing)


def _commit(netfilter: NetlinkSocket, batch: list[Change], generation: int, doing: str) -> None:
    try:
        commit(netfilter, batch, generation, doing)
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
