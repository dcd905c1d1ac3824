"""From what the kernel dumps to native rules. Pure; the inverse of ``encode``, and more.

It also reads what nft(8) writes for the same rules, which differs between versions: a prefix as a short
load or under a mask, two neighbouring fields in one load, a range as two comparisons or as one, a plain set or
one of intervals, named or not. For that the expressions are run like a program: what each register was
loaded with, and what was done to it since, decides what a comparison means.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import native
from capture.backends.nf_tables.comparisons import (
    ACTING_ON_ONE_FAMILY,
    CT_DIRECTIONS,
    CT_NAMES,
    FIB_FIELDS,
    META_FIELDS,
    Bounds,
    Register,
    comparison_conditions,
    header_fields,
)
from capture.backends.nf_tables.expressions import PORT_SIZE
from capture.backends.nf_tables.listing import FoundTable, read_counters
from capture.backends.nf_tables.sets import NativeSet, cases_of
from capture.model import ruleset as model
from capture.model.addresses import BITS, FAMILY_BY_NUMBER, FAMILY_NUMBERS, IPV4, Family
from capture.model.conventions import PROTOCOL_BY_NUMBER
from capture.model.text import without_line_ends
from capture.netlink.attributes import (
    Fields,
    MalformedMessageError,
    decode_elements,
    decode_fields,
    decode_host_number,
    decode_number,
    decode_text,
    u32be,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from capture.backends.nf_tables.maps import Case, Content

    FindSet = Callable[[str], "NativeSet"]


def decode_table(table: FoundTable, rules: Iterable[bytes], find_set: FindSet) -> native.NativeTable:
    """Return a table that was found, from the attributes of its rules in the kernel's order.

    ``find_set`` returns the set of that name; it is called for the sets that rules look up.
    """
    by_chain: dict[str, list[native.NativeRule]] = {}
    known: dict[bytes, tuple[str, Fields]] = {}
    for rule in rules:
        fields = decode_fields(rule)
        in_chain = by_chain.setdefault(decode_text(fields[nf.NFTA_RULE_CHAIN]), [])
        in_chain.append(decode_rule(fields, Program(find_set, None), known))
    decoded = (
        native.NativeChain(chain.name, tuple(by_chain.get(chain.name, ())), chain.hook, chain.policy)
        for chain in table.chains
    )
    return native.NativeTable(table.name, tuple(decoded), table.is_dormant)


def decode_rule(fields: Fields, program: Program, known: dict[bytes, tuple[str, Fields]]) -> native.NativeRule:
    """Return a rule; ``known`` remembers expressions, since most were in another rule before."""
    for expression in decode_elements(fields.get(nf.NFTA_RULE_EXPRESSIONS, b"")):
        if expression not in known:
            known[expression] = read_expression(expression)
        program.run(*known[expression])
    comment = _read_comment(fields.get(nf.NFTA_RULE_USERDATA, b""))
    return native.NativeRule(tuple(program.conditions), tuple(program.actions), program.counters, comment)


def read_expression(expression: bytes) -> tuple[str, Fields]:
    """Return the name and the fields of an expression, values unwrapped; no fields where they are malformed."""
    outer = decode_fields(expression)
    name = decode_text(outer[nf.NFTA_EXPR_NAME])
    try:
        fields = decode_fields(outer.get(nf.NFTA_EXPR_DATA, b""))
        for kind in VALUES.get(name, ()):
            if kind in fields:
                fields[kind] = decode_fields(fields[kind]).get(nf.NFTA_DATA_VALUE, b"")
    except MalformedMessageError:  # another kernel than those we know writes so
        return name, {}
    return name, fields


VALUES = {
    "cmp": (nf.NFTA_CMP_DATA,),
    "range": (nf.NFTA_RANGE_FROM_DATA, nf.NFTA_RANGE_TO_DATA),
    "bitwise": (nf.NFTA_BITWISE_MASK, nf.NFTA_BITWISE_XOR),
}
"""Attributes that hold nothing but a nested value."""


def _read_comment(userdata: bytes) -> str:
    """Return the comment among a rule's userdata (libnftnl/udata.h): records of a type, a length and as many bytes."""
    while len(userdata) >= 2:
        kind, end = userdata[0], 2 + userdata[1]
        if kind == nf.NFTNL_UDATA_RULE_COMMENT:
            return without_line_ends(decode_text(userdata[2:end]))
        userdata = userdata[end:]
    return ""


