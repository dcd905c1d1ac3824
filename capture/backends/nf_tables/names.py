"""Names in nf_tables, and where the kernel enters our chains: a bijection with the model's names.

nat PREROUTING        inet istio-proxy-nat, chain prerouting, type nat, priority -100
nat ISTIO_INBOUND     inet istio-proxy-nat, chain istio-inbound    (as in upstream's native mode)
nat ISTIO-INBOUND     inet istio-proxy-nat, chain ISTIO-INBOUND
"""

from __future__ import annotations

from capture.backends.nf_tables.hooks import HOOKS, Hook
from capture.model.ruleset import FORWARD, INPUT, OUTPUT, POSTROUTING, PREROUTING, TABLES, TableName

NATIVE_TABLE_NAMES: dict[TableName, str] = {table: f"istio-proxy-{table}" for table in TABLES}
"""All of family inet: one rule serves both families, and all tables change in one transaction."""

MODEL_TABLES: dict[str, TableName] = {native: table for table, native in NATIVE_TABLE_NAMES.items()}

REJECT_TABLE = "istio-proxy-reject"
"""Rejects the family that is not captured (``capture.backends.other_family``)."""

BASE_CHAIN_NAMES = {chain: chain.lower() for chain in (PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING)}
_RESERVED = {*BASE_CHAIN_NAMES, *BASE_CHAIN_NAMES.values()}


def native_chain(name: str) -> str:
    """Return the nf_tables name of a chain of the model; the inverse of ``model_chain`` for chains we write."""
    return BASE_CHAIN_NAMES.get(name) or _swap_spelling(name)


def model_chain(table: TableName, name: str, hook: Hook | None, reason: str = "") -> str:
    """Return the model's name of a chain that was read.

    A chain that is not entered where we would enter it has a name of its own that is none of the model's,
    ``prerouting(nat prerouting -5)`` or ``prerouting(not hooked)``, so that it shows up as a difference.
    ``reason`` is a further difference.
    """
    if hook is not None:
        built_in = name.upper()
        if not reason and HOOKS.get((table, built_in)) == hook and name == native_chain(built_in):
            return built_in
        return f"{name}({reason or hook})"
    return model_target(name)


def model_target(name: str) -> str:
    """Return the model's name of a chain that is not hooked, which is what one can jump to."""
    return f"{name}(not hooked)" if name in _RESERVED else _swap_spelling(name)


def _swap_spelling(name: str) -> str:
    """Exchange ISTIO_IN_REDIRECT and istio-in-redirect, and leave all other names as they are.

    An exchange is its own inverse, so two chains never get one name, also where another program made them.
    """
    if not name.isascii():
        return name
    if name.startswith("ISTIO_") and name == name.upper() and "-" not in name:
        return name.lower().replace("_", "-")
    if name.startswith("istio-") and name == name.lower() and "_" not in name:
        return name.upper().replace("-", "_")
    return name
