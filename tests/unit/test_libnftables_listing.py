"""Listings of libnftables, in the forms that its versions have."""

from __future__ import annotations

from typing import Any

import pytest

from capture.backends.nf_tables.hooks import Hook
from capture.backends.nftables.native import (
    CT_MARK,
    CT_STATE,
    DPORT,
    L4PROTO,
    MARK,
    Among,
    Masked,
    Named,
    NativeRule,
    Proxy,
)
from capture.model.ruleset import (
    Counters,
    Drop,
    Log,
    SetMark,
    UnknownMatch,
    UnknownVerdict,
)
from support.rules.libnftables_listing import parse_tables

CT = {"ct": {"key": "state"}}
META_MARK = {"meta": {"key": "mark"}}
TCP_DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}


def parse(*statements: dict[str, Any], sets: dict[str, list[Any]] | None = None) -> NativeRule:
    """Return the rule with these statements, in a listing with everything around it."""
    where = {"family": "inet", "table": "t"}
    (table,) = parse_tables(
        [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "t", "handle": 1}},
            {
                "chain": {
                    **where,
                    "name": "c",
                    "handle": 1,
                    "type": "nat",
                    "hook": "output",
                    "prio": -100,
                    "policy": "drop",
                }
            },
            *({"set": {**where, "name": name, "elem": elements}} for name, elements in (sets or {}).items()),
            {"rule": {**where, "chain": "c", "handle": 2, "expr": list(statements), "comment": "why"}},
        ]
    )
    (chain,) = table.chains
    assert chain.hook == Hook("nat", "output", -100)
    assert chain.policy == "drop"
    (rule,) = chain.rules
    assert rule.comment == "why"
    return rule


def match(left: object, operator: str, right: object) -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


@pytest.mark.parametrize(
    ("statement", "condition"),
    [
        (match({"meta": {"key": "l4proto"}}, "==", "tcp"), Among(L4PROTO, ((6, 6),))),
        (match({"meta": {"key": "l4proto"}}, "==", 6), Among(L4PROTO, ((6, 6),))),
        (match(TCP_DPORT, "==", {"set": [{"range": [9, 12]}, 7]}), Among(DPORT["tcp"], ((7, 7), (9, 12)))),
        (match(TCP_DPORT, "!=", "@ports"), Among(DPORT["tcp"], ((1, 1), (2, 2)), negated=True)),
        (match(TCP_DPORT, "<", 1024), Among(DPORT["tcp"], ((0, 1023),))),
        (match(TCP_DPORT, ">=", 1024), Among(DPORT["tcp"], ((1024, 65535),))),
        (match(CT, "in", "new"), Masked(CT_STATE, 8, 0, negated=True)),
        (match(CT, "in", ["new", "established"]), Masked(CT_STATE, 10, 0, negated=True)),
        (match(CT, "!", ["new"]), Masked(CT_STATE, 8, 0)),
        (match({"&": [CT, ["new", "related"]]}, "==", 0), Masked(CT_STATE, 12, 0)),
        (match({"&": [CT, {"|": ["new", "related"]}]}, "!=", 0), Masked(CT_STATE, 12, 0, negated=True)),
        (match(CT, "!=", "established"), Among(CT_STATE, ((2, 2),), negated=True)),
        (match(CT, "==", {"set": ["new", "invalid"]}), Among(CT_STATE, ((1, 1), (8, 8)))),
        (match({"&": [META_MARK, 255]}, "==", 5), Masked(MARK, 255, 5)),
        (
            match({"ct": {"key": "mark"}}, "!=", {"prefix": {"addr": 16, "len": 30}}),
            Masked(CT_MARK, 0xFFFFFFFC, 16, negated=True),
        ),
        (match({"meta": {"key": "iifname"}}, "==", "eth*"), Named("iifname", "eth", any_ending=True)),
        (match({"meta": {"key": "oifname"}}, "!=", "eth\\*"), Named("oifname", "eth*", negated=True)),
    ],
)
def test_conditions(statement: dict[str, Any], condition: object) -> None:
    rule = parse(statement, {"drop": None}, sets={"ports": [1, {"elem": {"val": 2, "comment": "c"}}]})

    assert rule == NativeRule((condition,), (Drop(),), None, "why")  # type: ignore[arg-type]  # a row of the table


