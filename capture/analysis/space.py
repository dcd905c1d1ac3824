"""The fields of a packet as levels of a diagram, and the matches of rules as functions.

A level is a field's place in the order of tests; its domain is the lowest and the highest number of the field. One
space serves all rule sets that are compared: one interface represents all that no rule of them tells apart, and bits of
marks that every mask treats alike are one field. -1 is "none" or "not known".
"""

from __future__ import annotations

from capture.analysis.canonical import entries_of_match
from capture.analysis.diagram import Diagrams
from capture.analysis.long_lists import Switches
from capture.analysis.meaning import holds_for_protocol, holds_in_state, modelled_matches
from capture.model import ruleset as model
from capture.model.addresses import BITS, Family, Network, gaps, merge_ranges, network_ranges
from capture.model.conventions import MAX_ID, MAX_INTERFACE_BYTES, MAX_PORT
from capture.model.packet import LOOPBACK, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
    from typing import Literal

    from capture.analysis.base_chains import Situation
    from capture.analysis.rerouting import MarkRoute

    Ranges = Sequence[tuple[int, int]]
    MarkKind = Literal["first", "mark", "connection"]

ABSENT = -1
PACKET_PROTOCOLS: tuple[model.ProtocolName, ...] = ("tcp", "udp")
PROTOCOL_RANGES = {name: [(number, number)] for number, name in enumerate(PACKET_PROTOCOLS)}
MARK_BITS = 32


class Field:
    """The fields in the order in which diagrams test them; marks come after them, what is unknown comes last."""

    PROTOCOL, IN, OUT, STATE, PORT, DESTINATION, SOURCE_PORT, UID, GID, SOURCE, COUNT = range(11)


LEVEL_OF_MATCH: dict[type, int] = {
    model.Source: Field.SOURCE,
    model.Destination: Field.DESTINATION,
    model.SourcePort: Field.SOURCE_PORT,
    model.DestinationPort: Field.PORT,
    model.OwnerUid: Field.UID,
    model.OwnerGid: Field.GID,
}
"""Matches with several entries, and the level they test."""
NAME_ENDINGS = ("", "eth0", "0", "1", "2", "-", "_", "x", "y", "z", "00", "zz", "000", "q.q", "~")
"""Endings of interface names, tried in order: with one of them, no longer prefix in a rule matches the name."""


