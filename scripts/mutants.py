"""Change the code in one place at a time, and count the changes that tests notice: `make mutants`.

The sample is drawn by the commit, so that a run can be repeated and the next commit tries other places. Each mutant is
written into a copy of the tree and meets the unit and property tests of its package, its own module's first, in a child
of a process that has loaded pytest. Tests that use far more of a processor than without the change have noticed it, as
have those that wait for longer than any waits without it.
``equivalent_mutants.txt`` has those that change nothing, each with its reason.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mutation import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
LEAST_OVERALL, LEAST_OF_AN_AREA = 0.92, 0.85
PYTEST = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not long", "--timeout", "40"),
    *("--hypothesis-profile", "unshrunk"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # hypothesis is loaded before pytest starts
)
UNPRIVILEGED = 65534  # a mutant may do anything with files
PR_SET_DUMPABLE, CLONE_NEWUSER = 4, 0x10000000  # linux/prctl.h, linux/sched.h


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """Modules of one kind, and the tests without a kernel that cover them all.

    Modules that talk to a kernel or to processes, and the kernel's numbers, are tested by those: not here.
    """

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]

    def tests_of(self, module: str) -> list[tuple[str, ...]]:
        """Return what a mutant of the module meets: its own tests, and if they notice nothing, those of the area."""
        path = Path(module.removeprefix("capture/"))
        own = Path("tests/unit") / path.parent / f"test_{path.name}"
        return [(str(own),), self.tests] if (ROOT / own).exists() else [self.tests]


def _area(name: str, modules: str, tests: str) -> Area:
    """Return an area of modules in one folder each, ``FOLDER: NAME NAME ...``, and of tests, where * is all.

    A name with a minus is left out of them.
    """
    paths: set[str] = set()
    for part in modules.split(";"):
        folder, _, names = part.partition(":")
        for each in names.split():
            found = {str(path.relative_to(ROOT)) for path in ROOT.glob(f"{folder.strip()}/{each.removeprefix('-')}.py")}
            if not found:
                sys.exit(f"{name}: no module {each} in {folder.strip()}")
            paths = paths - found if each.startswith("-") else paths | found
    return Area(name=name, modules=tuple(sorted(paths)), tests=tuple(f"tests/{each}" for each in tests.split()))


AREAS = (
    _area("rules", "capture/rules: *", "unit/rules property/test_core_rules.py property/test_transition.py"),
    _area(
        "analysis", "capture/analysis: *", "unit/analysis property/test_core_canonical.py property/test_core_compare.py"
    ),
    _area(
        "iptables",
        "capture/backends/iptables: render parse plan expansion"
        " xt_encode xt_decode xt_layouts xt_changes xt_text;"
        "capture/netlink: attributes",
        "unit/backends/iptables unit/netlink property/test_iptables_text.py property/test_iptables_plan.py"
        " property/test_xt_round_trip.py property/test_netlink_attributes.py",
    ),
    _area(
        "nftables",
        "capture/backends/nf_tables: expressions messages listing decode sets comparisons lift render names;"
        "capture/backends/nftables: encode lower",
        "unit/backends/nftables unit/backends/nf_tables property/test_nftables_round_trip.py",
    ),
    _area(
        "decision",
        "cni: decision pod pod_object sources conf",
        "unit/cni/test_decision.py unit/cni/test_pod.py unit/cni/test_pod_object.py unit/cni/test_sources.py"
        " unit/cni/test_conf.py",
    ),
    _area(
        "settings",
        "capture/settings: *",
        "unit/settings property/test_core_settings.py unit/report/test_documentation.py",
    ),
    _area(
        "agent",
        "cni/agent: agent_log api backoff commands credentials directories events handover health installation kubectl"
        " log_follower options pod_warnings pods protobuf reflector repair rewrite_conflict server status_text taint"
        " uninstall",
        "unit/cni/agent",
    ),
    _area(
        "injection",
        "injection: decision inject manifest plan pods remove security settings shape yaml_text",
        "unit/injection property/test_injection_laws.py",
    ),
    _area(
        "report",
        "capture/report: fold option_text packet_text trace_text verified_text",
        "unit/report",
    ),
)


def main() -> int:
    """Try the sample; return 1 if too many mutants live."""
    options = _options()
    if lines := stale_lines():
        sys.exit(f"{EQUIVALENT.name}: no such mutant: {lines}")
    areas = [area for area in AREAS if area.name in options.areas]
    sample = [
        (area, mutant)
        for area in areas
        for file in area.modules
        if fnmatchcase(Path(file).stem, options.module)
        for mutant in _drawn(file, options.seed, options.size)
    ]
    random.Random(options.seed).shuffle(sample)  # noqa: S311 - so that a part of a run is a fair one
    print(f"{len(sample)} mutants of {len(areas)} areas, drawn by {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        trial = _Trial(Path(directory), options.jobs, areas)
        try:
            trial.run(sample)
        except KeyboardInterrupt:
            print(f"interrupted after {len(trial.tried)}")
            for pid in trial.running:
                os.killpg(pid, signal.SIGKILL)
    return _report(trial.tried)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("areas", nargs="*", default=[area.name for area in AREAS], help="rules, analysis, ...")
    parser.add_argument("--size", type=int, default=10, help="mutants of each module (default: 10)")
    parser.add_argument("--module", default="*", help="of modules of this name alone; names may be patterns")
    parser.add_argument("--seed", default=_commit(), help="what draws the sample (default: the commit)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout[
        :12
    ]


def _drawn(file: str, seed: str, size: int) -> list[Mutant]:
    known = [line for line in _equivalent() if fnmatchcase(file, line[0])]
    mutants = mutants_of(file, (ROOT / file).read_text(encoding="utf-8"))
    drawn = [each for each in mutants if not _is_listed(each, known)]
    return random.Random(f"{seed} {file}").sample(drawn, min(size, len(drawn)))  # noqa: S311 - a sample, no secret


def _equivalent() -> list[list[str]]:
    """Return the lines of mutants that change nothing; the last column is the reason."""
    lines = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    return [line.split(" | ")[:4] for line in lines if line and not line.startswith("#")]


def stale_lines() -> list[list[str]]:
    """Return the lines of ``equivalent_mutants.txt`` that no mutant is meant by any more."""

    def is_stale(line: list[str]) -> bool:
        files = ROOT.glob(line[0])
        found = (mutants_of(str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")) for file in files)
        return not any(_is_listed(mutant, [line]) for mutants in found for mutant in mutants)

    return [line for line in _equivalent() if is_stale(line)]


def _is_listed(mutant: Mutant, lines: list[list[str]]) -> bool:
    """Return whether a line is about a mutant. Names may be patterns; of the change, * is any."""
    return any(
        fnmatchcase(mutant.path, path)
        and fnmatchcase(mutant.function, function)
        and before in ("*", mutant.before)
        and after in ("*", mutant.after)
        for path, function, before, after in lines
    )


class _Trial:
    """Copies of the tree, one for each process, in which tests run at the same time."""

    def __init__(self, directory: Path, jobs: int, areas: list[Area]) -> None:
        self.free = [directory / str(number) for number in range(jobs)]
        self.running: dict[int, tuple[Path, Area, Mutant, str]] = {}
        """By process id: where a mutant is tried, and what its module is without the change."""
        self.limits: dict[str, int] = {}
        self.tried: list[tuple[Area, Mutant, bool]] = []
        """Mutants with whether a test noticed each."""
        self.versions = 0
        directory.chmod(0o755)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for copy in self.free:
            for name in filter(None, files.split("\0")):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
            if os.geteuid() == 0:
                subprocess.run(["chown", "-R", str(UNPRIVILEGED), str(copy)], check=True)
        for area in areas:
            self.limits[area.name] = 5 * self._seconds(area) + 10

    def _seconds(self, area: Area) -> int:
        """Return what the area's tests take of a processor without a change; they have to pass."""
        _, status, used = os.wait4(_run(self.free[0], area.tests_of(area.modules[0]), 600), 0)
        if status:
            sys.exit(f"the tests of {area.name} fail without any change: pytest {' '.join(area.tests)}")
        return int(used.ru_utime + used.ru_stime)

    def run(self, sample: list[tuple[Area, Mutant]]) -> None:
        """Try the mutants; what came of each is in ``tried``, also when this is interrupted."""
        for area, mutant in sample:
            if not self.free:
                self._wait()
            copy = self.free.pop()
            original = (copy / mutant.path).read_text(encoding="utf-8")
            self._write(copy, mutant.path, mutant.source)
            self.running[_run(copy, area.tests_of(mutant.path), self.limits[area.name])] = copy, area, mutant, original
        while self.running:
            self._wait()

    def _write(self, copy: Path, path: str, source: str) -> None:
        """Write a module, each time a second later, because Python compares compiled modules by the second."""
        self.versions += 1
        (copy / path).write_text(source, encoding="utf-8")
        os.utime(copy / path, (self.versions, self.versions))

    def _wait(self) -> None:
        pid, status = os.wait()
        copy, area, mutant, original = self.running.pop(pid)
        self._write(copy, mutant.path, original)
        self.free.append(copy)
        self.tried.append((area, mutant, status != 0))
        if status == 0:
            print(f"survives: {mutant}", flush=True)


