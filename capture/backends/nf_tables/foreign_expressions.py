"""Expressions of foreign rules that the model of our own lacks: in nft's notation, and what they mean.

What has no words here is shown by name and numbered attributes: ``[queue 1=0005]``. Only what is certain has a meaning.
Pure, but for the names of interfaces, which the namespace we are in tells.
"""

from __future__ import annotations

import _socket

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import native
from capture.backends.nf_tables.comparisons import Bounds, OtherRegister, Register
from capture.backends.nf_tables.render import described
from capture.model import foreign
from capture.model import ruleset as model
from capture.model.addresses import BITS, IPV4, IPV6, Family, Network, address_text
from capture.model.conventions import ADDRESS_TYPES, PROTOCOL_BY_NUMBER
from capture.netlink.attributes import BYTE_ORDER, Fields, decode_number, decode_text
from capture.netlink.routing import RTN_LOCAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


# linux/netfilter/nf_tables.h: enum nft_limit_attributes, nft_quota_attributes, nft_ng_attributes
NFTA_LIMIT_RATE, NFTA_LIMIT_UNIT, NFTA_LIMIT_BURST, NFTA_LIMIT_TYPE, NFTA_LIMIT_FLAGS = 1, 2, 3, 4, 5
NFTA_QUOTA_BYTES, NFTA_QUOTA_FLAGS = 1, 2
NFTA_NG_MODULUS, NFTA_NG_TYPE, NFTA_NG_OFFSET = 2, 3, 4
NFTA_DYNSET_EXPRESSIONS = (7, 10)  # one, or several
INVERTED_FLAG = 1  # NFT_LIMIT_F_INV, NFT_QUOTA_F_INV
NFT_NAT_SNAT = 0

ANSWERS: dict[tuple[int, Family | None], tuple[str, ...]] = {
    (0, IPV4): ("icmp net-unreachable", "icmp host-unreachable", "icmp prot-unreachable", "icmp port-unreachable"),
    (0, IPV6): ("icmpv6 no-route", "icmpv6 admin-prohibited", "", "icmpv6 addr-unreachable", "icmpv6 port-unreachable"),
    (2, None): ("icmpx no-route", "icmpx port-unreachable", "icmpx host-unreachable", "icmpx admin-prohibited"),
}
"""The answers of a rule, by its type, and by its family where the codes are those of one; then by the code."""
RATE_UNITS = {1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}


def unknown_match(name: str, fields: Fields) -> model.UnknownMatch:
    """Return an expression that only lets packets pass or not."""
    test_name = decode_text(fields.get(nf.NFTA_MATCH_NAME, b"")) if name == "match" else name
    return model.UnknownMatch(_expression_text(name, fields, None), is_pure=test_name not in IMPURE)


IMPURE = frozenset((
    "statistic", "limit", "recent", "quota", "connlimit", "connbytes", "time", "random", "hashlimit", "rateest",
    "u32", "bpf", "nth",
))  # fmt: skip
"""Expressions, and matches of iptables, that count, or look at the time."""


def loaded_register(name: str, fields: Fields) -> OtherRegister:
    """Return what an expression writes into a register."""
    numbers, is_way_back = range(0), False
    if name == "numgen":
        first = _number_field(fields, NFTA_NG_OFFSET)
        numbers = range(first, first + _number_field(fields, NFTA_NG_MODULUS))
    elif name == "fib" and _number_field(fields, nf.NFTA_FIB_RESULT) == NFT_FIB_RESULT_OIF:
        is_way_back = _number_field(fields, nf.NFTA_FIB_FLAGS) & ~NFTA_FIB_F_MARK in WAY_BACK
    return OtherRegister(_expression_text(name, fields, None), numbers=numbers, is_way_back=is_way_back)


def unknown_verdict(name: str, fields: Fields, family: Family | None) -> model.UnknownVerdict:
    """Return an expression that does something to packets, by a rule for a family."""
    then = model.Continue() if _goes_on(name, fields) else DOES.get(name)
    return model.UnknownVerdict(_expression_text(name, fields, family), then)


DOES: dict[str, model.Verdict] = {
    "reject": foreign.Reject(), "notrack": foreign.Untrack(), "masq": model.Accept(),
}  # fmt: skip


