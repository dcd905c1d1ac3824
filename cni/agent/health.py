"""The state of the agent: written by its threads, read by probes, metrics and ``capture node status``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from capture import __version__
from capture.model.text import JSON_SCHEMA_NAME

STARTING = "starting"
LOOP_LIMIT = 60.0
"""Seconds without a turn of the main loop after which the agent counts as stuck."""


class Health:
    """Facts by name, and the problem of each part of the agent, "" for none. For all threads."""

    def __init__(self, parts: tuple[str, ...] = (), clock: Callable[[], float] = time.time) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._problems: dict[str, tuple[str, float]] = dict.fromkeys(parts, (STARTING, clock()))
        self._facts: dict[str, Any] = {}
        self._makers: dict[str, Callable[[], Any]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._turn = time.monotonic()

    def report(self, part: str, problem: str = "") -> bool:
        """Note what is wrong with a part, or that it is well; return whether that is news."""
        with self._lock:
            before, since = self._problems.get(part, (STARTING, 0.0))
            self._problems[part] = (problem, since if before == problem else self._clock())
            return before != problem

    def note(self, **facts: object) -> None:
        """Keep facts, in place of earlier ones of their names."""
        with self._lock:
            self._facts |= facts

    def provide(self, **makers: Callable[[], Any]) -> None:
        """Make these facts when they are read: they cost something, and change more often than they are read."""
        self._makers |= makers

    def count(self, name: str, label: str = "") -> None:
        """Add one to a count."""
        with self._lock:
            self._counts[name, label] = self._counts.get((name, label), 0) + 1

    def note_loop(self) -> None:
        """Note that the main loop has made a turn."""
        self._turn = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """Return whether pods that start now are captured."""
        with self._lock:
            return self._has_no_problem()

    @property
    def is_live(self) -> bool:
        """Return whether the main loop runs; the API server has no part in it."""
        return time.monotonic() - self._turn < LOOP_LIMIT

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the counts by name and label."""
        with self._lock:
            return dict(self._counts)

    def fact(self, name: str) -> Any:
        """Return a fact, made now if it is one of those; None if there is none."""
        if maker := self._makers.get(name):
            return maker()
        with self._lock:
            return self._facts.get(name)

    def as_plain(self) -> dict[str, Any]:
        """Return all for JSON."""
        made_facts = {name: maker() for name, maker in self._makers.items()}
        with self._lock:
            return (
                {
                    "schema": JSON_SCHEMA_NAME,
                    "version": __version__,
                    "live": self.is_live,
                    "ready": self._has_no_problem(),
                    "problems": {
                        part: {"problem": problem, "since": since}
                        for part, (problem, since) in self._problems.items()
                        if problem
                    },
                    "parts": sorted(self._problems),
                    "counts": {" ".join(filter(None, key)): value for key, value in sorted(self._counts.items())},
                }
                | self._facts
                | made_facts
            )

    def _has_no_problem(self) -> bool:
        """Return whether each part is well; under the lock."""
        return not any(problem for problem, _ in self._problems.values())
