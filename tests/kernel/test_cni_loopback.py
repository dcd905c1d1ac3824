"""ADD together with the plugin "loopback", which refuses a ``lo`` that has our address before it has seen it."""

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cni import plugin
from pytest_netns import NamespaceFactory, Pod, require
from support.runtimes.cni_calls import INJECTED, call, configuration

DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
OF_BOTH = {"cniVersion": "1.0.0", "ips": [{"address": "10.77.0.2/24"}, {"address": "fd77::2/64"}]}
LATE = 0.4
"""Seconds after which a machine under load comes to start the other plugin."""


@pytest.fixture
def new_pod(netns: NamespaceFactory) -> Pod:
    """A pod as the bridge plugin leaves it: ``lo`` is still down."""
    pod = netns.pod()
    pod.ip("link set lo down")
    return pod


def add(pod: Pod, **keys: str) -> subprocess.CompletedProcess[str]:
    stdin = configuration(INJECTED, prevResult=OF_BOTH, **keys)
    return call(stdin, CNI_NETNS=pod.path, CNI_CONTAINERID=f"lo-{pod.inode}")


def add_loopback(pod: Pod) -> subprocess.CompletedProcess[str]:
    plugin = shutil.which("loopback", path=os.pathsep.join(DIRECTORIES))
    require(plugin, "the plugin loopback is missing (containernetworking-plugins)")
    assert plugin
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "lo", "CNI_IFNAME": "lo", "CNI_PATH": os.path.dirname(plugin)}
    return subprocess.run(
        [plugin],
        input=json.dumps({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}),
        env=environ | {"CNI_NETNS": pod.path},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def has_our_address(pod: Pod) -> bool:
    return "inet6 ::6/128" in pod.ip("address show dev lo")


def test_a_loopback_plugin_that_comes_late_finds_lo_as_it_should_be(new_pod: Pod) -> None:
    with ThreadPoolExecutor(1) as worker:
        added = worker.submit(add, new_pod)
        time.sleep(LATE)
        other = add_loopback(new_pod)

    assert other.returncode == 0, other.stdout
    assert added.result().returncode == 0, added.result().stdout
    assert has_our_address(new_pod)


def test_where_ipv6_is_disabled_lo_is_up_without_its_address(new_pod: Pod) -> None:
    new_pod.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
    assert not new_pod.call(plugin._is_lo_up)

    new_pod.ip("link set lo up")

    assert plugin.IPV6_LOOPBACK_LINE.decode() not in new_pod.run(["cat", plugin.IPV6_ADDRESSES_FILE]).stdout
    assert new_pod.call(plugin._is_lo_up)


def test_where_lo_stays_down_the_pod_is_captured_and_the_log_says_so(new_pod: Pod, tmp_path: Path) -> None:
    log = tmp_path / "cni.log"
    assert add(new_pod, log_file=str(log)).returncode == 0
    warned = [json.loads(line)["message"] for line in log.read_text().splitlines() if '"warn"' in line]
    assert [message.partition(":")[0] for message in warned] == ["the interface lo is down"]

    new_pod.ip("link set lo up")
    assert has_our_address(new_pod)
    assert "15006" in new_pod.run(["nft", "list", "ruleset"]).stdout


def test_the_plugin_does_refuse_what_is_there_before_it(new_pod: Pod) -> None:
    """What the waiting is for; should this fail one day, it can go."""
    new_pod.ip("link set lo up")
    new_pod.ip("address add ::6/128 dev lo")

    refused = add_loopback(new_pod)

    assert refused.returncode == 1
    assert "::6" in refused.stdout
