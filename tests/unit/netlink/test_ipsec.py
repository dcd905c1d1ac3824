"""Which IPsec policy decides on a packet."""

from typing import Any

import pytest

from capture.model.addresses import Network, parse_address, parse_network
from capture.model.packet import Packet
from capture.netlink.ipsec import IpsecPolicy, policy_for

ANY_PORT, EVERYWHERE = (0, 0), parse_network("0.0.0.0/0")
BLOCKS = IpsecPolicy("out", 10, EVERYWHERE, EVERYWHERE, ANY_PORT, ANY_PORT, 0, is_blocking=True, has_template=False)
SENT = Packet(
    "tcp", parse_address("203.0.113.9"), 443, source=parse_address("10.0.0.5"), source_port=45000, out_interface="eth0"
)
CAME_IN = SENT.replace(in_interface="eth0", out_interface=None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"is_blocking": False, "has_template": True},
        {"destination": parse_network("203.0.113.0/24"), "source": parse_network("10.0.0.5/32")},
        {"destination": Network("ipv4", parse_address("203.0.113.77").first, 24)},  # as the kernel keeps host bits
        {"destination_port": (443, 0xFFFF), "source_port": (45000, 0xFFFF), "protocol": 6},
        {"destination_port": (0x100, 0xFF00)},
    ],
)
def test_a_policy_that_covers_a_packet_decides_on_it(changes: dict[str, Any]) -> None:
    policy = BLOCKS.replace(**changes)
    assert policy_for(SENT, [policy]) == policy
    assert policy_for(CAME_IN, [policy.replace(direction="in")]) == policy.replace(direction="in")


@pytest.mark.parametrize(
    "changes",
    [
        {"is_blocking": False},
        {"direction": "in"},
        {"direction": "fwd"},
        {"destination": parse_network("203.0.113.8/32")},
        {"destination": parse_network("::/0")},
        {"source": parse_network("10.0.0.6/31")},
        {"destination_port": (80, 0xFFFF)},
        {"source_port": (443, 0xFFFF)},
        {"protocol": 17},
    ],
)
def test_a_policy_for_other_packets_or_without_effect_decides_nothing(changes: dict[str, Any]) -> None:
    assert policy_for(SENT, [BLOCKS.replace(**changes)]) is None


def test_the_lowest_priority_decides_also_if_it_lets_a_packet_pass() -> None:
    first = BLOCKS.replace(priority=1, has_template=True)
    assert policy_for(SENT, [BLOCKS, first]) == first
    assert policy_for(SENT, [first.replace(is_blocking=False, has_template=False), BLOCKS]) is None


def test_an_unknown_source_is_covered_by_a_policy_for_every_source() -> None:
    unknown = SENT.replace(source=None, source_port=None)
    assert policy_for(unknown, [BLOCKS]) == BLOCKS
    assert policy_for(unknown, [BLOCKS.replace(source=parse_network("10.0.0.0/8"))]) is None
    assert policy_for(unknown, [BLOCKS.replace(source_port=(0, 0x8000))]) is None, "of half of the ports"
