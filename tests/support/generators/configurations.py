"""Hypothesis strategies for configurations: every option, also in combinations without a use.

Unlike those of ``agreement``, which a real proxy has to live with, these need not make sense in a pod.
Entries come from pools: rules differ in which options meet, not in the numbers.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, TypeVar

from hypothesis import strategies as st

from capture.model.addresses import FAMILIES, IPV4, IPV6, Network, parse_address, parse_network
from capture.model.conventions import MAX_ID
from capture.model.ruleset import Span, only
from capture.settings.config import CaptureConfig
from capture.settings.parsers import Selection, UidPorts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capture.model.addresses import Family

T = TypeVar("T")

PORTS = [*map(only, (1, 22, 53, 80, 443, 15001, 15008, 15020, 65535)), Span(1, 65535), Span(50, 60), Span(60, 61)]
IDS = [*map(only, (0, 1, 1000, 1337, 4444, MAX_ID)), Span(0, MAX_ID), Span(1000, 1999), Span(2000, 2001)]
IPV4_NETWORKS = "0.0.0.0/0 0.0.0.0/1 128.0.0.0/1 10.0.0.0/8 10.0.0.0/9 10.128.0.0/9 127.0.0.0/8 127.0.0.1 192.0.2.7"
IPV6_NETWORKS = "::/0 ::/1 8000::/1 fd00::/8 fd00::/9 ::1 ::1:0/112 2001:db8::7 fe80::/10"
NETWORKS = [parse_network(text) for text in f"{IPV4_NETWORKS} {IPV6_NETWORKS}".split()]
SERVERS = [parse_address(text) for text in ("10.96.0.10", "127.0.0.53", "8.8.8.8", "fd00::a", "::1", "2001:db8::8")]
INTERFACES = ["eth0", "eth1", "net1", "vif+", "lo"]
LOOPBACKS = [parse_network(text) for text in ("127.0.0.1", "127.0.0.0/8", "127.1.0.0/16")]

EVERYTHING: Selection[object] = Selection(is_everything=True)


def some(pool: Sequence[T], at_least: int = 0, at_most: int = 4) -> st.SearchStrategy[tuple[T, ...]]:
    """A few different entries."""
    return st.lists(st.sampled_from(pool), min_size=at_least, max_size=at_most, unique=True).map(tuple)


def many_ports(seed: int) -> tuple[Span, ...]:
    """Return more ports than are one rule each, some of them ranges, some of these overlapping."""
    random = Random(seed)  # noqa: S311 - no secret
    firsts = random.sample(range(1, 65400), random.randint(17, 20))
    return tuple(Span(first, first + random.choice([0, 0, 1, 100])) for first in firsts)


def many_networks(seed: int) -> tuple[Network, ...]:
    """Return more networks than are one rule each, of one family or of both."""
    random = Random(seed)  # noqa: S311 - no secret
    kinds: list[tuple[Family, int]] = [(IPV4, 32), (IPV6, 128)][: 1 + seed % 2]
    known = [network for network in NETWORKS if any(network.family == family for family, _ in kinds)]
    found: dict[Network, None] = dict.fromkeys(random.sample(known, random.randint(0, 4)))
    while len(found) < 20:
        family, bits = random.choice(kinds)
        host_bits = random.randint(0, bits // 2)
        found[Network(family, random.getrandbits(bits) >> host_bits << host_bits, bits - host_bits)] = None
    networks = list(found)
    random.shuffle(networks)
    return tuple(networks)


def sometimes_many(
    few: st.SearchStrategy[tuple[T, ...]], many: st.SearchStrategy[tuple[T, ...]]
) -> st.SearchStrategy[tuple[T, ...]]:
    """Few entries, and once in five times many."""
    return st.one_of(few, few, few, few, many)


seeds = st.integers(0, 2**16)
port_lists = sometimes_many(some(PORTS), seeds.map(many_ports))
network_lists = sometimes_many(some(NETWORKS), seeds.map(many_networks))
uid_ports = st.builds(
    UidPorts, st.sampled_from(["tcp", "udp"]), st.tuples(st.sampled_from(PORTS)), st.tuples(st.sampled_from(IDS))
)

_drawn = st.builds(
    CaptureConfig,
    families=st.sampled_from([FAMILIES, (IPV4,), (IPV6,)]),
    profile=st.sampled_from(["1.8", "1.30"]),
    chain_names=st.sampled_from(["dash", "underscore"]),
    proxy_port=st.sampled_from([15001, 1]),
    inbound_capture_port=st.sampled_from([15006, 65535]),
    inbound_tunnel_port=st.sampled_from([15008, 53, 22]),
    proxy_uids=some(IDS, 1, 3),
    proxy_gids=some(IDS, 1, 3),
    mode=st.sampled_from(["REDIRECT", "TPROXY"]),
    tproxy_mark=st.sampled_from([1337, 1, 2**32 - 1]),
    inbound_ports=st.just(EVERYTHING) | port_lists.map(Selection),
    excluded_inbound_ports=port_lists,
    excluded_inbound_networks=network_lists,
    excluded_interfaces=some(INTERFACES, at_most=3),
    outbound_networks=st.just(EVERYTHING) | network_lists.map(Selection),
    excluded_outbound_networks=network_lists,
    outbound_ports=port_lists,
    excluded_outbound_ports=port_lists,
    uid_port_exclusions=st.just(()) | st.lists(uid_ports, max_size=2, unique=True).map(tuple),
    rerouted_interfaces=some(INTERFACES, at_most=2),
    owner_groups=st.just(EVERYTHING) | some(IDS).map(Selection),
    excluded_owner_groups=some(IDS),
    ipv4_loopback=st.sampled_from(LOOPBACKS),
    captures_dns=st.booleans(),
    captures_all_dns=st.booleans(),
    name_servers=some(SERVERS, 1, 3),
    drops_invalid=st.booleans(),
    rule_comments=st.booleans(),
    rule_logs=st.booleans(),
)


def _as_resolved(config: CaptureConfig) -> CaptureConfig:
    """Return the configuration without what ``resolve`` would not leave together with other settings."""
    all_dns = config.captures_dns and config.captures_all_dns
    return config.replace(
        excluded_owner_groups=config.excluded_owner_groups if config.owner_groups.is_everything else (),
        captures_all_dns=all_dns,
        name_servers=config.name_servers if config.captures_dns and not all_dns else (),
    )


configs = _drawn.map(_as_resolved)
"""Configurations that ``resolve`` could give."""
