"""From the text of an option to its value, strictly.

Each parser takes text and returns a value or raises ValueError. The caller knows which option the
text belongs to, where it came from and what is expected (``ConfigurationError``).
Digits are ASCII digits: ``int()`` alone would also take signs, blanks, underscores and other scripts.
"""

from __future__ import annotations

from capture.model.addresses import IPV4, Family, Network, is_decimal, merge_ranges, network_parts, parse_network
from capture.model.conventions import MAX_ID, MAX_INTERFACE_BYTES, MAX_PORT, PROXY_TO_SELF_MARK
from capture.model.ruleset import MAX_SEPARATE_PORTS, Span
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Generic, Literal, TypeVar

    T = TypeVar("T")
    Mode = Literal["REDIRECT", "TPROXY"]

    class Entries(Value, Generic[T]):
        """A base that makes Selection generic for the type checker."""

else:
    T = "T"
    Entries = {T: Value}  # subscripting this is all that happens at run time

MAX_INTERFACES = 256
"""No pod has so many; a rule each for 40,000 names takes seconds and 200 MB."""

RESERVED_ROUTE_TABLES = (253, 254, 255)
"""linux/rtnetlink.h: default, main, local. A route to ``lo`` for everything there cuts the pod off."""


class Selection(Entries[T]):
    """Everything (``*``), or just the entries."""

    entries: tuple[T, ...] = ()
    is_everything: bool = False

    def __bool__(self) -> bool:
        return self.is_everything or bool(self.entries)


class UidPorts(Value):
    """Ports of a protocol that these users reach without the proxy."""

    protocol: Literal["tcp", "udp"]
    ports: tuple[Span, ...]
    uids: tuple[Span, ...]


def split_list(text: str) -> list[str]:
    """Return the entries of a comma-separated list without the blanks around them; empty ones do not count."""
    return [entry for padded in text.split(",") if (entry := padded.strip(" \t"))]


