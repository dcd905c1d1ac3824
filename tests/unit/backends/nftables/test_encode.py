"""Messages to the kernel: how long they get, what they leave out, how they are numbered."""

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.decode import Program, decode_rule, read_expression
from capture.backends.nf_tables.sets import NativeSet
from capture.backends.nftables.encode import MAX_ELEMENTS, add_rules, add_tables, listed_rules
from capture.backends.nftables.lower import lower
from capture.model.addresses import FAMILIES, IPV4, IPV6, Network
from capture.model.ruleset import (
    NAT,
    OUTPUT,
    RAW,
    Chain,
    Destination,
    DestinationPort,
    Protocol,
    Redirect,
    Return,
    Rule,
    Ruleset,
    SetMark,
    SetZone,
    Span,
    Table,
    only,
)
from capture.netlink.attributes import decode_elements, decode_fields, decode_number
from capture.netlink.nfnetlink import Change

NFTA_TABLE_USERDATA, NFTA_CHAIN_USERDATA, NFTA_SET_USERDATA = 6, 12, 13  # linux/netfilter/nf_tables.h

PORTS = Rule(Return(), (Protocol("tcp"), DestinationPort((only(53), only(15008)), negated=True)))


def messages(*tables: Table) -> list[Change]:
    native = lower(Ruleset(FAMILIES, tables, has_comments=True))
    return [*add_tables(native), *add_rules(native)]


def of_kind(changes: list[Change], kind: int) -> list[dict[int, bytes]]:
    return [decode_fields(change.attributes) for change in changes if change.kind == kind]


def test_a_long_list_is_split_into_messages() -> None:
    networks = tuple(Network(IPV6, (0xFD << 120) + (number << 65), 64) for number in range(10_000))
    rule = Rule(Return(), (Destination(networks),), IPV6)

    elements = of_kind(messages(Table(NAT, (Chain(OUTPUT, (rule,)),))), nf.NFT_MSG_NEWSETELEM)

    lists = [decode_elements(message[nf.NFTA_SET_ELEM_LIST_ELEMENTS]) for message in elements]
    assert max(map(len, lists)) == MAX_ELEMENTS
    assert sum(map(len, lists)) == 1 + 2 * len(networks)  # all before the first, and both ends of each
    assert all(len(message[nf.NFTA_SET_ELEM_LIST_ELEMENTS]) < 2**16 for message in elements)


def test_a_list_that_reaches_the_last_value_has_no_end() -> None:
    ranges = (*(Span(number, number + 5) for number in range(1000, 2000, 10)), Span(60000, 65535))
    rule = Rule(Return(), (Protocol("tcp"), DestinationPort(ranges)))

    (elements,) = of_kind(messages(Table(NAT, (Chain(OUTPUT, (rule,)),))), nf.NFT_MSG_NEWSETELEM)

    assert len([*decode_elements(elements[nf.NFTA_SET_ELEM_LIST_ELEMENTS])]) == 1 + 2 * len(ranges) - 1


def test_a_value_is_as_long_as_what_it_is_written_to() -> None:
    rules = tuple(Rule(verdict, (Protocol("tcp"),)) for verdict in (SetMark(1), SetZone(1), Redirect(1)))

    sizes = [
        len(decode_fields(fields[nf.NFTA_IMMEDIATE_DATA])[nf.NFTA_DATA_VALUE])
        for rule in of_kind(messages(Table(NAT, (Chain("OWN", rules),))), nf.NFT_MSG_NEWRULE)
        for name, fields in map(read_expression, decode_elements(rule[nf.NFTA_RULE_EXPRESSIONS]))
        if name == "immediate"
    ]

    assert sizes == [4, 2, 2]


def test_networks_that_overlap_or_touch_are_one_element() -> None:
    networks = tuple(Network(IPV4, (10 << 24) + (number << 8), 24) for number in range(1000))
    rule = Rule(Return(), (Destination((*networks, Network(IPV4, 11 << 24, 8))),), IPV4)

    (elements,) = of_kind(messages(Table(NAT, (Chain(OUTPUT, (rule,)),))), nf.NFT_MSG_NEWSETELEM)

    assert len(decode_elements(elements[nf.NFTA_SET_ELEM_LIST_ELEMENTS])) == 5


def test_sets_are_numbered_over_all_tables() -> None:
    chain = Chain("OWN", (PORTS, PORTS))

    changes = messages(Table(RAW, (chain,)), Table(NAT, (chain,)))

    numbers = [decode_number(fields[nf.NFTA_SET_ID]) for fields in of_kind(changes, nf.NFT_MSG_NEWSET)]
    assert len(numbers) == len(set(numbers)) == 4


def test_each_set_comes_before_its_rule() -> None:
    kinds = [change.kind for change in messages(Table(NAT, (Chain("OWN", (PORTS,)),)))]

    assert kinds[-3:] == [nf.NFT_MSG_NEWSET, nf.NFT_MSG_NEWSETELEM, nf.NFT_MSG_NEWRULE]


def test_listed_rules_look_up_sets_by_the_names_that_the_kernel_gives() -> None:
    (table,) = lower(Ruleset(FAMILIES, (Table(NAT, (Chain("OWN", (PORTS, PORTS)),)),)))
    seen: list[str] = []

    def find_set(name: str) -> NativeSet:
        seen.append(name)
        return NativeSet(0, 2, ((53).to_bytes(2, "big"), (15008).to_bytes(2, "big")), ())

    read = [decode_rule(decode_fields(rule.attributes), Program(find_set, None), {}) for rule in listed_rules(table)]

    assert seen == ["__set0", "__set1"]
    assert [rule.conditions for rule in read] == [rule.conditions for rule in table.chains[0].rules]


def test_tables_chains_and_sets_carry_no_userdata() -> None:
    """Mixed versions of nft on one node crash on it; a comment of a rule is read by all of them."""
    changes = messages(Table(NAT, (Chain(OUTPUT, (PORTS.replace(why="for a reason"),), "ACCEPT"),)))

    for kind, userdata in (
        (nf.NFT_MSG_NEWTABLE, NFTA_TABLE_USERDATA),
        (nf.NFT_MSG_NEWCHAIN, NFTA_CHAIN_USERDATA),
        (nf.NFT_MSG_NEWSET, NFTA_SET_USERDATA),
    ):
        assert [userdata in fields for fields in of_kind(changes, kind)] == [False]
    (rule,) = of_kind(changes, nf.NFT_MSG_NEWRULE)
    assert rule[nf.NFTA_RULE_USERDATA] == b"\x00\x0dfor a reason\x00"


def test_every_message_says_what_it_does() -> None:
    changes = messages(Table(NAT, (Chain("OWN", (PORTS,)),)))

    assert [change.task for change in changes] == [
        "add table inet istio-proxy-nat",
        "add chain OWN to table inet istio-proxy-nat",
        "add rule 1 to chain OWN of table inet istio-proxy-nat, its set",
        "add rule 1 to chain OWN of table inet istio-proxy-nat, elements 1 and on of its set",
        "add rule 1 to chain OWN of table inet istio-proxy-nat",
    ]
