"""Where the milliseconds of an ADD go: start, imports, deciding, building rules, writing and verifying them.

Each sample is a process of its own (``one_add``), started as ``python -I -S`` starts: not the bundle, whose
interpreter has no place for a clock, but the same code. A clock is switched at the functions that begin a phase; an
import inside of one counts as import.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from pathlib import Path

from cold import PYTHON, plugin
from measure import NamespaceFactory
from one_add import PHASES

ONE_ADD = Path(__file__).resolve().parent / "one_add.py"
MEANING = {
    "start": "from exec to the first line",
    "imports": "modules, our own and Python's",
    "decide": "configuration, the pod's annotations, settings",
    "build": "what is true in the pod; its rules",
    "look": "which backend, and which rules are live",
    "commit": "rules, in the kernel's terms, written in one transaction",
    "verify": "read back and compared to the byte",
    "rest": "the protocol, the record, the address on lo",
}


def measure(rounds: int, backends: tuple[tuple[str, str], ...]) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each phase, by backend: medians."""
    taken: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds + 1):
        with NamespaceFactory() as namespaces:
            for backend, driver in backends:
                call = plugin(namespaces.pod(), "ADD", backend, driver)
                words = [PYTHON, "-I", "-S", str(ONE_ADD), backend, repr(time.monotonic())]
                environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **call.environment}
                done = subprocess.run(
                    words, input=call.stdin, env=environment, capture_output=True, text=True, check=True
                )
                taken.setdefault(f"{backend} by {driver}", []).append(parsed(done.stderr))
    return {
        name: {phase: statistics.median(sample[phase] for sample in samples[1:]) * 1000 for phase in PHASES}
        for name, samples in taken.items()
    }


def parsed(text: str) -> dict[str, float]:
    """Return the seconds of each phase from lines of a phase and a number."""
    return {phase: float(seconds) for phase, seconds in (line.split() for line in text.splitlines())}
