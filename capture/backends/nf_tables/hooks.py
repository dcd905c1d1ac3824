"""The hooks at which the kernel enters base chains: those of the model's built-in chains, and their encoding."""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import nest
from capture.model.ruleset import BUILT_IN_CHAINS, INPUT, MANGLE, NAT, OUTPUT, POSTROUTING, RAW, TableName
from capture.model.values import Value
from capture.netlink.attributes import (
    Fields,
    attribute,
    decode_attributes,
    decode_fields,
    decode_number,
    decode_text,
    s32be,
    u32be,
)


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
NF_IP_PRI_RAW = -300
NF_IP_PRI_MANGLE = -150
NF_IP_PRI_NAT_DST = -100
NF_IP_PRI_NAT_SRC = 100


def _kernel_hook(table: TableName, chain: str) -> Hook:
    name = chain.lower()
    if table == RAW:
        return Hook("filter", name, NF_IP_PRI_RAW)
    if table == MANGLE:
        # Type route: a packet whose mark was changed is routed again, as iptables' mangle OUTPUT does.
        return Hook("route" if chain == OUTPUT else "filter", name, NF_IP_PRI_MANGLE)
    return Hook("nat", name, NF_IP_PRI_NAT_SRC if chain in (INPUT, POSTROUTING) else NF_IP_PRI_NAT_DST)


HOOKS: dict[tuple[TableName, str], Hook] = {
    (table, chain): _kernel_hook(table, chain) for table in (RAW, MANGLE, NAT) for chain in BUILT_IN_CHAINS[table]
}
"""The built-in chains of the model as base chains, by table and chain."""


def encode_hook(hook: Hook) -> bytes:
    """Return the attribute with the hook of a base chain."""
    return nest(
        nf.NFTA_CHAIN_HOOK,
        attribute(nf.NFTA_HOOK_HOOKNUM, u32be(nf.HOOK_NAMES.index(hook.name))),
        attribute(nf.NFTA_HOOK_PRIORITY, s32be(hook.priority)),
    )


def decode_hook(chain: Fields) -> Hook | None:
    """Return where the kernel enters a base chain, from the chain's attributes; None for another chain."""
    if nf.NFTA_CHAIN_HOOK not in chain:
        return None
    fields = decode_fields(chain[nf.NFTA_CHAIN_HOOK])
    number = decode_number(fields[nf.NFTA_HOOK_HOOKNUM])
    name = nf.HOOK_NAMES[number] if number < len(nf.HOOK_NAMES) else str(number)
    priority = int.from_bytes(fields[nf.NFTA_HOOK_PRIORITY], "big", signed=True)
    return Hook(decode_text(chain.get(nf.NFTA_CHAIN_TYPE, b"filter")), name, priority)


def devices_of(chain: Fields) -> tuple[str, ...]:
    """Return the interfaces whose packets alone meet a base chain; none are named where it is for all."""
    fields = decode_fields(chain[nf.NFTA_CHAIN_HOOK])
    names = [name for _, name in decode_attributes(fields.get(nf.NFTA_HOOK_DEVS, b""))]
    single = [fields[nf.NFTA_HOOK_DEV]] if nf.NFTA_HOOK_DEV in fields else []
    return tuple(map(decode_text, names or single))
