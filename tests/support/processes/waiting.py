"""Waiting until something has happened: a condition that never holds is a failed assertion."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(
    condition: Callable[[], Result], seconds: float = 10, what: str | Callable[[], object] = "", pause: float = 0.01
) -> Result:
    """Return what the condition returned when it held. AssertionError with ``what`` if it does not hold in time."""
    give_up = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < give_up, what() if callable(what) else what
        time.sleep(pause)
    return result