class Program:
    """The expressions of one rule, run over what is known about registers instead of over a packet."""

    UNDERSTOOD = frozenset((
        "meta", "fib", "ct", "payload", "bitwise", "byteorder", "cmp", "range", "lookup", "immediate", "counter",
        "nat", "redir", "tproxy", "log",
    ))  # fmt: skip
    """Expressions with a method of that name; it returns False where the model has no words for one."""
    GOTO = "goto"

    def __init__(self, find_set: FindSet, family: Family | None) -> None:
        self.conditions: list[native.Condition] = []
        self.actions: list[native.Action | native.Condition] = []
        self.counters: model.Counters | None = None
        self._find_set = find_set
        self._registers: dict[int, Content] = {}
        self._family = family
        self._protocol: model.ProtocolName | None = None
        self._lower_bound: tuple[Register, bytes] | None = None
        """The lower bound that the last condition sets; an upper bound after it makes a range."""

    def run(self, name: str, fields: Fields) -> None:
        """Take the next expression into account."""
        if name in ACTING_ON_ONE_FAMILY:
            kind, families = ACTING_ON_ONE_FAMILY[name]
            family = families.get(decode_number(fields.get(kind, b"")))
            if family and family != self._family:
                self._add(native.Among(native.NFPROTO, ((FAMILY_NUMBERS[family],) * 2,)))
        try:
            if name in self.UNDERSTOOD and getattr(self, name)(fields):
                return
        except (KeyError, IndexError, ValueError, MalformedMessageError):  # another kernel than those we know writes so
            pass
        from capture.backends.nf_tables import foreign_expressions as foreign  # few rules need them

        if foreign.LOADERS.get(name) in fields:
            self._load_register(fields[foreign.LOADERS[name]], foreign.loaded_register(name, fields))
        elif name in foreign.FILTERS:
            self._add(foreign.unknown_match(name, fields))
        else:
            self._registers.clear()  # it may have written to any of them
            self._act(foreign.unknown_verdict(name, fields, self._family))

    def _add(self, condition: native.Condition) -> None:
        """Add a condition; behind an action it is no longer one for the whole rule."""
        (self.actions or self.conditions).append(condition)
        self._lower_bound = None
        if isinstance(condition, native.Among) and not condition.negated:
            number, last = condition.ranges[0]
            if number == last:
                if condition.field == native.NFPROTO:
                    self._family = FAMILY_BY_NUMBER.get(number)
                elif condition.field == native.L4PROTO:
                    self._protocol = PROTOCOL_BY_NUMBER.get(number)

    def _act(self, action: native.Action) -> bool:
        self.actions.append(action)
        return True

    # -- loading and changing registers

    def _load_register(self, register: bytes, value: Register | bytes) -> bool:
        self._registers[_register_number(register)] = value
        return True

    def _content(self, register: bytes | None) -> Content:
        return self._registers.get(_register_number(register)) if register else None

    def meta(self, fields: Fields) -> bool:
        key = decode_number(fields[nf.NFTA_META_KEY])
        if nf.NFTA_META_DREG in fields:
            return self._load_register(fields[nf.NFTA_META_DREG], Register(META_FIELDS.get(key, f"meta {key}")))
        if key != nf.NFT_META_MARK:
            return False
        action = _mark_action(self._content(fields[nf.NFTA_META_SREG]))
        return action is not None and self._act(action)

    def fib(self, fields: Fields) -> bool:
        """``fib``: load what kind of address the source or the destination is, on any interface."""
        field = FIB_FIELDS.get((decode_number(fields[nf.NFTA_FIB_RESULT]), decode_number(fields[nf.NFTA_FIB_FLAGS])))
        return field is not None and self._load_register(fields[nf.NFTA_FIB_DREG], Register(field))

    def ct(self, fields: Fields) -> bool:
        """``ct``: load a field, or set the mark or the zone."""
        key = decode_number(fields[nf.NFTA_CT_KEY])
        direction = CT_DIRECTIONS[fields[nf.NFTA_CT_DIRECTION]] if nf.NFTA_CT_DIRECTION in fields else ""
        if nf.NFTA_CT_DREG in fields:
            return self._load_register(fields[nf.NFTA_CT_DREG], Register(f"ct {direction}{CT_NAMES.get(key, key)}"))
        value = self._content(fields[nf.NFTA_CT_SREG])
        if key == nf.NFT_CT_MARK and value == Register(native.MARK):
            return self._act(model.SaveMark())
        if key == nf.NFT_CT_ZONE and isinstance(value, bytes):
            return self._act(model.SetZone(decode_host_number(value)))
        if key == nf.NFT_CT_MARK and isinstance(value, bytes):
            return self._act(model.UnknownVerdict(f"ct mark set {decode_host_number(value):#x}"))
        return False

    def payload(self, fields: Fields) -> bool:
        if nf.NFTA_PAYLOAD_DREG not in fields:
            return False
        kinds = (nf.NFTA_PAYLOAD_BASE, nf.NFTA_PAYLOAD_OFFSET, nf.NFTA_PAYLOAD_LEN)
        base, offset, length = (decode_number(fields[kind]) for kind in kinds)
        return self._load_register(fields[nf.NFTA_PAYLOAD_DREG], Register("", (base, offset, length)))

    def bitwise(self, fields: Fields) -> bool:
        """``bitwise``: register = register & mask ^ flip."""
        loaded = self._content(fields[nf.NFTA_BITWISE_SREG])
        operation = decode_number(fields.get(nf.NFTA_BITWISE_OP, b""))
        if operation != nf.NFT_BITWISE_MASK_XOR or not isinstance(loaded, Register) or loaded.mask:
            return False
        changed = loaded.replace(mask=fields[nf.NFTA_BITWISE_MASK], flip=fields[nf.NFTA_BITWISE_XOR])
        return self._load_register(fields[nf.NFTA_BITWISE_DREG], changed)

    def byteorder(self, fields: Fields) -> bool:
        """``byteorder``: turn a number of the machine into one whose first byte is the highest."""
        loaded = self._content(fields[nf.NFTA_BYTEORDER_SREG])
        operation = decode_number(fields[nf.NFTA_BYTEORDER_OP])
        if operation != nf.NFT_BYTEORDER_HTON or not isinstance(loaded, Register) or loaded.mask:
            return False
        return self._load_register(fields[nf.NFTA_BYTEORDER_DREG], loaded.replace(is_network_order=True))

    # -- comparing

    def cmp(self, fields: Fields) -> bool:
        loaded = self._content(fields[nf.NFTA_CMP_SREG])
        if not isinstance(loaded, Register):
            return False
        operator, value = decode_number(fields[nf.NFTA_CMP_OP]), fields[nf.NFTA_CMP_DATA]
        lower_bound = self._lower_bound
        if operator == nf.NFT_CMP_LTE and lower_bound is not None and lower_bound[0] is loaded:
            (self.actions or self.conditions).pop()
            return self._compare(loaded, Bounds(lower_bound[1], value))
        self._compare(loaded, self._comparison_bounds(operator, value))
        if operator == nf.NFT_CMP_GTE:
            self._lower_bound = (loaded, value)
        return True

    def range(self, fields: Fields) -> bool:
        loaded = self._content(fields[nf.NFTA_RANGE_SREG])
        if not isinstance(loaded, Register):
            return False
        negated = decode_number(fields[nf.NFTA_RANGE_OP]) == nf.NFT_RANGE_NEQ
        return self._compare(loaded, Bounds(fields[nf.NFTA_RANGE_FROM_DATA], fields[nf.NFTA_RANGE_TO_DATA], negated))

    def _compare(self, loaded: Register, bounds: Bounds) -> bool:
        conditions = tuple(comparison_conditions(loaded, bounds, self._family, self._protocol))
        for condition in conditions or (self._unmodelled_comparison(loaded, bounds),):
            self._add(condition)
        return True

    def _unmodelled_comparison(self, loaded: Register, bounds: Bounds) -> native.Condition:
        from capture.backends.nf_tables.foreign_expressions import unmodelled_comparison  # few rules need it

        return unmodelled_comparison(loaded, bounds, self._family)

    def _comparison_bounds(self, operator: int, value: bytes) -> Bounds:
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

    def lookup(self, fields: Fields) -> bool:
        source, name = fields[nf.NFTA_LOOKUP_SREG], decode_text(fields[nf.NFTA_LOOKUP_SET])
        loaded, listed = self._content(source), self._find_set(name)
        subject = self._key_words(source, listed)
        if nf.NFTA_LOOKUP_DREG in fields:
            return self._choose(fields[nf.NFTA_LOOKUP_DREG], f"{subject} vmap", self._map_cases(source, listed))
        if not isinstance(loaded, Register):
            return False
        negated = bool(decode_number(fields.get(nf.NFTA_LOOKUP_FLAGS, b"")) & nf.NFT_LOOKUP_F_INV)
        cases = [conditions for conditions, _ in self._map_cases(source, listed)]
        alone = [each for (each, *more) in cases if isinstance(each, native.Among | native.Named) and not more]
        if cases and not negated:
            one = cases[0] if len(cases) == 1 else (native.Cases(subject, tuple((each, None) for each in cases)),)
            for condition in one:
                self._add(condition)
        elif cases and len(alone) == len(cases):
            for condition in alone:
                self._add(condition.replace(negated=True))
        else:
            self._add(model.UnknownMatch(f"{subject} {'!= ' if negated else ''}@{name}", is_pure=loaded.is_pure))
        return True

    def _key_words(self, source: bytes, listed: NativeSet) -> str:
        loaded = self._content(source)
        field = self._whole_field(loaded)
        if listed.key_size != native.FIELD_SIZES.get(field):
            from capture.backends.nf_tables.maps import key_fields  # our own sets have one field

            fields = [each for each, _ in key_fields(self._registers, _register_number(source), listed.key_size)]
            if len(fields) > 1:
                return " . ".join(self._whole_field(each) or each.words for each in fields)
        if isinstance(loaded, Register):
            return field or loaded.words
        return f"0x{loaded.hex()}" if isinstance(loaded, bytes) else "an unknown value"

    def _choose(self, target: bytes, subject: str, cases: tuple[Case, ...]) -> bool:
        """Act by the verdicts of a map, or load its data. A map without cases has no words, or may change."""
        from capture.backends.nf_tables.maps import MAX_KEY_CASES, REGISTER_SIZE, MapData  # no rule of ours has a map

        data = [(key, decode_fields(each)) for key, each in cases]
        if decode_number(target) == nf.NFT_REG_VERDICT:
            verdicts = tuple((key, self._verdict_action(each)) for key, each in data)
            return self._act(native.Cases(subject, verdicts) if verdicts else model.UnknownVerdict(subject))
        values = [(key, each[nf.NFTA_DATA_VALUE]) for key, each in data] if len(data) <= MAX_KEY_CASES else []
        for number in range(len(values[0][1]) // REGISTER_SIZE or 1) if values else ():
            of_register = tuple((key, each[number * REGISTER_SIZE :]) for key, each in values)
            self._registers[_register_number(target) + number] = MapData(subject, of_register)
        return bool(values)

    def _map_cases(self, source: bytes, listed: NativeSet) -> tuple[Case, ...]:
        """Return which data a set or a map has for which packets; none if that has no words, or may change."""
        loaded = self._content(source)
        field = self._whole_field(loaded)
        is_field = listed.key_size == native.FIELD_SIZES.get(field) and not (
            listed.data and field in native.MARK_FIELDS.values()
        )
        if is_field and isinstance(loaded, Register) and (by_data := cases_of(listed, loaded.byte_order)):
            return tuple(((native.Among(field, ranges),), data) for data, ranges in by_data.items())
        if any(isinstance(part, native.Cases) for part in (*self.conditions, *self.actions)):
            return ()  # of two sets each case of one would be one with each of the other
        from capture.backends.nf_tables.maps import cases_by_key  # our own sets have one field

        return cases_by_key(listed, self._registers, _register_number(source), (self._family, self._protocol))

    def _whole_field(self, loaded: Content) -> str:
        if not isinstance(loaded, Register) or loaded.mask:
            return ""
        if loaded.header is None:
            return loaded.field
        parts = header_fields(loaded.header, self._family, self._protocol)
        return parts[0].field if len(parts) == 1 and parts[0].taken == native.FIELD_SIZES[parts[0].field] else ""

    # -- acting

    def immediate(self, fields: Fields) -> bool:
        """``immediate``: put a value into a register, or a verdict into the verdict register."""
        data = decode_fields(fields[nf.NFTA_IMMEDIATE_DATA])
        if nf.NFTA_DATA_VALUE in data:
            return self._load_register(fields[nf.NFTA_IMMEDIATE_DREG], data[nf.NFTA_DATA_VALUE])
        return self._act(self._verdict_action(data))

    def _verdict_action(self, data: Fields) -> native.Action:
        fields = decode_fields(data[nf.NFTA_DATA_VERDICT])
        code = int.from_bytes(fields[nf.NFTA_VERDICT_CODE], "big", signed=True)
        chain = decode_text(fields.get(nf.NFTA_VERDICT_CHAIN, b""))
        if code == nf.NFT_JUMP:
            return model.Jump(chain)
        if code == nf.NFT_GOTO:
            return model.UnknownVerdict(f"{self.GOTO} {chain}", model.Goto(chain))
        return VERDICT_OF_CODE.get(code) or model.UnknownVerdict(f"verdict {code}")

    def counter(self, fields: Fields) -> bool:
        if self.counters is None:
            self.counters = read_counters(fields)
        return True

    def redir(self, fields: Fields) -> bool:
        sizes = dict.fromkeys((nf.NFTA_REDIR_REG_PROTO_MIN, nf.NFTA_REDIR_REG_PROTO_MAX), PORT_SIZE)
        return self._act(self._made(redirect, fields, sizes) or model.UnknownVerdict("redirect, to an unknown port"))

    def nat(self, fields: Fields) -> bool:
        """``nat``: map the connection's destination or source to another address, which the model has no word for."""
        from capture.backends.nf_tables.foreign_expressions import NAT_WORDS, translation_to  # no rule of ours has one

        word, otherwise = NAT_WORDS[decode_number(fields[nf.NFTA_NAT_TYPE])]
        family = self._family or IPV4
        sizes = dict.fromkeys((nf.NFTA_NAT_REG_ADDR_MIN, nf.NFTA_NAT_REG_ADDR_MAX), BITS[family] // 8)
        sizes |= dict.fromkeys((nf.NFTA_NAT_REG_PROTO_MIN, nf.NFTA_NAT_REG_PROTO_MAX), PORT_SIZE)
        done = self._made(lambda *values: translation_to(word, family, *values), fields, sizes)
        return self._act(done or model.UnknownVerdict(f"{word}, to an unknown address", otherwise))

    def _made(self, make: Callable[..., native.Action], fields: Fields, sizes: dict[int, int]) -> native.Action | None:
        """Return what ``make`` returns for values in registers that are named in fields; None if one is not known."""
        values = [self._content(fields[kind]) if kind in fields else b"" for kind in sizes]
        if all(isinstance(each, bytes) for each in values):
            return make(*values)
        from capture.backends.nf_tables.maps import done_by_key  # no rule of ours has a map

        return done_by_key(make, *zip(values, sizes.values(), strict=True))

    def tproxy(self, fields: Fields) -> bool:
        port = self._content(fields.get(nf.NFTA_TPROXY_REG_PORT))
        if not isinstance(port, bytes) or nf.NFTA_TPROXY_REG_ADDR in fields:
            return self._act(model.UnknownVerdict("tproxy, not to a port of any address"))
        family = FAMILY_BY_NUMBER.get(decode_number(fields[nf.NFTA_TPROXY_FAMILY]))
        return self._act(native.TproxyStatement(decode_number(port), family))

    def log(self, fields: Fields) -> bool:
        level = decode_number(fields.get(nf.NFTA_LOG_LEVEL, u32be(nf.NFT_LOGLEVEL_WARNING)))
        flags = decode_number(fields.get(nf.NFTA_LOG_FLAGS, b""))
        if nf.NFTA_LOG_GROUP in fields or level != nf.NFT_LOGLEVEL_WARNING or flags:
            return self._act(model.UnknownVerdict("log, not as a plain warning", model.Continue()))
        return self._act(model.Log(decode_text(fields.get(nf.NFTA_LOG_PREFIX, b""))))


def redirect(first: bytes, last: bytes) -> native.Action:
    """Return the redirect to a port, or to one of several; with none, to the one that was called."""
    if first and last in (b"", first):
        return model.Redirect(decode_number(first))
    from capture.backends.nf_tables.foreign_expressions import foreign_redirect  # ours are to one port

    return foreign_redirect(first, last)


VERDICT_OF_CODE: dict[int, model.Accept | model.Drop | model.Return | model.UnknownVerdict] = {
    nf.NF_ACCEPT: model.Accept(),
    nf.NF_DROP: model.Drop(),
    nf.NFT_RETURN: model.Return(),
    nf.NFT_CONTINUE: model.UnknownVerdict("continue", model.Continue()),
}
"""The verdicts without a chain, by their codes."""


def _register_number(register: bytes) -> int:
    """Return the place of a register in units of four bytes: 1 to 4 are the sixteen-byte names of 8, 12, 16 and 20."""
    number = decode_number(register)
    return nf.NFT_REG32_00 + (number - nf.NFT_REG_1) * 4 if 0 < number < nf.NFT_REG32_00 else number


def _mark_action(value: Content) -> native.Action | None:
    if isinstance(value, bytes):
        return model.SetMark(decode_host_number(value))
    if value == Register(native.CT_MARK):
        return model.RestoreMark()
    if isinstance(value, Register) and value.field == native.MARK and value.mask:
        kept, flip = decode_host_number(value.mask), decode_host_number(value.flip)
        return model.SetMark(flip, model.ALL_BITS & ~kept) if not kept & flip else None
    return None
