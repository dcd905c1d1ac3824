"""Native rules as commands of libnftables-json(5). Pure."""

from __future__ import annotations

from capture.backends.nf_tables import native
from capture.backends.nf_tables.render import kept_apart, named, pattern, states_of
from capture.model import ruleset as model
from capture.model.addresses import Network, address_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from capture.backends.nf_tables.hooks import Hook

    Object = dict[str, Any]


class TableCommands:
    """The commands that change one table."""

    def __init__(self, table: str) -> None:
        self._name = table
        self._table = {"table": {"family": "inet", "name": table}}

    def add_table(self) -> Object:
        return {"add": self._table}

    def delete_table(self) -> Object:
        return {"delete": self._table}

    def flush_table(self) -> Object:
        return {"flush": self._table}

    def add_chain(self, chain: str, hook: Hook | None, policy: str | None) -> Object:
        parts: Object = {"family": "inet", "table": self._name, "name": chain}
        if hook is not None:
            parts |= {"type": hook.kind, "hook": hook.name, "prio": hook.priority, "policy": policy}
        return {"add": {"chain": parts}}

    def delete_chain(self, chain: str) -> Object:
        return {"delete": {"chain": {"family": "inet", "table": self._name, "name": chain}}}


def add_rules(tables: Iterable[native.NativeTable]) -> Iterator[Object]:
    """Yield the commands that append the rules of tables."""
    for table in tables:
        for chain in table.chains:
            for rule in chain.rules:
                made = [STATEMENTS[type(part)](part) for part in (*kept_apart(rule.conditions), *rule.actions)]
                made.insert(len(rule.conditions), {"counter": None})
                parts: Object = {"family": "inet", "table": table.name, "chain": chain.name, "expr": made}
                if rule.comment:
                    parts["comment"] = rule.comment
                yield {"add": {"rule": parts}}


def _expression(field: str) -> Object:
    kind, _, name = field.rpartition(" ")
    if kind in ("", "meta", "ct"):
        return {kind or "meta": {"key": name}}
    return {"payload": {"protocol": kind, "field": name}}


FIELD_EXPRESSIONS = {field: _expression(field) for field in (*native.FIELD_SIZES, *native.INTERFACE_FIELDS.values())}
ZONE = _expression("ct zone")


def _match(field: object, operator: str, operand: object) -> Object:
    return {"match": {"op": operator, "left": field, "right": operand}}


def _equality(condition: native.Among | native.Masked | native.Named) -> str:
    return "!=" if condition.negated else "=="


def _among(condition: native.Among) -> Object:
    operands = [_operand(condition.field, each) for each in condition.ranges]
    operand = operands[0] if len(operands) == 1 else {"set": operands}
    return _match(FIELD_EXPRESSIONS[condition.field], _equality(condition), operand)


def _operand(field: str, numbers: native.Range) -> object:
    words = named(field, numbers)
    if isinstance(words, Network):
        return {"prefix": {"addr": address_text(words.family, words.first), "len": words.prefix}}
    return words[0] if len(words) == 1 else {"range": [*words]}


def _masked(condition: native.Masked) -> Object:
    field, states = FIELD_EXPRESSIONS[condition.field], states_of(condition)
    if states:
        return _match(field, "in", states) if condition.negated else _match({"&": [field, states]}, "==", 0)
    return _match({"&": [field, condition.mask]}, _equality(condition), condition.value)


def _named(condition: native.Named) -> Object:
    if condition.name.startswith("@"):
        raise ValueError(f"libnftables would take the name of an interface for one of a set: {condition.name!r}")
    return _match(FIELD_EXPRESSIONS[condition.field], _equality(condition), pattern(condition))


def _proxy(action: native.TproxyStatement) -> Object:
    family = {"family": {"ipv4": "ip", "ipv6": "ip6"}[action.family]} if action.family else {}
    return {"tproxy": {**family, "port": action.port}}


def _set(field: str, value: object) -> Object:
    return {"mangle": {"key": FIELD_EXPRESSIONS[field], "value": value}}


def _set_mark(action: model.SetMark) -> Object:
    if action.mask == model.ALL_BITS:
        return _set(native.MARK, action.value)
    kept = {"&": [FIELD_EXPRESSIONS[native.MARK], model.ALL_BITS & ~action.mask]}
    return _set(native.MARK, {"|": [kept, action.value & action.mask]})


def _fixed(statement: Object) -> Callable[[object], Object]:
    return lambda _: statement


STATEMENTS: dict[type, Callable[[Any], Object]] = {
    native.Among: _among,
    native.Masked: _masked,
    native.Named: _named,
    model.Accept: _fixed({"accept": None}),
    model.Drop: _fixed({"drop": None}),
    model.Return: _fixed({"return": None}),
    model.Jump: lambda action: {"jump": {"target": action.chain}},
    model.Redirect: lambda action: {"redirect": {"port": action.port}},
    native.TproxyStatement: _proxy,
    model.SetMark: _set_mark,
    model.SaveMark: _fixed(_set(native.CT_MARK, FIELD_EXPRESSIONS[native.MARK])),
    model.RestoreMark: _fixed(_set(native.MARK, FIELD_EXPRESSIONS[native.CT_MARK])),
    model.SetZone: lambda action: {"mangle": {"key": ZONE, "value": action.zone}},
    model.Log: lambda action: {"log": {"prefix": action.prefix}},
}
