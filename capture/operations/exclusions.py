"""What the settings leave out, by the rules that they give: causes and notes of ``why``, with the options to change."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from shlex import join
from typing import Any

from capture.analysis.base_chains import Situation
from capture.analysis.captured_pod import Capture, PodFacts, Ports
from capture.analysis.cause_text import cause
from capture.analysis.explanation import captured_ports
from capture.analysis.meaning import is_in_networks
from capture.analysis.outcome import PROXY_INBOUND, PROXY_OUTBOUND, TO_PROXY, Outcome
from capture.analysis.pod_causes import CONNECTION_KINDS, missing_interfaces
from capture.analysis.trace import Trace
from capture.backends import detect
from capture.model.addresses import FAMILY_NAMES, IPV4, LOOPBACK_NETWORKS, Family, address_text
from capture.model.location import Cause
from capture.model.packet import LOOPBACK, Packet
from capture.model.ruleset import TO_DNS, InInterface, OutInterface, Protocol, Return, Ruleset
from capture.model.text import plural
from capture.operations import Reference, trace
from capture.operations.arguments import Namespace
from capture.operations.inference import count_misfits, inferred_config, inferred_flags
from capture.operations.results import Verified
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.options import (
    EXCLUDED_INTERFACES,
    EXCLUSION_TOPIC,
    INBOUND_PORTS,
    OUTBOUND_NETWORKS,
    OWNER_GROUPS,
    PROFILE,
    PROXY_GID,
    PROXY_UID,
    REDIRECT_DNS,
    Option,
)
from capture.settings.pod import PROXY_PORTS
from capture.settings.settings import Settings
from capture.state import record
from capture.system.files import read_file
from capture.system.pod_host import PodFromInside, parse_name_servers
from capture.system.pod_network import read_pod_network

Uncaptured = tuple[Outcome, list[Family], str]

SELECTIONS = (INBOUND_PORTS, OUTBOUND_NETWORKS, OWNER_GROUPS)
"""Options that name what is captured."""
NOTHING = "nothing "
"""The beginning of the words for a direction of which no family is captured."""
EMPTY_VALUE = "''"
"""An empty value, as a shell has it."""


def ports_of(desired: Ruleset, facts: PodFacts) -> Ports:
    """Return the ports to which desired rules send connections of interfaces that are up, by outcome and family."""
    interfaces = tuple(link.name for link in facts.links if link.is_up and not link.is_loopback)
    situation = Situation(desired, network=read_pod_network().replace(other_interfaces=interfaces))
    ports = {family: captured_ports(situation, family) for family in desired.families}
    return tuple(
        (outcome, family, sent[outcome]) for family, sent in ports.items() for outcome in TO_PROXY if outcome in sent
    )


def _explicit_options(settings: Settings, is_meant: Callable[[Option[Any]], bool]) -> list[str]:
    """Return which of the explicit options are meant, each with its value and where that is from."""
    meant = filter(is_meant, settings.explicit)
    return [f"{option.name} {settings.text(option) or EMPTY_VALUE} ({settings.origin(option)})" for option in meant]


def empty_capture_causes(reference: Reference | None, facts: PodFacts, capture: Capture) -> Iterator[Cause]:
    """Yield a cause where nothing is sent to any port."""
    if capture.ports:
        return
    if reference is None:
        yield cause("excluded", "live", what="nothing")
        return
    settings = reference.settings
    options = _explicit_options(settings, lambda option: bool(_ports_without(option, settings, facts)))
    yield cause("excluded", "everything", options=", ".join(options or _restricting_options(settings)))


def exclusion_notes(reference: Reference, facts: PodFacts, capture: Capture, verified: Verified) -> Iterator[Cause]:
    """Yield what the settings leave uncaptured on purpose, which may be what is looked for."""
    for note in verified.notes:
        yield cause("family-not-captured", "note", note=note)
    if _has_no_name_server(reference):
        yield cause("dns-not-captured", "no server")
    is_only_missing = len(missing_interfaces(facts, capture)) == len(capture.excluded_interfaces)
    settings = reference.settings
    restrictions = _restricting_options(settings.without(EXCLUDED_INTERFACES) if is_only_missing else settings)
    for outcome, families, connections in uncaptured_directions(reference, facts, capture) if capture.ports else ():
        options = _options_against(outcome, families, settings, facts) or restrictions
        kept = () if connections.startswith(NOTHING) else (OUTBOUND_NETWORKS.name,)  # of the other family
        restrictions = [each for each in restrictions if each not in options or each.startswith(kept)]
        change = _change_text(options)
        yield cause("excluded", "all", what=connections, options=", ".join(options), change=change)
    if restrictions and capture.ports:
        yield cause("excluded", "pod", options=", ".join(restrictions))


def notes_without_record(facts: PodFacts, capture: Capture, own: Ruleset) -> Iterator[Cause]:
    """Yield that nothing is recorded, and what the live rules leave uncaptured, perhaps for want of a rule."""
    by_chains = ports_of(build_ruleset(inferred_config(own)), facts)  # what those would send to which no chain leads
    no_record = no_record_note(own)
    yield no_record
    for family in sorted({address.family for address in facts.addresses}.difference((*capture.families, IPV4))):
        yield cause("family-not-captured", where=FAMILY_NAMES[family], family=FAMILY_NAMES[family])
    for outcome, families, connections in uncaptured_directions(None, facts, capture):
        if any(each == outcome and family in families for each, family, _ in by_chains):
            yield cause("no-record", "no jump", what=connections, remedy=no_record.remedy)
        elif capture.ports:
            yield cause("excluded", "live", what=connections)


def no_record_note(own: Ruleset) -> Cause:
    """Return that there is no reference for our own rules in the namespace we are in: no record, or a damaged one."""
    fault = record.why_unusable()
    if not fault:
        return cause("no-record")
    backend = detect.find_live_sets()[0].choice.backend
    count = count_misfits(own)
    fit = f" (they fit the live rules best, with {plural(count, 'difference')})" if count else ""
    options = join([*inferred_flags(own), "--backend", backend])
    return cause("no-record", "damaged", fault=fault, options=options, fit=fit)


def uncaptured_cause() -> Cause:
    """Return that no live rule captures a connection, which may be for want of one."""
    return cause("excluded", "live", what="no such connection")


def is_proven_without_record(diagnosed: Cause, traced: Trace, own: Ruleset) -> bool:
    """Return whether a cause holds by the live rules alone: none that is missing would have captured the connection."""
    rules = [*own.rules]
    if diagnosed.kind == "dns-not-captured":
        return not any(TO_DNS in rule.matches for rule in rules)
    if diagnosed.kind == "proxy-user":
        to_itself = is_in_networks(traced.packet.destination, (LOOPBACK_NETWORKS[traced.packet.family],))
        return to_itself or traced.packet.out_interface != LOOPBACK
    if diagnosed.kind != "excluded":
        return True
    deciding = (step.rule.matches for step in traced.path if step.location == diagnosed.where)
    matches = [match for match in next(deciding, ()) if not isinstance(match, Protocol)]
    both_ways = {match for rule in rules if isinstance(rule.verdict, Return) for match in rule.matches}
    left_alone = [OutInterface(match.name) for match in matches if isinstance(match, InInterface)]
    return bool(matches) and both_ways.issuperset(left_alone)  # else it may be one of -k, behind a redirect


def uncaptured_directions(reference: Reference | None, facts: PodFacts, capture: Capture) -> Iterator[Uncaptured]:
    """Yield each outcome that connections of some of the pod's families never have: with these, and in words."""
    of_pod = {address.family for address in facts.addresses}
    in_use = [family for family in capture.families if family in of_pod or not of_pod]
    # What comes in by a rerouted interface is captured as outbound.
    is_rerouted = reference is not None and reference.config.rerouted_interfaces
    for outcome in (PROXY_OUTBOUND,) if is_rerouted else (PROXY_OUTBOUND, PROXY_INBOUND):
        families = [family for family in in_use if not capture.captures(outcome, family)]
        direction = CONNECTION_KINDS[outcome]
        if families:
            connections = (
                f"{NOTHING}{direction}" if families == in_use else f"no {direction} {FAMILY_NAMES[families[0]]}"
            )
            yield outcome, families, connections


