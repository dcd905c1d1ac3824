"""Which chains and rules are our own, in tables that we share with others.

Chains are our own by name, in either spelling: ISTIO_OUTPUT as upstream writes it, ISTIO-OUTPUT as older
listings print it. Whatever is in them is our own, too. In every other chain a rule is our own if it jumps to one
of our chains. What is left are own rules in built-in chains that jump nowhere: interfaces left alone,
the marks of a transparent proxy, the DNS rules of upstream's older versions. Another program might write rules
that look the same, so our own are recognised by evidence:

1. their exact shape, and numbers that only we use: the marks of our chains, the port of our agent;
2. the recorded rule set, where the live rules match it;
3. else their exact shape, and an own rule next to them, with nothing foreign in between;
4. else their exact shape, and a sibling: the same interface in an own rule in another chain of the table.

A rule set of one family is looked at, and rules are named by their position in ``Chain.rules_for(family)``.
"""

from __future__ import annotations

from capture.analysis.canonical import canonical_rule
from capture.model import ruleset as model
from capture.model.chain_names import is_own_chain
from capture.model.conventions import AGENT_DNS_PORT, PROXY_TO_SELF_MARK
from capture.model.ruleset import FROM_DNS, ON_LO, TCP, TO_DNS, UDP
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from capture.model.addresses import Family

    OwnPositions = dict[tuple[model.TableName, str], frozenset[int]]
    """For each table and chain, the positions of our rules."""


def jumps_to_own_chain(rule: model.Rule) -> bool:
    """Return whether the rule sends packets to one of our chains, by jump or by goto."""
    return is_own_chain(model.called_chain(rule.verdict))


def may_divert(rule: model.Rule) -> bool:
    """Return whether a foreign rule before our rules may keep packets from them or change what they do.

    Verdicts may, jumps to chains that may hold verdicts, and targets we do not know. So does a conntrack zone: the
    first one that a packet gets stays (xt_CT.c). Logging and counting do not; for marking see ``disturbance_test``.
    """
    return not isinstance(rule.verdict, (*model.VERDICTS_WITHOUT_EFFECT, *model.MARK_CHANGING_VERDICTS))


def disturbance_test(
    rules: Iterable[model.Rule], chain: str, rules_of: Callable[[str], Iterable[model.Rule]]
) -> Callable[[model.Rule], bool]:
    """Return the test whether a foreign rule before our own may divert packets, or change a mark that they match.

    ``rules`` are those in question, in a chain; ``rules_of`` gives our rules in a chain of its table, by name.
    """
    is_marking = any(type(rule.verdict) in model.MARK_CHANGING_VERDICTS for rule in rules)
    tested = _tested_marks(chain, rules_of) if is_marking else set()
    return lambda rule: may_divert(rule) or model.MARK_CHANGING_VERDICTS.get(type(rule.verdict)) in tested


def _tested_marks(chain: str, rules_of: Callable[[str], Iterable[model.Rule]]) -> set[type]:
    """Return which of Mark and ConnectionMark are matched by rules that a packet in the chain may come to."""
    tested: set[type] = set()
    entered, ahead = {chain}, [chain]
    while ahead:
        for rule in rules_of(ahead.pop()):
            tested.update(type(match) for match in rule.matches if isinstance(match, model.MarkMatch))
            if isinstance(rule.verdict, model.Jump) and rule.verdict.chain not in entered:
                entered.add(rule.verdict.chain)
                ahead.append(rule.verdict.chain)
    return tested


def without_foreign_rules(ruleset: model.Ruleset) -> model.Ruleset:
    """Return the rule set without what is foreign: our chains, and of other chains our rules only."""
    positions = {family: own_positions(ruleset, family) for family in ruleset.families}

    def own(table: model.TableName, chain: model.Chain) -> model.Chain:
        if is_own_chain(chain.name):
            return chain
        rules = (
            rule.replace(family=family)
            for family in ruleset.families
            for position, rule in enumerate(chain.rules_for(family))
            if position in positions[family].get((table, chain.name), ())
        )
        return chain.replace(rules=tuple(rules))

    tables = []
    for table in ruleset.with_chains(own).tables:
        chains = tuple(chain for chain in table.chains if chain.rules or is_own_chain(chain.name))
        tables += [table.replace(chains=chains)] if chains else []
    return ruleset.replace(tables=tuple(tables))


