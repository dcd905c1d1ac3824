"""What the agent costs on a node with five hundred pods: ten minutes of quiet, and ten with a new pod each second.

The node has a real API server and real network namespaces with rules and listeners, and no kubelet (``crowd.py``): two
cores would be busy with five hundred real pods for longer than that. The agent is the image's, in a control group.
"""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_netns import require
from support.cluster import builds
from support.cluster.agent import first_object
from support.cluster.installed import NAMESPACE, ROOT
from support.cluster.node import KubernetesNode
from support.processes.waiting import wait_until

pytestmark = pytest.mark.long

PODS = int(os.environ.get("CAPTURE_CROWD", "500"))
SECONDS = float(os.environ.get("CAPTURE_CROWD_SECONDS", "600"))
SHORTENED = "" if SECONDS >= 600 else f" in {SECONDS:g} s"
IMAGE = ROOT / "dist" / "node" / "usr" / "libexec"
AGENT, BUNDLE = IMAGE / "istio-capture-agent", IMAGE / "istio-capture"
SOCKET = "/run/crowd.sock"
READY_EVERY, LIVE_EVERY = 20.0, 60.0
"""Seconds between the chart's probes."""


class Crowded(KubernetesNode):
    """The node, its pods, and its agent."""

    def set_up(self) -> None:
        """Start everything, and wait until the agent knows all pods as captured."""
        self.start_without_kubelet()
        self.group = Path("/sys/fs/cgroup/cpuacct", self.cgroup, "agent")
        self.group.mkdir()
        # The rights that the agent has; no pod comes of its DaemonSet here.
        self.kubectl("apply", "-f", f"{ROOT}/deploy/istio-capture.yaml")
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": "default"},
        }
        self.apply(account)
        self._account = self.disk / "account"
        self._account.mkdir()
        token = self.kubectl("-n", NAMESPACE, "create", "token", "capture-agent", "--duration=4h")
        (self._account / "token").write_text(token.strip().splitlines()[-1])
        (self._account / "ca.crt").write_bytes((self.disk / "pki" / "ca.crt").read_bytes())
        (self._account / "namespace").write_text(NAMESPACE)
        python = ROOT / ".venv" / "bin" / "python"
        crowd = ROOT / "tests" / "support" / "cluster" / "crowd.py"
        program = [python, crowd, self.disk / "pki" / "admin.json", SOCKET, "crowded", PODS]
        self.crowd = self.popen(["env", f"PYTHONPATH={ROOT}/tests", *map(str, program)], "crowd")
        self.answer()
        self.popen(self._agent(), "agent", self.group)
        wait_until(lambda: self.captured() == PODS, 240, pause=1)

    def _agent(self) -> list[str]:
        environment = [
            f"PYTHONHOME={AGENT}", f"PYTHONPATH={AGENT}/lib/packages", f"KUBERNETES_SERVICE_HOST={self.api_address}",
            "KUBERNETES_SERVICE_PORT=6443", f"PATH={AGENT}:/usr/sbin:/usr/bin:/sbin:/bin",
        ]  # fmt: skip
        return [
            "env", *environment, f"{AGENT}/python", "-sP", "-m", "capture", "node", "agent", "--node", "crowded",
            "--plugin", str(BUNDLE), "--runtime-socket", SOCKET, "--service-account", str(self._account),
            "--profile", "current", "--metrics-address", "127.0.0.1:15014",
        ]  # fmt: skip

    def popen(self, command: list[str], name: str, group: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a program on the node, in a control group."""
        enter = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group)] if group else []
        with (self.disk / "log" / f"{name}.log").open("ab") as errors:
            output = errors if group else subprocess.PIPE
            whole = [*enter, *self.command(command)]
            started = subprocess.Popen(whole, stdin=subprocess.PIPE, stdout=output, stderr=errors)
        self._processes[name] = started
        return started

    def stop(self) -> None:
        """End everything."""
        pipes = [pipe for process in self._processes.values() for pipe in (process.stdin, process.stdout) if pipe]
        super().stop()
        for pipe in pipes:
            pipe.close()

    def send(self, line: str) -> None:
        """Give the crowd an order."""
        assert self.crowd.stdin
        self.crowd.stdin.write(f"{line}\n".encode())
        self.crowd.stdin.flush()

    def answer(self) -> str:
        """Wait until it is obeyed."""
        assert self.crowd.stdout
        line = self.crowd.stdout.readline().decode().strip()
        assert line, (self.disk / "log" / "crowd.log").read_text()[-2000:]
        return line

    def states(self) -> dict[str, list[str]]:
        shown = self.run([BUNDLE / "capture", "node", "status", "--format", "json"], check=False)
        found: dict[str, list[str]] = first_object(shown).get("pod_states") or {}
        return found

    def captured(self) -> int:
        return len(self.states().get("captured", ()))

    def probe(self, stop: threading.Event) -> None:
        """Run kubelet's probes, as often as it does, in the agent's group."""
        started = time.monotonic()
        for turn in range(10**6):
            if stop.wait(max(0.0, started + turn * READY_EVERY - time.monotonic())):
                return
            kinds = ["--ready", "--live"] if turn * READY_EVERY % LIVE_EVERY == 0 else ["--ready"]
            for kind in kinds:
                self.popen([str(BUNDLE / "capture"), "node", "status", kind], "probe", self.group).communicate()

    def cpu_seconds(self) -> float:
        """Return what the agent's group has used: utime and stime of all its processes, those that ended included."""
        return int((self.group / "cpuacct.usage").read_text()) / 1e9

    def proportional_size(self) -> float:
        """Return the PSS of all processes of the group, in MB."""
        rollups = [
            Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in (self.group / "cgroup.procs").read_text().split()
        ]
        kilobytes = [int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith("Pss:")]
        return sum(kilobytes) / 1000

    def share(self, seconds: float, meanwhile: Callable[[], object]) -> float:
        """Return which part of a core, in percent, the agent and its probes take while something goes on."""
        stop = threading.Event()
        probing = threading.Thread(target=self.probe, args=(stop,))
        probing.start()
        used, started = self.cpu_seconds(), time.monotonic()
        try:
            meanwhile()
            time.sleep(max(0.0, started + seconds - time.monotonic()))
            return 100 * (self.cpu_seconds() - used) / (time.monotonic() - started)
        finally:
            stop.set()
            probing.join()


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowded]:
    """A node with five hundred pods."""
    require(os.geteuid() == 0, "a Kubernetes node needs root")
    for name in ("kube-apiserver", "etcd", "catatonit"):
        require(builds.find(name), f"the program {name} is missing: `make test-cluster` installs or builds it")
    require(AGENT.exists(), "dist/node is missing: `make test-cluster` builds it")
    require(Path("/sys/fs/cgroup/cpuacct").exists(), "the control groups of version 1 count the CPU here")
    node = Crowded(tmp_path_factory.mktemp("crowded"), ("ipv4", "ipv6"))
    try:
        node.set_up()
        yield node
    finally:
        node.stop()
        shutil.rmtree(node.disk, ignore_errors=True)


