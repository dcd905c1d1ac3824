"""Pauses between attempts, each twice as long as the one before. Pure."""

from __future__ import annotations

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class Backoff:
    """The pauses of one kind of attempt, in seconds: from ``first`` to ``longest``."""

    def __init__(self, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> None:
        self._first, self._longest = first, longest
        self._pause = first

    def pause(self) -> float:
        """Return the seconds until the next attempt; the pause after that is longer."""
        pause, self._pause = self._pause, min(2 * self._pause, self._longest)
        return pause

    def reset(self) -> None:
        """Begin with the shortest pause: an attempt succeeded."""
        self._pause = self._first
