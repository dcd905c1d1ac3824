"""The policy as it is worded: parsed back, its lines share no packet, leave none out, and are true of each."""

import ipaddress
import re

import pytest

from capture.analysis.base_chains import BaseChain, PodNetwork, Situation
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler
from capture.analysis.diagram import Diagrams
from capture.analysis.explanation import NO_RULE_DECIDES, ReasonCompiler, statements_about
from capture.analysis.outcome import Fate
from capture.analysis.possible_packets import possible_packets
from capture.analysis.space import PACKET_PROTOCOLS, Field, PacketSpace
from capture.backends.iptables.render import shown_rule
from capture.model import ruleset as model
from capture.model.addresses import Family, gaps, merge_ranges
from capture.model.ruleset import only
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig

FIELDS = {
    "to": Field.DESTINATION,
    "port": Field.PORT,
    "from": Field.SOURCE,
    "from port": Field.SOURCE_PORT,
    "user": Field.UID,
    "group": Field.GID,
    "in via": Field.IN,
    "out via": Field.OUT,
    "over lo": Field.OUT,
    "leaving the pod": Field.OUT,
}
PHRASE = re.compile(r",? (?=(?:to|port|from|user|group|in via|out via) |over lo|leaving the pod)")


def packets_of(space: PacketSpace, text: str) -> int:
    """Return the packets that a line means to a person who reads it."""
    protocols, *phrases = PHRASE.split(re.sub(r"from port", "from_port", text))
    numbers = [(PACKET_PROTOCOLS.index(name), PACKET_PROTOCOLS.index(name)) for name in protocols.split(" and ")]
    found = space.field_in(Field.PROTOCOL, merge_ranges(numbers))
    for phrase in phrases:
        found = space.diagrams.both(found, _phrase(space, phrase.replace("_", " ")))
    return found


def _phrase(space: PacketSpace, phrase: str) -> int:
    name = next(name for name in sorted(FIELDS, key=len, reverse=True) if phrase.startswith(name))
    level = FIELDS[name]
    words = phrase.removeprefix(name).strip()
    entries = words.removeprefix("other than ").split(", ")
    if level in (Field.IN, Field.OUT):
        names = entries if words else ["lo"]
        ranges = merge_ranges([span for each in names for span in space.interface_ranges(each)])
    else:
        ranges = merge_ranges(_span(each) for each in entries)
    if words.startswith("other than ") or phrase == "leaving the pod":
        ranges = gaps(ranges, *space.domains[level])
    return space.field_in(level, ranges)


def _span(entry: str) -> tuple[int, int]:
    if not re.search(r"[.:]", entry):
        first, _, last = entry.partition("-")
        return int(first), int(last or first)
    if "-" in entry:
        ends = [int(ipaddress.ip_address(end)) for end in entry.split("-")]
        return ends[0], ends[1]
    network = ipaddress.ip_network(entry)
    return int(network.network_address), int(network.broadcast_address)


def foreign_filter(hook: str, *rules: model.Rule, drops: bool = False) -> BaseChain:
    chain = model.Chain("c", tuple(rules), "DROP" if drops else "ACCEPT")
    return BaseChain("inet f", ("ipv4", "ipv6"), hook, 0, False, model.Table("nat", (chain,)))


HTTP = model.Rule(model.Accept(), (model.Protocol("tcp"), model.DestinationPort((only(80),))))
WITH_TWO = PodNetwork(other_interfaces=("net1",))
BY_PREFIX = model.Rule(model.Drop(), (model.OutInterface("tun+"),))


def emptied(_: model.TableName, chain: model.Chain) -> model.Chain:
    """Return the redirect without a rule, and a foreign rule at OUTPUT: everything goes out, for several reasons."""
    return chain.replace(rules=() if chain.name == "ISTIO-REDIRECT" else (HTTP, *chain.rules))


SITUATIONS = {
    "default": Situation(build_ruleset(CaptureConfig())),
    "dns": Situation(build_ruleset(CaptureConfig(captures_dns=True, captures_all_dns=True))),
    "tproxy": Situation(build_ruleset(CaptureConfig(mode="TPROXY", drops_invalid=True))),
    "drops all but http": Situation(
        build_ruleset(CaptureConfig()), (foreign_filter(model.OUTPUT, HTTP, drops=True),), network=WITH_TWO
    ),
    "accepts nothing": Situation(
        build_ruleset(CaptureConfig()),
        (foreign_filter(model.OUTPUT, drops=True), foreign_filter(model.INPUT, HTTP, drops=True)),
    ),
    "emptied, and a foreign rule": Situation(build_ruleset(CaptureConfig()).with_chains(emptied)),
    "excludes an interface": Situation(
        build_ruleset(CaptureConfig(excluded_interfaces=("net1",))),
        network=PodNetwork(other_interfaces=("net1", "net2")),
    ),
    "excludes an interface that is missing": Situation(build_ruleset(CaptureConfig(excluded_interfaces=("net1",)))),
    "drops what leaves by some": Situation(build_ruleset(CaptureConfig()), (foreign_filter(model.OUTPUT, BY_PREFIX),)),
}


def fates_of(diagrams: Diagrams, leaves: list[int]) -> list[Fate]:
    return [value for value in map(diagrams.value, leaves) if isinstance(value, Fate)]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("name", SITUATIONS)
def test_lines_share_no_packet_leave_none_out_and_have_the_reason_of_each(name: str, family: Family) -> None:
    situation = SITUATIONS[name]
    space = PacketSpace(family, (situation,))
    diagrams = space.diagrams
    first = diagrams.both(space.has_state("NEW"), space.has_mark("mark", 0, model.ALL_BITS))
    compiler = Compiler(space, situation)
    possible = possible_packets(space, (compiler,))
    for direction in (INBOUND, OUTBOUND):
        left = diagrams.both(possible[direction], first)
        fates = ReasonCompiler(compiler, direction, lambda rule: shown_rule(rule, family)).root()
        for line in (each for each in statements_about({family: situation}, shown_rule) if each.direction == direction):
            packets = diagrams.both(diagrams.both(possible[direction], first), packets_of(space, line.traffic))
            assert diagrams.both(packets, left) == packets, f"{line.traffic}: in a line above, too"
            met = diagrams.leaves(diagrams.choose(packets, fates, diagrams.leaf(None)))
            assert {fate.reason[1] if fate.reason else NO_RULE_DECIDES for fate in fates_of(diagrams, met)} == {
                line.why
            }
            left = diagrams.both(left, diagrams.negation(packets))
        assert left == diagrams.no