class PacketSpace:
    """Levels and their domains for packets of one family, as some situations tell them apart."""

    def __init__(self, family: Family, situations: Sequence[Situation]) -> None:
        self.family = family
        self.network = situations[0].network
        self.diagrams = Diagrams()
        self.switches = Switches(self.diagrams)
        tables = [table for situation in situations for table in situation.tables]
        self.interfaces, self._representatives = _interfaces(tables, situations)
        self.usable_interfaces = {level: self._usable(situations[0], level) for level in (Field.IN, Field.OUT)}
        """By number, the interfaces without lo that exist, or that rules of the first situation name, at each level."""
        self.groups = _mark_groups(tables, [each.mark | each.mask for each in self.network.mark_routes])
        top = len(self.interfaces) - 1
        highest_address = (1 << BITS[family]) - 1
        self.domains: list[tuple[int, int]] = [
            (0, len(PACKET_PROTOCOLS) - 1),
            (ABSENT, top),
            (ABSENT, top),
            (0, len(model.CONNECTION_STATES) - 1),
            (0, MAX_PORT),
            (0, highest_address),
            (ABSENT, MAX_PORT),
            (ABSENT, MAX_ID),
            (ABSENT, MAX_ID),
            (ABSENT, highest_address),
        ]
        for bits in self.groups:
            self.domains += [(0, (1 << len(bits)) - 1)] * len(MARK_KINDS)
        self.first_unknown_level = len(self.domains)
        self._unknown: dict[Hashable, int] = {}
        self.doubts: dict[int, model.Rule | str] = {}
        """By level, what cannot be judged: a rule, or something else in words."""

    # --- marks -----------------------------------------------------------------------------------

    def mark_level(self, kind: MarkKind, group: int) -> int:
        """Return the level of a group of mark bits: the packet's, as it began and as it is now, or its connection's."""
        return Field.COUNT + len(MARK_KINDS) * group + MARK_KINDS.index(kind)

    def mark_levels(self, old: MarkKind, new: MarkKind) -> dict[int, int]:
        """Return which level takes the place of which, where one mark is copied to another."""
        return {self.mark_level(old, group): self.mark_level(new, group) for group in range(len(self.groups))}

    def has_mark(self, kind: MarkKind, value: int, mask: int) -> int:
        """Return whether the bits of a mark under a mask are a value."""
        if value & ~mask:
            return self.diagrams.no
        node = self.diagrams.yes
        for group in reversed(range(len(self.groups))):
            bits = self.groups[group]
            if mask >> bits[0] & 1:
                number = gathered_bits(value, bits)
                node = self.diagrams.both(self.field_in(self.mark_level(kind, group), [(number, number)]), node)
        return node

    def with_mark(self, node: int, value: int, mask: int) -> int:
        """Return the fates of packets after the bits of a mark were replaced."""
        for group, bits in enumerate(self.groups):
            if (value | mask) >> bits[0] & 1:
                node = self.switches.restricted(node, self.mark_level("mark", group), gathered_bits(value, bits))
        return node

    def leaving_by_mark(self, routes: Iterable[MarkRoute]) -> Iterator[tuple[int, str | None, bool]]:
        """Yield which packets leave by which interface by their mark, in the order in which that is looked at.

        In place of an interface comes UNCHANGED, or None where they are refused; last comes whether that is certain.
        """
        for route in routes:
            marked = self.has_mark("mark", route.mark, route.mask)
            is_meant = self.diagrams.negation(marked) if route.is_inverted else marked
            if route.source is not None:
                inside = self.field_in(Field.SOURCE, [(route.source.first, route.source.last)])
                is_meant = self.diagrams.both(is_meant, inside)
            if not route.is_certain:
                is_meant = self.diagrams.both(is_meant, self.unknown(("policy rule", route.words), route.words))
            for target in dict.fromkeys(target for _, _, target in route.targets):
                ranges = merge_ranges((first, last) for first, last, each in route.targets if each == target)
                is_routed = self.diagrams.both(is_meant, self.field_in(Field.DESTINATION, ranges))
                yield is_routed, target, route.is_certain

    # --- matches of rules ------------------------------------------------------------------------

    def field_in(self, level: int, ranges: Ranges) -> int:
        """Return whether a field lies in ranges, which are in order and apart."""
        return self.diagrams.in_ranges(level, ranges, *self.domains[level])

    def is_absent(self, level: int) -> int:
        """Return whether a packet has nothing in a field, such as the interface by which it came in."""
        return self.field_in(level, [(ABSENT, ABSENT)])

    def has_state(self, *states: str) -> int:
        """Return whether the connection is in one of these states."""
        return self.field_in(
            Field.STATE, merge_ranges((i, i) for i, name in enumerate(model.CONNECTION_STATES) if name in states)
        )

    def with_state(self, node: int, state: str) -> int:
        """Return the function of packets that connection tracking has in a state."""
        return self.switches.restricted(node, Field.STATE, model.CONNECTION_STATES.index(state))

    def interface_ranges(self, pattern: str) -> Ranges:
        """Return the interfaces that a name in a rule means."""
        prefix = pattern[:-1] if pattern.endswith("+") else None
        named = (
            number
            for number, name in enumerate(self.interfaces)
            if (name == pattern if prefix is None else name.startswith(prefix))
        )
        return merge_ranges((number, number) for number in named)

    def _usable(self, situation: Situation, level: int) -> dict[int, str]:
        """Return the interfaces by which packets may come in or leave; one that represents many as their pattern."""
        kind = model.InInterface if level == Field.IN else model.OutInterface
        names = {self.network.interface, *self.network.other_interfaces}
        names |= {match.name for rule in situation.rules for match in rule.matches if isinstance(match, kind)}
        patterns = {name: f"{prefix}+" for prefix, name in self._representatives.items()}
        ranges = [span for name in sorted(names) for span in self.interface_ranges(name)]
        numbers = sorted({number for first, last in ranges for number in range(first, last + 1)})
        shown = {number: self.interfaces[number] for number in numbers if self.interfaces[number] != LOOPBACK}
        return {number: patterns.get(name, name) for number, name in shown.items()}

    def number_of(self, name: str | None) -> int:
        """Return the number of an interface, or of one that no rule tells from it."""
        if name is None:
            return ABSENT
        if name not in self.interfaces:
            name = self._representatives[_longest_prefix(name, self._representatives)]
        return self.interfaces.index(name)

    def ranges(self, match: model.Match, *, is_native: bool) -> tuple[int, Ranges] | None:
        """Return the level that a match tests and the ranges it lets pass; None if it is no such match."""
        if isinstance(match, model.Protocol):
            return Field.PROTOCOL, PROTOCOL_RANGES[match.name]
        if isinstance(match, model.InterfaceMatch):
            level = Field.IN if isinstance(match, model.InInterface) else Field.OUT
            inside = self.interface_ranges(match.name)
            return level, gaps(inside, ABSENT, self.domains[level][1]) if match.negated else inside
        if isinstance(match, model.ConnectionState):
            numbers = [i for i, name in enumerate(model.CONNECTION_STATES) if (name in match.states) != match.negated]
            return Field.STATE, merge_ranges((number, number) for number in numbers)
        if isinstance(match, model.UnknownMatch):
            answers = [holds_for_protocol(match.test, protocol) for protocol in PACKET_PROTOCOLS]
            holding = merge_ranges((number, number) for number, holds in enumerate(answers) if holds)
            return None if None in answers else (Field.PROTOCOL, holding)
        tested = LEVEL_OF_MATCH.get(type(match))
        return None if tested is None else (tested, self._listed(match, tested, is_native=is_native))

    def _listed(self, match: model.Match, level: int, *, is_native: bool) -> Ranges:
        """Return the ranges of a list. What is not known lies in none, nor outside of one, but for owners (model)."""
        entries = entries_of_match(match)
        if level in (Field.SOURCE, Field.DESTINATION):
            inside = network_ranges([network for network in entries if network.family == self.family])
        else:
            inside = merge_ranges([(span.first, span.last) for span in entries])
        if not match.negated:
            return inside
        holds_for_none = level in (Field.UID, Field.GID) and not is_native
        return gaps(inside, ABSENT if holds_for_none else 0, self.domains[level][1])

    def other(self, match: model.Match, rule: model.Rule, occurrence: Hashable, *, translated: bool | None) -> int:
        """Return whether a match of a rule holds that is about marks, or that the model lacks."""
        if isinstance(match, model.MarkMatch):
            kind: MarkKind = "mark" if isinstance(match, model.Mark) else "connection"
            node = self.has_mark(kind, match.value, match.mask)
            return self.diagrams.negation(node) if match.negated else node
        if not isinstance(match, model.UnknownMatch):
            return self.unknown(match, rule)
        node = self.unknown(match.text if match.is_pure else (match.text, occurrence), rule)
        for state in model.CONNECTION_STATES:
            holds = holds_in_state(match.test, state, is_translated=translated)
            if holds is not None:
                node = self.diagrams.choose(self.has_state(state), self.diagrams.leaf(holds), node)
        return node

    def unknown(self, key: Hashable, words: model.Rule | str) -> int:
        """Return an unknown truth value: the same wherever ``key`` is the same."""
        level = self._unknown.get(key)
        if level is None:
            level = self._unknown[key] = len(self.domains)
            self.doubts[level] = words
            self.domains.append((0, 1))
        return self.diagrams.node(level, (0,), (self.diagrams.no, self.diagrams.yes))

    def folded(self, node: int, fold: Callable[[list[Hashable]], Hashable], name: str) -> int:
        """Return the function with what is unknown folded into one value, from those that are possible."""
        diagrams = self.diagrams

        def change(node: int) -> int | None:
            if diagrams.level(node) < self.first_unknown_level:
                return None
            return diagrams.leaf(fold([diagrams.value(leaf) for leaf in diagrams.leaves(node)]))

        return diagrams.rewritten(node, change, ("settled", name))

    def rule(self, rule: model.Rule, occurrence: Hashable, *, is_native: bool, translated: bool | None = None) -> int:
        """Return whether a packet fulfils each match of a rule; whether nat has translated it is None where unknown."""
        node = self.diagrams.yes
        for match in modelled_matches(rule.matches, self.family, self.network):
            known = self.ranges(match, is_native=is_native)
            holds = self.field_in(*known) if known else self.other(match, rule, occurrence, translated=translated)
            node = self.diagrams.both(node, holds)
        return node

    # --- packets ---------------------------------------------------------------------------------

    def packet(self, numbers: Sequence[int]) -> Packet:
        """Return the packet whose fields have these numbers."""
        bits = BITS[self.family]
        source = numbers[Field.SOURCE]
        groups = range(len(self.groups))
        marks = [scattered_bits(numbers[self.mark_level("mark", group)], self.groups[group]) for group in groups]
        kept = [scattered_bits(numbers[self.mark_level("connection", group)], self.groups[group]) for group in groups]
        return Packet(
            PACKET_PROTOCOLS[numbers[Field.PROTOCOL]],
            Network(self.family, numbers[Field.DESTINATION], bits),
            numbers[Field.PORT],
            source=None if source == ABSENT else Network(self.family, source, bits),
            source_port=_none_if_absent(numbers[Field.SOURCE_PORT]),
            uid=_none_if_absent(numbers[Field.UID]),
            gid=_none_if_absent(numbers[Field.GID]),
            in_interface=None if numbers[Field.IN] == ABSENT else self.interfaces[numbers[Field.IN]],
            out_interface=None if numbers[Field.OUT] == ABSENT else self.interfaces[numbers[Field.OUT]],
            mark=sum(marks),
            connection_mark=sum(kept),
            state=model.CONNECTION_STATES[numbers[Field.STATE]],
        )


