"""What must change in a namespace so that our rules are the desired ones; pure.

A plan is a list of table edits, in the order in which they are to happen. Each is one family's table and
takes effect at once (iptables commits table by table). Where nothing has to change, there is no edit.

1. **Our chains** are put in place whole: created or emptied, then filled. Those of the other spelling,
   or of settings that are no more, are dropped by the same edit that puts the new ones in place.
2. **Built-in chains** are shared. Our rules there stay if they are the right ones in the right place; else
   they are removed and put in anew, all together. Foreign rules are neither moved nor rewritten.
3. **The place** of our rules: where they were; but before the first foreign rule that may take captured traffic
   away, or change a mark that our rules test; and at the end where no such rule exists, as upstream appends.
4. **The order of tables** leaves no moment without capture when REDIRECT and TPROXY replace each other:
   whichever of nat and mangle captures inbound from now on comes first.
"""

from __future__ import annotations

from capture.analysis.ownership import disturbance_test, own_positions
from capture.backends.iptables.expansion import check_writable, expanded
from capture.model import ruleset as model
from capture.model.chain_names import is_own_chain
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from capture.analysis.ownership import OwnPositions
    from capture.model.addresses import Family

    RulesByChain = Mapping[str, tuple[model.Rule, ...]]

NO_CHAINS: RulesByChain = {}


class TableEdit(Value):
    """The changes of one table of one family, in one transaction and in this order.

    Rules are of one family and without lists.
    """

    family: Family
    table: model.TableName
    rewritten_chains: RulesByChain = NO_CHAINS
    """Our chains that are to hold exactly these rules, whether they exist or not."""
    removals: tuple[tuple[str, int], ...] = ()
    """Rules to remove: the chain, and the position in it as it was read, counted from 0; the last position first."""
    insertions: tuple[tuple[str, int | None, model.Rule], ...] = ()
    """Rules to insert, the first one first: the chain, and the position that the rule then has; None is the end."""
    dropped_chains: tuple[str, ...] = ()
    """Our chains to remove with their rules, whether they exist or not; nothing refers to them any more."""


def plan(
    live: model.Ruleset, desired: model.Ruleset | None, recorded: model.Ruleset | None = None
) -> tuple[TableEdit, ...]:
    """Return the edits after which our rules are those of ``desired`` (none, with None), family by family.

    Families that are not desired lose our rules. Raises ValueError if a desired rule cannot be written.
    """
    edits = []
    remembered = None if recorded is None else as_written(recorded)
    order = [model.RAW, model.NAT, model.MANGLE]
    if desired and desired.transparent_verdicts:  # before nat comes what captures inbound from now on
        order = [model.RAW, model.MANGLE, model.NAT]
    for family in live.families if desired is None else dict.fromkeys(desired.families + live.families):
        own = own_positions(live, family, remembered)
        for table in order:
            edit = _table_edit(table, family, (live, desired), own)
            if edit != TableEdit(family, table):
                edits.append(edit)
    return tuple(edits)


def as_written(ruleset: model.Ruleset) -> model.Ruleset:
    """Return the rule set with its rules as they are in tables: of one family each, one entry each."""
    return ruleset.with_chains(
        lambda _, chain: chain.replace(
            rules=tuple(rule for family in ruleset.families for rule in expanded(chain.rules, family))
        )
    )


def _written_rules(ruleset: model.Ruleset | None, family: Family, table: model.TableName) -> RulesByChain:
    """Return the rules of a table as they are written: one family, one entry each, the reason only as a comment."""
    found = ruleset.table(table) if ruleset and family in ruleset.families else None
    if ruleset is None or found is None:
        return {}
    return {each.name: tuple(expanded(each.rules, family, comments=ruleset.has_comments)) for each in found.chains}


def _own_chains(rules: RulesByChain) -> list[str]:
    """Return those of our chains that a family needs: they hold rules, or something jumps to them."""
    targets = {model.called_chain(rule.verdict) for of_chain in rules.values() for rule in of_chain}
    return [name for name in rules if is_own_chain(name) and (name in targets or rules[name])]


def _rule_texts(rules: Iterable[model.Rule]) -> list[str]:
    from capture.backends.iptables.render import rule_text  # not needed in a new pod, where there is nothing

    return [rule_text(rule) for rule in rules]


def _table_edit(
    table: model.TableName, family: Family, rulesets: tuple[model.Ruleset, model.Ruleset | None], own: OwnPositions
) -> TableEdit:
    live, desired = (_written_rules(ruleset, family, table) for ruleset in rulesets)
    desired_chains, present = _own_chains(desired), _own_chains(live)
    rewritten = {}
    for chain in desired_chains:
        rules = desired[chain]
        if chain not in present or _rule_texts(live[chain]) != _rule_texts(rules):
            check_writable(chain, rules)
            rewritten[chain] = rules
    shared = dict.fromkeys(model.BUILT_IN_CHAINS[table])
    shared |= dict.fromkeys(chain for chain in live if not is_own_chain(chain))
    removals: list[tuple[str, int]] = []
    insertions: list[tuple[str, int | None, model.Rule]] = []
    for chain in shared:
        own_in_chain = sorted(own.get((table, chain), ()))
        removals_of_chain, insertions_of_chain = _shared_chain_changes(live, desired, own_in_chain, chain)
        removals += removals_of_chain
        insertions += insertions_of_chain
    found = rulesets[0].table(table)
    dropped = _chains_to_drop(found.chains if found and live else (), present, desired_chains)
    return TableEdit(family, table, rewritten, tuple(removals), tuple(insertions), tuple(dropped))


def _shared_chain_changes(
    live: RulesByChain, desired: RulesByChain, own: list[int], chain: str
) -> tuple[list[tuple[str, int]], list[tuple[str, int | None, model.Rule]]]:
    """Return the removals and insertions for a chain that is not ours, built-in or not; ``own`` are our rules in it."""
    rules, desired_rules = live.get(chain, ()), desired.get(chain, ())
    if not rules and not desired_rules:
        return [], []
    disturbs = disturbance_test(rules, chain, lambda name: desired.get(name, ()))
    first_disturbing = next((at for at, rule in enumerate(rules) if at not in own and disturbs(rule)), len(rules))
    is_in_place = not own or own[-1] < first_disturbing or not desired_rules
    if (
        is_in_place
        and len(own) == len(desired_rules)
        and (not own or _rule_texts(rules[index] for index in own) == _rule_texts(desired_rules))
    ):
        return [], []
    if desired_rules:  # a chain from which rules are only removed may have any name
        check_writable(chain, desired_rules)
    removals = [(chain, at) for at in reversed(own)]
    index = min(own[0] if own else len(rules), first_disturbing)
    is_end = index == len(rules) - len(own)
    return removals, [(chain, None if is_end else index + offset, rule) for offset, rule in enumerate(desired_rules)]


def _chains_to_drop(live: tuple[model.Chain, ...], needed: list[str], desired_chains: list[str]) -> list[str]:
    """Return our chains to drop: those that this family needs now, and those that no family uses.

    The latter may be of either family: a rule set does not show which. Dropping what is not there does no harm.
    """
    used = {model.called_chain(rule.verdict) for chain in live for rule in chain.rules}
    undesired = [each for each in live if is_own_chain(each.name) and each.name not in desired_chains]
    return [each.name for each in undesired if each.name in needed or not (each.rules or each.name in used)]
