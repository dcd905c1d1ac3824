"""The imports of a call of the plugin. It starts cold for every pod of a node, and imports are most of its time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cni
from cni import codes
from pytest_netns import Pod, PodPair
from support.cluster.fake_kubernetes import FakeKubernetes
from support.runtimes.cni_calls import ENVIRON, INJECTED, configuration

ROOT = Path(cni.__file__).parents[1]
START = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from cni.__main__ import main; main()"

# Milliseconds each, on a machine where bare Python starts in 7: typing 9, dataclasses 10, re 5, json 7, socket 4,
# ctypes 3, subprocess 13, logging 20, ipaddress 5, pathlib 5, click 30, pyroute2 200.
HEAVY = {
    "argparse", "asyncio", "click", "collections", "collections.abc", "contextlib", "ctypes", "dataclasses", "enum",
    "functools", "http", "inspect", "ipaddress", "json", "logging", "pathlib", "pyroute2", "re", "shutil", "signal",
    "site", "socket", "ssl", "struct", "subprocess", "tempfile", "threading", "traceback", "typing", "urllib", "uuid",
}  # fmt: skip
RULES = ("capture.rules", "capture.operations", "capture.backends", "capture.netlink")


def start(command: str, pod: Pod, stdin: dict[str, object], *options: str) -> subprocess.CompletedProcess[str]:
    """Call the plugin on an interpreter without site packages, as it is on a node."""
    return subprocess.run(
        [sys.executable, "-I", "-S", *options, "-c", START],
        input=json.dumps(stdin),
        env=ENVIRON | {"CNI_COMMAND": command, "CNI_NETNS": pod.path, "CNI_CONTAINERID": f"imports-{os.getpid()}"},
        capture_output=True,
        text=True,
        check=False,
    )


def imports_of(command: str, pod: Pod, stdin: dict[str, object]) -> set[str]:
    """Return the modules that one call of the plugin imports."""
    done = start(command, pod, stdin, "-X", "importtime")
    assert done.returncode == 0, done.stdout
    lines = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return set(lines)


def test_a_captured_pod_costs_no_heavy_import(pod_pair: PodPair) -> None:
    imported = imports_of("ADD", pod_pair.pod, configuration(INJECTED, backend="nftables"))
    assert not imported & HEAVY
    assert not {name for name in imported if "iptables" in name and name.endswith(("driver", "netlink", "restore"))}
    assert not imported & {"capture.operations.comparison", "capture.backends.other_family"}
    checked = imports_of("CHECK", pod_pair.pod, configuration(INJECTED, backend="nftables"))
    assert not checked & {*HEAVY, "capture.operations.applying", "capture.analysis.compare"}
    forgotten = imports_of("DEL", pod_pair.pod, configuration())
    assert not {name for name in forgotten if name.startswith((*RULES, "capture.settings"))}


def test_a_pod_that_is_left_alone_costs_no_rules(pod_pair: PodPair) -> None:
    imported = imports_of("ADD", pod_pair.pod, configuration({}))
    assert not imported & HEAVY
    assert not {name for name in imported if name.startswith(RULES)}


def test_version_costs_the_protocol_alone(pod_pair: PodPair) -> None:
    imported = imports_of("VERSION", pod_pair.pod, configuration({}))
    assert {name for name in imported if name.startswith(("capture.", "cni."))} == {
        "capture.model",
        "capture.model.json_text",
        "capture.model.text",
        "capture.model.values",
        "cni.__main__",
        "cni.protocol",
    }


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_no_command_needs_a_package(pod_pair: PodPair, tmp_path: Path, backend: str) -> None:
    """Neither when something is wrong: the words for it must not come with what prints them elsewhere."""
    pod = pod_pair.pod
    done = start("ADD", pod, configuration(INJECTED, backend=backend))
    assert done.returncode == 0, done.stdout
    pod.run(["nft", "flush", "ruleset"])
    assert json.loads(start("CHECK", pod, configuration(INJECTED, backend=backend)).stdout)["code"] == codes.DRIFT
    pod.run(["sh", "-c", "nft add table ip nat; nft add chain ip nat OUTPUT '{ type nat hook output priority -100; }'"])
    pod.run(["sh", "-c", "nft add rule ip nat OUTPUT meta l4proto tcp accept"])
    assert json.loads(start("CHECK", pod, configuration(INJECTED, backend=backend)).stdout)["code"] == codes.DRIFT
    with FakeKubernetes() as server:
        server.pods["shop", "web-0"] = {
            "metadata": {"annotations": INJECTED},
            "spec": {"containers": [{"name": "istio-proxy"}]},
        }
        (tmp_path / "kubeconfig").write_text(server.kubeconfig())
        with_server = configuration(backend=backend, kubeconfig=str(tmp_path / "kubeconfig"))
        done = start("ADD", pod, with_server)
        assert done.returncode == 0, done.stdout
        done = start("STATUS", pod, with_server | {"cniVersion": "1.1.0"})
        assert (done.returncode, done.stdout) == (0, "")
    start("DEL", pod, configuration())
