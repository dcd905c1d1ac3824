"""Many pods: 200 namespaces one after another, and 8 at a time."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from cold import plugin
from measure import Command, Namespace, NamespaceFactory, children_cpu, run


@dataclass(frozen=True)
class Load:
    """What a number of ADDs took: seconds in all, milliseconds of processor time per pod, peak memory of one (MB)."""

    at_once: int
    pods: int
    seconds: float
    cpu: float
    memory: float

    @property
    def pods_per_second(self) -> float:
        """Return how many pods were captured in a second."""
        return self.pods / self.seconds


def add_all(pods: int, at_once: int, backend: str, driver: str) -> Load:
    """Capture so many pods, so many at a time, and return what it took."""
    with NamespaceFactory() as namespaces:
        made = [namespaces() for _ in range(pods)]

        def add(namespace: Namespace) -> None:
            run(plugin(namespace, "ADD", backend, driver))

        memory = peak_memory(plugin(namespaces(), "ADD", backend, driver))  # warms caches, too
        cpu, started = children_cpu(), time.perf_counter()
        with ThreadPoolExecutor(at_once) as workers:
            list(workers.map(add, made))
        seconds, cpu = time.perf_counter() - started, children_cpu() - cpu
    return Load(at_once, pods, seconds, cpu / pods * 1000, memory)


def peak_memory(command: Command) -> float:
    """Return the peak memory of a command in MB, as time(1) sees it: it forks from next to nothing, we do not."""
    with tempfile.NamedTemporaryFile("r") as report:
        run(replace(command, words=["/usr/bin/time", "-f", "%M", "-o", report.name, *command.words]))
        return int(report.read()) / 1000


def measure(pods: int, backend: str, driver: str) -> list[Load]:
    """Return the loads one after another and eight at a time, the two in turn to be comparable."""
    loads = [add_all(pods // 2, at_once, backend, driver) for at_once in (1, 8, 1, 8)]
    return [_joined_loads([load for load in loads if load.at_once == at_once]) for at_once in (1, 8)]


def _joined_loads(loads: list[Load]) -> Load:
    return Load(
        loads[0].at_once,
        sum(load.pods for load in loads),
        sum(load.seconds for load in loads),
        statistics.mean(load.cpu for load in loads),
        max(load.memory for load in loads),
    )


def cores() -> int:
    """Return on how many processors this ran."""
    return len(os.sched_getaffinity(0))