@pytest.mark.timeout(1800)
def test_quiet_pods_cost_little(crowded: Crowded, record_property: Callable[[str, object], None]) -> None:
    """Five hundred pods, ten minutes without a change: below 1 % of a core and 120 MB (PSS), probes included."""
    time.sleep(min(60.0, SECONDS))
    share, size = crowded.share(SECONDS, lambda: None), crowded.proportional_size()
    record_property("measured", f"{share:.2f} % of a core, {size:.0f} MB{SHORTENED}")
    assert crowded.states().keys() == {"captured"}
    assert (share < 1, size < 120) == (True, True), (share, size)


@pytest.mark.timeout(1800)
def test_exchanged_pods_cost_little(crowded: Crowded, record_property: Callable[[str, object], None]) -> None:
    """Five hundred pods, of which one a second is exchanged for ten minutes: below 2 % of a core, probes included."""

    def churn() -> None:
        crowded.send(f"churn {SECONDS}")
        crowded.answer()

    share, size = crowded.share(SECONDS, churn), crowded.proportional_size()
    record_property("measured", f"{share:.2f} % of a core, {size:.0f} MB{SHORTENED}")
    wait_until(lambda: crowded.captured() == PODS, 30, pause=1)
    assert (share < 2, size < 120) == (True, True), (share, size)
