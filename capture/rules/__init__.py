"""From what is true in a pod to its rules; pure. One module per table, one small function per chain.

The order of the rules is upstream's, and is part of the contract: tests hold it against upstream's own.
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.addresses import IPV6, Family
from capture.model.chain_names import NAMES_BY_SPELLING
from capture.model.conventions import PASSTHROUGH_SOURCE
from capture.model.routing import LoopbackAddress, PolicyRoute
from capture.rules.mangle import mangle_table
from capture.rules.nat import nat_table
from capture.rules.raw import raw_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.settings.config import CaptureConfig


def build_ruleset(config: CaptureConfig) -> model.Ruleset:
    """Return the rule set of a configuration."""
    names = NAMES_BY_SPELLING[config.chain_names]
    tables = [raw_table(config, names), mangle_table(config, names), nat_table(config, names)]
    ruleset = model.Ruleset(
        families=config.families,
        tables=tuple(_without_empty_chains(table) for table in tables if table),
        loopback_addresses=loopback_addresses(config),
        policy_routes=policy_routes(config),
        has_comments=config.rule_comments,
    )
    return ruleset.with_chains(_with_log_rule) if config.rule_logs else ruleset


def build_transition(config: CaptureConfig) -> model.Ruleset:
    """Return the rule set of the moment in which TPROXY takes inbound capture over from REDIRECT: both capture.

    If mangle and nat changed at once, a packet between the two could meet neither: the old rules of mangle, then the
    new ones of nat. What mangle has taken has the mark, and nat leaves it.
    """
    desired, redirecting = build_ruleset(config), build_ruleset(config.replace(mode="REDIRECT"))
    jump = model.Jump(NAMES_BY_SPELLING[config.chain_names].inbound)
    unmarked = model.Mark(config.tproxy_mark, negated=True)

    def leaving_marked(table: model.TableName, chain: model.Chain) -> model.Chain:
        if (table, chain.name) != (model.NAT, model.PREROUTING):
            return chain
        rules = (
            rule.replace(matches=(*rule.matches, unmarked)) if rule.verdict == jump else rule for rule in chain.rules
        )
        return chain.replace(rules=tuple(rules))

    other_tables = (table for table in desired.tables if table.name != model.NAT)
    nat = (table for table in redirecting.tables if table.name == model.NAT)
    return desired.replace(tables=(*other_tables, *nat)).with_chains(leaving_marked)


def build_tracking(config: CaptureConfig) -> model.Ruleset:
    """Return the rule set of the moment before the first rules: it lets the kernel track connections, and no more."""
    names = NAMES_BY_SPELLING[config.chain_names]
    is_invalid = model.ConnectionState(("INVALID",))  # a rule that needs conntrack makes the kernel track
    conntrack_user = model.Rule(model.Return(), (is_invalid,), why="connections are tracked first")
    jump = model.Chain(model.OUTPUT, (model.Rule(model.Jump(names.output)),))
    chains = (jump, model.Chain(names.output, (conntrack_user,)))
    return build_ruleset(config).replace(tables=(model.Table(model.NAT, chains),))


def tracks_connections(rulesets: Iterable[model.Ruleset], family: Family) -> bool:
    """Return whether the kernel tracks connections of a family for any of these rules."""
    return any(
        isinstance(rule.verdict, NEEDS_CONNTRACK) or any(isinstance(match, NEEDS_CONNTRACK) for match in rule.matches)
        for ruleset in rulesets
        for table in ruleset.tables
        for chain in table.chains
        for rule in chain.rules_for(family)
    )


NEEDS_CONNTRACK = (model.Redirect, model.SaveMark, model.RestoreMark, model.ConnectionMark, model.ConnectionState)


def redirects_inbound(ruleset: model.Ruleset) -> bool:
    """Return whether inbound connections are captured by REDIRECT."""
    prerouting = ruleset.chain(model.NAT, model.PREROUTING)
    return prerouting is not None and any(rule.verdict in JUMPS_TO_INBOUND for rule in prerouting.rules)


def outbound_port(ruleset: model.Ruleset) -> int:
    """Return the port to which outbound connections are redirected; 0 if none are."""
    chains = filter(None, (ruleset.chain(model.NAT, names.redirect) for names in NAMES_BY_SPELLING.values()))
    verdicts = (rule.verdict for chain in chains for rule in chain.rules)
    return next((verdict.port for verdict in verdicts if isinstance(verdict, model.Redirect)), 0)


JUMPS_TO_INBOUND = tuple(model.Jump(names.inbound) for names in NAMES_BY_SPELLING.values())


def loopback_addresses(config: CaptureConfig) -> tuple[LoopbackAddress, ...]:
    """Return the addresses that ``lo`` needs: ::6, as IPv6 has one loopback address where IPv4 has 127.0.0.0/8.

    Only in a pod that is reached by IPv6: the plugin "loopback" fails where it finds the address before it has run.
    """
    if IPV6 not in config.families or not config.is_reached_by_ipv6:
        return ()
    return (LoopbackAddress(PASSTHROUGH_SOURCE[IPV6]),)


def policy_routes(config: CaptureConfig) -> tuple[PolicyRoute, ...]:
    """Return the routes by which marked packets reach the transparent proxy."""
    if not config.is_transparent or not config.inbound_ports:
        return ()
    return tuple(PolicyRoute(family, config.tproxy_mark, config.tproxy_route_table) for family in config.families)


def _with_log_rule(table: model.TableName, chain: model.Chain) -> model.Chain:
    if chain.name in model.BUILT_IN_CHAINS[table]:
        return chain
    entry = model.Rule(model.Log(f"{chain.name} "), why="log what enters this chain")
    return chain.replace(rules=(entry, *chain.rules))


def _without_empty_chains(table: model.Table) -> model.Table:
    """Return the table without chains that hold no rule: nothing jumps there either."""
    return table.replace(chains=tuple(chain for chain in table.chains if chain.rules))
