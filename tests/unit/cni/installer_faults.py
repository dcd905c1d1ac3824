"""Stops the installer before each of its system calls, to kill it or to let another program write.

A script, because ptrace and fork need a process with one thread:
``installer_faults.py kill|rival SCENARIO STYLE STRIDE DIRECTORY`` prints as JSON how many system calls there are, or
ends with the first thing that was wrong. STRIDE 5 tries every fifth of them, and begins elsewhere in each scenario.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from capture.errors import CaptureError
from cni import install, trial
from support.processes.system_calls import kill_before, run_stepped
from support.runtimes.fake_plugin import write_plugin

READ_BY_RUNTIMES = (".conf", ".conflist", ".json")
OWN_ENTRY = {"type": "capture-cni", "profile": "current"}
BRIDGE = {"type": "bridge", "mtu": 1500}
MAIN = {"cniVersion": "1.0.0", "name": "pods", "counter": 0, "plugins": [BRIDGE]}
SINGLE = {"cniVersion": "1.0.0", "name": "pods", "counter": 0, **BRIDGE}


class WrongError(Exception):
    """Something that must hold did not."""


class Node:
    """A node's directories, made anew for each try."""

    def __init__(self, scenario: "Scenario", root: Path) -> None:
        self.scenario, self.root = scenario, root
        self.bin_dir, self.conf_dir = root / "bin", root / "net.d"
        self.bundle = root / "bundle"
        for directory in (self.bin_dir, self.conf_dir, self.bundle):
            directory.mkdir()
        write_plugin(self.bundle / "capture-cni")
        (self.bundle / "module.py").write_text("x = 1\n")
        scenario.prepare(self)

    def install(self, own_config: str = "") -> None:
        desired = install.DesiredConfiguration(str(self.conf_dir), {"profile": "current"}, own_config)
        install.install(str(self.bundle), str(self.bin_dir), desired)

    def uninstall(self) -> None:
        install.uninstall(str(self.bin_dir), str(self.conf_dir))

    def write(self, name: str, content: dict[str, Any]) -> None:
        (self.conf_dir / name).write_text(json.dumps(content))

    def networks(self) -> dict[str, Any]:
        """Return what a runtime reads now, by file; everything must be JSON."""
        names = sorted(os.listdir(self.conf_dir), key=os.fsencode)
        try:
            return {
                name: json.loads((self.conf_dir / name).read_text())
                for name in names
                if name.endswith(READ_BY_RUNTIMES)
            }
        except ValueError as error:
            raise WrongError(f"not JSON: {error}") from None

    def effective(self) -> Any:
        """Return what the runtime uses: the file that sorts first."""
        return next(iter(self.networks().values()), None)

    def has_plugin(self) -> bool:
        """Return whether the plugin can be called, with all that belongs to it."""
        plugin = self.bin_dir / "capture-cni"
        return os.access(plugin, os.X_OK) and (plugin.resolve().parent / "module.py").read_text() == "x = 1\n"

    def is_clean(self) -> bool:
        return not any(
            name.endswith(".capture-tmp") for name in [*os.listdir(self.conf_dir), *os.listdir(self.bin_dir)]
        )


@dataclass(frozen=True)
class Scenario:
    prepare: Callable[[Node], None]
    act: Callable[[Node], None]
    before: Any
    """What the runtime uses before the act, and what after it; nothing else in between."""
    after: Any


def entered(network: dict[str, Any], **entry: object) -> dict[str, Any]:
    return network | {"plugins": [BRIDGE, OWN_ENTRY | entry]}


def prepared_with(name: str, content: dict[str, Any], *, installed: str | None = None) -> Callable[[Node], None]:
    def prepare(node: Node) -> None:
        node.write(name, content)
        if installed is not None:
            node.install(installed)

    return prepare


OF_SINGLE = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"counter": 0, **BRIDGE}, OWN_ENTRY]}
OWN = "00-capture.conflist"

SCENARIOS = {
    "list": Scenario(prepared_with("10-main.conflist", MAIN), Node.install, MAIN, entered(MAIN)),
    "single": Scenario(prepared_with("10-main.conf", SINGLE), Node.install, SINGLE, OF_SINGLE),
    "own": Scenario(
        prepared_with("10-main.conflist", MAIN), lambda node: node.install(OWN), MAIN, entered(MAIN, own_config=True)
    ),
    "to-own": Scenario(
        prepared_with("10-main.conflist", MAIN, installed=""),
        lambda node: node.install(OWN),
        entered(MAIN),
        entered(MAIN, own_config=True),
    ),
    "uninstall": Scenario(prepared_with("10-main.conflist", MAIN, installed=""), Node.uninstall, entered(MAIN), MAIN),
    "uninstall-single": Scenario(
        prepared_with("10-main.conf", SINGLE, installed=""), Node.uninstall, OF_SINGLE, SINGLE
    ),
    "uninstall-own": Scenario(
        prepared_with("10-main.conflist", MAIN, installed=OWN), Node.uninstall, entered(MAIN, own_config=True), MAIN
    ),
}


# --- killed ------------------------------------------------------------------------------------------------------


