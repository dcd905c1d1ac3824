"""From what the kernel dumps of iptables-nft's tables to rules. Pure; the inverse of ``xt_encode``, and more.

It reads what any release of iptables-nft writes (ports by payload or by the match tcp, marks by meta or by the
match mark), and what nft(8) puts into the same tables as far as the model has words for it. The rest is
UnknownMatch and UnknownVerdict: in the words of iptables-save where it has any, else in those of
``nft --debug=netlink``.

Expressions are read like a program: a register is loaded with a field, perhaps masked, and compared. Equal
expressions are in many rules, so each is understood once (``Reader`` remembers them).
"""

from __future__ import annotations

from capture.backends.iptables.clauses import joined, matches_of, verdict_of, words_of
from capture.backends.iptables.xt_encode import (
    ADDRESS_OFFSETS,
    NEVER_MATCHING_INTERFACE,
    NFTA_MATCH_INFO,
    NFTA_MATCH_NAME,
    NFTA_MATCH_REV,
    PROTOCOLS,
)
from capture.backends.iptables.xt_layouts import text_of
from capture.backends.iptables.xt_messages import NFTA_RULE_HANDLE
from capture.backends.iptables.xt_words import (
    limit_words,
    masked_words,
    match_words,
    protocol_words,
    target_words,
    tcp_flags_words,
)
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.hooks import decode_hook
from capture.backends.nf_tables.reading import (
    VERDICTS,
    name_and_data,
    read_comment,
    read_counters,
    read_fields,
    read_verdict,
)
from capture.model.addresses import BITS, Network
from capture.model.ruleset import (
    ALL_BITS,
    Continue,
    Counters,
    Destination,
    DestinationPort,
    InInterface,
    Jump,
    Mark,
    OutInterface,
    Protocol,
    Rule,
    SetMark,
    Source,
    SourcePort,
    Span,
    UnknownMatch,
    UnknownVerdict,
)
from capture.model.text import without_line_ends
from capture.model.values import Value
from capture.netlink.attributes import (
    MalformedMessageError,
    decode_elements,
    decode_fields,
    decode_host_number,
    decode_number,
    decode_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from capture.backends.nf_tables.hooks import Hook
    from capture.model.addresses import Family
    from capture.model.ruleset import Match, Verdict

    Fields = dict[int, bytes]

# linux/netfilter/nf_tables.h, beyond what the nftables backend needs
NFTA_CHAIN_HANDLE, NFTA_CHAIN_COUNTERS = 2, 8
NFT_META_NFTRACE = 12
MARK_SIZE = 4

PROTOCOL_MATCHES = {number: Protocol(name) for name, number in PROTOCOLS.items()}
PROTOCOL_OFFSETS: dict[Family, int] = {"ipv4": 9, "ipv6": 6}
"""Where the header names the protocol (RFC 791 3.1, RFC 8200 3): ip6tables compared it there up to 1.8.2."""

# The place of a match in the listing: first the options of ip(6)tables itself, then extensions in their order.
OF_SOURCE, OF_DESTINATION, OF_IN_INTERFACE, OF_OUT_INTERFACE, OF_PROTOCOL, OF_EXTENSION = range(6)

# --- chains --------------------------------------------------------------------------------------


class FoundChain(Value):
    """A chain: its handle counts up with everything that is made in its table. Without a hook, rules jump to it."""

    table: str
    name: str
    handle: int
    hook: Hook | None = None
    policy: str | None = None
    counters: Counters | None = None


class FoundRule(Value):
    """A rule and where it is; its handle counts like that of a chain."""

    chain: str
    handle: int
    rule: Rule


def decode_chain(attributes: bytes) -> FoundChain:
    """Return a chain."""
    fields = decode_fields(attributes)
    table, name = decode_text(fields[nf.NFTA_CHAIN_TABLE]), decode_text(fields[nf.NFTA_CHAIN_NAME])
    handle = decode_number(fields[NFTA_CHAIN_HANDLE])
    hook = decode_hook(fields)
    if hook is None:
        return FoundChain(table, name, handle)
    policy = "DROP" if decode_number(fields.get(nf.NFTA_CHAIN_POLICY, b"\1")) == nf.NF_DROP else "ACCEPT"
    counted = fields.get(NFTA_CHAIN_COUNTERS)
    counters = Counters(0, 0) if counted is None else read_counters(decode_fields(counted))
    return FoundChain(table, name, handle, hook, policy, counters)


# --- rules ---------------------------------------------------------------------------------------


class Field(Value):
    """What a register holds: a field by name, bytes of a header by place, and the mask that was put over it."""

    name: str
    base: int = 0
    offset: int = 0
    length: int = 0
    mask: bytes | None = None


class Load(Value):
    """A register is loaded with a field."""

    register: int
    field: Field


class Constant(Value):
    """A register is loaded with a value."""

    register: int
    value: bytes


class Mask(Value):
    """A register is masked, into another one or itself."""

    source: int
    register: int
    mask: bytes


class Bounds(Value):
    """A register is compared: its bytes must lie between two values, or, negated, must not."""

    register: int
    low: bytes
    high: bytes
    negated: bool = False


class Store(Value):
    """A register is written into a field."""

    register: int
    name: str


class Given(Value):
    """A comment."""

    text: str


if TYPE_CHECKING:
    Placed = tuple[int, Match]
    Step = Load | Constant | Mask | Bounds | Store | Given | Counters | Verdict | tuple[Placed, ...]


class Reader:
    """Reads the rules of one family, and remembers what expressions and comparisons mean."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._steps: dict[bytes, Step] = {}
        self._meanings: dict[bytes, tuple[Placed, ...]] = {}

    def read(self, attributes: bytes) -> FoundRule:
        """Return a rule from its attributes."""
        fields = decode_fields(attributes)
        reading = _Reading(self._family, self._meanings)
        for expression in decode_elements(fields.get(nf.NFTA_RULE_EXPRESSIONS, b"")):
            step = self._steps.get(expression)
            if step is None:
                step = self._steps[expression] = _step(expression, self._family)
            reading.take(step, expression)
        why = reading.why or read_comment(fields.get(nf.NFTA_RULE_USERDATA, b""))
        rule = Rule(reading.verdict or Continue(), _in_order(reading.matches), self._family, why, reading.counters)
        return FoundRule(decode_text(fields[nf.NFTA_RULE_CHAIN]), decode_number(fields[NFTA_RULE_HANDLE]), rule)


class _Reading:
    """One rule, as far as it has been read."""

    def __init__(self, family: Family, meanings: dict[bytes, tuple[Placed, ...]]) -> None:
        self.matches: list[Placed] = []
        self.verdict: Verdict | None = None
        self.counters: Counters | None = None
        self.why = ""
        self._family = family
        self._meanings = meanings
        self._registers: dict[int, tuple[Field | bytes, bytes]] = {}
        """What each holds, and the expressions that put it there."""

    def take(self, step: Step, expression: bytes) -> None:
        """Go one step."""
        if isinstance(step, tuple):
            self.matches += step
        elif isinstance(step, Load):
            self._registers[step.register] = step.field, expression
        elif isinstance(step, Bounds):
            self._compare(step, expression)
        elif isinstance(step, Counters):
            self.counters = step
        elif isinstance(step, Given):
            self.why = without_line_ends(step.text)
        elif isinstance(step, Constant):
            self._registers[step.register] = step.value, expression
        elif isinstance(step, Mask):
            held, earlier = self._registers.get(step.source, NOTHING)
            self._registers[step.register] = _masked(held, step.mask), earlier + expression
        elif isinstance(step, Store):
            held, _ = self._registers.get(step.register, NOTHING)
            self._decide(_stored(step.name, held))
        else:
            self._decide(step)

    def _compare(self, bounds: Bounds, expression: bytes) -> None:
        held, earlier = self._registers.get(bounds.register, NOTHING)
        found = self._meanings.get(earlier + expression)
        if found is None:
            field = held if isinstance(held, Field) else UNNAMED
            found = self._meanings[earlier + expression] = _meaning(field, bounds, self._family)
        self.matches += found

    def _decide(self, verdict: Verdict) -> None:
        """Note the verdict. iptables has one in each rule; nft may log before it accepts."""
        if self.verdict is not None:
            self.matches.append((OF_EXTENSION, _unknown(repr(self.verdict))))
        self.verdict = verdict


UNNAMED = Field("register")
NOTHING: tuple[Field | bytes, bytes] = (UNNAMED, b"")


def _masked(held: Field | bytes, mask: bytes) -> Field:
    """Return a field under a mask, if it is one and not masked yet."""
    return held.replace(mask=mask) if isinstance(held, Field) and held.mask is None else UNNAMED


def _in_order(placed: Sequence[Placed]) -> tuple[Match, ...]:
    """Return matches in the order of iptables-save, with "not a" and "not b" of one kind as "neither a nor b"."""
    matches = joined(match for _, match in sorted(placed, key=lambda found: found[0]))
    if any(isinstance(match, SourcePort | DestinationPort) for match in matches) and not any(
        isinstance(match, Protocol) for match in matches
    ):
        # nft compares ports of any protocol; iptables, and the model, only of one.
        return tuple(_unknown_port(m) if isinstance(m, SourcePort | DestinationPort) else m for m in matches)
    return matches


def _unknown_port(match: SourcePort | DestinationPort) -> UnknownMatch:
    field = "sport" if isinstance(match, SourcePort) else "dport"
    return _unknown(f"th {field} {'!=' if match.negated else '=='} {','.join(map(str, match.ports))}")


def _unknown(words: str) -> UnknownMatch:
    """Return a match that only nft has words for."""
    return UnknownMatch(f"[ {words} ]")


# --- expressions ---------------------------------------------------------------------------------


def _step(expression: bytes, family: Family) -> Step:
    """Return what an expression does."""
    name, data = name_and_data(expression)
    read = EXPRESSIONS.get(name)
    if read is None:
        return _other(name)
    try:
        return read(read_fields(name, data), family)
    except (KeyError, IndexError, ValueError, MalformedMessageError):  # another kernel than those we know writes so
        return _other(name)


def _other(name: str) -> Step:
    """Return an expression of nft that iptables does not write."""
    return UnknownVerdict(f"[ {name} ]") if name in DECIDING else ((OF_EXTENSION, _unknown(name)),)


DECIDING = frozenset(("dup", "fwd", "masq", "nat", "queue", "redir", "reject", "synproxy", "tproxy"))
"""Expressions after which a packet need not reach the next rule, or is another one."""


def _read_meta(fields: Fields, _family: Family) -> Step:
    key = decode_number(fields[nf.NFTA_META_KEY])
    name = META_NAMES.get(key, f"meta {key}")
    if nf.NFTA_META_SREG in fields:
        return Store(decode_number(fields[nf.NFTA_META_SREG]), name)
    return Load(decode_number(fields[nf.NFTA_META_DREG]), Field(name))


META_NAMES = {
    nf.NFT_META_MARK: "mark",
    nf.NFT_META_IIFNAME: "iifname",
    nf.NFT_META_OIFNAME: "oifname",
    nf.NFT_META_L4PROTO: "l4proto",
    NFT_META_NFTRACE: "nftrace",
}


def _read_payload(fields: Fields, _family: Family) -> Step:
    base, offset, length = (
        decode_number(fields[part]) for part in (nf.NFTA_PAYLOAD_BASE, nf.NFTA_PAYLOAD_OFFSET, nf.NFTA_PAYLOAD_LEN)
    )
    return Load(decode_number(fields[nf.NFTA_PAYLOAD_DREG]), Field("payload", base, offset, length))


def _read_bitwise(fields: Fields, _family: Family) -> Step:
    source, register = decode_number(fields[nf.NFTA_BITWISE_SREG]), decode_number(fields[nf.NFTA_BITWISE_DREG])
    mask, flip = fields[nf.NFTA_BITWISE_MASK], fields[nf.NFTA_BITWISE_XOR]
    return Load(register, UNNAMED) if any(flip) else Mask(source, register, mask)


def _read_cmp(fields: Fields, _family: Family) -> Step:
    register, operator = decode_number(fields[nf.NFTA_CMP_SREG]), decode_number(fields[nf.NFTA_CMP_OP])
    value = fields[nf.NFTA_CMP_DATA]
    if operator in (nf.NFT_CMP_EQ, nf.NFT_CMP_NEQ):
        return Bounds(register, value, value, operator == nf.NFT_CMP_NEQ)
    # "less than" is "not greater or equal": bytes compare like big-endian numbers
    lowest, highest = bytes(len(value)), b"\xff" * len(value)
    if operator in (nf.NFT_CMP_LTE, nf.NFT_CMP_GT):
        return Bounds(register, lowest, value, operator == nf.NFT_CMP_GT)
    return Bounds(register, value, highest, operator == nf.NFT_CMP_LT)


def _read_range(fields: Fields, _family: Family) -> Step:
    return Bounds(
        decode_number(fields[nf.NFTA_RANGE_SREG]),
        fields[nf.NFTA_RANGE_FROM_DATA],
        fields[nf.NFTA_RANGE_TO_DATA],
        decode_number(fields[nf.NFTA_RANGE_OP]) == nf.NFT_RANGE_NEQ,
    )


def _read_counter(fields: Fields, _family: Family) -> Step:
    return read_counters(fields)


def _read_immediate(fields: Fields, _family: Family) -> Step:
    data = decode_fields(fields[nf.NFTA_IMMEDIATE_DATA])
    if nf.NFTA_DATA_VERDICT not in data:
        return Constant(decode_number(fields[nf.NFTA_IMMEDIATE_DREG]), data[nf.NFTA_DATA_VALUE])
    code, chain = read_verdict(decode_fields(data[nf.NFTA_DATA_VERDICT]))
    if code in (nf.NFT_JUMP, nf.NFT_GOTO):
        return Jump(chain) if code == nf.NFT_JUMP else UnknownVerdict(f"-g {chain}")
    return VERDICTS.get(code) or UnknownVerdict(f"[ verdict {code} ]")


def _read_match(fields: Fields, family: Family) -> Step:
    name, revision, structure = _extension(fields)
    if name == "comment":
        return Given(text_of(structure))
    words = match_words(name, revision, structure, family)
    return tuple((OF_EXTENSION, match) for match in matches_of(words_of(words)))


def _read_target(fields: Fields, family: Family) -> Step:
    return verdict_of(words_of(f"-j {target_words(*_extension(fields), family)}"))


def _extension(fields: Fields) -> tuple[str, int, bytes]:
    revision = decode_number(fields[NFTA_MATCH_REV])
    return decode_text(fields[NFTA_MATCH_NAME]), revision, fields[NFTA_MATCH_INFO]


def _read_limit(fields: Fields, _family: Family) -> Step:

    return ((OF_EXTENSION, UnknownMatch(limit_words(fields))),)


EXPRESSIONS: dict[str, Callable[[Fields, Family], Step]] = {
    "meta": _read_meta,
    "payload": _read_payload,
    "bitwise": _read_bitwise,
    "cmp": _read_cmp,
    "range": _read_range,
    "counter": _read_counter,
    "immediate": _read_immediate,
    "match": _read_match,
    "target": _read_target,
    "limit": _read_limit,
}


def _stored(name: str, value: Field | bytes | None) -> Verdict:
    """Return what it means to write a register into a field: iptables' TRACE is such, and nft's ``meta mark set``."""
    if name == "mark" and isinstance(value, bytes) and len(value) == MARK_SIZE:
        return SetMark(decode_host_number(value))
    return UnknownVerdict("TRACE" if name == "nftrace" else f"[ {name} set ]")


# --- comparisons ---------------------------------------------------------------------------------


def _meaning(field: Field, bounds: Bounds, family: Family) -> tuple[Placed, ...]:
    """Return the matches that a comparison of a field is."""
    compare = COMPARISONS.get(field.name)
    found = compare(field, bounds, family) if compare else None
    if found is not None:
        return found
    shown = field.name if field.name != "payload" else f"payload {field.base}:{field.offset}+{field.length}"
    masked = f" & 0x{field.mask.hex()}" if field.mask else ""
    values = f"0x{bounds.low.hex()}" if bounds.low == bounds.high else f"0x{bounds.low.hex()}-0x{bounds.high.hex()}"
    return ((OF_EXTENSION, _unknown(f"{shown}{masked} {'!=' if bounds.negated else '=='} {values}")),)


def _protocol(field: Field, bounds: Bounds, _family: Family) -> tuple[Placed, ...] | None:
    if field.mask or bounds.low != bounds.high or len(bounds.low) != 1:
        return None
    known = PROTOCOL_MATCHES.get(bounds.low[0])
    if known and not bounds.negated:
        return ((OF_PROTOCOL, known),)

    return ((OF_PROTOCOL, UnknownMatch(protocol_words(bounds.low[0], negated=bounds.negated))),)


def _interface(field: Field, bounds: Bounds, _family: Family) -> tuple[Placed, ...] | None:
    if field.mask or bounds.low != bounds.high:
        return None
    kind, place = (InInterface, OF_IN_INTERFACE) if field.name == "iifname" else (OutInterface, OF_OUT_INTERFACE)
    if bounds.low == NEVER_MATCHING_INTERFACE:
        return ((place, kind("+", negated=not bounds.negated)),)
    ending = "" if b"\0" in bounds.low else "+"
    return ((place, kind(decode_text(bounds.low) + ending, bounds.negated)),)


def _mark(field: Field, bounds: Bounds, _family: Family) -> tuple[Placed, ...] | None:
    if bounds.low != bounds.high or len(bounds.low) != MARK_SIZE:
        return None
    mask = ALL_BITS if field.mask is None else decode_host_number(field.mask)
    return ((OF_EXTENSION, Mark(decode_host_number(bounds.low), mask, bounds.negated)),)


def _payload(field: Field, bounds: Bounds, family: Family) -> tuple[Placed, ...] | None:
    if field.base == nf.NFT_PAYLOAD_TRANSPORT_HEADER:
        return _port(field, bounds)
    if field.base != nf.NFT_PAYLOAD_NETWORK_HEADER:
        return None
    if (field.offset, field.length) == (PROTOCOL_OFFSETS[family], 1):
        return _protocol(field, bounds, family)
    if (family, field.offset, field.mask) == FRAGMENT and bounds.low == bounds.high == b"\0\0":
        return ((OF_PROTOCOL, UnknownMatch("-f" if bounds.negated else "! -f")),)
    return _network(field, bounds, family)


FRAGMENT: tuple[Family, int, bytes] = ("ipv4", 6, b"\x1f\xff")
"""Where the header says how far into the packet a fragment begins (RFC 791 3.1): ``-f`` means: not at 0."""
TCP_FLAGS_OFFSET = 13  # RFC 9293 3.1


def _port(field: Field, bounds: Bounds) -> tuple[Placed, ...] | None:
    if (field.offset, field.length) == (TCP_FLAGS_OFFSET, 1) and bounds.low == bounds.high:
        words = tcp_flags_words((field.mask or b"\xff")[0], bounds.low[0], negated=bounds.negated)
        return ((OF_EXTENSION, UnknownMatch(f"-m tcp {words}")),)
    if field.mask or len(bounds.low) != field.length:
        return None
    if field.length == 2 and field.offset in (0, 2):
        kind = DestinationPort if field.offset else SourcePort
        span = Span(decode_number(bounds.low), decode_number(bounds.high))
        return ((OF_EXTENSION, kind((span,), bounds.negated)),)
    if (field.offset, field.length) == (0, 4) and bounds.low == bounds.high:
        sport, dport = (decode_number(part) for part in (bounds.low[:2], bounds.low[2:]))
        if bounds.negated:
            # iptables 1.8.9 writes this for "! --sport 53 ! --dport 80", but it says "not both"
            return ((OF_EXTENSION, _unknown(f"not (th sport {sport} and th dport {dport})")),)
        both = SourcePort((Span(sport, sport),)), DestinationPort((Span(dport, dport),))
        return tuple((OF_EXTENSION, match) for match in both)
    return None


def _network(field: Field, bounds: Bounds, family: Family) -> tuple[Placed, ...] | None:
    """Return a comparison of an address, of its first bytes or under a mask."""
    kind = ADDRESS_KINDS.get((field.offset, family))
    size = BITS[family] // 8
    if kind is None or bounds.low != bounds.high or not 0 < len(bounds.low) == field.length <= size:
        return None
    mask = (field.mask or b"\xff" * field.length).ljust(size, b"\0")
    bits = int.from_bytes(mask, "big")
    host = ~bits & (1 << size * 8) - 1
    first = int.from_bytes(bounds.low.ljust(size, b"\0"), "big")
    if first & host:
        return None  # can never be equal
    place = OF_SOURCE if kind is Source else OF_DESTINATION
    if host & host + 1:
        words = masked_words("-s" if kind is Source else "-d", family, first, bits, negated=bounds.negated)
        return ((place, UnknownMatch(words)),)
    return ((place, kind((Network(family, first, size * 8 - host.bit_length()),), bounds.negated)),)


ADDRESS_KINDS: dict[tuple[int, Family], type[Source | Destination]] = {
    (offset, family): Source if kind is Source else Destination for (kind, family), offset in ADDRESS_OFFSETS.items()
}
COMPARISONS: dict[str, Callable[[Field, Bounds, Family], tuple[Placed, ...] | None]] = {
    "l4proto": _protocol,
    "iifname": _interface,
    "oifname": _interface,
    "mark": _mark,
    "payload": _payload,
}
