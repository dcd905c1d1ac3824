"""From rules to what iptables-nft makes of them, byte for byte as the kernel keeps it. Pure; inverse of ``xt_decode``.

A rule is a list of expressions, in this order whatever the order of its matches (iptables 1.8.9):

    -i -o -p -s -d     meta, payload    loaded to register 1 and compared
    --sport --dport    payload          ports of the transport header; lists by the match multiport
    -m mark            meta mark
    other matches      match            a structure of x_tables (``xt_layouts``)
                       counter
    -j                 immediate        a verdict, or a target of x_tables

Releases up to 1.8.7 wrote ports, and up to 1.8.8 marks, as matches of x_tables, and do not see them in rules of
today when they list them. ``xt_decode`` reads both.

Rules are of one family and without lists, as ``render.expanded`` makes them.
"""

from __future__ import annotations

from capture.backends.iptables import xt_layouts
from capture.backends.iptables.entries import comment, slots
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import (
    COUNTER,
    PORT_SIZE,
    bitwise,
    compare,
    equality,
    expression,
    framed,
    in_network,
    in_range,
    jump,
    load_meta,
    load_payload,
    nest,
)
from capture.backends.nf_tables.expressions import verdict as verdict_expression
from capture.backends.nf_tables.hooks import HOOKS, encode_hook
from capture.model.addresses import IPV4, IPV6
from capture.model.ruleset import (
    ALL_BITS,
    Accept,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Jump,
    Log,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    SaveMark,
    SetMark,
    SetZone,
    Source,
    SourcePort,
    TransparentProxy,
    UnknownMatch,
    UnknownVerdict,
)
from capture.netlink.attributes import attribute, text, u32, u32be, u64be
from capture.netlink.batch import Change
from capture.netlink.messages import NLM_F_APPEND, NLM_F_CREATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from capture.model.addresses import Family, Network
    from capture.model.ruleset import ProtocolName, Rule, Span, TableName

NFPROTO: dict[Family, int] = {IPV4: 2, IPV6: 10}  # linux/netfilter.h
TABLE_FAMILIES: dict[Family, str] = {IPV4: "ip", IPV6: "ip6"}
"""What nft calls them, for errors."""

# linux/netfilter/nf_tables.h, beyond what the nftables backend needs
NFTA_RULE_HANDLE, NFTA_RULE_COMPAT, NFTA_RULE_POSITION = 3, 5, 6
NFTA_RULE_COMPAT_PROTO, NFTA_RULE_COMPAT_FLAGS = 1, 2
NLM_F_NONREC = 0x100  # linux/netlink.h: delete only what is empty

# linux/netfilter/nf_tables_compat.h; NFTA_TARGET_* are the same numbers
NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO = 1, 2, 3

PROTOCOLS: dict[ProtocolName, int] = {"tcp": 6, "udp": 17}  # linux/in.h
ADDRESS_OFFSETS: dict[tuple[type, Family], int] = {
    (Source, IPV4): 12,
    (Destination, IPV4): 16,
    (Source, IPV6): 8,
    (Destination, IPV6): 24,
}
"""Places in the header (RFC 791 3.1, RFC 8200 3)."""
LAST_PORT = 0xFFFF

NEVER_MATCHING_INTERFACE = b"INVAL/D\0"
"""What iptables compares with for ``! -i +``: no interface has a slash in its name."""


# --- tables, chains and rules --------------------------------------------------------------------


