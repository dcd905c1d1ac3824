"""The driver ``restore``: text to iptables-restore, text from iptables-save, for both variants.

One process for each family and direction. ``nft`` writes xt rules into nf_tables, ``legacy`` into x_tables;
they are separate places in the kernel.

**Looking at legacy tables makes them**, and their mere presence changes what other programs (and upstream's
detection) decide. So only tables in /proc/net/ip_tables_names are read.

**The lock** of legacy programs is one file for the whole host, /run/xtables.lock, though tables belong to
network namespaces: pods waited for hours behind each other. Our lock is the namespace itself: flock(2) on
/proc/self/ns/net excludes exactly those who program the same namespace, is a file nowhere, and works where
/run is read-only.
"""

from __future__ import annotations

from capture.backends.iptables.driver import IptablesDriver, edits_by_family, require_awake
from capture.backends.iptables.families import merge_families
from capture.backends.iptables.parse import parse_save
from capture.backends.iptables.programs import require_iptables, run_program
from capture.backends.iptables.refusals import program_refusal, unreadable_table
from capture.backends.iptables.render import restore_text
from capture.backends.iptables.tables import NAMESPACE_LOCK, families_here, legacy_tables
from capture.backends.nf_tables.listing import read_tables
from capture.errors import CaptureError
from capture.model.addresses import FAMILIES, FAMILY_BY_NUMBER, Family
from capture.model.chain_names import DORMANT
from capture.model.ruleset import INPUT, MANGLE, OUTPUT, TABLES_BY_NAME, Ruleset, TableName
from capture.netlink.nfnetlink import open_nfnetlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal

    from capture.analysis.base_chains import BaseChain
    from capture.backends.iptables.plan import TableEdit
    from capture.backends.iptables.programs import Purpose
    from capture.backends.iptables.tables import Variant

XTABLES_LOCK_TIMEOUT = 10
"""Seconds to wait for another of our programs that is at work in the same namespace."""


class RestoreDriver(IptablesDriver):
    """Writes with ip(6)tables-restore and reads with ip(6)tables-save, of one variant."""

    name = "restore"

    def __init__(self, variant: Variant | Literal[""] = "") -> None:
        self.variant = variant or "nft"
        self._unreadable: dict[Family, set[str]] = {}
        self._dormant: set[tuple[Family, TableName]] = set()

    def read(self) -> Ruleset:
        """Return the tables of all families. Built-in chains of a dormant table are listed as others, marked."""
        read = [self.read_family(family) for family in families_here()]
        self._dormant = _dormant_tables() if self.variant == "nft" else set()
        return merge_families([self._mark_dormant(each) for each in read])

    def _mark_dormant(self, read: Ruleset) -> Ruleset:
        (family,) = read.families
        asleep = {table for of, table in self._dormant if of == family}
        return read.with_chains(
            lambda table, chain: chain.in_state(DORMANT) if chain.policy is not None and table in asleep else chain
        )

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        """Make our rules those of ``desired`` as ``IptablesDriver`` does. Raise CaptureError if a table is dormant."""
        require_awake(desired, self._dormant)
        super().write(desired, live, recorded)

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        """Remove everything of the capture, from dormant tables, too."""
        super().clean(super().read() if self._dormant else live, recorded)

    def read_family(self, family: Family) -> Ruleset:
        """Return the tables of one family.

        A table that nft filled and iptables cannot show is left out, and refused when it is to be written.
        """
        if self.variant == "legacy" and not legacy_tables(family):
            return Ruleset((family,), ())
        text = _run_iptables(self.variant, family, "save", ["-c"])
        # # Table `raw' is incompatible, use 'nft' tool.
        notes = [line for line in text.splitlines() if line.startswith("# Table `")]
        self._unreadable[family] = {note.split("'")[0].rpartition("`")[2] for note in notes}
        return parse_save(text, family)

    def execute(self, edits: Sequence[TableEdit]) -> None:
        for edit in edits:
            if edit.table in self._unreadable.get(edit.family, ()):
                raise unreadable_table(edit.family, edit.table)
            # Before anything is written, not between the families:
            require_iptables(self.variant, edit.family, "restore")
        for family, of_family in edits_by_family(edits):
            _run_iptables(self.variant, family, "restore", ["--noflush"], restore_text(of_family))
        if self.variant == "nft" and any(edit.removals or edit.dropped_chains for edit in edits):
            from capture.backends.iptables.netlink import remove_empty_tables  # nothing is left empty by what only adds

            remove_empty_tables(edits)


def _run_iptables(variant: Variant, family: Family, purpose: Purpose, options: Sequence[str], text: str = "") -> str:
    path = require_iptables(variant, family, purpose)
    environment = {}
    if variant == "legacy" and purpose == "restore":
        options = ["-w", str(XTABLES_LOCK_TIMEOUT), *options]
        environment["XTABLES_LOCKFILE"] = NAMESPACE_LOCK
    done = run_program([path, *options], text, environment)
    if done.status != 0:
        raise program_refusal([path, *options], done, text, family)
    return done.stdout


def _dormant_tables() -> set[tuple[Family, TableName]]:
    with open_nfnetlink() as netfilter:
        dormant = [table for table in read_tables(netfilter) if table.is_dormant and table.flavour == "nft"]
    return {(FAMILY_BY_NUMBER[table.family], TABLES_BY_NAME[table.name]) for table in dormant}


FILTER_PRIORITIES = {"filter": 0, "security": 50}
"""NF_IP_PRI_FILTER and NF_IP_PRI_SECURITY in linux/netfilter_ipv4.h."""


def read_legacy_filters() -> tuple[BaseChain, ...] | None:
    """Return the chains at INPUT and OUTPUT of the legacy tables that may drop what ours have redirected.

    We never write there. None where a table is there and no program reads it.
    """
    chains: list[BaseChain] = []
    for family in FAMILIES:
        for name in FILTER_PRIORITIES.keys() & {*legacy_tables(family)}:
            try:
                chains += _filters_of(family, name)
            except CaptureError:
                return None
    return tuple(chains)


def _filters_of(family: Family, name: str) -> Iterator[BaseChain]:
    from capture.analysis.base_chains import BaseChain  # which no writing needs

    saved = _run_iptables("legacy", family, "save", ["-c", "-t", name])
    # The model has no such table; mangle has the same chains and more.
    for table in parse_save(saved.replace(f"*{name}\n", f"*{MANGLE}\n"), family).tables:
        for chain in table.chains:
            if chain.name in (INPUT, OUTPUT) and (chain.rules or chain.policy == "DROP"):
                called = tuple(each for each in table.chains if each is not chain)
                contents = table.replace(chains=(chain, *called))
                shown, place = f"{name} of iptables-legacy", ("iptables", "legacy")
                yield BaseChain(
                    shown, (family,), chain.name, FILTER_PRIORITIES[name], False, contents, is_native=False, place=place
                )
