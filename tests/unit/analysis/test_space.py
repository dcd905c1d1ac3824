"""The numbers of a packet's fields: each is a value of the field, and the other way round."""

from __future__ import annotations

import pytest

from capture.analysis.base_chains import Situation
from capture.analysis.space import NONE, Field, PacketSpace
from capture.model.addresses import FAMILIES, Family, Network, parse_address
from capture.model.packet import Packet
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.generators.small_pools import numbers_of

ADDRESSES = {family: parse_address(text) for family, text in zip(FAMILIES, ("10.0.0.5", "fd00::5"), strict=True)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_is_its_numbers_up_to_the_ends_of_every_field(family: Family) -> None:
    config = CaptureConfig(mode="TPROXY", excluded_interfaces=("eth1", "net+"))
    space = PacketSpace(family, [Situation(build_ruleset(config))])
    address = ADDRESSES[family]
    numbers = numbers_of(
        space, Packet("tcp", address, 80, source=address, source_port=1, out_interface="eth1", mark=1337)
    )
    assert numbers_of(space, space.packet(numbers)) == numbers
    packets = set()
    for level in range(Field.COUNT):
        for end in space.domains[level]:
            changed = [end if place == level else number for place, number in enumerate(numbers)]
            assert numbers_of(space, space.packet(changed)) == changed
            packets.add(space.packet(changed))
    assert max(each.destination.first for each in packets) == Network(family, 0, 0).last
    assert {each.in_interface for each in packets} - {None} == {space.interfaces[space.domains[Field.IN][1]]}
    assert {low for low, _ in space.domains[: Field.SOURCE + 1]} == {0, NONE}
