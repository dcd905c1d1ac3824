"""Sets of packets in words: the parts are the set, and its witness is in it."""

from __future__ import annotations

import random

import pytest

from capture.analysis.base_chains import Situation
from capture.analysis.compiler import Compiler
from capture.analysis.possible_packets import possible_packets
from capture.analysis.regions import region_text, regions_of, witness
from capture.analysis.space import Field, PacketSpace
from capture.model.addresses import merge_ranges
from capture.model.ruleset import ALL_BITS
from capture.report.packet_text import packet_text
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.generators.small_pools import numbers_of, value_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.regions import Region

SITUATION = Situation(build_ruleset(CaptureConfig()))
LEVELS = (Field.PROTOCOL, Field.PORT, Field.DESTINATION, Field.UID, Field.OUT, Field.STATE)


def drawn(space: PacketSpace, seed: int) -> int:
    """Return a set of packets: some boxes, one after the other joined, met or taken away."""
    chance = random.Random(seed)  # noqa: S311 - repeatable
    found = space.diagrams.yes
    for _ in range(6):
        box = space.diagrams.yes
        for level in chance.sample(LEVELS, 2):
            ends = [chance.randint(*space.domains[level]) for _ in range(4)]
            ranges = merge_ranges([(min(ends[:2]), max(ends[:2])), (min(ends[2:]), max(ends[2:]))])
            box = space.diagrams.both(box, space.field_in(level, ranges))
        kind = chance.randrange(3)
        found = (
            space.diagrams.either(found, box)
            if kind == 0
            else space.diagrams.both(found, box if kind == 1 else space.diagrams.negation(box))
        )
    return found


@pytest.mark.parametrize("seed", range(40))
def test_parts_are_the_set_among_packets_that_can_occur_and_the_witness_is_in_it(seed: int) -> None:
    space = PacketSpace("ipv4", [SITUATION])
    diagrams = space.diagrams
    packets = drawn(space, seed)
    for direction, among in possible_packets(space, [Compiler(space, SITUATION)]).items():
        again = diagrams.any_of(
            diagrams.all_of(space.field_in(level, ranges) for level, ranges in path.items())
            for path in regions_of(space, packets, among)
        )
        possible = diagrams.both(packets, among)
        assert diagrams.both(again, among) == possible
        if possible != diagrams.no:
            packet = witness(space, possible, direction)
            assert packet is not None
            assert value_at(diagrams, possible, numbers_of(space, packet)) is True
        assert witness(space, diagrams.no, direction) is None


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ({}, "tcp and udp"),
        ({Field.PROTOCOL: ((1, 1),), Field.PORT: ((53, 53), (80, 90))}, "udp, port 53, 80-90"),
        ({Field.PORT: ((0, 79), (81, 65535))}, "tcp and udp, port other than 80"),
        ({Field.PORT: ((1024, 65535),)}, "tcp and udp, port other than 0-1023"),
        ({Field.PORT: tuple((n, n) for n in range(1, 17, 2))}, "tcp and udp, port 1, 3, 5, 7, 9, 11 and 2 more"),
        ({Field.UID: ((-1, -1),)}, "tcp and udp, user unknown"),
        ({Field.DESTINATION: ((0x0A000000, 0x0AFFFFFF),)}, "tcp and udp to 10.0.0.0/8"),
        ({Field.DESTINATION: ((0x0A000001, 0x0A000006),)}, "tcp and udp to 10.0.0.1-10.0.0.6"),
        ({Field.DESTINATION: ((0, 0x7F000000), (0x7F000002, 0xFFFFFFFF))}, "tcp and udp to other than 127.0.0.1"),
        ({Field.SOURCE: ((-1, -1),)}, "tcp and udp, from unknown"),
        ({Field.STATE: ((1, 1),)}, "tcp and udp, of a connection that is NEW"),
        ({Field.STATE: ((0, 4),)}, "tcp and udp"),
    ],
)
def test_a_part_reads_as_what_is_shorter(path: Region, text: str) -> None:
    assert region_text(PacketSpace("ipv4", [SITUATION]), path) == text


def test_parts_that_differ_in_one_field_only_are_one() -> None:
    space = PacketSpace("ipv4", [SITUATION])
    diagrams = space.diagrams
    ports = [space.field_in(Field.PORT, [(port, port)]) for port in (80, 443)]
    users = [space.field_in(Field.UID, [(uid, uid)]) for uid in (1000, 1337)]
    every_pair = diagrams.any_of(diagrams.both(port, user) for port in ports for user in users)
    (path,) = regions_of(space, every_pair, diagrams.yes)
    assert path == {Field.PORT: ((80, 80), (443, 443)), Field.UID: ((1000, 1000), (1337, 1337))}


def test_marks_read_as_value_and_mask_of_the_bits_that_matter() -> None:
    space = PacketSpace("ipv4", [Situation(build_ruleset(CaptureConfig(mode="TPROXY")))])
    marked, on_connection = space.has_mark("mark", 0x539, ALL_BITS), space.has_mark("connection", 0x539, ALL_BITS)

    def texts(packets: int) -> list[str]:
        return [region_text(space, path) for path in regions_of(space, packets, space.diagrams.yes)]

    assert texts(marked) == ["tcp and udp, mark 0x539"]
    assert texts(space.diagrams.both(marked, on_connection)) == ["tcp and udp, mark 0x539, connection mark 0x539"]
    assert texts(space.diagrams.negation(marked)) == ["tcp and udp, some marks"]


def test_the_witness_of_all_packets_is_an_ordinary_one() -> None:
    space = PacketSpace("ipv4", [SITUATION])
    found = {
        direction: (packet := witness(space, among, direction)) and packet_text(packet)
        for direction, among in possible_packets(space, [Compiler(space, SITUATION)]).items()
    }
    assert found == {
        "inbound": "tcp to 192.0.2.2:80 from 198.51.100.7:45000, in via eth0",
        "outbound": "tcp to 203.0.113.7:80 from 192.0.2.2:45000, out via eth0, of user 1000, group 1000",
    }
