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
from capture.model.conventions import AGENT_DNS_PORT, PASSTHROUGH_SOURCE, SSH_PORT
from capture.model.ruleset import ON_LO, ONLY_DNS, TCP, TO_DNS, UDP
from capture.rules.lists import entries_per_rule, networks_of_family, networks_per_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.model.chain_names import ChainNames
    from capture.settings.config import CaptureConfig


def return_rule(*matches: model.Match, why: str, family: Family | None = None) -> model.Rule:
    """Return the rule by which packets go back to the calling chain; from a built-in one they leave the table."""
    return model.Rule(model.Return(), matches, family, why)


def jump_rule(chain: str, *matches: model.Match, why: str, family: Family | None = None) -> model.Rule:
    """Return the rule by which packets go through another chain."""
    return model.Rule(model.Jump(chain), matches, family, why)


def nat_table(config: CaptureConfig, names: ChainNames) -> model.Table:
    """Return the nat table of a capture."""
    to_inbound_port = model.Rule(model.Redirect(config.inbound_capture_port), (TCP,), why="inbound: to the proxy")
    to_outbound_port = model.Rule(model.Redirect(config.proxy_port), (TCP,), why="outbound: to the proxy")
    chains = [
        model.Chain(model.PREROUTING, tuple(prerouting_rules(config, names))),
        model.Chain(model.OUTPUT, tuple(output_rules(config, names))),
        model.Chain(names.inbound, tuple(inbound_rules(config, names))),
        model.Chain(names.in_redirect, (to_inbound_port,)),
        model.Chain(names.output, tuple(outbound_rules(config, names))),
    ]
    if config.captures_dns:
        chains.append(model.Chain(names.output_dns, tuple(output_dns_rules(config))))
    chains.append(model.Chain(names.redirect, (to_outbound_port,)))
    return model.Table(model.NAT, tuple(chains))


def loopback_destinations(config: CaptureConfig, family: Family) -> Network:
    """Return the destinations that mean the pod itself."""
    return config.ipv4_loopback if family == IPV4 else LOOPBACK_ADDRESSES[IPV6]


