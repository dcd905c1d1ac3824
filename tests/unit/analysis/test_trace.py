"""What happens to a packet, told by the rules alone."""

import pytest

from capture.analysis.base_chains import BaseChain, PodNetwork, Situation
from capture.analysis.compiler import Compiler
from capture.analysis.regions import witness
from capture.analysis.space import ABSENT, Field, PacketSpace
from capture.analysis.trace import trace_whole_path
from capture.model.addresses import parse_address, parse_network
from capture.model.foreign import InterfaceIndex, LocalAddress
from capture.model.packet import Packet
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    Accept,
    Chain,
    ConnectionState,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Log,
    Match,
    OutInterface,
    Protocol,
    Redirect,
    Return,
    Rule,
    Ruleset,
    SetMark,
    Source,
    Table,
    UnknownMatch,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from capture.settings.parsers import Selection
from support.generators.small_pools import numbers_of, value_at
from support.rules.foreign import foreign_match, foreign_verdict
from support.rules.traced import trace

APP, PROXY = 1000, 1337
ELSEWHERE = {"ipv4": "203.0.113.7", "ipv6": "2001:db8::7"}
OWN = {"ipv4": "10.77.0.2", "ipv6": "fd77::2"}
LOCALHOST = {"ipv4": "127.0.0.1", "ipv6": "::1"}
PASSTHROUGH = {"ipv4": "127.0.0.6", "ipv6": "::6"}
FAMILIES = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


def outbound(address: str, port: int = 80, *, uid: int = APP, protocol: str = "tcp", source: str = "") -> Packet:
    destination = parse_address(address)
    is_here = destination.is_loopback or address in OWN.values()
    return Packet(
        "tcp" if protocol == "tcp" else "udp",
        destination,
        port,
        source=parse_address(source) if source else None,
        uid=uid,
        gid=uid,
        out_interface="lo" if is_here else "eth0",
    )


def inbound(address: str, port: int = 80, *, state: str = "NEW") -> Packet:
    return Packet("tcp", parse_address(address), port, in_interface="eth0", state=state)


def outcome(config: CaptureConfig, packet: Packet) -> tuple[str, int]:
    traced = trace(build_ruleset(config), packet)
    return traced.outcome, traced.port


@FAMILIES
@pytest.mark.parametrize("profile", ["classic", "current"])
def test_the_four_journeys_of_a_captured_pod(family: str, profile: str) -> None:
    config = CaptureConfig(profile="1.30" if profile == "current" else "1.8")

    assert outcome(config, outbound(ELSEWHERE[family])) == ("proxy-outbound", 15001)
    assert outcome(config, outbound(ELSEWHERE[family], uid=PROXY)) == ("direct", 80)
    assert outcome(config, inbound(OWN[family])) == ("proxy-inbound", 15006)
    assert outcome(config, outbound(OWN[family], uid=PROXY)) == ("proxy-inbound", 15006)


@FAMILIES
def test_a_packet_that_stays_in_the_pod_is_direct(family: str) -> None:
    config = CaptureConfig()

    assert outcome(config, outbound(OWN[family])) == ("direct", 80)
    assert outcome(config, outbound(LOCALHOST[family])) == ("direct", 80)
    assert outcome(config, outbound(OWN[family], uid=PROXY, source=PASSTHROUGH[family])) == ("direct", 80)


@FAMILIES
@pytest.mark.parametrize("state", ["NEW", "ESTABLISHED"])
def test_what_comes_in_over_lo_has_passed_nat_already(family: str, state: str) -> None:
    """Rules of nat do not meet it, those of mangle do."""
    over_lo = inbound(LOCALHOST[family], state=state).replace(in_interface="lo")
    mangle = Table(MANGLE, (Chain(PREROUTING, (Rule(Drop()),)),))

    assert outcome(CaptureConfig(), over_lo) == ("direct", 80)
    assert outcome(CaptureConfig(rerouted_interfaces=("lo",)), over_lo) == ("direct", 80)
    assert trace(Ruleset(("ipv4", "ipv6"), (mangle,)), over_lo).outcome == "dropped"


