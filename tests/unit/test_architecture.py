"""The layout of the project: which package may import which, and which modules a cold start may load.

::

    floor 15  capture                 the library's interface: names that are imported when they are used
    floor 14  injection               which pods get a sidecar
    floor 13  sidecar                 the proxy's configuration
    floor 12  cni.agent               the agent of a node
    floor 11  cni                     the CNI plugin
    floor 10  cli   initcontainer     the programs
    floor 9   report                  what people and machines read
    floor 8   operations              the verbs
    floor 7   backends                writing and reading rules
    floor 6   state                   what a capture keeps, and changes apart from rules: records, lock, routes, sysctls
    floor 5   system                  what surrounds a capture: namespaces, kernel, node, pod and proxy
    floor 4   rules   analysis        which rules, and what rules do to packets
    floor 3   settings                options, and what they mean in a pod
    floor 2   netlink                 messages to the kernel
    floor 1   errors                  a tree; each class writes its sentence
    floor 0   model, lazy             values
"""

import ast
import functools
import itertools
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import capture

ROOT = Path(capture.__file__).parents[1]
PACKAGES = ("capture", "cni", "initcontainer", "injection", "sidecar")

FLOORS: tuple[tuple[str, ...], ...] = (
    ("capture.model", "capture.lazy"),
    ("capture.errors",),
    ("capture.netlink",),
    ("capture.settings",),
    ("capture.rules", "capture.analysis"),
    ("capture.system",),
    ("capture.state",),
    ("capture.backends",),
    ("capture.operations",),
    ("capture.report",),
    ("capture.cli", "initcontainer"),
    ("cni",),
    ("cni.agent",),
    ("sidecar",),
    ("injection",),
    ("capture",),
)
"""The rooms from the ground up: a room imports only from floors below it, also for types and in functions."""

WITHOUT: dict[str, tuple[str, ...]] = {
    "capture.analysis": ("capture.settings",),
    "capture.backends": ("capture.settings", "capture.rules"),
    "capture.report": ("capture.rules", "capture.system", "capture.state"),
    "capture.settings": ("capture.netlink",),
}
"""What a room must not import although it lies below: rules without an option are judged and written, too."""

VERBS = "capture", "operations"
"""The package of the verbs, which enter a namespace."""
READS_NO_KERNEL = ("capture.model", "capture.settings", "capture.rules", "capture.analysis", "capture.report")

COLD_START = {
    "__future__", "_abc", "_collections_abc", "_json", "_operator", "_socket", "_stat", "abc", "builtins", "errno",
    "gc", "genericpath", "os", "os.path", "posix", "posixpath", "stat", "sys", "time",
}  # fmt: skip
"""What the modules of the hot path may load apart from each other: a tenth of a millisecond each, or there anyway."""

HOT_PATH = (
    "capture.operations.applying",
    "capture.operations.comparison",
    "capture.backends.detect",
    "capture.backends.nftables.netlink",
    "capture.backends.iptables.netlink",
    "capture.system.netns",
    "capture.settings.pod",
    "capture.system.pod_host",
    "cni.__main__",
    "cni.cleanup",
    "cni.plugin",
    "cni.decision",
    "cni.sources",
    "cni.agent_socket",
    "cni.deferred_removal",
)

DOES_WITHOUT = {
    "capture.operations": ("capture.operations.", "capture.model", "capture.backends"),
    "capture.operations.applying": (
        *("capture.analysis", "capture.operations.comparison", "capture.operations.results"),
        *("capture.backends.other_family", "capture.backends.needed_modules", "capture.backends.missing_modules"),
        *("capture.state.connections", "capture.state.impediments", "capture.system.kernel_modules"),
        "capture.state.sysctls",
    ),
    "capture.operations.comparison": (
        *("capture.analysis", "capture.operations.applying", "capture.operations.situation"),
        *("capture.backends.other_family", "capture.backends.needed_modules", "capture.state.lock"),
    ),
    "capture.operations.situation": ("capture.model.foreign", "capture.analysis.meaning", "capture.analysis.trace"),
    "capture.cli.verify": ("capture.analysis", "capture.backends", "capture.operations.", "capture.cli.why"),
    "capture.report.verified_text": ("capture.analysis", "capture.backends"),
    "cni.cleanup": ("capture.settings", "capture.model.ruleset", "capture.netlink", "capture.backends", "cni.conf"),
    "cni.plugin": ("capture.rules", "capture.netlink", "capture.backends", "capture.operations", "cni.sources"),
}
"""What a module that begins a command leaves to the functions that need it: ten modules are a thirtieth of an ADD."""

