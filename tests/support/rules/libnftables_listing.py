"""Our tables as libnftables lists them in JSON: a second opinion on what our messages read.

What is written and what is listed differ: nft leaves out what another condition implies (``meta l4proto tcp``
before ``tcp dport``), names numbers, and folds masks in its own way; ``parse_tables`` takes it as it comes.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from capture.backends.nf_tables.lift import lift
from capture.backends.nf_tables.names import MODEL_TABLES, Hook
from capture.backends.nf_tables.native import (
    ADDRESS_FAMILIES,
    CT_MARK,
    CT_STATE,
    CT_STATE_BITS,
    FIELD_SIZES,
    IIFNAME,
    MARK,
    NFPROTO,
    OIFNAME,
    Among,
    Masked,
    Named,
    NativeChain,
    NativeRule,
    NativeTable,
    TproxyStatement,
)
from capture.backends.nf_tables.render import NUMBER_NAMES
from capture.model.addresses import parse_address
from capture.model.ruleset import (
    ALL_BITS,
    Accept,
    Counters,
    Drop,
    Jump,
    Log,
    Redirect,
    RestoreMark,
    Return,
    Ruleset,
    SaveMark,
    SetMark,
    SetZone,
    UnknownMatch,
    UnknownVerdict,
)

if TYPE_CHECKING:
    from capture.backends.nf_tables.native import Range
    from capture.model.addresses import Family
    from capture.model.ruleset import Match, Verdict

    Object = dict[str, Any]
    Sets = dict[str, list[Any]]


def _expression(field: str) -> Object:
    kind, _, name = field.rpartition(" ")
    if kind in ("", "meta", "ct"):
        return {kind or "meta": {"key": name}}
    return {"payload": {"protocol": kind, "field": name}}


FIELD_EXPRESSIONS = {field: _expression(field) for field in (*FIELD_SIZES, IIFNAME, OIFNAME)}
ZONE = _expression("ct zone")


class Listing:
    """Reads like a driver of nftables."""

    name = "listing"

    def read(self) -> Ruleset:
        """Return our tables in the namespace we are in. Dormant ones are not read: 1.0.6 prints garbage for flags."""
        found = []
        for line in _nft("list tables inet").splitlines():
            name = line.split()[-1]
            if name not in MODEL_TABLES:
                continue
            if any(line.split()[:1] == ["flags"] for line in _nft(f"list table inet {name}").splitlines()[:3]):
                found.append(NativeTable(name, (), dormant=True))
            else:
                found += parse_tables(json.loads(_nft(f"-j list table inet {name}"))["nftables"])
        return lift(found)


def _nft(command: str) -> str:
    return subprocess.run(["nft", *command.split()], check=True, capture_output=True, text=True).stdout


class NotUnderstoodError(Exception):
    """The model has no words for a part of a listing."""


def parse_tables(objects: Iterable[Object]) -> tuple[NativeTable, ...]:
    """Return the tables of a listing, the value of its key "nftables", in which nothing is nested.

    The flags of tables are left out: libnftables 1.0.6 prints garbage for them.
    """
    of_kind: dict[str, list[Object]] = {}
    for one in objects:
        ((kind, parts),) = one.items()
        of_kind.setdefault(kind, []).append(parts)
    sets = {(one["table"], one["name"]): one.get("elem", []) for one in of_kind.get("set", ())}
    rules: dict[tuple[str, str], list[NativeRule]] = {}
    for rule in of_kind.get("rule", ()):
        listing = {name: elements for (table, name), elements in sets.items() if table == rule["table"]}
        rules.setdefault((rule["table"], rule["chain"]), []).append(_parse_rule(rule, listing))
    chains: dict[str, list[NativeChain]] = {}
    for chain in of_kind.get("chain", ()):
        own = tuple(rules.get((chain["table"], chain["name"]), ()))
        hook = Hook(chain["type"], chain["hook"], chain["prio"]) if "hook" in chain else None
        parsed = NativeChain(chain["name"], own, hook, chain["policy"].upper() if hook else None)
        chains.setdefault(chain["table"], []).append(parsed)
    names = [table["name"] for table in of_kind.get("table", ())]
    return tuple(NativeTable(name, tuple(chains.get(name, ()))) for name in names)


def _listed(value: object) -> list[Any]:
    """Return a list; nft writes a list of one as that one."""
    return value if isinstance(value, list) else [value]


def _parse_rule(rule: Object, sets: Sets) -> NativeRule:
    conditions: list[Match] = []
    actions: list[Verdict] = []
    counters: Counters | None = None
    for statement in rule["expr"]:
        ((kind, parts),) = statement.items()
        if kind == "counter":  # the name of one that is shared, or null, has no numbers
            counters = counters or (Counters(parts["packets"], parts["bytes"]) if isinstance(parts, dict) else None)
        elif kind == "match" and not actions:
            conditions.append(_parse_match(parts, sets))
        elif kind in FILTERS and not actions:
            conditions.append(UnknownMatch(json.dumps(statement)))
        else:
            if kind in ("dnat", "snat") and "family" in parts:
                conditions.append(Among(NFPROTO, (_parse_range(NFPROTO, FAMILIES[parts["family"]]),)))
            actions.append(_parse_action(statement))
    return NativeRule(tuple(conditions), tuple(actions), counters, rule.get("comment", ""))


FILTERS = {"limit", "quota", "ct count", "xt"}
"""Statements apart from "match" that only let packets pass or not."""


# --- conditions that are listed


def _parse_match(match: Object, sets: Sets) -> Match:
    try:
        return _parse_known_match(match["left"], match["op"], match["right"], sets)
    except NotUnderstoodError:
        return UnknownMatch(json.dumps(match))


def _parse_known_match(left: Object, operator: str, right: object, sets: Sets) -> Match:
    mask: object = None
    if "&" in left:
        left, mask = left["&"]
    field = FIELD_NAMES.get(json.dumps(left, sort_keys=True))
    if field is None or operator not in OPERATORS:
        raise NotUnderstoodError
    if field == CT_STATE:
        return _parse_states(mask, operator, right)
    negated = operator == "!="
    if field in (IIFNAME, OIFNAME):
        return _parse_name(field, right, negated=negated)
    if mask is not None and mask != (1 << FIELD_SIZES[field] * 8) - 1:
        return Masked(field, _parse_number(field, mask), _parse_number(field, right), negated)
    if field in (MARK, CT_MARK) and isinstance(right, dict) and "prefix" in right:
        # nft lists a comparison under a mask of leading bits as one with a prefix, for any field.
        first, last = _parse_range(field, right)
        return Masked(field, ALL_BITS & ~(last - first), first, negated)
    if isinstance(right, str) and right.startswith("@"):
        right = {"set": sets.get(right[1:])}
    ranges = tuple(sorted(_parse_range(field, each) for each in _elements(right)))
    if operator in ORDERS:
        ranges = ORDERS[operator](ranges[0][0], (1 << FIELD_SIZES[field] * 8) - 1)
    return Among(field, ranges, negated)


ORDERS: dict[str, Callable[[int, int], tuple[Range, ...]]] = {
    "<": lambda number, _: ((0, number - 1),),
    "<=": lambda number, _: ((0, number),),
    ">": lambda number, highest: ((number + 1, highest),),
    ">=": lambda number, highest: ((number, highest),),
}
OPERATORS = {"==", "!=", "in", "!", *ORDERS}
FIELD_NAMES = {json.dumps(left, sort_keys=True): field for field, left in FIELD_EXPRESSIONS.items()}


def _elements(operand: object) -> list[Any]:
    """Return the elements of a set; anything else is one element."""
    elements = operand.get("set", [operand]) if isinstance(operand, dict) else [operand]
    if not isinstance(elements, list) or not elements:
        raise NotUnderstoodError
    # An element with a comment or a counter is an object around its value.
    return [each["elem"].get("val") if isinstance(each, dict) and "elem" in each else each for each in elements]


def _parse_range(field: str, operand: object) -> Range:
    if isinstance(operand, dict) and "range" in operand:
        first, last = operand["range"]
        return _parse_number(field, first), _parse_number(field, last)
    if isinstance(operand, dict) and "prefix" in operand:
        first = _parse_number(field, operand["prefix"]["addr"])
        return first, first | (1 << FIELD_SIZES[field] * 8 - operand["prefix"]["len"]) - 1
    number = _parse_number(field, operand)
    return number, number


def _parse_number(field: str, operand: object) -> int:
    if isinstance(operand, int):
        return operand
    if isinstance(operand, str):
        for number, word in NUMBER_NAMES.get(field, {}).items():
            if word == operand:
                return number
        if field in ADDRESS_FAMILIES:
            return parse_address(operand).first
    raise NotUnderstoodError


def _parse_states(mask: object, operator: str, right: object) -> Match:
    """Return a comparison of the connection's state: with any of some states' bits, or with whole states."""
    if mask is None and operator in ("in", "!"):
        return Masked(CT_STATE, sum(_state_bits(right)), 0, operator == "in")
    if operator not in ("==", "!="):
        raise NotUnderstoodError
    if mask is not None:
        if right != 0:
            raise NotUnderstoodError
        return Masked(CT_STATE, sum(_state_bits(mask)), 0, operator == "!=")
    states = [bit for each in _elements(right) for bit in _state_bits(each)]
    return Among(CT_STATE, tuple((bit, bit) for bit in sorted(states)), operator == "!=")


def _state_bits(states: object) -> list[int]:
    named = states["|"] if isinstance(states, dict) and "|" in states else _listed(states)
    if not all(isinstance(state, str) and state.upper() in CT_STATE_BITS for state in named):
        raise NotUnderstoodError
    return [CT_STATE_BITS[state.upper()] for state in named]


def _parse_name(field: str, name: object, *, negated: bool) -> Named:
    if not isinstance(name, str) or name.startswith("@"):
        raise NotUnderstoodError
    any_ending = name.endswith("*") and not name.endswith("\\*")
    return Named(field, name[:-1] if any_ending else name.replace("\\*", "*"), any_ending, negated)


# --- actions that are listed


def _parse_action(statement: Object) -> Verdict:
    ((kind, parts),) = statement.items()
    parse = ACTIONS.get(kind)
    action = parse(parts) if parse else None
    return action or UnknownVerdict(json.dumps(statement))


def _only(parts: object, **keys: type) -> bool:
    """Return whether an object has these keys, with values of these types, and no other."""
    return isinstance(parts, dict) and {key: type(value) for key, value in parts.items()} == keys


def _parse_proxy(parts: Object) -> Verdict | None:
    without_family = {key: value for key, value in parts.items() if key != "family"}
    family = FAMILIES.get(parts.get("family", ""))
    return TproxyStatement(parts["port"], family) if _only(without_family, port=int) else None


FAMILIES: dict[str, Family] = {"ip": "ipv4", "ip6": "ipv6"}


def _parse_mangle(parts: Object) -> Verdict | None:
    """Return what is set: the mark or the zone of the packet, the mark of the connection."""
    key, value = parts["key"], parts["value"]
    if key == FIELD_EXPRESSIONS[CT_MARK]:
        return SaveMark() if value == FIELD_EXPRESSIONS[MARK] else None
    if key == ZONE:
        return SetZone(value) if isinstance(value, int) else None
    if key != FIELD_EXPRESSIONS[MARK]:
        return None
    if isinstance(value, int):
        return SetMark(value)
    if value == FIELD_EXPRESSIONS[CT_MARK]:
        return RestoreMark()
    kept, flip = _parse_bits(value)
    return SetMark(flip, ALL_BITS & ~kept) if kept is not None and not kept & flip else None


def _parse_bits(value: object) -> tuple[int | None, int]:
    """Return which bits of the mark are kept and which are flipped then; None if that is not what is done."""
    if value == FIELD_EXPRESSIONS[MARK]:
        return ALL_BITS, 0
    if not isinstance(value, dict) or len(value) != 1:
        return None, 0
    ((operator, operands),) = value.items()
    if operator not in ("&", "|", "^") or len(operands) != 2 or not isinstance(operands[1], int):
        return None, 0
    kept, flip = _parse_bits(operands[0])
    if kept is None:
        return None, 0
    bits = operands[1]
    if operator == "&":
        return kept & bits, flip & bits
    return (kept & ~bits, flip | bits) if operator == "|" else (kept, flip ^ bits)


ACTIONS: dict[str, Callable[[Any], Verdict | None]] = {
    "accept": lambda _: Accept(),
    "drop": lambda _: Drop(),
    "return": lambda _: Return(),
    "jump": lambda parts: Jump(parts["target"]),
    "redirect": lambda parts: Redirect(parts["port"]) if _only(parts, port=int) else None,
    "tproxy": _parse_proxy,
    "mangle": _parse_mangle,
    "log": lambda parts: Log(parts["prefix"]) if _only(parts, prefix=str) else None,
}
