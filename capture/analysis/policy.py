"""The policy of a rule set in words: what is captured, what is not, and why, in the order in which rules decide."""

from __future__ import annotations

from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    Accept,
    ConnectionMark,
    ConnectionState,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Jump,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    Return,
    Rule,
    Source,
    SourcePort,
    TransparentProxy,
    UnknownMatch,
    UnknownVerdict,
)
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from capture.model.addresses import Family, Network
    from capture.model.ruleset import (
        Chain,
        Match,
        Ruleset,
        Span,
        Table,
        Verdict,
    )

    Direction = Literal["inbound", "outbound"]

MAX_NAMED = 6
"""A list of more entries than this is shown by its first ones and a count."""


class Statement(Value):
    """One line of the policy: this traffic, in this direction, goes there, because."""

    direction: Direction
    traffic: str
    outcome: str
    why: str


def explain(ruleset: Ruleset, family: Family) -> list[Statement]:
    """Return the policy for one family; the first statement that fits a packet is the one that counts."""
    statements: list[Statement] = []
    directions: tuple[tuple[Direction, str], ...] = (("inbound", PREROUTING), ("outbound", OUTPUT))
    for direction, hook in directions:
        for name in (MANGLE, NAT):
            table = ruleset.table(name)
            if table is None:
                continue
            for matches, rule in decisions(table, hook, family):
                statements.append(Statement(direction, _traffic(matches), _outcome(rule.verdict), rule.why))
        statements.append(Statement(direction, "everything else", "direct", "no rule speaks of it"))
    return statements


def decisions(table: Table, hook: str, family: Family) -> Iterator[tuple[tuple[Match, ...], Rule]]:
    """Yield each rule that decides, with all the matches on the way to it, in the order of the packet's path."""
    chain = table.chain(hook)
    yield from _decisions(table, chain.name if chain else "", family, ())


def _decisions(
    table: Table, name: str, family: Family, before: tuple[Match, ...]
) -> Iterator[tuple[tuple[Match, ...], Rule]]:
    chain = table.chain(name)
    for rule in chain.rules_for(family) if chain else ():
        matches = tuple(dict.fromkeys((*before, *rule.matches)))
        match rule.verdict:
            case Jump(chain=target):
                # What a chain of redirects is for is said where it is called.
                says_why = _only_redirects(table.chain(target))
                for inner, decided in _decisions(table, target, family, matches):
                    yield inner, decided.replace(why=rule.why) if says_why else decided
            case Return() | Accept() | Drop() | Redirect() | TransparentProxy() | UnknownVerdict():
                yield matches, rule
            case _:
                pass


def _only_redirects(chain: Chain | None) -> bool:
    return chain is not None and all(isinstance(rule.verdict, Redirect | TransparentProxy) for rule in chain.rules)


def _traffic(matches: tuple[Match, ...]) -> str:
    protocol = next((match.name for match in matches if isinstance(match, Protocol)), "")
    parts = [protocol] if protocol else []
    parts += [words for match in matches if (words := in_words(match))]
    return " ".join(parts) or "everything"


def in_words(match: Match) -> str:
    """Return one match as a person would say it; the protocol is said once for the whole rule."""
    match match:
        case Source(networks=networks, negated=negated):
            return f"{_not(negated)}from {_networks(networks)}"
        case Destination(networks=networks, negated=negated):
            return f"{_not(negated)}to {_networks(networks)}"
        case InInterface(name=name, negated=negated):
            return f"{_not(negated)}in by {name}"
        case OutInterface(name=name, negated=negated):
            return f"{_not(negated)}out by {name}"
        case SourcePort(ports=ports, negated=negated):
            return f"{_not(negated)}from port {_spans(ports)}"
        case DestinationPort(ports=ports, negated=negated):
            return f"{_not(negated)}to port {_spans(ports)}"
        case OwnerUid(ids=ids, negated=negated):
            return f"{_not(negated)}of user {_spans(ids)}"
        case OwnerGid(ids=ids, negated=negated):
            return f"{_not(negated)}of group {_spans(ids)}"
        case _:
            return _state_in_words(match)


def _state_in_words(match: Match) -> str:
    match match:
        case Mark(value=value, negated=negated):
            return f"{_not(negated)}marked {value:#x}"
        case ConnectionMark(value=value, negated=negated):
            return f"{_not(negated)}of a connection marked {value:#x}"
        case ConnectionState(states=states, negated=negated):
            return f"{_not(negated)}of a connection that is {' or '.join(states)}"
        case UnknownMatch(text=text):
            return f"if {text}"
        case _:
            return ""


def _outcome(verdict: Verdict) -> str:
    match verdict:
        case Redirect(port=port):
            return f"to port {port} of the pod"
        case TransparentProxy(port=port):
            return f"to port {port} of the pod, addresses unchanged"
        case Accept():
            return "on, as marked"
        case Drop():
            return "dropped"
        case UnknownVerdict(text=text):
            return text
        case _:
            return "direct"


def _not(negated: bool) -> str:  # noqa: FBT001  # a word for a flag of the model
    return "not " if negated else ""


def _networks(networks: tuple[Network, ...]) -> str:
    return _listed([str(n).rpartition("/")[0] if n.is_address else str(n) for n in networks])


def _spans(spans: tuple[Span, ...]) -> str:
    return _listed([str(span) for span in spans])


def _listed(names: list[str]) -> str:
    if len(names) > MAX_NAMED:
        return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more"
    return ", ".join(names)