LOOK_UP = COLD_START | {"_ssl", "_thread", "binascii"}
"""What a look-up at the API server may load: OpenSSL by the module in C, 5 ms; ``ssl`` and ``http.client`` take 40."""


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


class Imports(ast.NodeVisitor):
    """The project's and other modules that a module imports; those at load time apart."""

    def __init__(self, path: Path) -> None:
        self.all: set[str] = set()
        self.when_loaded: set[str] = set()
        self._later = 0
        self.visit(tree_of(path))

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
            if alias.name == "__version__":
                continue  # the one thing of the interface that all may know
            whole = f"{node.module}.{alias.name}"
            self._note(whole if whole in MODULES else node.module or "")

    def _note(self, name: str) -> None:
        self.all.add(name)
        if not self._later:
            self.when_loaded.add(name)


@functools.cache
def imports_of(module: str) -> Imports:
    return Imports(MODULES[module])


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def covers(entry: str, module: str) -> bool:
    """Return whether an entry is the module, or a package that it is in."""
    return module == entry or module.startswith(f"{entry}.")


ROOMS = {room: height for height, floor in enumerate(FLOORS) for room in floor}


@functools.cache
def room_of(module: str) -> str:
    """Return the room of a module: the longest entry that covers it."""
    return max((room for room in ROOMS if covers(room, module)), key=len)


def imported_rooms(module: str) -> set[str]:
    """Return the other rooms that a module imports from."""
    known = {name for name in imports_of(module).all if name.partition(".")[0] in PACKAGES}
    return {room_of(name) for name in known} - {room_of(module)}


def test_a_module_imports_only_from_floors_below() -> None:
    rooms = {module: (room_of(module), imported_rooms(module)) for module in MODULES}
    above = {
        module: {other for other in imported if ROOMS[other] >= ROOMS[room]} | imported & set(WITHOUT.get(room, ()))
        for module, (room, imported) in rooms.items()
    }
    assert {module: others for module, others in above.items() if others} == {}


def test_what_reads_no_kernel_takes_only_values_from_netlink() -> None:
    """Functions that read the kernel have their place in the rooms above; values and numbers can be judged here."""
    modules = [module for module in MODULES if module.startswith(READS_NO_KERNEL)]
    taken = [
        (module, node.module or "", alias.name)
        for module in modules
        for node in ast.walk(tree_of(MODULES[module]))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.islower()
    ]
    assert len(modules) > 50
    assert [each for each in taken if covers("capture.netlink", each[1])] == []
    verbs = [each for each in taken if covers("capture.operations", each[1]) or each[1:] == VERBS]
    assert {name for *_, name in verbs} <= {"inferred_flags", "count_misfits"}, verbs  # which take a rule set


BY_NAME = {
    "capture.cli": {"cni.agent_socket"},
    "capture.cli.doctor.examination": {"cni.istio_cni", "cni.status"},
    "capture.cli.group": {"cni.commands", "cni.agent.commands", "sidecar.commands", "injection.commands"},
    "capture.model.values": {"capture.report.result_text"},
}
"""What is found by name on floors above: packages that need not be installed with the library, and words of values."""


def test_only_the_command_line_and_the_words_of_values_find_modules_above_by_name() -> None:
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        constants = (node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant))
        texts = [value for value in constants if isinstance(value, str)]
        named = {text.partition(":")[0] for text in texts} & MODULES.keys()
        above = {name for name in named if "." in name and ROOMS[room_of(name)] > ROOMS[room_of(module)]}
        found |= {module: above} if above else {}
        functions = [text for text in texts if text.partition(":")[0] in above and ":" in text]
        assert [text for text in functions if not callable(pkgutil.resolve_name(text))] == []
    assert found == BY_NAME


