"""The fallback driver: nf_tables by libnftables, and the second opinion on what ``netlink`` writes and reads.

The bindings are no part of the interpreter we run in, as often as not: distributions put them where their
own Python looks. They are a single module that needs nothing else, so ours loads them from there.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import json
import sys

from capture.backends.nftables import libnftables_json, plan
from capture.backends.nftables.lift import lift
from capture.backends.nftables.lower import lower
from capture.backends.nftables.names import MODEL_TABLES
from capture.errors import CaptureError, PrivilegeError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from capture.backends.nftables.native import NativeTable
    from capture.model import Ruleset

BINDINGS = (
    "/usr/lib/python3/dist-packages/nftables/__init__.py",  # Debian and Ubuntu
    "/usr/lib/python3*/site-packages/nftables/__init__.py",  # Fedora, Alpine, Arch, SUSE
    "/usr/lib64/python3*/site-packages/nftables/__init__.py",
)
LIBRARY = "libnftables.so.1"
REMEDY = (
    "Install python3-nftables (on PyPI: pip-nftables) and libnftables1, or use the driver netlink, which needs neither."
)


class LibnftablesDriver:
    """nf_tables by the bindings of libnftables: one transaction for all tables and both families."""

    backend = "nftables"
    name = "libnftables"

    def render(self, ruleset: Ruleset) -> list[tuple[str, str]]:
        """Return the rule set as the commands that libnftables is given."""
        commands = list(plan.replace(lower(ruleset), {}, libnftables_json))
        return [("nft -j -f", json.dumps({"nftables": commands}, indent=2))]

    def read(self) -> Ruleset:
        """Return our tables as they are, foreign rules in them included."""
        return lift(_read_tables())

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        """Make our tables be ``desired`` in one transaction, whatever stands in them: they are ours alone."""
        del live, recorded
        _run("replace the rules of capture", list(plan.replace(lower(desired), _read_standing(), libnftables_json)))

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        """Delete our tables."""
        del live, recorded
        standing = _read_standing()
        if standing:
            _run("remove the rules of capture", list(plan.remove(standing, libnftables_json)))


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


def _run(doing: str, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run commands in one transaction and return what they listed.

    A context belongs to the namespace in which it was made, so each call makes its own.
    """
    bindings = _bindings()
    try:
        ctypes.CDLL(LIBRARY)  # the bindings load it too, but do not fail well
    except OSError as error:
        raise UnsupportedError(f"{LIBRARY} cannot be loaded: {error}", REMEDY) from error
    status, output, words = bindings.Nftables(LIBRARY).json_cmd({"nftables": commands})
    if status != 0:
        raise _failure(doing, words)
    return output["nftables"] if output else []


def _failure(doing: str, words: str) -> CaptureError:
    """Return the error for what libnftables said; it has no error numbers."""
    said = " ".join(line.split("Error: ", 1)[-1].strip() for line in words.splitlines() if line.strip())
    if "Operation not permitted" in said:
        return PrivilegeError(doing)
    if "not supported" in said:
        return UnsupportedError(f"this kernel cannot {doing} ({said})", "`capture doctor` says what is missing.")
    return CaptureError(f"{doing}: libnftables says: {said}")


def _read_tables() -> tuple[NativeTable, ...]:
    listed = _run("read the rules of capture", [{"list": {"ruleset": {"family": "inet"}}}])
    ours = [one for one in listed if _table_of(one) in MODEL_TABLES]
    return libnftables_json.parse_tables(ours)


def _table_of(listed: dict[str, Any]) -> str:
    ((kind, parts),) = listed.items()
    name: str = parts.get("name" if kind == "table" else "table", "")
    return name


def _read_standing() -> plan.Standing:
    return {table.name: {chain.name: chain.hook for chain in table.chains} for table in _read_tables()}
