"""From native rules to the messages of a batch. Pure; ``decode`` is the inverse.

The expressions are those that nft(8) makes of what ``render`` writes, byte for byte where nft has one way, so that
every program's listing of our tables reads well. A condition loads a field into register 1 and compares:

    ip daddr 10.0.0.0/8     payload load 1b @ network header + 16 => reg 1, cmp eq reg 1 10
    meta skuid 1000-2000    meta load skuid => reg 1, byteorder hton, cmp gte reg 1 1000, cmp lte reg 1 2000
    tcp dport { 53, 15008 } payload load 2b @ transport header + 2 => reg 1, lookup reg 1 set __set0

Lists are anonymous sets. They belong to their rule, no other program can change one unnoticed, they go when it
goes, and need no names; long ones cost the same as named ones. Tables, chains and sets carry no
userdata: nft crashes on what another version of nft left there. Without it nft takes the keys of a plain set
of ids for big endian, so those are always sets of intervals, whose keys really are.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import expressions as make
from capture.backends.nf_tables import native, sets
from capture.backends.nf_tables.messages import TableMessages
from capture.model import ruleset as model
from capture.model.addresses import FAMILY_NUMBERS
from capture.model.conventions import INTERFACE_NAME_SIZE
from capture.netlink.attributes import BYTE_ORDER, attribute, c_string, u8, u16be, u32, u32be
from capture.netlink.messages import NLM_F_CREATE
from capture.netlink.nfnetlink import NFPROTO_UNSPEC, Change

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeGuard

MAX_ELEMENTS = 1500
"""Elements of one message: an attribute has 16 bits of length, and the end of a range of IPv6 has 40 bytes."""

ANONYMOUS = "__set%d"
"""The kernel puts a number in; the rule refers to the set by its id in the batch."""


def add_tables(tables: Iterable[native.NativeTable]) -> Iterator[Change]:
    """Yield the messages that make tables with their chains, where they are missing."""
    for table in tables:
        messages = TableMessages(nf.NFPROTO_INET, table.name)
        yield messages.add_table()
        yield from (messages.add_chain(chain.name, chain.hook, chain.policy) for chain in table.chains)


def add_rules(tables: Iterable[native.NativeTable]) -> Iterator[Change]:
    """Yield the messages that append the rules of tables, each after the sets it needs."""
    set_number = 0  # unique in a batch
    for table in tables:
        messages = TableMessages(nf.NFPROTO_INET, table.name)
        for chain, position, rule in _rules_of(table):
            task = f"add rule {position} to chain {chain} of table inet {table.name}"
            lookups = []
            for condition in filter(needs_set, rule.conditions):
                set_number += 1
                yield from _add_set(table.name, condition, set_number, task)
                lookups.append(OF_ANONYMOUS + attribute(nf.NFTA_LOOKUP_SET_ID, u32be(set_number)))
            yield _add_rule(messages, chain, position, rule, lookups)


def listed_rules(table: native.NativeTable) -> Iterator[Change]:
    """Yield the messages for the rules of a table as they come back from the kernel: lookups know the names of sets."""
    messages = TableMessages(nf.NFPROTO_INET, table.name)
    names = iter(dict(sets_of(table)))
    for chain, position, rule in _rules_of(table):
        lookups = [attribute(nf.NFTA_LOOKUP_SET, c_string(next(names))) for _ in filter(needs_set, rule.conditions)]
        yield _add_rule(messages, chain, position, rule, lookups)


def _rules_of(table: native.NativeTable) -> Iterator[tuple[str, int, native.NativeRule]]:
    return ((chain.name, position, rule) for chain in table.chains for position, rule in enumerate(chain.rules, 1))


def _add_rule(
    messages: TableMessages, chain: str, position: int, rule: native.NativeRule, lookups: list[bytes]
) -> Change:
    next_lookups = iter(lookups)
    expressions = [
        _set_lookup(condition, next(next_lookups)) if needs_set(condition) else EXPRESSIONS[type(condition)](condition)
        for condition in rule.conditions
    ]
    actions = [EXPRESSIONS[type(action)](action) for action in rule.actions]
    parts = make.nest(nf.NFTA_RULE_EXPRESSIONS, *expressions, make.COUNTER, *actions)
    if rule.comment:
        words = c_string(rule.comment)
        parts += attribute(nf.NFTA_RULE_USERDATA, u8(nf.NFTNL_UDATA_RULE_COMMENT) + u8(len(words)) + words)
    return messages.add_rule(chain, parts, name=f"rule {position}")


def needs_set(condition: native.Condition) -> TypeGuard[native.Among]:
    """Return whether a condition has more than one value: those are in a set, and the rule looks them up."""
    return type(condition) is native.Among and len(condition.ranges) > 1


def sets_of(table: native.NativeTable) -> Iterator[tuple[str, native.Among]]:
    """Yield the lists of a table that are in sets, and the names that the kernel gives them in a new table.

    It takes the lowest free number for each (nf_tables_set_alloc_name in net/netfilter/nf_tables_api.c).
    """
    conditions = (condition for chain in table.chains for rule in chain.rules for condition in rule.conditions)
    for number, condition in enumerate(filter(needs_set, conditions)):
        yield ANONYMOUS % number, condition


LOADS = {field: make.load_meta(key) for field, key in native.META_KEYS.items()}
LOADS |= {field: make.load_ct(key) for field, key in native.CT_KEYS.items()}
LOADS |= {
    field: make.load_payload(base, native.OFFSETS[field], native.FIELD_SIZES[field])
    for base, fields in (
        (nf.NFT_PAYLOAD_NETWORK_HEADER, native.ADDRESS_FAMILIES),
        (nf.NFT_PAYLOAD_TRANSPORT_HEADER, native.PORT_PROTOCOLS),
    )
    for field in fields
}

TO_NETWORK_ORDER = make.expression(
    "byteorder",
    attribute(nf.NFTA_BYTEORDER_SREG, make.REGISTER),
    attribute(nf.NFTA_BYTEORDER_DREG, make.REGISTER),
    attribute(nf.NFTA_BYTEORDER_OP, u32be(nf.NFT_BYTEORDER_HTON)),
    attribute(nf.NFTA_BYTEORDER_LEN, u32be(4)),
    attribute(nf.NFTA_BYTEORDER_SIZE, u32be(4)),
)
"""Ranges are compared byte by byte, so the first byte must be the highest."""


def _load_in_order(field: str) -> bytes:
    return LOADS[field] + TO_NETWORK_ORDER if field in native.HOST_ORDER else LOADS[field]


def _compare_range(condition: native.Among) -> bytes:
    """Return the comparison with one range: an exact number, a network, or from here to there."""
    ((first, last),) = condition.ranges
    field = condition.field
    size = native.FIELD_SIZES[field]
    if first == last:
        order = BYTE_ORDER if field in native.HOST_ORDER else "big"
        return LOADS[field] + make.equals(first.to_bytes(size, order), negated=condition.negated)
    if field in native.ADDRESS_FAMILIES and native.is_network(first, last):
        first_address, prefix = first.to_bytes(size, "big"), size * 8 - (last - first).bit_length()
        return make.in_network(native.OFFSETS[field], first_address, prefix, negated=condition.negated)
    load = _load_in_order(field)
    low, high = first.to_bytes(size, "big"), last.to_bytes(size, "big")
    if condition.negated:
        return load + make.in_range(low, high, negated=True)
    return load + make.compare(nf.NFT_CMP_GTE, low) + make.compare(nf.NFT_CMP_LTE, high)


def _compare_name(condition: native.Named) -> bytes:
    """Return the comparison with a name: padded with NUL it is the whole name, else its beginning."""
    name = condition.name.encode("utf-8", "surrogateescape")
    whole = name if condition.has_any_ending else name.ljust(INTERFACE_NAME_SIZE, b"\0")
    return LOADS[condition.field] + make.equals(whole, negated=condition.negated)


def _tproxy_expressions(action: native.TproxyStatement) -> bytes:
    family = FAMILY_NUMBERS[action.family] if action.family else NFPROTO_UNSPEC
    return make.immediate(u16be(action.port)) + make.expression(
        "tproxy", attribute(nf.NFTA_TPROXY_FAMILY, u32be(family)), attribute(nf.NFTA_TPROXY_REG_PORT, make.REGISTER)
    )


def _set_mark(action: model.SetMark) -> bytes:
    if action.mask == model.ALL_BITS:
        return make.immediate(u32(action.value)) + STORE_MARK
    changed = make.bitwise(u32(model.ALL_BITS & ~action.mask), u32(action.value & action.mask))
    return LOADS[native.MARK] + changed + STORE_MARK


def _log_expression(action: model.Log) -> bytes:
    level = attribute(nf.NFTA_LOG_LEVEL, u32be(nf.NFT_LOGLEVEL_WARNING))  # the default, which the kernel reports
    return make.expression("log", attribute(nf.NFTA_LOG_PREFIX, c_string(action.prefix)), level)


STORE_MARK = make.store_meta(nf.NFT_META_MARK)
STORE_ZONE = make.store_ct(nf.NFT_CT_ZONE)
REDIRECT = make.expression(
    "redir",
    attribute(nf.NFTA_REDIR_REG_PROTO_MIN, make.REGISTER),
    attribute(nf.NFTA_REDIR_REG_PROTO_MAX, make.REGISTER),  # as the kernel reports it, also where it was left out
    attribute(nf.NFTA_REDIR_FLAGS, u32be(nf.NF_NAT_RANGE_PROTO_SPECIFIED)),
)

EXPRESSIONS: dict[type, Callable[[Any], bytes]] = {
    native.Among: _compare_range,
    native.Masked: lambda part: (
        LOADS[part.field] + make.bitwise(u32(part.mask)) + make.equals(u32(part.value), negated=part.negated)
    ),
    native.Named: _compare_name,
    model.Accept: make.always(make.verdict(nf.NF_ACCEPT)),
    model.Drop: make.always(make.verdict(nf.NF_DROP)),
    model.Return: make.always(make.verdict(nf.NFT_RETURN)),
    model.Jump: lambda action: make.jump(action.chain),
    model.Redirect: lambda action: make.immediate(u16be(action.port)) + REDIRECT,
    native.TproxyStatement: _tproxy_expressions,
    model.SetMark: _set_mark,
    model.SaveMark: make.always(LOADS[native.MARK] + make.store_ct(nf.NFT_CT_MARK)),
    model.RestoreMark: make.always(LOADS[native.CT_MARK] + STORE_MARK),
    model.SetZone: lambda action: make.immediate(action.zone.to_bytes(2, BYTE_ORDER)) + STORE_ZONE,
    model.Log: _log_expression,
}

OF_ANONYMOUS = attribute(nf.NFTA_LOOKUP_SET, c_string(ANONYMOUS))


def _set_lookup(condition: native.Among, set_named: bytes) -> bytes:
    flags = attribute(nf.NFTA_LOOKUP_FLAGS, u32be(nf.NFT_LOOKUP_F_INV if condition.negated else 0))
    register = attribute(nf.NFTA_LOOKUP_SREG, make.REGISTER)
    return _load_in_order(condition.field) + make.expression("lookup", set_named, register, flags)


def _add_set(table: str, condition: native.Among, number: int, task: str) -> Iterator[Change]:
    flags, elements = sets.set_flags(condition), sets.set_elements(condition)
    description = (
        attribute(nf.NFTA_SET_TABLE, c_string(table)),
        attribute(nf.NFTA_SET_NAME, c_string(ANONYMOUS)),
        attribute(nf.NFTA_SET_FLAGS, u32be(flags)),
        attribute(nf.NFTA_SET_KEY_TYPE, u32be(sets.KEY_TYPES[condition.field])),
        attribute(nf.NFTA_SET_KEY_LEN, u32be(native.FIELD_SIZES[condition.field])),
        attribute(nf.NFTA_SET_ID, u32be(number)),
        make.nest(nf.NFTA_SET_DESC, attribute(nf.NFTA_SET_DESC_SIZE, u32be(len(elements)))),
    )
    yield Change(nf.NFT_MSG_NEWSET, nf.NFPROTO_INET, b"".join(description), f"{task}, its set", NLM_F_CREATE)
    where = (
        attribute(nf.NFTA_SET_ELEM_LIST_TABLE, c_string(table))
        + attribute(nf.NFTA_SET_ELEM_LIST_SET, c_string(ANONYMOUS))
        + attribute(nf.NFTA_SET_ELEM_LIST_SET_ID, u32be(number))
    )
    for start in range(0, len(elements), MAX_ELEMENTS):
        part = make.nest(nf.NFTA_SET_ELEM_LIST_ELEMENTS, *elements[start : start + MAX_ELEMENTS])
        part_task = f"{task}, elements {start + 1} and on of its set"
        yield Change(nf.NFT_MSG_NEWSETELEM, nf.NFPROTO_INET, where + part, part_task, NLM_F_CREATE)
