"""Which packets can occur in a pod: of each possible one, what may differ, and what may not."""

from typing import Any

import pytest

from capture.analysis.base_chains import PodNetwork, Situation
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler
from capture.analysis.possible_packets import possible_packets
from capture.analysis.space import PacketSpace
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.generators.small_pools import numbers_of, value_at

POD, CLIENT, LO = parse_address("192.0.2.2"), parse_address("198.51.100.7"), parse_address("127.0.0.1")
ENDS: dict[str, Any] = {"port": 80, "source_port": 45000}
SENT = Packet("tcp", CLIENT, source=POD, uid=1000, gid=1000, out_interface="eth0", **ENDS)
TO_ITSELF = SENT.replace(destination=POD, out_interface="lo")
CAME_IN = Packet("tcp", POD, source=CLIENT, in_interface="eth0", **ENDS)
BASES = {"sent": SENT, "to itself": TO_ITSELF, "came in": CAME_IN}


SENT6 = SENT.replace(source=parse_address("2001:db8::2"), destination=parse_address("2001:db8::7"))


def can_occur(packet: Packet, config: CaptureConfig | None = None, network: PodNetwork | None = None) -> bool:
    family = packet.destination.family
    situation = Situation(build_ruleset(config or CaptureConfig()), network=network or PodNetwork())
    space = PacketSpace(family, [situation])
    possible = possible_packets(space, [Compiler(space, situation)])
    direction = INBOUND if packet.in_interface else OUTBOUND
    return bool(value_at(space.diagrams, possible[direction], numbers_of(space, packet)))


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        *[(base, {}) for base in BASES],
        *[(base, {"state": "ESTABLISHED"}) for base in BASES],
        ("sent", {"port": 65535, "source_port": 1}),
        *[("sent", {"destination": parse_address(address)}) for address in ("1.0.0.1", "223.255.255.254")],
        ("sent", {"protocol": "udp", "destination": parse_address("224.0.0.251")}),
        ("sent", {"state": "ESTABLISHED", "uid": None, "gid": None}),
        ("sent", {"uid": 0, "gid": 2**32 - 2}),
        ("to itself", {"destination": LO}),
        ("to itself", {"destination": LO, "source": LO}),
        ("to itself", {"source": LO}),
    ],
)
def test_a_packet_that_can_occur(base: str, changes: dict[str, Any]) -> None:
    assert can_occur(BASES[base].replace(**changes))


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        *[(base, {"port": 0}) for base in BASES],
        *[(base, {"source_port": 0}) for base in BASES],
        *[(base, {"source_port": None}) for base in BASES],
        *[(base, {"source": None}) for base in BASES],
        *[(base, {"state": state}) for base in BASES for state in ("INVALID", "UNTRACKED")],
        *[(base, {"connection_mark": 1}) for base in BASES],
        *[("sent", {"destination": parse_address(address)}) for address in ("224.0.0.251", "240.0.0.1", "0.0.0.1")],
        ("sent", {"out_interface": "lo"}),
        ("sent", {"out_interface": None}),
        ("sent", {"in_interface": "eth0"}),
        ("sent", {"source": CLIENT}),
        ("sent", {"source": LO}),
        ("sent", {"uid": None}),
        ("sent", {"gid": None}),
        ("sent", {"state": "RELATED", "uid": None, "gid": None}),
        ("to itself", {"out_interface": "eth0"}),
        ("to itself", {"destination": LO, "out_interface": "eth0"}),
        ("to itself", {"source": CLIENT}),
        ("came in", {"in_interface": "lo"}),
        ("came in", {"uid": 1000}),
        ("came in", {"gid": 1000}),
        ("came in", {"mark": 1}),
        ("came in", {"destination": CLIENT, "source": parse_address("203.0.113.7")}),
        *[("came in", {"source": parse_address(address)}) for address in ("192.0.2.2", "127.0.0.1", "224.0.0.251")],
    ],
)
def test_a_packet_that_cannot_occur(base: str, changes: dict[str, Any]) -> None:
    assert can_occur(BASES[base])
    assert not can_occur(BASES[base].replace(**changes))


@pytest.mark.parametrize("base", BASES)
def test_an_invalid_packet_counts_where_the_capture_drops_it(base: str) -> None:
    assert can_occur(BASES[base].replace(state="INVALID"), CaptureConfig(drops_invalid=True))


def test_no_connection_is_to_what_is_no_host() -> None:
    sent = SENT.replace(source=parse_address("2001:db8::2"))
    for address, occurs in (
        ("2001:db8::7", True),
        ("::1:0", True),
        ("fec0::1", True),
        ("::", False),
        ("ff02::1", False),
    ):
        assert can_occur(sent.replace(destination=parse_address(address))) == occurs


def test_addresses_on_lo_of_the_same_family_are_reached_over_lo_alone() -> None:
    addresses = tuple(map(parse_address, ("10.9.9.9", "2001:db8::9")))
    network = PodNetwork(local=(*PodNetwork().own, *addresses))
    for packet, more in ((SENT, ()), (SENT6, (parse_address("::6"),))):
        for address in (*more, *(each for each in addresses if each.family == packet.destination.family)):
            for interface in ("lo", "eth0"):
                sent = packet.replace(destination=address, out_interface=interface)
                assert can_occur(sent, network=network) == (interface == "lo"), address


@pytest.mark.parametrize(
    ("config", "marks"),
    [
        (CaptureConfig(), {0: True, 1: False, 1337: False}),
        (CaptureConfig(mode="TPROXY"), {0: True, 1: False, 1337: True}),
    ],
)
def test_a_connection_has_a_mark_that_rules_save(config: CaptureConfig, marks: dict[int, bool]) -> None:
    later = CAME_IN.replace(state="ESTABLISHED")
    assert {mark: can_occur(later.replace(connection_mark=mark), config) for mark in marks} == marks
    assert not can_occur(CAME_IN.replace(connection_mark=1337), config)


def test_a_transparent_proxy_sends_to_the_app_from_the_address_of_the_client() -> None:
    config = CaptureConfig(mode="TPROXY", tproxy_mark=1337)
    for mark, occurs in ((1337, True), (0, False), (1336, False)):
        assert can_occur(TO_ITSELF.replace(source=CLIENT, mark=mark), config) == occurs
    assert not can_occur(TO_ITSELF.replace(source=CLIENT, mark=1337))
