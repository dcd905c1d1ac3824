"""Change the code in one place at a time, and count the changes that tests notice: `make mutants`.

The sample is drawn by the commit, so that a run can be repeated and the next commit tries other places. Each mutant is
written into a copy of the tree and meets the unit and property tests of its package, its own module's first, in a child
of a process that has loaded pytest. Tests that take far longer than without the change have noticed it.
``equivalent_mutants.txt`` has those that change nothing, each with its reason.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mutation import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
LEAST_OVERALL, LEAST_OF_AN_AREA = 0.92, 0.85
PYTEST = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not long"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # hypothesis is loaded before pytest starts
)
UNPRIVILEGED = 65534  # a mutant may do anything with files


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """Modules of one kind, and the tests without a kernel that speak of them all."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]

    def files(self) -> list[str]:
        """Return the modules' paths; those without a statement of their own have no mutants."""
        return sorted(str(path.relative_to(ROOT)) for pattern in self.modules for path in ROOT.glob(pattern))

    def tests_of(self, module: str) -> list[str]:
        """Return what a mutant of the module meets: its own tests, then those of the area."""
        path = Path(module.removeprefix("capture/"))
        own = Path("tests/unit") / path.parent / f"test_{path.name}"
        return [*([str(own)] if (ROOT / own).exists() else []), *self.tests]


def _under(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}.py" for name in names.split())


AREAS = (
    Area(
        name="rules",
        modules=("capture/rules/*.py",),
        tests=("tests/unit/rules", "tests/property/test_core_rules.py"),
    ),
    Area(
        name="analysis",
        modules=("capture/analysis/*.py",),
        tests=("tests/unit/analysis", "tests/property/test_core_canonical.py", "tests/property/test_core_compare.py"),
    ),
    Area(
        name="iptables",
        modules=_under(
            "capture/backends/iptables",
            "render parse restore_text plan xt_encode xt_decode xt_layouts xt_exact xt_changes xt_tables xt_words",
        ),
        tests=(
            "tests/unit/backends/iptables",
            *_under("tests/property", "test_iptables_text test_iptables_plan test_xt_round_trip"),
        ),
    ),
    Area(
        name="nftables",
        modules=(
            "capture/backends/nf_tables/*.py",
            *_under(
                "capture/backends/nftables", "encode decode sets comparisons exact lift lower text names foreign plan"
            ),
        ),
        tests=("tests/unit/backends/nftables", *_under("tests/property", "test_nftables_round_trip")),
    ),
    Area(
        name="decision",
        modules=_under("cni", "decision pod pod_object sources conf attachments"),
        tests=_under(
            "tests/unit/cni", "test_decision test_pod test_pod_object test_sources test_conf test_attachments"
        ),
    ),
    Area(
        name="settings",
        modules=("capture/settings/*.py",),
        tests=("tests/unit/settings", "tests/property/test_core_settings.py"),
    ),
    Area(name="agent", modules=("cni/agent/*.py",), tests=("tests/unit/cni/agent",)),
)