def test_every_room_exists() -> None:
    assert {room for room in ROOMS if not any(covers(room, module) for module in MODULES)} == set()
    assert {room for without in WITHOUT.values() for room in without} | set(WITHOUT) <= set(ROOMS)


def test_the_map_of_analysis_has_each_module_and_who_uses_it() -> None:
    floors = [
        [cell.split(", ") for cell in line.split("   ")[0].split(" <- ")]
        for line in re.findall(r"^ {8}(.*)", MODULES["capture.analysis"].read_text(), re.MULTILINE)
    ]
    home = "capture.analysis."
    assert {name for floor in floors for cell in floor for name in cell} == {
        name.removeprefix(home) for name in MODULES if name.startswith(home)
    }
    arrows = [arrow for floor in floors for arrow in itertools.pairwise(floor)]
    assert [
        (used, users)
        for used, users in arrows
        if not all(home + name in imports_of(home + user).all for name in used for user in users)
    ] == []


def test_the_top_of_the_library_can_be_taken_in_at_a_glance() -> None:
    """At most four modules and eleven folders, and no folder is called like a function of the interface."""
    top = Path(capture.__file__).parent
    folders = {path.name for path in top.iterdir() if (path / "__init__.py").exists()}
    assert len(list(top.glob("*.py"))) <= 4
    assert len(folders) <= 11
    assert folders & set(capture.__all__) == set()


def test_shared_helpers_of_tests_are_in_folders_by_subject() -> None:
    tests = ROOT / "tests"
    assert [path.name for path in tests.glob("*.py")] == ["conftest.py"]
    assert list((tests / "support").glob("*.py")) == []
    assert {path.name for path in (tests / "support").iterdir()} - {"__pycache__"} <= {
        "captures", "cluster", "generators", "output", "processes", "rules", "runtimes", "traffic",
    }  # fmt: skip


def test_a_class_name_has_one_meaning() -> None:
    """In the library an alias of a type has one, too."""
    homes: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
    of_library = {name: {each for each in found if covers("capture", each)} for name, found in homes.items()}
    for module in filter(functools.partial(covers, "capture"), MODULES):
        for name in re.findall(r"^(?:    )?([A-Z]\w*[a-z]\w*) = ", MODULES[module].read_text(), re.MULTILINE):
            of_library.setdefault(name, set()).add(module)
    assert {name: found for name, found in of_library.items() if len(found) > 1} == {}


def top_statements(tree: ast.Module) -> list[ast.stmt]:
    """Return the statements of a module, those under ``if`` and ``try`` included."""
    return [part for node in tree.body for part in (node.body if isinstance(node, ast.If | ast.Try) else [node])]


