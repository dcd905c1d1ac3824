"""Rules as the kernel dumps them, assembled from expressions: in all the ways in which programs write one thing."""

from collections.abc import Callable
from functools import partial

import pytest

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import expressions as make
from capture.backends.nf_tables import native
from capture.backends.nf_tables.decode import Program, decode_rule
from capture.backends.nf_tables.lift import lift_rules
from capture.backends.nf_tables.maps import MAX_KEY_CASES
from capture.backends.nf_tables.render import described
from capture.backends.nf_tables.sets import NativeSet
from capture.model import ruleset as model
from capture.model.addresses import IPV4, IPV6, parse_address
from capture.model.foreign import (
    ConnectionDirection,
    Either,
    InterfaceIndex,
    LaterFragment,
    LocalAddress,
    NoWayBack,
    Protocols,
    Reject,
    TcpFlags,
    Translate,
    TranslatedConnection,
    TranslateSource,
    Untrack,
)
from capture.model.ruleset import Destination, InInterface, OutInterface
from capture.netlink.attributes import BYTE_ORDER, attribute, u32be, u64be

NETWORK, TRANSPORT = nf.NFT_PAYLOAD_NETWORK_HEADER, nf.NFT_PAYLOAD_TRANSPORT_HEADER
LT, LTE, GT, GTE = nf.NFT_CMP_LT, nf.NFT_CMP_LTE, nf.NFT_CMP_GT, nf.NFT_CMP_GTE


def of_machine(number: int) -> bytes:
    return number.to_bytes(4, BYTE_ORDER)


def port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def meta(field: str) -> bytes:
    return make.load_meta(native.META_KEYS[field])


def converted(value: bytes = u32be(nf.NFT_BYTEORDER_HTON)) -> bytes:
    return make.expression(
        "byteorder",
        attribute(nf.NFTA_BYTEORDER_SREG, make.REGISTER),
        attribute(nf.NFTA_BYTEORDER_DREG, make.REGISTER),
        attribute(nf.NFTA_BYTEORDER_OP, value),
    )


def loaded(name: str, kind: int, **attributes: int) -> bytes:
    """Return an expression that writes the register, with further attributes by number: ``_2=1``."""
    further = (attribute(int(number[1:]), u32be(value)) for number, value in attributes.items())
    return make.expression(name, attribute(kind, make.REGISTER), *further)


def looked_up(name: str, flags: int = 0) -> bytes:
    return make.expression(
        "lookup",
        attribute(nf.NFTA_LOOKUP_SET, name.encode() + b"\0"),
        attribute(nf.NFTA_LOOKUP_SREG, make.REGISTER),
        attribute(nf.NFTA_LOOKUP_FLAGS, u32be(flags)),
    )


TCP, UDP = (meta(native.L4PROTO) + make.equals(bytes([number])) for number in (6, 17))
IP4, IP6 = (meta(native.NFPROTO) + make.equals(bytes([number])) for number in (2, 10))
SPORT, DPORT = make.load_payload(TRANSPORT, 0, 2), make.load_payload(TRANSPORT, 2, 2)
SADDR, DADDR = make.load_payload(NETWORK, 12, 4), make.load_payload(NETWORK, 16, 4)
MARK, CT_MARK, STATE = meta(native.MARK), make.load_ct(nf.NFT_CT_MARK), make.load_ct(nf.NFT_CT_STATE)
SETS = {
    "plain": NativeSet(0, 2, (port(80), port(443)), ()),
    "intervals": NativeSet(nf.NFT_SET_INTERVAL, 2, (port(80), port(443)), (port(0), port(91), port(444))),
    "to_the_end": NativeSet(nf.NFT_SET_INTERVAL, 2, (port(1024),), (port(0),)),
    "uids": NativeSet(0, 4, (of_machine(1337), of_machine(256)), ()),
    "changing": NativeSet(nf.NFT_SET_ANONYMOUS | 1 << 4, 2, (port(80),), ()),
    "long_keys": NativeSet(0, 4, (u32be(80),), ()),
}