def _expression_text(name: str, fields: Fields, family: Family | None) -> str:
    if nf.NFTA_MATCH_NAME in fields and name in ("match", "target"):  # of iptables, by way of nft_compat
        return f"[{name} {decode_text(fields[nf.NFTA_MATCH_NAME])} of iptables]"
    words = EXPRESSION_TEXTS[name](fields, family) if name in EXPRESSION_TEXTS else ""
    return words or " ".join([f"[{name}", *(f"{kind}={value.hex()}" for kind, value in fields.items())]) + "]"


LOADERS = dict.fromkeys(("fib", "ct", "rt", "exthdr", "numgen", "osf", "xfrm"), 1)
LOADERS |= dict.fromkeys(("socket", "hash", "tunnel", "bitwise", "byteorder"), 2)
"""Expressions that do nothing but write a register, and the attribute with its number."""

FILTERS = {"limit", "quota", "connlimit", "match", "cmp", "range", "lookup", "exthdr"}
"""Expressions that only let packets pass or not; ``exthdr`` among them sets an option of TCP if a packet has it.

Any other unknown one may divert them.
"""


# --- comparisons ---------------------------------------------------------------------------------

NFT_FIB_RESULT_OIF = 1  # linux/netfilter/nf_tables.h, also of the following
NFTA_FIB_F_MARK, WAY_BACK = 4, (0x09, 0x29)
"""The source and the interface that the packet came in by, with or without: that a route must be there."""
DST_NAT = 1 << 5  # IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h


def unmodelled_comparison(loaded: Register, bounds: Bounds, family: Family | None) -> model.UnknownMatch:
    """Return the comparison of a register that the model has no field for, by a rule for a family."""
    words, test = f"{loaded.words} {bounds}", None
    if bounds.low and not any(loaded.flip) and (bounds.is_single or loaded.is_network_order):
        words, test = _compared_numbers(loaded, bounds, words)
        if family == IPV4 and (loaded.header, loaded.mask) == nf.FRAGMENT_OFFSET and not any(bounds.low):
            test = foreign.LaterFragment(not bounds.negated)
            words = f"ip frag-off & 0x1fff {'!=' if bounds.negated else '=='} 0"
    return model.UnknownMatch(words, test, loaded.is_pure)


def _compared_numbers(loaded: Register, bounds: Bounds, words: str) -> tuple[str, model.Match | None]:
    order = "big" if loaded.is_network_order else BYTE_ORDER
    number, last, mask = (int.from_bytes(each, order) for each in (bounds.low, bounds.high, loaded.mask))
    field, negated, of_generator = loaded.field, bounds.negated, isinstance(loaded, OtherRegister) and loaded.numbers
    if loaded.header == nf.TCP_FLAGS:
        mask = mask or 0xFF
        return f"tcp flags & {mask:#04x} {bounds}", foreign.TcpFlags(mask, number, negated)
    if loaded.header == nf.ICMP_TYPE and number == last and not mask:
        return words, foreign.IcmpType(number, negated)
    if not of_generator and field.rpartition(" ")[2] not in HOST_NUMBERS:
        return words, None
    if (field, mask, number) == ("ct status", DST_NAT, 0):
        return f"ct status {'' if negated else '! '}dnat", foreign.TranslatedConnection(not negated)
    if mask:
        return f"{field} & {mask:#x} {'!=' if negated else '=='} {number:#x}", None
    if isinstance(loaded, OtherRegister) and loaded.is_way_back and number == 0:
        return f"{field} {'exists' if negated else 'missing'}", foreign.NoWayBack(negated)
    names = VALUE_NAMES.get(field.rpartition(" ")[2], ())
    values = (names[each] if each < len(names) else str(each) for each in dict.fromkeys((number, last)))
    words = f"{field} {'!= ' * negated}{'-'.join(values)}"
    match field:
        case "iif" | "oif" if number == last:
            words = f"{field} {'!= ' * negated}{_interface_text(number)}"
            return words, foreign.InterfaceIndex(INTERFACE_INDEX_MATCHES[field], number, negated)
        case "fib saddr type" | "fib daddr type" if number == last == RTN_LOCAL:
            return words, foreign.LocalAddress(ADDRESS_TYPE_MATCHES[field], negated)
        case "ct direction" if number in (0, 1):
            return words, foreign.ConnectionDirection(bool(number) != negated)
    return words, None