class TableMessages:
    """The messages that change one table of one family."""

    def __init__(self, family: Family, table: TableName) -> None:
        self._family = family
        self._table = table
        self._nfproto = NFPROTO[family]
        self._shown = f"{TABLE_FAMILIES[family]} {table}"
        self._name = attribute(nf.NFTA_TABLE_NAME, text(table))  # NFTA_CHAIN_TABLE, NFTA_RULE_TABLE: the same number

    def add_table(self) -> Change:
        """Return the message that makes the table, or does nothing if there is one."""
        return Change(nf.NFT_MSG_NEWTABLE, self._nfproto, self._name, f"add table {self._shown}", NLM_F_CREATE)

    def delete_table(self) -> Change:
        """Return the message that deletes the table, if nothing is in it."""
        return Change(nf.NFT_MSG_DELTABLE, self._nfproto, self._name, f"delete table {self._shown}", NLM_F_NONREC)

    def add_chain(self, chain: str) -> Change:
        """Return the message that makes a chain: a built-in one with its hook, or one to jump to."""
        hook = HOOKS.get((self._table, chain))
        parts = self._name + attribute(nf.NFTA_CHAIN_NAME, text(chain))
        if hook is not None:
            parts += encode_hook(hook)
            parts += attribute(nf.NFTA_CHAIN_POLICY, u32be(nf.NF_ACCEPT))
            parts += attribute(nf.NFTA_CHAIN_TYPE, text(hook.kind))
        doing = f"add chain {chain} to table {self._shown}"
        return Change(nf.NFT_MSG_NEWCHAIN, self._nfproto, parts, doing, NLM_F_CREATE)

    def delete_chain(self, chain: str) -> Change:
        """Return the message that deletes a chain without rules, to which nothing jumps."""
        parts = self._name + attribute(nf.NFTA_CHAIN_NAME, text(chain))
        doing = f"delete chain {chain} of table {self._shown}"
        return Change(nf.NFT_MSG_DELCHAIN, self._nfproto, parts, doing, NLM_F_NONREC)

    def flush_chain(self, chain: str) -> Change:
        """Return the message that deletes all rules of a chain."""
        doing = f"flush chain {chain} of table {self._shown}"
        return Change(nf.NFT_MSG_DELRULE, self._nfproto, self._name + _of_chain(chain), doing)

    def delete_rule(self, chain: str, handle: int) -> Change:
        """Return the message that deletes one rule."""
        parts = self._name + _of_chain(chain) + attribute(NFTA_RULE_HANDLE, u64be(handle))
        doing = f"delete the rule with handle {handle} of chain {chain} of table {self._shown}"
        return Change(nf.NFT_MSG_DELRULE, self._nfproto, parts, doing)

    def add_rule(self, chain: str, rule: Rule, before: int | None = None) -> Change:
        """Return the message that puts a rule at the end of a chain, or before the rule with a handle.

        Raises ValueError for a rule that iptables cannot express.
        """
        parts = self._name + _of_chain(chain)
        parts += attribute(nf.NFTA_RULE_EXPRESSIONS, expressions(rule, self._family))
        parts += _compat(rule)
        flags = NLM_F_CREATE
        if before is None:
            flags |= NLM_F_APPEND
        else:
            parts += attribute(NFTA_RULE_POSITION, u64be(before))
        doing = f"add a rule to chain {chain} of table {self._shown}"
        return Change(nf.NFT_MSG_NEWRULE, self._nfproto, parts, doing, flags)


def _of_chain(chain: str) -> bytes:
    return attribute(nf.NFTA_RULE_CHAIN, text(chain))


def _compat(rule: Rule) -> bytes:
    """Return the rule's protocol for matches and targets that demand one (multiport, TPROXY): they cannot see it."""
    for match in rule.matches:
        if type(match) is Protocol:
            return COMPAT[match.name]
    return b""


def expressions(rule: Rule, family: Family) -> bytes:
    """Return the expressions of a rule. Raise ValueError if iptables has no way to say it."""
    return matches_of(rule, family) + COUNTER + verdict_of(rule, family)


def matches_of(rule: Rule, family: Family) -> bytes:
    """Return the expressions before the counter."""
    by_kind: dict[type, list[Any]] = {}
    for match in rule.matches:
        by_kind.setdefault(type(match), []).append(match)
    networks = {
        kind: [(network, match.negated) for match in by_kind.get(kind, ()) for network in match.networks]
        for kind in ADDRESSES
    }
    parts = [_interface(kind, match) for kind in LOAD_INTERFACE for match in by_kind.get(kind, ())]
    parts += [OF_PROTOCOL[match.name] for match in by_kind.get(Protocol, ())]
    parts += [_network(kind, *named[0], family) for kind, named in networks.items() if named]
    parts += _ports(by_kind)
    parts += [_address_range(kind, *more) for kind, named in networks.items() for more in named[1:]]
    parts += [EXTENSIONS[type(match)](match) for match in rule.matches if type(match) in EXTENSIONS]
    if rule.why:
        parts.append(_match("comment", xt_layouts.comment(comment(rule.why))))
    return b"".join(parts)


def verdict_of(rule: Rule, family: Family) -> bytes:
    """Return the expression after the counter; none for a rule that only counts."""
    return VERDICTS[type(rule.verdict)](rule.verdict, family)


# --- expressions ---------------------------------------------------------------------------------


