"""A packet meets mangle, then nat, and rules may be replaced in between: inbound capture must hold across that.

The live rules are replaced step by step; a packet in flight meets mangle as it was before a step, and nat as it
is after, or each table by itself where a backend replaces them one after the other.
"""

from itertools import pairwise, product

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capture.model.addresses import IPV4, IPV6, parse_address
from capture.model.packet import Packet
from capture.model.ruleset import MANGLE, NAT, RAW, Ruleset, only
from capture.rules import build_ruleset, build_transition, redirects_inbound
from capture.settings.config import CaptureConfig
from support.generators.agreement import configs
from support.rules.traced import trace

SOURCES = {IPV4: "192.0.2.7", IPV6: "2001:db8::7"}
DESTINATIONS = {IPV4: "10.77.0.2", IPV6: "fd77::2"}
packets = st.builds(
    lambda family: Packet(
        "tcp", parse_address(DESTINATIONS[family]), 8080, source=parse_address(SOURCES[family]), in_interface="eth0"
    ),
    st.sampled_from([IPV4, IPV6]),
)
captures = configs().map(
    lambda config: config.replace(
        inbound_ports=config.inbound_ports.replace(entries=(*config.inbound_ports.entries, only(8080))),
        excluded_interfaces=(),
    )
)


def mixed(mangle: Ruleset, nat: Ruleset) -> Ruleset:
    """Return what a packet meets that passes mangle of one rule set and nat of another."""
    tables = [mangle.table(RAW), mangle.table(MANGLE), nat.table(NAT)]
    return nat.replace(tables=tuple(table for table in tables if table))


def is_captured(ruleset: Ruleset, packet: Packet) -> bool:
    return trace(ruleset, packet).outcome == "proxy-inbound"


def escapes(steps: list[Ruleset], packet: Packet) -> bool:
    """Return whether the packet gets past the proxy at any moment of these steps."""
    meets = [mixed(mangle, nat) for step in pairwise(steps) for mangle, nat in product(step, repeat=2)]
    never_met = [mixed(later, earlier) for earlier, later in pairwise(steps)]  # nat comes after mangle
    return not all(is_captured(each, packet) for each in meets if each not in never_met)


@settings(max_examples=50)
@given(old=captures, new=captures, packet=packets)
def test_handed_over_from_redirect_no_packet_escapes(old: CaptureConfig, new: CaptureConfig, packet: Packet) -> None:
    old, new = old.replace(mode="REDIRECT"), new.replace(mode="TPROXY")
    before, after = build_ruleset(old), build_ruleset(new)
    assume(is_captured(before, packet) and is_captured(after, packet))

    assert redirects_inbound(before)
    assert after.transparent_verdicts
    assert not escapes([before, build_transition(new), after], packet)
    assert is_captured(mixed(build_transition(new), before), packet)  # where mangle is replaced before nat


@settings(max_examples=50)
@given(old=captures, new=captures, packet=packets)
def test_back_to_redirect_no_transition_is_needed(old: CaptureConfig, new: CaptureConfig, packet: Packet) -> None:
    old, new = old.replace(mode="TPROXY"), new.replace(mode="REDIRECT")
    before, after = build_ruleset(old), build_ruleset(new)
    assume(is_captured(before, packet) and is_captured(after, packet))

    assert not escapes([before, after], packet)


def test_without_a_transition_a_packet_escapes() -> None:
    config = CaptureConfig()
    packet = Packet("tcp", parse_address("10.77.0.2"), 8080, parse_address("192.0.2.7"), in_interface="eth0")

    assert escapes([build_ruleset(config), build_ruleset(config.replace(mode="TPROXY"))], packet)


def test_in_a_transition_each_packet_is_taken_once() -> None:
    """What TPROXY has taken has its mark, and is not redirected as well."""
    transition = build_transition(CaptureConfig(mode="TPROXY"))
    packet = Packet("tcp", parse_address("10.77.0.2"), 8080, parse_address("192.0.2.7"), in_interface="eth0")
    nat_alone = transition.replace(tables=tuple(table for table in transition.tables if table.name == NAT))

    assert is_captured(nat_alone, packet)
    assert not is_captured(nat_alone, packet.replace(mark=1337))