def decoded(*expressions: bytes, find_set: Callable[[str], NativeSet] = SETS.__getitem__) -> native.NativeRule:
    fields = {nf.NFTA_RULE_EXPRESSIONS: b"".join(expressions)}
    return decode_rule(fields, Program(find_set, None), {})


@pytest.mark.parametrize(
    ("words", "spellings"),
    [
        ("meta l4proto tcp tcp dport 80", [
            TCP + DPORT + make.equals(port(80)),
            TCP + DPORT + make.in_range(port(80), port(80), negated=False),
            TCP + DPORT + make.compare(GTE, port(80)) + make.compare(LTE, port(80)),
            TCP + DPORT + make.bitwise(b"\xff\xff") + make.equals(port(80)),
            TCP + DPORT + make.bitwise(b"\xff\xff", port(81)) + make.equals(port(1)),
        ]),
        ("meta l4proto udp udp sport 1000-2000", [
            UDP + SPORT + make.in_range(port(1000), port(2000), negated=False),
            UDP + SPORT + make.compare(GTE, port(1000)) + make.compare(LTE, port(2000)),
        ]),
        ("meta l4proto tcp tcp dport != 80-90", [TCP + DPORT + make.in_range(port(80), port(90), negated=True)]),
        ("meta l4proto tcp tcp dport 0-79", [
            TCP + DPORT + make.compare(LT, port(80)),
            TCP + DPORT + make.compare(LTE, port(79)),
        ]),
        ("meta l4proto tcp tcp dport 1024-65535", [
            TCP + DPORT + make.compare(GT, port(1023)),
            TCP + DPORT + make.compare(GTE, port(1024)),
            TCP + DPORT + looked_up("to_the_end"),
        ]),
        ("meta l4proto tcp tcp sport 1 tcp dport 2", [
            TCP + SPORT + make.equals(port(1)) + DPORT + make.equals(port(2)),
            TCP + make.load_payload(TRANSPORT, 0, 4) + make.equals(port(1) + port(2)),
        ]),
        ("meta l4proto tcp tcp dport { 80, 443 }", [TCP + DPORT + looked_up("plain")]),
        ("meta l4proto tcp tcp dport != { 80, 443 }", [TCP + DPORT + looked_up("plain", nf.NFT_LOOKUP_F_INV)]),
        ("meta l4proto tcp tcp dport { 80-90, 443 }", [TCP + DPORT + looked_up("intervals")]),
        ("meta skuid { 256, 1337 }", [meta(native.SKUID) + looked_up("uids")]),
        ("meta skuid 1000-2000", [
            meta(native.SKUID) + converted() + make.in_range(u32be(1000), u32be(2000), negated=False),
            meta(native.SKUID) + converted() + make.compare(GTE, u32be(1000)) + make.compare(LTE, u32be(2000)),
        ]),
        ("meta nfproto ipv4 ip saddr 10.0.0.0/8", [
            IP4 + make.load_payload(NETWORK, 12, 1) + make.equals(b"\x0a"),
            IP4 + SADDR + make.bitwise(b"\xff\0\0\0") + make.equals(b"\x0a\0\0\0"),
            IP4 + SADDR + make.in_range(b"\x0a\0\0\0", b"\x0a\xff\xff\xff", negated=False),
            IP4 + SADDR + make.compare(GTE, b"\x0a\0\0\0") + make.compare(LTE, b"\x0a\xff\xff\xff"),
        ]),
        ("meta nfproto ipv4 ip saddr 10.0.0.1 ip daddr 10.0.0.2", [
            IP4 + SADDR + make.equals(b"\x0a\0\0\1") + DADDR + make.equals(b"\x0a\0\0\2"),
            IP4 + make.load_payload(NETWORK, 12, 8) + make.equals(b"\x0a\0\0\1\x0a\0\0\2"),
        ]),
        ("meta nfproto ipv4 meta l4proto tcp", [
            IP4 + TCP,
            IP4 + make.load_payload(NETWORK, 9, 1) + make.equals(b"\6"),
            make.load_meta(1) + make.equals(b"\x08\0") + TCP,  # a table of family netdev
        ]),
        ("meta nfproto ipv6 ip6 daddr fd00::/12", [
            IP6 + make.load_payload(NETWORK, 24, 16) + make.bitwise(b"\xff\xf0" + bytes(14))
            + make.equals(b"\xfd" + bytes(15)),
        ]),
        ('iifname "eth0"', [
            meta(native.IIFNAME) + make.equals(b"eth0" + bytes(12)),
            meta(native.IIFNAME) + make.equals(b"eth0\0"),
        ]),
        ('oifname != "eth*"', [meta(native.OIFNAME) + make.equals(b"eth", negated=True)]),
        ("meta mark & 0x00000f00 == 0x00000100", [
            MARK + make.bitwise(of_machine(0xF00)) + make.equals(of_machine(0x100)),
            MARK + make.bitwise(of_machine(0xF00), of_machine(0x300)) + make.equals(of_machine(0x200)),
        ]),
        ("meta mark & 0x00000f00 == 0x00000000", [MARK + make.bitwise(of_machine(0xF00)) + make.equals(bytes(4))]),
        ("ct mark != 0x00000001", [CT_MARK + make.equals(of_machine(1), negated=True)]),
        ("ct state related,new", [STATE + make.bitwise(of_machine(12)) + make.equals(bytes(4), negated=True)]),
    ],
)  # fmt: skip
def test_whatever_way_it_is_written_it_reads_as_the_same(words: str, spellings: list[bytes]) -> None:
    for spelling in spellings:
        rule = decoded(spelling)
        assert (described(*rule.conditions), rule.actions) == (words, ())


