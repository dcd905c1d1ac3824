"""Where the agent's things are by default."""

import pytest

from cni.agent import options as options_module
from cni.agent.options import Options
from cni.networks import ListChoice


def test_credentials_are_next_to_the_configuration() -> None:
    options = Options("node-1", "", {}, conf_dir="/etc/cni/net.d")
    assert options.credentials == "/etc/cni/istio-capture"
    assert options.kubeconfig == "/etc/cni/istio-capture/kubeconfig"
    assert options.replace(credentials_dir="/elsewhere").kubeconfig == "/elsewhere/kubeconfig"


@pytest.mark.parametrize(
    ("socket", "network", "choice"),
    [
        ("/run/crio/crio.sock", "pods", ListChoice("crio", "pods")),
        ("/run/containerd/containerd.sock", "", ListChoice("containerd", "")),
        ("/run/containerd/containerd.sock", "pods", ListChoice("libcni", "pods")),
        ("", "", ListChoice("containerd", "")),
    ],
)
def test_how_the_runtime_chooses(
    monkeypatch: pytest.MonkeyPatch, socket: str, network: str, choice: ListChoice
) -> None:
    monkeypatch.setattr(options_module, "RUNTIME_SOCKETS", ())
    assert Options("node-1", "", {}, runtime_socket=socket, network=network).choice == choice


def test_the_first_socket_that_is_there_tells_the_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    crio = f"{tmp_path}/crio.sock"
    open(crio, "w").close()
    monkeypatch.setattr(options_module, "RUNTIME_SOCKETS", (f"{tmp_path}/none.sock", crio))
    assert Options("node-1", "", {}).choice == ListChoice("crio", "")


def test_every_usual_socket_is_known_in_the_order_in_which_runtimes_are_detected() -> None:
    """Containerd's own comes last: Docker brings one to a node of k3s, too."""
    assert options_module.RUNTIME_SOCKETS == (
        "/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock",
        "/var/snap/microk8s/common/run/containerd.sock", "/run/containerd/containerd.sock",
    )  # fmt: skip


def test_the_defaults() -> None:
    options = Options("node-1", "", {})
    assert (options.repair_starting, options.repair_running, options.repairs_per_minute) == ("report", "report", 10)
    assert options.service_account == "/var/run/secrets/kubernetes.io/serviceaccount", "where kubelet puts it"
    assert (options.audit, options.taints, options.log_level) == (True, (), "info")
