"""The fallback driver: nf_tables written by libnftables, the second opinion on what ``netlink`` writes.

The interpreter we run in often lacks the bindings: distributions put them where their
own Python looks. They need nothing but their own directory, so our Python loads them from there.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import glob
import importlib.util
import sys

from capture.backends.nf_tables.render import table_text
from capture.backends.nftables.lower import lower
from capture.backends.nftables.netlink import NftablesNetlinkDriver, read_live, removals
from capture.errors import CaptureError, KernelError, MissingFeatureError, PrivilegeError, UnsupportedError
from capture.netlink.nfnetlink import open_nfnetlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from capture.backends.nf_tables.native import NativeTable
    from capture.model.ruleset import Ruleset

BINDINGS = (
    "/usr/lib/python3/dist-packages/nftables/__init__.py",  # Debian and Ubuntu
    "/usr/lib/python3*/site-packages/nftables/__init__.py",  # Fedora, Alpine, Arch, SUSE
    "/usr/lib64/python3*/site-packages/nftables/__init__.py",
)
LIBRARY = "libnftables.so.1"
INSTALL_LIBNFTABLES = (
    "Install python3-nftables (PyPI: pip-nftables) and libnftables1, or use the driver netlink instead."
)

_one_at_a_time = _thread.allocate_lock()
"""libnftables keeps state outside of its contexts, and a module exists before it is complete: one thread at a time."""


class LibnftablesDriver(NftablesNetlinkDriver):
    """Written by libnftables, in one transaction for all tables and both families; read by our own messages."""

    name = "libnftables"

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        del live, recorded
        _write_tables("replace the rules of capture", lower(desired))

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        del live, recorded
        _write_tables("remove the rules of capture", ())


def _write_tables(task: str, desired: tuple[NativeTable, ...]) -> None:
    with open_nfnetlink() as netfilter:
        live = read_live(netfilter)
    removed = [
        f"{action} chain inet {table} {chain}\n" if chain else f"{action} table inet {table}\n"
        for action, table, chain in removals(desired, live)
    ]
    script = "".join([*removed, *map(table_text, desired)])
    if script:
        _run(task, script)


def find_bindings() -> str | None:
    """Return the file of the bindings, of our interpreter or else of the distribution's; None if there are none."""
    module = importlib.util.find_spec("nftables")
    if module is not None:
        return module.origin
    return next((path for pattern in BINDINGS for path in sorted(glob.glob(pattern))), None)


def _load_bindings() -> ModuleType:
    """Return the module of the bindings. Raises UnsupportedError if it is not there, or cannot be imported."""
    loaded = sys.modules.get("nftables")
    if loaded is not None:
        return loaded
    path = find_bindings()
    specification = importlib.util.spec_from_file_location("nftables", path) if path else None
    if specification is None or specification.loader is None:
        raise UnsupportedError("the Python bindings of libnftables are not installed", INSTALL_LIBNFTABLES)
    module = importlib.util.module_from_spec(specification)
    sys.modules["nftables"] = module
    try:
        specification.loader.exec_module(module)
    except (ImportError, OSError) as error:
        del sys.modules["nftables"]
        raise UnsupportedError(f"the Python bindings of libnftables fail: {error}", INSTALL_LIBNFTABLES) from error
    return module


def _run(task: str, script: str) -> None:
    """Run a script in one transaction. A context is of the namespace in which it was made: each call makes its own."""
    with _one_at_a_time:
        bindings = _load_bindings()
        try:
            ctypes.CDLL(LIBRARY)  # the bindings load it too, but do not fail well
        except OSError as error:
            raise UnsupportedError(f"{LIBRARY} cannot be loaded: {error}", INSTALL_LIBNFTABLES) from error
        status, _, words = bindings.Nftables(LIBRARY).cmd(script)
    if status != 0:
        raise _program_error(task, words)


def _program_error(task: str, words: str) -> CaptureError:
    complaint = " ".join(line.split("Error: ", 1)[1].strip() for line in words.splitlines() if "Error: " in line)
    if "Operation not permitted" in complaint:
        return PrivilegeError(task)
    if "No such file or directory" in complaint:
        return KernelError(task, errno.ENOENT, f"libnftables says: {complaint}")
    if "not supported" in complaint:
        return MissingFeatureError(f"this kernel cannot {task} ({complaint})", "`capture doctor` says what is missing.")
    return CaptureError(f"{task}: libnftables says: {complaint}")