@pytest.mark.parametrize(
    ("words", "program"),
    [
        ("@th,16,16 == 0x0050", DPORT + make.equals(port(80))),  # of which protocol is unknown
        ("@th,16,16 == 0x0050-0x005a", DPORT + make.in_range(port(80), port(90), negated=False)),
        ("meta l4proto tcp @th,16,16 & 0xff0f ^ 0x0000 != 0x0050-0x005a",
         TCP + make.load_payload(TRANSPORT, 2, 2) + make.bitwise(b"\xff\x0f")
         + make.in_range(port(80), port(90), negated=True)),
        ("meta l4proto tcp @th,0,32 != 0x00010002",  # one of both, which no list of conditions is
         TCP + make.load_payload(TRANSPORT, 0, 4) + make.equals(port(1) + port(2), negated=True)),
        ("meta l4proto tcp @th,8,16 == 0x0050", TCP + make.load_payload(TRANSPORT, 1, 2) + make.equals(port(80))),
        ("meta l4proto tcp tcp flags & 0x02 == 0x02",
         TCP + make.load_payload(TRANSPORT, 13, 1) + make.bitwise(b"\2") + make.equals(b"\2")),
        ("meta l4proto tcp tcp flags & 0xff == 0x12", TCP + make.load_payload(TRANSPORT, 13, 1) + make.equals(b"\x12")),
        ("meta l4proto tcp @th,16,16 == 0x", TCP + DPORT + make.compare(LT, port(0))),  # no port is
        ("meta nfproto ipv4 @nh,96,32 & 0xff00ff00 ^ 0x00000000 == 0x0a000100",
         IP4 + SADDR + make.bitwise(b"\xff\0\xff\0") + make.equals(b"\x0a\0\1\0")),
        ("meta skuid == 0x" + of_machine(1000).hex() + "-0x" + of_machine(2000).hex(),  # no range of numbers
         meta(native.SKUID) + make.in_range(of_machine(1000), of_machine(2000), negated=False)),
        ("iif 999", make.load_meta(nf.NFT_META_IIF) + make.equals(of_machine(999))),
        ('oif != "lo"', make.load_meta(nf.NFT_META_OIF) + make.equals(of_machine(1), negated=True)),
        ("meta 99 == 0x01", make.load_meta(99) + make.equals(b"\1")),
        ("meta pkttype broadcast", make.load_meta(19) + make.equals(b"\1")),
        ("meta length 60", make.load_meta(0) + make.equals(of_machine(60))),
        ("meta length != 60-90",
         make.load_meta(0) + converted() + make.in_range(u32be(60), u32be(90), negated=True)),
        ("meta cgroup & 0x6 == 0x4", make.load_meta(23) + make.bitwise(of_machine(6)) + make.equals(of_machine(4))),
        ("iifgroup != 5", make.load_meta(21) + make.equals(of_machine(5), negated=True)),
        ("fib saddr oif 1", loaded("fib", 1, _2=1, _3=1) + make.equals(of_machine(1))),
        ("rt mtu 1400", loaded("rt", 1, _2=3) + make.equals((1400).to_bytes(2, BYTE_ORDER))),
        ("ct packets 6-9",
         make.load_ct(14) + converted() + make.in_range(u64be(6), u64be(9), negated=False)),
        ("meta l4proto tcp tcp dport @changing", TCP + DPORT + looked_up("changing")),
        ("meta l4proto tcp tcp dport != @long_keys", TCP + DPORT + looked_up("long_keys", nf.NFT_LOOKUP_F_INV)),
        ("@th,16,16 @plain", DPORT + looked_up("plain")),
        ("meta l4proto tcp @th,16,16 & 0xff00 ^ 0x0000 @plain",
         TCP + DPORT + make.bitwise(b"\xff\0") + looked_up("plain")),
    ],
)  # fmt: skip
def test_what_has_no_words_is_shown_as_bits(words: str, program: bytes) -> None:
    rule = decoded(program)
    assert described(*rule.conditions) == words
    assert isinstance(rule.conditions[-1], model.UnknownMatch)