MARK_KINDS: tuple[MarkKind, ...] = ("first", "mark", "connection")


def _none_if_absent(number: int) -> int | None:
    return None if number == ABSENT else number


def gathered_bits(number: int, bits: Sequence[int]) -> int:
    """Return the number that some bits of another one make, the first of them lowest."""
    return sum((number >> bit & 1) << index for index, bit in enumerate(bits))


def scattered_bits(number: int, bits: Sequence[int]) -> int:
    """Return the number whose bits at some places are those of another one: the inverse of ``gathered_bits``."""
    return sum((number >> index & 1) << bit for index, bit in enumerate(bits))


def mark_tests(rule: model.Rule) -> Iterator[tuple[int, int]]:
    """Yield value and mask of each mark that a rule matches or sets."""
    for part in (*rule.matches, rule.verdict):
        if isinstance(part, model.MarkMatch | model.SetMark):
            yield part.value, part.mask
        elif isinstance(part, model.TransparentProxy):
            yield part.mark, part.mask


def _mark_groups(tables: Iterable[model.Table], of_routes: Iterable[int]) -> list[list[int]]:
    """Return the bits of marks, those together that every mask in every rule and policy rule treats alike."""
    masks: set[int] = {*of_routes}
    for rule in (rule for table in tables for rule in table.rules):
        masks.update(value | mask for value, mask in mark_tests(rule))
    alike: dict[tuple[int, ...], list[int]] = {}
    for bit in range(MARK_BITS):
        alike.setdefault(tuple(mask >> bit & 1 for mask in sorted(masks)), []).append(bit)
    return list(alike.values())


def _interfaces(tables: Iterable[model.Table], situations: Iterable[Situation]) -> tuple[list[str], dict[str, str]]:
    """Return one interface for each that rules distinguish, and by prefix the one that represents all others."""
    names = {LOOPBACK: None}
    for situation in situations:
        names |= dict.fromkeys((situation.network.interface, *situation.network.other_interfaces))
    prefixes = {"": None}
    for rule in (rule for table in tables for rule in table.rules):
        for match in rule.matches:
            if isinstance(match, model.InterfaceMatch):
                if match.name.endswith("+"):
                    prefixes[match.name[:-1]] = None
                else:
                    names[match.name] = None
    representatives = {}
    for prefix in prefixes:
        possible = [prefix + ending for ending in NAME_ENDINGS]
        new = (name for name in possible if 0 < len(name) <= MAX_INTERFACE_BYTES and name not in names)
        representatives[prefix] = next((name for name in new if _longest_prefix(name, prefixes) == prefix), LOOPBACK)
        names[representatives[prefix]] = None
    return list(names), representatives


def _longest_prefix(name: str, prefixes: Iterable[str]) -> str:
    return max((each for each in prefixes if name.startswith(each)), key=len)
