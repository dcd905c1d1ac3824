"""Calls of the plugin as a container runtime makes them: a process, variables, JSON on standard input."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from cni.conf import ANNOTATIONS_CAPABILITY

STATUS_ANNOTATION = "sidecar.istio.io/status"
INJECTED = {STATUS_ANNOTATION: json.dumps({"initContainers": ["istio-validation"], "containers": ["istio-proxy"]})}
"""The annotations of a pod with a sidecar."""
RESULT: dict[str, Any] = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}]}
POD_ARGUMENTS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"
ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "cafe01",
    "CNI_NETNS": "/does/not/exist",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": POD_ARGUMENTS,
}


def configuration(annotations: dict[str, str] | None = None, **keys: object) -> dict[str, object]:
    """Return the plugin's network configuration, with a pod's annotations if the runtime hands them over."""
    handed_over = {} if annotations is None else {"runtimeConfig": {ANNOTATIONS_CAPABILITY: annotations}}
    return {"cniVersion": "1.0.0", "name": "pods", "type": "capture-cni", "prevResult": RESULT} | handed_over | keys


def call(stdin: object, prefix: Sequence[str] = (), **environ: str) -> subprocess.CompletedProcess[str]:
    """Start the plugin and return how it ended; ``stdin`` is sent as JSON unless it is text.

    What holds for every call is asserted: one line on standard error if it fails, and none if it does not.
    """
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "cni"],
        input=stdin if isinstance(stdin, str) else json.dumps(stdin),
        env={"PATH": os.environ["PATH"]} | ENVIRON | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.count("\n") <= 1, done.stderr
    assert (done.returncode == 0) == (not done.stderr) or environ.get("CNI_COMMAND") == "DEL", done.stderr
    return done


def error_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the error object that the plugin printed."""
    assert done.returncode == 1, done.stdout
    error: dict[str, Any] = json.loads(done.stdout)
    assert error["msg"] in done.stderr
    assert "\n" not in error["msg"]
    return error