def _extension(kind: str, name: str, revision: int, structure: bytes) -> bytes:
    """Return a match or target of x_tables."""
    return framed(
        (kind, name, len(structure)),
        structure,
        lambda structure: expression(
            kind,
            attribute(NFTA_MATCH_NAME, text(name)),
            attribute(NFTA_MATCH_REV, u32be(revision)),
            attribute(NFTA_MATCH_INFO, structure),
        ),
    )


def _match(name: str, structure: bytes) -> bytes:
    return _extension("match", name, xt_layouts.MATCH_REVISIONS[name], structure)


def _target(name: str, structure: bytes) -> bytes:
    return _extension("target", name, xt_layouts.TARGET_REVISIONS[name], structure)


COMPAT = {
    name: nest(
        NFTA_RULE_COMPAT,
        attribute(NFTA_RULE_COMPAT_PROTO, u32be(number)),
        attribute(NFTA_RULE_COMPAT_FLAGS, u32be(0)),
    )
    for name, number in PROTOCOLS.items()
}


# --- matches of ip(6)tables itself ---------------------------------------------------------------

LOAD_MARK = load_meta(nf.NFT_META_MARK)
LOAD_INTERFACE: dict[type, bytes] = {
    InInterface: load_meta(nf.NFT_META_IIFNAME),
    OutInterface: load_meta(nf.NFT_META_OIFNAME),
}
OF_PROTOCOL = {
    name: load_meta(nf.NFT_META_L4PROTO) + compare(nf.NFT_CMP_EQ, bytes((number,)))
    for name, number in PROTOCOLS.items()
}


ADDRESSES: tuple[type[Source | Destination], ...] = (Source, Destination)


def _interface(kind: type, match: InInterface | OutInterface) -> bytes:
    """Return the comparison with a name and the NUL at its end, or with its beginning."""
    name = match.name
    if name == "+":
        return LOAD_INTERFACE[kind] + (compare(nf.NFT_CMP_EQ, NEVER_MATCHING_INTERFACE) if match.negated else b"")
    compared = name[:-1].encode("utf-8", "surrogateescape") if name.endswith("+") else text(name)
    return LOAD_INTERFACE[kind] + compare(equality(negated=match.negated), compared)


def _network(kind: type, network: Network, negated: bool, family: Family) -> bytes:  # noqa: FBT001  # a match's field
    """Return the comparison with the bytes of a prefix, if it has whole ones, else with the address under a mask."""
    if network.family != family:
        raise ValueError(f"a rule for {family} compares with an address of {network.family}: {network}")
    if not network.prefix and not negated:
        return b""
    operator = equality(negated=negated)
    return in_network(ADDRESS_OFFSETS[kind, family], network.packed, network.prefix, operator)


def _address_range(kind: type[Source | Destination], network: Network, negated: bool) -> bytes:  # noqa: FBT001  # as above
    """Return a match for a network beyond the first, for which ``-s`` and ``-d`` have no room."""
    return _match("iprange", xt_layouts.iprange(kind, network, negated=negated))


# --- ports ---------------------------------------------------------------------------------------


def _ports(by_kind: dict[type, list[Any]]) -> Iterator[bytes]:
    """Yield single ports, then lists: source before destination, as ``render`` has them."""
    ports: list[SourcePort | DestinationPort] = [*by_kind.get(SourcePort, ()), *by_kind.get(DestinationPort, ())]
    if ports and Protocol not in by_kind:
        raise ValueError(f"ports without a protocol: {ports}")
    singles = [match for match in ports if len(match.ports) == 1]
    if len(singles) > 1 and _is_one_load(singles):
        both = b"".join(match.ports[0].first.to_bytes(PORT_SIZE, "big") for match in singles)
        yield load_payload(nf.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2 * PORT_SIZE) + compare(nf.NFT_CMP_EQ, both)
    else:
        for match in singles:
            yield _port(match.ports[0], PORT_SIZE * (type(match) is DestinationPort), match.negated)
    for match in ports:
        if len(match.ports) != 1:
            for some in slots(match.ports):
                yield _match("multiport", xt_layouts.multiport(type(match), some, negated=match.negated))


