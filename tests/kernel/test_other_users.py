"""Pods with ``hostUsers: false``: their network namespace belongs to a user namespace of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from capture.errors import UnsupportedError
from capture.operations import apply
from capture.settings.options import BACKEND
from capture.settings.settings import Given, Settings
from capture.state.netns import is_of_this_user_namespace
from cni_calls import INJECTED, RESULT, call, configuration
from pytest_netns import NamespaceFactory, PodPair

pytestmark = pytest.mark.kernel

FIRST = 200_000
"""Which user of the node the pod's root is."""
APP, PROXY = FIRST + 1000, FIRST + 1337


@pytest.fixture
def pair(netns: NamespaceFactory) -> PodPair:
    return netns.pod_pair(first_user=FIRST)


def assert_captured(pair: PodPair) -> None:
    """Traffic of both families goes to the proxy both ways, and the proxy's own does not."""
    pod, peer = pair
    pod.listener(("0.0.0.0", 15001), ("::", 15001), label="outbound", uid=PROXY)
    pod.listener(("0.0.0.0", 15006), ("::", 15006), label="inbound", uid=PROXY)
    peer.listener(("0.0.0.0", 80), ("::", 80), label="elsewhere")
    for here, there in ((pod.ipv4, peer.ipv4), (pod.ipv6, peer.ipv6)):
        assert pod.client(APP).connect(there, 80).label == "outbound"
        assert pod.client(PROXY).connect(there, 80).label == "elsewhere"
        assert peer.client(1000).connect(here, 80).label == "inbound"


def test_whose_namespace_it_is(pair: PodPair) -> None:
    pod, peer = pair
    assert not pod.call(is_of_this_user_namespace)
    assert peer.call(is_of_this_user_namespace)
    inside = [sys.executable, "-c", "from capture.state.netns import *; print(is_of_this_user_namespace())"]
    seen = subprocess.check_output(["unshare", "--user", "--map-root-user", *inside], text=True)
    assert seen == "False\n"  # the owner is above: not shown
    assert subprocess.check_output(["unshare", "--user", "--net", "--map-root-user", *inside], text=True) == "True\n"


def test_the_plugin_captures_such_a_pod(pair: PodPair) -> None:
    container = f"other-users-{os.getpid()}"
    done = call(configuration(INJECTED), CNI_NETNS=pair.pod.path, CNI_CONTAINERID=container)
    assert (done.returncode, json.loads(done.stdout)) == (0, RESULT)
    assert_captured(pair)
    for command in ("CHECK", "DEL"):
        assert call(
            configuration(INJECTED), CNI_COMMAND=command, CNI_NETNS=pair.pod.path, CNI_CONTAINERID=container
        ).returncode == 0  # fmt: skip


def test_iptables_says_why_it_cannot(pair: PodPair) -> None:
    settings = Settings({BACKEND: Given("iptables", "test")})
    with pytest.raises(UnsupportedError, match="hostUsers: false"):
        apply(settings, pair.pod.path)
    assert pair.pod.run(["nft", "list", "ruleset"]).stdout == ""
