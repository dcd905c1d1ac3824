"""One installer at a time, and patience with other programs that change the same files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from cni import atomic_files
from cni.atomic_files import ChangedMeanwhileError
from cni.install_error import InstallError, explained
from cni.plugin_files import remove_tree

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


@contextmanager
def exclusive(*directories: str) -> Iterator[None]:
    """One installer at a time works on these directories, and what goes wrong there is explained.

    The locks are on the directories themselves, and end with the process.
    """
    with ExitStack() as held:
        locked: list[os.stat_result] = []
        for directory in directories:
            file = _opened(directory)
            held.callback(os.close, file)
            status = os.fstat(file)
            if not any(os.path.samestat(status, other) for other in locked):
                _lock(file, directory)
                locked.append(status)
        try:
            yield
        except OSError as error:
            raise explained(error, directories[0]) from error


def _opened(directory: str) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise explained(error, directory) from None


def _lock(file: int, directory: str) -> None:
    import fcntl

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


def clean_up(*directories: str) -> None:
    """Remove what an installer has left that was killed."""
    for directory in directories:
        for leftover in atomic_files.leftovers(directory):
            remove_tree(leftover)
