"""Errors and remedies that name the kernel modules that are missing."""

from __future__ import annotations

import os

from capture.backends.needed_modules import FLAVOUR_NAMES, needed_modules
from capture.errors import CaptureError, KernelError, MissingFeatureError, PrivilegeError, ToolError, UnsupportedError
from capture.model.addresses import FAMILIES, IPV6
from capture.netlink.sockets import has_ipv6
from capture.system import kernel_modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.backends.needed_modules import Flavour
    from capture.model.ruleset import Ruleset


def with_missing_modules(error: CaptureError, desired: Ruleset | None, flavour: Flavour) -> CaptureError:
    """Return the error with which a rule set, or any, was refused, in words that name the modules that are missing.

    Where a module is known to be absent, the error names that alone: which rule met it first, and what a tool makes
    of it, is chance. An error that has nothing to do with modules is returned as it is.
    """
    if not _may_lack_module(error):
        return error
    if desired is not None and IPV6 in desired.families and not has_ipv6():
        return error  # it is IPv6 that this kernel lacks
    purposes, flavour_name = _needed_by(desired, flavour), FLAVOUR_NAMES[flavour]
    inventory = kernel_modules.look_up_modules(purposes)
    unloaded = ", ".join(inventory.unloaded)
    if not unloaded:
        return error
    if inventory.lacking:
        lacking = ", ".join(f"{name} (for {purposes[name]})" for name in inventory.lacking)
        if inventory.absent:
            words = f"this kernel has no module {lacking}, which {flavour_name} needs"
        else:
            words = f"loading module {lacking} is forbidden by modprobe's configuration; {flavour_name} needs it"
        return UnsupportedError(words, remedy_for(inventory.lacking) + _remedy_by_other_flavour(desired, flavour))
    if not kernel_modules.can_load_modules():
        words = f"these modules are not loaded, and kernel.modules_disabled=1 forbids loading more: {unloaded}"
        return UnsupportedError(f"{words}: {error.message}", remedy_for_closed(inventory.unloaded))
    if inventory.is_indexed:
        words = f"these modules are not loaded, though this kernel has them: {unloaded}"
        return UnsupportedError(f"{words}: {error.message}", remedy_for_unloaded(inventory.unloaded))
    if not any(map(kernel_modules.is_loaded_module, purposes)):
        return error  # this kernel has them built in, for all that can be seen
    suspicion = f"Not loaded, and {flavour_name} needs them: {unloaded}; one of these modules is probably missing."
    return UnsupportedError(error.message, f"{suspicion} {error.remedy or remedy_for_unloaded(inventory.unloaded)}")


def _may_lack_module(error: CaptureError) -> bool:
    import errno  # only here: where something has failed already

    from capture.backends.iptables.refusals import gives_no_reason

    if isinstance(error, PrivilegeError):
        return not kernel_modules.can_load_modules()  # which forbids it to modprobe and root, too
    if isinstance(error, KernelError):
        return error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT)
    if isinstance(error, ToolError):
        return gives_no_reason(error.stderr)
    return isinstance(error, MissingFeatureError)


def cannot_load(modules: Iterable[str]) -> str:
    """Return that a kernel cannot load modules."""
    names = tuple(modules)
    return f"this kernel cannot load the module{'s' if len(names) > 1 else ''} {', '.join(names)}"


def remedy_for(lacking: Iterable[str]) -> str:
    """Return what to do about modules that a kernel does not have, or that modprobe's configuration forbids."""
    names = tuple(lacking)
    forbidden = kernel_modules.look_up_modules(names).forbidden
    absent = [name for name in names if name not in forbidden]
    remedies = []
    if absent:
        release, named = os.uname().release, absent[0] if len(absent) == 1 else "them"
        remedies.append(
            f"Install the package with {named} for kernel {release} on the host (Ubuntu: linux-modules-extra-{release};"
            f" Red Hat: kernel-modules-extra-{release}), or boot a kernel that has {named}."
        )
    prohibitions = kernel_modules.read_prohibitions() if forbidden else {}
    remedies += [f"{prohibitions[name]} on the host forbids {name}: take that line out." for name in forbidden]
    return " ".join(remedies)


def _needed_by(desired: Ruleset | None, flavour: Flavour) -> dict[str, str]:
    return needed_modules(desired, FAMILIES if desired is None else desired.families, flavour)


def _remedy_by_other_flavour(desired: Ruleset | None, flavour: Flavour) -> str:
    """Return which other flavours lack no module, in words; only where the modules of this kernel are known."""
    words = ", ".join(
        f"{FLAVOUR_NAMES[other]} ({option})"
        for other, option in FLAVOUR_OPTIONS.items()
        if other != flavour and not kernel_modules.look_up_modules(_needed_by(desired, other)).lacking
    )
    return f" Or choose what has its modules here: {words}." if words else ""


FLAVOUR_OPTIONS: dict[Flavour, str] = {
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
