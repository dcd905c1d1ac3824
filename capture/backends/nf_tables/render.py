"""From native rules to what ``nft -f`` takes. Pure; for people and libnftables, and the oracle of ``encode``."""

from __future__ import annotations

from capture.backends.nf_tables import native
from capture.backends.nf_tables.expressions import always
from capture.model import ruleset as model
from capture.model.addresses import FAMILY_BY_NUMBER, IPV4, IPV6, address_text, networks_in_range
from capture.model.conventions import MAX_PORT, PROTOCOL_BY_NUMBER
from capture.model.text import without_line_ends

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any


NUMBER_NAMES: dict[str, dict[int, str]] = {
    native.NFPROTO: dict[int, str](FAMILY_BY_NUMBER),
    native.L4PROTO: dict[int, str](PROTOCOL_BY_NUMBER),
}
"""Fields whose numbers have names."""


def table_text(table: native.NativeTable, *, with_counters: bool = True) -> str:
    """Return the block of a table."""
    blocks = []
    for chain in table.chains:
        lines = [f"\tchain {chain.name} {{"]
        hook = chain.hook
        if hook is not None and chain.policy is not None:
            policy = chain.policy.lower()
            lines.append(f"\t\ttype {hook.kind} hook {hook.name} priority {hook.priority}; policy {policy};")
        lines += [f"\t\t{rule_text(rule, with_counter=with_counters)}" for rule in chain.rules]
        blocks.append("\n".join([*lines, "\t}\n"]))
    chains = "\n".join(blocks)
    return f"table inet {table.name} {{\n{chains}}}\n"


def rule_text(rule: native.NativeRule, *, with_counter: bool = True) -> str:
    """Return a rule on one line."""
    words = [_text(*kept_apart(rule.conditions)), "counter" if with_counter else "", _text(*rule.actions)]
    if rule.comment:
        words.append(f"comment {quoted(rule.comment)}")
    return " ".join(filter(None, words))


def described(*parts: native.Condition | native.Action) -> str:
    """Return parts of a foreign rule for people to read, also where nft could not write them."""
    try:
        return _text(*parts)
    except ValueError:
        return " ".join(map(repr, parts))


def _text(*parts: native.Condition | native.Action) -> str:
    return " ".join(PART_TEXTS[type(part)](part) for part in parts)


def kept_apart(conditions: Sequence[native.Condition]) -> Iterator[native.Condition]:
    """Yield the conditions in a form that nft understands as they are meant.

    nft 1.0.6 joins "source port is not a" and "destination port is not b" to "they are not a and b",
    and lists them as the two they were. It leaves a port alone that is under a mask, even one of all bits.
    """
    excluded_port = False
    for condition in conditions:
        kept = condition
        if isinstance(condition, native.Among) and condition.negated and condition.field in native.PORT_PROTOCOLS:
            if excluded_port and condition.is_single:
                kept = native.Masked(condition.field, MAX_PORT, condition.ranges[0][0], negated=True)
            excluded_port = True
        yield kept


def quoted(words: str) -> str:
    """Return a string as nft reads it. Raises ValueError for quotes, which nft has no way to write."""
    if '"' in words:
        raise ValueError(f"nft cannot write quotes: {words!r}")
    return f'"{without_line_ends(words)}"'


def _values_text(condition: native.Among) -> str:
    entries = [_range_text(condition.field, each) for each in condition.ranges]
    operand = entries[0] if len(entries) == 1 else f"{{ {', '.join(entries)} }}"
    return f"{condition.field} {'!= ' * condition.negated}{operand}"


def _range_text(field: str, numbers: native.Range) -> str:
    """Return what nft calls some numbers of a field: one thing, a network, or where they begin and end."""
    family = native.ADDRESS_FAMILIES.get(field)
    if family is not None:
        networks = tuple(networks_in_range(family, *numbers))
        ends = [address_text(family, end) for end in numbers] if len(networks) > 1 else [networks[0].shown]
    elif field in native.MARK_FIELDS.values():
        ends = [f"{end:#010x}" for end in numbers]
    else:
        names = NUMBER_NAMES.get(field, {}) if numbers[0] == numbers[1] else {}
        ends = [str(names.get(end, end)) for end in numbers]
    return "-".join(dict.fromkeys(ends))


def _bits_text(condition: native.Masked) -> str:
    states: list[str] = []
    if condition.field == native.CT_STATE and not condition.value:
        states = [state.lower() for state, bit in native.CT_STATE_BITS.items() if condition.mask & bit]
    if states:
        # "ct state a,b" is true if any of the bits is set; nft 1.0.6 lists its opposite as "ct state ! a,b".
        return f"ct state {','.join(states)}" if condition.negated else f"ct state & ({'|'.join(states)}) == 0"
    operator = "!=" if condition.negated else "=="
    return f"{condition.field} & {condition.mask:#010x} {operator} {condition.value:#010x}"


def _name_text(condition: native.Named) -> str:
    """Return the name of an interface as nft reads it: a literal asterisk at the end would mean any ending."""
    name = condition.name
    if condition.has_any_ending:
        name = f"{name}*"
    elif name.endswith("*"):
        name = f"{name[:-1]}\\*"
    return f"{condition.field} {'!= ' * condition.negated}{quoted(name)}"


def _cases_text(cases: native.Cases) -> str:
    subject = cases.text.removesuffix(" vmap")
    keys = [[_text(each).removeprefix(f"{getattr(each, 'field', subject)} ") for each in key] for key, _ in cases.cases]
    verdicts = [f" : {_text(verdict)}" if verdict else "" for _, verdict in cases.cases]
    entries = [f"{' . '.join(key)}{verdict}" for key, verdict in zip(keys, verdicts, strict=True)]
    return f"{cases.text} {{ {', '.join(entries)} }}"


def _tproxy_text(action: native.TproxyStatement) -> str:
    family = {None: "", IPV4: "ip ", IPV6: "ip6 "}[action.family]
    return f"tproxy {family}to :{action.port}"


def _set_mark(action: model.SetMark) -> str:
    if action.mask == model.ALL_BITS:
        return f"meta mark set {action.value:#010x}"
    return f"meta mark set meta mark & {model.ALL_BITS & ~action.mask:#010x} | {action.value & action.mask:#010x}"


def _log_text(action: model.Log) -> str:
    if "$" in action.prefix:
        raise ValueError(f"nft takes what follows a dollar sign for a variable: {action.prefix!r}")
    return f"log prefix {quoted(action.prefix)}"


PART_TEXTS: dict[type, Callable[[Any], str]] = {
    native.Among: _values_text,
    native.Masked: _bits_text,
    native.Named: _name_text,
    model.UnknownMatch: lambda part: part.text,
    model.Accept: always("accept"),
    model.Drop: always("drop"),
    model.Return: always("return"),
    model.Jump: lambda action: f"jump {action.chain}",
    model.Redirect: lambda action: f"redirect to :{action.port}",
    native.TproxyStatement: _tproxy_text,
    native.Cases: _cases_text,
    model.SetMark: _set_mark,
    model.SaveMark: always("ct mark set meta mark"),
    model.RestoreMark: always("meta mark set ct mark"),
    model.SetZone: lambda action: f"ct zone set {action.zone}",
    model.Log: _log_text,
    model.UnknownVerdict: lambda part: part.text,
}
