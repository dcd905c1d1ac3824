"""Warnings about settings that can be used and are probably not meant: what cancels the capture, or has no effect."""

from __future__ import annotations

from capture.model.addresses import BITS, FAMILY_NAMES, IPV6, Network, merge_ranges
from capture.model.conventions import MAX_ID, MAX_PORT
from capture.model.packet import LOOPBACK
from capture.model.text import shortened
from capture.settings import options as option
from capture.settings.parsers import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from capture.model.ruleset import Span
    from capture.settings.config import CaptureConfig, Host
    from capture.settings.options import Option
    from capture.settings.settings import Settings

SWAPPED = (int(option.INBOUND_CAPTURE_PORT.default), int(option.PROXY_PORT.default))
"""Istio's inbound port for outbound connections, and the other way round."""

SAME_PORT = (
    (option.INBOUND_CAPTURE_PORT, option.PROXY_PORT, "the directions cannot be told apart"),
    (option.PROXY_PORT, option.INBOUND_TUNNEL_PORT, "the proxy expects tunnels of the mesh there"),
    (option.INBOUND_CAPTURE_PORT, option.INBOUND_TUNNEL_PORT, "the proxy expects tunnels of the mesh there"),
)
"""Ports that have to differ, and why."""

NEEDED: tuple[tuple[Option[Any], Option[Any], object], ...] = (
    (option.TPROXY_MARK, option.INTERCEPTION_MODE, "TPROXY"),
    (option.TPROXY_ROUTE_TABLE, option.INTERCEPTION_MODE, "TPROXY"),
    (option.CAPTURE_ALL_DNS, option.REDIRECT_DNS, True),
    (option.REQUIRE_PROOF, option.RUN_VALIDATION, True),
    (option.PROBE_FROM_OUTSIDE, option.RUN_VALIDATION, True),
)
"""Options, and the value of another one without which they do nothing."""
CANCELLED = (
    (option.OUTBOUND_PORTS, option.EXCLUDED_OUTBOUND_PORTS, "leaves alone"),
    (option.OUTBOUND_NETWORKS, option.EXCLUDED_OUTBOUND_NETWORKS, "leaves alone"),
    (option.EXCLUDED_INBOUND_PORTS, option.INBOUND_PORTS, "captures"),
    (option.EXCLUDED_INTERFACES, option.REROUTED_INTERFACES, "captures inbound"),
)
"""Lists, and those that win where both name the same."""
BOUNDS = {"port": (1, MAX_PORT), "user": (0, MAX_ID), "group": (0, MAX_ID)}
BOUNDS |= {f"{FAMILY_NAMES[family]} address": (0, (1 << bits) - 1) for family, bits in BITS.items()}


def config_warnings(settings: Settings, config: CaptureConfig, host: Host) -> list[str]:
    """Return a warning for each setting that leaves everything alone, has no effect, or names what is not there."""
    found = [*_empty_entries(settings), *_cancelling(config), *_without_effect(settings, config), *_cancelled(settings)]
    if _excludes_every_interface(config, host):
        found.append((option.EXCLUDED_INTERFACES, "names every interface of the pod: nothing is captured but over lo"))
    return [*(f"{_where(settings, which)} {what}" for which, what in found), *_missing_interfaces(settings, host)]


def _empty_entries(settings: Settings) -> Iterator[tuple[Option[Any], str]]:
    """Yield the lists with entries that do not count; a comma at the end comes from templates, and means nothing."""
    for which in settings.explicit:
        value = settings[which]
        text = "".join(settings.text(which).split()) if isinstance(value, tuple | Selection) else ""
        if text and not value:
            yield which, "has no entry that counts: it is taken as an empty list"
        elif text.startswith(",") or ",," in text:
            yield which, "has an empty entry, which does not count"


def _without_effect(settings: Settings, config: CaptureConfig) -> Iterator[tuple[Option[Any], str]]:
    for which, needed, value in NEEDED:
        if which in settings.explicit and settings[which] != which.parse(which.default) and settings[needed] != value:
            yield which, f"has no effect without {needed.name}{'' if needed.is_switch else f' {value}'}"
    if IPV6 not in config.families:
        for networks in option.NETWORK_OPTIONS:
            if {each.family for each in _entries(settings, networks)} == {IPV6}:
                yield networks, "has no effect: it names IPv6 alone, which is not captured"
        if {each.family for each in config.name_servers} == {IPV6}:
            yield (option.REDIRECT_DNS, "has no effect: the pod's name servers are IPv6, which is not captured")
    elif settings[option.OTHER_FAMILY] == "reject" and settings[option.IP_FAMILIES] == "both":
        yield option.OTHER_FAMILY, "has no effect: both families are captured"


def _cancelled(settings: Settings) -> Iterator[tuple[Option[Any], str]]:
    for port, other, fault in SAME_PORT:
        if settings[port] == settings[other]:
            yield port, f"is {other.name}, too: {fault}"
    for which, by, verb in CANCELLED:
        entries = _entries(settings, which) if settings.origin(which) != "default" else ()
        others = _entries(settings, by)
        if 0 < len(entries) * len(others) <= 10_000:  # a person wrote no longer lists, and each pod would wait for them
            held = ", ".join([str(each) for each in entries if any(_holds(other, each) for other in others)])
            if held:
                yield which, f"names {shortened(held)}, which {by.name} {verb}"


