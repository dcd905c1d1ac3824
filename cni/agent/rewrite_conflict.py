"""How long to wait before our entry is put back, if another program keeps taking it out. Pure."""

from __future__ import annotations

from cni.agent.backoff import Backoff

WINDOW_SECONDS = 60.0
"""Seconds over which losses are counted."""
FREE_RESTORES = 5
"""Losses in that time that are answered at once."""


class RestoreBackoff:
    """Counts losses of the entry. Times are seconds of a clock that only goes forward."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._pauses = Backoff()
        self._pause = 0.0
        self._last: float
        """The latest; there is one when there is a pause."""

    @property
    def is_lasting(self) -> bool:
        """Return whether losses come so fast that they are answered late."""
        return self._pause > 0

    def note_loss(self, now: float) -> float:
        """Note that the entry was taken out; return the seconds to wait before it is put back.

        Five in a minute are answered at once, more of them after 1, 2, 4 ... 60 seconds.
        """
        self.note_quiet(now)
        self._last = now
        self._losses = [loss for loss in self._losses if now - loss < WINDOW_SECONDS] + [now]
        if self._pause or len(self._losses) > FREE_RESTORES:
            self._pause = self._pauses.pause()
        return self._pause

    def note_quiet(self, now: float) -> bool:
        """Note that the entry is in place; return whether that ends a conflict: a minute without a loss."""
        if not self._pause or now - self._last < WINDOW_SECONDS + self._pause:
            return False
        self._pause, self._losses = 0.0, []
        self._pauses.reset()
        return True
