"""What ``explain`` prints: sets of connections that do not overlap, with what happens to each."""

from __future__ import annotations

from typing import Any

import pytest

from capture.analysis.base_chains import Situation
from capture.analysis.explanation import captured_ports, statements_about
from capture.backends.iptables.render import shown_rule
from capture.model.addresses import FAMILIES, parse_network
from capture.model.ruleset import (
    NAT,
    OUTPUT,
    Chain,
    DestinationPort,
    Drop,
    Jump,
    Protocol,
    Return,
    Rule,
    TableName,
    only,
)
from capture.report.packet_text import fate_text
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from capture.settings.parsers import Selection
from support.rules.foreign import foreign_match, foreign_verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.outcome import Outcome

HTTPS = (Protocol("tcp"), DestinationPort((only(443),)))


def lines(config: CaptureConfig, *foreign: Rule) -> list[tuple[str, str, str]]:
    ruleset = build_ruleset(config)
    tables = []
    for table in ruleset.tables:
        chains = [
            chain.replace(rules=(*foreign, *chain.rules)) if (table.name, chain.name) == (NAT, OUTPUT) else chain
            for chain in table.chains
        ]
        tables.append(table.replace(chains=tuple(chains)))
    situation = Situation(ruleset.replace(tables=tuple(tables)))
    return [
        (each.direction, each.traffic, fate_text(each.fate) if each.fate else "?")
        for each in statements_about({"ipv4": situation}, shown_rule)
    ]


def test_the_policy_of_the_default_settings() -> None:
    """What apps send comes first, and what is the proxy's or over lo is last in its direction."""
    assert lines(CaptureConfig(excluded_inbound_ports=(only(15021),))) == [
        ("outbound", "tcp, user other than 1337, group other than 1337, leaving the pod", "proxy-outbound 15001"),
        ("outbound", "udp", "direct"),
        (
            "outbound",
            "tcp to other than 127.0.0.1, from other than 127.0.0.6, user 1337, over lo",
            "proxy-inbound 15006",
        ),
        ("outbound", "tcp, from other than 127.0.0.6, user other than 1337, over lo", "direct"),
        ("outbound", "tcp, from 127.0.0.6, over lo", "direct"),
        ("outbound", "tcp, user other than 1337, group 1337, leaving the pod", "direct"),
        ("outbound", "tcp, user 1337, leaving the pod", "direct"),
        ("outbound", "tcp to 127.0.0.1, from other than 127.0.0.6, user 1337, over lo", "direct"),
        ("inbound", "tcp, port other than 22, 15008, 15021", "proxy-inbound 15006"),
        ("inbound", "tcp, port 22", "direct"),
        ("inbound", "tcp, port 15008", "direct"),
        ("inbound", "tcp, port 15021", "direct"),
        ("inbound", "udp", "direct"),
    ]


def test_what_the_proxy_sends_is_routine_unless_it_comes_back_to_it() -> None:
    ruleset = build_ruleset(CaptureConfig())
    loop = Rule(Jump("ISTIO-REDIRECT"), HTTPS)

    def statements(*foreign: Rule) -> dict[str, bool]:
        changed = ruleset.with_chains(
            lambda table, chain: chain.replace(rules=(*foreign, *chain.rules)) if chain.name == OUTPUT else chain
        )
        return {each.traffic: each.is_routine for each in statements_about({"ipv4": Situation(changed)}, shown_rule)}

    healthy = statements()
    assert next(iter(healthy)) == "tcp, user other than 1337, group other than 1337, leaving the pod"
    assert {text for text, is_routine in healthy.items() if is_routine} == {
        text for text in healthy if "over lo" in text or ("1337" in text and "group other than" not in text)
    }
    assert [text for text, is_routine in statements(loop).items() if "1337" in text and not is_routine]


def test_ports_that_fare_alike_have_their_own_reasons() -> None:
    excluded = (only(15007), only(15020), only(15021))
    situation = Situation(build_ruleset(CaptureConfig(excluded_inbound_ports=excluded)))

    assert {
        each.traffic: each.why
        for each in statements_about({"ipv4": situation}, shown_rule)
        if each.direction == "inbound"
    } == {
        "tcp, port other than 22, 15007-15008, 15020-15021": "all other inbound connections",
        "tcp, port 22": "ssh is left alone",
        "tcp, port 15007, 15020-15021": "port is left alone",
        "tcp, port 15008": "the proxy's tunnel: it listens there",
        "udp": "no rule decides",
    }


