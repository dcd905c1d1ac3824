"""Rules as lines that a person can check: conditions joined by ``&``, an arrow, and what happens.

::

    nat ISTIO-INBOUND
        tcp & port 15008                      -> return
        tcp & from 10.0.0.0/8 & not port 80   -> ISTIO-IN-REDIRECT

Chains without a rule for the family are left out. Blanks are for the eye: compare with ``lines(text)``.
"""

from capture.model.addresses import Family, Network
from capture.model.ruleset import (
    ALL_BITS,
    Accept,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Jump,
    Log,
    Mark,
    Match,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    SetZone,
    Source,
    SourcePort,
    TableName,
    TransparentProxy,
    UnknownMatch,
    UnknownVerdict,
    Verdict,
)

WORDS: dict[type, str] = {
    Source: "from",
    Destination: "to",
    InInterface: "in",
    OutInterface: "out",
    SourcePort: "sport",
    DestinationPort: "port",
    OwnerUid: "uid",
    OwnerGid: "gid",
    Mark: "mark",
    ConnectionMark: "connmark",
    ConnectionState: "state",
}


def lines(text: str) -> list[str]:
    """Return the lines of a text with single blanks, without empty ones."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def shown(ruleset: Ruleset, family: Family = "ipv4") -> list[str]:
    """Return all that a packet of the family may meet, table by table and chain by chain."""
    result = []
    for table in ruleset.tables if family in ruleset.families else ():
        for chain in table.chains:
            rules = [rule_line(rule) for rule in chain.rules_for(family)]
            if rules:
                result += [f"{table.name} {chain.name}", *rules]
    return result


def chain_lines(ruleset: Ruleset, table: TableName, chain: str, family: Family = "ipv4") -> list[str]:
    """Return the rules of one chain; none if there is no such chain."""
    found = ruleset.table(table)
    rules = found.chain(chain) if found and family in ruleset.families else None
    return [rule_line(rule) for rule in rules.rules_for(family)] if rules else []


def rule_line(rule: Rule) -> str:
    """Return one rule as a line."""
    conditions = " & ".join(map(condition, rule.matches)) or "any"
    return f"{conditions} -> {effect(rule.verdict)}"


def condition(match: Match) -> str:
    """Return one match in words."""
    match match:
        case Protocol(name):
            return name
        case UnknownMatch(text):
            return f"?{text}"
        case InInterface() | OutInterface():
            values = match.name
        case Mark() | ConnectionMark():
            values = _masked(match.value, match.mask)
        case _:
            values = _entries(match)
    return ("not " if match.negated else "") + f"{WORDS[type(match)]} {values}"


def _entries(match: Match) -> str:
    match match:
        case Source(networks) | Destination(networks):
            return ",".join(map(_network, networks))
        case SourcePort(spans) | DestinationPort(spans) | OwnerUid(spans) | OwnerGid(spans):
            return ",".join(map(str, spans))
        case ConnectionState(states):
            return ",".join(states)
    raise ValueError(f"no words for {match}")


def _network(network: Network) -> str:
    return str(network).partition("/")[0] if network.is_address else str(network)


EFFECTS: dict[type, str] = {
    Return: "return",
    Accept: "accept",
    Drop: "drop",
    Continue: "go on",
    SaveMark: "save mark",
    RestoreMark: "restore mark",
}


def effect(verdict: Verdict) -> str:
    """Return a verdict in words."""
    match verdict:
        case Jump(chain):
            return chain
        case Redirect(port):
            return f"redirect {port}"
        case TransparentProxy(port, mark, mask):
            return f"tproxy {port} mark {_masked(mark, mask)}"
        case SetMark(value, mask):
            return f"set mark {_masked(value, mask)}"
        case SetZone(zone):
            return f"zone {zone}"
        case Log(text) | UnknownVerdict(text):
            return f"{type(verdict).__name__.lower()} {text!r}"
        case _:
            return EFFECTS[type(verdict)]


def _masked(value: int, mask: int) -> str:
    return f"{value:#x}" if mask == ALL_BITS else f"{value:#x}/{mask:#x}"
