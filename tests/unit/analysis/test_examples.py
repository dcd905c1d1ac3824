"""A packet that shows what a difference does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from capture.analysis.compare import differences
from capture.analysis.examples import Example, example
from capture.analysis.stations import PodNetwork
from capture.analysis.trace import trace
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.model.ruleset import (
    NAT,
    OUTPUT,
    Chain,
    DestinationPort,
    Log,
    OwnerUid,
    Protocol,
    Redirect,
    Return,
    Rule,
    Ruleset,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig

if TYPE_CHECKING:
    from capture.model.ruleset import ProtocolName

ASKED = build_ruleset(CaptureConfig(excluded_inbound_ports=(only(15021),), excluded_outbound_ports=(only(5432),)))


def tampered(name: str, change: Callable[[tuple[Rule, ...]], tuple[Rule, ...]]) -> Ruleset:
    nat = ASKED.table(NAT)
    assert nat is not None
    chains = tuple(c.replace(rules=change(c.rules)) if c.name == name else c for c in nat.chains)
    return ASKED.replace(tables=(nat.replace(chains=chains),))


def found(live: Ruleset) -> list[Example | None]:
    return [example(ASKED, live, d.family, d.table, d.chain, d.rule, PodNetwork()) for d in differences(ASKED, live)]


def deletions() -> list[tuple[str, int]]:
    nat = ASKED.table(NAT)
    assert nat is not None
    return [(chain.name, place) for chain in nat.chains for place in range(len(chain.rules))]


PROTOCOLS: tuple[ProtocolName, ...] = ("tcp", "udp")


def grid() -> Iterator[Packet]:
    """Yield a packet for every combination of a few values: slow and sure."""
    for family, (own, localhost, passthrough, elsewhere) in ADDRESSES.items():
        for protocol, port in itertools.product(PROTOCOLS, (22, 80, 5432, 15008, 15021)):
            yield Packet(protocol, own, port, source=elsewhere, in_interface="eth0")
            for uid, gid in itertools.product((1000, 1337), repeat=2):
                for destination, source in ((elsewhere, own), (own, own), (own, passthrough), (localhost, localhost)):
                    out = "eth0" if destination == elsewhere else "lo"
                    yield Packet(protocol, destination, port, source=source, uid=uid, gid=gid, out_interface=out)
        assert own.family == family


ADDRESSES = {
    family: tuple(map(parse_address, addresses))
    for family, addresses in {
        "ipv4": ("10.255.255.2", "127.0.0.1", "127.0.0.6", "203.0.113.7"),
        "ipv6": ("fd00::2", "::1", "::6", "2001:db8::7"),
    }.items()
}
GRID = list(grid())


@pytest.mark.parametrize(("chain", "place"), deletions())
def test_a_deleted_rule_has_its_packet_exactly_if_it_matters(chain: str, place: int) -> None:
    live = tampered(chain, lambda rules: rules[:place] + rules[place + 1 :])

    shown = [each for each in found(live) if each]

    for each in shown:
        assert trace(ASKED, each.packet) == each.asked
        assert trace(live, each.packet) == each.live
        assert (each.asked.outcome, each.asked.port) != (each.live.outcome, each.live.port)
    matters = any(ends(ASKED, packet) != ends(live, packet) for packet in GRID)
    assert bool(shown) == matters


def ends(ruleset: Ruleset, packet: Packet) -> tuple[str, int]:
    traced = trace(ruleset, packet)
    return traced.outcome, traced.port


@pytest.mark.parametrize(
    ("chain", "change"),
    [
        pytest.param("ISTIO-REDIRECT", lambda _: (Rule(Redirect(15009), (Protocol("tcp"),)),), id="port changed"),
        pytest.param("ISTIO-INBOUND", lambda rules: (), id="chain flushed"),
        pytest.param(
            OUTPUT,
            lambda rules: (Rule(Return(), (Protocol("tcp"), DestinationPort((only(443),)))), *rules),
            id="before the jump",
        ),
        pytest.param(
            "ISTIO-OUTPUT",
            lambda rules: (Rule(Return(), (OwnerUid((only(1001),)),)), *rules),
            id="return in the middle",
        ),
        pytest.param("ISTIO-INBOUND", lambda rules: tuple(reversed(rules)), id="order reversed"),
    ],
)
def test_tampering_has_its_packet(chain: str, change: Callable[[tuple[Rule, ...]], tuple[Rule, ...]]) -> None:
    assert any(found(tampered(chain, change)))


def test_a_rule_that_changes_nothing_has_none() -> None:
    assert not any(found(tampered("ISTIO-INBOUND", lambda rules: (rules[0], *rules))))
    assert not any(found(tampered("ISTIO-INBOUND", lambda rules: (Rule(Log("x ")), *rules))))


def test_a_policy_has_its_packet() -> None:
    nat = ASKED.table(NAT)
    assert nat is not None
    closed = tuple(Chain(c.name, c.rules, "DROP") if c.name == OUTPUT else c for c in nat.chains)

    shown = [each for each in found(ASKED.replace(tables=(nat.replace(chains=closed),))) if each]

    assert {each.live.outcome for each in shown} == {"dropped"}