def _entries(settings: Settings, which: Option[Any]) -> tuple[Any, ...]:
    value = settings[which]
    return getattr(value, "entries", value if isinstance(value, tuple) else ())


def _holds(other: Any, entry: Any) -> bool:
    """Return whether an entry of a list holds another, as 80-90 holds 85."""
    if isinstance(entry, str) or getattr(other, "family", None) != getattr(entry, "family", None):
        return bool(other == entry)
    return bool(other.first <= entry.first and entry.last <= other.last)


def _excludes_every_interface(config: CaptureConfig, host: Host) -> bool:
    present = (host.interface_names() or ()) if config.excluded_interfaces else ()
    return bool(present) and all(any(_matches(name, each) for name in config.excluded_interfaces) for each in present)


def _where(settings: Settings, which: Option[Any]) -> str:
    shown = shortened(settings.text(which))
    return f"{which.name} {shown or repr(shown)} ({settings.origin(which)})"


def _cancelling(config: CaptureConfig) -> Iterator[tuple[Option[Any], str]]:
    yield from _holding_everything(config)
    if (config.proxy_port, config.inbound_capture_port) == SWAPPED:
        inbound = f"{option.INBOUND_CAPTURE_PORT.name} {config.inbound_capture_port}"
        envoy = "Istio's Envoy takes outbound connections at 15001 and inbound ones at 15006"
        yield option.PROXY_PORT, f"and {inbound} look swapped: {envoy}"
    is_left = config.inbound_ports or config.outbound_networks or config.outbound_ports or config.captures_dns
    if not is_left:
        yield option.INBOUND_PORTS, f"is empty, and so is {option.OUTBOUND_NETWORKS.name}: nothing is captured"


def _holding_everything(config: CaptureConfig) -> Iterator[tuple[Option[Any], str]]:
    gids, inbound = config.proxy_gids, config.excluded_inbound_ports
    lists: list[tuple[Option[Any], Iterable[Span | Network], str, str]] = [
        (option.EXCLUDED_OUTBOUND_PORTS, config.excluded_outbound_ports, "port", "nothing outbound"),
        (option.EXCLUDED_INBOUND_PORTS, inbound if config.inbound_ports.everything else (), "port", "nothing inbound"),
        (option.PROXY_UID, config.proxy_uids, "user", "nothing outbound"),
        (option.PROXY_GID, gids if gids != config.proxy_uids else (), "group", "nothing outbound"),
        (option.EXCLUDED_OWNER_GROUPS, config.excluded_owner_groups, "group", "nothing outbound"),
    ]
    for family in config.families:
        for which, networks, direction in (
            (option.EXCLUDED_OUTBOUND_NETWORKS, config.excluded_outbound_networks, "outbound"),
            (option.EXCLUDED_INBOUND_NETWORKS, config.excluded_inbound_networks, "inbound"),
        ):
            of_family, name = [each for each in networks if each.family == family], FAMILY_NAMES[family]
            lists.append((which, of_family, f"{name} address", f"no {direction} {name}"))
    for which, entries, kind, what in lists:
        if _are_all(entries, kind):
            yield which, f"holds every {kind}: {what} is captured"
    if not config.owner_groups:
        yield option.OWNER_GROUPS, "names no group: nothing outbound is captured"
    for exclusion in config.uid_port_exclusions:
        if exclusion.protocol == "tcp" and _are_all(exclusion.ports, "port") and _are_all(exclusion.uids, "user"):
            yield option.UID_PORT_EXCLUSIONS, "holds every user and port: nothing outbound is captured"


def _are_all(entries: Iterable[Span | Network], kind: str) -> bool:
    """Return whether entries hold every number of a kind; most are too few, which is seen without merging them."""
    lowest, highest = BOUNDS[kind]
    ranges = [(each.first, each.last) for each in entries]
    is_enough = sum([last - first + 1 for first, last in ranges]) > highest - lowest
    return is_enough and merge_ranges(ranges) == [(lowest, highest)]


def _missing_interfaces(settings: Settings, host: Host) -> Iterator[str]:
    for which in (option.EXCLUDED_INTERFACES, option.REROUTED_INTERFACES):
        present = host.interface_names() if settings[which] else None
        missing = filter(None, (missing_interface(name, present) for name in settings[which]))
        yield from (f"{which.name} ({settings.origin(which)}): {words}" for words in missing)


def missing_interface(name: str, present: Iterable[str] | None) -> str:
    """Return that the pod has no interface of this name, "" if it has one; ``present`` are all but ``lo``."""
    if present is None or any(_matches(name, interface) for interface in (LOOPBACK, *present)):
        return ""
    return f"the pod has no interface {name} now (it has: {', '.join(sorted(present)) or 'none'})"


def _matches(name: str, interface: str) -> bool:
    return interface.startswith(name[:-1]) if name.endswith("+") else interface == name
