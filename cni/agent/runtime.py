"""Reads from the container runtime over CRI the network configuration that it has loaded, and the pods that it runs.

A file in the right directory is no proof, since containerd and CRI-O choose by different rules; the runtime's answer
is. Numbers of fields are those of kubernetes/cri-api, runtime/v1/api.proto.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from capture.model.json_text import JsonError, decode_json
from capture.model.values import Value
from cni.agent import protobuf
from cni.agent.grpc_call import CallError, call

T = TypeVar("T")

CRI_TIMEOUT = 5.0
SANDBOX_READY = 0
SERVICE = "/runtime.v1.RuntimeService/"
POD_NAME, POD_NAMESPACE = "io.kubernetes.pod.name", "io.kubernetes.pod.namespace"
"""Labels that kubelet gives to each sandbox (k8s.io/kubelet, pkg/types/labels.go)."""


class RuntimeSilentError(OSError):
    """The runtime does not answer, or not as one; the message has the reason."""


class RuntimeAnswerError(RuntimeSilentError):
    """The runtime answers, and not to what was requested."""


class LoadedNetwork(Value):
    """The network configuration that a runtime has loaded."""

    plugins: tuple[str, ...]
    """Types of the plugins of the pods' network, in order; empty if the runtime has none."""
    network: str
    conf_dir: str
    bin_dirs: tuple[str, ...]


class Sandbox(Value):
    """A pod that the runtime runs."""

    id: str
    namespace: str
    name: str
    uid: str
    created: int
    """Nanoseconds since the epoch."""


class RuntimeClient:
    """The runtime that listens at ``socket``. For all threads."""

    def __init__(self, socket: str) -> None:
        self.socket = socket

    def loaded(self) -> LoadedNetwork | None:
        """Return what is loaded; None if this runtime does not report it (CRI-O). Raises RuntimeSilentError."""
        return self._call("Status", protobuf.message(f1=True), _loaded_network)

    def sandboxes(self, namespace: str = "", name: str = "") -> list[Sandbox]:
        """Return the pods that run, or what runs of one pod. Raises RuntimeSilentError."""
        labels = {POD_NAMESPACE: namespace, POD_NAME: name} if name else {}
        label_filter = b"".join(
            protobuf.message(f3=protobuf.message(f1=key, f2=value)) for key, value in labels.items()
        )
        request = protobuf.message(f1=label_filter) if label_filter else b""
        return self._call("ListPodSandbox", request, _running_sandboxes)

    def network_namespace(self, sandbox_id: str) -> str:
        """Return the path of a pod's network namespace; "" for a pod of the host's. Raises RuntimeSilentError."""
        return self._call("PodSandboxStatus", protobuf.message(f1=sandbox_id, f2=True), _namespace_path)

    def _call(self, method: str, request: bytes, decode: Callable[[bytes], T]) -> T:
        try:
            return decode(call(self.socket, SERVICE + method, request, CRI_TIMEOUT))
        except CallError as error:
            is_silent = error.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
            raised = RuntimeSilentError if is_silent else RuntimeAnswerError
            raise raised(f"{self.socket}: {method}: {error.code}: {error.details}") from None
        except (protobuf.MessageError, JsonError, KeyError, TypeError, AttributeError) as error:
            raise RuntimeAnswerError(f"{self.socket}: {method}: its answer is not understood: {error!r}") from None


def find_runtime(socket: str, candidates: tuple[str, ...]) -> RuntimeClient | None:
    """Return the runtime at ``socket``, or, if that is not given, at the first of the candidates that is there."""
    path = socket or next((candidate for candidate in candidates if os.path.exists(candidate)), "")
    return RuntimeClient(path) if path else None


def _loaded_network(answer: bytes) -> LoadedNetwork | None:
    """Return the content of containerd's ``cniconfig`` (go-cni, ConfigResult); None without one."""
    text = protobuf.text_map(answer, 2).get("cniconfig")
    if not text:
        return None
    plain: dict[str, Any] = decode_json(text)
    networks = [network["Config"] for network in plain.get("Networks") or [] if network.get("IFName") != "lo"]
    config = networks[0] if networks else {}
    return LoadedNetwork(
        plugins=tuple(plugin["Network"]["type"] for plugin in config.get("Plugins") or []),
        network=str(config.get("Name", "")),
        conf_dir=str(plain.get("PluginConfDir", "")),
        bin_dirs=tuple(plain.get("PluginDirs") or ()),
    )


def _namespace_path(answer: bytes) -> str:
    info: Any = decode_json(protobuf.text_map(answer, 2).get("info", "{}"))
    namespaces = info["runtimeSpec"]["linux"]["namespaces"]
    return next((str(each.get("path", "")) for each in namespaces if each.get("type") == "network"), "")


def _running_sandboxes(answer: bytes) -> list[Sandbox]:
    listed = protobuf.submessages(answer, 1)
    return [_decoded_sandbox(item) for item in listed if protobuf.integer_field(item, 3) == SANDBOX_READY]


def _decoded_sandbox(item: bytes) -> Sandbox:
    metadata = next(iter(protobuf.submessages(item, 2)), b"")
    return Sandbox(
        id=protobuf.text_field(item, 1),
        namespace=protobuf.text_field(metadata, 3),
        name=protobuf.text_field(metadata, 1),
        uid=protobuf.text_field(metadata, 2),
        created=protobuf.integer_field(item, 4),
    )
