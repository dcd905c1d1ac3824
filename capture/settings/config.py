"""The configuration of a pod: settings and the facts of the host, resolved into one value.

Only ``resolve`` turns names into ids and decides on the families. After it everything is pure.
"""

from __future__ import annotations

from capture.model.addresses import FAMILIES, IPV4, IPV6, Family, Network
from capture.model.conventions import HEALTH_PORT, ISTIO_MARK, ISTIO_ROUTE_TABLE, METRICS_PORT, PROXY_ID, STATUS_PORT
from capture.model.ruleset import Span, only
from capture.model.values import Value
from capture.settings import options
from capture.settings.config_warnings import config_warnings
from capture.settings.families import choose_families
from capture.settings.parsers import Selection, UidPorts
from capture.settings.settings import Settings, host_bits_warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, Protocol

    from capture.model.chain_names import Spelling
    from capture.settings.options import Option
    from capture.settings.parsers import Mode

    Profile = Literal["1.8", "1.30"]

    class Host(Protocol):
        """The facts that ``resolve`` needs. ``capture.system.pod_host`` has the real ones."""

        def user_id(self, name: str) -> int | None:
            """Return the id of a user, or None if there is none of that name."""

        def group_id(self, name: str) -> int | None:
            """Return the id of a group, or None if there is none of that name."""

        def default_proxy_user(self) -> str:
            """Return the name of the user that runs the proxy, if it exists."""

        def pod_addresses(self) -> tuple[Network, ...]:
            """Return the addresses of the namespace but those of ``lo``; link-local ones are included."""

        def primary_address(self) -> Network | None:
            """Return the address that Kubernetes knows the pod by; None if it has no global address yet."""

        def interface_names(self) -> tuple[str, ...] | None:
            """Return the interfaces of the namespace but ``lo``; None if they are not known."""

        def has_ipv6(self) -> bool:
            """Return whether this kernel has IPv6."""

        def name_servers(self) -> tuple[Network, ...]:
            """Return the name servers of resolv.conf(5)."""

else:
    Host = object

MAX_OWNER_GROUPS = 64
"""Upstream's bound: they are all in one rule."""


class CaptureConfig(Value):
    """All that the rules depend on, and ``families_decided_by``, which explains. Defaults are those of the options."""

    not_compared = ("families_decided_by",)

    families: tuple[Family, ...] = FAMILIES
    profile: Profile = "1.8"
    chain_names: Spelling = "dash"
    proxy_port: int = 15001
    inbound_capture_port: int = 15006
    inbound_tunnel_port: int = 15008
    proxy_uids: tuple[Span, ...] = (only(PROXY_ID),)
    proxy_gids: tuple[Span, ...] = (only(PROXY_ID),)
    mode: Mode = "REDIRECT"
    tproxy_mark: int = ISTIO_MARK
    tproxy_route_table: int = ISTIO_ROUTE_TABLE
    inbound_ports: Selection[Span] = Selection(is_everything=True)
    excluded_inbound_ports: tuple[Span, ...] = (only(METRICS_PORT), only(HEALTH_PORT), only(STATUS_PORT))
    excluded_inbound_networks: tuple[Network, ...] = ()
    excluded_interfaces: tuple[str, ...] = ()
    outbound_networks: Selection[Network] = Selection(is_everything=True)
    excluded_outbound_networks: tuple[Network, ...] = ()
    outbound_ports: tuple[Span, ...] = ()
    excluded_outbound_ports: tuple[Span, ...] = ()
    uid_port_exclusions: tuple[UidPorts, ...] = ()
    rerouted_interfaces: tuple[str, ...] = ()
    owner_groups: Selection[Span] = Selection(is_everything=True)
    excluded_owner_groups: tuple[Span, ...] = ()
    ipv4_loopback: Network = Network(IPV4, 0x7F000001, 32)
    captures_dns: bool = False
    captures_all_dns: bool = False
    name_servers: tuple[Network, ...] = ()
    drops_invalid: bool = False
    rule_comments: bool = False
    rule_logs: bool = False
    rejects_ipv6: bool = False
    """Whether TCP over IPv6, which is not captured then, is answered with a reset."""
    is_reached_by_ipv6: bool = True
    """Whether the pod has a global IPv6 address."""
    families_decided_by: str = "both, default"
    """The setting that decided on the families, and its origin."""

    @property
    def is_transparent(self) -> bool:
        """Return whether inbound connections reach the proxy with their addresses unchanged (TPROXY)."""
        return self.mode == "TPROXY"


