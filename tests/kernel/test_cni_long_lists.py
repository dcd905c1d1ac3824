"""Annotations as long as Kubernetes allows them: what they cost, next to a pod without any, in one interleaved run."""

import json
import os
import subprocess
import sys
import time

import pytest

from capture.settings.pod import MAX_CHARACTERS
from pytest_netns import NamespaceFactory, Pod
from support.runtimes.cni_calls import ENVIRON, INJECTED, configuration

PORTS = "traffic.sidecar.istio.io/excludeOutboundPorts"
NETWORKS = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
ROUNDS = 5
MEMORY = 40 * 1024
"""Kilobytes that one ADD may take."""
MEASURED = """
import cni.__main__, gc, re, sys
gc.disable()  # as main() does
code = cni.__main__._answer()
peak = re.search("VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())
sys.stderr.write(f"\\n{peak[1]}")
sys.exit(code)
"""
"""The plugin, and then the most memory that it had: of the process, where getrusage(2) counts the parent's, too."""


def longest(entries: range) -> str:
    """Return a list of ports that is as long as it may be."""
    text = ",".join(map(str, entries))
    return text[:MAX_CHARACTERS].rpartition(",")[0]


def add(pod: Pod, annotations: dict[str, str], backend: str) -> tuple[float, int]:
    """Let the plugin capture a pod; return seconds and kilobytes."""
    stdin = json.dumps(configuration(INJECTED | annotations, backend=backend))
    environ = {**ENVIRON, "CNI_NETNS": pod.path, "CNI_CONTAINERID": f"long{pod.inode}", "PATH": os.environ["PATH"]}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], input=stdin, env=environ, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout
    return seconds, int(done.stderr.splitlines()[-1])


def addresses(step: int) -> str:
    """Return a list of addresses that is as long as it may be."""
    numbers = range(0, 20000 * step, step)
    text = ",".join(f"10.{each >> 16}.{each >> 8 & 255}.{each & 255}/32" for each in numbers)
    return text[:MAX_CHARACTERS].rpartition(",")[0]


LISTS = {
    "ports": {PORTS: longest(range(20000, 65536))},
    "ports, no two adjacent": {PORTS: longest(range(20001, 65536, 2))},
    "networks, no two adjacent": {NETWORKS: addresses(2)},
    "annotations that look misspelt": {f"{PORTS}{number}": "80" for number in range(4000)},
}


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("annotations", LISTS.values(), ids=LISTS)
def test_a_list_of_250_kb_costs_at_most_20_times_as_much(
    netns: NamespaceFactory, backend: str, annotations: dict[str, str]
) -> None:
    """In the best of some rounds: on a busy machine a long run is interrupted, and a short one is not."""
    ratios = []
    for number in range(ROUNDS):
        plain, _ = add(netns.pod(f"plain{number}"), {}, backend)
        seconds, kilobytes = add(netns.pod(f"long{number}"), annotations, backend)
        assert kilobytes <= MEMORY
        ratios.append(seconds / plain)
        if ratios[-1] <= 20:
            return
    pytest.fail(f"it cost {', '.join(f'{ratio:.1f}' for ratio in ratios)} times as much")
