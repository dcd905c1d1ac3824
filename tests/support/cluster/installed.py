"""A Kubernetes node with the agent on it, installed as a person would."""

from pathlib import Path

from support.cluster import builds
from support.cluster.node import KubernetesNode

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = "istio-capture"


class Cluster(KubernetesNode):
    """A node with the agent."""

    kind = ""
    method = "chart"
    """The way of its installation: ``chart`` or ``manifest``."""

    def helm(self, *arguments: str, check: bool = True) -> str:
        """Run helm as the cluster's administrator."""
        helm = builds.find("helm")
        assert helm
        return self.run([helm, f"--kubeconfig={self.disk}/pki/admin.json", *arguments], check=check, timeout=300)

    def install(self, *values: str) -> None:
        """Install or upgrade the chart, and wait until the agent is ready."""
        # Both families are captured here for any mesh, so that each has its row in the report.
        fixed = ("image.pullPolicy=Never", "cni.ipFamilies=both")
        settings = [word for value in (*fixed, *values) for word in ("--set", value)]
        self.helm(
            "upgrade", "--install", "istio-capture", f"{ROOT}/deploy/chart", "-n", NAMESPACE, "--create-namespace",
            *settings, "--wait", "--timeout", "120s",
        )  # fmt: skip
        self._wait("the agent of before to end", self._is_one_agent)

    def install_manifest(self) -> None:
        """Apply the plain manifest, and wait until the agent is ready."""
        self.kubectl("apply", "-f", f"{ROOT}/deploy/istio-capture.yaml")
        self.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/capture-agent", "--timeout=120s")

    def _is_one_agent(self) -> None:
        agents = self.get("-n", NAMESPACE, "pods", "-l", "app=capture-agent")["items"]
        assert len(agents) == 1, [each["metadata"]["name"] for each in agents]

    def kubectl_capture(self, *arguments: str) -> str:
        """Run ``kubectl capture`` as the administrator."""
        kubectl = builds.find("kubectl")
        assert kubectl
        return self.run(
            ["env", f"PATH={kubectl.parent}:{ROOT}/.venv/bin:/usr/bin:/bin", f"KUBECONFIG={self.disk}/pki/admin.json",
             "kubectl", "capture", *arguments], check=False,
        )  # fmt: skip

    def in_agent(self, *command: str, check: bool = True) -> str:
        """Run a command in the agent's pod."""
        return self.kubectl("-n", NAMESPACE, "exec", "daemonset/capture-agent", "--", *command, check=check)