def own_positions(live: model.Ruleset, family: Family, recorded: model.Ruleset | None = None) -> OwnPositions:
    """Return the positions of our rules in foreign chains; chains without any are left out."""
    positions: OwnPositions = {}
    marks = _marks_of_own_chains(live, family)
    for table in live.tables:
        unrecorded: dict[str, tuple[model.Rule, ...]] = {}
        for chain in table.chains:
            if is_own_chain(chain.name):
                continue
            rules = tuple(chain.rules_for(family))
            likenesses = [likeness_to_own(table.name, chain.name, rule, marks) for rule in rules]
            own = frozenset(position for position, known in enumerate(likenesses) if known == CERTAIN)
            if chain.name in model.BUILT_IN_CHAINS[table.name]:
                built_in = recorded.chain(table.name, chain.name) if recorded else None
                in_order = built_in.rules_for(family) if built_in and recorded and family in recorded.families else ()
                remembered = _recorded_positions(rules, tuple(map(canonical_rule, in_order)))
                if remembered is None:
                    unrecorded[chain.name] = rules
                    remembered = _neighbour_positions(rules, likenesses)
                own |= remembered
            positions[table.name, chain.name] = own
        interfaces = {
            excluded_interface(table.name, name, rules[position])
            for name, rules in unrecorded.items()
            for position in positions[table.name, name]
        }
        for name, rules in unrecorded.items():
            known = [excluded_interface(table.name, name, rule) in interfaces - {None} for rule in rules]
            positions[table.name, name] |= _sibling_positions(rules, known, positions[table.name, name])
    return {key: own for key, own in positions.items() if own}


# --- by what we remember -------------------------------------------------------------------------


def _recorded_positions(rules: Sequence[model.Rule], recorded: Sequence[model.Rule]) -> frozenset[int] | None:
    """Return the positions of the recorded rules; None if they are not there in this order.

    In one piece they are certainly our own. With a foreign rule in between, the last of the possible positions is
    taken: other programs mostly insert their rules before the others.
    """
    if not recorded:
        return None
    live = tuple(map(canonical_rule, rules))
    for start in range(len(live)):
        end = start + len(recorded)
        if live[start:end] == tuple(recorded):
            return frozenset(range(start, end))
    own: set[int] = set()
    backwards = reversed(range(len(live)))
    for wanted in reversed(recorded):
        latest = next((position for position in backwards if live[position] == wanted), None)
        if latest is None:
            return None
        own.add(latest)
    return frozenset(own)


# --- by shape ------------------------------------------------------------------------------------

CERTAIN = "certain"
BEFORE_OWN = "before own"
NEXT_TO_OWN = "next to own"

NO_MARKS: frozenset[int] = frozenset()


def _neighbour_positions(rules: Sequence[model.Rule], likenesses: Sequence[str | None]) -> frozenset[int]:
    """Return the rules that look like our own, next to those that certainly are."""
    own: set[int] = set()
    rerouted = {name for rule in rules if jumps_to_own_chain(rule) for name in _incoming_interfaces(rule)}
    look_alike = [known is not None for known in likenesses]
    neighbours = [
        known == NEXT_TO_OWN or (known == BEFORE_OWN and not rerouted.isdisjoint(_incoming_interfaces(rule)))
        for known, rule in zip(likenesses, rules, strict=True)
    ]
    for position, known in enumerate(likenesses):
        if known == CERTAIN:
            own.update(_positions_until_twin(rules, reversed(range(position)), look_alike))
            own.update(_positions_until_twin(rules, range(position + 1, len(rules)), neighbours))
    return frozenset(own)


def _incoming_interfaces(rule: model.Rule) -> list[str]:
    return [match.name for match in rule.matches if isinstance(match, model.InInterface)]


def _positions_until_twin(
    rules: Sequence[model.Rule], positions: Iterable[int], belongs: Sequence[bool]
) -> Iterator[int]:
    """Yield positions as far as rules belong to our own. We write no rule twice in a row: of twins, one is foreign."""
    seen: set[model.Rule] = set()
    for position in positions:
        if not belongs[position] or rules[position] in seen:
            return
        seen.add(rules[position])
        yield position


def likeness_to_own(
    table: model.TableName, chain: str, rule: model.Rule, marks: frozenset[int] = NO_MARKS
) -> str | None:
    """Return how much a rule outside of our chains looks like one of our own; None if not at all.

    CERTAIN: no other program writes this. BEFORE_OWN: our own if another one follows directly.
    NEXT_TO_OWN: our own if another one is directly before or after it. ``marks`` are those that our chains match;
    without them, rules that are recognised by such a mark look like nothing.
    """
    if jumps_to_own_chain(rule):
        return CERTAIN
    if excluded_interface(table, chain, rule):
        return BEFORE_OWN
    likely = [pattern for pattern in _own_patterns(marks).get((table, chain), ()) if pattern.verdict == rule.verdict]
    matches = canonical_rule(rule).matches if likely else ()
    for pattern in likely:
        further = {type(match) for match in matches if match not in pattern.matches}
        if further in map(set, pattern.others) and len(matches) == len(further) + len(pattern.matches):
            return pattern.likeness
    return None


class OwnPattern(Value):
    """How an own rule without a jump looks: what it does, its matches, and the kinds of its other matches."""

    likeness: str
    verdict: model.Verdict
    matches: tuple[model.Match, ...]
    others: tuple[tuple[type, ...], ...] = ((),)


