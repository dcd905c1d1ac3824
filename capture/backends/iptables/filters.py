"""The tables filter and security of legacy iptables, where we never write: they may drop what we have redirected."""

from __future__ import annotations

from capture.analysis.base_chains import BaseChain
from capture.backends.iptables.parse import parse_save
from capture.backends.iptables.programs import require, run
from capture.backends.iptables.tables import legacy_tables
from capture.errors import CaptureError
from capture.model.addresses import FAMILIES, Family
from capture.model.ruleset import INPUT, MANGLE, OUTPUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PRIORITIES = {"filter": 0, "security": 50}
"""NF_IP_PRI_FILTER and NF_IP_PRI_SECURITY in linux/netfilter_ipv4.h."""


def read_legacy_filters() -> tuple[BaseChain, ...] | None:
    """Return the chains at INPUT and OUTPUT; None where a table is there and no program to read it."""
    found: list[BaseChain] = []
    for family in FAMILIES:
        for name in PRIORITIES.keys() & {*legacy_tables(family)}:
            try:
                found += _read(family, name)
            except CaptureError:
                return None
    return tuple(found)


def _read(family: Family, name: str) -> Iterator[BaseChain]:
    saved = run([require("legacy", family, "save"), "-c", "-t", name]).stdout
    # The model has no such tables; mangle has the same chains and more.
    for table in parse_save(saved.replace(f"*{name}\n", f"*{MANGLE}\n"), family).tables:
        for chain in table.chains:
            if chain.name in (INPUT, OUTPUT) and (chain.rules or chain.policy == "DROP"):
                others = tuple(each for each in table.chains if each is not chain)
                contents = table.replace(chains=(chain, *others))
                shown = f"{name} of iptables-legacy"
                yield BaseChain(shown, (family,), chain.name, PRIORITIES[name], False, contents, is_native=False)
