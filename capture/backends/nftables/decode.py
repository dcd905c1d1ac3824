"""From what the kernel dumps to native rules. Pure; the inverse of ``encode``, and more.

It also reads what nft(8) writes for the same rules, which differs between versions: a prefix as a short
load or under a mask, two neighbouring fields in one load, a range as two comparisons or as one, a plain set or
one of intervals, named or not. For that the expressions are run like a program: what each register was
loaded with, and what was done to it since, decides what a comparison means.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import PORT_SIZE
from capture.backends.nf_tables.hooks import decode_hook
from capture.backends.nf_tables.reading import VERDICTS, read_comment, read_counters, read_expression, read_verdict
from capture.backends.nftables.encode import ADDRESS_OFFSETS, HOST_ORDER, SIZES
from capture.backends.nftables.native import (
    ADDRESS_FAMILIES,
    CT_MARK,
    CT_STATE,
    DPORT,
    IIFNAME,
    L4PROTO,
    MARK,
    NFPROTO,
    NFPROTO_NUMBERS,
    OIFNAME,
    PROTOCOL_NUMBERS,
    SKGID,
    SKUID,
    SPORT,
    Among,
    Masked,
    Named,
    NativeChain,
    NativeRule,
    NativeTable,
    Proxy,
)
from capture.model.addresses import BITS, address_text
from capture.model.ruleset import (
    ALL_BITS,
    Counters,
    Jump,
    Log,
    Redirect,
    RestoreMark,
    SaveMark,
    SetMark,
    SetZone,
    UnknownMatch,
    UnknownVerdict,
)
from capture.model.values import Value
from capture.netlink.attributes import (
    BYTE_ORDER,
    decode,
    decode_fields,
    decode_host_number,
    decode_number,
    decode_text,
    u32be,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Literal

    from capture.backends.nftables.native import Action, Condition, Range
    from capture.model.addresses import Family
    from capture.model.ruleset import ProtocolName

    ByteOrder = Literal["little", "big"]
    Fields = dict[int, bytes]
    FindSet = Callable[[str], "NativeSet"]


class NativeSet(Value):
    """A set as it was dumped: its keys, those that end an interval apart; not understood if it has more than keys."""

    flags: int
    key_size: int
    keys: tuple[bytes, ...]
    ends: tuple[bytes, ...]
    understood: bool = True


class Register(Value):
    """What a register was loaded with: a field, or bytes of a header (base, offset, length), and what became of it."""

    field: str
    header: tuple[int, int, int] | None = None
    mask: bytes = b""
    flip: bytes = b""
    network_order: bool = False


class Bounds(Value):
    """The values that a comparison lets pass, or, negated, those it does not; empty if there are none."""

    low: bytes
    high: bytes
    negated: bool = False

    @property
    def is_single(self) -> bool:
        """Whether it is about one value."""
        return self.low == self.high

    def __str__(self) -> str:
        values = f"0x{self.low.hex()}" if self.is_single else f"0x{self.low.hex()}-0x{self.high.hex()}"
        return f"!= {values}" if self.negated else f"== {values}"


class Part(Value):
    """A field of a header in some of its bytes: from byte ``start`` of them on, the first ``taken`` of the field."""

    field: str
    start: int
    taken: int


META_FIELDS = {
    nf.NFT_META_NFPROTO: NFPROTO,
    nf.NFT_META_L4PROTO: L4PROTO,
    nf.NFT_META_IIFNAME: IIFNAME,
    nf.NFT_META_OIFNAME: OIFNAME,
    nf.NFT_META_SKUID: SKUID,
    nf.NFT_META_SKGID: SKGID,
    nf.NFT_META_MARK: MARK,
}
CT_FIELDS = {nf.NFT_CT_STATE: CT_STATE, nf.NFT_CT_MARK: CT_MARK}
FAMILIES_BY_NUMBER = {number: family for family, number in NFPROTO_NUMBERS.items()}
PROTOCOLS_BY_NUMBER = {number: name for name, number in PROTOCOL_NUMBERS.items()}
UNDERSTOOD_SETS = nf.NFT_SET_ANONYMOUS | nf.NFT_SET_CONSTANT | nf.NFT_SET_INTERVAL
# linux/netfilter/nf_tables.h: enum nft_nat_types, enum nft_nat_attributes
NFT_NAT_DNAT = 1
NFTA_NAT_TYPE = 1
NFTA_NAT_FAMILY = 2
NFTA_NAT_REG_ADDR_MIN = 3
NFTA_NAT_REG_ADDR_MAX = 4
NFTA_NAT_REG_PROTO_MIN = 5
NFTA_NAT_REG_PROTO_MAX = 6

HEADERS = {0: "ll", nf.NFT_PAYLOAD_NETWORK_HEADER: "nh", nf.NFT_PAYLOAD_TRANSPORT_HEADER: "th", 3: "ih"}


# --- tables and chains ---------------------------------------------------------------------------


def decode_table(
    table: bytes,
    chains: Iterable[bytes],
    rules: Iterable[bytes],
    find_set: FindSet,
    family: Family | None = None,
) -> NativeTable:
    """Return a table from its own attributes and those of its chains and rules, in the kernel's order.

    ``find_set`` returns the set of that name; it is called for the sets that rules look up. ``family`` is that of a
    table for one family, in which rules do not ask for it.
    """
    fields = decode_fields(table)
    by_chain: dict[bytes, list[NativeRule]] = {}
    known: dict[bytes, tuple[str, Fields]] = {}
    for rule in rules:
        rule_fields = decode_fields(rule)
        in_chain = by_chain.setdefault(rule_fields[nf.NFTA_RULE_CHAIN], [])
        in_chain.append(_rule(rule_fields, Program(find_set, family), known))
    native = tuple(_chain(decode_fields(chain), by_chain) for chain in chains)
    flags = decode_number(fields.get(nf.NFTA_TABLE_FLAGS, b""))
    return NativeTable(decode_text(fields[nf.NFTA_TABLE_NAME]), native, bool(flags & nf.NFT_TABLE_F_DORMANT))


def _chain(fields: Fields, rules: dict[bytes, list[NativeRule]]) -> NativeChain:
    name = fields[nf.NFTA_CHAIN_NAME]
    own = tuple(rules.get(name, ()))
    hook = decode_hook(fields)
    policy = nf.POLICIES[decode_number(fields[nf.NFTA_CHAIN_POLICY])] if hook is not None else None
    return NativeChain(decode_text(name), own, hook, policy)


def _rule(fields: Fields, program: Program, known: dict[bytes, tuple[str, Fields]]) -> NativeRule:
    for _, expression in decode(fields.get(nf.NFTA_RULE_EXPRESSIONS, b"")):
        decoded = known.get(expression)  # rules repeat themselves: most of their expressions were seen before
        if decoded is None:
            decoded = known[expression] = read_expression(expression)
        program.run(*decoded)
    comment = read_comment(fields.get(nf.NFTA_RULE_USERDATA, b""))
    return NativeRule(tuple(program.conditions), tuple(program.actions), program.counters, comment)


# --- sets ----------------------------------------------------------------------------------------


def decode_set(description: bytes, elements: Iterable[bytes]) -> NativeSet:
    """Return a set from its description and the messages with its elements."""
    fields = decode_fields(description)
    flags = decode_number(fields.get(nf.NFTA_SET_FLAGS, b""))
    size = decode_number(fields[nf.NFTA_SET_KEY_LEN])
    keys: list[bytes] = []
    ends: list[bytes] = []
    shapes: dict[bytes, list[bytes] | None] = {}
    key_end = KEY_OFFSET + size
    for message in elements:
        part = decode_fields(message).get(nf.NFTA_SET_ELEM_LIST_ELEMENTS, b"")
        offset, end = 0, len(part)
        while offset < end:
            length = int.from_bytes(part[offset : offset + 2], BYTE_ORDER)
            element = part[offset : offset + length]
            # All elements are alike but for the key, so that most need no decoding: there may be thousands.
            shape = element[key_end:]
            if shape not in shapes:
                is_end = _is_end(element, size)
                shapes[shape] = None if is_end is None else ends if is_end else keys
            one_of = shapes[shape]
            if one_of is None:
                return NativeSet(flags, size, (), (), understood=False)
            one_of.append(element[KEY_OFFSET:key_end])
            offset += (length + 3) & ~3
    return NativeSet(flags, size, tuple(keys), tuple(ends))


KEY_OFFSET = 12
"""Bytes before the key: the headers of the element, of its key, and of the key's value."""


