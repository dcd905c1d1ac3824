"""Lists that are long, and what comes with the rules: logs, comments, an address on lo."""

from __future__ import annotations

import pytest

from capture.model.ruleset import Destination, DestinationPort, Jump, Log, Return, Rule, Ruleset, Source
from capture.model.values import Value
from capture.settings import options as option
from support.captures.fake_pod import IPV4_ALONE, IPV4_POD, IPV6_POD, POD, FakePod, ruleset_of
from support.rules.notation import chain_lines, lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from capture.model.ruleset import TableName, Verdict
    from support.captures.fake_pod import Texts

SIXTEEN_PORTS = [str(port) for port in range(9000, 9032, 2)]
SEVENTEEN_PORTS = [*SIXTEEN_PORTS, "9999"]
SIXTEEN_NETWORKS = [f"10.{number}.0.0/16" for number in range(0, 32, 2)]
SEVENTEEN_NETWORKS = [*SIXTEEN_NETWORKS, "192.0.2.0/24"]


def rules_with(ruleset: Ruleset, table: TableName, chain: str, verdict: Verdict) -> list[Rule]:
    """Return the rules of a chain with a verdict and a list."""
    found = ruleset.table(table)
    place = found.chain(chain) if found else None
    listed = (Source, Destination, DestinationPort)
    return [
        rule
        for rule in (place.rules if place else ())
        if rule.verdict == verdict and any(isinstance(match, listed) and not match.negated for match in rule.matches)
    ]


class Listed(Value):
    """An option with a list: where its rules are, how many such rules are there anyway, how many an entry has."""

    option: option.Option[Any]
    verdict: Verdict
    chain: str = "ISTIO-OUTPUT"
    table: TableName = "nat"
    further: Texts = {}  # noqa: RUF012 - a default, and never changed
    others: int = 0
    rules_an_entry: int = 1

    def texts(self, entries: int) -> Texts:
        pool = SEVENTEEN_NETWORKS if self.option in option.NETWORK_OPTIONS else SEVENTEEN_PORTS
        return {self.option: ",".join(pool[:entries]), **self.further}


TRANSPARENT: Texts = {option.INTERCEPTION_MODE: "TPROXY"}
NO_PORTS: Texts = {option.EXCLUDED_INBOUND_PORTS: ""}
MACHINES: Texts = {option.REROUTED_INTERFACES: "net0,net1"}
LISTS = {
    "inbound ports": Listed(option.INBOUND_PORTS, Jump("ISTIO-IN-REDIRECT"), "ISTIO-INBOUND"),
    "excluded inbound ports": Listed(option.EXCLUDED_INBOUND_PORTS, Return(), "ISTIO-INBOUND", others=2),
    "excluded sources": Listed(option.EXCLUDED_INBOUND_NETWORKS, Return(), "ISTIO-INBOUND", further=NO_PORTS, others=2),
    "outbound networks": Listed(option.OUTBOUND_NETWORKS, Jump("ISTIO-REDIRECT")),
    "excluded destinations": Listed(option.EXCLUDED_OUTBOUND_NETWORKS, Return(), others=4),
    "outbound ports": Listed(option.OUTBOUND_PORTS, Jump("ISTIO-REDIRECT")),
    "excluded outbound ports": Listed(option.EXCLUDED_OUTBOUND_PORTS, Return(), others=4, rules_an_entry=2),
    "virtual machines": Listed(
        option.OUTBOUND_NETWORKS, Jump("ISTIO-REDIRECT"), "PREROUTING", further=MACHINES, rules_an_entry=2
    ),
    "known connections of TPROXY": Listed(
        option.INBOUND_PORTS, Jump("ISTIO-DIVERT"), "ISTIO-INBOUND", "mangle", TRANSPARENT
    ),
    "new connections of TPROXY": Listed(
        option.INBOUND_PORTS, Jump("ISTIO-TPROXY"), "ISTIO-INBOUND", "mangle", TRANSPARENT
    ),
}


@pytest.mark.parametrize(("entries", "times"), [(0, 0), (1, 1), (16, 16), (17, 1)])
@pytest.mark.parametrize("case", LISTS.values(), ids=LISTS)
def test_up_to_sixteen_entries_are_one_rule_each_and_more_are_one(case: Listed, entries: int, times: int) -> None:
    ruleset = ruleset_of({**case.texts(entries), **IPV4_ALONE})
    found = rules_with(ruleset, case.table, case.chain, case.verdict)
    assert len(found) - case.others == times * case.rules_an_entry


def test_a_long_list_holds_its_entries() -> None:
    ruleset = ruleset_of({option.EXCLUDED_OUTBOUND_NETWORKS: ",".join([*SEVENTEEN_NETWORKS, "fd00::/8"])})
    rule = rules_with(ruleset, "nat", "ISTIO-OUTPUT", Return())[-2]
    assert isinstance(rule.matches[0], Destination)
    assert [str(network) for network in rule.matches[0].networks] == SEVENTEEN_NETWORKS
    assert rule.family == "ipv4"
    assert chain_lines(ruleset, "nat", "ISTIO-OUTPUT", "ipv6")[-2:] == lines("""
        to fd00::/8     -> return
        any             -> ISTIO-REDIRECT
    """)


class TestLogs:
    def test_each_of_our_chains_logs_what_enters_it(self) -> None:
        ruleset = ruleset_of({option.RULE_LOGS: "true", option.OUTBOUND_NETWORKS: ""})
        assert chain_lines(ruleset, "nat", "ISTIO-IN-REDIRECT") == lines("""
            any     -> log 'ISTIO-IN-REDIRECT '
            tcp     -> redirect 15006
        """)
        assert chain_lines(ruleset, "nat", "PREROUTING") == lines("tcp -> ISTIO-INBOUND")

    def test_a_prefix_fits_where_it_goes(self) -> None:
        """xt_LOG.h: 29 characters and a zero."""
        texts: Texts = {
            option.RULE_LOGS: "true",
            option.INTERCEPTION_MODE: "TPROXY",
            option.REDIRECT_DNS: "true",
            option.CAPTURE_ALL_DNS: "true",
            option.DROP_INVALID: "true",
        }
        ruleset = ruleset_of(texts)
        verdicts = [rule.verdict for table in ruleset.tables for chain in table.chains for rule in chain.rules]
        prefixes = [verdict.prefix for verdict in verdicts if isinstance(verdict, Log)]
        assert len(prefixes) == 11
        assert all(len(prefix) <= 29 for prefix in prefixes)


def test_comments_are_a_matter_of_the_rule_set() -> None:
    plain, commented = ruleset_of({}), ruleset_of({option.RULE_COMMENTS: "true"})
    assert (plain.has_comments, commented.has_comments) == (False, True)
    assert plain.tables == commented.tables


@pytest.mark.parametrize(
    ("pod", "addresses"), [(POD, ["::6/128"]), (IPV6_POD, ["::6/128"]), (IPV4_POD, []), (FakePod(ipv6=False), [])]
)
def test_ipv6_needs_an_address_for_the_proxy_to_pass_connections_through(pod: FakePod, addresses: list[str]) -> None:
    assert [str(address.network) for address in ruleset_of({}, pod).loopback_addresses] == addresses
