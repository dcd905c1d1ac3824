"""What a clause of iptables-save means: an option of iptables itself, a match or a target with its options. Pure.

Whatever our vocabulary lacks stays as the words that were printed (UnknownMatch, UnknownVerdict): rules of others are
shown and reckoned with, and never rewritten.
"""

from __future__ import annotations

from capture.analysis.canonical import ENTRIES
from capture.model import ruleset as model
from capture.model.addresses import is_decimal, parse_address, parse_network, split
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from capture.model.addresses import Network


class Word(Value):
    """One word of a line: what it says, and how it was printed (with its quotes)."""

    text: str
    printed: str


class Option(Value):
    """An option of a match or target with its values, and whether ``!`` precedes it."""

    name: str
    values: tuple[str, ...]
    negated: bool


class NotOursError(ValueError):
    """A clause says something that the model has no word for."""


def words_of(line: str) -> list[Word]:
    """Return the words of a line, quoted as iptables-restore reads it.

    Words end at blanks outside of double quotes; inside, a backslash takes the next character as it is.
    """
    words: list[Word] = []
    characters: list[str] = []
    start: int | None = None
    is_quoted = is_escaped = False
    for place, character in enumerate(line):
        if character in " \t" and not is_quoted:
            if start is not None:
                words.append(Word("".join(characters), line[start:place]))
                characters, start = [], None
            continue
        if start is None:
            start = place
        if is_escaped:
            characters.append(character)
            is_escaped = False
        elif is_quoted and character == "\\":
            is_escaped = True
        elif character == '"':
            is_quoted = not is_quoted
        else:
            characters.append(character)
    if start is not None:
        words.append(Word("".join(characters), line[start:]))
    return words


TEXT_OPTIONS = ("--comment", "--log-prefix", "--nflog-prefix", "--string")
"""Options whose value may look like anything, and is no option then."""


def as_printed(words: Iterable[Word]) -> str:
    """Return words as they were printed."""
    return " ".join(word.printed for word in words)


# --- matches -------------------------------------------------------------------------------------


def matches_of(clause: Sequence[Word]) -> list[model.Match]:
    """Return what a clause requires; what our vocabulary lacks as the words that were printed."""
    try:
        if clause[0].text == "-m":
            return EXTENSIONS[clause[1].text](_options(clause[2:]))
        return [_own_option(clause)]
    except (KeyError, IndexError, ValueError):
        return [model.UnknownMatch(as_printed(clause))]


def _own_option(clause: Sequence[Word]) -> model.Match:
    negated = clause[0].text == "!"
    name, value = (word.text for word in clause[negated:])
    if name == "-s":
        return model.Source((_network(value),), negated)
    if name == "-d":
        return model.Destination((_network(value),), negated)
    if name == "-i":
        return model.InInterface(value, negated)
    if name == "-o":
        return model.OutInterface(value, negated)
    if name == "-p" and not negated:
        return PROTOCOLS[value]
    return PORTS[name]((_port_span(value),), negated)  # people leave out the -m tcp before it


PROTOCOLS = {
    "tcp": model.Protocol("tcp"),
    "6": model.Protocol("tcp"),
    "udp": model.Protocol("udp"),
    "17": model.Protocol("udp"),
}


def _network(text: str) -> Network:
    return parse_network(text)


def _options(words: Sequence[Word]) -> list[Option]:
    """Return the options of an extension: names begin with ``--``, values follow."""
    options: list[Option] = []
    negated = False
    for word in words:
        if options and options[-1].name in TEXT_OPTIONS and not options[-1].values:
            options[-1] = options[-1].replace(values=(word.text,))
        elif word.printed == "!":
            negated = True
        elif word.printed.startswith("--"):
            options.append(Option(word.printed, (), negated))
            negated = False
        elif options:
            options[-1] = options[-1].replace(values=(*options[-1].values, word.text))
        else:
            raise NotOursError(word.printed)
    return options


def _single_value(option: Option) -> str:
    (value,) = option.values
    return value


