"""The library in threads: each enters a namespace of its own, and calls on one namespace take turns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from capture import apply, clean, dump, make_settings, verify
from pytest_netns import NamespaceFactory

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("backend", "driver"), [("nftables", "netlink"), ("iptables", "netlink"), ("iptables", "restore")]
)
def test_threads_work_on_several_namespaces_at_once(netns: NamespaceFactory, backend: str, driver: str) -> None:
    paths = [str(netns.pod().path) for _ in range(6)]
    settings = [make_settings(proxy_port=15001 + n, backend=backend, driver=driver) for n in range(len(paths))]

    with ThreadPoolExecutor(len(paths)) as threads:
        applied = list(threads.map(apply, settings, paths))
        verified = list(threads.map(verify, settings, paths))

    assert [result.changed for result in applied] == [True] * len(paths)
    assert [result.holds for result in verified] == [True] * len(paths)


def test_threads_on_one_namespace_take_turns(netns: NamespaceFactory) -> None:
    path = str(netns.pod().path)
    settings = [make_settings(proxy_port=15001 + n % 2, backend="nftables") for n in range(8)]

    with ThreadPoolExecutor(len(settings)) as threads:
        list(threads.map(lambda one: apply(one, path), settings))

    (live_set,) = dump(path).live_sets
    assert live_set.backend == "nftables"
    assert any(verify(one, path).holds for one in settings[:2])
    assert clean(path)
