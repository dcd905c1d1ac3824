"""Rejecting TCP of the family that is not captured: a table of nf_tables of its own, with every backend.

    table inet istio-proxy-reject
        chain input    meta nfproto ipv6  meta l4proto tcp  iifname != "lo"  tcp flags ! rst  reject with tcp reset
        chain output   meta nfproto ipv6  meta l4proto tcp  oifname != "lo"  tcp flags ! rst  reject with tcp reset

It captures nothing, so it is no part of the rule model. The family is IPv6, since IPv4 is always captured. Both hooks
answer with a reset (nf_send_reset6() in net/ipv6/netfilter/nf_reject_ipv6.c), which passes the chain output itself.
"""

from __future__ import annotations

import errno

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.exact import has_exactly
from capture.backends.nf_tables.expressions import bitwise, equals, expression, load_meta, load_payload, nest
from capture.backends.nf_tables.listing import FoundTable, chain_of, read_rules, read_tables
from capture.backends.nf_tables.messages import TableMessages
from capture.backends.nf_tables.names import REJECT_TABLE, Hook
from capture.errors import KernelError, UnsupportedError
from capture.model.addresses import FAMILY_NUMBERS, IPV6
from capture.model.conventions import INTERFACE_NAME_SIZE, PROTOCOL_NUMBERS
from capture.model.values import Value
from capture.netlink.attributes import attribute, decode_fields, decode_text, u8, u32be
from capture.netlink.nfnetlink import Change, commit, open_nfnetlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.backends.nf_tables.native import NativeTable
    from capture.backends.nf_tables.sets import NativeSet
    from capture.netlink.sockets import NetlinkSocket

BEFORE_OTHER_FILTERS = -200
NO_TABLE_ERRORS = (errno.ENOENT, errno.EINVAL)
"""Another process removed it; the kernel has no nf_tables (nfnetlink_rcv_msg in nfnetlink.c)."""
TCP_FLAGS_AT, RST_FLAG = 13, 0x04  # RFC 9293 3.1
LO_NAME = b"lo".ljust(INTERFACE_NAME_SIZE, b"\0")
INTERFACE_KEY_OF_HOOK = {"input": nf.NFT_META_IIFNAME, "output": nf.NFT_META_OIFNAME}
"""Hooks, and the interface that is looked at there."""
MESSAGES = TableMessages(nf.NFPROTO_INET, REJECT_TABLE)


class RejectTable(Value):
    """The live table; ``fault`` is in words what is wrong with it, "" if it has exactly the rules that were written."""

    exists: bool
    fault: str = ""


NO_REJECT_TABLE = RejectTable(exists=False, fault="is missing: TCP over IPv6 is not rejected")


def update_reject_table(*, is_desired: bool) -> bool:
    """Make the table, or remove it if it is not desired; return whether that changed anything.

    Raises UnsupportedError with what to do instead, if the kernel has no nf_tables or cannot reject; KernelError if
    it refuses to remove the table.
    """
    try:
        with open_nfnetlink() as netfilter:
            if is_desired == (_is_intact if is_desired else _has_table)(netfilter):
                return False
            changes = [*table_messages()] if is_desired else [MESSAGES.delete_table()]
            commit(netfilter, changes, task=f"{'write' if is_desired else 'delete'} table inet {REJECT_TABLE}")
    except (UnsupportedError, KernelError) as error:
        if not is_desired:
            if isinstance(error, UnsupportedError) or error.errno in NO_TABLE_ERRORS:
                return False
            raise
        remedy = "Leave --other-family at pass, or load the modules nf_tables and nft_reject_inet."
        kind = type(error) if isinstance(error, UnsupportedError) else UnsupportedError
        raise kind(f"--other-family reject is not possible here: {error.message}", remedy) from error
    return True


def read_reject_table() -> RejectTable:
    """Return whether the table is there, and what is wrong with it."""
    try:
        with open_nfnetlink() as netfilter:
            if _is_intact(netfilter):
                return RejectTable(exists=True)
            if not _has_table(netfilter):
                return NO_REJECT_TABLE
            live = [decode_fields(attributes) for attributes in read_rules(netfilter, nf.NFPROTO_INET, REJECT_TABLE)]
    except UnsupportedError:
        return NO_REJECT_TABLE
    live_rules = {(decode_text(rule[nf.NFTA_RULE_CHAIN]), rule[nf.NFTA_RULE_EXPRESSIONS]) for rule in live}
    lost = [
        chain
        for chain, interface in INTERFACE_KEY_OF_HOOK.items()
        if (chain, _reject_expressions(interface)) not in live_rules
    ]
    lacks = f"lacks the rule that rejects TCP over IPv6 in chain {' and in chain '.join(lost)}"
    changed = "is not as it was written: it is switched off, or other rules are in it"
    return RejectTable(exists=True, fault=lacks if lost else changed)


def _has_table(netfilter: NetlinkSocket) -> bool:
    return any(table.flavour == "reject" for table in read_tables(netfilter, nf.NFPROTO_INET))


def _is_intact(netfilter: NetlinkSocket) -> bool:
    return has_exactly(netfilter, "reject", table_messages())


def table_messages() -> Iterator[Change]:
    """Yield the messages that make the table anew."""
    yield from (MESSAGES.add_table(), MESSAGES.delete_table(), MESSAGES.add_table())
    for chain, interface in INTERFACE_KEY_OF_HOOK.items():
        yield MESSAGES.add_chain(chain, Hook("filter", chain, BEFORE_OTHER_FILTERS))
        yield MESSAGES.add_rule(chain, nest(nf.NFTA_RULE_EXPRESSIONS, _reject_expressions(interface)), name="the rule")


def written_table() -> NativeTable:
    """Return the table that the messages make, decoded: one description for the kernel and for people."""
    from capture.backends.nf_tables.decode import decode_table  # few captures reject anything

    sent = list(table_messages())
    chains = (chain_of(change.family, change.attributes) for change in sent if change.kind == nf.NFT_MSG_NEWCHAIN)
    rules = [change.attributes for change in sent if change.kind == nf.NFT_MSG_NEWRULE]
    sets: dict[str, NativeSet] = {}
    return decode_table(FoundTable(nf.NFPROTO_INET, REJECT_TABLE, chains=tuple(chains)), rules, sets.__getitem__)


def _reject_expressions(interface: int) -> bytes:
    return b"".join(
        (
            load_meta(nf.NFT_META_NFPROTO),
            equals(u8(FAMILY_NUMBERS[IPV6])),
            load_meta(nf.NFT_META_L4PROTO),
            equals(u8(PROTOCOL_NUMBERS["tcp"])),
            load_meta(interface),
            equals(LO_NAME, negated=True),
            load_payload(nf.NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS_AT, 1),
            bitwise(u8(RST_FLAG)),
            equals(u8(0)),
            expression("reject", attribute(nf.NFTA_REJECT_TYPE, u32be(nf.NFT_REJECT_TCP_RST))),
        )
    )
