"""Kernel modules: which ones a rule set needs in each backend, which of them this kernel lacks, what helps.

A distribution's netfilter is made of modules. The kernel requests what a rule needs
(request_module in net/netfilter/nf_tables_api.c and x_tables.c), with modprobe(8) of the host,
for any user. If that fails, the answer is "No such file or directory", and names nothing. So here is
what needs what: names and dependencies are those of Linux 6.1 (``modinfo -F depends``), and hold since
5.2, which brought nft_chain_nat.

Whether a module is there is read, never tried: /sys/module has what is loaded, /lib/modules of the
host what could be (depmod(8): modules.dep; modules.builtin has what is no module in this kernel). In a
container /lib/modules is usually missing. Then it is unknown, and ``Inventory.is_indexed`` is false. What is a module
and is loaded has a file ``initstate`` there; what is built in has not.
"""

from __future__ import annotations

import os

from capture.errors import KernelError, PrivilegeError, ToolError, UnsupportedError
from capture.model import ruleset as model
from capture.model.addresses import FAMILIES, IPV4, IPV6
from capture.model.values import Value
from capture.state.files import content_of, names_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from capture.errors import CaptureError
    from capture.model.addresses import Family

    Way = Literal["nftables", "nft", "legacy"]
    """nftables, or a variant of iptables."""

LOADED = "/sys/module"
INDEXES = "/lib/modules"
IPV6_SETTINGS = "/proc/sys/net/ipv6"
NO_MORE = "/proc/sys/kernel/modules_disabled"
MODPROBE = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")
"""Modprobe's configuration, files *.conf: modprobe.d(5)."""

WAYS: dict[Way, str] = {"nftables": "nftables", "nft": "iptables-nft", "legacy": "iptables-legacy"}
"""What to call them."""

OLDEST = (5, 2)
"""The first kernel whose modules are called as they are here."""

SINCE = {"nf_log_syslog": (5, 13)}
"""Modules that are younger than that, and the first kernel that has them."""

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
"""What each module needs in turn."""

ONLY_IPV6 = ("nf_tproxy_ipv6", "nf_defrag_ipv6", "ip6_tables", "ip6table_nat", "ip6table_mangle", "ip6table_raw")
"""Modules that a kernel without IPv6 neither has nor needs."""