def _ports_of_protocol(options: Sequence[Option]) -> list[model.Match]:
    """``-m tcp --sport 1024:65535 --dport 80``; without options it says no more than ``-p tcp``."""
    return [PORTS[option.name]((_port_span(_single_value(option)),), option.negated) for option in options]


def _multiport(options: Sequence[Option]) -> list[model.Match]:
    return [
        PORT_LISTS[option.name](tuple(map(_port_span, _single_value(option).split(","))), option.negated)
        for option in options
    ]


PORTS: dict[str, type[model.SourcePort | model.DestinationPort]] = {
    "--sport": model.SourcePort,
    "--dport": model.DestinationPort,
}
PORT_LISTS: dict[str, type[model.SourcePort | model.DestinationPort]] = {
    "--sports": model.SourcePort,
    "--dports": model.DestinationPort,
}


def _port_span(text: str) -> model.Span:
    first, colon, last = text.partition(":")
    return model.Span(_number(first), _number(last if colon else first))


def _number(text: str) -> int:
    if not is_decimal(text, 10):
        raise NotOursError(text)
    return int(text)


def _owner(options: Sequence[Option]) -> list[model.Match]:
    kinds: dict[str, type[model.OwnerUid | model.OwnerGid]] = {
        "--uid-owner": model.OwnerUid,
        "--gid-owner": model.OwnerGid,
    }
    return [kinds[option.name]((_id_span(_single_value(option)),), option.negated) for option in options]


def _id_span(text: str) -> model.Span:
    first, dash, last = text.partition("-")
    return model.Span(_number(first), _number(last if dash else first))


def _mark(kind: type[model.Mark | model.ConnectionMark]) -> Callable[[Sequence[Option]], list[model.Match]]:
    def parse(options: Sequence[Option]) -> list[model.Match]:
        (option,) = options
        if option.name != "--mark":
            raise NotOursError(option.name)
        value, mask = _marked_bits(_single_value(option))
        return [kind(value, mask, option.negated)]

    return parse


def _marked_bits(text: str) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if slash else model.ALL_BITS


def _states(*names: str) -> Callable[[Sequence[Option]], list[model.Match]]:
    def parse(options: Sequence[Option]) -> list[model.Match]:
        (option,) = options
        states = _single_value(option).split(",")
        if option.name not in names or not set(states) <= set(model.CONNECTION_STATES):
            raise NotOursError(option.name)
        return [
            model.ConnectionState(tuple(state for state in model.CONNECTION_STATES if state in states), option.negated)
        ]

    return parse


def _address_ranges(options: Sequence[Option]) -> list[model.Match]:
    """``-m iprange ! --dst-range 10.0.0.0-10.255.255.255``, where the range is a network."""
    kinds: dict[str, type[model.Source | model.Destination]] = {
        "--src-range": model.Source,
        "--dst-range": model.Destination,
    }
    matches: list[model.Match] = []
    for option in options:
        first, _, last = (parse_address(part) if part != "-" else None for part in _single_value(option).partition("-"))
        if first is None or last is None:
            raise NotOursError(option.name)
        (network,) = split(first.family, first.first, last.first)
        matches.append(kinds[option.name]((network,), option.negated))
    return matches


EXTENSIONS: dict[str, Callable[[Sequence[Option]], list[model.Match]]] = {
    "tcp": _ports_of_protocol,
    "udp": _ports_of_protocol,
    "multiport": _multiport,
    "owner": _owner,
    "mark": _mark(model.Mark),
    "connmark": _mark(model.ConnectionMark),
    "conntrack": _states("--ctstate"),
    "state": _states("--state"),
    "iprange": _address_ranges,
}


