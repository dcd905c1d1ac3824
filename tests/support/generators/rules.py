"""Hypothesis strategies for the rule model: what capture could write, and every kernel and tool would accept.

A rule set drawn here can be written by each backend. What iptables or the kernel refuse is never drawn:

- redirects are in nat, transparent proxies in mangle on the way in, conntrack zones in raw;
  each of them, and every port, in a rule with a protocol
- the owner of a socket and the interface a packet leaves through are tested on the way out only, the
  interface it came in through on the way in only; so each of our chains is entered from one side
- nothing is dropped in nat, jumps never lead back, and marks lie within their masks
- a rule with an address is for the family of the address

::

    @given(rulesets())
    def test_reads_back(ruleset): ...

    rulesets(families=None, tables=TABLES)   whole rule sets, of both families or one
    rules(place)                             one rule; a place is a table, a side, and the chains one can jump to
    matches(place, family, protocol)         its matches
    networks(family), spans(low, high)       what matches compare with
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import TYPE_CHECKING, TypeVar

from hypothesis import strategies as st

from capture.model.addresses import BITS, FAMILIES, Network
from capture.model.conventions import MAX_ID, MAX_PORT
from capture.model.ruleset import (
    ALL_BITS,
    CONNECTION_STATES,
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    RAW,
    TABLES,
    Accept,
    Chain,
    ConnectionMark,
    ConnectionState,
    Continue,
    Destination,
    DestinationPort,
    Drop,
    InInterface,
    Jump,
    Log,
    Mark,
    OutInterface,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    SetZone,
    Source,
    SourcePort,
    Span,
    Table,
    TransparentProxy,
)
from capture.model.values import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.model.addresses import Family
    from capture.model.ruleset import Match, ProtocolName, TableName, Verdict

Entry = TypeVar("Entry", Network, Span)

HIGHEST_ZONE = 2**16 - 1

OUR_CHAINS = {PREROUTING: ("ISTIO_INBOUND", "ISTIO-DIVERT"), OUTPUT: ("ISTIO_OUTPUT", "ISTIO-OUTPUT-DNS")}
"""Chains by the side from which they are entered; a chain jumps only to those that come after it."""


class Place(Value):
    """The place of a rule: its table, the built-in chain it is reached from, and where it may jump to."""

    table: TableName
    side: str
    targets: tuple[str, ...] = ()


# --- what matches compare with -------------------------------------------------------------------


def network(family: Family, address: int, prefix: int) -> Network:
    """Return the network of an address."""
    host_bits = BITS[family] - prefix
    return Network(family, address >> host_bits << host_bits, prefix)


def networks(family: Family) -> st.SearchStrategy[Network]:
    """Networks of a family. The short prefixes, whole bytes and single addresses that people write are frequent."""
    bits = BITS[family]
    addresses = st.one_of(st.integers(0, 2**bits - 1), st.sampled_from([0, 1, 2**bits - 1, 10 << bits - 8]))
    prefixes = st.one_of(st.sampled_from([bits, bits - 1, bits // 2, bits // 4, 8, 1, 0]), st.integers(0, bits))
    return st.builds(lambda address, prefix: network(family, address, prefix), addresses, prefixes)


def network_lists(family: Family) -> st.SearchStrategy[tuple[Network, ...]]:
    """Lists of networks of a family, as matches have them: of one, of a few, now and then of many."""

    def many(random: Random) -> tuple[Network, ...]:
        bits = BITS[family]
        prefixes = [random.randint(bits // 4, bits) for _ in range(random.randint(17, 40))]
        return tuple(network(family, random.getrandbits(bits), prefix) for prefix in prefixes)

    return _lists_of(networks(family), many)


def span_lists(low: int, high: int) -> st.SearchStrategy[tuple[Span, ...]]:
    """Lists of spans, as matches have them: of one, of a few, now and then of many."""

    def many(random: Random) -> tuple[Span, ...]:
        firsts = [random.randint(low, high) for _ in range(random.randint(17, 40))]
        return tuple(Span(first, min(first + random.choice((0, 0, 1, 100)), high)) for first in firsts)

    return _lists_of(spans(low, high), many)


def _lists_of(
    entries: st.SearchStrategy[Entry], many: Callable[[Random], tuple[Entry, ...]]
) -> st.SearchStrategy[tuple[Entry, ...]]:
    # Drawing a long list entry by entry takes most of a test's time; one seed for all of them does as well.
    return st.one_of(
        st.tuples(entries),
        st.lists(entries, min_size=2, max_size=4).map(tuple),
        st.integers(0, 2**32).map(lambda seed: many(Random(seed))),  # noqa: S311  # no secret
    )


def spans(low: int, high: int) -> st.SearchStrategy[Span]:
    """Single numbers and ranges, the ends of what is possible among them."""
    number = st.one_of(st.integers(low, high), st.sampled_from([low, high, low + 1, high - 1]))
    ranges = st.tuples(number, number).map(lambda ends: Span(min(ends), max(ends)))
    return st.one_of(number.map(lambda one: Span(one, one)), ranges)


def interfaces() -> st.SearchStrategy[str]:
    """Names of interfaces, at most 15 bytes, some with a plus sign for any ending."""
    name = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=14)
    return st.one_of(st.sampled_from(["lo", "eth0", "eth+"]), name, name.map(lambda beginning: f"{beginning}+"))


def masked_marks() -> st.SearchStrategy[tuple[int, int]]:
    """Marks with their masks."""
    number = st.integers(0, ALL_BITS)
    masks = st.one_of(st.just(ALL_BITS), st.integers(1, ALL_BITS))
    return st.builds(lambda value, mask: (value & mask, mask), number, masks)


def states() -> st.SearchStrategy[tuple[str, ...]]:
    """Connection states, in the order of the model."""
    chosen = st.sets(st.sampled_from(CONNECTION_STATES), min_size=1)
    return chosen.map(lambda some: tuple(state for state in CONNECTION_STATES if state in some))


# --- matches and verdicts ------------------------------------------------------------------------


@st.composite
def matches(draw: st.DrawFn, place: Place, family: Family | None, protocol: ProtocolName | None) -> tuple[Match, ...]:
    """Up to three matches that make sense in a place, apart from the one for the protocol, in any order."""
    possible = possible_matches(place, family, protocol)
    chosen = draw(st.lists(st.sampled_from(range(len(possible))), unique=True, max_size=3))
    found: list[Match] = [draw(possible[number]) for number in chosen]
    if protocol is not None:
        found.insert(draw(st.integers(0, len(found))), Protocol(protocol))
    return tuple(found)


@cache  # making a strategy takes longer than drawing from it
def possible_matches(
    place: Place, family: Family | None, protocol: ProtocolName | None
) -> list[st.SearchStrategy[Match]]:
    """A strategy for each kind of match that makes sense in a place, in a rule for this family and protocol."""
    marks = masked_marks()
    possible: list[st.SearchStrategy[Match]] = [st.builds(_mark, marks, st.booleans())]
    if family is not None:
        possible += [st.builds(kind, network_lists(family), st.booleans()) for kind in (Source, Destination)]
    if protocol is not None:
        ports = span_lists(1, MAX_PORT)
        possible += [st.builds(kind, ports, st.booleans()) for kind in (SourcePort, DestinationPort)]
    if place.side == PREROUTING:
        possible.append(st.builds(InInterface, interfaces(), st.booleans()))
    else:
        ids = span_lists(0, MAX_ID)
        possible += [st.builds(kind, ids, st.booleans()) for kind in (OwnerUid, OwnerGid)]
        possible.append(st.builds(OutInterface, interfaces(), st.booleans()))
    if place.table != RAW:  # connections are tracked after raw
        possible.append(st.builds(_connection_mark, marks, st.booleans()))
        possible.append(st.builds(ConnectionState, states(), st.booleans()))
    return possible


def _mark(mark: tuple[int, int], negated: bool) -> Mark:  # noqa: FBT001  # drawn by position
    return Mark(mark[0], mark[1], negated)


def _connection_mark(mark: tuple[int, int], negated: bool) -> ConnectionMark:  # noqa: FBT001  # drawn by position
    return ConnectionMark(mark[0], mark[1], negated)


@cache
def verdicts(place: Place, protocol: ProtocolName | None) -> st.SearchStrategy[Verdict]:
    """Verdicts that a place allows."""
    possible: list[st.SearchStrategy[Verdict]] = [
        st.sampled_from([Return(), Accept(), Continue()]),
        st.builds(Log, st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789:-", min_size=1, max_size=29)),
    ]
    ports = st.integers(1, MAX_PORT)
    if place.targets:
        possible.append(st.builds(Jump, st.sampled_from(place.targets)))
    if place.table == NAT and protocol is not None:
        possible.append(st.builds(Redirect, ports))
    if place.table != NAT:
        possible.append(st.just(Drop()))
    if place.table == RAW:
        possible.append(st.builds(SetZone, st.integers(0, HIGHEST_ZONE)))
    if place.table == MANGLE:
        possible.append(st.builds(lambda mark: SetMark(*mark), masked_marks()))
        possible.append(st.sampled_from([SaveMark(), RestoreMark()]))
        if place.side == PREROUTING and protocol is not None:
            possible.append(st.builds(lambda port, mark: TransparentProxy(port, *mark), ports, masked_marks()))
    return st.one_of(possible)


# --- rules, chains, tables -----------------------------------------------------------------------


@st.composite
def rules(draw: st.DrawFn, place: Place) -> Rule:
    """A rule for one family or for both."""
    family = draw(st.sampled_from((None, *FAMILIES)))
    protocol: ProtocolName | None = draw(st.sampled_from((None, "tcp", "udp")))
    why = draw(st.sampled_from(("", "what no one reads", "a reason")))
    return Rule(draw(verdicts(place, protocol)), draw(matches(place, family, protocol)), family, why)


@cache
def chains(place: Place) -> st.SearchStrategy[tuple[Rule, ...]]:
    """The rules of a chain."""
    return st.lists(rules(place), max_size=2).map(tuple)


@st.composite
def tables(draw: st.DrawFn, name: TableName) -> Table:
    """A table with the built-in chains PREROUTING and OUTPUT, and our chains on each side."""
    built_in, own = [], []
    for side, pool in OUR_CHAINS.items():
        names = pool[: draw(st.integers(0, len(pool)))]
        for place, chain in enumerate((side, *names)):
            here = Place(name, side, names[place:])
            inside = draw(chains(here))
            if chain == side:
                built_in.append(Chain(chain, inside, "ACCEPT"))
            else:
                own.append(Chain(chain, inside))
    return Table(name, (*built_in, *own))


@st.composite
def rulesets(
    draw: st.DrawFn, families: tuple[Family, ...] | None = None, within: tuple[TableName, ...] = TABLES
) -> Ruleset:
    """A rule set of some tables, for the families given or for any. Rules of a family that it is not for occur."""
    if families is None:
        families = draw(st.sampled_from((FAMILIES, ("ipv4",), ("ipv6",))))
    chosen = draw(st.lists(st.sampled_from(within), unique=True, min_size=1))
    present = tuple(draw(tables(name)) for name in within if name in chosen)
    return Ruleset(families, present, has_comments=draw(st.booleans()))
