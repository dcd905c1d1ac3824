"""Random captures, random packets, and what a real kernel does with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from hypothesis import strategies as st

from capture.model.addresses import Network, parse_address, parse_network
from capture.model.packet import Packet
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    Accept,
    Destination,
    DestinationPort,
    Drop,
    Log,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    Return,
    Rule,
    Source,
    Span,
    only,
)
from capture.settings.config import CaptureConfig
from capture.settings.parsers import Selection, UidPorts
from pytest_netns import Kind, Pod, PodPair

if TYPE_CHECKING:
    from capture.model.addresses import Family
    from capture.model.ruleset import Match, ProtocolName, TableName, Verdict

Entry = TypeVar("Entry")

PROXY = 1337
AGENT_DNS = 15053
FOREIGN_PORT = 9999
PROXY_PORTS = {15001: "proxy-outbound", 15006: "proxy-inbound", AGENT_DNS: "dns", FOREIGN_PORT: "redirected"}
PORTS = (22, 53, 80, 443, 5432, 8000, 8001, 8002, 15008, 15020, 15021)
IDS = (1000, 1001, PROXY, 4444)
ELSEWHERE = ("203.0.113.7", "203.0.113.200", "198.51.100.1", "2001:db8::7", "2001:db8:1::1")
NETWORKS = ("203.0.113.0/24", "203.0.113.0/25", "203.0.113.7/32", "198.51.100.0/24", "2001:db8::/48", "2001:db8::7/128")
LOCALHOST = {"ipv4": "127.0.0.1", "ipv6": "::1"}
PASSTHROUGH = {"ipv4": "127.0.0.6", "ipv6": "::6"}
QUICK = float(os.environ.get("AGREEMENT_PATIENCE", "0.25"))
"""Seconds after which a packet counts as lost; answers take a fraction of a millisecond where nothing else runs."""
PATIENT = 5.0
"""Seconds for a packet that should have arrived and seems lost: a busy machine is late, but drops nothing."""


@dataclass(frozen=True)
class Foreign:
    """A foreign rule in a built-in chain, before or after the capture's."""

    table: TableName
    chain: str
    rule: Rule
    before: bool


@dataclass(frozen=True)
class Attempt:
    """A connection to try: from the pod as a user, or (without one) from outside."""

    protocol: str
    destination: str
    port: int
    uid: int | None = None
    gid: int | None = None
    source: str = ""


# --- what is drawn ---------------------------------------------------------------------------------

ports = st.sampled_from(PORTS).map(only) | st.just(Span(8000, 8002))
protocols: st.SearchStrategy[ProtocolName] = st.sampled_from(["tcp", "udp"])
families: st.SearchStrategy[Family] = st.sampled_from(["ipv4", "ipv6"])
port_lists = st.lists(ports, max_size=3, unique=True).map(tuple)
networks = st.sampled_from(NETWORKS).map(parse_network)
network_lists = st.lists(networks, max_size=3, unique=True).map(tuple)
ids = st.sampled_from(IDS).map(only)


def selections(entries: st.SearchStrategy[tuple[Entry, ...]]) -> st.SearchStrategy[Selection[Entry]]:
    """Return a strategy for everything, or some entries, or none."""
    everything: Selection[Entry] = Selection(is_everything=True)
    return st.just(everything) | entries.map(Selection)


@st.composite
def configs(draw: st.DrawFn) -> CaptureConfig:
    """Draw a capture of both families that a proxy with the ids 1337 could live with."""
    dns = draw(st.sampled_from(["off", "off", "servers", "all"]))
    groups = draw(st.sampled_from(["all", "all", "some", "none"]))
    servers = draw(st.lists(st.sampled_from(ELSEWHERE).map(parse_address), min_size=1, max_size=2, unique=True))
    profile = draw(st.sampled_from(["classic", "current"]))
    return CaptureConfig(
        profile="1.30" if profile == "current" else "1.8",
        chain_names="dash" if profile == "classic" else "underscore",
        mode=draw(st.sampled_from(["REDIRECT", "REDIRECT", "TPROXY"])),
        proxy_uids=draw(st.sampled_from([(only(PROXY),), (only(PROXY), only(4444))])),
        proxy_gids=draw(st.sampled_from([(only(PROXY),), (only(PROXY), only(4444)), (only(1001),)])),
        inbound_ports=draw(selections(port_lists)),
        excluded_inbound_ports=draw(port_lists),
        excluded_inbound_networks=draw(st.sampled_from([(), (), *_peer_networks()])),
        excluded_interfaces=draw(st.sampled_from([(), (), (), ("eth0",), ("other0",)])),
        outbound_networks=draw(selections(network_lists)),
        excluded_outbound_networks=draw(network_lists),
        outbound_ports=draw(port_lists),
        excluded_outbound_ports=draw(port_lists),
        uid_port_exclusions=draw(
            st.just(()) | st.tuples(st.builds(UidPorts, protocols, st.tuples(ports), st.tuples(ids)))
        ),
        owner_groups=Selection(is_everything=groups == "all", entries=(only(1000),) if groups == "some" else ()),
        excluded_owner_groups=draw(st.sampled_from([(), (only(1001),)])) if groups == "all" else (),
        captures_dns=dns != "off",
        captures_all_dns=dns == "all",
        name_servers=tuple(servers) if dns == "servers" else (),
        drops_invalid=draw(st.booleans()),
        rule_logs=draw(st.booleans()),
        rule_comments=draw(st.booleans()),
    )


