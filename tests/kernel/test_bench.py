"""The benchmarks time the program that a variable names as Istio's, in the same run as the others."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import upstream
from measure import Command, Namespace, interleaved

INIT = Path(sys.executable).with_name("istio-init")


def test_a_program_that_takes_upstreams_arguments_is_timed_in_both_modes() -> None:
    """Our own is such a program; the bench fails loudly if one fails."""
    programs = upstream.init_programs({upstream.IPTABLES: f"{INIT} istio-iptables"})
    results = interleaved({"nothing": lambda _: Command(["true"])} | programs, 1)
    assert list(results) == ["nothing", "Istio's init program, iptables", "Istio's init program, nftables"]
    assert all(results[name].cpu > results["nothing"].cpu for name in programs)  # also on a machine with other work
    failing = upstream.init_programs({upstream.IPTABLES: f"{INIT} --no-such-flag"})
    with pytest.raises(SystemExit, match="unknown flag --no-such-flag"):
        interleaved(failing, 1)


def test_upstreams_plugin_is_called_as_a_runtime_calls_it(tmp_path: Path) -> None:
    prev_result = {"cniVersion": "1.0.0", "ips": [{"address": "10.77.0.2/24"}]}

    def own(_: Namespace) -> Command:
        stdin = json.dumps({"type": "capture-cni", "prevResult": prev_result})
        return Command(["capture-cni"], stdin, {"CNI_COMMAND": "ADD"}, inside=False)

    made = upstream.plugins(own, tmp_path / "istio-cni-kubeconfig", {upstream.CNI: "/istio/istio-cni"})
    namespace: Namespace = None  # type: ignore[assignment]  # what is called with it does not look
    for native, call in zip((False, True), made.values(), strict=True):
        command = call(namespace)
        assert (command.words, command.environment, command.inside) == (
            ["/istio/istio-cni"],
            {"CNI_COMMAND": "ADD"},
            False,
        )
        entry = json.loads(command.stdin)
        assert (entry["type"], entry["native_nftables"]) == ("istio-cni", native)
        assert (entry["cni_agent_run_dir"], entry["prevResult"]) == (str(tmp_path), prev_result)


def test_without_variables_nothing_of_upstream_is_timed(tmp_path: Path) -> None:
    assert upstream.init_programs({}) == upstream.plugins(lambda _: Command(["true"]), tmp_path, {}) == {}
