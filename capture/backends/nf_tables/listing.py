"""Tables, chains, rules and sets as the kernel lists them: what the drivers of both backends read.

All raise PrivilegeError, KernelError, and UnsupportedError without nf_tables.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.names import MODEL_TABLES, REJECT_TABLE, Hook
from capture.model.addresses import FAMILY_BY_NUMBER
from capture.model.ruleset import TABLES, Counters
from capture.model.values import Value
from capture.netlink.attributes import (
    Fields,
    attribute,
    c_string,
    decode_elements,
    decode_fields,
    decode_number,
    decode_text,
)
from capture.netlink.nfnetlink import NFGENMSG_SIZE, NFPROTO_UNSPEC, message_type, nfgenmsg, read_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from capture.backends.needed_modules import Flavour
    from capture.netlink.sockets import NetlinkSocket

    FoundFlavour = Flavour | Literal["reject", ""]

NATIVE_FLAVOURS: dict[str, FoundFlavour] = {REJECT_TABLE: "reject", **dict.fromkeys(MODEL_TABLES, "nftables")}


class FoundChain(Value):
    """A chain: its handle counts up with everything that is made in its table. Without a hook, rules jump to it.

    ``devices`` are the interfaces whose packets alone meet it, if any are named; ``uses`` counts its rules and the
    jumps to it.
    """

    family: int
    table: str
    name: str
    hook: Hook | None = None
    policy: str | None = None
    devices: tuple[str, ...] = ()
    handle: int = 0
    uses: int = 0
    counters: Counters | None = None


class FoundTable(Value):
    """A table of a family, which is an NFPROTO_... number, with its chains. In a dormant one packets meet no chain.

    ``uses`` counts what is in it. Handles number the tables of a namespace as they are made, in all families.
    """

    family: int
    name: str
    uses: int = 0
    handle: int = 0
    is_dormant: bool = False
    chains: tuple[FoundChain, ...] = ()

    @property
    def flavour(self) -> FoundFlavour:
        """Return whose it is: of iptables ("nft"), our native one, or the one of --other-family; "" for any other."""
        if self.family in FAMILY_BY_NUMBER:
            return "nft" if self.name in TABLES else ""
        return NATIVE_FLAVOURS.get(self.name, "") if self.family == nf.NFPROTO_INET else ""


def read_tables(netfilter: NetlinkSocket, family: int = NFPROTO_UNSPEC) -> list[FoundTable]:
    """Return the tables of a family, or of all, with their chains; the kernel cannot list those of one table."""
    tables = read_objects(netfilter, nf.NFT_MSG_GETTABLE, family, b"", "read the tables of nf_tables")
    by_table: dict[tuple[int, str], list[FoundChain]] = {}
    task = "read the chains of nf_tables"
    for chain in read_objects(netfilter, nf.NFT_MSG_GETCHAIN, family, b"", task) if tables else ():
        found = chain_of(*chain)
        by_table.setdefault((found.family, found.table), []).append(found)
    found_tables = [table_of(*table) for table in tables]
    return [table.replace(chains=tuple(by_table.get((table.family, table.name), ()))) for table in found_tables]


def table_of(family: int, attributes: bytes) -> FoundTable:
    """Return the table of a message, without its chains."""
    fields = decode_fields(attributes)
    uses = decode_number(fields.get(nf.NFTA_TABLE_USE, b""))
    handle = decode_number(fields.get(nf.NFTA_TABLE_HANDLE, b""))
    is_dormant = bool(decode_number(fields.get(nf.NFTA_TABLE_FLAGS, b"")) & nf.NFT_TABLE_F_DORMANT)
    return FoundTable(family, decode_text(fields[nf.NFTA_TABLE_NAME]), uses, handle, is_dormant)


def chain_of(family: int, attributes: bytes) -> FoundChain:
    """Return the chain of a message."""
    fields = decode_fields(attributes)
    table, name = decode_text(fields[nf.NFTA_CHAIN_TABLE]), decode_text(fields[nf.NFTA_CHAIN_NAME])
    handle = decode_number(fields.get(nf.NFTA_CHAIN_HANDLE, b""))
    uses = decode_number(fields.get(nf.NFTA_CHAIN_USE, b""))
    hook = decode_hook(fields)
    if hook is None:
        return FoundChain(family, table, name, None, None, (), handle, uses, None)
    policy = nf.POLICIES[decode_number(fields.get(nf.NFTA_CHAIN_POLICY, b"\1"))]
    counted = fields.get(nf.NFTA_CHAIN_COUNTERS)
    counters = NOTHING_COUNTED if counted is None else read_counters(decode_fields(counted))
    devices = _devices_of(fields) if family == nf.NFPROTO_NETDEV or hook.name == "ingress" else ()
    return FoundChain(family, table, name, hook, policy, devices, handle, uses, counters)


def decode_hook(chain: Fields) -> Hook | None:
    """Return where the kernel enters a base chain, from the chain's attributes; None for another chain."""
    if nf.NFTA_CHAIN_HOOK not in chain:
        return None
    fields = decode_fields(chain[nf.NFTA_CHAIN_HOOK])
    number = decode_number(fields[nf.NFTA_HOOK_HOOKNUM])
    name = nf.HOOK_NAMES[number] if number < len(nf.HOOK_NAMES) else str(number)
    priority = int.from_bytes(fields[nf.NFTA_HOOK_PRIORITY], "big", signed=True)
    return Hook(decode_text(chain.get(nf.NFTA_CHAIN_TYPE, b"filter")), name, priority)


def _devices_of(chain: Fields) -> tuple[str, ...]:
    """Return the interfaces whose packets alone meet a base chain; none are named where it is for all."""
    fields = decode_fields(chain[nf.NFTA_CHAIN_HOOK])
    single = [fields[nf.NFTA_HOOK_DEV]] if nf.NFTA_HOOK_DEV in fields else []
    return tuple(map(decode_text, decode_elements(fields.get(nf.NFTA_HOOK_DEVS, b"")) or single))


NOTHING_COUNTED = Counters(0, 0)


def read_counters(fields: Fields) -> Counters:
    """Return what a counter has counted."""
    return Counters(decode_number(fields[nf.NFTA_COUNTER_PACKETS]), decode_number(fields[nf.NFTA_COUNTER_BYTES]))


def read_rules(netfilter: NetlinkSocket, family: int, table: str) -> list[bytes]:
    """Return the attributes of the rules of a table, in the order of each chain."""
    task = f"read the rules of table {nf.NFT_FAMILIES[family]} {table}"
    of_table = attribute(nf.NFTA_RULE_TABLE, c_string(table))
    return [attributes for _, attributes in read_objects(netfilter, nf.NFT_MSG_GETRULE, family, of_table, task)]


def read_set(netfilter: NetlinkSocket, family: int, table: str, name: str) -> tuple[Fields, list[bytes]]:
    """Return what describes a set, and the messages with its elements."""
    task = f"read the set {name} of table {nf.NFT_FAMILIES[family]} {table}"
    of_set = attribute(nf.NFTA_SET_TABLE, c_string(table)) + attribute(nf.NFTA_SET_NAME, c_string(name))
    (body,) = netfilter.request(message_type(nf.NFT_MSG_GETSET), 0, nfgenmsg(family) + of_set, task)
    elements = read_objects(netfilter, nf.NFT_MSG_GETSETELEM, family, of_set, task)
    return decode_fields(body[NFGENMSG_SIZE:]), [element for _, element in elements]
