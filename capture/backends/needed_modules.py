"""The kernel modules that a rule set needs in each backend. Pure.

A distribution's netfilter is made of modules. The kernel requests what a rule needs
(request_module in net/netfilter/nf_tables_api.c and x_tables.c), with modprobe(8) of the host, for any user. If that
fails, the answer is "No such file or directory", and names nothing. So the tables below have each module's needs, by
the names and dependencies of Linux 6.1 (``modinfo -F depends``), which hold since 5.2.
"""

from __future__ import annotations

from capture.model import ruleset as model
from capture.model.addresses import FAMILY_NAMES, IPV4, IPV6, Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    Flavour = Literal["nftables", "nft", "legacy"]
    """nftables, or a variant of iptables."""

FLAVOUR_NAMES: dict[Flavour, str] = {"nftables": "nftables", "nft": "iptables-nft", "legacy": "iptables-legacy"}
"""Names of flavours in messages."""

REQUIRES: dict[str, tuple[str, ...]] = {
    module: tuple(needs.split())
    for needs, modules in (
        ("nfnetlink", "nf_tables"),
        ("nf_tables x_tables", "nft_compat"),
        ("nf_tables nf_nat", "nft_chain_nat nft_redir"),
        ("nf_tables nf_tproxy_ipv4 nf_tproxy_ipv6 nf_defrag_ipv4 nf_defrag_ipv6", "nft_tproxy"),
        ("nf_tables nf_conntrack", "nft_ct"),
        ("nf_tables nf_log_syslog", "nft_log"),
        ("nf_conntrack", "nf_nat"),
        ("nf_defrag_ipv4 nf_defrag_ipv6", "nf_conntrack"),
        ("ip_tables nf_nat", "iptable_nat"),
        ("ip_tables", "iptable_mangle iptable_raw"),
        ("ip6_tables nf_nat", "ip6table_nat"),
        ("ip6_tables", "ip6table_mangle ip6table_raw"),
        ("x_tables", "ip_tables ip6_tables xt_owner xt_mark xt_tcpudp xt_multiport xt_iprange xt_comment"),
        ("x_tables nf_nat", "xt_REDIRECT"),
        ("x_tables nf_tproxy_ipv4 nf_tproxy_ipv6 nf_defrag_ipv4 nf_defrag_ipv6", "xt_TPROXY"),
        ("x_tables nf_conntrack", "xt_CT xt_conntrack xt_connmark"),
        ("x_tables nf_log_syslog", "xt_LOG"),
    )
    for module in modules.split()
}
"""The modules that each module needs in turn."""

MODULES_BY_KIND: dict[type, tuple[str, str, str]] = {
    model.SourcePort: ("ports", "", "xt_tcpudp"),
    model.DestinationPort: ("ports", "", "xt_tcpudp"),
    model.OwnerUid: ("the owner match", "", "xt_owner"),
    model.OwnerGid: ("the owner match", "", "xt_owner"),
    model.Mark: ("marks", "", "xt_mark"),
    model.SetMark: ("marks", "", "xt_mark"),
    model.ConnectionMark: ("connection marks", "nft_ct", "xt_connmark"),
    model.SaveMark: ("connection marks", "nft_ct", "xt_connmark"),
    model.RestoreMark: ("connection marks", "nft_ct", "xt_connmark"),
    model.ConnectionState: ("connection states", "nft_ct", "xt_conntrack"),
    model.SetZone: ("conntrack zones", "nft_ct", "xt_CT"),
    model.Redirect: ("REDIRECT", "nft_redir", "xt_REDIRECT"),
    model.TransparentProxy: ("TPROXY", "nft_tproxy", "xt_TPROXY"),
    model.Log: ("LOG", "nft_log", "xt_LOG"),
}
"""For each kind of match or verdict: its name, its module in nftables ("" if nf_tables has it), and in iptables."""

MODULE_NAMES = {"tcp": "xt_tcpudp", "udp": "xt_tcpudp", "MARK": "xt_mark", "CONNMARK": "xt_connmark"}


def extension_module(extension: str) -> str:
    """Return the module of a match or target of x_tables."""
    return MODULE_NAMES.get(extension, f"xt_{extension}")


def needed_modules(desired: model.Ruleset | None, families: Iterable[Family], flavour: Flavour) -> dict[str, str]:
    """Return the modules that a rule set needs, those that they need in turn included, and what for.

    Without a rule set: those that every capture of these families needs.
    """
    modules: dict[str, str] = {}
    for table in (model.NAT,) if desired is None else tuple(table.name for table in desired.tables):
        _add(modules, _table_modules(table, tuple(families), flavour))
    if desired is not None and desired.has_comments and flavour != "nftables":
        _add(modules, (("xt_comment", "comments"),))
    for kind, is_one_match in EVERY_CAPTURE if desired is None else dict.fromkeys(_used_kinds(desired)):
        _add(modules, _kind_modules(kind, flavour, is_one_match=is_one_match))
    return modules


EVERY_CAPTURE = ((model.DestinationPort, False), (model.OwnerUid, False), (model.Redirect, False))
"""Kinds of matches and verdicts, as ``_used_kinds`` yields them."""


def _used_kinds(desired: model.Ruleset) -> Iterator[tuple[type, bool]]:
    """Yield the kinds of matches and verdicts, and whether it is one with a list that iptables has a match for."""
    for rule in desired.rules:
        yield type(rule.verdict), False
        for match in rule.matches:
            if isinstance(match, model.PortMatch):
                yield type(match), len(match.ports) > (1 if match.negated else model.MAX_SEPARATE_PORTS)
            elif isinstance(match, model.AddressMatch):
                yield type(match), match.negated and len(match.networks) > 1
            else:
                yield type(match), False


def with_dependencies(names: Iterable[str]) -> tuple[str, ...]:
    """Return these modules and those that they need in turn."""
    modules: dict[str, str] = {}
    _add(modules, ((name, "") for name in names))
    return tuple(modules)


def _add(known: dict[str, str], modules: Iterable[tuple[str, str]]) -> None:
    for module, purpose in modules:
        if module not in known:
            known[module] = purpose
            _add(known, ((required, purpose) for required in REQUIRES.get(module, ())))


def _table_modules(table: model.TableName, families: tuple[Family, ...], flavour: Flavour) -> Iterator[tuple[str, str]]:
    if flavour == "legacy":
        for family, prefix in ((IPV4, "iptable"), (IPV6, "ip6table")):
            if family in families:
                yield f"{prefix}_{table}", f"the table {table} of {FAMILY_NAMES[family]}"
        return
    yield "nf_tables", "every rule"
    if flavour == "nft":
        yield "nft_compat", "matches and targets of iptables"
    if table == model.NAT:
        yield "nft_chain_nat", "the table nat"


def _kind_modules(kind: type, flavour: Flavour, *, is_one_match: bool) -> Iterator[tuple[str, str]]:
    purpose, native, extension = MODULES_BY_KIND.get(kind, ("", "", ""))
    if not is_one_match:
        module = native if flavour == "nftables" else extension
        if module and (module, flavour) not in DISPENSABLE_MODULES:
            yield module, purpose
    elif flavour != "nftables":
        yield ("xt_multiport", "lists of ports") if extension else ("xt_iprange", "lists of networks")


DISPENSABLE_MODULES: tuple[tuple[str, Flavour], ...] = (("xt_tcpudp", "nft"),)
"""Since 1.8.9 iptables-nft warns that it is not there, and lets nf_tables itself compare the ports."""
