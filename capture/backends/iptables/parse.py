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

from capture.analysis.canonical import entries_of_match, with_entries
from capture.backends.iptables.expansion import changed_bits
from capture.backends.iptables.families import single_family_ruleset
from capture.model import ruleset as model
from capture.model.addresses import is_decimal, networks_in_range, parse_address, parse_network
from capture.model.ruleset import TCP, UDP
from capture.model.text import without_line_ends
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from capture.model.addresses import Family

    Read = Callable[[str, bool], model.Match]
    Numbered = model.PortMatch | model.OwnerMatch


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


# --- clauses: an option of iptables itself, a match or a target with its options ------------------


class Word(Value):
    """One word of a line: its text, and how it was printed (with its quotes)."""

    text: str
    printed: str


class Flag(Value):
    """An option of a match or target with its values, and whether ``!`` precedes it."""

    name: str
    values: tuple[str, ...]
    negated: bool


class UnknownClauseError(ValueError):
    """The model has no word for a clause, which is kept as it was printed."""


def split_words(line: str) -> list[Word]:
    """Return the words of a line, quoted as iptables-restore reads it.

    Words end at blanks outside of double quotes; inside, a backslash takes the next character as it is.
    """
    words: list[Word] = []
    text = printed = ""
    is_quoted = is_escaped = False
    for character in line:
        if character in " \t" and not is_quoted:
            if printed:
                words.append(Word(text, printed))
            text = printed = ""
            continue
        printed += character
        if is_escaped:
            text += character
            is_escaped = False
        elif is_quoted and character == "\\":
            is_escaped = True
        elif character == '"':
            is_quoted = not is_quoted
        else:
            text += character
    return [*words, Word(text, printed)] if printed else words


TEXT_OPTIONS = ("--comment", "--log-prefix", "--nflog-prefix", "--string")
"""Options whose value may look like anything, and is no option then."""


def as_printed(words: Iterable[Word]) -> str:
    """Return words as they were printed."""
    return " ".join(word.printed for word in words)


def parse_matches(clause: Sequence[Word]) -> list[model.Match]:
    """Return what a clause requires; what our vocabulary lacks as the words that were printed."""
    try:
        if clause[0].text == "-m":
            return _extension_matches(clause[1].text, parse_options(clause[2:]))
        negated = clause[0].text == "!"
        name, value = (word.text for word in clause[negated:])
        return [PROTOCOL_MATCHES[value] if name == "-p" and not negated else OWN_OPTIONS[name](value, negated)]
    except (KeyError, IndexError, ValueError):
        from capture.backends.iptables.foreign_clauses import unknown_match  # no rule of ours has one

        return [unknown_match(clause)]


def _extension_matches(name: str, options: Sequence[Flag]) -> list[model.Match]:
    if not options and name not in PORT_EXTENSIONS:  # without options they mean no more than -p tcp
        raise UnknownClauseError(name)
    return [EXTENSION_READERS[name, option.name](" ".join(option.values), option.negated) for option in options]


def parse_options(words: Sequence[Word]) -> list[Flag]:
    """Return the options of an extension: names begin with ``--``, values follow."""
    options: list[Flag] = []
    negated = False
    for word in words:
        if options and options[-1].name in TEXT_OPTIONS and not options[-1].values:
            options[-1] = options[-1].replace(values=(word.text,))
        elif word.printed == "!":
            negated = True
        elif word.printed.startswith("--"):
            options.append(Flag(word.printed, (), negated))
            negated = False
        elif options:
            options[-1] = options[-1].replace(values=(*options[-1].values, word.text))
        else:
            raise UnknownClauseError(word.printed)
    return options


def _number_reader(kind: type[Numbered], separator: str = ":") -> Read:
    """Return what reads ``53,1024:65535``, or ``1000-2000`` with another joint."""
    return lambda text, negated: kind(tuple(_parse_span(each, separator) for each in text.split(",")), negated)


def _parse_span(text: str, separator: str) -> model.Span:
    first, is_range, last = text.partition(separator)
    return model.Span(_parse_number(first), _parse_number(last if is_range else first))


def _parse_number(text: str) -> int:
    if not is_decimal(text, 10):
        raise UnknownClauseError(text)
    return int(text)


def _network_reader(kind: type[model.AddressMatch]) -> Read:
    return lambda text, negated: kind((parse_network(text),), negated)


def _range_reader(kind: type[model.AddressMatch]) -> Read:
    """Return what reads ``10.0.0.0-10.255.255.255``, where the range is a network."""

    def read(text: str, negated: bool) -> model.Match:  # noqa: FBT001  # an option's field, handed on
        first, last = map(parse_address, text.split("-"))
        (network,) = networks_in_range(first.family, first.first, last.first)
        return kind((network,), negated)

    return read


def _mark_reader(kind: type[model.MarkMatch]) -> Read:
    return lambda text, negated: kind(*_marked_bits(text), negated)


def _marked_bits(text: str) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if slash else model.ALL_BITS


def _state_match(text: str, negated: bool) -> model.Match:  # noqa: FBT001  # an option's field, handed on
    named = set(text.split(","))
    if not named <= set(model.CONNECTION_STATES):
        raise UnknownClauseError(text)
    return model.ConnectionState(tuple(state for state in model.CONNECTION_STATES if state in named), negated)


def _tcp_flags(text: str, negated: bool) -> model.Match:  # noqa: FBT001  # an option's field, handed on
    from capture.backends.iptables.foreign_clauses import unknown_match  # no rule of ours has one

    return unknown_match(split_words(f"-m tcp {'! ' * negated}--tcp-flags {text}"))