def joined(matches: Iterable[model.Match]) -> tuple[model.Match, ...]:
    """Return the matches, with "not a" and "not b" of one kind as "neither a nor b", as the model says it."""
    found: list[model.Match] = []
    places: dict[type, int] = {}
    for match in matches:
        field = ENTRIES.get(type(match)) if getattr(match, "negated", False) else None
        place = places.setdefault(type(match), len(found)) if field else len(found)
        if field is None or place == len(found):
            found.append(match)
        else:
            entries = getattr(found[place], field) + getattr(match, field)
            found[place] = match.replace(**{field: entries})
    return tuple(found)


# --- verdicts ------------------------------------------------------------------------------------


def verdict_of(clause: Sequence[Word], chains: Collection[str] = ()) -> model.Verdict:
    """Return what ``-j`` with a target or one of the chains does; what our vocabulary lacks as it was printed."""
    name = "".join(word.text for word in clause[1:2])
    if name in chains:
        return model.Jump(name)
    try:
        return TARGETS[name](_options(clause[2:]))
    except (KeyError, ValueError):
        return model.UnknownVerdict(as_printed(clause[1:]))


def _plain(verdict: model.Verdict) -> Callable[[Sequence[Option]], model.Verdict]:
    def parse(options: Sequence[Option]) -> model.Verdict:
        if options:
            raise NotOursError(options[0].name)
        return verdict

    return parse


def _values(options: Sequence[Option], *allowed: str) -> dict[str, str]:
    """Return the options by name, those without a value as ""; NotOursError if there is one we do not know."""
    values = {option.name: " ".join(option.values) for option in options}
    if not values.keys() <= set(allowed):
        raise NotOursError(", ".join(values.keys() - set(allowed)))
    return values


def _redirect(options: Sequence[Option]) -> model.Verdict:
    values = _values(options, "--to-ports", "--to-port")
    (port,) = values.values()
    return model.Redirect(_number(port))


def _tproxy(options: Sequence[Option]) -> model.Verdict:
    values = _values(options, "--on-port", "--on-ip", "--tproxy-mark")
    if values.get("--on-ip", "::") not in ("0.0.0.0", "::"):
        raise NotOursError("--on-ip")
    mark, mask = _marked_bits(values.get("--tproxy-mark", "0x0/0x0"))
    return model.TransparentProxy(_number(values["--on-port"]), *_kept_in_mask(mark, mask))


def _set_mark(options: Sequence[Option]) -> model.Verdict:
    values = _values(options, "--set-xmark", "--set-mark")
    ((name, bits),) = values.items()
    value, mask = _marked_bits(bits)
    if name == "--set-mark":  # sets bits outside of the mask as well, --set-xmark would flip them
        mask |= value
    return model.SetMark(*_kept_in_mask(value, mask))


def _kept_in_mask(value: int, mask: int) -> tuple[int, int]:
    if value & ~mask:
        raise NotOursError(f"{value:#x}/{mask:#x} flips bits")
    return value, mask


def _copy_mark(options: Sequence[Option]) -> model.Verdict:
    values = _values(options, "--save-mark", "--restore-mark", "--nfmask", "--ctmask", "--mask")
    if any(int(values.get(mask, "0xffffffff"), 0) != model.ALL_BITS for mask in ("--nfmask", "--ctmask", "--mask")):
        raise NotOursError("a part of the mark")
    if "--save-mark" in values:
        return model.SaveMark()
    if "--restore-mark" in values:
        return model.RestoreMark()
    raise NotOursError("CONNMARK")


def _set_zone(options: Sequence[Option]) -> model.Verdict:
    return model.SetZone(_number(_values(options, "--zone").get("--zone", "0")))


def _log(options: Sequence[Option]) -> model.Verdict:
    return model.Log(_values(options, "--log-prefix").get("--log-prefix", ""))


TARGETS: dict[str, Callable[[Sequence[Option]], model.Verdict]] = {
    "RETURN": _plain(model.Return()),
    "ACCEPT": _plain(model.Accept()),
    "DROP": _plain(model.Drop()),
    "REDIRECT": _redirect,
    "TPROXY": _tproxy,
    "MARK": _set_mark,
    "CONNMARK": _copy_mark,
    "CT": _set_zone,
    "LOG": _log,
}