@FAMILIES
def test_excluded_ports_and_networks_are_direct(family: str) -> None:
    network = parse_network("203.0.113.0/24" if family == "ipv4" else "2001:db8::/32")
    config = CaptureConfig(
        excluded_inbound_ports=(only(15021),),
        excluded_outbound_ports=(only(5432),),
        excluded_outbound_networks=(network,),
    )

    assert outcome(config, inbound(OWN[family], 15021)) == ("direct", 15021)
    assert outcome(config, inbound(OWN[family], 15008)) == ("direct", 15008)
    assert outcome(config, outbound("198.51.100.1", 5432)) == ("direct", 5432)
    assert outcome(config, outbound(ELSEWHERE[family])) == ("direct", 80)


def test_only_ssh_tells_the_profiles_apart_inbound() -> None:
    assert outcome(CaptureConfig(profile="1.8"), inbound(OWN["ipv4"], 22)) == ("direct", 22)
    assert outcome(CaptureConfig(profile="1.30"), inbound(OWN["ipv4"], 22)) == ("proxy-inbound", 15006)


@FAMILIES
def test_dns_goes_to_the_agent_but_not_the_agents_own(family: str) -> None:
    config = CaptureConfig(captures_dns=True, captures_all_dns=True)

    for protocol in ("tcp", "udp"):
        assert outcome(config, outbound(ELSEWHERE[family], 53, protocol=protocol)) == ("dns", 15053)
        assert outcome(config, outbound(ELSEWHERE[family], 53, protocol=protocol, uid=PROXY)) == ("direct", 53)


def test_dns_for_other_servers_is_ordinary_traffic() -> None:
    config = CaptureConfig(captures_dns=True, name_servers=(parse_address("10.96.0.10"),))

    assert outcome(config, outbound("10.96.0.10", 53)) == ("dns", 15053)
    assert outcome(config, outbound("192.0.2.53", 53)) == ("proxy-outbound", 15001)
    assert outcome(config, outbound("192.0.2.53", 53, protocol="udp")) == ("direct", 53)


@FAMILIES
def test_transparent_capture_keeps_addresses_and_outbound_is_redirected_as_ever(family: str) -> None:
    rules = build_ruleset(CaptureConfig(mode="TPROXY"))

    new = trace(rules, inbound(OWN[family]))
    known = trace(rules, inbound(OWN[family], state="ESTABLISHED"))
    assert (new.outcome, new.port, new.transparent) == ("proxy-inbound", 15006, True)
    assert (known.outcome, known.port, known.transparent) == ("proxy-inbound", 15006, True)
    assert trace(rules, outbound(ELSEWHERE[family])).outcome == "proxy-outbound"
    assert trace(rules, outbound(OWN[family])).outcome == "direct"


def test_packets_of_no_connection_are_dropped_on_request() -> None:
    packet = inbound(OWN["ipv4"], state="INVALID")

    assert outcome(CaptureConfig(), packet) == ("direct", 80)
    assert outcome(CaptureConfig(drops_invalid=True), packet) == ("dropped", 80)


def test_the_deciding_rule_and_the_way_there() -> None:
    traced = trace(build_ruleset(CaptureConfig()), outbound(ELSEWHERE["ipv4"]))

    assert traced.step is not None
    assert (traced.step.chain, traced.step.position) == ("ISTIO-REDIRECT", 1)
    assert [(step.chain, step.position, step.depth) for step in traced.path] == [
        ("OUTPUT", 1, 0),
        ("ISTIO-OUTPUT", 9, 1),
        ("ISTIO-REDIRECT", 1, 2),
    ]


def test_a_group_that_is_left_alone() -> None:
    config = CaptureConfig(owner_groups=Selection((only(202),)))

    packet = outbound(ELSEWHERE["ipv4"])
    assert outcome(config, packet.replace(gid=202)) == ("proxy-outbound", 15001)
    assert outcome(config, packet.replace(gid=203)) == ("direct", 80)


# --- foreign rules --------------------------------------------------------------------------------


def with_foreign(rule: Rule) -> Ruleset:
    """Return the default rules with a foreign rule on top of nat OUTPUT."""
    rules = build_ruleset(CaptureConfig())
    nat = rules.table(NAT)
    assert nat is not None
    chains = tuple(c.replace(rules=(rule, *c.rules)) if c.name == OUTPUT else c for c in nat.chains)
    return rules.replace(tables=(nat.replace(chains=chains),))


