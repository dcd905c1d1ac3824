"""What a node's agent knows and reports, and doing things in a pod's namespace from the node."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

from support.cluster.installed import Cluster
from support.cluster.pods import PYTHON
from support.processes.waiting import wait_until

LISTENING = """
import socket, time
made = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in (15001, 15006)]
time.sleep(1000)
"""

CAPTURE = "/usr/libexec/istio-capture/capture"


def pods(cluster: Cluster) -> list[dict[str, Any]]:
    """Return what the agent knows of the pods of its node."""
    found: list[dict[str, Any]] = first_object(
        cluster.in_agent(CAPTURE, "node", "pods", "--format", "json", check=False)
    )["pods"]
    return found


def first_object(printed: str) -> dict[str, Any]:
    """Return the JSON object with which a text begins, or which comes after other words; {} if there is none."""
    _, brace, rest = printed.partition("{")
    found: dict[str, Any] = json.JSONDecoder().raw_decode(brace + rest)[0] if brace else {}
    return found


def pod_state(cluster: Cluster, name: str) -> dict[str, Any]:
    """Return what it knows of a pod."""
    return next((each for each in pods(cluster) if each["pod"] == f"default/{name}"), {"state": "none"})


def expect_state(cluster: Cluster, name: str, expected: str, seconds: float = 5) -> dict[str, Any]:
    """Wait until the agent knows a pod to be in a state; an exec takes half a second of these."""
    wait_until(lambda: pod_state(cluster, name)["state"] == expected, seconds, lambda: pod_state(cluster, name), 0.1)
    return pod_state(cluster, name)


def expect_event(cluster: Cluster, name: str, reason: str, seconds: float = 10) -> str:
    """Wait for an Event about a pod; return all of them."""
    wait_until(lambda: reason in pod_events(cluster, name), seconds, f"no Event {reason}: {pod_events(cluster, name)}")
    return pod_events(cluster, name)


def pod_events(cluster: Cluster, name: str) -> str:
    """Return the Events about a pod or a node."""
    return cluster.kubectl("get", "events", f"--field-selector=involvedObject.name={name}", "-o", "wide", "-A")


class InPod:
    """Runs programs of the node in the network namespace of a pod, as a root whose user id the pod does not have."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._path = wait_until(lambda: pod_state(cluster, name).get("namespace_path"), 10, f"no namespace of {name}")

    def __call__(self, *command: str, check: bool = True) -> str:
        """Run a program."""
        return self._cluster.run(["nsenter", f"--net={self._path}", *command], check=check)

    def proxy(self, uid: int) -> contextlib.AbstractContextManager[None]:
        """Let a program listen where the proxy should, as a user."""
        return self.background("setpriv", f"--reuid={uid}", "--clear-groups", PYTHON, "-c", LISTENING)

    @contextlib.contextmanager
    def background(self, *command: str) -> Iterator[None]:
        """Run a program until the end of the context."""
        started = subprocess.Popen(self._cluster.command(["nsenter", f"--net={self._path}", *command]))
        try:
            yield
        finally:
            started.kill()
            started.wait()
