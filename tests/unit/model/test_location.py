"""One printed form of where a rule is."""

import pytest

from capture.analysis.base_chains import BaseChain, Situation
from capture.analysis.compare import Difference
from capture.analysis.culprits import Obstacle
from capture.analysis.trace import trace_whole_path
from capture.model.addresses import IPV4, IPV6, Family, parse_address
from capture.model.location import Location
from capture.model.packet import Packet
from capture.model.ruleset import MANGLE, NAT, OUTPUT, Chain, Drop, Jump, Rule, Ruleset, Table

DROPS = Rule(Drop())
CALLED = Table(MANGLE, (Chain("out", (Rule(Jump("x"), number=3),), "ACCEPT"), Chain("x", (DROPS,))))
IN_NFT = BaseChain("ip other", (IPV4,), OUTPUT, -150, is_nat=False, contents=CALLED)
IN_HOOK = "ip other out, hook OUTPUT, priority -150"
IN_IPTABLES = IN_NFT.replace(table="filter of iptables-legacy", is_native=False, place=("iptables", "legacy"))


@pytest.mark.parametrize(
    ("location", "text", "short"),
    [
        (Difference(IPV6, NAT, OUTPUT, "missing", DROPS, 4).location, "IPv6 nat OUTPUT, rule 4", "nat OUTPUT 4"),
        (Difference(IPV4, NAT, OUTPUT, "policy").location, "IPv4 nat OUTPUT", "nat OUTPUT"),
        (Obstacle(IN_NFT, DROPS, position=3).location, f"{IN_HOOK}, rule 3", "ip other out 3"),
        (Obstacle(IN_NFT).location, IN_HOOK, "ip other out"),
        (IN_NFT.location("x", 1, IPV4), "ip other x, rule 1", "ip other x 1"),
        (Obstacle(IN_IPTABLES).location, "IPv4 filter of iptables-legacy out", "filter of iptables-legacy out"),
    ],
)  # fmt: skip
def test_a_location_has_one_form_and_a_short_one(location: Location, text: str, short: str) -> None:
    assert (str(location), location.short) == (text, short)


@pytest.mark.parametrize(("address", "family"), [("192.0.2.1", IPV4), ("2001:db8::1", IPV6)])
def test_rule_and_policy_of_a_trace_are_located(address: str, family: Family) -> None:
    ruleset = Ruleset((IPV4, IPV6), (Table(NAT, (Chain(OUTPUT, (DROPS,), "DROP"),)),))
    packet = Packet("tcp", parse_address(address), 80, uid=1, gid=1, out_interface="eth0")

    assert trace_whole_path(packet, Situation(ruleset)).location == Location(NAT, OUTPUT, 1, family)
    by_policy = ruleset.with_chains(lambda _, chain: chain.replace(rules=()))
    assert trace_whole_path(packet, Situation(by_policy)).location == Location(NAT, OUTPUT, 0, family)
    assert trace_whole_path(packet, Situation(Ruleset((), ()))).location is None


def test_rules_of_one_chain_have_one_chain_whatever_tells_of_them() -> None:
    packet = Packet("tcp", parse_address("192.0.2.1"), 80, uid=1, gid=1, out_interface="eth0")
    traced = trace_whole_path(packet, Situation(Ruleset((IPV4,), ()), (IN_NFT,)))

    calls, drops = traced.path
    assert calls.location == Obstacle(IN_NFT, position=3).location
    assert calls.location.chain_location == Obstacle(IN_NFT, position=9).location.chain_location
    assert traced.location == drops.location == Location("ip other", "x", 1)