def assigned_names(tree: ast.Module) -> set[str]:
    targets = [
        target
        for node in top_statements(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return {
        each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name) and is_stored(each)
    }


def names_of_module(tree: ast.Module) -> set[str]:
    """Return what a module defines and imports at its top; ``annotations`` of __future__ is no name that code reads."""
    statements = top_statements(tree)
    names = {node.name for node in statements if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    names |= {alias.asname or alias.name for node in imports for alias in node.names}
    return (names | assigned_names(tree)) - {"annotations"}


def is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def test_no_local_hides_a_name_of_its_module() -> None:
    """It would read as the function that it hides."""
    trees = {module: tree_of(path) for module, path in MODULES.items()}
    hiding = {module: local_names(tree) & names_of_module(tree) for module, tree in trees.items()}
    assert {module: names for module, names in hiding.items() if names} == {}


def local_names(tree: ast.Module) -> set[str]:
    """Return the names of parameters and of what functions assign."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    inside = [node for function in functions for node in ast.walk(function)]
    shared = {name for node in inside if isinstance(node, ast.Global) for name in node.names}
    local = {node.id for node in inside if isinstance(node, ast.Name) and is_stored(node)} - shared
    return local | {node.arg for node in inside if isinstance(node, ast.arg)}


def test_a_constant_has_one_home() -> None:
    """A search for its name tells what is meant; the commands of CNI are handled by two modules."""
    homes: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for name in assigned_names(tree_of(path)):
            homes.setdefault(name, set()).add(module)
    shared = {name: found for name, found in homes.items() if name.isupper() and len(found) > 1}
    assert set(shared) == {"HANDLERS", "T", "TYPE_CHECKING"}


def test_no_two_modules_wait_for_each_other_to_load() -> None:
    loads = {module: {name for name in imports_of(module).when_loaded if name in MODULES} for module in MODULES}
    while loads:
        free = {module for module, needs in loads.items() if not needs & set(loads) - {module}}
        assert free, f"circle among {sorted(loads)}"
        loads = {module: needs for module, needs in loads.items() if module not in free}


@pytest.mark.parametrize(
    ("backend", "others"),
    [("iptables", ["nftables"]), ("nftables", ["iptables"]), ("nf_tables", ["iptables", "nftables"])],
)
def test_backends_know_nothing_of_each_other(backend: str, others: list[str]) -> None:
    """Nor in functions: what both need is in ``nf_tables``, and what needs both is above them."""
    of_backend = [module for module in MODULES if covers(f"capture.backends.{backend}", module)]
    known = {name for module in of_backend for name in imports_of(module).all}
    assert {name for name in known if any(covers(f"capture.backends.{other}", name) for other in others)} == set()


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_backend_knows_no_settings(backend: str) -> None:
    """Neither by way of another module: rules can be written for which no option exists."""
    known: set[str] = set()
    new = {name for name in MODULES if covers(f"capture.backends.{backend}", name)}
    while new:
        known |= new
        new = {name for module in new for name in imports_of(module).all if name in MODULES} - known
    without = {"capture.settings", "capture.rules", "capture.operations"}
    assert {room_of(name) for name in known} & without == set()


@pytest.mark.parametrize(
    ("package", "who"),
    [
        (
            "click",
            (
                "capture.cli",
                "cni.commands",
                "cni.agent.commands",
                "cni.agent.kubectl",
                "sidecar.commands",
                "injection.commands",
            ),
        ),
        ("hpack", ("cni.agent.grpc_call",)),
        ("httpx2", ("cni.agent.api",)),
        ("inotify_simple", ("cni.agent.directories",)),
        ("lightkube", ("cni.agent",)),
        ("prometheus_client", ("cni.agent.metrics",)),
        ("pyroute2", ()),
        ("yaml", ("sidecar.documents", "cni.kubeconfig_file")),
        ("iptc", ("capture.backends.iptables.iptc_child",)),
        ("nftables", ("capture.backends.nftables.libnftables",)),
    ],
)
def test_third_party_packages_are_imported_in_one_place(package: str, who: tuple[str, ...]) -> None:
    users = {module for module in MODULES if any(covers(package, name) for name in imports_of(module).all)}
    assert {module for module in users if not any(covers(entry, module) for entry in who)} == set()


@pytest.mark.parametrize(
    ("module", "may_load"), [*((module, COLD_START) for module in HOT_PATH), ("cni.kubernetes", LOOK_UP)]
)
def test_a_cold_start_loads_nothing_heavy(module: str, may_load: set[str]) -> None:
    others = {name for name in loaded_by(module, "-S") if name.partition(".")[0] not in PACKAGES}
    assert others - may_load == set()


@pytest.mark.parametrize("module", DOES_WITHOUT)
def test_a_command_loads_what_it_needs(module: str) -> None:
    assert [name for name in sorted(loaded_by(module)) if name.startswith(DOES_WITHOUT[module])] == []


def loaded_by(module: str, *options: str) -> set[str]:
    """Return the modules that come with one, in an interpreter of its own, as the plugin starts once for every pod."""
    program = (
        f"import sys; before = set(sys.modules); sys.path.insert(0, {str(ROOT)!r}); import {module};"
        " print(*set(sys.modules) - before)"
    )
    command = [sys.executable, "-I", *options, "-c", program]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