def _peer_networks() -> Iterator[tuple[Network, ...]]:
    yield (parse_network("10.77.0.0/24"),)
    yield (parse_network("fd77::/64"), parse_network("10.77.0.1/32"))


@st.composite
def foreign_rules(draw: st.DrawFn) -> Foreign:
    """Draw a rule such as other software puts into the chains that we share."""
    table = draw(st.sampled_from([NAT, NAT, MANGLE]))
    chain = draw(st.sampled_from([PREROUTING, OUTPUT]))
    protocol = Protocol(draw(st.sampled_from(["tcp", "udp"])))
    matches: list[Match] = [protocol, DestinationPort((draw(ports),))]
    family = draw(families)
    if draw(st.booleans()):
        network = draw(networks.filter(lambda n: n.family == family))
        matches.insert(0, Destination((network,)) if chain == OUTPUT else Source((network,)))
    if chain == OUTPUT and draw(st.booleans()):
        matches.append(draw(ids.map(lambda i: OwnerUid((i,))) | ids.map(lambda i: OwnerGid((i,), negated=True))))
    verdicts: list[Verdict] = [Return(), Accept(), Log("foreign ")]
    verdicts.append(Redirect(FOREIGN_PORT) if table == NAT else Drop())
    return Foreign(table, chain, Rule(draw(st.sampled_from(verdicts)), tuple(matches), family), draw(st.booleans()))


@st.composite
def attempts(draw: st.DrawFn, pair: PodPair, ports_in_question: tuple[int, ...]) -> Attempt:
    """Draw a connection out of the pod, within it, or into it; every other one to a port of the rules."""
    pod, peer = pair
    protocol = draw(st.sampled_from(["tcp", "tcp", "udp"]))
    port = draw(st.sampled_from(PORTS) | st.sampled_from(ports_in_question or PORTS))
    family = draw(st.sampled_from(["ipv4", "ipv6"]))
    own = pod.ipv4 if family == "ipv4" else pod.ipv6
    place = draw(st.sampled_from(["out", "out", "in", "own", "localhost", "passthrough"]))
    if place == "in":
        return Attempt(protocol, own, port, source=peer.ipv4 if family == "ipv4" else peer.ipv6)
    uid = draw(st.sampled_from(IDS))
    gid = draw(st.sampled_from((uid, uid, *IDS)))
    if place == "passthrough":
        return Attempt(protocol, own, port, uid, gid, PASSTHROUGH[family])
    destination = {"own": own, "localhost": LOCALHOST[family]}.get(place)
    if destination is None:
        destination = draw(st.sampled_from([a for a in ELSEWHERE if (":" in a) == (family == "ipv6")]))
    return Attempt(protocol, destination, port, uid, gid)


# --- the same attempt as a packet of the model, and as a connection --------------------------------------


def ports_of(foreign: list[Foreign]) -> tuple[int, ...]:
    """Return the ports of foreign rules."""
    matches = [match for each in foreign for match in each.rule.matches]
    return tuple(span.last for match in matches if isinstance(match, DestinationPort) for span in match.ports)


def packet_of(attempt: Attempt, pod: Pod) -> Packet:
    """Return what the first table sees of an attempt."""
    destination = parse_address(attempt.destination)
    protocol = "tcp" if attempt.protocol == "tcp" else "udp"
    if attempt.uid is None:
        return Packet(
            "tcp" if protocol == "tcp" else "udp",
            destination,
            attempt.port,
            source=parse_address(attempt.source),
            in_interface="eth0",
        )
    own = (pod.ipv4, pod.ipv6)
    stays = attempt.destination in own or destination.is_loopback
    source = attempt.source or (attempt.destination if stays else own[destination.family == "ipv6"])
    return Packet(
        "tcp" if protocol == "tcp" else "udp",
        destination,
        attempt.port,
        source=parse_address(source),
        uid=attempt.uid,
        gid=attempt.gid,
        out_interface="lo" if stays else "eth0",
    )


def serve(pair: PodPair) -> None:
    """Listen on every port that packets go to: the world outside, the app, the proxy, the agent, another program."""
    pod, peer = pair
    peer.own_every_address()
    both = ("0.0.0.0", "::")
    peer.listener(*[(address, port) for address in both for port in PORTS], label="direct")
    pod.listener(*[(address, port) for address in both for port in PORTS], label="direct", uid=1000)
    for port, label in PROXY_PORTS.items():
        pod.listener(*[(address, port) for address in both], label=label, uid=PROXY, transparent=port == 15006)


def outcome_in_kernel(attempt: Attempt, pair: PodPair, patience: float = QUICK) -> str:
    """Return where a real connection ends, in the words of a trace, after so many seconds at most."""
    pod, peer = pair
    client = peer.client() if attempt.uid is None else pod.client(attempt.uid, attempt.gid)
    source = "" if attempt.uid is None else attempt.source
    outcome = client.connect(attempt.destination, attempt.port, attempt.protocol, source=source, timeout=patience)
    if outcome.kind in (Kind.TIMED_OUT, Kind.FORBIDDEN):
        return "dropped"
    return outcome.label or str(outcome.kind)
