"""One installer at a time, and patience with other programs that change the same files."""

from __future__ import annotations

import os
import time

from cni import atomic_files
from cni.atomic_files import ChangedMeanwhileError
from cni.install_error import InstallError, explained
from cni.plugin_files import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

PATIENCE = 5.0
"""Seconds to go on while other programs change the same files."""


def retry_on_conflict(attempt: Callable[[], T], conf_dir: str) -> T:
    """Return what ``attempt`` does, beginning anew as long as other programs come between, for some seconds."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except (ChangedMeanwhileError, FileNotFoundError) as changed:
            if time.monotonic() > deadline:
                raise InstallError(
                    conf_dir,
                    f"another program keeps changing it: {changed}",
                    "Find the program that writes there, and install again when it has stopped.",
                ) from None
            time.sleep(0.01)


class Exclusive:
    """One installer at a time works on these directories, and what goes wrong there is explained.

    The locks are on the directories themselves, and end with the process.
    """

    def __init__(self, *directories: str) -> None:
        self._directories = directories
        self._locks: dict[tuple[int, int], int] = {}

    def __enter__(self) -> None:
        try:
            for directory in self._directories:
                self._lock(directory)
        except BaseException:
            self._unlock()
            raise

    def _lock(self, directory: str) -> None:
        import fcntl

        try:
            file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, directory) from None
        status = os.fstat(file)
        if (status.st_dev, status.st_ino) in self._locks:  # both are the same directory
            os.close(file)
            return
        self._locks[status.st_dev, status.st_ino] = file
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InstallError(
                        directory, "another installer is at work in it", "Wait for it to end, and try again."
                    ) from None
                time.sleep(0.02)
            else:
                return

    def _unlock(self) -> None:
        for file in self._locks.values():
            os.close(file)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._unlock()
        if isinstance(error, OSError):
            raise explained(error, self._directories[0]) from error


def clean_up(*directories: str) -> None:
    """Remove what an installer has left that was killed."""
    for directory in directories:
        for leftover in atomic_files.leftovers(directory):
            remove_tree(leftover)
