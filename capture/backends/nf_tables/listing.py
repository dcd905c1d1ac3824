"""Tables, chains, rules and sets as the kernel lists them: what the drivers of both backends read.

All raise PrivilegeError, KernelError, and UnsupportedError without nf_tables.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.netlink.attributes import Fields, attribute, decode_fields, decode_number, text
from capture.netlink.nfnetlink import NFGENMSG_SIZE, NFPROTO_UNSPEC, message_type, nfgenmsg, read_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.netlink.sockets import NetlinkSocket


def read_tables(netfilter: NetlinkSocket, family: int = NFPROTO_UNSPEC) -> list[tuple[int, Fields]]:
    """Return the tables of a family, or of all: the number of their family, and their attributes."""
    return _listed(netfilter, nf.NFT_MSG_GETTABLE, family, "tables")


def is_dormant(table: Fields) -> bool:
    """Return whether a table is switched off: packets meet none of its chains."""
    return bool(decode_number(table.get(nf.NFTA_TABLE_FLAGS, b"")) & nf.NFT_TABLE_F_DORMANT)


def read_chains(netfilter: NetlinkSocket, family: int = NFPROTO_UNSPEC) -> list[tuple[int, Fields]]:
    """Return the chains of a family, or of all, as ``read_tables``; the kernel cannot list those of one table."""
    return _listed(netfilter, nf.NFT_MSG_GETCHAIN, family, "chains")


def _listed(netfilter: NetlinkSocket, kind: int, family: int, plural: str) -> list[tuple[int, Fields]]:
    objects = read_objects(netfilter, kind, family, b"", f"read the {plural} of nf_tables")
    return [(number, decode_fields(attributes)) for number, attributes in objects]


def read_rules(netfilter: NetlinkSocket, family: int, table: str) -> list[bytes]:
    """Return the attributes of the rules of a table, in the order of each chain."""
    doing = f"read the rules of table {nf.NFT_FAMILIES[family]} {table}"
    of_table = attribute(nf.NFTA_RULE_TABLE, text(table))
    return [attributes for _, attributes in read_objects(netfilter, nf.NFT_MSG_GETRULE, family, of_table, doing)]


def read_set(netfilter: NetlinkSocket, family: int, table: str, name: str) -> tuple[Fields, list[bytes]]:
    """Return what describes a set, and the messages with its elements."""
    doing = f"read the set {name} of table {nf.NFT_FAMILIES[family]} {table}"
    of_set = attribute(nf.NFTA_SET_TABLE, text(table)) + attribute(nf.NFTA_SET_NAME, text(name))
    (body,) = netfilter.request(message_type(nf.NFT_MSG_GETSET), 0, nfgenmsg(family) + of_set, doing)
    elements = read_objects(netfilter, nf.NFT_MSG_GETSETELEM, family, of_set, doing)
    return decode_fields(body[NFGENMSG_SIZE:]), [element for _, element in elements]