def test_what_a_reason_names() -> None:
    def reasons(*foreign: Rule, policy_of_output: str | None = None) -> dict[str, str]:
        def changed(table: TableName, chain: Chain) -> Chain:
            if (table, chain.name) != (NAT, OUTPUT):
                return chain
            return chain.replace(rules=(*foreign, *chain.rules), policy=policy_of_output)

        situation = Situation(build_ruleset(CaptureConfig()).with_chains(changed))
        found = statements_about({"ipv4": situation}, shown_rule)
        return {each.traffic: each.why for each in found if each.direction == "outbound"}

    captured = "tcp, user other than 1337, group other than 1337, leaving the pod"
    assert reasons()[captured] == "all other outbound connections"
    assert reasons(policy_of_output="DROP")["udp"] == "the policy DROP of nat OUTPUT"
    unknown = Rule(Return(), (Protocol("tcp"), foreign_match("-m time")))
    assert reasons(unknown)[captured] == "a rule that cannot be judged: -p tcp -m time -j RETURN"
    assert reasons(unknown)["udp"] == "no rule decides"
    dropped = Rule(Drop(), (Protocol("udp"), DestinationPort((only(9),))))
    assert "nat OUTPUT 1: -p udp -m udp --dport 9 -j DROP" in reasons(dropped).values()


def test_lines_about_dns_contradict_no_other() -> None:
    config = CaptureConfig(captures_dns=True, captures_all_dns=True)
    dns = [line for line in lines(config) if "udp" in line[1] and line[0] == "outbound"]

    assert (
        "outbound",
        "tcp and udp, port 53, user other than 1337, group other than 1337, leaving the pod",
        "dns 15053",
    ) in dns
    assert {goes for _, _, goes in dns} == {"dns 15053", "direct"}


def test_foreign_rules_count() -> None:
    translated = Rule(foreign_verdict("DNAT --to-destination 10.1.2.3:81"), HTTPS)
    unknown = Rule(Return(), (Protocol("tcp"), foreign_match("-m time")))

    assert ("outbound", "tcp, port 443", "direct to 10.1.2.3:81") in lines(CaptureConfig(), translated)
    assert ("outbound", "?") in {(direction, goes) for direction, _, goes in lines(CaptureConfig(), unknown)}


def test_every_line_has_its_reason_and_what_is_alike_is_told_once() -> None:
    config = CaptureConfig(mode="TPROXY", captures_dns=True, captures_all_dns=True, drops_invalid=True)
    situation = Situation(build_ruleset(config))

    found = statements_about({"ipv4": situation, "ipv6": situation}, shown_rule)

    assert all(statement.why for statement in found)
    assert ("ipv4", "ipv6") in [statement.families for statement in found]


def test_long_lists_are_cut_short() -> None:
    networks = tuple(parse_network(f"10.{number}.0.0/16") for number in range(0, 60, 2))

    (line,) = [t for _, t, _ in lines(CaptureConfig(excluded_outbound_networks=networks)) if t.startswith("tcp to 10.")]

    six = ", ".join(str(network) for network in networks[:6])
    assert line == f"tcp to {six} and 24 more, user other than 1337, group other than 1337, leaving the pod"


@pytest.mark.parametrize(
    ("changes", "ports"),
    [
        ({}, {"proxy-inbound": 15006, "proxy-outbound": 15001}),
        ({"proxy_port": 16001, "inbound_capture_port": 16006}, {"proxy-inbound": 16006, "proxy-outbound": 16001}),
        ({"mode": "TPROXY"}, {"proxy-inbound": 15006, "proxy-outbound": 15001}),
        ({"inbound_ports": Selection()}, {"proxy-outbound": 15001}),
        ({"outbound_networks": Selection()}, {"proxy-inbound": 15006}),
        ({"inbound_ports": Selection(), "outbound_networks": Selection()}, {}),
    ],
)
def test_the_ports_of_the_proxy_are_those_to_which_the_settings_send(
    changes: dict[str, Any], ports: dict[Outcome, int]
) -> None:
    for family in FAMILIES:
        assert captured_ports(Situation(build_ruleset(CaptureConfig(**changes))), family) == ports


def test_a_destination_is_not_cut_at_the_pods_own_address() -> None:
    """A packet to an address of the pod goes over lo: a line about those that leave the pod need not exclude it."""
    found = lines(CaptureConfig(excluded_outbound_networks=(parse_network("192.0.2.0/24"),)))

    leaving = {traffic for direction, traffic, _ in found if direction == "outbound" and "leaving the pod" in traffic}
    assert not [traffic for traffic in leaving if "192.0.2.2" in traffic or "192.0.2.3" in traffic]
    assert [traffic for traffic in leaving if traffic.startswith("tcp to 192.0.2.0/24,")]