def resolve(settings: Settings, host: Host) -> tuple[CaptureConfig, list[str]]:
    """Return the configuration of the pod, and warnings about the settings.

    Raises ConfigurationError that names option, value, origin and what is expected.
    """
    warnings = [*settings.warnings]
    config = _with_dns(_resolved_config(settings, host, warnings), settings, host, warnings)
    warnings += host_bits_warnings(settings)
    warnings += config_warnings(settings, config, host)
    return config, warnings


OPTION_FIELDS: dict[str, Option[Any]] = {
    field: vars(options)[field.upper()] for field in CaptureConfig.__match_args__ if field.upper() in vars(options)
}
"""The fields with the name of an option: they have its value, unless ``_resolved_config`` resolves it by the host."""


def _resolved_config(settings: Settings, host: Host, warnings: list[str]) -> CaptureConfig:
    profile: Profile = "1.30" if settings[options.PROFILE] == "1.30" else "1.8"
    families = choose_families(settings, host)
    warnings += families.warnings
    user = host.user_id(host.default_proxy_user())
    proxy_uids = _resolved_ids(settings, options.PROXY_UID, host.user_id) or (only(PROXY_ID if user is None else user),)
    option_values = {field: settings[option] for field, option in OPTION_FIELDS.items()}
    return CaptureConfig(**option_values).replace(
        families=families.families,
        is_reached_by_ipv6=families.is_reached_by_ipv6,
        rejects_ipv6=settings[options.OTHER_FAMILY] == "reject" and IPV6 not in families.families and host.has_ipv6(),
        families_decided_by=families.decided_by,
        profile=profile,
        chain_names=_chosen_spelling(settings, profile),
        proxy_uids=proxy_uids,
        proxy_gids=_resolved_ids(settings, options.PROXY_GID, host.group_id) or proxy_uids,
        mode=settings[options.INTERCEPTION_MODE],
        owner_groups=_owner_groups(settings, host),
        excluded_owner_groups=_excluded_owner_groups(settings, host),
        drops_invalid=settings[options.DROP_INVALID],
    )


def _chosen_spelling(settings: Settings, profile: Profile) -> Spelling:
    explicit = settings[options.CHAIN_NAMES]
    if explicit:
        return "dash" if explicit == "dash" else "underscore"
    return "dash" if profile == "1.8" else "underscore"


def _resolved_ids(
    settings: Settings, option: Option[tuple[str | Span, ...]], look_up: Callable[[str], int | None]
) -> tuple[Span, ...]:
    return tuple(_resolved_id(entry, settings, option, look_up) for entry in settings[option])


def _resolved_id(
    entry: str | Span, settings: Settings, option: Option[Any], look_up: Callable[[str], int | None]
) -> Span:
    """Return an entry as numbers: a name is looked up, and one that does not exist is an error."""
    if isinstance(entry, Span):
        return entry
    number_found = look_up(entry)
    if number_found is None:
        kind = "user" if option == options.PROXY_UID else "group"
        unknown = f"no {kind} of that name is known here, and from outside of a pod none is: use a number"
        raise settings.error_for(option, f"{option.expected}; {unknown}", entry)
    return only(number_found)


def _owner_groups(settings: Settings, host: Host) -> Selection[Span]:
    option = options.OWNER_GROUPS
    explicit = settings[option]
    if len(explicit.entries) > MAX_OWNER_GROUPS:
        raise settings.error_for(option, f"at most {MAX_OWNER_GROUPS} groups")
    return Selection(
        tuple(_resolved_id(entry, settings, option, host.group_id) for entry in explicit.entries),
        explicit.is_everything,
    )


def _excluded_owner_groups(settings: Settings, host: Host) -> tuple[Span, ...]:
    option = options.EXCLUDED_OWNER_GROUPS
    groups = _resolved_ids(settings, option, host.group_id)
    if groups and not settings[options.OWNER_GROUPS].is_everything:
        raise settings.error_for(option, f"no groups while {options.OWNER_GROUPS.name} names those to capture")
    return groups


def _with_dns(config: CaptureConfig, settings: Settings, host: Host, warnings: list[str]) -> CaptureConfig:
    """Return the configuration with the DNS that is captured: all, that for the servers of resolv.conf, or none."""
    redirects_dns, everything = settings[options.REDIRECT_DNS], settings[options.CAPTURE_ALL_DNS]
    if not redirects_dns:
        return config
    servers = () if everything else host.name_servers()
    if not everything and not servers:
        warnings.append(
            f"{options.REDIRECT_DNS.name}: no server is known (resolv.conf, which only a run in the pod reads, names"
            f" none), so DNS is not captured; use {options.CAPTURE_ALL_DNS.name} to capture all of it"
        )
        return config
    return config.replace(captures_dns=True, captures_all_dns=everything, name_servers=servers)