def _options_against(outcome: Outcome, families: Sequence[Family], settings: Settings, facts: PodFacts) -> list[str]:
    """Return the explicit options without which connections of one of the families would come to an outcome."""
    prevented = {(outcome, family) for family in families}
    return _explicit_options(
        settings, lambda option: any(each[:2] in prevented for each in _ports_without(option, settings, facts))
    )


def _ports_without(option: Option[Any], settings: Settings, facts: PodFacts) -> Ports:
    config, _ = resolve(settings.without(option), PodFromInside())
    return ports_of(build_ruleset(config), facts)


def _restricting_options(settings: Settings) -> list[str]:
    return _explicit_options(settings, lambda option: _restricts(option, settings))


def _restricts(option: Option[Any], settings: Settings) -> bool:
    """Return whether an option's value captures less than usual: Istio's own ports are always left out."""
    if option in (PROXY_UID, PROXY_GID):
        return False
    if option.topic == EXCLUSION_TOPIC:
        return not {*settings.text(option).split(",")} <= {"", *PROXY_PORTS.split(",")}
    return option in SELECTIONS and settings.text(option) != option.default


def _change_text(options: Sequence[str]) -> str:
    """Return how to change the first of the options that has a flag, from texts that begin with the name."""
    flag = next((name for name in (each.partition(" ")[0] for each in options) if name.startswith("--")), "")
    template = "in the pod's template; for a pod that runs, " if "(annotation " in " ".join(options) else ""
    return f": {template}`capture apply --recorded {flag} VALUE`" if flag else ""