FRAGMENT = make.load_payload(NETWORK, 6, 2) + make.bitwise(b"\x1f\xff")
STATUS, MAPPED = make.load_ct(2), of_machine(1 << 5)
LOCAL, WAY_BACK = loaded("fib", 1, _2=3, _3=2), loaded("fib", 1, _2=1, _3=0x0D)
HALF = loaded("numgen", 1, _2=2)


@pytest.mark.parametrize(
    ("program", "words", "test"),
    [
        (make.load_meta(nf.NFT_META_IIF) + make.equals(of_machine(999)), "iif 999", InterfaceIndex(InInterface, 999)),
        (make.load_meta(nf.NFT_META_OIF) + make.equals(of_machine(1), negated=True), 'oif != "lo"',
         InterfaceIndex(OutInterface, 1, negated=True)),
        (LOCAL + make.equals(of_machine(2)), "fib daddr type local", LocalAddress(Destination)),
        (LOCAL + make.equals(of_machine(2), negated=True), "fib daddr type != local", LocalAddress(Destination, True)),
        (LOCAL + make.equals(of_machine(3)), "fib daddr type broadcast", None),
        (LOCAL + make.equals(of_machine(99)), "fib daddr type 99", None),
        (WAY_BACK + make.equals(bytes(4)), None, NoWayBack()),
        (WAY_BACK + make.equals(bytes(4), negated=True), None, NoWayBack(negated=True)),
        (make.load_ct(1) + make.equals(b"\1"), "ct direction reply", ConnectionDirection(is_reply=True)),
        (make.load_ct(1) + make.equals(b"\1", negated=True), None, ConnectionDirection(is_reply=False)),
        (STATUS + make.bitwise(MAPPED) + make.equals(bytes(4), negated=True), None, TranslatedConnection()),
        (STATUS + make.bitwise(MAPPED) + make.equals(bytes(4)), None, TranslatedConnection(negated=True)),
        (STATUS + make.bitwise(of_machine(1)) + make.equals(bytes(4)), None, None),
        (make.load_payload(TRANSPORT, 13, 1) + make.bitwise(b"\2") + make.equals(b"\2"), "tcp flags & 0x02 == 0x02",
         TcpFlags(2, 2)),
        (IP4 + FRAGMENT + make.equals(bytes(2), negated=True), "ip frag-off & 0x1fff != 0", LaterFragment()),
        (IP6 + FRAGMENT + make.equals(bytes(2)), "@nh,48,16 & 0x1fff ^ 0x0000 == 0x0000", None),
        (meta(native.L4PROTO) + make.equals(b"\x3a"), "meta l4proto 58", Protocols(("ipv6-icmp",))),
        (meta(native.L4PROTO) + make.equals(b"\6", negated=True), "meta l4proto != tcp", Protocols(("tcp",), True)),
        (meta(native.L4PROTO) + make.in_range(b"\1", b"\6", negated=False), "meta l4proto 1-6", None),
        (HALF + make.equals(of_machine(1)), "numgen inc mod 2 1", None),
    ],
)  # fmt: skip
def test_what_the_model_lacks_has_a_value_where_it_is_certain(
    program: bytes, words: str | None, test: model.Match | None
) -> None:
    [rule] = lift_rules([decoded(program)])
    (match,) = rule.matches
    assert isinstance(match, model.UnknownMatch)
    assert words in (None, match.text)
    assert match.test == test
    assert match.is_pure == (HALF not in program)


