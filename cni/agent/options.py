"""The options of the agent: a value, made by ``cni.agent.commands`` from flags and environment."""

from __future__ import annotations

import os
from typing import Any

from capture.model.values import Value
from cni.agent_socket import AGENT_SOCKET
from cni.networks import ListChoice
from cni.runtimes import BIN_DIR, CONF_DIR, CONTAINERD_SOCKET, CONTAINERDS, CRIO_SOCKET

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""The directory with the token, the CA and the namespace of a pod's service account."""
CREDENTIALS_FOLDER = "istio-capture"
"""The folder for the plugin's credentials, in the parent of the configuration directory."""
RUNTIME_SOCKETS = tuple(f"/{socket}" for socket in (CRIO_SOCKET, *CONTAINERDS, CONTAINERD_SOCKET))
"""The default sockets of runtimes for CRI, in the order of ``runtimes.detect``."""


class Options(Value):
    """Places on the node, the plugin's part of the network configuration, and what is done about pods."""

    node: str
    """The node's name in the API; empty: the agent does without the API server."""
    plugin: str
    """The executable, or the directory with it and everything that it needs."""
    entry: dict[str, Any]
    """The plugin's entry, without what the agent adds: kubeconfig and sources."""
    bin_dir: str = BIN_DIR
    conf_dir: str = CONF_DIR
    own_config: str = ""
    network: str = ""
    runtime_socket: str = ""
    service_account: str = SERVICE_ACCOUNT
    credentials_dir: str = ""
    api_server: str = ""
    """How the node reaches the API server; empty: as the pod does (KUBERNETES_SERVICE_HOST)."""
    socket: str = AGENT_SOCKET
    daemon_set: str = ""
    """NAMESPACE/NAME of the DaemonSet that runs the agent; when it is gone, the plugin goes, too."""
    metrics_address: str = ""
    """ADDRESS:PORT for Prometheus; empty: none."""
    repair_starting: str = "report"
    repair_running: str = "report"
    repairs_per_minute: int = 10
    taints: tuple[str, ...] = ()
    """Keys of the taints that are removed from this node once pods are captured."""
    audit: bool = True
    """Whether the pods of the node are looked at, where the capabilities for it are there."""
    log_level: str = "info"

    @property
    def choice(self) -> ListChoice:
        """Return how the runtime chooses a network; CRI-O is known by its socket."""
        known = (each for each in RUNTIME_SOCKETS if os.path.exists(each))
        socket = self.runtime_socket or next(known, "")
        if os.path.basename(socket).startswith("crio"):
            return ListChoice("crio", self.network)
        return ListChoice("libcni" if self.network else "containerd", self.network)

    @property
    def credentials(self) -> str:
        """Return the folder that holds kubeconfig, token and CA for the plugin."""
        return self.credentials_dir or os.path.join(os.path.dirname(self.conf_dir), CREDENTIALS_FOLDER)

    @property
    def kubeconfig(self) -> str:
        return os.path.join(self.credentials, "kubeconfig")
