"""Who may import whom, and what a cold start may cost: the shape of the project, held by a test.

::

    values, errors, json_text                        the ground
    addresses <- model <- parsers <- settings <- config <- rules
                 model <- canonical <- ownership <- compare;  model <- trace <- examples
                 model <- backends -> netlink
    record, plumbing, netns, host                    what program joins
    program                                          the verbs
    api, cli, cni, initcontainer                     who calls them
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import capture

ROOT = Path(capture.__file__).parents[1]
PACKAGES = ("capture", "cni", "initcontainer")

PURE = ("capture.values", "capture.addresses", "capture.model", "capture.chain_names")
SAID = (*PURE, "capture.errors", "capture.parsers", "capture.settings")

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    # the ground
    "capture.values": (),
    "capture.errors": (),
    "capture.json_text": (),
    "capture.turns": (),
    "capture.under_way": (),
    "capture.addresses": ("capture.values",),
    "capture.model": ("capture.values", "capture.addresses"),
    "capture.chain_names": ("capture.values",),
    # what was said, what is true, which rules
    "capture.parsers": PURE,
    "capture.settings": (*PURE, "capture.errors", "capture.parsers"),
    "capture.config": SAID,
    "capture.rules": (*PURE, "capture.config", "capture.parsers", "capture.rules"),
    # what rules mean
    "capture.canonical": PURE,
    "capture.ownership": (*PURE, "capture.canonical"),
    "capture.reasons": (*PURE, "capture.canonical"),
    "capture.bystanders": PURE,
    "capture.trace": (*PURE, "capture.bystanders"),
    "capture.explain": PURE,
    "capture.examples": (*PURE, "capture.bystanders", "capture.trace"),
    "capture.compare": (*PURE, "capture.canonical", "capture.ownership", "capture.examples"),
    "capture.findings": (*PURE, "capture.bystanders", "capture.compare", "capture.examples", "capture.ownership"),
    # how a kernel is told
    "capture.netlink": ("capture.values", "capture.errors", "capture.netlink"),
    "capture.backends": (
        *PURE, "capture.errors", "capture.turns", "capture.bystanders", "capture.netlink", "capture.canonical",
        "capture.ownership", "capture.backends",
    ),
    "capture.netns": ("capture.errors",),
    "capture.host": ("capture.addresses", "capture.netlink"),
    "capture.surroundings": ("capture.addresses", "capture.examples", "capture.trace", "capture.netlink"),
    "capture.plumbing": (*PURE, "capture.errors", "capture.netlink", "capture.rules"),
    "capture.record": (
        *SAID, "capture.config", "capture.rules", "capture.json_text", "capture.netns",
    ),
}  # fmt: skip
"""What modules, or packages with all that is in them, may import of the project: also for types, also in functions.