def _is_end(element: bytes, size: int) -> bool | None:
    """Return whether an element ends an interval; None if it is not just a key at the usual place."""
    fields = decode_fields(element[4:])
    key = decode_fields(fields.get(nf.NFTA_SET_ELEM_KEY, b"")).get(nf.NFTA_DATA_VALUE)
    flags = decode_number(fields.get(nf.NFTA_SET_ELEM_FLAGS, b""))
    if key != element[KEY_OFFSET : KEY_OFFSET + size] or flags & ~nf.NFT_SET_ELEM_INTERVAL_END:
        return None
    if not fields.keys() <= {nf.NFTA_SET_ELEM_KEY, nf.NFTA_SET_ELEM_FLAGS, nf.NFTA_SET_ELEM_USERDATA}:
        return None
    return bool(flags)


def _ranges(native: NativeSet, order: ByteOrder) -> tuple[Range, ...] | None:
    """Return the numbers of a set as sorted ranges that do not touch; None if it holds something else."""
    if not native.understood or native.flags & ~UNDERSTOOD_SETS:
        return None
    firsts = sorted(int.from_bytes(key, order) for key in native.keys)
    if not native.flags & nf.NFT_SET_INTERVAL:
        return _joined((number, number) for number in firsts)
    if order != "big":
        return None  # intervals of numbers in another order are no intervals of numbers
    beyond = 1 << native.key_size * 8
    ends = sorted(int.from_bytes(key, order) for key in native.ends)
    return _joined(_intervals(firsts, ends, beyond))


