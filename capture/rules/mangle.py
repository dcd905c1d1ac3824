"""The mangle table: transparent inbound capture (TPROXY), and dropping what belongs to no connection.

A transparent proxy accepts connections that are addressed to others, so packets keep both addresses::

    client -> pod      PREROUTING: ISTIO_INBOUND -> ISTIO_TPROXY: mark 0x539, socket of the proxy
                       ip rule fwmark 0x539 -> table 133 -> local dev lo: delivered here, with any address
    proxy -> app       from the client's address (mark 0x539 set by the proxy); the mark is saved with the connection
    app -> client      OUTPUT: the connection's mark is restored -> table 133 -> lo -> the proxy's socket
    proxy -> own pod   OUTPUT -o lo: mark 0x53a, so that it may come in through the proxy again
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.addresses import FAMILIES
from capture.model.conventions import PASSTHROUGH_SOURCE, PROXY_TO_SELF_MARK
from capture.model.ruleset import ON_LO, TCP
from capture.rules.lists import entries_per_rule
from capture.rules.nat import jump_rule, loopback_destinations, proxy_owners, return_rule, uncaptured_inbound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.model.chain_names import ChainNames
    from capture.settings.config import CaptureConfig

FROM_LO = model.InInterface("lo")
OF_KNOWN_CONNECTION = model.ConnectionState(("RELATED", "ESTABLISHED"))


def mangle_table(config: CaptureConfig, names: ChainNames) -> model.Table | None:
    """Return the mangle table of a capture, or None where nothing needs it."""
    if not config.is_transparent and not config.drops_invalid:
        return None
    captures = config.is_transparent and bool(config.inbound_ports)
    chains = [model.Chain(model.PREROUTING, tuple(prerouting_rules(config, names)))]
    if config.is_transparent:
        chains.append(model.Chain(model.OUTPUT, tuple(output_rules(config))))
    if captures:
        chains.append(model.Chain(names.divert, tuple(divert_rules(config))))
    if config.drops_invalid:
        chains.append(model.Chain(names.drop, (model.Rule(model.Drop(), why="belongs to no connection"),)))
    if config.is_transparent:
        chains.append(model.Chain(names.inbound, tuple(inbound_rules(config, names))))
    if captures:
        chains.append(model.Chain(names.tproxy, tuple(tproxy_rules(config))))
    return model.Table(model.MANGLE, tuple(chains))


def prerouting_rules(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield what happens to packets that come in, in the built-in chain."""
    if config.is_transparent:
        for name in config.excluded_interfaces:
            yield return_rule(model.InInterface(name), why=f"interface {name} is left alone")
    if config.drops_invalid:
        yield jump_rule(names.drop, model.ConnectionState(("INVALID",)), why="packets that belong to no connection")
    if config.is_transparent:
        if config.inbound_ports:
            yield jump_rule(names.inbound, TCP, why="inbound packets")
        of_proxy = (TCP, model.Mark(config.tproxy_mark))
        yield model.Rule(model.SaveMark(), of_proxy, why="remember which connections are the proxy's")


def output_rules(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield the marks that packets get on their way out, in the built-in chain."""
    for name in config.excluded_interfaces:
        yield return_rule(model.OutInterface(name), why=f"interface {name} is left alone")
    yield return_rule(ON_LO, TCP, model.Mark(config.tproxy_mark), why="the proxy to the app: marked already")
    for owner in proxy_owners(config):
        yield from marked_calls_to_self(config, owner)
    of_proxy = (TCP, model.ConnectionMark(config.tproxy_mark))
    yield model.Rule(model.RestoreMark(), of_proxy, why="answers of the app: back to the proxy's socket")


def marked_calls_to_self(config: CaptureConfig, owner: model.OwnerMatch) -> Iterator[model.Rule]:
    """Yield the mark for what the proxy sends to its own pod by the pod's address."""
    for family in FAMILIES:
        matches = (model.Destination((loopback_destinations(config, family),), negated=True), ON_LO, TCP, owner)
        yield model.Rule(model.SetMark(PROXY_TO_SELF_MARK), matches, family, why="the proxy calls its own pod")


def divert_rules(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield what happens to packets of connections that the proxy has."""
    yield model.Rule(model.SetMark(config.tproxy_mark), why="routed to lo by its mark")
    yield model.Rule(model.Accept(), why="to the proxy's socket, by the mark")


def tproxy_rules(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield what hands a new connection to the proxy's socket."""
    verdict = model.TransparentProxy(config.inbound_capture_port, config.tproxy_mark)
    for family in FAMILIES:
        matches = (model.Destination((loopback_destinations(config, family),), negated=True), TCP)
        yield model.Rule(verdict, matches, family, why="to the proxy, addresses unchanged")


def inbound_rules(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield which inbound packets go to the proxy."""
    yield return_rule(TCP, model.Mark(config.tproxy_mark), why="from the proxy: once is enough")
    for family in FAMILIES:
        source = model.Source((PASSTHROUGH_SOURCE[family],))
        yield return_rule(source, FROM_LO, TCP, family=family, why="the proxy passing a connection through to the app")
    yield return_rule(FROM_LO, TCP, model.Mark(PROXY_TO_SELF_MARK, negated=True), why="a call within the pod")
    if config.inbound_ports:
        yield from uncaptured_inbound(config)
        yield from captured_inbound(config, names)


def captured_inbound(config: CaptureConfig, names: ChainNames) -> Iterator[model.Rule]:
    """Yield what sends inbound packets to the proxy: those of known connections, then new ones."""
    listed = [(model.DestinationPort(some),) for some in entries_per_rule(config.inbound_ports.entries)]
    for ports in [()] if config.inbound_ports.is_everything else listed:
        yield jump_rule(names.divert, TCP, *ports, OF_KNOWN_CONNECTION, why="the connection is known")
        yield jump_rule(names.tproxy, TCP, *ports, why="a new connection")