def _own_patterns(marks: frozenset[int]) -> dict[tuple[model.TableName, str], tuple[OwnPattern, ...]]:
    """Return the shapes by table and chain; ``marks`` are those of the transparent proxy.

    Those about DNS, and the drop, are of upstream before it had chains for them: the agent's own queries return, in
    zone 1, and the others go to the agent, in zone 2.
    """
    known = _PATTERNS_BY_MARKS.get(marks)
    if known is None:
        known = _PATTERNS_BY_MARKS[marks] = {
            (model.MANGLE, model.PREROUTING): (
                *[OwnPattern(CERTAIN, model.SaveMark(), (model.Mark(mark),), ((model.Protocol,),)) for mark in marks],
                OwnPattern(BEFORE_OWN, model.Drop(), (model.ConnectionState(("INVALID",)),)),
            ),
            (model.MANGLE, model.OUTPUT): (
                *[OwnPattern(CERTAIN, model.RestoreMark(), (TCP, model.ConnectionMark(mark))) for mark in marks],
                *[OwnPattern(CERTAIN, model.Return(), (TCP, ON_LO, model.Mark(mark))) for mark in marks],
                OwnPattern(CERTAIN, model.SetMark(PROXY_TO_SELF_MARK), (TCP, ON_LO), TO_SELF),
            ),
            (model.NAT, model.OUTPUT): (
                OwnPattern(CERTAIN, model.Redirect(AGENT_DNS_PORT), (TO_DNS,), DNS_OF_ALL),
                OwnPattern(
                    BEFORE_OWN, model.Return(), (TO_DNS,), tuple((model.Protocol, *kind) for kind in OWNER_MATCHES)
                ),
            ),
            (model.RAW, model.OUTPUT): (
                OwnPattern(
                    CERTAIN, model.SetZone(2), (UDP, model.SourcePort((model.only(AGENT_DNS_PORT),))), OWNER_MATCHES
                ),
                OwnPattern(NEXT_TO_OWN, model.SetZone(1), (UDP, TO_DNS), OWNER_MATCHES),
                OwnPattern(NEXT_TO_OWN, model.SetZone(2), (UDP, TO_DNS), ((), (model.Destination,))),
            ),
            (model.RAW, model.PREROUTING): (OwnPattern(CERTAIN, model.SetZone(1), (UDP, FROM_DNS), FROM_SERVER),),
        }
    return known


_PATTERNS_BY_MARKS: dict[frozenset[int], dict[tuple[model.TableName, str], tuple[OwnPattern, ...]]] = {}
OWNER_MATCHES = ((model.OwnerUid,), (model.OwnerGid,))
TO_SELF = tuple((model.Destination, *kind) for kind in OWNER_MATCHES)
DNS_OF_ALL = ((model.Protocol,), (model.Protocol, model.Destination))
FROM_SERVER = ((), (model.Source,), (model.Destination,))


def excluded_interface(table: model.TableName, chain: str, rule: model.Rule) -> str | None:
    """Return the interface that a rule leaves alone as our rules do: ``-i eth1 -j RETURN``, ``-o eth1 -j RETURN``."""
    if table == model.RAW or not isinstance(rule.verdict, model.Return) or len(rule.matches) != 1:
        return None
    match = rule.matches[0]
    kind = {model.PREROUTING: model.InInterface, model.OUTPUT: model.OutInterface}.get(chain)
    if isinstance(match, model.InterfaceMatch) and type(match) is kind and not match.negated:
        return match.name
    return None


def _marks_of_own_chains(live: model.Ruleset, family: Family) -> frozenset[int]:
    """Return the marks that our chains of the mangle table match: those of the transparent proxy."""
    table = live.table(model.MANGLE)
    chains = [chain for chain in (table.chains if table else ()) if is_own_chain(chain.name)]
    matches = [match for chain in chains for rule in chain.rules_for(family) for match in rule.matches]
    return frozenset(each.value for each in matches if isinstance(each, model.Mark) and not each.negated)


# --- by siblings ---------------------------------------------------------------------------------


def _sibling_positions(rules: Sequence[model.Rule], known: Sequence[bool], own: frozenset[int]) -> frozenset[int]:
    """Return the rules for interfaces that our rules in other chains of the table leave alone (``known``).

    They follow other own rules, or are alone: with TPROXY, nat PREROUTING may have no others.
    """
    if not own:
        first = known.index(True) if True in known else len(rules)
        return frozenset(_positions_until_twin(rules, range(first, len(rules)), known))
    own_rules = {rules[position] for position in own}
    is_new = [each and rule not in own_rules for each, rule in zip(known, rules, strict=True)]
    return frozenset(
        after for position in own for after in _positions_until_twin(rules, range(position + 1, len(rules)), is_new)
    )