def _intervals(firsts: list[int], ends: list[int], beyond: int) -> Iterator[Range]:
    """Yield from where to where intervals reach: to the next end, or the next beginning, or the highest number."""
    place = 0
    for first, following in zip(firsts, [*firsts[1:], beyond], strict=True):
        while place < len(ends) and ends[place] <= first:
            place += 1
        yield first, min(ends[place] if place < len(ends) else beyond, following) - 1


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Return sorted ranges with those that touch joined."""
    joined: list[Range] = []
    for first, last in ranges:
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)


# --- expressions ---------------------------------------------------------------------------------


class Program:
    """The expressions of one rule, run over what is known about registers instead of over a packet."""

    def __init__(self, find_set: FindSet, family: Family | None) -> None:
        self.conditions: list[Condition] = []
        self.actions: list[Action] = []
        self.counters: Counters | None = None
        self._find_set = find_set
        self._registers: dict[int, Register | bytes] = {}
        self._family = family
        self._protocol: ProtocolName | None = None
        self._lower_bound: tuple[Register, bytes] | None = None
        """What the last condition sets a lower bound to; an upper bound after it makes a range."""

    def run(self, name: str, fields: Fields) -> None:
        """Take the next expression into account."""
        run = RUN.get(name)
        if run is not None and run(self, fields):
            return
        words = _unknown_words(name, fields)
        if LOADERS.get(name) in fields:
            self._registers[_register(fields[LOADERS[name]])] = Register(words)
        elif name in FILTERS:
            self._put(UnknownMatch(words))
        else:
            self._registers.clear()  # it may have written to any of them
            self._do(UnknownVerdict(words))

    def _put(self, condition: Condition) -> None:
        """Add a condition; behind an action it is no longer one for the whole rule."""
        if self.actions:
            self.actions.append(_behind_action(condition))
            return
        self.conditions.append(condition)
        self._lower_bound = None
        if isinstance(condition, Among) and not condition.negated:
            number, last = condition.ranges[0]
            if number == last:
                if condition.field == NFPROTO:
                    self._family = FAMILIES_BY_NUMBER.get(number)
                elif condition.field == L4PROTO:
                    self._protocol = PROTOCOLS_BY_NUMBER.get(number)

    def _do(self, action: Action) -> bool:
        self.actions.append(action)
        return True

    # -- loading and changing registers

    def meta(self, fields: Fields) -> bool:
        """``meta``: load a field, or set the mark."""
        key = decode_number(fields[nf.NFTA_META_KEY])
        if nf.NFTA_META_DREG in fields:
            self._registers[_register(fields[nf.NFTA_META_DREG])] = Register(META_FIELDS.get(key, f"meta {key}"))
            return True
        if key != nf.NFT_META_MARK:
            return False
        value = self._registers.get(_register(fields[nf.NFTA_META_SREG]))
        action = _mark_action(value)
        return action is not None and self._do(action)

    def ct(self, fields: Fields) -> bool:
        """``ct``: load a field, or set the mark or the zone."""
        key = decode_number(fields[nf.NFTA_CT_KEY])
        if nf.NFTA_CT_DIRECTION in fields:
            return False
        if nf.NFTA_CT_DREG in fields:
            self._registers[_register(fields[nf.NFTA_CT_DREG])] = Register(CT_FIELDS.get(key, f"ct {key}"))
            return True
        value = self._registers.get(_register(fields[nf.NFTA_CT_SREG]))
        if key == nf.NFT_CT_MARK and value == Register(MARK):
            return self._do(SaveMark())
        if key == nf.NFT_CT_ZONE and isinstance(value, bytes):
            return self._do(SetZone(decode_host_number(value)))
        return False

    def payload(self, fields: Fields) -> bool:
        """``payload``: load bytes of a header."""
        if nf.NFTA_PAYLOAD_DREG not in fields:
            return False
        kinds = (nf.NFTA_PAYLOAD_BASE, nf.NFTA_PAYLOAD_OFFSET, nf.NFTA_PAYLOAD_LEN)
        base, offset, length = (decode_number(fields[kind]) for kind in kinds)
        self._registers[_register(fields[nf.NFTA_PAYLOAD_DREG])] = Register("", (base, offset, length))
        return True

    def bitwise(self, fields: Fields) -> bool:
        """``bitwise``: register = register & mask ^ flip."""
        loaded = self._registers.get(_register(fields[nf.NFTA_BITWISE_SREG]))
        operation = decode_number(fields.get(nf.NFTA_BITWISE_OP, b""))
        if operation != nf.NFT_BITWISE_MASK_XOR or not isinstance(loaded, Register) or loaded.mask:
            return False
        changed = loaded.replace(mask=fields[nf.NFTA_BITWISE_MASK], flip=fields[nf.NFTA_BITWISE_XOR])
        self._registers[_register(fields[nf.NFTA_BITWISE_DREG])] = changed
        return True

    def byteorder(self, fields: Fields) -> bool:
        """``byteorder``: turn a number of the machine into one whose first byte is the highest."""
        loaded = self._registers.get(_register(fields[nf.NFTA_BYTEORDER_SREG]))
        operation = decode_number(fields[nf.NFTA_BYTEORDER_OP])
        if operation != nf.NFT_BYTEORDER_HTON or not isinstance(loaded, Register) or loaded.mask:
            return False
        self._registers[_register(fields[nf.NFTA_BYTEORDER_DREG])] = loaded.replace(network_order=True)
        return True

    # -- comparing

    def cmp(self, fields: Fields) -> bool:
        """``cmp``: compare a register with a value."""
        loaded = self._registers.get(_register(fields[nf.NFTA_CMP_SREG]))
        if not isinstance(loaded, Register):
            return False
        operator, value = decode_number(fields[nf.NFTA_CMP_OP]), fields[nf.NFTA_CMP_DATA]
        lower_bound = self._lower_bound
        if operator == nf.NFT_CMP_LTE and lower_bound is not None and lower_bound[0] is loaded:
            self.conditions.pop()
            return self._compare(loaded, Bounds(lower_bound[1], value))
        self._compare(loaded, _bounds(operator, value))
        if operator == nf.NFT_CMP_GTE and not self.actions:
            self._lower_bound = (loaded, value)
        return True

    def range(self, fields: Fields) -> bool:
        """``range``: compare a register with two bounds at once."""
        loaded = self._registers.get(_register(fields[nf.NFTA_RANGE_SREG]))
        if not isinstance(loaded, Register):
            return False
        negated = decode_number(fields[nf.NFTA_RANGE_OP]) == nf.NFT_RANGE_NEQ
        return self._compare(loaded, Bounds(fields[nf.NFTA_RANGE_FROM_DATA], fields[nf.NFTA_RANGE_TO_DATA], negated))

    def _compare(self, loaded: Register, bounds: Bounds) -> bool:
        found = list(_conditions(loaded, bounds, self._family, self._protocol))
        if not found:
            found = [UnknownMatch(f"{_words(loaded)} {bounds}")]
        for condition in found:
            self._put(condition)
        return True

    def lookup(self, fields: Fields) -> bool:
        """``lookup``: look for a register in a set."""
        loaded = self._registers.get(_register(fields[nf.NFTA_LOOKUP_SREG]))
        if nf.NFTA_LOOKUP_DREG in fields:
            return self._do(UnknownVerdict(f"map of {_words(loaded)}"))
        if not isinstance(loaded, Register):
            return False
        name = decode_text(fields[nf.NFTA_LOOKUP_SET])
        negated = bool(decode_number(fields.get(nf.NFTA_LOOKUP_FLAGS, b"")) & nf.NFT_LOOKUP_F_INV)
        field = self._whole_field(loaded)
        size = SIZES.get(field)
        listed = self._find_set(name)
        in_host_order = field in HOST_ORDER and not loaded.network_order
        ranges = _ranges(listed, BYTE_ORDER if in_host_order else "big") if listed.key_size == size else None
        if ranges and not loaded.mask:
            self._put(Among(field, ranges, negated))
        else:
            subject = _words(loaded) if loaded.mask or not field else field
            self._put(UnknownMatch(f"{subject} {'!= ' if negated else ''}@{name}"))
        return True

    def _whole_field(self, loaded: Register) -> str:
        """Return the field that a register holds all of, or the empty string."""
        if loaded.header is None:
            return loaded.field
        parts = _parts(loaded.header, self._family, self._protocol)
        return parts[0].field if len(parts) == 1 and parts[0].taken == SIZES[parts[0].field] else ""

    # -- acting

    def immediate(self, fields: Fields) -> bool:
        """``immediate``: put a value into a register, or a verdict into the verdict register."""
        register = _register(fields[nf.NFTA_IMMEDIATE_DREG])
        data = decode_fields(fields[nf.NFTA_IMMEDIATE_DATA])
        if nf.NFTA_DATA_VALUE in data:
            self._registers[register] = data[nf.NFTA_DATA_VALUE]
            return True
        return self._do(_verdict(decode_fields(data[nf.NFTA_DATA_VERDICT])))

    def counter(self, fields: Fields) -> bool:
        """``counter``: how many packets came this far."""
        if self.counters is None:
            self.counters = read_counters(fields)
        return True

    def redir(self, fields: Fields) -> bool:
        """``redir``: redirect to a port of this machine."""
        first = fields.get(nf.NFTA_REDIR_REG_PROTO_MIN)
        port = self._registers.get(_register(first)) if first else None
        flags = decode_number(fields.get(nf.NFTA_REDIR_FLAGS, b""))
        one_port = fields.get(nf.NFTA_REDIR_REG_PROTO_MAX, first) == first
        if not isinstance(port, bytes) or not one_port or flags & ~nf.NF_NAT_RANGE_PROTO_SPECIFIED:
            return self._do(UnknownVerdict("redirect, not to one port"))
        return self._do(Redirect(decode_number(port)))

    def nat(self, fields: Fields) -> bool:
        """``nat``: send the connection to another address, which the model has no word for."""
        if decode_number(fields.get(NFTA_NAT_TYPE, b"\0")) != NFT_NAT_DNAT:
            return False
        kinds = (NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN)
        address, port = (self._registers.get(_register(fields[kind])) if kind in fields else b"" for kind in kinds)
        ranges = ((NFTA_NAT_REG_ADDR_MAX, kinds[0]), (NFTA_NAT_REG_PROTO_MAX, kinds[1]))
        one_each = all(fields.get(last, fields.get(first)) == fields.get(first) for last, first in ranges)
        if not isinstance(address, bytes) or not isinstance(port, bytes) or not one_each:
            return self._do(UnknownVerdict("dnat, not to one address and port"))
        family = FAMILIES_BY_NUMBER.get(decode_number(fields.get(NFTA_NAT_FAMILY, b"\0")), "ipv4")
        where = address_text(family, int.from_bytes(address, "big")) if address else ""
        where = f"[{where}]" if port and ":" in where else where
        return self._do(UnknownVerdict(f"dnat to {where}{f':{decode_number(port)}' if port else ''}"))

    def tproxy(self, fields: Fields) -> bool:
        """``tproxy``: give the packet to a local socket."""
        register = fields.get(nf.NFTA_TPROXY_REG_PORT)
        port = self._registers.get(_register(register)) if register else None
        if not isinstance(port, bytes) or nf.NFTA_TPROXY_REG_ADDR in fields:
            return self._do(UnknownVerdict("tproxy, not to a port of any address"))
        family = FAMILIES_BY_NUMBER.get(decode_number(fields[nf.NFTA_TPROXY_FAMILY]))
        return self._do(Proxy(decode_number(port), family))

    def log(self, fields: Fields) -> bool:
        """``log``: write a line to the kernel's log."""
        level = decode_number(fields.get(nf.NFTA_LOG_LEVEL, u32be(nf.NFT_LOGLEVEL_WARNING)))
        flags = decode_number(fields.get(nf.NFTA_LOG_FLAGS, b""))
        if nf.NFTA_LOG_GROUP in fields or level != nf.NFT_LOGLEVEL_WARNING or flags:
            return self._do(UnknownVerdict("log, not as a plain warning"))
        return self._do(Log(decode_text(fields.get(nf.NFTA_LOG_PREFIX, b""))))