NAT_PORT = attribute(nf.NFTA_NAT_REG_PROTO_MIN, u32be(9)), attribute(nf.NFTA_NAT_REG_PROTO_MAX, u32be(10))
ADDRESS, ADDRESS6 = parse_address("10.0.0.1"), parse_address("fd00::1")


def mapped(kind: int, family: int, address: bytes = b"", first: int = 0, last: int = 0) -> bytes:
    """Return the expressions that translate to an address, to one of some ports, or to both."""

    def put(register: int, value: bytes) -> bytes:
        data = make.data(nf.NFTA_IMMEDIATE_DATA, value)
        return make.expression("immediate", attribute(nf.NFTA_IMMEDIATE_DREG, u32be(register)), data)

    to = [attribute(nf.NFTA_NAT_TYPE, u32be(kind)), attribute(nf.NFTA_NAT_FAMILY, u32be(family))]
    to += [attribute(nf.NFTA_NAT_REG_ADDR_MIN, make.REGISTER)] if address else []
    to += NAT_PORT if first else []
    return put(nf.NFT_REG_1, address) + put(9, port(first)) + put(10, port(last)) + make.expression("nat", *to)


@pytest.mark.parametrize(
    ("program", "words", "then"),
    [
        (make.verdict(nf.NFT_GOTO, attribute(nf.NFTA_VERDICT_CHAIN, b"more\0")), "goto more", model.Goto("more")),
        (make.expression("reject", attribute(1, u32be(1))), "reject with tcp reset", Reject()),
        (make.expression("reject", attribute(1, u32be(9))), "[reject 1=00000009]", Reject()),
        (make.expression("notrack"), "notrack", Untrack()),
        (make.expression("masq"), "[masq]", model.Accept()),
        (make.expression("queue"), "[queue]", None),
        (mapped(1, 2, ADDRESS.packed), "dnat to 10.0.0.1", Translate(ADDRESS, None)),
        (mapped(1, 2, ADDRESS.packed, 81, 81), "dnat to 10.0.0.1:81", Translate(ADDRESS, 81)),
        (mapped(1, 10, ADDRESS6.packed, 81, 90), "dnat to [fd00::1]:81-90",
         Either((Translate(ADDRESS6, 81), Translate(ADDRESS6, 90)))),
        (mapped(1, 2, b"", 81, 81), "dnat to :81", Translate(None, 81)),
        (mapped(0, 2, ADDRESS.packed), "snat to 10.0.0.1", TranslateSource(ADDRESS)),
        (make.expression("nat", attribute(1, u32be(0)), attribute(3, u32be(11))), "snat, to an unknown address",
         model.Accept()),
        (make.expression("nat", attribute(1, u32be(1)), attribute(3, u32be(11))), "dnat, to an unknown address", None),
        (make.expression("redir"), "redirect", Translate(None, None)),
    ],
)  # fmt: skip
def test_what_a_verdict_comes_to_that_the_model_lacks(program: bytes, words: str, then: model.Verdict | None) -> None:
    [rule] = lift_rules([decoded(program)])
    assert isinstance(rule.verdict, model.UnknownVerdict)
    assert (rule.verdict.text, rule.verdict.then) == (words, then)


