"""What every test shares: the namespace fixtures, how hypothesis runs, and that nothing is left under /run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

from support.processes import private_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_netns import Namespace, NamespaceFactory

pytest_plugins = ["pytest_netns.fixtures"]

# Examples that program a kernel take as long as the kernel takes; pytest-timeout bounds each test.
hypothesis.settings.register_profile("kernel", deadline=None, print_blob=True)
hypothesis.settings.load_profile("kernel")


def pytest_configure() -> None:
    """Before anything runs: in each process of a parallel run, too."""
    private_mounts.make_private()
    # grpc starts threads in forked children, and a process with several may not enter a user namespace (setns(2)).
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"


@pytest.fixture
def here(netns: NamespaceFactory) -> Iterator[Namespace]:
    """A namespace, with the thread of the test in it."""
    with netns() as namespace, namespace.entered():
        yield namespace