def list_of(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Return a parser for comma-separated lists; an empty text is an empty list, repeated entries count once."""

    def parse_list(text: str) -> tuple[T, ...]:
        return tuple(dict.fromkeys(map(parse, split_list(text))))

    return parse_list


class Networks(tuple[Network, ...]):  # noqa: SLOT001  # a tuple cannot have slots with something in them
    """Networks in the order of the list, each once."""

    with_host_bits: tuple[str, ...] = ()
    """The texts among them that name another address of a network than its first."""


def networks(text: str) -> tuple[Network, ...]:
    """Return a list of networks; host bits are cleared (the settings warn about that)."""
    parsed: dict[tuple[Family, int, int], None] = {}
    with_host_bits = []
    for entry in split_list(text):
        parts, has_host_bits = network_parts(entry)
        parsed[parts] = None
        if has_host_bits:
            with_host_bits.append(entry)
    distinct = Networks([Network(*parts) for parts in parsed])
    if with_host_bits:
        distinct.with_host_bits = tuple(with_host_bits)
    return distinct


def selection_of(parse_list: Callable[[str], tuple[T, ...]]) -> Callable[[str], Selection[T]]:
    """Return a parser for ``*`` or a list."""

    def parse_selection(text: str) -> Selection[T]:
        if text.strip(" \t") == "*":
            return Selection(is_everything=True)
        return Selection(parse_list(text))

    return parse_selection


def number(text: str, lowest: int, highest: int) -> int:
    """Return a decimal number within bounds."""
    if not is_decimal(text, len(str(highest))) or not lowest <= int(text) <= highest:
        raise ValueError(text)
    return int(text)


def port(text: str) -> int:
    """Return a port, 1 to 65535."""
    return number(text, 1, MAX_PORT)


def port_range(text: str) -> Span:
    """Return a port or a range of ports: ``8000-8100``, or ``8000:8100`` as iptables(8) writes it."""
    return span(text.replace(":", "-"), port)


def port_list(text: str) -> tuple[Span, ...]:
    """Return ports and ranges in the order of the list, each once; 0 means none.

    A list that is too long to be read rule by rule is merged into ranges.
    """
    entries = split_list(text)
    if len(entries) <= MAX_SEPARATE_PORTS:
        return tuple(dict.fromkeys(port_range(entry) for entry in entries if entry != "0"))
    distinct = set(entries)
    try:
        numbers = sorted(map(int, distinct))
    except ValueError:
        spans = [port_range(entry) for entry in distinct if entry != "0"]
        return tuple(Span(first, last) for first, last in merge_ranges([(each.first, each.last) for each in spans]))
    if not 0 <= numbers[0] <= numbers[-1] <= MAX_PORT or not distinct.issubset(map(str, numbers)):
        raise ValueError(text)  # no port, or a sign, an underscore, a leading zero, another script's digits
    return _consecutive_spans([each for each in numbers if each])


def _consecutive_spans(numbers: list[int]) -> tuple[Span, ...]:
    starts = [0, *(index for index in range(1, len(numbers)) if numbers[index] != numbers[index - 1] + 1)]
    ends = [index - 1 for index in starts[1:]] + [len(numbers) - 1]
    return tuple(Span(numbers[first], numbers[last]) for first, last in zip(starts, ends, strict=True) if numbers)


def id_range(text: str) -> Span:
    """Return a numeric user or group id or a range of them."""
    return span(text, lambda part: number(part, 0, MAX_ID))


def span(text: str, parse: Callable[[str], int]) -> Span:
    """Return one number or a range ``first-last`` that does not run backwards."""
    first_text, dash, last_text = text.partition("-")
    first = parse(first_text)
    last = parse(last_text) if dash else first
    if last < first:
        raise ValueError(text)
    return Span(first, last)


def user_or_group(text: str) -> str | Span:
    """Return an id, a range of ids, or a name to look up (useradd(8): the portable characters)."""
    if text[:1].isdigit():
        return id_range(text)
    allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-$"
    if not text or len(text) > 32 or text[0] in "-.$" or any(letter not in allowed for letter in text):
        raise ValueError(text)
    return text


def ipv4_loopback(text: str) -> Network:
    """Return a network within 127.0.0.0/8. A wider one would exempt real destinations from capture."""
    parsed = parse_network(text)
    if parsed.family != IPV4 or not parsed.is_loopback:
        raise ValueError(text)
    return parsed


def interface(text: str) -> str:
    """Return an interface name; a trailing ``+`` means any ending (iptables(8), ``-i``).

    The kernel's rule is dev_valid_name() in net/core/dev.c: up to 15 bytes, no ``/``, ``:`` or blanks,
    not ``.`` or ``..``. Quotes and the like are legal there but in no pod, and are refused.
    """
    forbidden = " \t/:\"'`\\!*;,&|<>()[]{}$#%^~"
    printable = text.isascii() and text.isprintable()
    if not text or len(text) > MAX_INTERFACE_BYTES or not printable or text in (".", "..", "+"):
        raise ValueError(text)
    if text[0] == "-" or "+" in text[:-1] or any(letter in forbidden for letter in text):
        raise ValueError(text)
    return text


def interfaces(text: str) -> tuple[str, ...]:
    """Return the interface names of a list."""
    names = list_of(interface)(text)
    if len(names) > MAX_INTERFACES:
        raise ValueError(text)
    return names


def packet_mark(text: str) -> int:
    """Return the mark of a packet, decimal or hexadecimal (0x539); zero is "no mark"."""
    digits = text[2:]
    if text[:2] == "0x" and len(digits) <= 8 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
        return int(digits, 16)
    return number(text, 0, 0xFFFF_FFFF)


def mark(text: str) -> int:
    """Return a mark of the capture's own: not zero, nor PROXY_TO_SELF_MARK."""
    value = packet_mark(text)
    if value in (0, PROXY_TO_SELF_MARK):
        raise ValueError(text)
    return value


def route_table(text: str) -> int:
    """Return the number of a routing table of one's own."""
    value = number(text, 1, 0xFFFF_FFFF)
    if value in RESERVED_ROUTE_TABLES:
        raise ValueError(text)
    return value


TRUE = ("1", "t", "T", "true", "TRUE", "True")
FALSE = ("0", "f", "F", "false", "FALSE", "False")
"""The truth values of Go's strconv.ParseBool: what Istio's programs read, and no other word."""


def boolean(text: str) -> bool:
    """Return a truth value; empty means no."""
    if text in TRUE:
        return True
    if text in FALSE or not text:
        return False
    raise ValueError(text)


LOG_LEVELS = ("none", "fatal", "error", "warn", "info", "debug")
"""From silent to talkative (istio/istio, pkg/log/options.go)."""


def log_level(text: str) -> int:
    """Return the index in LOG_LEVELS that ``LEVEL`` or ``SCOPE:LEVEL,...`` sets for us: scope ``default`` or ``all``.

    Other scopes are those of parts that we do not have; the last entry counts.
    """
    chosen = "info"
    for entry in text.split(","):
        scope, colon, level = entry.partition(":")
        if not colon:
            scope, level = "default", entry
        if level not in LOG_LEVELS:
            raise ValueError(text)
        if scope in ("default", "all"):
            chosen = level
    return LOG_LEVELS.index(chosen)


MAX_DURATION_SECONDS = 86400


def seconds(text: str) -> float:
    """Return a duration in seconds: ``5s``, ``500ms``, ``1m30s``, as Go's ParseDuration reads it; or plain seconds."""
    total, rest = 0.0, f"{text}s" if is_decimal(text, len(str(MAX_DURATION_SECONDS))) else text
    units = (("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0))
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(digits) :]
        unit, factor = next(((unit, factor) for unit, factor in units if rest.startswith(unit)), ("", 0.0))
        if not unit:
            raise ValueError(text)
        total += float(digits) * factor  # ValueError where digits are missing, or have two points
        rest = rest[len(unit) :]
    if not 0 < total <= MAX_DURATION_SECONDS:
        raise ValueError(text)
    return total


def uid_ports(text: str) -> UidPorts:
    """Return ports that users reach by themselves: ``tcp:443:1000-2000``; ``*`` means all ports."""
    protocol, _, rest = text.partition(":")
    ports_text, _, uids_text = rest.partition(":")
    if protocol not in ("tcp", "udp"):
        raise ValueError(text)
    spans = (Span(1, 65535),) if ports_text == "*" else (port_range(ports_text),)
    return UidPorts("tcp" if protocol == "tcp" else "udp", spans, (id_range(uids_text),))


def word_parser(*words: str) -> Callable[[str], str]:
    """Return a parser that takes one of these words."""

    def parse_word(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return parse_word


PROFILES = ("1.8", "1.30")
"""Versions of Istio whose layout of the rules we write: those that changed it. The newest is last."""
PROFILE_ALIASES = {"classic": PROFILES[0], "current": PROFILES[-1]}


def profile(text: str) -> str:
    """Return the version of Istio that a profile is named after."""
    version = PROFILE_ALIASES.get(text, text)
    if version not in PROFILES:
        raise ValueError(text)
    return version