def test_what_acts_on_one_family_makes_a_rule_of_it() -> None:
    """In a table of both, with no test of the family before it: nft_nat_inet_eval, nft_tproxy_eval, nft_ct_get_eval."""

    def to_port(family: int) -> tuple[bytes, ...]:
        to = attribute(nf.NFTA_TPROXY_FAMILY, u32be(family)), attribute(nf.NFTA_TPROXY_REG_PORT, make.REGISTER)
        return make.immediate(port(80)), make.expression("tproxy", *to)

    for family, programs in {
        IPV4: [(mapped(1, 2, ADDRESS.packed),), (mapped(0, 2, ADDRESS.packed),), to_port(2), (IP4, *to_port(2)),
               (make.load_ct(19), make.equals(ADDRESS.packed)), (loaded("rt", 1, _2=1), make.equals(ADDRESS.packed))],
        IPV6: [(mapped(1, 10, ADDRESS6.packed, 80, 90),), (mapped(0, 10, ADDRESS6.packed),), to_port(10),
               (make.load_ct(22), make.equals(ADDRESS6.packed)), (loaded("rt", 1, _2=2), make.equals(ADDRESS6.packed))],
        None: [(mapped(1, 1, b"", 81, 81),), to_port(0), (loaded("rt", 1, _2=3), make.equals(port(1400)))],
    }.items():  # fmt: skip
        for expressions in programs:
            [rule] = lift_rules([decoded(TCP, *expressions)])
            assert rule.family == family, rule


DROP = make.verdict(nf.NF_DROP)
STORE_MARK, STORE_CT_MARK = make.store_meta(nf.NFT_META_MARK), make.store_ct(nf.NFT_CT_MARK)
STORE_ZONE = make.store_ct(nf.NFT_CT_ZONE)


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        (make.immediate(of_machine(1337)) + STORE_MARK, model.SetMark(1337)),
        (MARK + make.bitwise(of_machine(0xFFFFF0FF), of_machine(0x100)) + STORE_MARK, model.SetMark(0x100, 0xF00)),
        (CT_MARK + STORE_MARK, model.RestoreMark()),
        (MARK + STORE_CT_MARK, model.SaveMark()),
        (make.immediate(port(0)[:1] + b"\1" if BYTE_ORDER == "big" else b"\1\0") + STORE_ZONE, model.SetZone(1)),
        (make.immediate(of_machine(7)) + STORE_CT_MARK, model.UnknownVerdict("ct mark set 0x7")),
        (make.verdict(nf.NFT_GOTO, attribute(nf.NFTA_VERDICT_CHAIN, b"more\0")), model.UnknownVerdict("goto more")),
        (make.jump("more"), model.Jump("more")),
        (DROP, model.Drop()),
        (make.verdict(3), model.UnknownVerdict("verdict 3")),
    ],
)
def test_what_a_rule_does(program: bytes, verdict: model.Verdict) -> None:
    [rule] = lift_rules([decoded(program)])
    assert rule == model.Rule(verdict)


@pytest.mark.parametrize("program", [MARK + STORE_ZONE, CT_MARK + STORE_CT_MARK, make.store_meta(99)])
def test_a_value_copied_from_elsewhere_is_no_known_action(program: bytes) -> None:
    [rule] = lift_rules([decoded(program)])
    assert isinstance(rule.verdict, model.UnknownVerdict)


def test_after_logging_a_rule_is_what_it_does_last() -> None:
    log = make.expression("log", attribute(nf.NFTA_LOG_PREFIX, b"seen\0"))
    for program, words, then in (
        (log + log + DROP, 'log prefix "seen" log prefix "seen" drop', model.Drop()),
        (log + make.jump("more"), 'log prefix "seen" jump more', None),
        (CT_MARK + STORE_MARK + DROP, "meta mark set ct mark drop", None),
    ):
        [rule] = lift_rules([decoded(program)])
        assert isinstance(rule.verdict, model.UnknownVerdict)
        assert (rule.verdict.text, rule.verdict.then) == (words, then)


