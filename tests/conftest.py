"""What every test shares: marks by folder, the namespace fixtures, how hypothesis runs, and nothing left in /run."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from capture.cli import ALLOCATIONS
from support.processes import huge_pages, private_mounts

if TYPE_CHECKING:  # pytest imports it, and rewrites its asserts
    from collections.abc import Iterator

    from pytest_netns import Namespace, NamespaceFactory

pytest_plugins = ["pytest_netns.fixtures"]

# Examples that program a kernel take as long as the kernel takes; pytest-timeout bounds each test.
# How many there are is decided here, for every test that has no reason of its own.
hypothesis.settings.register_profile("kernel", deadline=None, print_blob=True, max_examples=30)
hypothesis.settings.load_profile("kernel")
hypothesis.settings.register_profile("long", max_examples=300)
hypothesis.settings.register_profile("unshrunk", phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])


def pytest_configure() -> None:
    """Before anything runs: in each process of a parallel run, too."""
    private_mounts.make_private()
    gc.set_threshold(ALLOCATIONS)  # as our programs do: looking for garbage took a quarter of the collection of tests
    # Each process of the run, and each program that a test starts, would compile everything again.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # grpc starts threads in forked children, and a process with several may not enter a user namespace (setns(2)).
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"


MARKS = {"kernel": "kernel", "runtime": "runtime", "vm": "vm", "cluster": "cluster", "cluster_injection": "cluster"}
"""What every test of a folder is marked as."""


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if mark := MARKS.get(item.path.relative_to(Path(__file__).parent).parts[0]):
            item.add_marker(mark)


def pytest_collection_finish() -> None:
    """Keep what stays to the end, ten thousand tests, out of every collection of garbage; the last ones are forced.

    In huge pages each fork copies little of it.
    """
    gc.freeze()
    huge_pages.collapse()


@pytest.fixture
def in_group_of_proxy() -> Iterator[None]:
    """Let this process, which has all listeners, be of the proxy's group: TPROXY knows it by that."""
    os.setegid(1337)
    yield
    os.setegid(0)


@pytest.fixture
def here(netns: NamespaceFactory) -> Iterator[Namespace]:
    """A namespace, with the thread of the test in it."""
    with netns() as namespace, namespace.entered():
        yield namespace