RUN: dict[str, Callable[[Program, Fields], bool]] = {
    "meta": Program.meta,
    "ct": Program.ct,
    "payload": Program.payload,
    "bitwise": Program.bitwise,
    "byteorder": Program.byteorder,
    "cmp": Program.cmp,
    "range": Program.range,
    "lookup": Program.lookup,
    "immediate": Program.immediate,
    "counter": Program.counter,
    "nat": Program.nat,
    "redir": Program.redir,
    "tproxy": Program.tproxy,
    "log": Program.log,
}
"""What understands an expression; returns False if it meets one that the model has no words for."""

LOADERS = {
    "fib": nf.NFTA_FIB_DREG,
    "socket": nf.NFTA_SOCKET_DREG,
    "rt": nf.NFTA_RT_DREG,
    "exthdr": nf.NFTA_EXTHDR_DREG,
    "numgen": nf.NFTA_NG_DREG,
    "hash": nf.NFTA_HASH_DREG,
    "osf": nf.NFTA_OSF_DREG,
    "xfrm": nf.NFTA_XFRM_DREG,
    "tunnel": nf.NFTA_TUNNEL_DREG,
    "bitwise": nf.NFTA_BITWISE_DREG,
    "byteorder": nf.NFTA_BYTEORDER_DREG,
}
"""Expressions that do nothing but write a register, and the attribute that says which."""

