"""Which kernel modules are there: read, never tried.

/sys/module lists loaded modules. The host's /lib/modules lists those that could be loaded (depmod(8): modules.dep) and
those that are built in (modules.builtin). A container usually lacks it; then ``ModuleInventory.is_indexed`` is false.
"""

from __future__ import annotations

import os

from capture.model.values import Value
from capture.netlink.sockets import has_ipv6
from capture.system.files import content_of, names_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LOADED_MODULES = "/sys/module"
MODULE_INDEXES = "/lib/modules"
LOADING_DISABLED = "/proc/sys/kernel/modules_disabled"
MODPROBE_DIRECTORIES = tuple(
    f"{parent}/modprobe.d" for parent in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
"""Modprobe's configuration, files *.conf: modprobe.d(5)."""

OLDEST_KERNEL = (5, 2)
"""The first kernel whose modules are called as they are here."""

FIRST_KERNELS = {"nf_log_syslog": (5, 13)}
"""Modules that are younger than that, and the first kernel that has them."""

ONLY_IPV6 = ("nf_tproxy_ipv6", "nf_defrag_ipv6", "ip6_tables", "ip6table_nat", "ip6table_mangle", "ip6table_raw")
"""Modules that a kernel without IPv6 neither has nor needs."""


class ModuleInventory(Value):
    """The state of some modules.

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


def look_up_modules(names: Iterable[str]) -> ModuleInventory:
    """Return what is there of these modules."""
    release = os.uname().release
    version = _kernel_version(release)
    unloaded = tuple(
        name
        for name in names
        if (has_ipv6() or name not in ONLY_IPV6)
        and version >= FIRST_KERNELS.get(name, ())
        and not os.path.exists(f"{LOADED_MODULES}/{name}")
    )
    if not unloaded or version < OLDEST_KERNEL:
        return ModuleInventory(unloaded, is_indexed=not unloaded)
    indexes = [f"{MODULE_INDEXES}/{release}/{name}" for name in ("modules.dep", "modules.builtin")]
    if not all(map(os.path.exists, indexes)):
        return ModuleInventory(unloaded)
    loadable, builtin = map(content_of, indexes)
    not_built_in = tuple(name for name in unloaded if not _index_has(builtin, name))
    absent = tuple(name for name in not_built_in if not _index_has(loadable, name))
    prohibitions = read_prohibitions() if not_built_in else {}
    forbidden = tuple(name for name in not_built_in if name in prohibitions and name not in absent)
    return ModuleInventory(not_built_in, absent, forbidden, is_indexed=True)


def _kernel_version(release: str) -> tuple[int, ...]:
    """Return the first two numbers of a kernel's release, or none if they cannot be read."""
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else ()


def _index_has(index: bytes, name: str) -> bool:
    """Return whether an index has the module: kernel/net/netfilter/xt_owner.ko, or compressed as .ko.xz."""
    return f"/{name}.ko".encode() in index


def read_prohibitions() -> dict[str, str]:
    """Return the modules that modprobe's configuration forbids, and the file that does.

    "install" with a program that does nothing forbids a module altogether; "blacklist" only where it is requested
    by another name, as the kernel requests matches and targets, and not where another module needs it.
    """
    prohibitions: dict[str, str] = {}
    paths = (f"{directory}/{name}" for directory in MODPROBE_DIRECTORIES for name in names_in(directory))
    for path in (path for path in paths if path.endswith(".conf")):
        for line in content_of(path).decode(errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and _forbids_loading(words):
                prohibitions.setdefault(words[1].replace("-", "_"), path)
    return prohibitions


def _forbids_loading(words: list[str]) -> bool:
    if words[0] == "install":
        return len(words) > 2 and words[2].rpartition("/")[2] in ("true", "false")
    return words[0] == "blacklist" and words[1].startswith(REQUESTED_BY_ANOTHER_NAME)


REQUESTED_BY_ANOTHER_NAME = ("nft_", "xt_", "nf_tables", "nfnetlink", "nf_log_syslog")
"""Prefixes of the modules that the kernel requests by purpose: nft-expr-1-redir, ipt_owner."""


def is_loaded_module(name: str) -> bool:
    """Return whether a module was loaded; what is built in has no file ``initstate``."""
    return os.path.exists(f"{LOADED_MODULES}/{name}/initstate")


def can_load_modules() -> bool:
    """Return whether the kernel loads modules at all (modules_disabled in admin-guide/sysctl/kernel.rst)."""
    return content_of(LOADING_DISABLED).strip() != b"1"
