"""The numbers of a packet's fields: each is a value of the field, and the other way round."""

from __future__ import annotations

import pytest

from capture.analysis.base_chains import Situation
from capture.analysis.space import ABSENT, Field, PacketSpace, gathered_bits, scattered_bits
from capture.model.addresses import FAMILIES, Family, Network, parse_address
from capture.model.packet import Packet
from capture.model.ruleset import MANGLE, OUTPUT, Chain, Mark, Return, Rule, Ruleset, SetMark, Table
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.generators.small_pools import numbers_of, value_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.space import MarkKind

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
    assert {low for low, _ in space.domains[: Field.SOURCE + 1]} == {0, ABSENT}


def test_an_interface_that_no_rule_names_is_one_that_rules_treat_like_it() -> None:
    config = CaptureConfig(excluded_interfaces=("eth1", "net+"), rerouted_interfaces=("tap0",))
    space = PacketSpace("ipv4", [Situation(build_ruleset(config))])
    known = [space.interfaces[space.number_of(name)] for name in ("lo", "eth0", "eth1", "tap0")]
    assert known == ["lo", "eth0", "eth1", "tap0"]
    assert space.interfaces[space.number_of("net77")].startswith("net")
    assert space.interfaces[space.number_of("wlan0")] not in (*known, "net77")
    assert not space.interfaces[space.number_of("wlan0")].startswith("net")
    assert space.number_of(None) == ABSENT
    assert {*space.usable_interfaces[Field.IN].values()} == {"eth0", "eth1", "net+", "tap0"}
    assert {*space.usable_interfaces[Field.OUT].values()} == {"eth0", "eth1", "net+"}, "nothing leaves by -i tap0"
    assert space.interfaces.index("eth1") in space.usable_interfaces[Field.IN]


def test_bits_of_marks_are_together_that_every_mask_treats_alike() -> None:
    masks = ((0x100, 0xF00), (1, 3), (0x301, 0x303))
    rules = tuple(Rule(SetMark(*each)) if each[0] == 1 else Rule(Return(), (Mark(*each),)) for each in masks)
    space = PacketSpace("ipv4", [Situation(Ruleset(FAMILIES, (Table(MANGLE, (Chain(OUTPUT, rules),)),)))])
    assert [bits for bits in space.groups if len(bits) < 20] == [[0, 1], [8, 9], [10, 11]]
    assert sorted(bit for bits in space.groups for bit in bits) == [*range(32)]
    packet = Packet("tcp", ADDRESSES["ipv4"], 80, out_interface="eth0")
    for value, mask in masks:
        for mark in (0, 1, 2, 0x100, 0x101, 0x300, 0x301, 0x303, 0xF01, 1 << 31 | 1):
            kinds: tuple[tuple[MarkKind, Packet], ...] = (
                ("mark", packet.replace(mark=mark)),
                ("connection", packet.replace(connection_mark=mark)),
            )
            for kind, sent in kinds:
                numbers = numbers_of(space, sent)
                found = space.has_mark(kind, value, mask)
                assert value_at(space.diagrams, found, numbers) == (mark & mask == value)
                assert (space.packet(numbers).mark, space.packet(numbers).connection_mark) == (
                    sent.mark,
                    sent.connection_mark,
                )
    assert space.has_mark("mark", 4, 3) == space.diagrams.no, "no mark has a bit outside of its mask"


@pytest.mark.parametrize("bits", [[0], [3, 1], [31, 0, 7]])
def test_bits_are_gathered_from_the_lowest_and_scattered_back(bits: list[int]) -> None:
    for number in range(1 << len(bits)):
        assert gathered_bits(scattered_bits(number, bits), bits) == number
    assert [scattered_bits(1 << place, bits) for place in range(len(bits))] == [1 << bit for bit in bits]
