"""The nat table: where connections are redirected.

nat sees the first packet of a connection only; the others follow it. Most of the rules are about three ways
through the proxy::

    app -> service address      OUTPUT: ISTIO_OUTPUT -> ISTIO_REDIRECT -> proxy :15001 -> (uid of the proxy: out)
    client -> pod               PREROUTING: ISTIO_INBOUND -> ISTIO_IN_REDIRECT -> proxy :15006 -> app
    app -> own service address  OUTPUT -> proxy :15001 -> picks this very pod, over lo
                                OUTPUT, -o lo, uid of the proxy -> ISTIO_IN_REDIRECT -> proxy :15006 -> app
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.addresses import FAMILIES, IPV4, IPV6, LOOPBACK_ADDRESSES, Family, Network
from capture.model.conventions import AGENT_DNS_PORT, DNS_PORT, PASSTHROUGH_SOURCE, SSH_PORT
from capture.rules.lists import grouped, of_family, per_entry, per_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.model.chain_names import ChainNames
    from capture.settings.config import CaptureConfig

TCP = model.Protocol("tcp")
UDP = model.Protocol("udp")
ONLY_DNS = model.only(DNS_PORT)
ON_LO = model.OutInterface("lo")


def nat_table(config: CaptureConfig, names: ChainNames) -> model.Table:
    """Return the nat table of a capture."""
    chains = [
        model.Chain(model.PREROUTING, tuple(prerouting(config, names))),
        model.Chain(model.OUTPUT, tuple(output(config, names))),
        model.Chain(names.inbound, tuple(inbound(config, names))),
        model.Chain(
            names.in_redirect,
            (model.Rule(model.Redirect(config.inbound_capture_port), (TCP,), why="inbound: to the proxy"),),
        ),
        model.Chain(names.output, tuple(outbound(config, names))),
    ]
    if config.captures_dns:
        chains.append(model.Chain(names.output_dns, tuple(output_dns(config))))
    chains.append(
        model.Chain(
            names.redirect, (model.Rule(model.Redirect(config.proxy_port), (TCP,), why="outbound: to the proxy"),)
        )
    )
    return model.Table(model.NAT, tuple(chains))


def loopback(config: CaptureConfig, family: Family) -> Network:
    """Return the destinations that mean the pod itself."""
    return config.ipv4_loopback if family == IPV4 else LOOPBACK_ADDRESSES[IPV6]


def prerouting(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield what happens to packets that come in, in the built-in chain."""
    yield from rerouted(config, names)
    for name in reversed(config.rerouted_interfaces):
        yield model.Rule(
            model.Return(), (model.InInterface(name),), why=f"from {name}, to the pod itself: not captured"
        )
    for name in config.excluded_interfaces:
        yield model.Rule(model.Return(), (model.InInterface(name),), why=f"interface {name} is left alone")
    if config.inbound_ports and not config.is_transparent:
        yield model.Rule(model.Jump(names.inbound), (TCP,), why="inbound connections")


