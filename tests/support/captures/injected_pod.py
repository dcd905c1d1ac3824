"""A pod as it was injected, run in a namespace: its init containers in order, then its proxy, as kubelet would."""

import sys
import time
from pathlib import Path
from typing import Any

from pytest_netns import Pod, Process
from support.processes.waiting import wait_until
from support.traffic.envoy_proxy import envoy_program
from support.traffic.sidecar_lab import is_ready

VENV = Path(sys.executable).parent


class InjectedPod:
    """Runs what ``capture inject`` put into a pod's template."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.proxy: Process | None = None

    def apply(self, template: dict[str, Any]) -> None:
        """Run the init containers, and start the proxy anew."""
        for container in template["spec"]["initContainers"]:
            context = container["securityContext"]
            if container["name"] == "istio-proxy":
                words = [*container["command"], *container["args"]]
                assert words[0] == "envoy"
                self.start([envoy_program(), *(word.replace("$$(", "$(") for word in words[1:])], context)
            else:
                command = [str(VENV / "istio-init"), *container["args"]]
                self.pod.run(command, uid=context["runAsUser"], gid=context["runAsGroup"], reads_everything=True)

    def start(self, command: list[str], context: dict[str, Any]) -> None:
        """Start the proxy and return when kubelet would call it ready."""
        if self.proxy is not None:
            self.proxy.stop()
        uid, gid = context["runAsUser"], context["runAsGroup"]
        self.proxy = self.pod.popen(command, uid=uid, gid=gid, ports=[15021], timeout=30, reads_everything=True)
        wait_until(lambda: is_ready(self.pod.client(1000)), 20, self.proxy.output)

    def log(self) -> list[str]:
        """Return the access log when it has a line, or after a while."""
        assert self.proxy is not None
        give_up = time.monotonic() + 5
        while True:
            lines = [line for line in self.proxy.output().splitlines() if "[warning]" not in line]
            if lines or time.monotonic() > give_up:
                return lines
            time.sleep(0.05)
