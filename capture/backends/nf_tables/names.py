"""Names in nf_tables, and where the kernel enters our chains: a bijection with the model's names.

nat PREROUTING        inet istio-proxy-nat, chain prerouting, type nat, priority -100
nat ISTIO_INBOUND     inet istio-proxy-nat, chain istio-inbound    (as in upstream's native mode)
nat ISTIO-INBOUND     inet istio-proxy-nat, chain ISTIO-INBOUND
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.chain_names import DORMANT, NOT_HOOKED, state_name
from capture.model.values import Value

NATIVE_TABLE_NAMES: dict[model.TableName, str] = {table: f"istio-proxy-{table}" for table in model.TABLES}
"""All of family inet: one rule serves both families, and all tables change in one transaction."""

MODEL_TABLES: dict[str, model.TableName] = {native: table for table, native in NATIVE_TABLE_NAMES.items()}

REJECT_TABLE = "istio-proxy-reject"
"""Rejects the family that is not captured (``capture.backends.other_family``)."""

BASE_CHAIN_NAMES = {chain: chain.lower() for chain in model.BUILT_IN_CHAINS[model.MANGLE]}  # which has them all
_RESERVED = {*BASE_CHAIN_NAMES, *BASE_CHAIN_NAMES.values()}


class Hook(Value):
    """The hook of a base chain: a point on the packet's path, and a priority among the chains there.

    ``name`` is in lower case. Lower priorities come first.
    """

    kind: str
    name: str
    priority: int

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.priority}"


# linux/netfilter_ipv4.h, enum nf_ip_hook_priorities: the same priorities as the tables of iptables have.
NF_IP_PRI_RAW, NF_IP_PRI_MANGLE, NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC = -300, -150, -100, 100


def _kernel_hook(table: model.TableName, chain: str) -> Hook:
    name = chain.lower()
    if table == model.RAW:
        return Hook("filter", name, NF_IP_PRI_RAW)
    if table == model.MANGLE:
        # Type route: a packet whose mark was changed is routed again, as iptables' mangle OUTPUT does.
        return Hook("route" if chain == model.OUTPUT else "filter", name, NF_IP_PRI_MANGLE)
    return Hook("nat", name, NF_IP_PRI_NAT_SRC if chain in (model.INPUT, model.POSTROUTING) else NF_IP_PRI_NAT_DST)


HOOKS: dict[tuple[model.TableName, str], Hook] = {
    (table, chain): _kernel_hook(table, chain) for table in model.TABLES for chain in model.BUILT_IN_CHAINS[table]
}
"""The built-in chains of the model as base chains, by table and chain."""


def native_chain(name: str) -> str:
    """Return the nf_tables name of a chain of the model; the inverse of ``model_chain`` for chains we write."""
    return BASE_CHAIN_NAMES.get(name) or _swap_spelling(name)


def model_chain(table: model.TableName, name: str, hook: Hook | None, *, is_dormant: bool = False) -> tuple[str, str]:
    """Return the model's name of a chain that was read, and its state.

    A chain that is not entered where we would enter it keeps its name, and has a state, ``nat prerouting -5`` or
    ``not hooked``, so that it shows up as a difference.
    """
    if hook is None:
        return (name, NOT_HOOKED) if name in _RESERVED else (_swap_spelling(name), "")
    built_in = name.upper()
    if not is_dormant and HOOKS.get((table, built_in)) == hook and name == native_chain(built_in):
        return built_in, ""
    return name, DORMANT if is_dormant else str(hook)


def model_target(name: str) -> str:
    """Return the model's name of a chain that is not hooked, which is what one can jump to."""
    return state_name(name, NOT_HOOKED) if name in _RESERVED else _swap_spelling(name)


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