def _interface_text(index: int) -> str:
    try:
        return f'"{_socket.if_indextoname(index)}"'
    except OSError:
        return str(index)


HOST_NUMBERS = frozenset((
    *("length", "iif", "oif", "iiftype", "oiftype", "iifgroup", "oifgroup", "sdif", "rtclassid", "classid", "pkttype"),
    *("cpu", "cgroup", "ipsec", "time", "day", "hour", "direction", "status", "expiration", "l3proto", "zone"),
    *("packets", "bytes", "avgpkt", "type", "mtu"),
))  # fmt: skip
"""Fields, by their last words, that lie in a register in the byte order of the machine, as a generator's numbers do."""
VALUE_NAMES = {
    "direction": ("original", "reply"), "pkttype": ("host", "broadcast", "multicast", "other"), "type": ADDRESS_TYPES,
}  # fmt: skip
INTERFACE_INDEX_MATCHES = {"iif": model.InInterface, "oif": model.OutInterface}
ADDRESS_TYPE_MATCHES = {"fib saddr type": model.Source, "fib daddr type": model.Destination}


def unknown_condition(condition: native.Condition) -> model.UnknownMatch:
    """Return a condition on a field, or on several by a set, that the model has no match for."""
    test, is_pure = None, True
    if isinstance(condition, native.Cases):
        is_pure = all(getattr(part, "is_pure", True) for conditions, _ in condition.cases for part in conditions)
    elif isinstance(condition, native.Among) and condition.field == native.L4PROTO:
        names = tuple(NFT_PROTOCOL_NAMES.get(first, str(first)) for first, last in condition.ranges if first == last)
        test = foreign.Protocols(names, condition.negated) if len(names) == len(condition.ranges) else None
    return model.UnknownMatch(described(condition), test, is_pure)


NFT_PROTOCOL_NAMES = {**PROTOCOL_BY_NUMBER, 58: "ipv6-icmp"}


# --- translations --------------------------------------------------------------------------------

NAT_WORDS: dict[int, tuple[str, model.Verdict | None]] = {
    nf.NFT_NAT_DNAT: ("dnat", None), NFT_NAT_SNAT: ("snat", model.Accept()),
}  # fmt: skip
"""What a translation is called, and what one comes to whose addresses are not known."""


def translation_to(
    word: str, family: Family, first: bytes, last: bytes, port: bytes, last_port: bytes
) -> model.UnknownVerdict:
    """Return the translation to an address and a port, or to one of several; what is empty stays as it is."""
    addresses = [Network(family, int.from_bytes(end, "big"), BITS[family]) for end in (first, last) if end]
    ports = [decode_number(end) for end in (port, last_port) if end]
    source = foreign.TranslateSource(addresses[0] if addresses else None)
    then = foreign.translation_verdict(addresses, ports) if word == "dnat" else source
    words = "-".join(address_text(family, each.first) for each in dict.fromkeys(addresses))
    words = f"[{words}]" if ports and family == IPV6 and addresses else words
    return model.UnknownVerdict(f"{word} to {words}{f':{_span_text(ports)}' if ports else ''}", then)


def foreign_redirect(first: bytes, last: bytes) -> model.UnknownVerdict:
    """Return the redirect to one of several ports; with none, to the one that was called."""
    ports = [decode_number(end) for end in (first, last) if end]
    return model.UnknownVerdict(
        f"redirect to :{_span_text(ports)}" if ports else "redirect", foreign.redirect_verdict(ports)
    )


def _span_text(ports: Iterable[int]) -> str:
    return "-".join(map(str, dict.fromkeys(ports)))


# --- which they are, and their words -------------------------------------------------------------

PASSING_EXPRESSIONS: dict[str, tuple[int, tuple[int, ...]]] = {
    "meta": (nf.NFTA_META_KEY, (2, 12, 14)),  # priority, nftrace, secmark
    "ct": (nf.NFTA_CT_KEY, (4, 13, 18)),  # secmark, label, event
    "objref": (1, (1, 3, 7, 8, 9)),  # a counter, ct helper, ct timeout, secmark, ct expectation by its name
    **dict.fromkeys(("last", "dup"), (0, (0,))),
}
"""Expressions that write no register and after which a packet goes on: by a number in one of their attributes."""


