"""Which agent of a node acts, while an update runs two of them: the newest.

The agent that acts holds a lock, which ends with its process. A newer agent writes a claim; then the older lets go and
only watches. If the newer one dies, the lock is free, and the older takes it again.
"""

from __future__ import annotations

import fcntl
import os
import time

CLAIM_LASTS = 30.0
"""Seconds for the claimant to take a lock that is free, before another may."""


class Handover:
    """Decides which agent acts. ``directory`` is on the node; ``name`` identifies this agent."""

    def __init__(self, directory: str, name: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.directory, self.name = directory, name
        self._claim = os.path.join(directory, "claim")
        self._lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        self.is_acting = False
        self._write_claim()

    def update(self) -> bool:
        """Take the lock or release it, by the claim; return whether this agent acts."""
        claimed_by_other, is_old = self._claim_of_other()
        if self.is_acting and claimed_by_other and not is_old:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self.is_acting = False
        elif not self.is_acting and (not claimed_by_other or is_old):
            self.is_acting = self._take()
        return self.is_acting

    def close(self) -> None:
        os.close(self._lock)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _claim_of_other(self) -> tuple[bool, bool]:
        """Return whether another agent claims to act, and whether the claim is so old that it should act by now."""
        try:
            with open(self._claim, "rb") as file:
                name = file.read()
            age = time.time() - os.stat(self._claim).st_mtime
        except OSError:
            return False, False
        return name != self.name.encode(), age > CLAIM_LASTS

    def _write_claim(self) -> None:
        temporary = f"{self._claim}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(self.name)
        os.rename(temporary, self._claim)