def test_a_state_that_is_compared_as_a_whole_is_one_state() -> None:
    """A packet's state has one bit, so that ``==`` and ``&`` are the same."""
    states = [model.ConnectionState(("NEW",)), model.ConnectionState(("NEW",), negated=True)]
    for matched, negated in zip(states, (False, True), strict=True):
        [rule] = lift_rules([decoded(STATE + make.equals(of_machine(8), negated=negated))])
        assert rule.matches == (matched,)
    [rule] = lift_rules([decoded(STATE + make.equals(of_machine(12)))])
    assert isinstance(rule.matches[0], model.UnknownMatch), "no packet is new and related"


def test_an_upper_bound_belongs_to_the_lower_one_right_before_it() -> None:
    lower, upper = make.compare(GTE, port(80)), make.compare(LTE, port(90))
    assert described(*decoded(TCP + SPORT + lower + DPORT + upper).conditions) == (
        "meta l4proto tcp tcp sport 80-65535 tcp dport 0-90"
    )
    between = make.equals(port(85), negated=True)
    assert described(*decoded(TCP + DPORT + lower + between + upper).conditions) == (
        "meta l4proto tcp tcp dport 80-65535 tcp dport != 85 tcp dport 0-90"
    )


def test_a_rule_of_a_family_is_of_the_family_of_its_addresses() -> None:
    for start, family in ((IP4, IPV4), (IP6, IPV6)):
        [rule] = lift_rules([decoded(start)])
        assert (rule.family, rule.matches) == (family, ())


def test_conditions_behind_an_action_are_for_what_is_behind_them() -> None:
    rule = decoded(make.immediate(of_machine(1)), STORE_MARK, TCP, DROP)
    assert rule.conditions == ()
    assert described(*rule.actions) == "meta mark set 0x00000001 meta l4proto tcp drop"


def test_the_first_counter_of_a_rule_is_its_counter() -> None:
    """As nft lists ``counter tcp dport 80 counter drop``: packets that reach the rule, then those that it drops."""

    def counter(packets: int, size: int) -> bytes:
        counted = attribute(nf.NFTA_COUNTER_BYTES, u64be(size)), attribute(nf.NFTA_COUNTER_PACKETS, u64be(packets))
        return make.expression("counter", *counted)

    assert decoded(counter(3, 180), TCP, counter(1, 60), DROP).counters == model.Counters(3, 180)
    assert decoded(TCP, DROP).counters is None


def test_an_expression_of_a_newer_kernel_hides_what_registers_held() -> None:
    odd = make.expression("novel", attribute(1, u32be(7)))
    rule = decoded(MARK, odd, STORE_CT_MARK)
    assert isinstance(rule.actions[0], model.UnknownVerdict)
    assert model.SaveMark() not in rule.actions


LOADERS = dict.fromkeys(("fib", "ct", "rt", "exthdr", "numgen", "osf", "xfrm"), 1)
LOADERS |= dict.fromkeys(("socket", "hash", "tunnel", "bitwise", "byteorder"), 2)
"""Expressions that write a register, and which attribute names it (linux/netfilter/nf_tables.h)."""


@pytest.mark.parametrize(("name", "kind"), LOADERS.items())
def test_what_is_loaded_without_words_is_a_condition_without_words(name: str, kind: int) -> None:
    rule = decoded(make.expression(name, attribute(kind, make.REGISTER), attribute(9, u32be(1))), make.equals(b"\1"))
    assert rule.actions == ()
    [condition] = rule.conditions
    assert isinstance(condition, model.UnknownMatch)
    assert name in condition.text


@pytest.mark.parametrize("name", ["limit", "quota", "connlimit", "match", "cmp", "range", "lookup", "exthdr"])
def test_what_only_lets_packets_pass_or_not_is_a_condition(name: str) -> None:
    rule = decoded(make.expression(name, attribute(9, u32be(1))), DROP)
    assert rule.actions == (model.Drop(),)
    assert isinstance(rule.conditions[0], model.UnknownMatch)


