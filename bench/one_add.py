"""One ADD with a clock, as a process of its own: prints what each phase took, in seconds, on standard error.

    python -I -S bench/one_add.py BACKEND STARTED < configuration

STARTED is the moment of the start, by the monotonic clock. Next to nothing is imported here, because that is part of
what is measured.
"""

from __future__ import annotations

import builtins
import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PHASES = ("start", "imports", "decide", "build", "look", "commit", "verify", "rest")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


class Clock:
    """Gives each moment to one phase, that which was entered last."""

    def __init__(self, phase: str, since: float) -> None:
        self.spent = dict.fromkeys(PHASES, 0.0)
        self._phases = [phase]
        self._since = since

    def enter(self, phase: str) -> None:
        """Begin a phase inside of another."""
        self._switch()
        self._phases.append(phase)

    def leave(self) -> None:
        """Go back to the phase before."""
        self._switch()
        self._phases.pop()

    def _switch(self) -> None:
        now = time.monotonic()
        self.spent[self._phases[-1]] += now - self._since
        self._since = now

    def during(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time given to a phase."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self.enter(phase)
            try:
                return function(*arguments, **named)
            finally:
                self.leave()

        return timed


def one_add(backend: str, started: float) -> None:
    """Do one ADD, as the plugin does, and print what each phase took in seconds on standard error."""
    clock = Clock("start", started)
    clock.enter("imports")
    sys.path.insert(0, ROOT)
    import gc

    gc.disable()
    import capture.operations.applying
    import cni.__main__
    import cni.plugin
    from capture.backends import detect
    from cni.protocol import dispatch

    name = f"{backend.title()}NetlinkDriver"
    driver = getattr(__import__(f"capture.backends.{backend}.netlink", fromlist=[name]), name)

    clock.leave()
    clock.enter("rest")
    builtins.__import__ = clock.during("imports", builtins.__import__)
    begin(clock, cni.plugin, "decide", "_desired_settings")
    begin(clock, capture.operations.applying, "build", "resolve", "build_ruleset")
    begin(clock, detect, "look", "detect")
    begin(clock, driver, "commit", "write")
    begin(clock, driver, "verify", "holds")
    answered = dispatch(os.environ, sys.stdin.buffer.read(), {"ADD": cni.plugin.handle}, cni.__main__.KNOWN_ARGUMENTS)
    clock.leave()
    if answered.error is not None:
        raise SystemExit(answered.error.message)
    for phase, seconds in clock.spent.items():
        print(phase, seconds, file=sys.stderr)


def begin(clock: Clock, owner: ModuleType | type, phase: str, *functions: str) -> None:
    """Let functions of a module or a class begin a phase."""
    for name in functions:
        setattr(owner, name, clock.during(phase, getattr(owner, name)))


if __name__ == "__main__":
    one_add(sys.argv[1], float(sys.argv[2]))
