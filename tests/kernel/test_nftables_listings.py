"""nft lists our messages' rules as it lists its own.

Three ways into the kernel (our messages, ``nft -f``, libnftables' JSON), three listings, one row at a time;
and rules in all the forms that nft has, read by our messages and by libnftables.
"""

import re

import pytest

from capture.analysis.canonical import canonical
from capture.backends.nf_tables import constants as nf
from capture.backends.nftables.libnftables import LibnftablesDriver
from capture.backends.nftables.lower import render_text
from capture.backends.nftables.netlink import NftablesNetlinkDriver
from capture.model.addresses import FAMILIES, IPV4, IPV6, Family
from capture.model.ruleset import (
    Accept,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    DestinationPort,
    InInterface,
    Mark,
    Match,
    OutInterface,
    OwnerUid,
    Protocol,
    Redirect,
    Return,
    Rule,
    Ruleset,
    SetMark,
    Source,
    SourcePort,
    Span,
    UnknownMatch,
    UnknownVerdict,
    Verdict,
    only,
)
from capture.netlink.attributes import decode_fields
from capture.netlink.nfnetlink import open_nfnetlink, read_objects
from pytest_netns import Namespace, NamespaceFactory
from support.rules.libnftables_listing import Listing
from support.rules.nftables_cases import CASES, Case, networks

NOTHING = Ruleset(FAMILIES, ())
NETLINK = NftablesNetlinkDriver()
LIBNFTABLES = LibnftablesDriver()
LISTINGS = {
    "text": ["nft", "list", "ruleset"],
    "json": ["nft", "-j", "list", "ruleset"],
    "expressions": ["nft", "--debug=netlink", "list", "ruleset"],
}


@pytest.fixture
def namespace(netns: NamespaceFactory) -> Namespace:
    return netns("rules")


@pytest.fixture
def other(netns: NamespaceFactory) -> Namespace:
    return netns("oracle")


def listing(namespace: Namespace, form: str) -> str:
    """Return what nft lists, without the numbers of the order in which objects were made."""
    text = namespace.run(LISTINGS[form]).stdout
    text = re.sub(r'"handle": \d+', "", text)
    return re.sub(r"^(inet \S+ \S+)[ \d]*$", r"\1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nft_and_both_drivers_make_the_same_and_every_reader_reads_it(
    namespace: Namespace, other: Namespace, case: Case
) -> None:
    namespace.call(NETLINK.write, case.ruleset, NOTHING, None)
    other.run(["nft", "-f", "-"], stdin=render_text(case.ruleset))

    listed = [listing(namespace, form) for form in ("text", "json")]
    assert [listing(other, form) for form in ("text", "json")] == listed
    foreign = listing(other, "expressions")
    if case.name not in OTHER_EXPRESSIONS and "[ range eq " not in foreign:  # nft 1.1 makes one of two comparisons
        assert listing(namespace, "expressions") == foreign
        assert namespace.call(dumped_expressions) == other.call(dumped_expressions)

    for reader in (NETLINK, Listing()):
        live = namespace.call(reader.read)
        for family in case.families:
            assert canonical(live, family) == canonical(case.ruleset, family)
        explicit = " ".join(case.rule.why.replace('"', "'").split()) if case.comments else ""
        assert [rule.why for rule in live.tables[0].chains[0].rules] == [explicit]

    other.run(["nft", "flush", "ruleset"])
    other.call(LIBNFTABLES.write, case.ruleset, NOTHING, None)
    assert [listing(other, form) for form in ("text", "json")] == listed


def dumped_expressions() -> list[bytes]:
    """Return the expressions of all rules as the kernel dumps them, byte for byte."""
    with open_nfnetlink() as netfilter:
        rules = read_objects(netfilter, nf.NFT_MSG_GETRULE, nf.NFPROTO_INET, b"", "read rules")
    return [decode_fields(rule)[nf.NFTA_RULE_EXPRESSIONS] for _, rule in rules]


OTHER_EXPRESSIONS = {
    "ports at both ends": "nft loads neighbouring ports together",
    "neither of both ports": "to keep nft from joining them, one is compared under a mask",
    "networks at both ends": "nft marks the last element as open in its userdata",
    "ports and ranges up to the last": "nft marks the last element as open in its userdata",
    "users": "a plain set of ids needs userdata to be listed right, a set of intervals does not",
}
"""Rules that nft makes of other expressions, which mean and are listed as the same."""