FILTERS = {"limit", "quota", "connlimit", "match", "cmp", "range", "lookup"}
"""Expressions that only let packets pass or not. Any other that we do not understand may take them away."""


def _register(number: bytes) -> int:
    """Return the place of a register in units of four bytes: 1 to 4 are the sixteen-byte names of 8, 12, 16 and 20."""
    place = decode_number(number)
    return nf.NFT_REG32_00 + (place - nf.NFT_REG_1) * 4 if 0 < place < nf.NFT_REG32_00 else place


def _unknown_words(name: str, fields: Fields) -> str:
    """Return an expression that we do not understand as its name and its numbered attributes."""
    if name in ("match", "target"):  # of iptables, by way of nft_compat
        return f"[{name} {decode_text(fields[nf.NFTA_MATCH_NAME])} of iptables]"
    return " ".join([f"[{name}", *(f"{kind}={value.hex()}" for kind, value in fields.items())]) + "]"


def _words(loaded: Register | bytes | None) -> str:
    """Return what a register holds as nft would say it, ``@nh,96,32`` for bits of a header."""
    if not isinstance(loaded, Register):
        return "an unknown value" if loaded is None else f"0x{loaded.hex()}"
    if loaded.header is None:
        words = loaded.field
    else:
        base, offset, length = loaded.header
        words = f"@{HEADERS.get(base, base)},{offset * 8},{length * 8}"
    return f"{words} & 0x{loaded.mask.hex()} ^ 0x{loaded.flip.hex()}" if loaded.mask else words


