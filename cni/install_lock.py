"""A lock for one installer at a time, and retries where other programs change the same files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from cni.atomic_files import TEMPORARY, ChangedMeanwhileError
from cni.install_error import InstallError, explained_errors
from cni.plugin_files import remove_tree

T = TypeVar("T")

INSTALL_TIMEOUT = 5.0
"""Seconds to go on while other programs change the same files."""


def retry_on_conflict(attempt: Callable[[], T], conf_dir: str) -> T:
    """Return the result of ``attempt``, which is repeated for some seconds while other programs change the files."""
    deadline = time.monotonic() + INSTALL_TIMEOUT
    while True:
        try:
            return attempt()
        except (ChangedMeanwhileError, FileExistsError, FileNotFoundError) as changed:
            if time.monotonic() > deadline:
                raise InstallError(
                    conf_dir,
                    f"another program keeps changing it: {changed}",
                    "Find the program that writes there, and install again when it has stopped.",
                ) from None
            time.sleep(0.01)


@contextmanager
def installer_lock(*directories: str) -> Iterator[None]:
    """A context for one installer at a time on these directories; it explains the errors there.

    The locks are on the directories themselves, and end with the process.
    """
    with explained_errors(directories[0]), ExitStack() as held:
        for directory in {os.path.realpath(each): each for each in directories}.values():
            file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, file)
            _lock(file, directory)
        yield


def _lock(file: int, directory: str) -> None:
    import fcntl

    deadline = time.monotonic() + INSTALL_TIMEOUT
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                problem = f"another installer has held its lock for {INSTALL_TIMEOUT:g} s"
                remedy = f"Wait for it to end; `fuser {directory}` names its process."
                raise InstallError(directory, problem, remedy) from None
            time.sleep(0.02)
        else:
            return


def clean_up(*directories: str) -> None:
    """Remove the files that a killed installer has left."""
    for directory in directories:
        for name in os.listdir(directory):
            if name.endswith(TEMPORARY):
                remove_tree(os.path.join(directory, name))