VOCABULARY: dict[type, tuple[str, str, str]] = {
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
"""What to call it, its module in nftables ("" if nf_tables itself can), its module in iptables."""


OTHER_NAMES = {"tcp": "xt_tcpudp", "udp": "xt_tcpudp", "MARK": "xt_mark", "CONNMARK": "xt_connmark"}


def module_of(extension: str) -> str:
    """Return the module of a match or target of x_tables."""
    return OTHER_NAMES.get(extension, f"xt_{extension}")


# --- what is needed: pure ------------------------------------------------------------------------


def needed(desired: model.Ruleset | None, families: Iterable[Family], way: Way) -> dict[str, str]:
    """Return the modules that a rule set needs, those that they need in turn included, and what for.

    Without a rule set: those that every capture of these families needs.
    """
    found: dict[str, str] = {}
    for table in (model.NAT,) if desired is None else tuple(table.name for table in desired.tables):
        _add(found, _of_table(table, tuple(families), way))
    if desired is not None and desired.comments and way != "nftables":
        _add(found, (("xt_comment", "comments"),))
    for kind, is_one_match in EVERY_CAPTURE if desired is None else dict.fromkeys(_kinds(desired)):
        _add(found, _of_kind(kind, way, is_one_match=is_one_match))
    return found


EVERY_CAPTURE = ((model.DestinationPort, False), (model.OwnerUid, False), (model.Redirect, False))
"""Kinds of matches and verdicts, as ``_kinds`` yields them."""


def _kinds(desired: model.Ruleset) -> Iterator[tuple[type, bool]]:
    """Yield the kinds of matches and verdicts, and whether it is one with a list that iptables has a match for."""
    for rule in desired.rules:
        yield type(rule.verdict), False
        for match in rule.matches:
            if isinstance(match, model.SourcePort | model.DestinationPort):
                yield type(match), len(match.ports) > (1 if match.negated else model.MAX_SEPARATE_PORTS)
            elif isinstance(match, model.Source | model.Destination):
                yield type(match), match.negated and len(match.networks) > 1
            else:
                yield type(match), False


def with_required(names: Iterable[str]) -> tuple[str, ...]:
    """Return these modules and those that they need in turn."""
    found: dict[str, str] = {}
    _add(found, ((name, "") for name in names))
    return tuple(found)


def _add(found: dict[str, str], modules: Iterable[tuple[str, str]]) -> None:
    for module, purpose in modules:
        if module not in found:
            found[module] = purpose
            _add(found, ((required, purpose) for required in REQUIRES.get(module, ())))


def _of_table(table: model.TableName, families: tuple[Family, ...], way: Way) -> Iterator[tuple[str, str]]:
    if way == "legacy":
        for family, prefix in ((IPV4, "iptable"), (IPV6, "ip6table")):
            if family in families:
                yield f"{prefix}_{table}", f"the table {table} of {family.replace('ip', 'IP')}"
        return
    yield "nf_tables", "every rule"
    if way == "nft":
        yield "nft_compat", "matches and targets of iptables"
    if table == model.NAT:
        yield "nft_chain_nat", "the table nat"


def _of_kind(kind: type, way: Way, *, is_one_match: bool) -> Iterator[tuple[str, str]]:
    purpose, native, extension = VOCABULARY.get(kind, ("", "", ""))
    if not is_one_match:
        module = native if way == "nftables" else extension
        if module and (module, way) not in DISPENSABLE:
            yield module, purpose
    elif way != "nftables":
        yield ("xt_multiport", "lists of ports") if extension else ("xt_iprange", "lists of networks")


DISPENSABLE: tuple[tuple[str, Way], ...] = (("xt_tcpudp", "nft"),)
"""Since 1.8.9 iptables-nft warns that it is not there, and lets nf_tables itself compare the ports."""


# --- what is there: reading ----------------------------------------------------------------------


class Inventory(Value):
    """What of some modules is there.

    ``unloaded`` are those that are not loaded; in a kernel that has them built in, they look the same unless an
    index says so. ``absent`` are those of them that this kernel does not have at all, ``forbidden`` those that
    modprobe must not load; none if that is unknown.
    """

    unloaded: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    is_indexed: bool = False

    @property
    def lacking(self) -> tuple[str, ...]:
        """Return the modules that are not there and cannot be loaded."""
        return self.absent + self.forbidden


def look_up(names: Iterable[str]) -> Inventory:
    """Return what is there of these modules."""
    has_ipv6 = os.path.exists(IPV6_SETTINGS)
    release = os.uname().release
    version = _version(release)
    unloaded = tuple(
        name
        for name in names
        if (has_ipv6 or name not in ONLY_IPV6)
        and version >= SINCE.get(name, ())
        and not os.path.exists(f"{LOADED}/{name}")
    )
    if not unloaded or version < OLDEST:
        return Inventory(unloaded, is_indexed=not unloaded)
    indexes = [f"{INDEXES}/{release}/{name}" for name in ("modules.dep", "modules.builtin")]
    if not all(map(os.path.exists, indexes)):
        return Inventory(unloaded)
    loadable, builtin = map(content_of, indexes)
    not_built_in = tuple(name for name in unloaded if not _lists(builtin, name))
    absent = tuple(name for name in not_built_in if not _lists(loadable, name))
    prohibitions = _prohibitions() if not_built_in else {}
    forbidden = tuple(name for name in not_built_in if name in prohibitions and name not in absent)
    return Inventory(not_built_in, absent, forbidden, is_indexed=True)


def _version(release: str) -> tuple[int, ...]:
    """Return the first two numbers of a kernel's release, or none if they cannot be read."""
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else ()


def _lists(index: bytes, name: str) -> bool:
    """Return whether an index has the module: kernel/net/netfilter/xt_owner.ko, or compressed as .ko.xz."""
    return f"/{name}.ko".encode() in index


def _prohibitions() -> dict[str, str]:
    """Return the modules that modprobe's configuration forbids, and the file that does.

    "install" with a program that does nothing forbids a module altogether; "blacklist" only where it is requested
    by another name, as the kernel requests matches and targets, and not where another module needs it.
    """
    found: dict[str, str] = {}
    paths = (f"{directory}/{name}" for directory in MODPROBE for name in names_in(directory) if name.endswith(".conf"))
    for path in paths:
        for line in content_of(path).decode(errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and _forbids(words):
                found.setdefault(words[1].replace("-", "_"), path)
    return found


def _forbids(words: list[str]) -> bool:
    if words[0] == "install":
        return len(words) > 2 and words[2].rpartition("/")[2] in ("true", "false")
    return words[0] == "blacklist" and words[1].startswith(REQUESTED_BY_ANOTHER_NAME)


REQUESTED_BY_ANOTHER_NAME = ("nft_", "xt_", "nf_tables", "nfnetlink", "nf_log_syslog")
"""Prefixes of the modules that the kernel requests by purpose: nft-expr-1-redir, ipt_owner."""


def can_load() -> bool:
    """Return whether the kernel loads modules at all (modules_disabled in admin-guide/sysctl/kernel.rst)."""
    return content_of(NO_MORE).strip() != b"1"


# --- the messages --------------------------------------------------------------------------------


def with_missing_modules(error: CaptureError, desired: model.Ruleset | None, way: Way) -> CaptureError:
    """Return the error with which a rule set, or any, was refused, in words that name the modules that are missing.

    Where a module is known to be absent, the error names that alone: which rule met it first, and what a tool makes
    of it, is chance. An error that has nothing to do with modules is returned as it is.
    """
    if not _may_come_from_missing_module(error):
        return error
    if desired is not None and IPV6 in desired.families and not os.path.exists(IPV6_SETTINGS):
        return error  # it is IPv6 that this kernel lacks
    needed = _needed_by(desired, way)
    inventory = look_up(needed)
    unloaded = ", ".join(inventory.unloaded)
    if not unloaded:
        return error
    if inventory.lacking:
        lacking = ", ".join(f"{name} (for {needed[name]})" for name in inventory.lacking)
        if inventory.absent:
            words = f"this kernel has no module {lacking}, which {WAYS[way]} needs"
        else:
            words = f"loading module {lacking} is forbidden by modprobe's configuration; {WAYS[way]} needs it"
        return UnsupportedError(words, remedy_for(inventory.lacking) + _other_ways(desired, way))
    if not can_load():
        words = f"these modules are not loaded, and kernel.modules_disabled=1 forbids loading more: {unloaded}"
        return UnsupportedError(f"{words}: {error.message}", remedy_for_closed(inventory.unloaded))
    if inventory.is_indexed:
        words = f"these modules are not loaded, though this kernel has them: {unloaded}"
        return UnsupportedError(f"{words}: {error.message}", remedy_for_unloaded(inventory.unloaded))
    if not any(os.path.exists(f"{LOADED}/{name}/initstate") for name in needed):
        return error  # this kernel has them built in, for all that can be seen
    suspicion = f"Not loaded, and {WAYS[way]} needs them: {unloaded}; one of these modules is probably missing."
    return UnsupportedError(error.message, f"{suspicion} {error.remedy or remedy_for_unloaded(inventory.unloaded)}")


def _may_come_from_missing_module(error: CaptureError) -> bool:
    import errno  # only here: where something has failed already

    if isinstance(error, PrivilegeError):
        return not can_load()  # modprobe is not permitted to, nor is root
    if isinstance(error, KernelError):
        return error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT)
    if isinstance(error, ToolError):
        # So iptables-legacy ends when a module fails to find another one: "iptables-restore: line 14 failed".
        complaint = error.stderr.strip()
        return ": line " in complaint and complaint.endswith(" failed") and "\n" not in complaint
    return isinstance(error, UnsupportedError) and "this kernel" in error.message


def remedy_for(lacking: Iterable[str]) -> str:
    """Return what to do about modules that a kernel does not have, or that modprobe's configuration forbids."""
    names = tuple(lacking)
    forbidden = look_up(names).forbidden
    absent = [name for name in names if name not in forbidden]
    remedies = []
    if absent:
        release, them = os.uname().release, absent[0] if len(absent) == 1 else "them"
        remedies.append(
            f"Install the package with {them} for kernel {release} on the host (Ubuntu: linux-modules-extra-{release};"
            f" Red Hat: kernel-modules-extra-{release}), or boot a kernel that does."
        )
    prohibitions = _prohibitions() if forbidden else {}
    remedies += [f"{prohibitions[name]} on the host forbids {name}: take that line out." for name in forbidden]
    return " ".join(remedies)


def _needed_by(desired: model.Ruleset | None, way: Way) -> dict[str, str]:
    return needed(desired, FAMILIES if desired is None else desired.families, way)


def _other_ways(desired: model.Ruleset | None, way: Way) -> str:
    """Return which other ways lack no module, in words; only where the modules of this kernel are known."""
    other_ways = [another for another in FLAGS if another != way and not look_up(_needed_by(desired, another)).lacking]
    words = ", ".join(f"{WAYS[another]} ({FLAGS[another]})" for another in other_ways)
    return f" Or choose another way whose modules are there: {words}." if other_ways else ""


FLAGS: dict[Way, str] = {
    "nftables": "--backend nftables",
    "nft": "--backend iptables --force-iptables-binary nft",
    "legacy": "--backend iptables --force-iptables-binary legacy",
}


def remedy_for_unloaded(names: Iterable[str]) -> str:
    """Return what to do about modules that were not loaded."""
    together = " ".join(names)
    return (
        f"On the host, as root: `modprobe -a {together}`. It prints what is wrong, often a blacklist in"
        " /etc/modprobe.d. To load them at each boot, name them in a file in /etc/modules-load.d."
    )


def remedy_for_closed(names: Iterable[str]) -> str:
    """Return what to do where no module can be loaded any more."""
    return (
        f"Nothing helps but a reboot: name {', '.join(names)} in a file of /etc/modules-load.d on the host, so that"
        " they are loaded before sysctl sets kernel.modules_disabled."
    )
