"""What a call of the plugin imports. It starts cold for every pod of a node, and imports are most of its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cni
from cni_calls import ENVIRON, INJECTED, configuration
from pytest_netns import Pod, PodPair

pytestmark = pytest.mark.kernel

ROOT = Path(cni.__file__).parents[1]
START = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from cni.__main__ import main; main()"

# Milliseconds each, on a machine where bare Python starts in 7: typing 9, dataclasses 10, re 5, json 7, socket 4,
# ctypes 3, subprocess 13, logging 20, ipaddress 5, pathlib 5, click 30, pyroute2 200.
HEAVY = {
    "argparse", "asyncio", "click", "collections", "collections.abc", "contextlib", "ctypes", "dataclasses", "enum",
    "functools", "http", "inspect", "ipaddress", "json", "logging", "pathlib", "pyroute2", "re", "shutil", "signal",
    "site", "socket", "ssl", "struct", "subprocess", "tempfile", "threading", "traceback", "typing", "urllib", "uuid",
}  # fmt: skip
RULES = ("capture.rules", "capture.program", "capture.backends", "capture.netlink")


def imports_of(command: str, pod: Pod, stdin: dict[str, object]) -> set[str]:
    """Return the modules that one call of the plugin imports, on an interpreter without site packages."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", "-c", START],
        input=json.dumps(stdin),
        env=ENVIRON | {"CNI_COMMAND": command, "CNI_NETNS": pod.path, "CNI_CONTAINERID": f"imports-{os.getpid()}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    lines = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return set(lines)


def test_a_captured_pod_costs_no_heavy_import(pod_pair: PodPair) -> None:
    imported = imports_of("ADD", pod_pair.pod, configuration(INJECTED, backend="nftables"))
    assert not imported & HEAVY
    assert not {name for name in imported if "iptables" in name and name.endswith(("driver", "netlink", "restore"))}
    imports_of("DEL", pod_pair.pod, configuration())


def test_a_pod_that_is_left_alone_costs_no_rules(pod_pair: PodPair) -> None:
    imported = imports_of("ADD", pod_pair.pod, configuration({}))
    assert not imported & HEAVY
    assert not {name for name in imported if name.startswith(RULES)}


def test_version_costs_the_protocol_alone(pod_pair: PodPair) -> None:
    imported = imports_of("VERSION", pod_pair.pod, configuration({}))
    assert {name for name in imported if name.startswith(("capture.", "cni."))} == {
        "capture.json_text",
        "capture.values",
        "cni.__main__",
        "cni.protocol",
    }
