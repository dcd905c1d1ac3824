"""A client for container runtimes over CRI, as kubelet is one: pods, containers, commands in containers.

The messages are those of ``cri.proto``, compiled when the tests run.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from support.runtimes.node import Node

PROTO = Path(__file__).with_name("cri.proto")
TIMEOUT = 60.0


def compile_messages(directory: Path) -> Any:
    """Return the module of the messages, which is written to the directory."""
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO.parent}", f"--python_out={directory}", PROTO],
        check=True,
    )
    spec = importlib.util.spec_from_file_location("cri_pb2", directory / "cri_pb2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class RuntimeRefusedError(Exception):
    """The runtime could not do what was requested; the message is its own."""


@dataclass(frozen=True)
class Execution:
    """How a command in a container ended."""

    stdout: str
    stderr: str
    exit_code: int


class Container:
    """A running container."""

    def __init__(self, client: "CriClient", container_id: str) -> None:
        self._client = client
        self.id = container_id

    def run(self, *command: str, timeout: int = 20) -> Execution:
        """Run a command in the container, as its user."""
        ended = self._client.call(
            "ExecSync", "ExecRequest", "ExecResponse", container_id=self.id, cmd=command, timeout=timeout
        )
        return Execution(ended.stdout.decode(), ended.stderr.decode(), ended.exit_code)


class Sandbox:
    """A pod that the runtime has made."""

    def __init__(self, client: "CriClient", config: Any, sandbox_id: str) -> None:
        self._client = client
        self._config = config
        self.id = sandbox_id

    @property
    def name(self) -> str:
        """The pod's name."""
        name: str = self._config.metadata.name
        return name

    def status(self) -> Any:
        """Return the runtime's status of the pod, and how it was made."""
        return self._client.call(
            "PodSandboxStatus", "PodStatusRequest", "PodStatusResponse", pod_sandbox_id=self.id, verbose=True
        )

    def network_namespace(self) -> str:
        """Return the path of the pod's network namespace, in the node."""
        spec = json.loads(self.status().info["info"])["runtimeSpec"]
        paths = [namespace["path"] for namespace in spec["linux"]["namespaces"] if namespace["type"] == "network"]
        path: str = paths[0]
        return path

    def addresses(self) -> tuple[str, ...]:
        """Return the pod's addresses, one of each family."""
        network = self.status().status.network
        return (network.ip, *[address.ip for address in network.additional_ips])

    def start(
        self,
        name: str,
        command: Iterable[str],
        user: int,
        mounts: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Container:
        """Start a container without any capability; ``mounts`` are directories of the node, to be read."""
        messages = self._client.messages
        security = messages.ContainerSecurity(
            capabilities=messages.Capabilities(drop_capabilities=["ALL"]),
            namespace_options=messages.NamespaceOption(pid=1),
            run_as_user=messages.Number(value=user),
            run_as_group=messages.Number(value=user),
            no_new_privs=True,
        )
        config = messages.ContainerConfig(
            metadata=messages.ContainerMetadata(name=name),
            image=messages.Image(image=self._client.image),
            command=list(command),
            envs=[messages.Variable(key=key, value=value) for key, value in (env or {}).items()],
            mounts=[messages.Mount(container_path=path, host_path=path, readonly=True) for path in mounts],
            log_path=f"{name}.log",
            linux=messages.LinuxContainer(security_context=security),
        )
        made = self._client.call(
            "CreateContainer",
            "CreateContainerRequest",
            "ContainerId",
            pod_sandbox_id=self.id,
            config=config,
            sandbox_config=self._config,
        )
        self._client.call("StartContainer", "ContainerId", "Nothing", container_id=made.container_id)
        return Container(self._client, made.container_id)

    def log_of(self, container: str) -> str:
        """Return what a container has printed."""
        return self._client.node.read(f"pods/{self.name}/{container}.log")

    def stop(self) -> None:
        """Stop the pod: its containers end, and its network is taken down. May be repeated."""
        self._client.call("StopPodSandbox", "PodId", "Nothing", pod_sandbox_id=self.id)

    def remove(self) -> None:
        """Stop the pod and forget it."""
        self.stop()
        self._client.call("RemovePodSandbox", "PodId", "Nothing", pod_sandbox_id=self.id)


class CriClient:
    """A connection to a runtime that listens on a socket of the node."""

    def __init__(self, node: Node, socket: Path, messages: Any, image: str) -> None:
        self.node = node
        self.messages = messages
        self.image = image
        self._channel = grpc.insecure_channel(f"unix://{node.outside(socket)}")

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def call(self, method: str, request: str, response: str, **fields: Any) -> Any:
        """Call a method of the runtime service; RuntimeRefusedError if it fails."""
        call = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(self.messages, response).FromString,
        )
        try:
            return call(getattr(self.messages, request)(**fields), timeout=TIMEOUT, wait_for_ready=True)
        except grpc.RpcError as error:
            raise RuntimeRefusedError(error.details()) from None

    def run_pod(self, name: str, annotations: Mapping[str, str] | None = None, namespace: str = "shop") -> Sandbox:
        """Make a pod, with its network and without containers."""
        config = self.messages.PodConfig(
            metadata=self.messages.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace=namespace),
            hostname=name,
            log_directory=str(self.node.directory / "pods" / name),
            annotations=annotations,
            linux=self.messages.LinuxPod(
                cgroup_parent=f"/{self.node.cgroup}",
                security_context=self.messages.PodSecurity(namespace_options=self.messages.NamespaceOption(pid=1)),
            ),
        )
        made = self.call("RunPodSandbox", "RunPodSandboxRequest", "PodId", config=config)
        return Sandbox(self, config, made.pod_sandbox_id)
