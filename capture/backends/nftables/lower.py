"""From the model to native rules. Pure; the inverse of ``lift``.

What nf_tables does differently from iptables, and how it is made equal here:

- A table of family inet sees both families. A rule for one of them tests it (``meta nfproto``), where nft
  itself would: just before the first address that implies it, else first of all. In a rule set for one
  family every rule tests it, so that the other family is left alone.
- Its tproxy statement breaks off the rule when no process listens, and the packet would go on uncaptured;
  iptables' TPROXY drops it (tproxy_tg4 in net/netfilter/xt_TPROXY.c). So a second rule with the same
  conditions follows and drops.
- A list of several entries is compared with a set of ranges, which must not overlap.
"""

from __future__ import annotations

from capture.backends.nf_tables import native
from capture.backends.nf_tables.names import HOOKS, NATIVE_TABLE_NAMES, native_chain
from capture.model import ruleset as model
from capture.model.addresses import FAMILY_NUMBERS, Family, merge_ranges, network_ranges
from capture.model.conventions import PROTOCOL_NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NFT_COMMENT_BYTES = 127
"""Bytes of a comment; nft(8) allows 128 with the NUL at the end."""

NOT_LISTENING = "no process listens on that port: drop, so that nothing gets past the proxy"

TEST_FAMILY = {family: native.Among(native.NFPROTO, ((number, number),)) for family, number in FAMILY_NUMBERS.items()}
TEST_PROTOCOL = {name: native.Among(native.L4PROTO, ((number, number),)) for name, number in PROTOCOL_NUMBERS.items()}


def lower(ruleset: model.Ruleset) -> tuple[native.NativeTable, ...]:
    """Return the native tables of a rule set, without tables and base chains that do nothing.

    Raises ValueError for a rule that nf_tables cannot express: a port without a protocol, a list
    without entries, a match or verdict that was read from a foreign rule and not understood.
    """
    tables = (_lowered_table(table, ruleset) for table in ruleset.tables if ruleset.families)
    return tuple(table for table in tables if table.chains)


def render_text(ruleset: model.Ruleset) -> str:
    """Return the script that makes the rule set in an empty namespace; the empty string if there is nothing to make."""
    from capture.backends.nf_tables.render import table_text  # not needed to write

    return "\n".join(table_text(table) for table in lower(ruleset))


def _lowered_table(table: model.Table, ruleset: model.Ruleset) -> native.NativeTable:
    chains = (_lowered_chain(table, chain, ruleset) for chain in table.chains)
    return native.NativeTable(
        NATIVE_TABLE_NAMES[table.name],
        tuple(chain for chain in chains if chain.hook is None or chain.rules or chain.policy == "DROP"),
    )


def _lowered_chain(table: model.Table, chain: model.Chain, ruleset: model.Ruleset) -> native.NativeChain:
    hook = HOOKS.get((table.name, chain.name))
    policy = None if hook is None else chain.policy or "ACCEPT"
    rules = tuple(lowered for rule in chain.rules for lowered in lower_rule(rule, ruleset))
    return native.NativeChain(native_chain(chain.name), rules, hook, policy)


def lower_rule(rule: model.Rule, ruleset: model.Ruleset) -> Iterator[native.NativeRule]:
    """Yield the native rules of one rule: usually one, none if it is for a family that the rule set is not for."""
    families = ruleset.families
    family = _family_of(rule) or (families[0] if len(families) == 1 else None)
    if family is not None and family not in families:
        return
    conditions = tuple(_rule_conditions(rule, family))
    comment = _printable_comment(rule.why) if ruleset.has_comments and rule.why else ""
    yield native.NativeRule(conditions, _lowered_actions(rule.verdict, family), None, comment)
    if type(rule.verdict) is model.TransparentProxy:
        yield native.NativeRule(conditions, (model.Drop(),), None, NOT_LISTENING if ruleset.has_comments else "")


def _family_of(rule: model.Rule) -> Family | None:
    family = rule.family
    for match in rule.matches:
        if isinstance(match, model.AddressMatch):
            if not match.networks:
                raise ValueError(f"no networks to compare with: {match}")
            of_match = match.networks[0].family
            if family is not None and of_match != family:
                raise ValueError(f"a rule for {family} compares with an address of {of_match}: {rule}")
            family = of_match
    return family