def main() -> int:
    """Try the sample; return 1 if too many mutants live."""
    options = _options()
    areas = [area for area in AREAS if area.name in options.areas]
    sample = [
        (area, mutant) for area in areas for file in area.files() for mutant in _drawn(file, options.seed, options.size)
    ]
    print(f"{len(sample)} mutants of {len(areas)} areas, drawn by {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        lives = _Trial(Path(directory), options.jobs, areas).survivors(sample)
    return _report(sample, lives)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("areas", nargs="*", default=[area.name for area in AREAS], help="rules, analysis, ...")
    parser.add_argument("--size", type=int, default=10, help="mutants of each module (default: 10)")
    parser.add_argument("--seed", default=_commit(), help="what draws the sample (default: the commit)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout[
        :12
    ]


def _drawn(file: str, seed: str, size: int) -> list[Mutant]:
    known = {tuple(line.split(" | ")[:4]) for line in EQUIVALENT.read_text(encoding="utf-8").splitlines()}
    mutants = [each for each in mutants_of(file, (ROOT / file).read_text(encoding="utf-8")) if each.key not in known]
    return random.Random(f"{seed} {file}").sample(mutants, min(size, len(mutants)))  # noqa: S311 - a sample, no secret


class _Trial:
    """Copies of the tree, one for each process, in which tests run beside each other."""

    def __init__(self, directory: Path, jobs: int, areas: list[Area]) -> None:
        self.free = [directory / str(number) for number in range(jobs)]
        self.running: dict[int, tuple[Path, Area, Mutant, float]] = {}
        self.seconds: dict[str, float] = {}
        self.survivors_so_far: list[Mutant] = []
        self.tries = 0
        directory.chmod(0o755)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for copy in self.free:
            for name in filter(None, files.split("\0")):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
            if os.geteuid() == 0:
                subprocess.run(["chown", "-R", str(UNPRIVILEGED), str(copy)], check=True)
            for area in areas:
                self._time(area, copy)

    def _time(self, area: Area, copy: Path) -> None:
        """Run the area's tests without a change: they have to pass, and what they take is what they may take."""
        started = time.monotonic()
        status = os.waitpid(_run(copy, list(area.tests)), 0)[1]
        if status:
            sys.exit(f"the tests of {area.name} fail without any change: pytest {' '.join(area.tests)}")
        self.seconds[area.name] = time.monotonic() - started

    def survivors(self, sample: list[tuple[Area, Mutant]]) -> list[Mutant]:
        """Return the mutants that no test noticed."""
        for area, mutant in sample:
            while not self.free:
                self._wait()
            self._start(self.free.pop(), area, mutant)
        while self.running:
            self._wait()
        return self.survivors_so_far

    def _start(self, copy: Path, area: Area, mutant: Mutant) -> None:
        self._write(copy, mutant.path, mutant.source)
        limit = time.monotonic() + 5 * self.seconds[area.name] + 10
        self.running[_run(copy, area.tests_of(mutant.path))] = copy, area, mutant, limit

    def _write(self, copy: Path, path: str, source: str) -> None:
        """Write a module, each time a second later, because compiled modules are told by the second."""
        self.tries += 1
        (copy / path).write_text(source, encoding="utf-8")
        os.utime(copy / path, (self.tries, self.tries))

    def _wait(self) -> None:
        """Let a child end, or end one that takes too long."""
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid not in self.running:
            for each, (*_, limit) in self.running.items():
                if time.monotonic() > limit:
                    os.killpg(each, signal.SIGKILL)
            time.sleep(0.02)
            return
        copy, _, mutant, _ = self.running.pop(pid)
        self._write(copy, mutant.path, (ROOT / mutant.path).read_text(encoding="utf-8"))
        self.free.append(copy)
        if status == 0:
            self.survivors_so_far.append(mutant)
            print(f"survives: {mutant}", flush=True)


def _run(copy: Path, tests: list[str]) -> int:
    """Start pytest in a child, in a session of its own; return its process id."""
    import pytest  # loaded once, for all children, as is what it loads
    from hypothesis.configuration import set_hypothesis_home_dir

    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(UNPRIVILEGED)
        os.setuid(UNPRIVILEGED)
    os.chdir(copy)
    set_hypothesis_home_dir(copy / ".hypothesis")
    os.environ.update(PYTHONPATH=str(copy), HOME=str(copy))
    sys.path[:] = [str(copy), *(path for path in sys.path if not path.startswith(str(ROOT / "scripts")))]
    quiet = os.open(os.environ.get("MUTANTS_LOG", os.devnull), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    for number in range(3):
        os.dup2(quiet, number)
    status = 1
    try:
        status = pytest.main([*PYTEST, *tests])
    finally:
        os._exit(status)


def _report(sample: list[tuple[Area, Mutant]], survivors: list[Mutant]) -> int:
    """Print what was killed, by module and by area; return 1 if that is too little."""
    living = Counter(mutant.path for mutant in survivors)
    by_file, by_area, lost = Counter[str](), Counter[str](), Counter[str]()
    for area, mutant in sample:
        by_file[mutant.path] += 1
        by_area[area.name] += 1
        lost[area.name] += mutant in survivors
    for file, number in by_file.items():
        print(f"{number - living[file]:4} of {number:3}  {file}")
    failed = len(survivors) > (1 - LEAST_OVERALL) * len(sample)
    for name, number in by_area.items():
        share = 1 - lost[name] / number
        failed = failed or share < LEAST_OF_AN_AREA
        print(f"{name:10} {number - lost[name]:5} of {number:5}  {share:6.1%}")
    print(f"all        {len(sample) - len(survivors):5} of {len(sample):5}  {1 - len(survivors) / len(sample):6.1%}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
