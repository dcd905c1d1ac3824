"""From native rules to the model. Pure; the inverse of ``lower``.

What our vocabulary has no word for becomes an ``UnknownMatch`` or ``UnknownVerdict`` in nft's words.
"""

from __future__ import annotations

from capture.backends.nf_tables import native
from capture.backends.nf_tables.names import MODEL_TABLES, model_chain, model_target
from capture.model import ruleset as model
from capture.model.addresses import FAMILIES, FAMILY_BY_NUMBER, Family, Network, networks_in_range
from capture.model.conventions import PROTOCOL_BY_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")


def lift(tables: Sequence[native.NativeTable]) -> model.Ruleset:
    """Return the rule set that these tables are; foreign tables are left out.

    Its families are those that its rules see; both if there are no rules.
    """
    lifted = tuple(_lifted_table(table, MODEL_TABLES[table.name]) for table in tables if table.name in MODEL_TABLES)
    rules = [rule for table in lifted for chain in table.chains for rule in chain.rules]
    seen = {rule.family for rule in rules}
    families = tuple(family for family in FAMILIES if not rules or None in seen or family in seen)
    return model.Ruleset(families, lifted, has_comments=any(rule.why for rule in rules))


def _lifted_table(table: native.NativeTable, name: model.TableName) -> model.Table:
    chains = []
    for chain in table.chains:
        rules = tuple(lift_rules(chain.rules))
        chain_name, state = model_chain(name, chain.name, chain.hook, is_dormant=table.dormant)
        chains.append(model.Chain(chain_name, rules, chain.policy).in_state(state))
    return model.Table(name, model.in_listing_order(name, chains))


def lift_rules(rules: Sequence[native.NativeRule]) -> Iterator[model.Rule]:
    """Yield the rules of a chain; a transparent proxy is two native ones."""
    index = 0
    while index < len(rules):
        rule = rules[index]
        following = rules[index + 1] if index + 1 < len(rules) else None
        matches, family = lift_conditions(rule.conditions)
        verdict, length = _lifted_verdict(rule, following)
        yield model.Rule(verdict, matches, family, rule.comment, rule.counters)
        index += length


def lift_conditions(conditions: Iterable[native.Condition]) -> tuple[tuple[model.Match, ...], Family | None]:
    """Return the matches, and the family that the rule tests or that an address implies."""
    matches: list[model.Match] = []
    family: Family | None = None
    protocol: model.ProtocolName | None = None
    for condition in conditions:
        if isinstance(condition, native.Among):
            tested = _required_name(condition, native.NFPROTO, FAMILY_BY_NUMBER)
            if tested is not None and family in (None, tested):
                family = tested
                continue
            family = family or native.ADDRESS_FAMILIES.get(condition.field)
            protocol_tested = _required_name(condition, native.L4PROTO, PROTOCOL_BY_NUMBER)
            named = protocol_tested or native.PORT_PROTOCOLS.get(condition.field)
            if named is not None and named != protocol:
                protocol = named
                matches.append(model.Protocol(named))
            if protocol_tested is not None:
                continue
        matches.append(_lifted_match(condition))
    return tuple(matches), family


def _required_name(condition: native.Among, field: str, names: dict[int, T]) -> T | None:
    """Return the name of the one number that a condition requires; None if it is another condition."""
    is_tested = condition.field == field and condition.is_single and not condition.negated
    return names.get(condition.ranges[0][0]) if is_tested else None


def _lifted_match(condition: native.Condition) -> model.Match:
    if isinstance(condition, native.Among):
        match = _match_of_values(condition)
    elif isinstance(condition, native.Masked):
        match = _match_of_bits(condition)
    elif isinstance(condition, native.Named):
        match = _interface_match(condition)
    elif isinstance(condition, native.Cases):
        match = None
    else:
        return condition
    if match is not None:
        return match
    from capture.backends.nf_tables.foreign_expressions import unknown_condition  # only foreign rules need words

    return unknown_condition(condition)