def prerouting_rules(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield what happens to packets that come in, in the built-in chain."""
    yield from virtual_machine_rules(config, names)
    for name in reversed(config.rerouted_interfaces):
        yield return_rule(model.InInterface(name), why=f"from {name}, to the pod itself: not captured")
    for name in config.excluded_interfaces:
        yield return_rule(model.InInterface(name), why=f"interface {name} is left alone")
    if config.inbound_ports and not config.is_transparent:
        yield jump_rule(names.inbound, TCP, why="inbound connections")


def virtual_machine_rules(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield the redirects of what virtual machines send: inbound here, outbound for the mesh.

    Upstream inserts these one by one at the top, so the last one named comes first.
    """
    networks = config.outbound_networks
    if networks.is_everything:
        for name in reversed(config.rerouted_interfaces):
            yield jump_rule(names.redirect, model.InInterface(name), why=f"from {name}: as if outbound")
        return
    for family in FAMILIES:
        for entries in reversed(entries_per_rule(networks_of_family(networks.entries, family))):
            for name in reversed(config.rerouted_interfaces):
                matches = (model.Destination(entries), model.InInterface(name))
                yield jump_rule(names.redirect, *matches, family=family, why=f"from {name}: as if outbound")


def output_rules(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield what happens to packets that go out, in the built-in chain."""
    for name in config.excluded_interfaces:
        yield return_rule(model.OutInterface(name), why=f"interface {name} is left alone")
    if config.profile != "1.8":
        yield jump_rule(names.output, why="outbound connections")
        return
    yield jump_rule(names.output, TCP, why="outbound connections")
    if config.captures_dns:
        yield jump_rule(names.output, UDP, TO_DNS, why="outbound DNS")


def inbound_rules(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield which inbound connections go to the proxy."""
    tunnel = model.DestinationPort((model.only(config.inbound_tunnel_port),))
    yield return_rule(TCP, tunnel, why="the proxy's tunnel: it listens there")
    if not config.is_transparent and config.inbound_ports:
        yield from uncaptured_inbound(config)
        yield from captured_inbound(config, names.in_redirect)


def uncaptured_inbound(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield what is left alone before inbound connections are captured."""
    for family, sources in networks_per_rule(config.excluded_inbound_networks):
        yield return_rule(model.Source(sources), TCP, family=family, why="source is left alone")
    if not config.inbound_ports.is_everything:
        return
    if config.profile == "1.8":
        yield return_rule(TCP, model.DestinationPort((model.only(SSH_PORT),)), why="ssh is left alone")
    for ports in entries_per_rule(config.excluded_inbound_ports):
        yield return_rule(TCP, model.DestinationPort(ports), why="port is left alone")


def captured_inbound(config: CaptureConfig, target: str) -> Iterator[model.Rule]:
    """Yield what sends inbound connections to the chain that captures them."""
    if config.inbound_ports.is_everything:
        yield jump_rule(target, TCP, why="all other inbound connections")
        return
    for ports in entries_per_rule(config.inbound_ports.entries):
        yield jump_rule(target, TCP, model.DestinationPort(ports), why="port is captured")


def outbound_rules(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield which outbound connections go to the proxy."""
    yield from excluded_outbound_ports(config)
    yield from excluded_ports_of_users(config)
    for family in FAMILIES:
        source = model.Source((PASSTHROUGH_SOURCE[family],))
        yield return_rule(source, ON_LO, family=family, why="the proxy passing a connection through to the app")
    for owner in proxy_owners(config):
        yield from proxy_rules(config, names, owner)
    yield from owner_groups(config)
    yield from jumps_for_dns(config, names.output_dns, "DNS")
    for family in FAMILIES:
        to_loopback = model.Destination((loopback_destinations(config, family),))
        yield return_rule(to_loopback, family=family, why="localhost: container to container in the pod")
    yield from outbound_destinations(config, names)


def proxy_owners(config: CaptureConfig) -> Iterator[model.OwnerMatch]:
    """Yield the match for each user, then for each group, of the proxy."""
    yield from (model.OwnerUid((uid,)) for uid in config.proxy_uids)
    yield from (model.OwnerGid((gid,)) for gid in config.proxy_gids)


def excluded_outbound_ports(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield the ports left alone; before anything else, so that calls to the pod itself count too."""
    for ports in entries_per_rule(config.excluded_outbound_ports):
        for protocol in (TCP, UDP):
            yield return_rule(protocol, model.DestinationPort(ports), why="port is left alone")


def excluded_ports_of_users(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield the ports that certain users reach by themselves."""
    for exclusion in config.uid_port_exclusions:
        protocol, ports = model.Protocol(exclusion.protocol), model.DestinationPort(exclusion.ports)
        users = model.OwnerUid(exclusion.uids)
        yield return_rule(protocol, ports, users, why="these users reach the port by themselves")


def proxy_rules(config: CaptureConfig, names: ChainNames, owner: model.OwnerMatch) -> Iterator[model.Rule]:
    """Yield what happens to the traffic of one proxy id, and to what others send over ``lo``."""
    for family in FAMILIES:
        outside_loopback = model.Destination((loopback_destinations(config, family),), negated=True)
        matches = (outside_loopback, ON_LO, *self_call_ports(config, owner), owner)
        why = "the proxy calls its own pod: in through the proxy again"
        yield jump_rule(names.in_redirect, *matches, family=family, why=why)
    if not captures_loopback(config):
        not_the_proxy = owner.replace(negated=True)
        # With a name server on localhost, DNS over lo must come as far as the DNS rules.
        except_dns = (TCP, model.DestinationPort((ONLY_DNS,), negated=True)) if config.captures_dns else ()
        yield return_rule(ON_LO, *except_dns, not_the_proxy, why="a call within the pod")
    yield return_rule(owner, why="the proxy itself goes out; anything else would be a loop")


def self_call_ports(
    config: CaptureConfig, owner: model.OwnerMatch
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
    if config.owner_groups.is_everything:
        for gid in config.excluded_owner_groups:
            yield return_rule(model.OwnerGid((gid,)), why="group is left alone")
    elif config.owner_groups.entries:
        other_groups = model.OwnerGid(config.owner_groups.entries, negated=True)
        yield return_rule(other_groups, why="only certain groups are captured")
    else:
        yield return_rule(why="no group is captured")


def jumps_for_dns(config: CaptureConfig, chain: str, why: str) -> Iterator[model.Rule]:
    """Yield the jump to a chain for DNS, in each family whose DNS is captured; one for both if all DNS is."""
    if config.captures_dns and config.captures_all_dns:
        yield jump_rule(chain, why=why)
    elif config.captures_dns:
        captured = (family for family in FAMILIES if networks_of_family(config.name_servers, family))
        yield from (jump_rule(chain, family=family, why=why) for family in captured)


def name_servers(
    config: CaptureConfig, kind: type[model.AddressMatch]
) -> Iterator[tuple[tuple[model.Match, ...], Family | None]]:
    """Yield a match for each name server whose DNS is captured, and its family; no match where all DNS is."""
    if config.captures_all_dns:
        yield (), None
    else:
        yield from (((kind((server,)),), server.family) for server in config.name_servers)


def output_dns_rules(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield the redirects of DNS to the agent, TCP first."""
    of_whom = "" if config.captures_all_dns else " for a server of resolv.conf"
    for protocol in (TCP, UDP):
        for server, family in name_servers(config, model.Destination):
            matches = (*server, protocol, TO_DNS)
            yield model.Rule(model.Redirect(AGENT_DNS_PORT), matches, family, why=f"DNS{of_whom}: to the agent")


def outbound_destinations(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield which destinations are captured, exclusions first."""
    for family, entries in networks_per_rule(config.excluded_outbound_networks):
        yield return_rule(model.Destination(entries), family=family, why="destination is left alone")
    for ports in entries_per_rule(config.outbound_ports):
        yield jump_rule(names.redirect, TCP, model.DestinationPort(ports), why="port is captured everywhere")
    if config.outbound_networks.is_everything:
        yield jump_rule(names.redirect, why="all other outbound connections")
        return
    for family, entries in networks_per_rule(config.outbound_networks.entries):
        yield jump_rule(names.redirect, model.Destination(entries), family=family, why="destination is captured")
