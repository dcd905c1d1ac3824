"""A node full of pods without a kubelet: namespaces with rules and listeners, objects in the API, a runtime over CRI.

    python crowd.py KUBECONFIG SOCKET NODE COUNT       on the node, as root; then, a line each on standard input:
    churn SECONDS                                      each second the oldest pod goes and a new one comes

It prints ``ready`` when all pods are there, and ``done`` after each line. What costs a kubelet and containerd minutes
of two cores (500 pods) is made here in seconds; all that the agent sees of a pod is as on a real node.
"""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
from concurrent import futures
from typing import Any

import grpc
from lightkube import ApiError, Client, KubeConfig
from lightkube.generic_resource import create_namespaced_resource

from capture import apply, make_settings
from capture.system.netns import InNamespace
from cni.agent import protobuf

POD = create_namespaced_resource("", "v1", "Pod", "pods")
PROXY = 1337
PORTS = (15001, 15006)
CRI = "runtime.v1.RuntimeService"
LABEL_NAME = "io.kubernetes.pod.name"


class Sandbox:
    """A network namespace with a veth pair to the node, our rules, and a proxy's listeners."""

    def __init__(self, name: str, uid: str, number: int) -> None:
        self.name, self.uid, self.number = name, uid, number
        self.id = f"{number:064x}"
        self.created = time.time_ns()
        self.path = f"/run/netns/{name}"
        self._sockets: list[socket.socket] = []
        self._make_namespace()
        apply(make_settings(profile="current"), self.path)

    def _make_namespace(self) -> None:
        on_node = [
            f"netns add {self.name}",
            f"link add v{self.number} type veth peer name eth0 netns {self.name}",
            f"link set v{self.number} up",
        ]
        high, low = divmod(self.number, 250)
        in_pod = [
            "link set lo up",
            "link set eth0 up",
            f"addr add 10.244.{high}.{low + 1}/16 dev eth0",
            f"addr add fd00:244::{self.number:x}/64 dev eth0 nodad",
            "route add default dev eth0",
        ]
        ip("-batch", "-", stdin="\n".join(on_node))
        ip("-n", self.name, "-batch", "-", stdin="\n".join(in_pod))

    def listen(self) -> None:
        """Let the proxy listen."""
        with InNamespace(self.path):
            os.seteuid(PROXY)
            try:
                self._sockets = [
                    socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in PORTS
                ]
            finally:
                os.seteuid(0)

    def end(self) -> None:
        """Take everything away."""
        for each in self._sockets:
            each.close()
        ip("netns", "del", self.name)


class Crowd:
    """The pods, in the order in which they came."""

    def __init__(self, kubeconfig: str, node: str) -> None:
        self.client = Client(KubeConfig.from_file(kubeconfig).get())
        self.node = node
        self.sandboxes: dict[str, Sandbox] = {}
        self._last = 0

    def add(self) -> Sandbox:
        """Make a pod as an API server, a kubelet, and a runtime do; it is not ready yet."""
        self._last += 1
        name = f"crowd-{self._last}"
        made = self.client.create(POD.from_dict(pod_object(name, self.node)), namespace="default")
        sandbox = Sandbox(name, str(made.metadata.uid), self._last)
        self.sandboxes[sandbox.id] = sandbox
        self.announce(sandbox, ready=False)
        return sandbox

    def become_ready(self, sandbox: Sandbox) -> None:
        """Let the proxy listen, and the pod be ready."""
        sandbox.listen()
        self.announce(sandbox, ready=True)

    def announce(self, sandbox: Sandbox, *, ready: bool) -> None:
        """Publish the status that a kubelet writes."""
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:00Z"}
        status: Any = {"status": {"phase": "Running" if ready else "Pending", "conditions": [condition]}}
        self.client.patch(POD.Status, sandbox.name, status, namespace="default")

    def remove_oldest(self) -> None:
        """Let a pod end: first marked as deleted, then gone."""
        sandbox = next(iter(self.sandboxes.values()))
        self.client.delete(POD, sandbox.name, namespace="default", grace_period=30)
        del self.sandboxes[sandbox.id]
        sandbox.end()
        with contextlib.suppress(ApiError):
            self.client.delete(POD, sandbox.name, namespace="default", grace_period=0)

    def churn(self, seconds: float) -> None:
        """Exchange one pod each second."""
        started = time.monotonic()
        young: Sandbox | None = None
        for turn in range(int(seconds)):
            time.sleep(max(0, started + turn - time.monotonic()))
            if young is not None:
                self.become_ready(young)
            self.remove_oldest()
            young = self.add()
        if young is not None:
            self.become_ready(young)