def _behind_action(condition: Condition) -> UnknownVerdict:
    from capture.backends.nftables.text import described  # only foreign rules need words

    return UnknownVerdict(described(condition))


def _mark_action(value: Register | bytes | None) -> Action | None:
    """Return what setting the packet's mark to this value is."""
    if isinstance(value, bytes):
        return SetMark(decode_host_number(value))
    if value == Register(CT_MARK):
        return RestoreMark()
    if isinstance(value, Register) and value.field == MARK and value.mask:
        kept, flip = decode_host_number(value.mask), decode_host_number(value.flip)
        return SetMark(flip, ALL_BITS & ~kept) if not kept & flip else None
    return None


def _verdict(fields: Fields) -> Action:
    code, chain = read_verdict(fields)
    if code == nf.NFT_JUMP:
        return Jump(chain)
    if code == nf.NFT_GOTO:
        return UnknownVerdict(f"goto {chain}")
    return VERDICTS.get(code) or UnknownVerdict(f"verdict {code}")


def _bounds(operator: int, value: bytes) -> Bounds:
    """Return the lowest and the highest value that a comparison is about, without a value if there is none."""
    number, size = int.from_bytes(value, "big"), len(value)
    highest = (1 << size * 8) - 1
    low, high = {
        nf.NFT_CMP_LT: (0, number - 1),
        nf.NFT_CMP_LTE: (0, number),
        nf.NFT_CMP_GT: (number + 1, highest),
        nf.NFT_CMP_GTE: (number, highest),
    }.get(operator, (number, number))
    if low > high:
        return Bounds(b"", b"")
    return Bounds(low.to_bytes(size, "big"), high.to_bytes(size, "big"), operator == nf.NFT_CMP_NEQ)