def _goes_on(name: str, fields: Fields) -> bool:
    """Return whether a packet goes on after an expression, unchanged in all that the model knows."""
    if name == "dynset":
        return fields.keys().isdisjoint(NFTA_DYNSET_EXPRESSIONS)  # such as a limit
    kind, numbers = PASSING_EXPRESSIONS.get(name, (0, ()))
    return _number_field(fields, kind) in numbers


def _number_field(fields: Fields, kind: int) -> int:
    return decode_number(fields.get(kind, b""))


def _reject_text(fields: Fields, family: Family | None) -> str:
    kind, code = _number_field(fields, nf.NFTA_REJECT_TYPE), _number_field(fields, nf.NFTA_REJECT_ICMP_CODE)
    answers = ANSWERS.get((kind, family if kind == 0 else None), ())
    answer = "tcp reset" if kind == nf.NFT_REJECT_TCP_RST else answers[code] if code < len(answers) else ""
    return f"reject with {answer}" if answer else ""


def _over_text(fields: Fields, kind: int) -> str:
    return "over " * (_number_field(fields, kind) & INVERTED_FLAG)


def _limit_text(fields: Fields, _: Family | None) -> str:
    unit = RATE_UNITS.get(_number_field(fields, NFTA_LIMIT_UNIT))
    counted = "bytes" if _number_field(fields, NFTA_LIMIT_TYPE) else "packets"
    rate = f"{_number_field(fields, NFTA_LIMIT_RATE)}{' bytes' if counted == 'bytes' else ''}/{unit}"
    burst = _number_field(fields, NFTA_LIMIT_BURST)
    more = f" burst {burst} {counted}" if burst else ""
    return f"limit rate {_over_text(fields, NFTA_LIMIT_FLAGS)}{rate}{more}" if unit else ""


def _numgen_text(fields: Fields, _: Family | None) -> str:
    kind = "random" if _number_field(fields, NFTA_NG_TYPE) else "inc"
    offset = _number_field(fields, NFTA_NG_OFFSET)
    return f"numgen {kind} mod {_number_field(fields, NFTA_NG_MODULUS)}{f' offset {offset}' if offset else ''}"


NFTA_FIB_RESULTS = {NFT_FIB_RESULT_OIF: "oif", 2: "oifname", nf.NFT_FIB_RESULT_ADDRTYPE: "type"}
NFTA_FIB_SELECTORS = {1: "saddr", 2: "daddr", NFTA_FIB_F_MARK: "mark", 8: "iif", 16: "oif"}
RT_KEYS = {0: "rt classid", 1: "rt ip nexthop", 2: "rt ip6 nexthop", 3: "rt mtu", 4: "rt ipsec"}
SYNPROXY_FLAGS = {8: "timestamp", 4: "sack-perm"}


def _fib_text(fields: Fields, _: Family | None) -> str:
    flags, result = _number_field(fields, nf.NFTA_FIB_FLAGS), _number_field(fields, nf.NFTA_FIB_RESULT)
    selectors = " . ".join(name for flag, name in NFTA_FIB_SELECTORS.items() if flags & flag)
    return f"fib {selectors} {NFTA_FIB_RESULTS[result]}" if result in NFTA_FIB_RESULTS else ""


def _synproxy_text(fields: Fields, _: Family | None) -> str:
    mss, scale, flags = (_number_field(fields, kind) for kind in (1, 2, 3))
    words = (f"mss {mss}" * (flags & 1), f"wscale {scale}" * (flags >> 1 & 1))
    return " ".join(("synproxy", *filter(None, words), *(name for bit, name in SYNPROXY_FLAGS.items() if flags & bit)))


EXPRESSION_TEXTS: dict[str, Callable[[Fields, Family | None], str]] = {
    "reject": _reject_text,
    "limit": _limit_text,
    "quota": lambda fields, _: (
        f"quota {_over_text(fields, NFTA_QUOTA_FLAGS) or 'until '}{_number_field(fields, NFTA_QUOTA_BYTES)} bytes"
    ),
    "numgen": _numgen_text,
    "fib": _fib_text,
    "rt": lambda fields, _: RT_KEYS.get(_number_field(fields, 2), ""),
    "synproxy": _synproxy_text,
    "notrack": lambda _, _family: "notrack",
}