@pytest.mark.parametrize(
    "statement",
    [
        match({"meta": {"key": "cgroup"}}, "==", 1),
        match({"meta": {"key": "iifname"}}, "==", {"set": ["lo", "eth0"]}),
        match(TCP_DPORT, "==", "http"),
        match(TCP_DPORT, "==", "@nowhere"),
        match(CT, "in", ["snat"]),
        match({"&": [CT, ["new"]]}, "==", 1),
        match(CT, "<", "new"),
        match({"payload": {"base": "th", "offset": 16, "len": 16}}, "==", 80),
        {"limit": {"rate": 5, "per": "second"}},
    ],
)
def test_conditions_without_words(statement: dict[str, Any]) -> None:
    (condition,) = parse(statement, {"drop": None}).conditions

    assert isinstance(condition, UnknownMatch)


@pytest.mark.parametrize(
    ("statement", "action"),
    [
        ({"log": {"prefix": "x"}}, Log("x")),
        ({"tproxy": {"family": "ip6", "port": 1}}, Proxy(1, "ipv6")),
        ({"tproxy": {"port": 1}}, Proxy(1)),
        ({"mangle": {"key": META_MARK, "value": {"&": [META_MARK, 0xFF]}}}, SetMark(0, 0xFFFFFF00)),
        ({"mangle": {"key": META_MARK, "value": {"|": [META_MARK, 0x10]}}}, SetMark(0x10, 0x10)),
        ({"mangle": {"key": META_MARK, "value": {"|": [{"&": [META_MARK, 0xFFFFFF1F]}, 0x10]}}}, SetMark(0x10, 0xF0)),
        ({"mangle": {"key": META_MARK, "value": {"^": [{"&": [META_MARK, 0xFFFFFF0F]}, 0x10]}}}, SetMark(0x10, 0xF0)),
    ],
)
def test_actions(statement: dict[str, Any], action: object) -> None:
    assert parse(statement).actions == (action,)


@pytest.mark.parametrize(
    "statement",
    [
        {"log": {"prefix": "x", "level": "debug"}},
        {"tproxy": {"addr": "127.0.0.1", "port": 1}},
        {"redirect": None},
        {"redirect": {"port": {"range": [1, 2]}}},
        {"goto": {"target": "c"}},
        {"dnat": {"addr": "192.0.2.1", "port": 1}},
        {"vmap": {"key": CT, "data": {"set": []}}},
        {"mangle": {"key": META_MARK, "value": {"^": [META_MARK, 0x10]}}},
        {"mangle": {"key": META_MARK, "value": {"<<": [META_MARK, 2]}}},
        {"mangle": {"key": META_MARK, "value": {"&": [META_MARK, {"meta": {"key": "priority"}}]}}},
        {"mangle": {"key": {"ct": {"key": "mark"}}, "value": 5}},
        {"mangle": {"key": {"meta": {"key": "priority"}}, "value": 5}},
    ],
)
def test_actions_without_words(statement: dict[str, Any]) -> None:
    (action,) = parse(statement).actions

    assert isinstance(action, UnknownVerdict)


def test_a_condition_behind_an_action_is_none_of_the_rule() -> None:
    rule = parse({"mangle": {"key": META_MARK, "value": 5}}, match(TCP_DPORT, "==", 80))

    assert rule.conditions == ()
    assert isinstance(rule.actions[1], UnknownVerdict)


def test_counters() -> None:
    assert parse({"counter": {"packets": 3, "bytes": 180}}).counters == Counters(3, 180)
    assert parse({"counter": None}).counters is None
    assert parse({"counter": "named"}).counters is None
