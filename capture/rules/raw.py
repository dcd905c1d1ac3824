"""The raw table: DNS is tracked in two zones, before connection tracking looks at it.

The agent answers as the name server that the app queried, and queries that server itself. Without zones
both conversations may have the same addresses and ports, and one is mistaken for the other::

    zone 1    agent <-> name server        (queried by the proxy's uid or gid; answers come from port 53)
    zone 2    app <-> agent                (queried by all others; the agent answers from port 15053)
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.conventions import AGENT_DNS_PORT
from capture.model.ruleset import FROM_DNS, TO_DNS, UDP
from capture.rules.nat import jump_rule, jumps_for_dns, name_servers, proxy_owners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.model.chain_names import ChainNames
    from capture.settings.config import CaptureConfig

AGENT_TO_SERVER = model.SetZone(1)
APP_TO_AGENT = model.SetZone(2)
FROM_AGENT = model.SourcePort((model.only(AGENT_DNS_PORT),))


def raw_table(config: CaptureConfig, names: ChainNames) -> model.Table | None:
    """Return the raw table of a capture, or None where nothing needs it."""
    if not config.captures_dns:
        return None
    return model.Table(
        model.RAW,
        (
            model.Chain(model.PREROUTING, tuple(jumps_for_dns(config, names.inbound, "zones of incoming DNS"))),
            model.Chain(model.OUTPUT, (jump_rule(names.output_dns, why="zones of outgoing DNS"),)),
            model.Chain(names.inbound, tuple(inbound_rules(config))),
            model.Chain(names.output_dns, tuple(output_dns_rules(config))),
        ),
    )


def inbound_rules(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield the zone of answers from name servers."""
    for server, family in name_servers(config, model.Source):
        yield model.Rule(AGENT_TO_SERVER, (*server, UDP, FROM_DNS), family, why="a name server answers the agent")


def output_dns_rules(config: CaptureConfig) -> Iterator[model.Rule]:
    """Yield the zones of what leaves: the agent's two conversations, then the app's questions."""
    for owner in proxy_owners(config):
        yield model.Rule(AGENT_TO_SERVER, (UDP, TO_DNS, owner), why="the agent queries a name server")
        yield model.Rule(APP_TO_AGENT, (UDP, FROM_AGENT, owner), why="the agent answers the app")
    for server, family in name_servers(config, model.Destination):
        yield model.Rule(APP_TO_AGENT, (*server, UDP, TO_DNS), family, why="the app queries")