def _match_of_values(condition: native.Among) -> model.Match | None:
    field, negated = condition.field, condition.negated
    if field == native.CT_STATE:
        return _exact_states(condition)
    if field in native.ADDRESS_FAMILIES:
        return MATCH_BY_FIELD[field](_networks_of_ranges(condition), negated)
    if field in native.MARK_FIELDS.values():
        return MATCH_BY_FIELD[field](condition.ranges[0][0], model.ALL_BITS, negated) if condition.is_single else None
    spans = tuple(model.Span(*each) for each in condition.ranges)
    return MATCH_BY_FIELD[field](spans, negated) if field in MATCH_BY_FIELD else None


def _networks_of_ranges(condition: native.Among) -> tuple[Network, ...]:
    family = native.ADDRESS_FAMILIES[condition.field]
    return tuple(network for ends in condition.ranges for network in networks_in_range(family, *ends))


def _exact_states(condition: native.Among) -> model.Match | None:
    """Return the states of a comparison with whole numbers: a packet's state has one bit."""
    numbers = [number for first, last in condition.ranges for number in range(first, last + 1)]
    if any(number not in native.CT_STATE_BITS.values() for number in numbers):
        return None
    return _state_match(sum(numbers), negated=condition.negated)


def _state_match(mask: int, *, negated: bool) -> model.ConnectionState | None:
    states = tuple(state for state in model.CONNECTION_STATES if mask & native.CT_STATE_BITS[state])
    if sum(native.CT_STATE_BITS[state] for state in states) != mask:
        return None
    return model.ConnectionState(states, negated)


def _match_of_bits(condition: native.Masked) -> model.Match | None:
    if condition.field in native.MARK_FIELDS.values():
        return MATCH_BY_FIELD[condition.field](condition.value, condition.mask, condition.negated)
    if condition.field == native.CT_STATE and condition.value == 0:
        return _state_match(condition.mask, negated=not condition.negated)
    return None


def _interface_match(condition: native.Named) -> model.Match | None:
    if condition.name.endswith("+") and not condition.has_any_ending:
        return None  # a real plus sign, which the model cannot express
    name = f"{condition.name}+" if condition.has_any_ending else condition.name
    return MATCH_BY_FIELD[condition.field](name, condition.negated)


MATCH_BY_FIELD: Mapping[str, Callable[..., model.Match]] = {
    field: kind
    for fields_of in (native.ADDRESS_FIELDS, native.PORT_FIELDS)
    for kind, fields in fields_of.items()
    for field in fields.values()
} | {
    field: kind
    for fields in (native.ID_FIELDS, native.MARK_FIELDS, native.INTERFACE_FIELDS)
    for kind, field in fields.items()
}
"""The match of the model that is about a field."""


def _lifted_verdict(rule: native.NativeRule, following: native.NativeRule | None) -> tuple[model.Verdict, int]:
    match rule.actions:
        case (model.Jump(chain),):
            return model.Jump(model_target(chain)), 1
        case (native.TproxyStatement(port), model.SetMark(value, mask), model.Accept()) if (
            following is not None
            and following.actions == (model.Drop(),)  # what no socket took
            and following.conditions == rule.conditions
        ):
            return model.TransparentProxy(port, value, mask), 2
    return lift_actions(rule.actions), 1


def lift_actions(actions: Sequence[native.Action | native.Condition]) -> model.Verdict:
    """Return the verdict of a rule; of several actions, after logging, what the last of them does."""
    if not actions:
        return model.Continue()
    last = actions[-1]
    if len(actions) == 1 and not isinstance(last, (native.TproxyStatement, native.Cases, model.Match)):
        return last
    from capture.backends.nf_tables.render import described  # only foreign rules need words

    words = described(*actions)
    is_logged = all(isinstance(each, model.Log) for each in actions[:-1])
    return model.UnknownVerdict(words, last if is_logged and isinstance(last, ENDING_VERDICTS) else None)


ENDING_VERDICTS = (model.Accept, model.Drop, model.Return, model.Redirect)