def _is_one_load(ports: list[SourcePort | DestinationPort]) -> bool:
    """Return whether iptables loads both ports at once: one of each kind, neither of them 0.

    It does so too where both are negated, but "not this pair" is not "neither of them": we compare one by one.
    """
    return (
        [type(match) for match in ports] == [SourcePort, DestinationPort]
        and all(match.ports[0].first == match.ports[0].last != 0 for match in ports)
        and not any(match.negated for match in ports)
    )


def _port(ports: Span, offset: int, negated: bool) -> bytes:  # noqa: FBT001  # a match's field, handed on
    load = load_payload(nf.NFT_PAYLOAD_TRANSPORT_HEADER, offset, PORT_SIZE)
    first, last = ports.first.to_bytes(PORT_SIZE, "big"), ports.last.to_bytes(PORT_SIZE, "big")
    if first == last:
        return load + compare(equality(negated=negated), first)
    if ports.first == 0 and ports.last == LAST_PORT:
        return load + in_range(first, last, negated=negated) if negated else b""
    if ports.first == 0:
        return load + compare(nf.NFT_CMP_GT if negated else nf.NFT_CMP_LTE, last)
    return load + in_range(first, last, negated=negated)


# --- extensions ----------------------------------------------------------------------------------


def _owner(match: OwnerUid | OwnerGid) -> bytes:
    return b"".join(_match("owner", xt_layouts.owner(type(match), span, negated=match.negated)) for span in match.ids)


def _mark(match: Mark) -> bytes:
    masked = b"" if match.mask == ALL_BITS else bitwise(u32(match.mask))
    return LOAD_MARK + masked + compare(equality(negated=match.negated), u32(match.value))


def _connection_mark(match: ConnectionMark) -> bytes:
    return _match("connmark", xt_layouts.connmark(match))


def _connection_state(match: ConnectionState) -> bytes:
    return _match("conntrack", xt_layouts.conntrack(match))


def _not_understood(match: UnknownMatch) -> bytes:
    raise ValueError(f"a foreign rule can be kept, but not written: {match}")


EXTENSIONS: dict[type, Callable[[Any], bytes]] = {
    OwnerUid: _owner,
    OwnerGid: _owner,
    Mark: _mark,
    ConnectionMark: _connection_mark,
    ConnectionState: _connection_state,
    UnknownMatch: _not_understood,
}
"""The matches that stand in the order in which the rule has them."""


# --- verdicts ------------------------------------------------------------------------------------


def _jump(verdict: Jump, _family: Family) -> bytes:
    return jump(verdict.chain)


def _redirect(verdict: Redirect, family: Family) -> bytes:
    return _target("REDIRECT", xt_layouts.redirect(verdict.port, family))


def _tproxy(verdict: TransparentProxy, _family: Family) -> bytes:
    return _target("TPROXY", xt_layouts.tproxy(verdict))


def _set_mark(verdict: SetMark, _family: Family) -> bytes:
    return _target("MARK", xt_layouts.set_mark(verdict))


def _save_mark(_verdict: SaveMark, _family: Family) -> bytes:
    return _target("CONNMARK", xt_layouts.copy_mark(xt_layouts.CONNMARK_SAVE))


def _restore_mark(_verdict: RestoreMark, _family: Family) -> bytes:
    return _target("CONNMARK", xt_layouts.copy_mark(xt_layouts.CONNMARK_RESTORE))


def _set_zone(verdict: SetZone, _family: Family) -> bytes:
    return _target("CT", xt_layouts.set_zone(verdict.zone))


def _log(verdict: Log, _family: Family) -> bytes:
    return _target("LOG", xt_layouts.log(verdict))


def _unknown_verdict(verdict: UnknownVerdict, _family: Family) -> bytes:
    raise ValueError(f"a foreign rule can be kept, but not written: {verdict}")


def _fixed(expression: bytes) -> Callable[[Any, Family], bytes]:
    return lambda _verdict, _family: expression


VERDICTS: dict[type, Callable[[Any, Family], bytes]] = {
    Accept: _fixed(verdict_expression(nf.NF_ACCEPT)),
    Drop: _fixed(verdict_expression(nf.NF_DROP)),
    Return: _fixed(verdict_expression(nf.NFT_RETURN)),
    Continue: _fixed(b""),
    Jump: _jump,
    Redirect: _redirect,
    TransparentProxy: _tproxy,
    SetMark: _set_mark,
    SaveMark: _save_mark,
    RestoreMark: _restore_mark,
    SetZone: _set_zone,
    Log: _log,
    UnknownVerdict: _unknown_verdict,
}
