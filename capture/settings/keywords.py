"""Settings from the values of Python, one keyword for each option: what the library's users call."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, TypedDict

from capture.errors import ConfigurationError, shown_value
from capture.model.text import closest_name
from capture.settings import options as table
from capture.settings.options import Option
from capture.settings.settings import ExplicitValue, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Unpack

OPTIONS_BY_KEYWORD: dict[str, Option[Any]] = {
    name.lower(): value for name, value in vars(table).items() if isinstance(value, Option)
}
"""The options by the names that they have in ``capture.settings.options``, in lower case."""


def closest_flag(name: str, flags: Collection[str]) -> str:
    """Return the flag (without dashes) for a name like one of its own, its annotation's or Python's; "" if none is."""
    aliases = {
        re.sub("(?<=[a-z])(?=[A-Z])|_", "-", alias.rpartition("/")[2]).lower(): option.flag
        for python_name, option in OPTIONS_BY_KEYWORD.items()
        for alias in (python_name, *option.annotations)
    }
    names = {alias: flag for alias, flag in aliases.items() if flag in flags} | {flag: flag for flag in flags}
    return names.get(closest_name(name, names), "")


IpObject = IPv4Address | IPv4Interface | IPv4Network | IPv6Address | IPv6Interface | IPv6Network

Number = int | str
Numbers = int | str | range | Iterable[int | str | range]
"""Ports, users, groups: numbers, names, and texts such as ``8000-8100``."""
NetworkArgument = str | IpObject
NetworksArgument = str | IpObject | Iterable[str | IpObject]
Names = str | Iterable[str]
Switch = bool | str


class Keywords(TypedDict, total=False):
    """What ``make_settings`` takes, one key for each option of the table; None is as if it were left out."""

    proxy_port: Number | None
    inbound_capture_port: Number | None
    inbound_tunnel_port: Number | None
    proxy_uid: Numbers | None
    proxy_gid: Numbers | None
    interception_mode: str | None
    inbound_ports: Numbers | None
    excluded_inbound_ports: Numbers | None
    excluded_inbound_networks: NetworksArgument | None
    excluded_interfaces: Names | None
    outbound_networks: NetworksArgument | None
    excluded_outbound_networks: NetworksArgument | None
    outbound_ports: Numbers | None
    excluded_outbound_ports: Numbers | None
    uid_port_exclusions: Names | None
    rerouted_interfaces: Names | None
    owner_groups: Numbers | None
    excluded_owner_groups: Numbers | None
    ipv4_loopback: NetworkArgument | None
    tproxy_mark: Number | None
    tproxy_route_table: Number | None
    redirect_dns: Switch | None
    capture_all_dns: Switch | None
    drop_invalid: Switch | None
    dual_stack: Switch | None
    ip_families: str | None
    other_family: str | None
    rule_comments: Switch | None
    rule_logs: Switch | None
    profile: str | None
    chain_names: str | None
    backend: str | None
    driver: str | None
    native_nftables: Switch | None
    force_iptables_binary: str | None
    network_namespace: str | os.PathLike[str] | None
    cni_mode: Switch | None
    allow_host: Switch | None
    dry_run: Switch | None
    reconcile: Switch | None
    cleanup_only: Switch | None
    force_apply: Switch | None
    skip_rule_apply: Switch | None
    run_validation: Switch | None
    probe_port: Number | None
    probe_timeout: str | None
    require_proof: Switch | None
    probe_from_outside: Switch | None
    log_output_level: str | None
    log_as_json: Switch | None


def make_settings(**options: Unpack[Keywords]) -> Settings:
    """Return settings with the given values; options that are left out, or None, have their defaults.

    Names are those of docs/options.md (``proxy_port``, ``excluded_outbound_networks``). A value is the text that a
    flag would be given, or a number, a range, a truth value, a path, an object of ``ipaddress``, or several of these
    for a list; an empty list is "none". Every value is checked here.

    Raises ConfigurationError for a name that is no option, and for a value that cannot be used.
    """
    values: Mapping[str, object] = options
    explicit = {}
    for name, value in values.items():
        option = OPTIONS_BY_KEYWORD.get(name)
        if option is None:
            similar = closest_name(name, OPTIONS_BY_KEYWORD)
            hint = f"; did you mean {similar!r}?" if similar else ""
            raise ConfigurationError("make_settings()", name, "name", f"an option of docs/options.md{hint}")
        if value is not None:
            explicit[option] = ExplicitValue(_option_text(option, name, value), f"the argument {name}")
    return Settings(explicit).checked()


def _option_text(option: Option[Any], name: str, value: object) -> str:
    text = _scalar_text(option, value)
    if text is None and isinstance(value, Iterable) and not isinstance(value, Mapping | bytes | bytearray | memoryview):
        entries = [_scalar_text(option, entry) for entry in value]
        if None not in entries:
            text = ",".join(entry for entry in entries if entry is not None)
    if text is None:
        raise ConfigurationError(option.name, shown_value(value), f"the argument {name}", option.expected)
    return text


def _scalar_text(option: Option[Any], value: object) -> str | None:
    """Return the text of one value; None for a list, and for what the option cannot mean (bytes, floats, None)."""
    if isinstance(value, bool):
        return str(value).lower() if option.is_switch else None
    if isinstance(value, str | int | IpObject):
        try:
            return str(value)
        except ValueError:
            return None
    if isinstance(value, range) and value and value.step == 1:
        return f"{value[0]}-{value[-1]}"
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        return path if isinstance(path, str) else None
    return None
