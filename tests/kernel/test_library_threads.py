"""The library in threads: each enters a namespace of its own, and calls on one namespace take turns."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import capture
from capture import apply, clean, dump, make_settings, verify
from pytest_netns import NamespaceFactory

ROOT = Path(capture.__file__).parents[1]


@pytest.mark.parametrize(
    ("backend", "driver"),
    [("nftables", "netlink"), ("nftables", "libnftables"), ("iptables", "netlink"), ("iptables", "restore")],
)
def test_threads_work_on_several_namespaces_at_once(netns: NamespaceFactory, backend: str, driver: str) -> None:
    paths = [str(netns.pod().path) for _ in range(6)]
    settings = [make_settings(proxy_port=15001 + n, backend=backend, driver=driver) for n in range(len(paths))]

    with ThreadPoolExecutor(len(paths)) as threads:
        applied = list(threads.map(apply, settings, paths))
        verified = list(threads.map(verify, settings, paths))

    assert [result.changed for result in applied] == [True] * len(paths)
    assert [result.holds for result in verified] == [True] * len(paths)


EXPECT_EVERY_THREAD_TO_WRITE = """
import pathlib, sys, threading, time
from capture.backends.nftables import libnftables
slow = pathlib.Path(sys.argv[1])
slow.write_text("import time; time.sleep(0.5)\\n" + pathlib.Path(libnftables.find_bindings()).read_text())
libnftables.find_bindings = lambda: str(slow)
from capture.model.ruleset import Ruleset
written = []
def write():
    libnftables.LibnftablesDriver().write(Ruleset(("ipv4",), ()), None, None)
    written.append(True)
threads = [threading.Thread(target=write) for _ in range(4)]
for thread in threads:
    thread.start()
    time.sleep(0.1)
for thread in threads:
    thread.join()
assert written == [True] * len(threads), written
"""


def test_the_bindings_of_libnftables_are_loaded_by_one_thread(netns: NamespaceFactory, tmp_path: Path) -> None:
    """The module is empty at first, and a slow disk makes that long."""
    netns.pod().run([sys.executable, "-c", EXPECT_EVERY_THREAD_TO_WRITE, tmp_path / "bindings.py"], cwd=ROOT)


def test_threads_on_one_namespace_take_turns(netns: NamespaceFactory) -> None:
    path = str(netns.pod().path)
    settings = [make_settings(proxy_port=15001 + n % 2, backend="nftables") for n in range(8)]

    with ThreadPoolExecutor(len(settings)) as threads:
        list(threads.map(lambda one: apply(one, path), settings))

    (live_set,) = dump(path).live_sets
    assert live_set.choice.backend == "nftables"
    assert any(verify(one, path).holds for one in settings[:2])
    assert clean(path)