HTTPS = (Protocol("tcp"), DestinationPort((only(443),)))


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Return(), ("direct", 443)),
        (Accept(), ("direct", 443)),
        (Drop(), ("dropped", 443)),
        (Redirect(8443), ("redirected", 8443)),
        (Redirect(15053), ("redirected", 15053)),
        (Log("seen "), ("proxy-outbound", 15001)),
    ],
)
def test_a_foreign_rule_before_our_rules(
    verdict: Return | Accept | Drop | Redirect | Log, expected: tuple[str, int]
) -> None:
    traced = trace(with_foreign(Rule(verdict, HTTPS)), outbound(ELSEWHERE["ipv4"], 443))

    assert (traced.outcome, traced.port) == expected
    assert traced.is_certain


@pytest.mark.parametrize("port", [53, 8080])
def test_a_redirect_to_the_agents_port_is_dns_if_the_rule_is_about_port_53_alone(port: int) -> None:
    rules = with_foreign(Rule(Redirect(15053), (Protocol("tcp"), DestinationPort((only(port),)))))
    traced = trace(rules, outbound(ELSEWHERE["ipv4"], port))
    space = PacketSpace("ipv4", (Situation(rules),))
    fates = Compiler(space, Situation(rules)).fates("outbound")
    sent = space.diagrams.both(space.field_in(Field.IN, [(ABSENT, ABSENT)]), space.field_in(Field.PORT, [(port, port)]))
    packet = witness(space, sent, "outbound")
    assert packet is not None
    compiled = value_at(space.diagrams, fates, numbers_of(space, packet))

    assert traced.outcome == ("dns" if port == 53 else "redirected")
    assert compiled == traced.fate


@pytest.mark.parametrize(
    "rule",
    [Rule(Return(), (*HTTPS, foreign_match("-m time --timestart 08:00"))), Rule(foreign_verdict("NFQUEUE"), HTTPS)],
)
def test_a_rule_that_cannot_be_judged_is_marked(rule: Rule) -> None:
    assert not trace(with_foreign(rule), outbound(ELSEWHERE["ipv4"], 443)).is_certain
    assert trace(with_foreign(rule), outbound(ELSEWHERE["ipv4"], 80)).is_certain


@pytest.mark.parametrize(
    "test",
    [
        LocalAddress(Destination),
        LocalAddress(Source, True),
        InterfaceIndex(InInterface, 2),
        InterfaceIndex(OutInterface, 7),
    ],
)
def test_what_an_unknown_namespace_has_cannot_be_judged(test: Match) -> None:
    foreign = with_foreign(Rule(Return(), (*HTTPS, UnknownMatch("?", test))))
    known = PodNetwork(local=(), names=((2, "eth0"),))

    packet = outbound(ELSEWHERE["ipv4"], 443)
    assert not trace(foreign, packet).is_certain
    assert trace_whole_path(packet, Situation(foreign, network=known)).is_certain


def next_to(*rules: Rule, priority: int, is_nat: bool = False) -> BaseChain:
    """Return a foreign chain on the way out."""
    table = Table(NAT if is_nat else MANGLE, (Chain("x", rules, "ACCEPT"),))
    return BaseChain("ip other", ("ipv4",), OUTPUT, priority, is_nat, table)


@pytest.mark.parametrize(
    ("foreign_chain", "expected"),
    [
        (next_to(Rule(Accept()), priority=-200), ("proxy-outbound", 15001)),
        (next_to(Rule(Drop()), priority=-200), ("dropped", 443)),
        (next_to(Rule(Redirect(1)), priority=-100, is_nat=True), ("redirected", 1)),
        (next_to(Rule(Redirect(1)), priority=-99, is_nat=True), ("proxy-outbound", 15001)),
        (next_to(Rule(Drop(), HTTPS), priority=0), ("proxy-outbound", 15001)),  # redirected before it is entered
    ],
)
def test_a_foreign_chain_is_met_by_its_priority(foreign_chain: BaseChain, expected: tuple[str, int]) -> None:
    traced = trace(build_ruleset(CaptureConfig()), outbound(ELSEWHERE["ipv4"], 443), (foreign_chain,))

    assert (traced.outcome, traced.port) == expected
    assert trace(build_ruleset(CaptureConfig()), outbound(ELSEWHERE["ipv6"], 443), (foreign_chain,)).port == 15001


