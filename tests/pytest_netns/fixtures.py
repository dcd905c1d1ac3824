"""The fixtures, which pytest finds by the entry point ``pytest11``."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator

import pytest

from pytest_netns.namespace import NamespaceFactory, Pod, PodPair, make_veth


def require(condition: object, reason: str) -> None:
    """Go on if the condition holds. Otherwise skip the test, or, where ``CI`` is set, fail it.

    A layer of tests that cannot run must not look like one that passed.
    """
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"cannot run here, and with CI set that is a failure: {reason}", pytrace=False)
    pytest.skip(reason)  # a developer's machine may lack what the layer needs; CI never skips


@functools.cache  # what is required does not go away
def _require_namespaces() -> None:
    require(sys.platform == "linux" and os.geteuid() == 0, "network namespaces need Linux and root")
    for program in ("ip", "setpriv"):
        require(shutil.which(program), f"the program {program} is missing")
    with NamespaceFactory() as factory:
        try:
            factory("probe")
        except PermissionError as error:
            require(False, f"network namespaces cannot be made here: {error}")


def _namespaces() -> Iterator[NamespaceFactory]:
    _require_namespaces()
    with NamespaceFactory() as factory:
        yield factory


@pytest.fixture
def netns() -> Iterator[NamespaceFactory]:
    """A factory of namespaces that end with the test: ``netns("a")``."""
    yield from _namespaces()


@pytest.fixture(scope="module")
def module_netns() -> Iterator[NamespaceFactory]:
    """A factory of namespaces that end with the module."""
    yield from _namespaces()


@pytest.fixture
def veth(netns: NamespaceFactory) -> Callable[..., None]:
    """``make_veth``: joins two namespaces, ``veth(left, right, "eth0", "eth0")``."""
    return make_veth


@pytest.fixture(scope="module")
def module_veth(module_netns: NamespaceFactory) -> Callable[..., None]:
    """``make_veth``, for the namespaces of a module."""
    return make_veth


@pytest.fixture
def pod(netns: NamespaceFactory) -> Callable[..., Pod]:
    """Makes pods that end with the test: ``pod("web", ipv6=None)``."""
    return netns.pod


@pytest.fixture(scope="module")
def module_pod(module_netns: NamespaceFactory) -> Callable[..., Pod]:
    """Makes pods that end with the module."""
    return module_netns.pod


@pytest.fixture
def pod_pair(netns: NamespaceFactory) -> PodPair:
    """Two pods joined by a veth pair, both families, ready to use: ``pod, peer = pod_pair``."""
    return netns.pod_pair()


@pytest.fixture(scope="module")
def module_pod_pair(module_netns: NamespaceFactory) -> PodPair:
    """Two pods joined by a veth pair, for a whole module."""
    return module_netns.pod_pair()
