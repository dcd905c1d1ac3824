"""Warnings about settings that can be used and are probably not meant: what cancels the capture, or has no effect."""

from __future__ import annotations

from capture.model.addresses import BITS, FAMILY_NAMES, IPV6, Network, merge_ranges
from capture.model.conventions import MAX_ID, MAX_PORT, PROXY_ID
from capture.model.packet import LOOPBACK
from capture.model.ruleset import only
from capture.model.text import shortened
from capture.settings import options
from capture.settings.parsers import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from capture.model.ruleset import Span
    from capture.settings.config import CaptureConfig, Host
    from capture.settings.options import Option
    from capture.settings.settings import Settings

SWAPPED_PORTS = (int(options.INBOUND_CAPTURE_PORT.default), int(options.PROXY_PORT.default))
"""Istio's inbound port for outbound connections, and the other way round."""

DISTINCT_PORTS = (
    (options.INBOUND_CAPTURE_PORT, options.PROXY_PORT, "inbound and outbound connections cannot be told apart"),
    (options.PROXY_PORT, options.INBOUND_TUNNEL_PORT, "the proxy expects tunnels of the mesh there"),
    (options.INBOUND_CAPTURE_PORT, options.INBOUND_TUNNEL_PORT, "the proxy expects tunnels of the mesh there"),
)
"""Ports that have to differ, and why."""

REQUIRED_OPTIONS: tuple[tuple[Option[Any], Option[Any], object], ...] = (
    (options.TPROXY_MARK, options.INTERCEPTION_MODE, "TPROXY"),
    (options.TPROXY_ROUTE_TABLE, options.INTERCEPTION_MODE, "TPROXY"),
    (options.CAPTURE_ALL_DNS, options.REDIRECT_DNS, True),
    (options.REQUIRE_PROOF, options.RUN_VALIDATION, True),
    (options.PROBE_FROM_OUTSIDE, options.RUN_VALIDATION, True),
)
"""Options, and the value of another one without which they do nothing."""
OVERRIDES = (
    (options.OUTBOUND_PORTS, options.EXCLUDED_OUTBOUND_PORTS, "leaves alone"),
    (options.OUTBOUND_NETWORKS, options.EXCLUDED_OUTBOUND_NETWORKS, "leaves alone"),
    (options.EXCLUDED_INBOUND_PORTS, options.INBOUND_PORTS, "captures"),
    (options.EXCLUDED_INTERFACES, options.REROUTED_INTERFACES, "captures inbound"),
)
"""Lists, and those that win where both name the same."""
NUMBER_BOUNDS = {"port": (1, MAX_PORT), "user": (0, MAX_ID), "group": (0, MAX_ID)}
NUMBER_BOUNDS |= {f"{FAMILY_NAMES[family]} address": (0, (1 << bits) - 1) for family, bits in BITS.items()}


def config_warnings(settings: Settings, config: CaptureConfig, host: Host) -> list[str]:
    """Return a warning for each setting that leaves everything alone, has no effect, or names what is not there."""
    warnings = [*_empty_entries(settings), *_nothing_captured(config)]
    warnings += [*_options_without_effect(settings, config), *_overridden_options(settings), *_proxy_not_first(config)]
    if _excludes_every_interface(config, host):
        fault = "names every interface of the pod: nothing is captured but over lo"
        warnings.append((options.EXCLUDED_INTERFACES, fault))
    return [
        *(f"{_origin_text(settings, option)} {what}" for option, what in warnings),
        *_missing_interfaces(settings, host),
    ]


def _empty_entries(settings: Settings) -> Iterator[tuple[Option[Any], str]]:
    """Yield the lists with entries that do not count; a comma at the end comes from templates, and means nothing."""
    for option in settings.explicit:
        value = settings[option]
        text = "".join(settings.text(option).split()) if isinstance(value, tuple | Selection) else ""
        if text and not value:
            yield option, "has no entry that counts: it is taken as an empty list"
        elif text.startswith(",") or ",," in text:
            yield option, "has an empty entry, which does not count"


def _options_without_effect(settings: Settings, config: CaptureConfig) -> Iterator[tuple[Option[Any], str]]:
    for option, needed, value in REQUIRED_OPTIONS:
        is_changed = option in settings.explicit and settings[option] != option.parse(option.default)
        if is_changed and settings[needed] != value:
            yield option, f"has no effect without {needed.name}{'' if needed.is_switch else f' {value}'}"
    if LOOPBACK in config.rerouted_interfaces:
        yield options.REROUTED_INTERFACES, "has no effect on lo: OUTPUT has decided on what comes in there"
    if IPV6 not in config.families:
        for networks in options.NETWORK_OPTIONS:
            if {each.family for each in _entries(settings, networks)} == {IPV6}:
                effect = "no destination is left" if networks == options.OUTBOUND_NETWORKS else "it has no effect"
                yield networks, f"names IPv6 alone, which is not captured: {effect}"
        if {each.family for each in config.name_servers} == {IPV6}:
            yield (options.REDIRECT_DNS, "has no effect: the pod's name servers are IPv6, which is not captured")
    elif settings[options.OTHER_FAMILY] == "reject" and settings[options.IP_FAMILIES] == "both":
        yield options.OTHER_FAMILY, "has no effect: both families are captured"


def _overridden_options(settings: Settings) -> Iterator[tuple[Option[Any], str]]:
    for port, other, fault in DISTINCT_PORTS:
        if settings[port] == settings[other]:
            yield port, f"is the same as {other.name}: {fault}"
    for option, winner, verb in OVERRIDES:
        entries = _entries(settings, option) if settings.origin(option) != "default" else ()
        others = _entries(settings, winner)
        if 0 < len(entries) * len(others) <= 10_000:  # programs write longer ones, and pods would wait for it
            overridden = ", ".join([str(each) for each in entries if any(_contains(other, each) for other in others)])
            if overridden:
                yield option, f"names {shortened(overridden)}, which {winner.name} {verb}"