def verdicts_of(*cases: tuple[int, bytes], key: Callable[[int], bytes] = port) -> NativeSet:
    keys = tuple(key(number) for number, _ in cases)
    return NativeSet(nf.NFT_SET_MAP, len(keys[0]), keys, (), data=tuple(verdict for _, verdict in cases))


def test_a_map_of_verdicts_is_read_by_verdict() -> None:
    drop, more = (
        attribute(nf.NFTA_DATA_VERDICT, attribute(nf.NFTA_VERDICT_CODE, code.to_bytes(4, "big", signed=True)) + chain)
        for code, chain in ((nf.NF_DROP, b""), (nf.NFT_JUMP, attribute(nf.NFTA_VERDICT_CHAIN, b"more\0")))
    )
    by_number = verdicts_of((1, drop), (0, more), key=of_machine)
    find = partial({"map": verdicts_of((80, drop), (81, drop), (443, more)), "gen": by_number}.__getitem__)
    chosen = make.expression(
        "lookup",
        attribute(nf.NFTA_LOOKUP_SET, b"map\0"),
        attribute(nf.NFTA_LOOKUP_SREG, make.REGISTER),
        attribute(nf.NFTA_LOOKUP_DREG, u32be(0)),
    )
    rule = decoded(TCP, DPORT, chosen, find_set=find)
    assert described(*rule.actions) == "tcp dport vmap { 80-81 : drop, 443 : jump more }"
    assert described(*decoded(DPORT, chosen, find_set=find).actions) == "@th,16,16 vmap"
    (action,) = decoded(loaded("numgen", 1, _2=2), chosen.replace(b"map\0", b"gen\0"), find_set=find).actions
    assert described(action) == "numgen inc mod 2 vmap { 1 : drop, 0 : jump more }"


@pytest.mark.parametrize("count", [2, MAX_KEY_CASES, MAX_KEY_CASES + 1])
def test_a_set_of_interfaces_has_a_case_for_each_up_to_a_limit(count: int) -> None:
    names = tuple(f"eth{number}".encode().ljust(16, b"\0") for number in range(count))
    find = partial({"plain": NativeSet(0, 16, names, ())}.__getitem__)
    interface = make.load_meta(nf.NFT_META_IIFNAME)
    rule = decoded(interface, looked_up("plain"), DROP, find_set=find)
    (condition,) = rule.conditions
    if count > MAX_KEY_CASES:
        assert condition == model.UnknownMatch("iifname @plain")
    else:
        assert isinstance(condition, native.Cases)
        assert condition.cases[1] == ((native.Named(native.IIFNAME, "eth1"),), None)
    others = decoded(interface, looked_up("plain", nf.NFT_LOOKUP_F_INV), DROP, find_set=find).conditions
    assert len(others) == (1 if count > MAX_KEY_CASES else count)


@pytest.mark.parametrize(
    ("first", "key", "condition", "second"),
    [
        (SADDR, ADDRESS.packed, native.Among("ip saddr", ((ADDRESS.first, ADDRESS.first),)), 9),
        (meta(native.IIFNAME), b"eth0".ljust(16, b"\0"), native.Named(native.IIFNAME, "eth0"), 2),
    ],
    ids=["address", "interface"],
)
def test_a_set_with_one_key_of_two_fields_is_a_condition_on_each(
    first: bytes, key: bytes, condition: model.Match, second: int
) -> None:
    """A port of TCP in the next register of four bytes, or of sixteen."""
    kept_in = attribute(nf.NFTA_PAYLOAD_DREG, make.REGISTER)
    loads_port = DPORT.replace(kept_in, attribute(nf.NFTA_PAYLOAD_DREG, u32be(second)))
    find = partial({"plain": NativeSet(0, len(key) + 4, (key + port(80) + bytes(2),), ())}.__getitem__)
    rule = decoded(IP4, TCP, first, loads_port, looked_up("plain"), DROP, find_set=find)
    assert rule.conditions[2:] == (condition, native.Among("tcp dport", ((80, 80),)))
