"""What is not captured is exactly what docs/options.md excludes, for all packets.

The specification below is written from the options, without the rules: who is captured, as functions of
packets. It is compared with what the rules do, as functions too, so no packet is left out.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from capture.analysis.base_chains import PodNetwork, Situation
from capture.analysis.compiler import INBOUND, OUTBOUND, Compiler
from capture.analysis.outcome import Fate
from capture.analysis.possible_packets import possible_packets
from capture.analysis.space import Field, PacketSpace
from capture.model.addresses import Network, merge_ranges, network_ranges, parse_address, parse_network
from capture.model.packet import LOOPBACK
from capture.model.ruleset import ALL_BITS, Span, only
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from support.captures.documented import DOCUMENTED
from support.generators.agreement import configs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.analysis.compiler import Direction
    from capture.model.addresses import Family

NETWORK = PodNetwork(other_interfaces=("other0", "vif0"))
PASSTHROUGH: dict[Family, str] = {"ipv4": "127.0.0.6", "ipv6": "::6"}
LOCALHOST: dict[Family, str] = {"ipv4": "127.0.0.1/32", "ipv6": "::1/128"}
TCP, UDP = 0, 1
DIRECT = Fate("direct")


class Specification:
    """Which packets go where by the documentation of the options, for new connections without marks."""

    def __init__(self, config: CaptureConfig, space: PacketSpace) -> None:
        self.config = config
        self.space = space
        self.family = space.family
        self.yes, self.no = space.diagrams.yes, space.diagrams.no
        self.tcp, self.udp = self.inside(Field.PROTOCOL, [(TCP, TCP)]), self.inside(Field.PROTOCOL, [(UDP, UDP)])
        lo = space.number_of(LOOPBACK)
        self.over_lo = self.inside(Field.OUT, [(lo, lo)])

    # --- words ---

    def inside(self, level: int, ranges: Iterable[tuple[int, int]]) -> int:
        return self.space.field_in(level, merge_ranges(ranges))

    def ports(self, spans: Iterable[Span]) -> int:
        return self.inside(Field.PORT, [(span.first, span.last) for span in spans])

    def ids(self, level: int, spans: Iterable[Span]) -> int:
        return self.inside(level, [(span.first, span.last) for span in spans])

    def networks(self, level: int, networks: Iterable[Network]) -> int:
        return self.space.field_in(level, network_ranges([each for each in networks if each.family == self.family]))

    def through(self, level: int, names: Iterable[str]) -> int:
        found = self.no
        for name in names:
            found = self.any(found, self.space.field_in(level, self.space.interface_ranges(name)))
        return found

    def all(self, *conditions: int) -> int:
        found = self.yes
        for each in conditions:
            found = self.space.diagrams.both(found, each)
        return found

    def any(self, *conditions: int) -> int:
        found = self.no
        for each in conditions:
            found = self.space.diagrams.either(found, each)
        return found

    def but(self, condition: int) -> int:
        return self.space.diagrams.negation(condition)

    def fates(self, *cases: tuple[int, Fate]) -> int:
        """Return the fate of the first case that holds, else direct."""
        found = self.space.diagrams.leaf(DIRECT)
        for condition, fate in reversed(cases):
            found = self.space.diagrams.choose(condition, self.space.diagrams.leaf(fate), found)
        return found

    # --- the specification ------

    def captured_inbound_port(self) -> int:
        """Return the ports of the app that are captured: `-b`, `-d`; ssh is not under the layout of 1.8."""
        config = self.config
        if not config.inbound_ports.is_everything:
            return self.ports(config.inbound_ports.entries)
        ssh = [only(22)] if config.profile == "1.8" else []
        return self.but(self.ports([*config.excluded_inbound_ports, *ssh]))

    def inbound(self) -> int:
        config = self.config
        as_outbound = self.all(self.through(Field.IN, config.rerouted_interfaces), self.tcp)
        selected = (
            self.yes
            if config.outbound_networks.is_everything
            else self.networks(Field.DESTINATION, config.outbound_networks.entries)
        )
        tunnel = self.no if config.is_transparent else self.ports([only(config.inbound_tunnel_port)])
        captured = self.all(
            self.tcp,
            self.but(self.through(Field.IN, (*config.excluded_interfaces, *config.rerouted_interfaces))),
            self.but(tunnel),
            self.but(self.networks(Field.SOURCE, config.excluded_inbound_networks)),
            self.captured_inbound_port(),
        )
        return self.fates(
            (self.all(as_outbound, selected), Fate("proxy-outbound", config.proxy_port)),
            (captured, Fate("proxy-inbound", config.inbound_capture_port)),
        )

    def outbound(self) -> int:
        config = self.config
        left_alone = self.any(
            self.through(Field.OUT, config.excluded_interfaces),
            self.ports(config.excluded_outbound_ports),
            *(
                self.all(
                    self.tcp if each.protocol == "tcp" else self.udp,
                    self.ports(each.ports),
                    self.ids(Field.UID, each.uids),
                )
                for each in config.uid_port_exclusions
            ),
            self.all(self.over_lo, self.networks(Field.SOURCE, [parse_address(PASSTHROUGH[self.family])])),
        )
        dns = self.ports([only(53)])
        return self.fates(
            (self.all(self.tproxied_call_to_self(left_alone)), Fate("proxy-inbound", config.inbound_capture_port)),
            (left_alone, DIRECT),
            *self.of_proxy(dns),
            (self.of_uncaptured_group(), DIRECT),
            (self.all(dns, self.captured_name_server()), Fate("dns", 15053)),
            (self.udp, DIRECT),
            (self.to_localhost(), DIRECT),
            (self.networks(Field.DESTINATION, config.excluded_outbound_networks), DIRECT),
            (self.selected(), Fate("proxy-outbound", config.proxy_port)),
        )

    def to_localhost(self) -> int:
        return self.networks(Field.DESTINATION, [parse_network(LOCALHOST[self.family])])

    def selected(self) -> int:
        config = self.config
        if config.outbound_networks.is_everything:
            return self.yes
        return self.any(
            self.ports(config.outbound_ports), self.networks(Field.DESTINATION, config.outbound_networks.entries)
        )

    def captured_name_server(self) -> int:
        config = self.config
        if not config.captures_dns:
            return self.no
        return self.yes if config.captures_all_dns else self.networks(Field.DESTINATION, config.name_servers)

    def of_uncaptured_group(self) -> int:
        config = self.config
        if config.owner_groups.is_everything:
            return self.ids(Field.GID, config.excluded_owner_groups)
        return self.but(self.ids(Field.GID, config.owner_groups.entries))

    def of_proxy(self, dns: int) -> Iterable[tuple[int, Fate]]:
        """Yield what the proxy sends: to its own pod in through itself, elsewhere out; and what apps send over lo."""
        config = self.config
        back = Fate("proxy-inbound", config.inbound_capture_port)
        to_self = self.all(self.over_lo, self.but(self.to_localhost()), self.tcp)
        if config.profile == "1.30":
            to_self = self.all(to_self, self.but(self.ports([only(config.inbound_tunnel_port)])))
        for level, ids in ((Field.UID, config.proxy_uids), (Field.GID, config.proxy_gids)):
            but_dns = self.but(dns) if config.captures_dns and level == Field.UID else self.yes
            for each in ids:
                own = self.ids(level, [each])
                yield self.all(to_self, but_dns, own), back
                direct_over_lo = self.all(self.tcp, self.but(dns)) if config.captures_dns else self.yes
                yield self.all(self.over_lo, direct_over_lo, self.but(own)), DIRECT
                yield own, DIRECT

    def tproxied_call_to_self(self, left_alone: int) -> int:
        """Return what a transparent proxy sends to its own pod where no redirect takes it: as if from outside."""
        config = self.config
        if not config.is_transparent:
            return self.no
        proxy = self.any(self.ids(Field.UID, config.proxy_uids), self.ids(Field.GID, config.proxy_gids))
        redirected = self.no
        for condition, fate in [(left_alone, DIRECT), *self.of_proxy(self.ports([only(53)]))]:
            if fate != DIRECT:
                redirected = self.any(redirected, self.all(condition, self.but(left_alone)))
            left_alone = self.any(left_alone, condition)
        return self.all(
            self.tcp,
            self.over_lo,
            self.but(self.to_localhost()),
            proxy,
            self.but(redirected),
            self.but(self.through(Field.OUT, config.excluded_interfaces)),
            self.but(
                self.networks(
                    Field.SOURCE, [parse_address(PASSTHROUGH[self.family]), *config.excluded_inbound_networks]
                )
            ),
            self.captured_inbound_port(),
        )


def escapes(config: CaptureConfig, built: CaptureConfig | None = None) -> list[str]:
    """Return the packets for which the built rules differ from the options."""
    found = []
    for family in config.families:
        situation = Situation(build_ruleset(built or config), network=NETWORK)
        space = PacketSpace(family, (situation,))
        compiler = Compiler(space, situation)
        possible = possible_packets(space, (compiler,))
        first = space.diagrams.both(space.has_state("NEW"), space.has_mark("mark", 0, ALL_BITS))
        specified = Specification(config, space)
        specification: dict[Direction, int] = {INBOUND: specified.inbound(), OUTBOUND: specified.outbound()}
        for direction, expected in specification.items():
            among = space.diagrams.both(possible[direction], first)
            does = space.diagrams.mapped(compiler.fates(direction), _unmarked, "unmarked")
            differs = space.diagrams.choose(among, space.diagrams.difference(does, expected), space.diagrams.leaf(None))
            found += [f"{family} {direction}: {space.diagrams.value(leaf)}" for leaf in space.diagrams.leaves(differs)]
    return [each for each in found if not each.endswith(": None")]


def _unmarked(fate: object) -> object:
    return fate.replace(is_marked=False) if isinstance(fate, Fate) else fate


@pytest.mark.parametrize("profile", ["1.8", "1.30"])
@pytest.mark.parametrize("config", DOCUMENTED.values(), ids=DOCUMENTED.keys())
def test_no_packet_escapes_by_a_documented_setting(config: CaptureConfig, profile: str) -> None:
    assert escapes(config.replace(profile=profile)) == []


WITHOUT_EFFECT = ("nothing", "-m with -t", "--drop-invalid")
"""On new connections without a mark."""


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name not in WITHOUT_EFFECT])
def test_an_escape_is_seen(name: str) -> None:
    """By the rules of the defaults, where the options have other values."""
    assert escapes(DOCUMENTED[name], CaptureConfig()) != []


@pytest.mark.parametrize("examples", [50, pytest.param(500, marks=pytest.mark.long)])
def test_no_packet_escapes_by_random_settings(examples: int) -> None:
    @given(configs())
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    def check(config: CaptureConfig) -> None:
        assert escapes(config) == []

    check()