# --- what a comparison means ---------------------------------------------------------------------


def _conditions(
    loaded: Register, bounds: Bounds, family: Family | None, protocol: ProtocolName | None
) -> Iterator[Condition]:
    """Yield what it means that a register lies between two values; nothing if the model has no words for it."""
    low, negated = bounds.low, bounds.negated
    if loaded.header is not None:
        if len(low) == loaded.header[2]:
            yield from _header_conditions(loaded, bounds, _parts(loaded.header, family, protocol))
    elif loaded.field in (IIFNAME, OIFNAME):
        if bounds.is_single and low and not loaded.mask:
            # With a NUL it is a whole name, without one a beginning; nft pads to 16 bytes, iptables-nft does not.
            name = low.rstrip(b"\0").decode("utf-8", "surrogateescape")
            yield Named(loaded.field, name, b"\0" not in low, negated)
    elif len(low) == SIZES.get(loaded.field):
        in_host_order = loaded.field in HOST_ORDER and not loaded.network_order
        order = BYTE_ORDER if in_host_order else "big"
        first, last = int.from_bytes(low, order), int.from_bytes(bounds.high, order)
        if loaded.mask and bounds.is_single:
            mask, flip = int.from_bytes(loaded.mask, order), int.from_bytes(loaded.flip, order)
            yield Masked(loaded.field, mask, first ^ flip, negated)
        elif not loaded.mask and (bounds.is_single or not in_host_order):
            yield Among(loaded.field, ((first, last),), negated)


