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

from capture.backends.iptables.driver import IptablesDriver, by_family
from capture.backends.iptables.parse import parse_save
from capture.backends.iptables.programs import require, run
from capture.backends.iptables.refusals import refusal, unreadable
from capture.backends.iptables.render import restore_text
from capture.backends.iptables.tables import legacy_tables
from capture.model.ruleset import Ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from capture.backends.iptables.plan import TableEdit
    from capture.backends.iptables.programs import Purpose
    from capture.backends.iptables.tables import Variant
    from capture.model.addresses import Family

NAMESPACE_LOCK = "/proc/self/ns/net"
XTABLES_LOCK_TIMEOUT = 10
"""Seconds to wait for another of our programs that is at work in the same namespace."""


class RestoreDriver(IptablesDriver):
    """Writes with ip(6)tables-restore and reads with ip(6)tables-save, of one variant."""

    name = "restore"

    def __init__(self, variant: Variant | Literal[""] = "") -> None:
        self.variant = variant or "nft"
        self._unreadable: set[tuple[Family, str]] = set()

    def read_family(self, family: Family) -> Ruleset:
        """Return the tables of one family.

        A table that nft filled and iptables cannot show is left out, and refused when it is to be written.
        """
        if self.variant == "legacy" and not legacy_tables(family):
            return Ruleset((family,), ())
        text = self._run(family, "save", ["-c"])
        self._unreadable = {each for each in self._unreadable if each[0] != family}
        self._unreadable |= {(family, table) for table in unreadable_tables(text)}
        return parse_save(text, family)

    def execute(self, edits: Sequence[TableEdit]) -> None:
        for edit in edits:
            if (edit.family, edit.table) in self._unreadable:
                raise unreadable(edit.family, edit.table)
            require(self.variant, edit.family, "restore")  # before anything is written, not between the families
        for family, of_family in by_family(edits):
            self._run(family, "restore", ["--noflush"], restore_text(of_family))
        if self.variant == "nft" and any(edit.removed or edit.dropped for edit in edits):
            from capture.backends.iptables.netlink import tidy  # nothing is left empty by what only adds

            tidy(edits)

    def _run(self, family: Family, purpose: Purpose, options: Sequence[str], text: str = "") -> str:
        path = require(self.variant, family, purpose)
        environment = {}
        if self.variant == "legacy" and purpose == "restore":
            options = ["-w", str(XTABLES_LOCK_TIMEOUT), *options]
            environment["XTABLES_LOCKFILE"] = NAMESPACE_LOCK
        done = run([path, *options], text, environment)
        if done.status != 0:
            raise refusal([path, *options], done, text, family)
        return done.stdout


def unreadable_tables(saved: str) -> list[str]:
    """Return the tables for which iptables-nft-save prints ``# Table `raw' is incompatible, use 'nft' tool.``"""
    return [line.split("'")[0].rpartition("`")[2] for line in saved.splitlines() if line.startswith("# Table `")]
