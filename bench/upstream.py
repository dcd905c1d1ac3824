"""Istio's own programs, where environment variables name them, as variants of the comparison of cold starts.

    CAPTURE_BENCH_ISTIO_IPTABLES   its init program: "/istio/istio-iptables", or "/istio/pilot-agent istio-iptables"
    CAPTURE_BENCH_ISTIO_CNI        its CNI plugin: "/istio/istio-cni"

Each runs as it would in a pod, in both of its modes: iptables, and native nftables.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from measure import Command, Namespace

IPTABLES, CNI = "CAPTURE_BENCH_ISTIO_IPTABLES", "CAPTURE_BENCH_ISTIO_CNI"
MODES = {"iptables": False, "nftables": True}
INJECTED_ARGUMENTS = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"),
    *("-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020"),
)
"""What Istio's injector passes (files/injection-template.yaml): without these, its program captures nothing."""


def init_programs(environ: Mapping[str, str] = os.environ) -> dict[str, Callable[[Namespace], Command]]:
    """Return the runs of Istio's init program, by name; none if no variable names it."""
    words = shlex.split(environ.get(IPTABLES, ""))
    return {f"Istio's init program, {mode}": _init(words, native) for mode, native in MODES.items() if words}


def _init(words: list[str], native: bool) -> Callable[[Namespace], Command]:  # noqa: FBT001  # a mode, from a table
    mode = ["--native-nftables"] if native else []
    return lambda _: Command([*words, *INJECTED_ARGUMENTS, *mode])


def plugins(
    like: Callable[[Namespace], Command], kubeconfig: Path, environ: Mapping[str, str] = os.environ
) -> dict[str, Callable[[Namespace], Command]]:
    """Return ADDs by Istio's plugin, called as ``like`` calls our plugin; it knows pods from the API server alone."""
    program = environ.get(CNI, "")
    return {
        f"ADD by Istio's plugin, {mode}": _add(program, native, like, kubeconfig)
        for mode, native in MODES.items()
        if program
    }


def _add(
    program: str,
    native: bool,  # noqa: FBT001  # a mode, from a table
    like: Callable[[Namespace], Command],
    kubeconfig: Path,
) -> Callable[[Namespace], Command]:
    def call(namespace: Namespace) -> Command:
        call = like(namespace)
        prev_result = json.loads(call.stdin)["prevResult"]
        # Keys of cni/pkg/plugin/plugin.go of istio/istio; "kubernetes" is how versions before 1.25 name the kubeconfig.
        entry = {
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "istio-cni",
            "plugin_log_level": "error",
            "native_nftables": native,
            "cni_agent_run_dir": str(kubeconfig.parent),
            "kubernetes": {"kubeconfig": str(kubeconfig)},
            "prevResult": prev_result,
        }
        return replace(call, words=[program], stdin=json.dumps(entry))

    return call