Those that are not named here are the verbs and who calls them: what is named must not know them.
"""

COLD_START = {
    "__future__", "_abc", "_collections_abc", "_json", "_socket", "_stat", "abc", "builtins", "errno", "gc",
    "genericpath", "os", "os.path", "posix", "posixpath", "stat", "sys", "time",
}  # fmt: skip
"""What the modules of the hot path may load besides each other: a tenth of a millisecond each, or there anyway."""

HOT_PATH = (
    "capture.program",
    "capture.backends.detect",
    "capture.backends.nftables.netlink",
    "capture.backends.iptables.netlink",
    "capture.netns",
    "capture.pod",
    "capture.reasons",
    "cni.__main__",
    "cni.plugin",
    "cni.decision",
    "cni.sources",
    "cni.agent_socket",
    "cni.leaving",
)
"""With ``cni.kubernetes`` left out: who asks a server over TLS has 50 ms more to wait anyway."""


class Imports(ast.NodeVisitor):
    """The project's and other modules that a module imports; those at load time apart."""

    def __init__(self, path: Path) -> None:
        self.all: set[str] = set()
        self.when_loaded: set[str] = set()
        self._later = 0
        self.visit(ast.parse(path.read_text()))

    def visit_If(self, node: ast.If) -> None:
        for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        self._later += for_types
        for child in node.body:
            self.visit(child)
        self._later -= for_types
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._later += 1
        self.generic_visit(node)
        self._later -= 1

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._note(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self._note(whole if whole in MODULES else node.module or "")

    def _note(self, name: str) -> None:
        self.all.add(name)
        if not self._later:
            self.when_loaded.add(name)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def covers(entry: str, module: str) -> bool:
    """Return whether an entry of the table is the module, or a package that it is in."""
    return module == entry or module.startswith(f"{entry}.")


LAYERED = sorted(module for module in MODULES if any(covers(entry, module) for entry in MAY_IMPORT))


@pytest.mark.parametrize("module", LAYERED)
def test_a_module_knows_only_what_is_below_it(module: str) -> None:
    allowed = next(may for entry, may in MAY_IMPORT.items() if covers(entry, module))
    known = {name for name in Imports(MODULES[module]).all if name.partition(".")[0] in PACKAGES}
    assert {name for name in known if not any(covers(entry, name) for entry in allowed)} == set()


def test_the_table_is_about_modules_that_exist() -> None:
    assert {entry for entry in MAY_IMPORT if entry not in MODULES} == set()
    assert {entry for may in MAY_IMPORT.values() for entry in may} <= set(MAY_IMPORT)


def test_the_table_has_no_circles() -> None:
    """Then what it allows is a hierarchy."""
    seen: list[str] = []
    left = {entry: {may for may in allowed if may != entry} for entry, allowed in MAY_IMPORT.items()}
    while left:
        free = [entry for entry, needs in left.items() if needs <= set(seen)]
        assert free, f"circle among {sorted(left)}"
        seen += free
        for entry in free:
            del left[entry]


def test_no_two_modules_wait_for_each_other_to_load() -> None:
    loads = {
        module: {name for name in Imports(path).when_loaded if name in MODULES} for module, path in MODULES.items()
    }
    while loads:
        free = {module for module, needs in loads.items() if not needs & set(loads) - {module}}
        assert free, f"circle among {sorted(loads)}"
        loads = {module: needs for module, needs in loads.items() if module not in free}


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_backend_has_nothing_of_what_was_said(backend: str) -> None:
    """Neither by way of another module: rules can be written for which no option exists."""
    known: set[str] = set()
    new = {name for name in MODULES if covers(f"capture.backends.{backend}", name)}
    while new:
        known |= new
        new = {name for module in new for name in Imports(MODULES[module]).all if name in MODULES} - known
    assert known & {"capture.settings", "capture.config", "capture.rules", "capture.record", "capture.program"} == set()


@pytest.mark.parametrize(
    ("package", "who"),
    [
        ("click", ("capture.cli", "cni.agent.commands")),
        ("grpc", ("cni.agent.runtime",)),
        ("httpx", ("cni.agent.api",)),
        ("inotify_simple", ("cni.agent.directories",)),
        ("lightkube", ("cni.agent",)),
        ("prometheus_client", ("cni.agent.metrics",)),
        ("pyroute2", ("capture.cli.examination",)),
        ("iptc", ("capture.backends.iptables.iptc_child",)),
        ("nftables", ("capture.backends.nftables.libnftables",)),
    ],
)
def test_packages_of_others_are_imported_in_one_place(package: str, who: tuple[str, ...]) -> None:
    users = {module for module, path in MODULES.items() if any(covers(package, name) for name in Imports(path).all)}
    assert {module for module in users if not any(covers(entry, module) for entry in who)} == set()


@pytest.mark.parametrize("module", HOT_PATH)
def test_a_cold_start_loads_nothing_heavy(module: str) -> None:
    """In an interpreter of its own, without site packages: as the plugin starts once for every pod."""
    program = (
        f"import sys; before = set(sys.modules); sys.path.insert(0, {str(ROOT)!r}); import {module};"
        " print(*sorted(set(sys.modules) - before))"
    )
    child = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    others = {name for name in child.stdout.split() if name.partition(".")[0] not in PACKAGES}
    assert others - COLD_START == set()