def _printable_comment(why: str) -> str:
    """Return the reason as nft can print it: on one line, without quotes, cut to the length it allows."""
    line = " ".join(why.replace('"', "'").split())
    return line.encode()[:MAX_NFT_COMMENT_BYTES].decode(errors="ignore")


def _rule_conditions(rule: model.Rule, family: Family | None) -> list[native.Condition]:
    """Return what must hold, in one order for all rules.

    The protocol is tested before its ports, the family before an address that implies it. Of neighbours in a
    header the first comes first, since nft joins them to one comparison.
    """
    matches = sorted(rule.matches, key=lambda match: POSITIONS[type(match)])
    protocol = next((match.name for match in matches if type(match) is model.Protocol), None)
    conditions = [_lowered_condition(match, protocol) for match in matches]
    if family is not None:
        first_address = next((at for at, match in enumerate(matches) if isinstance(match, model.AddressMatch)), 0)
        conditions.insert(first_address, TEST_FAMILY[family])
    return conditions


IN_ORDER = (
    *native.INTERFACE_FIELDS,
    model.Protocol,
    *native.ADDRESS_FIELDS,
    *native.PORT_FIELDS,
    *native.ID_FIELDS,
    *native.MARK_FIELDS,
)
POSITIONS = {kind: index for index, kind in enumerate((*IN_ORDER, model.ConnectionState, model.UnknownMatch))}
"""The order of conditions in a rule."""


def _lowered_condition(match: model.Match, protocol: model.ProtocolName | None) -> native.Condition:
    if isinstance(match, model.Protocol):
        return TEST_PROTOCOL[match.name]
    if isinstance(match, model.AddressMatch):
        fields, networks = native.ADDRESS_FIELDS[type(match)], match.networks
        return native.Among(fields[networks[0].family], tuple(network_ranges(networks)), match.negated)
    if isinstance(match, model.PortMatch):
        if protocol is None:
            raise ValueError(f"a port without a protocol: {match}")
        return native.Among(native.PORT_FIELDS[type(match)][protocol], _ranges_of_spans(match.ports), match.negated)
    if isinstance(match, model.OwnerMatch):
        return native.Among(native.ID_FIELDS[type(match)], _ranges_of_spans(match.ids), match.negated)
    if isinstance(match, model.InterfaceMatch):
        return _interface_condition(native.INTERFACE_FIELDS[type(match)], match)
    if isinstance(match, model.MarkMatch):
        return _mark_condition(native.MARK_FIELDS[type(match)], match)
    if isinstance(match, model.ConnectionState):
        return _connection_state(match)
    raise ValueError(f"a foreign rule cannot be written: {match}")


def _interface_condition(field: str, match: model.InterfaceMatch) -> native.Named:
    any_ending = match.name.endswith("+")
    name = match.name[:-1] if any_ending else match.name
    if not name:
        raise ValueError(f"nf_tables cannot compare with an empty name: {match}")
    return native.Named(field, name, any_ending, match.negated)


def _ranges_of_spans(spans: tuple[model.Span, ...]) -> tuple[native.Range, ...]:
    if not spans:
        raise ValueError("no numbers to compare with")
    return tuple(merge_ranges((span.first, span.last) for span in spans))


def _mark_condition(field: str, match: model.MarkMatch) -> native.Among | native.Masked:
    if match.mask == model.ALL_BITS:
        return native.Among(field, ((match.value, match.value),), match.negated)
    return native.Masked(field, match.mask, match.value, match.negated)


def _connection_state(match: model.ConnectionState) -> native.Masked:
    """Return the condition that at least one of the states' bits is set."""
    mask = sum(native.CT_STATE_BITS[state] for state in set(match.states))
    if not mask:
        raise ValueError(f"no connection states to compare with: {match}")
    return native.Masked(native.CT_STATE, mask, 0, not match.negated)


def _lowered_actions(verdict: model.Verdict, family: Family | None) -> tuple[native.Action, ...]:
    """Return what to do: the verdict itself, but for those that nf_tables has in parts or not at all."""
    if isinstance(verdict, model.Jump):
        return (model.Jump(native_chain(verdict.chain)),)
    if isinstance(verdict, model.TransparentProxy):
        return (native.TproxyStatement(verdict.port, family), model.SetMark(verdict.mark, verdict.mask), model.Accept())
    if isinstance(verdict, model.Continue):
        return ()
    if isinstance(verdict, model.UnknownVerdict):
        raise ValueError(f"a foreign rule cannot be written: {verdict}")  # noqa: TRY004  # its type is allowed
    return (verdict,)
