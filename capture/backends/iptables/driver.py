"""The base of all drivers of iptables: they read tables, make a plan, and carry it out."""

from __future__ import annotations

from capture.backends.iptables.families import merge_families
from capture.backends.iptables.plan import TableEdit, plan
from capture.backends.iptables.tables import families_here
from capture.backends.nf_tables import constants as nf
from capture.errors import CaptureError, UnsupportedError
from capture.model.addresses import FAMILIES, FAMILY_NAMES, FAMILY_NUMBERS, Family
from capture.model.ruleset import Ruleset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from capture.backends.iptables.tables import Variant
    from capture.model.ruleset import TableName


class IptablesDriver:
    """A driver (see ``capture.backends``); the subclass knows how to read a family and how to execute edits."""

    backend = "iptables"
    name = ""
    variant: Variant = "nft"

    def render(self, ruleset: Ruleset) -> list[tuple[str, str]]:
        """Return the input of ip(6)tables-restore for an empty namespace, by family."""
        from capture.backends.iptables.render import restore_text  # text, which netlink does without

        edits = plan(Ruleset(ruleset.families, ()), ruleset)
        return [(self.title(family), restore_text(of_family)) for family, of_family in edits_by_family(edits)]

    def has_exactly(self, desired: Ruleset) -> bool:
        del desired
        return False

    def read(self) -> Ruleset:
        return merge_families([self.read_family(family) for family in families_here()])

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        """Make our rules those of ``desired``: one transaction for each table and family.

        What fails leaves the tables written before as they are; the next call begins where this one ended.
        """
        require_families(desired, live.families)
        self.execute(plan(live, desired, recorded))

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        self.execute(plan(live, None, recorded))

    def title(self, family: Family) -> str:
        from capture.backends.iptables.programs import PROGRAM_NAMES  # which netlink does without

        return f"{PROGRAM_NAMES[family]}-{self.variant}-restore --noflush"

    def read_family(self, family: Family) -> Ruleset:
        """Return the tables of one family. Raises UnsupportedError, PrivilegeError or ToolError."""
        raise NotImplementedError

    def execute(self, edits: Sequence[TableEdit]) -> None:
        """Carry out table edits in order. Raises UnsupportedError, PrivilegeError or ToolError."""
        raise NotImplementedError


def require_awake(desired: Ruleset, dormant: Iterable[tuple[Family, TableName]]) -> None:
    """Raise CaptureError for a desired table of nf_tables in which packets meet no chain, so that rules do nothing."""
    for family, table in dormant:
        if family in desired.families and desired.table(table):
            shown = f"{nf.NFT_FAMILIES[FAMILY_NUMBERS[family]]} {table}"
            raise CaptureError(
                f"table {shown} is dormant: packets meet none of its chains",
                f"Wake it (`nft add table {shown}`), or use the backend nftables.",
            )


def require_families(desired: Ruleset, present: Collection[Family]) -> None:
    """Raise UnsupportedError for a desired family that is not there."""
    for family in desired.families:
        if family not in present:
            raise UnsupportedError(f"this kernel has no {FAMILY_NAMES[family]}", "Boot without `ipv6.disable=1`.")


def edits_by_family(edits: Sequence[TableEdit]) -> list[tuple[Family, list[TableEdit]]]:
    """Return table edits by family, in the order of each; families without any are left out."""
    grouped = [(family, [edit for edit in edits if edit.family == family]) for family in FAMILIES]
    return [(family, of_family) for family, of_family in grouped if of_family]