def kill_everywhere(scenario: Scenario, numbers: Iterator[int]) -> dict[str, object]:
    """Kill the act before each of these of its system calls, look, then let it run to its end."""
    number, reached = 0, True
    while reached:
        number = next(numbers)
        with fresh(scenario) as node:
            reached = kill_before(partial(scenario.act, node), number)
            check_whole(node)
            scenario.act(node)
            check_done(node)
    return {"system_calls": number - 1}


def check_whole(node: Node) -> None:
    effective = node.effective()
    if effective not in (node.scenario.before, node.scenario.after):
        raise WrongError(f"neither old nor new: {effective}")
    if OWN_ENTRY["type"] in json.dumps(effective) and not node.has_plugin():
        raise WrongError("the configuration calls a plugin that is not there")


def check_done(node: Node) -> None:
    check_whole(node)
    if node.effective() != node.scenario.after:
        raise WrongError(f"not done by the second run: {node.effective()}")
    if not node.is_clean():
        raise WrongError(f"leftovers: {os.listdir(node.conf_dir)} {os.listdir(node.bin_dir)}")
    listed = [plugin for network in node.networks().values() for plugin in network.get("plugins", [network])]
    if sum(plugin["type"] == OWN_ENTRY["type"] for plugin in listed) != (
        OWN_ENTRY["type"] in json.dumps(node.scenario.after)
    ):
        raise WrongError(f"not one entry: {listed}")


# --- a rival -------------------------------------------------------------------------------------------------------


class Rival:
    """Another program that changes the file that the runtime uses, once, before a given system call."""

    def __init__(self, node: Node, style: str, at: int) -> None:
        self.node, self.style, self.at = node, style, at
        self.is_reached = self.has_acted = False
        self.file = -1
        self.content = b""

    def __call__(self, pid: int, number: int) -> None:
        if number == self.at:
            self.is_reached = True
            self.begin()
        if self.file >= 0 and number == self.at + 15:
            self.end()

    def begin(self) -> None:
        path = self.path()
        if path is None:
            return
        self.has_acted = True
        self.content = json.dumps(json.loads(path.read_text()) | {"counter": 7}).encode()
        if self.style == "rename":
            new = path.with_name(".rival")
            new.write_bytes(self.content)
            new.rename(path)
        elif self.style == "in-place":
            path.write_bytes(self.content)
        else:  # opens it now, writes later
            self.file = os.open(path, os.O_WRONLY)

    def end(self) -> None:
        if self.file >= 0:
            os.ftruncate(self.file, 0)
            os.write(self.file, self.content)
            os.close(self.file)
            self.file = -1

    def path(self) -> Path | None:
        """Return the file of the network plugin, which is the rival's own."""
        for name in ("10-main.conf", "10-main.conflist"):
            if (self.node.conf_dir / name).exists():
                return self.node.conf_dir / name
        return None


def write_everywhere(scenario: Scenario, numbers: Iterator[int], style: str) -> dict[str, object]:
    """Let a rival write before each of these system calls of the act; its change must be there in the end."""
    number = acted = 0
    reached = True
    while reached:
        number = next(numbers)
        with fresh(scenario) as node:
            rival = Rival(node, style, number)
            status = run_stepped(partial(scenario.act, node), rival)
            rival.end()
            reached = rival.is_reached
            acted += rival.has_acted
            if status != 0:
                raise WrongError(f"system call {number}: the installer failed")
            if rival.has_acted:
                check_rival_survived(node, number)
    return {"system_calls": number - 1, "acted": acted}


def check_rival_survived(node: Node, number: int) -> None:
    networks = node.networks()
    if not any(_counter(network) == 7 for name, network in networks.items() if name.startswith("10-main")):
        raise WrongError(f"system call {number}: the rival's change is lost: {networks}")
    node.scenario.act(node)
    if _counter(node.effective()) != 7:
        raise WrongError(f"system call {number}: the runtime does not see the rival's change: {node.networks()}")
    effective = node.effective()
    entries = [plugin for plugin in effective.get("plugins", [effective]) if plugin["type"] == OWN_ENTRY["type"]]
    if len(entries) != (OWN_ENTRY["type"] in json.dumps(node.scenario.after)):
        raise WrongError(f"system call {number}: not one entry: {node.networks()}")
    if not node.is_clean():
        raise WrongError(f"system call {number}: leftovers")


def _counter(network: dict[str, Any]) -> object:
    return network.get("counter", network.get("plugins", [{}])[0].get("counter"))


def tried_without_a_process(path: str) -> tuple[str, ...]:
    """Replace the start of the plugin, which makes half of all system calls and changes nothing that others see."""
    if os.access(path, os.X_OK):
        return ("1.0.0",)
    raise CaptureError("missing")


@contextmanager
def fresh(scenario: Scenario) -> Iterator[Node]:
    """Make a node for one try; the directory of a try that went wrong stays to be looked at."""
    root = Path(tempfile.mkdtemp())
    yield Node(scenario, root)
    shutil.rmtree(root)


if __name__ == "__main__":
    trial.try_version = tried_without_a_process
    what, name, style, stride, tempfile.tempdir = sys.argv[1:]
    scenario, step = SCENARIOS[name], int(stride)
    numbers = count(1 + (list(SCENARIOS).index(name) + len(style)) % step, step)
    tried = kill_everywhere(scenario, numbers) if what == "kill" else write_everywhere(scenario, numbers, style)
    sys.stdout.write(json.dumps(tried))