def ip(*words: str, stdin: str = "") -> None:
    """Let iproute2 do something."""
    subprocess.run(["ip", *words], input=stdin, text=True, check=True)


def pod_object(name: str, node: str) -> dict[str, Any]:
    """Return a pod as injection makes it, of the usual size: 7 kB."""
    environment = [
        {"name": f"ISTIO_META_{number}", "value": f"a value of the mesh, number {number}"} for number in range(60)
    ]
    containers = [
        {"name": "app", "image": "app:1", "env": environment[:20]},
        {"name": "istio-proxy", "image": "proxy:1", "args": ["proxy", "sidecar"], "env": environment,
         "securityContext": {"runAsUser": PROXY, "runAsGroup": PROXY}},
    ]  # fmt: skip
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": "crowd"},
            "annotations": {"sidecar.istio.io/status": json.dumps({"containers": ["istio-proxy"]}), "note": "x" * 1000},
        },
        "spec": {
            "nodeName": node,
            "containers": containers,
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
        },
    }


# --- the runtime -------------------------------------------------------------------------------------------------


class Runtime(grpc.GenericRpcHandler):  # type: ignore[misc]  # it comes without type information
    """Answers the agent's requests like containerd."""

    def __init__(self, sandboxes: dict[str, Sandbox]) -> None:
        self._sandboxes = sandboxes
        self._answers = {
            "Status": self._status, "ListPodSandbox": self._list, "PodSandboxStatus": self._status_of,
        }  # fmt: skip

    def service(self, call: Any) -> Any:
        """Return who answers a call."""
        answer = self._answers.get(call.method.rpartition("/")[2])
        return answer and grpc.unary_unary_rpc_method_handler(lambda request, _context: answer(request))

    @staticmethod
    def _status(_request: bytes) -> bytes:
        return b""

    def _list(self, request: bytes) -> bytes:
        filters = next(iter(protobuf.submessages(request, 1)), b"")
        name = protobuf.text_map(filters, 3).get(LABEL_NAME)
        return b"".join(
            protobuf.message(f1=_listed(each)) for each in list(self._sandboxes.values()) if name in (None, each.name)
        )

    def _status_of(self, request: bytes) -> bytes:
        sandbox = self._sandboxes[protobuf.text_field(request, 1)]
        namespaces = [{"type": "pid"}, {"type": "network", "path": sandbox.path}]
        info = json.dumps({"runtimeSpec": {"linux": {"namespaces": namespaces}}, "padding": "x" * 12000})
        return protobuf.message(f2=protobuf.message(f1="info", f2=info))


def _listed(sandbox: Sandbox) -> bytes:
    metadata = protobuf.message(f1=sandbox.name, f2=sandbox.uid, f3="default")
    labels = {"app": "crowd", LABEL_NAME: sandbox.name, "io.kubernetes.pod.uid": sandbox.uid}
    entries = b"".join(protobuf.message(f5=protobuf.message(f1=key, f2=value)) for key, value in labels.items())
    return (
        protobuf.message(f1=sandbox.id, f2=metadata)
        + entries
        + protobuf.message(f6=protobuf.message(f1="x", f2="y" * 500))
    )


def serve(path: str, sandboxes: dict[str, Sandbox]) -> grpc.Server:
    """Listen at ``path``."""
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Runtime(sandboxes),))
    server.add_insecure_port(f"unix://{path}")
    server.start()
    return server


def main(kubeconfig: str, path: str, node: str, count: str) -> None:
    """Make the crowd and obey standard input."""
    hardest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hardest, hardest))
    crowd = Crowd(kubeconfig, node)
    for _ in range(int(count)):
        crowd.become_ready(crowd.add())
    server = serve(path, crowd.sandboxes)
    print("ready", flush=True)  # noqa: T201  # the test waits for it
    for line in sys.stdin:
        verb, _, argument = line.partition(" ")
        if verb == "churn":
            crowd.churn(float(argument))
        print("done", flush=True)  # noqa: T201
    server.stop(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