def _has_no_name_server(reference: Reference) -> bool:
    """Return whether DNS is to be captured for the pod's own name servers, and none was known."""
    return reference.settings[REDIRECT_DNS] and not reference.config.captures_dns


MAX_RESOLV_CONF = 1 << 16
"""Bytes; a resolv.conf has some hundred."""


def other_servers_notes(reference: Reference | None, namespace: Namespace) -> Iterator[Cause]:
    """Yield a note if the process that names the namespace has other name servers than those that are captured."""
    process = re.fullmatch(r"/proc/(\d+)/ns/net", str(namespace))
    if reference is None or process is None or not reference.config.name_servers:
        return
    path = f"/proc/{process[1]}/root/etc/resolv.conf"
    try:  # the pod makes this file: it may be a FIFO, endless, or a link, which would be followed in our own root
        text = b"" if os.path.islink(path) else read_file(path, MAX_RESOLV_CONF)
    except OSError:
        return
    lines = text.decode(errors="replace").splitlines()
    others = [server for server in parse_name_servers(lines) if server not in reference.config.name_servers]
    if others:
        servers, captured = (
            ", ".join(address_text(each.family, each.first) for each in listed)
            for listed in (others, reference.config.name_servers)
        )
        yield cause("dns-not-captured", "resolv.conf", process=process[1], servers=servers, captured=captured)


def with_option_remedy(diagnosed: Cause, packet: Packet, reference: Reference) -> Cause:
    """Return the cause as the settings explain it: its remedy names the options, or the profile, that matter."""
    settings = reference.settings
    if diagnosed.kind == "dns-not-captured" and _has_no_name_server(reference):
        return cause("dns-not-captured", "no server")
    if diagnosed.kind not in ("excluded", "dns-not-captured"):
        return diagnosed
    chosen = _explicit_options(settings, lambda option: trace(packet, settings.without(option)).outcome in TO_PROXY)
    if chosen:
        excluded = diagnosed if diagnosed.kind == "excluded" else cause("excluded", reason="")
        return excluded.replace(remedy=f"If it should be captured, change {' or '.join(chosen)}{_change_text(chosen)}.")
    if diagnosed.kind == "excluded" and trace(packet, settings.with_option(PROFILE, "current", "")).outcome in TO_PROXY:
        return diagnosed.replace(remedy="Run `capture apply --recorded --profile current`, whose rules capture it.")
    return diagnosed