def test_a_rule_that_cannot_be_judged_is_on_the_way_once() -> None:
    doubtful = next_to(Rule(Drop(), (foreign_match("-m time --timestart 08:00"),)), priority=0)
    traced = trace(build_ruleset(CaptureConfig()), outbound(ELSEWHERE["ipv4"], 443), (doubtful,))

    assert [step.table for step in traced.path if not step.is_certain] == ["ip other"]


def test_a_rule_that_cannot_be_judged_counts_where_it_meets_later_packets_alone() -> None:
    later = Rule(Drop(), (ConnectionState(("ESTABLISHED",)), foreign_match("-m time --timestart 08:00")))
    packet, doubtful = outbound(ELSEWHERE["ipv4"], 443), next_to(later, priority=0)
    traced = trace(build_ruleset(CaptureConfig()), packet, (doubtful,))

    assert (traced.outcome, [step.rule for step in traced.path if not step.is_certain]) == ("proxy-outbound", [later])


def test_a_step_names_the_table_of_a_foreign_chain() -> None:
    drops = next_to(Rule(Drop()), priority=-200)

    step = trace(build_ruleset(CaptureConfig()), outbound(ELSEWHERE["ipv4"]), (drops,)).step

    assert step is not None
    assert (step.table, step.chain, step.position) == ("ip other", "x", 1)


@pytest.mark.parametrize(("state", "outcome"), [("NEW", "dropped"), ("ESTABLISHED", "proxy-inbound")])
def test_a_mark_alone_leads_to_the_proxy_only_in_connections_that_it_has(state: str, outcome: str) -> None:
    rules = build_ruleset(CaptureConfig(mode="TPROXY"))
    mangle = rules.table(MANGLE)
    assert mangle is not None
    marks = Rule(SetMark(1337), (Protocol("tcp"),))
    chains = tuple(c.replace(rules=(marks, *c.rules)) if c.name == PREROUTING else c for c in mangle.chains)
    marked = rules.replace(tables=tuple(t.replace(chains=chains) if t is mangle else t for t in rules.tables))

    assert trace(marked, inbound(OWN["ipv4"], state=state)).outcome == outcome


def test_a_policy_decides_when_no_rule_does() -> None:
    drops = Ruleset(("ipv4",), build_ruleset(CaptureConfig()).tables)
    nat = drops.table(NAT)
    assert nat is not None
    closed = nat.replace(chains=(*[c for c in nat.chains if c.name != OUTPUT], Chain(OUTPUT, policy="DROP")))

    traced = trace(drops.replace(tables=(closed,)), outbound(ELSEWHERE["ipv4"]))

    assert (traced.outcome, traced.step) == ("dropped", None)


@pytest.mark.parametrize("is_older", [False, True])
def test_where_the_order_of_two_chains_decides_one_step_is_in_doubt(*, is_older: bool) -> None:
    """As of a second capture in legacy tables: nothing tells which nat comes first."""
    takes = Rule(Redirect(9), (Protocol("tcp"),))
    contents = Table(NAT, (Chain("x", (takes,), "ACCEPT"),))
    there = BaseChain("nat of iptables", ("ipv4",), OUTPUT, -100, True, contents, is_older, is_age_unknown=True)
    ruleset = build_ruleset(CaptureConfig())
    traced = trace_whole_path(outbound(ELSEWHERE["ipv4"]), Situation(ruleset, (there,)))

    assert (traced.port, traced.is_order_known, traced.is_certain) == (15001 if is_older else 9, False, False)
    doubtful = [step for step in traced.path if not step.is_certain]
    assert doubtful == [traced.path[0]]
    assert traced.step is not None
    assert (traced.step in doubtful) == (not is_older), "of the way through our chains the first step is in doubt"
    known = trace_whole_path(outbound(ELSEWHERE["ipv4"]), Situation(ruleset, (there.replace(is_age_unknown=False),)))
    assert (known.fate, known.is_order_known, known.is_certain) == (traced.fate, True, True)
    same = there.replace(contents=Table(NAT, (Chain("x", (takes.replace(verdict=Redirect(15001)),), "ACCEPT"),)))
    assert trace_whole_path(outbound(ELSEWHERE["ipv4"]), Situation(ruleset, (same,))).is_order_known