def _run(copy: Path, stages: list[tuple[str, ...]], limit: int) -> int:
    """Start pytest in a child, for one part after the other as long as they pass; return the child's process id.

    It may use ``limit`` seconds of a processor.
    """
    import pytest  # loaded once, for all children, as is what it loads
    from hypothesis.configuration import set_hypothesis_home_dir

    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    if os.geteuid() == 0:
        _give_up_root()
    os.chdir(copy)
    set_hypothesis_home_dir(copy / ".hypothesis")
    os.environ.update(PYTHONPATH=str(copy), HOME=str(copy))
    sys.path[:] = [str(copy), *(path for path in sys.path if not path.startswith(str(ROOT / "scripts")))]
    quiet = os.open(os.environ.get("MUTANTS_LOG", os.devnull), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    for number in range(3):
        os.dup2(quiet, number)
    status = 1
    try:
        results = (pytest.main([*PYTEST, f"--basetemp={copy}/.pytest", *tests]) for tests in stages)
        status = next(filter(None, results), 0)
    finally:
        os._exit(status)


def _give_up_root() -> None:
    """Become root of a user namespace of its own, and nothing to the files of this machine."""
    libc = ctypes.CDLL(None)
    os.setgroups([])
    os.setgid(UNPRIVILEGED)
    os.setuid(UNPRIVILEGED)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self belongs to root
    libc.unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {UNPRIVILEGED} 1"), ("gid_map", f"0 {UNPRIVILEGED} 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")


def _report(tried: list[tuple[Area, Mutant, bool]]) -> int:
    """Print what was noticed, by module and by area; return 1 if that is too little."""
    is_enough = True
    for least, names in (
        (0.0, [mutant.path for _, mutant, _ in tried]),
        (LEAST_OF_AN_AREA, [area.name for area, _, _ in tried]),
        (LEAST_OVERALL, ["all"] * len(tried)),
    ):
        noticed = Counter(name for name, (*_, is_noticed) in zip(names, tried, strict=True) if is_noticed)
        for name, number in Counter(names).items():
            print(f"{noticed[name]:5} of {number:5}  {noticed[name] / number:6.1%}  {name}")
            is_enough = is_enough and noticed[name] / number >= least
    return 0 if is_enough else 1


if __name__ == "__main__":
    sys.exit(main())
