"""The fallback driver: nf_tables by libnftables, and the second opinion on what ``netlink`` writes and reads.

The bindings are no part of the interpreter we run in, as often as not: distributions put them where their
own Python looks. They are a single module that needs nothing else, so ours loads them from there.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import glob
import importlib.util
import json
import sys

from capture.backends.nftables import libnftables_json, plan
from capture.backends.nftables.lift import lift
from capture.backends.nftables.lower import lower
from capture.backends.nftables.names import MODEL_TABLES
from capture.backends.nftables.native import NativeTable
from capture.errors import CaptureError, KernelError, PrivilegeError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from capture.model.ruleset import Ruleset

BINDINGS = (
    "/usr/lib/python3/dist-packages/nftables/__init__.py",  # Debian and Ubuntu
    "/usr/lib/python3*/site-packages/nftables/__init__.py",  # Fedora, Alpine, Arch, SUSE
    "/usr/lib64/python3*/site-packages/nftables/__init__.py",
)
LIBRARY = "libnftables.so.1"
REMEDY = (
    "Install python3-nftables (on PyPI: pip-nftables) and libnftables1, or use the driver netlink, which needs neither."
)


_one_at_a_time = _thread.allocate_lock()
"""libnftables keeps state outside of its contexts, and a module is there before all of it is: one thread at a time."""


class LibnftablesDriver:
    """nf_tables by the bindings of libnftables: one transaction for all tables and both families."""

    backend = "nftables"
    name = "libnftables"

    def render(self, ruleset: Ruleset) -> list[tuple[str, str]]:
        """Return the rule set as the commands that libnftables is given."""
        commands = list(plan.replace(lower(ruleset), {}, libnftables_json))
        return [("nft -j -f", json.dumps({"nftables": commands}, indent=2))]

    def holds(self, desired: Ruleset) -> bool:
        """Return no: the rules have to be read to know."""
        del desired
        return False

    def read(self) -> Ruleset:
        """Return our tables as they are, foreign rules in them included."""
        return lift(_read_tables())

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        """Make our tables be ``desired`` in one transaction, whatever is in them: they are ours alone."""
        del live, recorded
        present = {
            table.name: None if table.dormant or table.has_more else {chain.name: chain.hook for chain in table.chains}
            for table in _read_tables()
        }
        changes = list(plan.replace(lower(desired), present, libnftables_json))
        _run("replace the rules of capture", {"nftables": changes})

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        """Delete our tables."""
        del live, recorded
        tables = _our_tables()
        if tables:
            _run("remove the rules of capture", {"nftables": list(plan.remove(tables, libnftables_json))})


def find_bindings() -> str | None:
    """Return the file of the bindings, of our interpreter or else of the distribution's; None if there are none."""
    found = importlib.util.find_spec("nftables")
    if found is not None:
        return found.origin
    return next((path for pattern in BINDINGS for path in sorted(glob.glob(pattern))), None)


def _bindings() -> ModuleType:
    """Return the module of the bindings. Raises UnsupportedError if it, or the library, is not there."""
    loaded = sys.modules.get("nftables")
    if loaded is not None:
        return loaded
    path = find_bindings()
    specification = importlib.util.spec_from_file_location("nftables", path) if path else None
    if specification is None or specification.loader is None:
        raise UnsupportedError("the Python bindings of libnftables are not installed", REMEDY)
    module = importlib.util.module_from_spec(specification)
    sys.modules["nftables"] = module
    specification.loader.exec_module(module)
    return module


def _run(doing: str, command: str | dict[str, Any]) -> str:
    """Run a command, or a transaction of commands in JSON, and return what it prints.

    A context belongs to the namespace in which it was made, so each call makes its own.
    """
    with _one_at_a_time:
        bindings = _bindings()
        try:
            ctypes.CDLL(LIBRARY)  # the bindings load it too, but do not fail well
        except OSError as error:
            raise UnsupportedError(f"{LIBRARY} cannot be loaded: {error}", REMEDY) from error
        context = bindings.Nftables(LIBRARY)
        context.set_json_output(not isinstance(command, str))
        status, output, words = context.cmd(command if isinstance(command, str) else json.dumps(command))
    if status != 0:
        raise _failure(doing, words)
    return str(output)


def _failure(doing: str, words: str) -> CaptureError:
    """Return the error for a message of libnftables; it has no error numbers."""
    complaint = " ".join(line.split("Error: ", 1)[-1].strip() for line in words.splitlines() if line.strip())
    if "Operation not permitted" in complaint:
        return PrivilegeError(doing)
    if "No such file or directory" in complaint:
        return KernelError(doing, errno.ENOENT, f"libnftables says: {complaint}")
    if "not supported" in complaint:
        return UnsupportedError(f"this kernel cannot {doing} ({complaint})", "`capture doctor` says what is missing.")
    return CaptureError(f"{doing}: libnftables says: {complaint}")


def _our_tables() -> list[str]:
    """Return the names of our live tables."""
    lines = _run("read the tables of nf_tables", "list tables inet").splitlines()
    return [name for line in lines if (name := line.split()[-1]) in MODEL_TABLES]


def _read_tables() -> tuple[NativeTable, ...]:
    """Return our tables, dormant ones without what is in them.

    libnftables 1.0.6 prints the flags of a table in JSON from memory that is not its own, so it is asked for
    tables that have none, and for no others' tables.
    """
    return tuple(
        NativeTable(name, (), dormant=True) if _has_flags(name) else _read_table(name) for name in _our_tables()
    )


def _has_flags(table: str) -> bool:
    """Return whether a table is dormant; the only other flag says that it belongs to a running process."""
    lines = _run(f"read table inet {table}", f"list table inet {table}").splitlines()
    return any(line.split()[:1] == ["flags"] for line in lines[:3])


def _read_table(name: str) -> NativeTable:
    doing = f"read table inet {name}"
    listed = _run(doing, {"nftables": [{"list": {"table": {"family": "inet", "name": name}}}]})
    try:
        objects = json.loads(listed)["nftables"]
    except ValueError as error:
        raise CaptureError(f"{doing}: libnftables printed something that is no JSON: {error}", REMEDY) from error
    (table,) = libnftables_json.parse_tables(objects)
    return table