def _header_conditions(loaded: Register, bounds: Bounds, parts: list[Part]) -> Iterator[Condition]:
    """Yield what a comparison of header bytes says about each field that lies in them."""
    if bounds.is_single:
        found = [_prefix(loaded, bounds, part) for part in parts]
        if None not in found and not (bounds.negated and len(found) > 1):
            yield from (condition for condition in found if condition is not None)
    elif len(parts) == 1 and parts[0].taken == SIZES[parts[0].field] and not loaded.mask:
        ends = int.from_bytes(bounds.low, "big"), int.from_bytes(bounds.high, "big")
        yield Among(parts[0].field, (ends,), bounds.negated)


def _prefix(loaded: Register, bounds: Bounds, part: Part) -> Among | None:
    """Return what a comparison with one value says about a field; None if it is not about its first bits."""
    size = SIZES[part.field]
    missing = (size - part.taken) * 8
    place = slice(part.start, part.start + part.taken)
    mask = int.from_bytes(loaded.mask[place], "big") if loaded.mask else (1 << part.taken * 8) - 1
    flip = int.from_bytes(loaded.flip[place], "big")
    first = (int.from_bytes(bounds.low[place], "big") ^ flip) << missing
    free = (1 << size * 8) - 1 ^ mask << missing
    if free & free + 1 or first & free:
        return None
    return Among(part.field, ((first, first | free),), bounds.negated)


LAYOUTS: dict[Family, list[tuple[str, int]]] = {
    family: sorted(
        ((field, ADDRESS_OFFSETS[field]) for field, of_family in ADDRESS_FAMILIES.items() if of_family == family),
        key=lambda entry: entry[1],
    )
    for family in BITS
}
"""The addresses of each family by their place in the header."""
# Where iptables-nft compares the protocol since 1.8.11 (RFC 791 3.1). In IPv6 an extension header may come first.
LAYOUTS["ipv4"].insert(0, (L4PROTO, 9))


def _parts(header: tuple[int, int, int], family: Family | None, protocol: ProtocolName | None) -> list[Part]:
    """Return the fields in some bytes of a header.

    Bytes that are not all of known fields, each from its beginning, give an empty list.
    """
    base, offset, length = header
    layout: list[tuple[str, int]] = []
    if base == nf.NFT_PAYLOAD_NETWORK_HEADER and family is not None:
        layout = LAYOUTS[family]
    elif base == nf.NFT_PAYLOAD_TRANSPORT_HEADER and protocol is not None:
        layout = [(SPORT[protocol], 0), (DPORT[protocol], PORT_SIZE)]
    parts: list[Part] = []
    position = offset
    for field, place in layout:
        if place == position < offset + length:
            taken = min(SIZES[field], offset + length - position)
            parts.append(Part(field, position - offset, taken))
            position += taken
    return parts if position == offset + length else []