# --- the forms that others write -----------------------------------------------------------------

TCP = Protocol("tcp")
SOME_MATCH = UnknownMatch("?")
SOME_VERDICT = UnknownVerdict("?")

WHOLE_CHAIN = """
table inet istio-proxy-{table} {{
    set networks {{ type ipv4_addr; flags interval; elements = {{ 10.0.0.0/8, 11.0.0.0-11.0.0.5, 9.255.255.255 }} }}
    set ports {{ type inet_service; elements = {{ 80, 443 }} }}
    chain other {{ }}
    chain {chain} {{
        {rule}
    }}
}}
"""


def returns(*matches: Match, family: Family | None = None) -> Rule:
    return Rule(Return(), matches, family)


def does(verdict: Verdict, *matches: Match, family: Family | None = None) -> Rule:
    return Rule(verdict, matches, family)


FORMS = {
    # comparisons
    "ip daddr 10.0.0.0/8 return": returns(Destination(networks("10.0.0.0/8")), family=IPV4),
    "ip saddr 10.0.0.1 ip daddr 10.0.0.2 return": returns(
        Source(networks("10.0.0.1")), Destination(networks("10.0.0.2")), family=IPV4
    ),
    "ip6 saddr ::1 ip6 daddr ::2 return": returns(Source(networks("::1")), Destination(networks("::2")), family=IPV6),
    "ip daddr >= 255.255.255.254 return": returns(Destination(networks("255.255.255.254/31")), family=IPV4),
    "ip daddr 10.0.0.0-10.0.0.2 return": returns(Destination(networks("10.0.0.0/31", "10.0.0.2")), family=IPV4),
    "ip daddr @networks return": returns(
        Destination(networks("9.255.255.255", "10.0.0.0/8", "11.0.0.0/30", "11.0.0.4/31")), family=IPV4
    ),
    "ip daddr != @networks return": returns(
        Destination(networks("9.255.255.255", "10.0.0.0/8", "11.0.0.0/30", "11.0.0.4/31"), negated=True), family=IPV4
    ),
    "tcp dport @ports return": returns(TCP, DestinationPort((only(80), only(443)))),
    "tcp dport 80 return": returns(TCP, DestinationPort((only(80),))),
    "meta l4proto tcp th dport 80 return": returns(TCP, DestinationPort((only(80),))),
    "tcp sport 1 tcp dport 2 return": returns(TCP, SourcePort((only(1),)), DestinationPort((only(2),))),
    "tcp dport 2 tcp sport 1 return": returns(TCP, SourcePort((only(1),)), DestinationPort((only(2),))),
    "tcp dport >= 1024 return": returns(TCP, DestinationPort((Span(1024, 65535),))),
    "tcp dport > 1024 return": returns(TCP, DestinationPort((Span(1025, 65535),))),
    "tcp dport < 1024 return": returns(TCP, DestinationPort((Span(0, 1023),))),
    "tcp dport <= 1024 return": returns(TCP, DestinationPort((Span(0, 1024),))),
    "tcp dport { 80, 81-90 } return": returns(TCP, DestinationPort((Span(80, 90),))),
    "tcp dport { 0-65535 } return": returns(TCP, DestinationPort((Span(0, 65535),))),
    "meta skuid { 1000, 2000 } return": returns(OwnerUid((only(1000), only(2000)))),
    "meta skuid 1000-2000 return": returns(OwnerUid((Span(1000, 2000),))),
    "ct state established return": returns(ConnectionState(("ESTABLISHED",))),
    "ct state == established return": returns(ConnectionState(("ESTABLISHED",))),
    "ct state != established return": returns(ConnectionState(("ESTABLISHED",), negated=True)),
    "ct state { new, established } return": returns(ConnectionState(("NEW", "ESTABLISHED"))),
    "ct state != { new, established } return": returns(ConnectionState(("NEW", "ESTABLISHED"), negated=True)),
    "ct state new,established return": returns(ConnectionState(("NEW", "ESTABLISHED"))),
    "meta mark and 0xff 0x10 return": returns(Mark(0x10, 0xFF)),
    "ct mark 7 return": returns(ConnectionMark(7)),
    'iifname "veth*" return': returns(InInterface("veth+")),
    'oifname "eth0" return': returns(OutInterface("eth0")),
    # verdicts
    "counter": Rule(Continue()),
    "accept": does(Accept()),
    "meta mark set mark and 0xff": does(SetMark(0, 0xFFFFFF00)),
    "meta mark set mark or 0x10": does(SetMark(0x10, 0x10)),
    "meta l4proto tcp redirect to :15001": does(Redirect(15001), TCP),
    # what has no words in the model
    "meta nfproto != ipv4 return": returns(SOME_MATCH),
    "meta l4proto != tcp return": returns(SOME_MATCH),
    "meta l4proto { tcp, udp } return": returns(SOME_MATCH),
    "meta l4proto icmp return": returns(SOME_MATCH),
    "th dport 80 return": returns(SOME_MATCH),
    "ip ttl 1 return": returns(SOME_MATCH),
    "icmp type echo-request return": returns(SOME_MATCH),
    "tcp flags syn return": returns(SOME_MATCH),
    'iifname { "eth0", "lo" } return': returns(SOME_MATCH),
    'iifname "eth+" return': returns(SOME_MATCH),
    "iif lo return": returns(SOME_MATCH),
    "meta mark 1-5 return": returns(SOME_MATCH),
    "meta mark { 1, 5 } return": returns(SOME_MATCH),
    "ct direction reply return": returns(SOME_MATCH),
    "fib daddr type local return": returns(SOME_MATCH),
    "limit rate 5/second return": returns(SOME_MATCH),
    "goto other": does(SOME_VERDICT),
    "reject": does(SOME_VERDICT),
    "meta l4proto tcp dnat ip to 1.2.3.4:80": does(SOME_VERDICT, TCP, family=IPV4),
    "redirect": does(SOME_VERDICT),
    "meta l4proto tcp redirect to :15001-15002": does(SOME_VERDICT, TCP),
    "notrack": does(SOME_VERDICT),
    "meta l4proto tcp tproxy to :15006": does(SOME_VERDICT, TCP),
    "meta l4proto tcp tproxy to :15006 meta mark set 1337 accept": does(SOME_VERDICT, TCP),
    "meta mark set 5 accept": does(SOME_VERDICT),
    "meta mark set 5 tcp dport 80": does(SOME_VERDICT),
    "meta mark set mark xor 5": does(SOME_VERDICT),
    "meta mark set ct mark and 0xff": does(SOME_VERDICT),
    "ct mark set 5": does(SOME_VERDICT),
    "log level debug": does(SOME_VERDICT),
    'log prefix "x" group 1': does(SOME_VERDICT),
    'log prefix "x" drop': does(SOME_VERDICT),
    "ct state vmap { new : accept, established : drop }": does(SOME_VERDICT),
}


def without_words(rule: Rule) -> Rule:
    """Return a rule whose verdict has no text if it was not understood, since each reader has its own."""
    return rule.replace(verdict=SOME_VERDICT) if isinstance(rule.verdict, UnknownVerdict) else rule


@pytest.mark.parametrize("reader", [NETLINK, Listing()], ids=lambda reader: reader.name)
@pytest.mark.parametrize("text", FORMS)
def test_foreign_forms_are_understood_or_unknown(
    namespace: Namespace, reader: NftablesNetlinkDriver | Listing, text: str
) -> None:
    table = "nat" if "redirect" in text or "dnat" in text else "mangle"
    namespace.run(["nft", "-f", "-"], stdin=WHOLE_CHAIN.format(table=table, chain="own", rule=text))

    live = namespace.call(reader.read)

    (chain,) = (chain for chain in live.tables[0].chains if chain.name == "own")
    (rule,) = chain.rules
    expected = FORMS[text]
    if SOME_MATCH in expected.matches:  # what else it needs depends on what it is
        assert any(isinstance(match, UnknownMatch) for match in rule.matches)
        assert rule.verdict == expected.verdict
    else:
        assert without_words(rule) == expected
