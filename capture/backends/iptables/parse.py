"""From the text of iptables-save to rules; pure. The opposite of ``render``.

Both variants and both families print the same language, with small differences of age and taste: marks as
``--set-mark`` or ``--set-xmark``, states in any order, ``-m tcp`` in addition to ``-p tcp`` or not. Those vanish here,
because rules hold meaning. What our vocabulary lacks stays as the words that were printed
(UnknownMatch, UnknownVerdict): foreign rules are shown and judged, and never rewritten.

    *nat                                      table
    :PREROUTING ACCEPT [12:720]               chain, policy or "-", counters
    [3:180] -A PREROUTING -p tcp -j ISTIO_INBOUND
    COMMIT
"""

from __future__ import annotations

from capture.backends.iptables.clauses import (
    TEXT_OPTIONS,
    Word,
    as_printed,
    join_negated,
    parse_matches,
    parse_verdict,
    split_words,
)
from capture.backends.iptables.families import single_family_ruleset
from capture.model import ruleset as model
from capture.model.text import without_line_ends

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from capture.model.addresses import Family


def parse_save(text: str, family: Family) -> model.Ruleset:
    """Return the rule set of one family that iptables-save (or ip6tables-save) printed.

    Tables that we never touch (filter, security) are left out. Comments become reasons, those of others too;
    ``Ruleset.has_comments`` is whether our rules have any.
    """
    tables: dict[model.TableName, list[model.Chain]] = {}
    for name, lines in _table_blocks(text):
        declared = [line for line in lines if line.startswith(":")]
        names = frozenset(line[1:].split(" ", 1)[0] for line in declared)
        rules: dict[str, list[model.Rule]] = {}
        for line in lines:
            if not line.startswith(":"):
                chain, rule = parse_rule(line, family, names)
                rules.setdefault(chain, []).append(rule)
        tables[name] = [_parse_chain(line, rules) for line in declared]
    return single_family_ruleset(family, tables)


def _table_blocks(text: str) -> Iterator[tuple[model.TableName, list[str]]]:
    name = ""
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("*"):
            name, lines = line[1:].strip(), []
        elif line == "COMMIT" and name in model.TABLES_BY_NAME:
            yield model.TABLES_BY_NAME[name], lines
        elif line and not line.startswith("#"):
            lines.append(line)


def _parse_chain(line: str, rules: dict[str, list[model.Rule]]) -> model.Chain:
    name, policy, counters = [*line[1:].split(), "-", "[0:0]"][:3]
    if policy == "-":
        return model.Chain(name, tuple(rules.get(name, ())))
    return model.Chain(name, tuple(rules.get(name, ())), policy, _parse_counters(counters))


def _parse_counters(text: str) -> model.Counters:
    packets, _, number_of_bytes = text.strip("[]").partition(":")
    return model.Counters(int(packets), int(number_of_bytes))


def parse_rule(line: str, family: Family, chains: Collection[str]) -> tuple[str, model.Rule]:
    """Return the chain and the rule of one line ``[3:180] -A CHAIN ...``.

    ``chains`` are the chains of the table: a target that is none of them is an extension's.
    """
    counters = None
    if line.startswith("["):
        printed, _, line = line.partition(" ")
        counters = _parse_counters(printed)
    words = split_words(line)
    if len(words) < 2 or words[0].text != "-A":
        raise ValueError(f"not a rule as iptables-save prints them: {line!r}")
    why = ""
    matches: list[model.Match] = []
    verdict: model.Verdict = model.Continue()
    for clause in clauses_of(words[2:]):
        kind = clause[0].text
        if kind == "-j":
            verdict = parse_verdict(clause, chains)
        elif kind == "-g":
            verdict = model.UnknownVerdict(as_printed(clause), model.Goto(clause[1].text))
        elif [word.text for word in clause[:3]] == COMMENT_WORDS and len(clause) == 4:
            why = without_line_ends(clause[3].text)
        else:
            matches += parse_matches(clause)
    return words[1].text, model.Rule(verdict, join_negated(matches), family, why, counters)


def clauses_of(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Yield the words of each option of ip(6)tables itself, and of each match and target with its options."""
    index = 0
    while index < len(words):
        first = words[index].printed
        if first in CLAUSE_OPTIONS:
            end = index + 2
            while end < len(words) and words[end].printed not in CLAUSE_OPTIONS:
                end += 2 if words[end].printed in TEXT_OPTIONS else 1
        else:
            option = index + 1 if first == "!" else index
            end = option + (1 if [word.printed for word in words[option : option + 1]] == ["-f"] else 2)
        yield words[index:end]
        index = end


CLAUSE_OPTIONS = ("-m", "-j", "-g")
COMMENT_WORDS = ["-m", "comment", "--comment"]