def rerouted(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield the redirects of what virtual machines send: inbound here, outbound for the mesh.

    Upstream inserts these one by one at the top, so the last one named comes first.
    """
    networks = config.outbound_networks
    if networks.everything:
        for name in reversed(config.rerouted_interfaces):
            yield model.Rule(model.Jump(names.redirect), (model.InInterface(name),), why=f"from {name}: as if outbound")
        return
    for family in FAMILIES:
        for some in reversed(grouped(of_family(networks.entries, family))):
            for name in reversed(config.rerouted_interfaces):
                matches = (model.Destination(some), model.InInterface(name))
                yield model.Rule(model.Jump(names.redirect), matches, family, why=f"from {name}: as if outbound")


def output(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield what happens to packets that go out, in the built-in chain."""
    for name in config.excluded_interfaces:
        yield model.Rule(model.Return(), (model.OutInterface(name),), why=f"interface {name} is left alone")
    if config.profile != "1.8":
        yield model.Rule(model.Jump(names.output), why="outbound connections")
        return
    yield model.Rule(model.Jump(names.output), (TCP,), why="outbound connections")
    if config.captures_dns:
        yield model.Rule(model.Jump(names.output), (UDP, model.DestinationPort((ONLY_DNS,))), why="outbound DNS")


def inbound(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield which inbound connections go to the proxy."""
    yield model.Rule(
        model.Return(),
        (TCP, model.DestinationPort((model.only(config.inbound_tunnel_port),))),
        why="the proxy's tunnel: it listens there",
    )
    if not config.is_transparent and config.inbound_ports:
        yield from uncaptured_inbound(config)
        yield from captured_inbound(config, names.in_redirect)


def uncaptured_inbound(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield what is left alone before inbound connections are captured."""
    yield from per_network(
        config.excluded_inbound_networks,
        lambda family, some: model.Rule(model.Return(), (model.Source(some), TCP), family, why="source is left alone"),
    )
    if not config.inbound_ports.everything:
        return
    if config.profile == "1.8":
        yield model.Rule(model.Return(), (TCP, model.DestinationPort((model.only(SSH_PORT),))), why="ssh is left alone")
    yield from per_entry(
        config.excluded_inbound_ports,
        lambda some: model.Rule(model.Return(), (TCP, model.DestinationPort(some)), why="port is left alone"),
    )


def captured_inbound(config: CaptureConfig, target: str) -> Iterator[model.Rule]:
    """Yield what sends inbound connections to the chain that captures them."""
    if config.inbound_ports.everything:
        yield model.Rule(model.Jump(target), (TCP,), why="all other inbound connections")
        return
    yield from per_entry(
        config.inbound_ports.entries,
        lambda some: model.Rule(model.Jump(target), (TCP, model.DestinationPort(some)), why="port is captured"),
    )


def outbound(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield which outbound connections go to the proxy."""
    yield from excluded_outbound_ports(config)
    yield from excluded_ports_of_users(config)
    for family in FAMILIES:
        matches = (model.Source((PASSTHROUGH_SOURCE[family],)), ON_LO)
        yield model.Rule(model.Return(), matches, family, why="the proxy passing a connection through to the app")
    for uid in config.proxy_uids:
        yield from proxy_owned(config, names, model.OwnerUid((uid,)))
    for gid in config.proxy_gids:
        yield from proxy_owned(config, names, model.OwnerGid((gid,)))
    yield from owner_groups(config)
    yield from jumps_for_dns(config, names)
    for family in FAMILIES:
        to_loopback = model.Destination((loopback(config, family),))
        yield model.Rule(model.Return(), (to_loopback,), family, why="localhost: container to container in the pod")
    yield from outbound_destinations(config, names)


def excluded_outbound_ports(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield the ports left alone; before anything else, so that calls to the pod itself count too."""
    for some in grouped(config.excluded_outbound_ports):
        for protocol in (TCP, UDP):
            yield model.Rule(model.Return(), (protocol, model.DestinationPort(some)), why="port is left alone")


def excluded_ports_of_users(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield the ports that certain users reach by themselves."""
    for exclusion in config.uid_port_exclusions:
        matches = (
            model.Protocol(exclusion.protocol),
            model.DestinationPort(exclusion.ports),
            model.OwnerUid(exclusion.uids),
        )
        yield model.Rule(model.Return(), matches, why="these users reach the port by themselves")


def proxy_owned(
    config: CaptureConfig, names: ChainNames, owner: model.OwnerUid | model.OwnerGid
) -> Iterator[model.Rule]:
    """Yield what happens to the traffic of one proxy id, and to what others send over ``lo``."""
    for family in FAMILIES:
        matches = (
            model.Destination((loopback(config, family),), negated=True),
            ON_LO,
            *ports_of_calls_to_self(config, owner),
            owner,
        )
        yield model.Rule(
            model.Jump(names.in_redirect),
            matches,
            family,
            why="the proxy calls its own pod: in through the proxy again",
        )
    if not captures_loopback(config):
        not_the_proxy = owner.replace(negated=True)
        # With a name server on localhost, DNS over lo must come as far as the DNS rules.
        but_dns = (TCP, model.DestinationPort((ONLY_DNS,), negated=True)) if config.captures_dns else ()
        yield model.Rule(model.Return(), (ON_LO, *but_dns, not_the_proxy), why="a call within the pod")
    yield model.Rule(model.Return(), (owner,), why="the proxy itself goes out; anything else would be a loop")


def ports_of_calls_to_self(
    config: CaptureConfig, owner: model.OwnerUid | model.OwnerGid
) -> tuple[model.Protocol, model.DestinationPort] | tuple[()]:
    """Return which ports the proxy's calls to its own pod must have to come in through the proxy again.

    Not the tunnel, which is the proxy; and not DNS: app -> agent -> proxy -> server would be one hop too many.
    """
    ports = []
    if config.captures_dns and isinstance(owner, model.OwnerUid):
        ports.append(ONLY_DNS)
    if config.profile != "1.8":
        ports.append(model.only(config.inbound_tunnel_port))
    return (TCP, model.DestinationPort(tuple(ports), negated=True)) if ports else ()


def captures_loopback(config: CaptureConfig) -> bool:
    """Return whether loopback destinations are captured by name; then calls over ``lo`` are not let through."""
    return any(network.is_loopback for network in config.outbound_networks.entries)


def owner_groups(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield what is left alone because of the group that sends it."""
    if config.owner_groups.everything:
        for gid in config.excluded_owner_groups:
            yield model.Rule(model.Return(), (model.OwnerGid((gid,)),), why="group is left alone")
    elif config.owner_groups.entries:
        others = model.OwnerGid(config.owner_groups.entries, negated=True)
        yield model.Rule(model.Return(), (others,), why="only certain groups are captured")
    else:
        yield model.Rule(model.Return(), why="no group is captured")


def jumps_for_dns(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield the jump to the DNS rules, in each family that has any."""
    for family in families_with_servers(config) if config.captures_dns else ():
        yield model.Rule(model.Jump(names.output_dns), (), family, why="DNS")


def families_with_servers(config: CaptureConfig) -> Iterator[Family | None]:
    """Yield the families whose DNS is captured; None for all DNS."""
    if config.captures_all_dns:
        yield None
    else:
        yield from (family for family in FAMILIES if of_family(config.name_servers, family))


def name_servers(
    config: CaptureConfig, kind: type[model.Source | model.Destination]
) -> Iterator[tuple[tuple[model.Match, ...], Family | None]]:
    """Yield a match for each name server whose DNS is captured, and its family; none for all DNS."""
    if config.captures_all_dns:
        yield (), None
    else:
        yield from (((kind((server,)),), server.family) for server in config.name_servers)


def output_dns(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield the redirects of DNS to the agent, TCP first."""
    of_whom = "" if config.captures_all_dns else " for a server of resolv.conf"
    for protocol in (TCP, UDP):
        for server, family in name_servers(config, model.Destination):
            matches = (*server, protocol, model.DestinationPort((ONLY_DNS,)))
            yield model.Rule(model.Redirect(AGENT_DNS_PORT), matches, family, why=f"DNS{of_whom}: to the agent")


def outbound_destinations(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield which destinations are captured, exclusions first."""
    yield from per_network(
        config.excluded_outbound_networks,
        lambda family, some: model.Rule(
            model.Return(), (model.Destination(some),), family, why="destination is left alone"
        ),
    )
    yield from per_entry(
        config.outbound_ports,
        lambda some: model.Rule(
            model.Jump(names.redirect), (TCP, model.DestinationPort(some)), why="port is captured everywhere"
        ),
    )
    if config.outbound_networks.everything:
        yield model.Rule(model.Jump(names.redirect), why="all other outbound connections")
        return
    yield from per_network(
        config.outbound_networks.entries,
        lambda family, some: model.Rule(
            model.Jump(names.redirect), (model.Destination(some),), family, why="destination is captured"
        ),
    )
