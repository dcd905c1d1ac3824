"""Our listing against the one of iptables itself, line by line, on the same live rules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, example, given, reject, settings

from capture.backends.iptables.restore import RestoreDriver
from capture.errors import ToolError
from capture.model.addresses import FAMILIES, Network
from capture.model.ruleset import Chain, Destination, DestinationPort, Return, Rule, Ruleset, Source, SourcePort, Table
from capture.report.table import listing
from pytest_netns import Namespace, NamespaceFactory
from support.generators.rules import rulesets

if TYPE_CHECKING:
    from capture.backends.iptables.tables import Variant
    from capture.model.ruleset import Match

PROTOCOLS = {"0": "all", "6": "tcp", "17": "udp", "132": "sctp"}
"""iptables 1.8.9 prints protocols as numbers with the option to look no names up; others print words."""

COMMANDS = {"ipv4": "iptables", "ipv6": "ip6tables"}

HEADING = ("Chain", "pkts")
"""The lines of a chain before its rules."""

OTHERS = """\
*nat
:PREROUTING ACCEPT [11729:703740]
:INPUT ACCEPT [11729:703740]
:OUTPUT ACCEPT [1074:95511]
:POSTROUTING ACCEPT [1077:95691]
:DOCKER - [0:0]
:OTHER - [0:0]
[99999:100000] -A OUTPUT -p udp -m udp --sport 53 --dport 1024:65535 -j DOCKER
[9999499:9999500] -A OUTPUT ! -o eth+ -m owner ! --uid-owner 1000-2000 --gid-owner 5 -j RETURN
[123456789:123456789012345] -A DOCKER -p tcp -m multiport ! --dports 80,90:100 -m comment --comment "why this" -j ACCEPT
[0:0] -A DOCKER ! -p tcp -j ACCEPT
[0:0] -A DOCKER -p sctp -j ACCEPT
[0:0] -A DOCKER -m mark ! --mark 0x539/0xff -j MARK --set-xmark 0x1/0xff
[0:0] -A DOCKER -m connmark --mark 0x539 -g OTHER
COMMIT
"""


EVERYTHING = Network("ipv4", 0, 0)
TWICE = Destination((Network("ipv4", 0x0A00_0000, 8),) * 2, negated=True)


def _excluding(*matches: Match) -> Ruleset:
    return Ruleset(("ipv4",), (Table("nat", (Chain("OUTPUT", (Rule(Return(), matches, "ipv4"),), "ACCEPT"),)),))


def chains(text: str) -> dict[str, list[str]]:
    """Return the lines of each chain by its name; protocols as words, no blanks at the ends of lines."""
    found: dict[str, list[str]] = {}
    for block in text.strip().split("\n\n"):
        lines = [line.rstrip() for line in block.split("\n")]
        found[lines[0].split(" ")[1]] = [_in_words(line) for line in lines]
    return found


def _in_words(line: str) -> str:
    number = re.match(r"(.{11} (?:\S+ +| {9} ) ?!?)(\d+) +(--|-f)", line)
    if not number:
        return line
    return f"{number[1]}{PROTOCOLS.get(number[2], number[2]):<4} {line[number.start(3) :]}"


def expect_listing_of_iptables(namespace: Namespace, variant: Variant) -> None:
    """Assert that every table of both families reads as iptables lists it."""
    live = namespace.call(RestoreDriver(variant).read)
    for family in FAMILIES:
        there = namespace.run([f"{COMMANDS[family]}-{variant}-save"]).stdout
        for table in live.tables:
            if f"*{table.name}" not in there:
                continue
            foreign = chains(namespace.run([f"{COMMANDS[family]}-{variant}", "-t", table.name, "-nvL"]).stdout)
            own = chains(listing(live, family, table.name))
            # A chain without rules does not show whether it is there for one family or for both.
            empty = {name for name, lines in own.items() if len(lines) == len(HEADING)}
            assert {name: own.get(name) for name in foreign} == foreign
            assert own.keys() - empty == foreign.keys() - empty


def _has_ports_apart(rule: Rule) -> bool:
    """Return whether another match is between those of the ports: legacy iptables lists these as two, and reads one."""
    places = [place for place, match in enumerate(rule.matches) if isinstance(match, SourcePort | DestinationPort)]
    return len(places) == 2 and places[1] - places[0] > 1


@pytest.mark.parametrize("variant", ["nft", "legacy"])
@given(ruleset=rulesets())
@example(ruleset=_excluding(Source((EVERYTHING,), negated=True)))
@example(ruleset=_excluding(Source((EVERYTHING,), negated=True), TWICE))
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_random_rules_are_listed_as_iptables_lists_them(variant: Variant, ruleset: Ruleset) -> None:
    assume(not any(map(_has_ports_apart, ruleset.rules)))
    with NamespaceFactory() as netns:
        namespace = netns()
        try:
            namespace.call(RestoreDriver(variant).write, ruleset, Ruleset(FAMILIES, ()), None)
        except ToolError:
            reject()  # what iptables refuses, it lists neither
        expect_listing_of_iptables(namespace, variant)


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_foreign_rules_and_their_counters(netns: NamespaceFactory, variant: Variant) -> None:
    namespace = netns()
    namespace.run([f"iptables-{variant}-restore", "-c"], stdin=OTHERS)
    namespace.run(
        [f"ip6tables-{variant}-restore", "-c"], stdin=OTHERS.replace("[11729:", "[7:").replace("-j DOCKER", "")
    )

    expect_listing_of_iptables(namespace, variant)
