"""Timing whole processes: fresh namespaces, variants in turn, medians and ratios.

A shared machine changes its speed from one second to the next. So the variants of a comparison run in turn, in
another order each round, and what is reported is the median of each and its ratio to the median of one of them.
"""

from __future__ import annotations

import contextlib
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TAKEN_APART = 0.5
"""Seconds after which namespaces that were deleted are gone."""

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from pytest_netns import Namespace, NamespaceFactory  # noqa: E402  # likewise
from support.cluster.fake_kubernetes import FakeKubernetes  # noqa: E402  # found by the line above

__all__ = [
    "ROOT", "Command", "FakeKubernetes", "Namespace", "NamespaceFactory", "Result", "Sample", "children_cpu",
    "interleaved", "run",
]  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A process to time: its words, what it reads, its environment, and whether it starts inside the namespace.

    ``before`` runs first, untimed.
    """

    words: Sequence[str]
    stdin: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    inside: bool = True
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Sample:
    """One run: seconds on the clock, and seconds of processor time, children included."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Result:
    """All runs of one variant."""

    name: str
    samples: tuple[Sample, ...]

    @property
    def wall(self) -> float:
        """Return the median time on the clock, in milliseconds."""
        return statistics.median(sample.wall for sample in self.samples) * 1000

    @property
    def cpu(self) -> float:
        """Return the median processor time, in milliseconds."""
        return statistics.median(sample.cpu for sample in self.samples) * 1000

    def ratio(self, base: Result) -> float:
        """Return how many times the time of ``base`` this takes, on the clock."""
        return self.wall / base.wall


def run(command: Command, namespace: Namespace | None = None) -> Sample:
    """Run a command to its end, in a namespace if it is to start in one; fail loudly if it fails.

    Processor time is that of all children: run nothing else at the same time.
    """
    if command.before is not None:
        command.before()
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **command.environment}
    with _entered(namespace if command.inside else None):
        cpu, started = children_cpu(), time.perf_counter()
        done = subprocess.run(
            command.words, input=command.stdin, capture_output=True, text=True, env=environment, check=False
        )
        wall, cpu = time.perf_counter() - started, children_cpu() - cpu
    if done.returncode:
        raise SystemExit(f"{' '.join(command.words)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return Sample(wall, cpu)


def children_cpu() -> float:
    """Return the processor time of all children that have ended, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _entered(namespace: Namespace | None) -> contextlib.AbstractContextManager[object]:
    return namespace.entered() if namespace is not None else contextlib.nullcontext()


def interleaved(
    variants: Mapping[str, Callable[[Namespace], Command]], rounds: int, progress: str = ""
) -> dict[str, Result]:
    """Time every variant ``rounds`` times, each run in a fresh namespace, in another order each round.

    Namespaces go between rounds: the kernel takes them apart in the background, which slows down who comes next.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    order = list(variants)
    for number in range(rounds + 1):
        random.shuffle(order)
        with NamespaceFactory() as namespaces:
            for name in order:
                namespace = namespaces.pod()
                sample = run(variants[name](namespace), namespace)
                if number:  # the first round warms caches
                    samples[name].append(sample)
        time.sleep(TAKEN_APART)
        if progress:
            print(f"\r{progress}: {number}/{rounds}", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return {name: Result(name, tuple(taken)) for name, taken in samples.items()}
