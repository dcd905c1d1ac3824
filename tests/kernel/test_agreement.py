"""Three views of one packet: the desired rules, the rules read back, and the kernel.

Random captures are applied by every driver, among random foreign rules; random connections of
both families, TCP and UDP, out, in and within the pod, from several users, are then really made. The
trace of the desired rules, the trace of those read back, and where the connection ended must be the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from capture.analysis.base_chains import PodNetwork, Situation
from capture.analysis.compiler import OUTBOUND, Compiler
from capture.analysis.outcome import Fate
from capture.analysis.possible_packets import possible_packets
from capture.analysis.regions import witness
from capture.analysis.space import Field, PacketSpace
from capture.backends import load_driver
from capture.backends.detect import BackendChoice
from capture.model.addresses import FAMILIES, address_text, merge_ranges, parse_address
from capture.model.conventions import DNS_PORT
from capture.model.packet import LOOPBACK, Packet
from capture.model.ruleset import ALL_BITS, Rule, Ruleset
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from capture.state import routes
from pytest_netns import NamespaceFactory, PodPair
from support.generators.agreement import (
    IDS,
    PATIENT,
    PORTS,
    Attempt,
    Foreign,
    attempts,
    configs,
    foreign_rules,
    outcome_in_kernel,
    packet_of,
    ports_of,
    serve,
)
from support.rules.traced import trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.backends import Driver

DRIVERS = {
    "nftables-netlink": BackendChoice("nftables", "netlink", "", ""),
    "nftables-libnftables": BackendChoice("nftables", "libnftables", "", ""),
    "iptables-netlink": BackendChoice("iptables", "netlink", "nft", ""),
    "iptables-restore-nft": BackendChoice("iptables", "restore", "nft", ""),
    "iptables-restore-legacy": BackendChoice("iptables", "restore", "legacy", ""),
    "iptables-iptc": BackendChoice("iptables", "iptc", "legacy", ""),
}
CAPTURES = int(os.environ.get("AGREEMENT_CAPTURES", "15"))
"""How many captures a driver gets in the short run."""
SAME_AS = {
    "nftables-libnftables": "nftables-netlink",
    "iptables-restore-nft": "iptables-netlink",
    "iptables-iptc": "iptables-restore-legacy",
}
"""Drivers after which the kernel has what another leaves, as other tests show: a third of the captures is enough."""
PACKETS_EACH = 20


@pytest.fixture(scope="module", params=list(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    return load_driver(DRIVERS[request.param])


@pytest.fixture(scope="module")
def pair(driver: Driver, module_netns: NamespaceFactory) -> PodPair:
    made = module_netns.pod_pair()
    serve(made)
    return made


def among(desired: Ruleset, foreign: list[Foreign], *, comments: bool) -> Ruleset:
    """Return the rule set with foreign rules in its built-in chains, before our rules and after them."""
    tables = {table.name: table for table in desired.tables}
    for rule in foreign:
        table = tables.get(rule.table)
        chain = table.chain(rule.chain) if table else None
        if table is None or chain is None:
            continue
        rules = (rule.rule, *chain.rules) if rule.before else (*chain.rules, rule.rule)
        chains = tuple(each.replace(rules=rules) if each is chain else each for each in table.chains)
        tables[rule.table] = table.replace(chains=chains)
    return desired.replace(tables=tuple(tables.values()), has_comments=comments)


def ends(ruleset: Ruleset, packet: Packet) -> str:
    return trace(ruleset, packet).outcome


@pytest.fixture(scope="module")
def captured(driver: Driver, pair: PodPair) -> Captured:
    return Captured(driver, pair)


class Captured:
    """A pod that is captured by one driver, again and again."""

    def __init__(self, driver: Driver, pair: PodPair) -> None:
        self.driver = driver
        self.pair = pair
        self.before: Ruleset | None = None

    def apply(self, desired: Ruleset) -> Ruleset:
        """Make the rules be these, and return what is read back."""
        with self.pair.pod.entered():
            if self.before is not None:
                routes.remove(self.before)
            routes.add_missing(desired)
            self.driver.clean(self.driver.read(), self.before)
            self.driver.write(desired, self.driver.read(), None)
            self.before = desired
            return self.driver.read()


def test_model_read_back_and_kernel_agree(captured: Captured, request: pytest.FixtureRequest) -> None:
    is_twin = request.node.callspec.params["driver"] in SAME_AS
    expect_agreement(captured, max(CAPTURES // 3, 1) if is_twin else CAPTURES, 4, (8, PACKETS_EACH))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_kernel_and_the_analysis_agree_for_long(captured: Captured) -> None:
    expect_agreement(captured, 500 // len(DRIVERS) + 1, 6, (20, 30))


def expect_agreement(captured: Captured, examples: int, foreign_at_most: int, packets: tuple[int, int]) -> None:
    """Check as many random captures, among foreign rules, with so many packets each."""

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def checked(data: st.DataObject) -> None:
        config = data.draw(configs(), label="capture")
        foreign = data.draw(st.lists(foreign_rules(), max_size=foreign_at_most), label="foreign")
        tried = st.lists(attempts(captured.pair, ports_of(foreign)), min_size=packets[0], max_size=packets[1])
        check(captured, config, foreign, data.draw(tried))

    checked()


def check(captured: Captured, config: CaptureConfig, foreign: list[Foreign], tried: list[Attempt]) -> None:
    """Apply the capture among foreign rules, and demand that the three views agree on every packet."""
    desired = among(build_ruleset(config), foreign, comments=config.rule_comments)
    live = captured.apply(desired)
    for attempt in tried:
        packet = packet_of(attempt, captured.pair.pod)
        by_desired, by_live = ends(desired, packet), ends(live, packet)
        if is_answer_lost(config, attempt, by_desired):
            assert by_desired == by_live, attempt
            continue
        in_kernel = outcome_in_kernel(attempt, captured.pair)
        if in_kernel == "dropped" != by_desired:
            in_kernel = outcome_in_kernel(attempt, captured.pair, PATIENT)
        event(in_kernel)
        note(f"{attempt}: desired {by_desired}, read back {by_live}, kernel {in_kernel}")
        assert by_desired == by_live == in_kernel, attempt
        if in_kernel == "direct" and packet.out_interface == LOOPBACK:
            assert ends(live, back_over_lo(live, packet)) == "direct", attempt


def back_over_lo(live: Ruleset, packet: Packet) -> Packet:
    """Return a packet that went to the app as it comes in again, with the marks that rules gave it."""
    traced = trace(live, packet)
    marks = {"mark": traced.mark, "connection_mark": traced.connection_mark}
    return packet.replace(in_interface=LOOPBACK, out_interface=None, uid=None, gid=None, **marks)


def is_answer_lost(config: CaptureConfig, attempt: Attempt, outcome: str) -> bool:
    """Return whether a request arrives at a foreign port and no answer shows it.

    With DNS captured, the request's connection is in a conntrack zone, and answers from other ports than DNS's are not.
    """
    return config.captures_dns and outcome == "redirected" and (attempt.protocol, attempt.port) == ("udp", DNS_PORT)


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_packet_of_each_region_has_the_outcome_of_the_engine(captured: Captured, data: st.DataObject) -> None:
    """Of each set of packets that the rules read back treat alike, the kernel gets one."""
    config = data.draw(configs(), label="capture")
    foreign = data.draw(st.lists(foreign_rules(), max_size=4), label="foreign")
    live = captured.apply(among(build_ruleset(config), foreign, comments=config.rule_comments))
    pod = captured.pair.pod
    network = PodNetwork((parse_address(pod.ipv4), parse_address(pod.ipv6)))
    is_native = captured.driver.backend == "nftables"
    tried = 0
    for fate, packet in regions(Situation(live, is_native=is_native, network=network)):
        source = address_text(packet.family, packet.source.first) if packet.source else ""
        destination = address_text(packet.family, packet.destination.first)
        attempt = Attempt(packet.protocol, destination, packet.port, packet.uid, packet.gid, source)
        if is_answer_lost(config, attempt, fate.outcome):
            continue
        in_kernel = outcome_in_kernel(attempt, captured.pair)
        if in_kernel == "dropped" != fate.outcome:
            in_kernel = outcome_in_kernel(attempt, captured.pair, PATIENT)
        note(f"{attempt}: engine {fate}, kernel {in_kernel}")
        assert in_kernel == fate.outcome, attempt
        tried += 1
    assert tried


def regions(situation: Situation) -> Iterator[tuple[Fate, Packet]]:
    """Yield what happens to packets that processes of the pod send, each time with one to a port that is served."""
    for family in FAMILIES:
        space = PacketSpace(family, (situation,))
        compiler = Compiler(space, situation)
        diagrams = space.diagrams
        served = diagrams.both(
            diagrams.both(
                space.field_in(Field.PORT, merge_ranges((port, port) for port in PORTS)),
                space.field_in(Field.UID, merge_ranges((number, number) for number in IDS)),
            ),
            space.field_in(Field.GID, merge_ranges((number, number) for number in IDS)),
        )
        first = diagrams.both(space.has_state("NEW"), space.has_mark("mark", 0, ALL_BITS))
        possible = diagrams.both(possible_packets(space, (compiler,))[OUTBOUND], diagrams.both(served, first))
        fates = diagrams.choose(possible, compiler.fates(OUTBOUND), diagrams.leaf(None))
        for leaf in diagrams.leaves(fates):
            fate = diagrams.value(leaf)
            if isinstance(fate, Fate):
                packets = diagrams.mapped(fates, fate.__eq__, ("is", fate))
                packet = witness(space, packets, OUTBOUND)
                assert packet is not None
                yield fate, packet


def test_foreign_rules_are_placed_as_drawn() -> None:
    desired = build_ruleset(CaptureConfig())
    nat = desired.tables[-1]
    rule = Rule(nat.chains[0].rules[0].verdict)

    before = among(desired, [Foreign("nat", "PREROUTING", rule, before=True)], comments=False)
    after = among(desired, [Foreign("nat", "PREROUTING", rule, before=False)], comments=False)

    assert before.tables[-1].chains[0].rules[0] == after.tables[-1].chains[0].rules[-1] == rule