PROTOCOL_MATCHES = {"tcp": TCP, "6": TCP, "udp": UDP, "17": UDP}
PORT_EXTENSIONS = ("tcp", "udp")
PORT_READERS = {"--sport": _number_reader(model.SourcePort), "--dport": _number_reader(model.DestinationPort)}

OWN_OPTIONS: dict[str, Read] = {
    "-s": _network_reader(model.Source),
    "-d": _network_reader(model.Destination),
    "-i": model.InInterface,
    "-o": model.OutInterface,
    **PORT_READERS,  # people leave out the -m tcp before them
}

EXTENSION_READERS: dict[tuple[str, str], Read] = {
    **{(name, option): read for name in PORT_EXTENSIONS for option, read in PORT_READERS.items()},
    ("tcp", "--tcp-flags"): _tcp_flags,
    ("multiport", "--sports"): PORT_READERS["--sport"],
    ("multiport", "--dports"): PORT_READERS["--dport"],
    ("owner", "--uid-owner"): _number_reader(model.OwnerUid, "-"),
    ("owner", "--gid-owner"): _number_reader(model.OwnerGid, "-"),
    ("mark", "--mark"): _mark_reader(model.Mark),
    ("connmark", "--mark"): _mark_reader(model.ConnectionMark),
    ("conntrack", "--ctstate"): _state_match,
    ("state", "--state"): _state_match,
    ("iprange", "--src-range"): _range_reader(model.Source),
    ("iprange", "--dst-range"): _range_reader(model.Destination),
}
"""The readers of an option of a match: its value, and whether it is negated."""


def join_negated(matches: Iterable[model.Match]) -> tuple[model.Match, ...]:
    """Return the matches, with "not a" and "not b" of one kind as "neither a nor b", the model's form."""
    in_order: list[model.Match] = []
    indexes: dict[type, int] = {}
    for match in matches:
        entries = entries_of_match(match) if match.negated else ()
        index = indexes.setdefault(type(match), len(in_order)) if entries else len(in_order)
        if index == len(in_order):
            in_order.append(match)
        else:
            in_order[index] = with_entries(match, entries_of_match(in_order[index]) + entries)
    return tuple(in_order)


def parse_verdict(clause: Sequence[Word], chains: Collection[str] = ()) -> model.Verdict:
    """Return what ``-j`` with a target or one of the chains does; what our vocabulary lacks as it was printed."""
    name = "".join(word.text for word in clause[1:2])
    if name in chains:
        return model.Jump(name)
    if name in BUILT_IN_TARGETS and len(clause) == 2:
        return BUILT_IN_TARGETS[name]
    try:
        allowed, read = TARGET_READERS[name]
        return read(_option_values(parse_options(clause[2:]), allowed))
    except (KeyError, ValueError):
        from capture.backends.iptables.foreign_clauses import unknown_verdict  # no rule of ours has one

        return unknown_verdict(clause[1:])


def _option_values(options: Sequence[Flag], allowed: str) -> dict[str, str]:
    """Return the options by name, those without a value as ""; UnknownClauseError if there is one we do not know."""
    values = {option.name: " ".join(option.values) for option in options}
    unknown = values.keys() - set(allowed.split())
    if unknown:
        raise UnknownClauseError(", ".join(unknown))
    return values


def _redirect_verdict(values: dict[str, str]) -> model.Verdict:
    (port,) = values.values()
    return model.Redirect(_parse_number(port))


def _tproxy_verdict(values: dict[str, str]) -> model.Verdict:
    if values.get("--on-ip", "::") not in ("0.0.0.0", "::"):
        raise UnknownClauseError
    mark, mask = _marked_bits(values.get("--tproxy-mark", "0x0/0x0"))
    return model.TransparentProxy(_parse_number(values["--on-port"]), changed_bits(mark, mask), mask)


def _set_mark(values: dict[str, str]) -> model.Verdict:
    ((name, bits),) = values.items()
    value, mask = _marked_bits(bits)
    if name == "--set-mark":  # sets bits outside of the mask as well, --set-xmark would flip them
        mask |= value
    return model.SetMark(changed_bits(value, mask), mask)


COPIES: dict[str, model.Verdict] = {"--save-mark": model.SaveMark(), "--restore-mark": model.RestoreMark()}


def _copy_mark(values: dict[str, str]) -> model.Verdict:
    if any(int(values.get(mask, "0xffffffff"), 0) != model.ALL_BITS for mask in ("--nfmask", "--ctmask", "--mask")):
        raise UnknownClauseError
    (copy,) = (COPIES[name] for name in values if name in COPIES)
    return copy


BUILT_IN_TARGETS: dict[str, model.Verdict] = {"RETURN": model.Return(), "ACCEPT": model.Accept(), "DROP": model.Drop()}
TARGET_READERS: dict[str, tuple[str, Callable[[dict[str, str]], model.Verdict]]] = {
    "REDIRECT": ("--to-ports --to-port", _redirect_verdict),
    "TPROXY": ("--on-port --on-ip --tproxy-mark", _tproxy_verdict),
    "MARK": ("--set-xmark --set-mark", _set_mark),
    "CONNMARK": ("--save-mark --restore-mark --nfmask --ctmask --mask", _copy_mark),
    "CT": ("--zone", lambda values: model.SetZone(_parse_number(values.get("--zone", "0")))),
    "LOG": ("--log-prefix", lambda values: model.Log(values.get("--log-prefix", ""))),
}
"""The options of a target that we know, and what it does with their values."""