def _proxy_not_first(config: CaptureConfig) -> Iterator[tuple[Option[Any], str]]:
    """Yield that the proxy is not the first user: only the first is captured over ``lo`` (``proxy_rules``)."""
    is_proxy = [_contains(users, only(PROXY_ID)) for users in config.proxy_uids]
    if any(is_proxy) and not is_proxy[0]:
        fault = f"names {PROXY_ID} after another user: the proxy's calls to its own pod are then not captured"
        yield options.PROXY_UID, f"{fault}; name it first"


def _entries(settings: Settings, option: Option[Any]) -> tuple[Any, ...]:
    value = settings[option]
    return getattr(value, "entries", value if isinstance(value, tuple) else ())


def _contains(other: Any, entry: Any) -> bool:
    """Return whether an entry of a list holds another, as 80-90 holds 85."""
    if isinstance(entry, str) or getattr(other, "family", None) != getattr(entry, "family", None):
        return bool(other == entry)
    return bool(other.first <= entry.first and entry.last <= other.last)


def _excludes_every_interface(config: CaptureConfig, host: Host) -> bool:
    names = (host.interface_names() or ()) if config.excluded_interfaces else ()
    excluded = [any(_matches_interface(pattern, name) for pattern in config.excluded_interfaces) for name in names]
    return bool(excluded) and all(excluded)


def _origin_text(settings: Settings, option: Option[Any]) -> str:
    shown = shortened(settings.text(option))
    return f"{option.name} {shown or repr(shown)} ({settings.origin(option)})"


def _nothing_captured(config: CaptureConfig) -> Iterator[tuple[Option[Any], str]]:
    yield from _everything_excluded(config)
    if (config.proxy_port, config.inbound_capture_port) == SWAPPED_PORTS:
        inbound = f"{options.INBOUND_CAPTURE_PORT.name} {config.inbound_capture_port}"
        envoy = "Istio's Envoy takes outbound connections at 15001 and inbound ones at 15006"
        yield options.PROXY_PORT, f"and {inbound} look swapped: {envoy}"
    is_left = config.inbound_ports or config.outbound_networks or config.outbound_ports or config.captures_dns
    if not is_left:
        yield options.INBOUND_PORTS, f"is empty, and so is {options.OUTBOUND_NETWORKS.name}: nothing is captured"


def _everything_excluded(config: CaptureConfig) -> Iterator[tuple[Option[Any], str]]:
    gids, inbound = config.proxy_gids, config.excluded_inbound_ports if config.inbound_ports.is_everything else ()
    lists: list[tuple[Option[Any], Iterable[Span | Network], str, str]] = [
        (options.EXCLUDED_OUTBOUND_PORTS, config.excluded_outbound_ports, "port", "nothing outbound"),
        (options.EXCLUDED_INBOUND_PORTS, inbound, "port", "nothing inbound"),
        (options.PROXY_UID, config.proxy_uids, "user", "nothing outbound"),
        (options.PROXY_GID, gids if gids != config.proxy_uids else (), "group", "nothing outbound"),
        (options.EXCLUDED_OWNER_GROUPS, config.excluded_owner_groups, "group", "nothing outbound"),
    ]
    for family in config.families:
        for option, networks, direction in (
            (options.EXCLUDED_OUTBOUND_NETWORKS, config.excluded_outbound_networks, "outbound"),
            (options.EXCLUDED_INBOUND_NETWORKS, config.excluded_inbound_networks, "inbound"),
        ):
            of_family, name = [each for each in networks if each.family == family], FAMILY_NAMES[family]
            lists.append((option, of_family, f"{name} address", f"no {direction} {name}"))
    for option, entries, kind, what in lists:
        if _are_all(entries, kind):
            yield option, f"holds every {kind}: {what} is captured"
    if not config.owner_groups:
        yield options.OWNER_GROUPS, "names no group: nothing outbound is captured"
    for exclusion in config.uid_port_exclusions:
        if exclusion.protocol == "tcp" and _are_all(exclusion.ports, "port") and _are_all(exclusion.uids, "user"):
            yield options.UID_PORT_EXCLUSIONS, "holds every user and port: nothing outbound is captured"


def _are_all(entries: Iterable[Span | Network], kind: str) -> bool:
    """Return whether entries hold every number of a kind; most are too few, which shows without merging them."""
    lowest, highest = NUMBER_BOUNDS[kind]
    ranges = [(each.first, each.last) for each in entries]
    is_enough = sum([last - first + 1 for first, last in ranges]) > highest - lowest
    return is_enough and merge_ranges(ranges) == [(lowest, highest)]


def _missing_interfaces(settings: Settings, host: Host) -> Iterator[str]:
    for option in (options.EXCLUDED_INTERFACES, options.REROUTED_INTERFACES):
        present = host.interface_names() if settings[option] else None
        missing = filter(None, (missing_interface(name, present) for name in settings[option]))
        yield from (f"{option.name} ({settings.origin(option)}): {words}" for words in missing)


def missing_interface(name: str, present: Iterable[str] | None) -> str:
    """Return that the pod has no interface of this name, "" if it has one; ``present`` are all but ``lo``."""
    if present is None or any(_matches_interface(name, interface) for interface in (LOOPBACK, *present)):
        return ""
    return f"the pod has no interface {name} now (it has: {', '.join(sorted(present)) or 'only lo'})"


def _matches_interface(name: str, interface: str) -> bool:
    return interface.startswith(name[:-1]) if name.endswith("+") else interface == name
