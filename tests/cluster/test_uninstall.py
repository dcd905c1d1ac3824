"""The agent goes as it came. The last of the tests of a node, by the name of this file."""

import json
import os
from pathlib import Path

from support.cluster.installed import NAMESPACE, ROOT, Cluster
from support.cluster.pods import pod
from support.processes.waiting import wait_until


def test_a_node_that_is_not_chosen_is_uninstalled(cluster: Cluster) -> None:
    """A node that the DaemonSet does not choose any more is uninstalled; one that it chooses again has it back."""

    def choose(pool: str | None) -> None:
        selector = {"spec": {"template": {"spec": {"nodeSelector": {"pool": pool}}}}}
        cluster.kubectl("-n", NAMESPACE, "patch", "daemonset", "capture-agent", "-p", json.dumps(selector))

    choose("others")
    wait_until(lambda: "capture-cni" not in cluster.list_file.read_text(), 40, "the entry stays")
    choose(None)
    wait_until(lambda: "capture-cni" in cluster.list_file.read_text(), 60, "the entry does not come back")
    cluster.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/capture-agent", "--timeout=60s")


def test_an_uninstalled_node_is_as_it_was(cluster: Cluster) -> None:
    """Uninstalled, the node is as it was, and pods that run end cleanly."""
    wait = ["/pause", "-P"]
    cluster.apply(pod("last", pause_proxy=True, command=wait), pod("last-plain", mesh=False, command=wait))
    cluster.kubectl("wait", "pod", "last", "last-plain", "--for=condition=Ready", "--timeout=120s")
    if cluster.method == "chart":
        cluster.helm("uninstall", "istio-capture", "-n", NAMESPACE, "--wait", "--timeout", "280s")
    else:
        cluster.kubectl("-n", NAMESPACE, "delete", "daemonset", "capture-agent", "--cascade=foreground", "--wait")
        cluster.kubectl("delete", "-f", f"{ROOT}/deploy/istio-capture.yaml", "--ignore-not-found", "--wait")
    assert "capture-cni" not in cluster.list_file.read_text()
    assert not (cluster.disk / "etc-cni" / "istio-capture").exists()
    plugin = cluster.disk / "opt-cni" / "bin" / "capture-cni"
    wait_until(lambda: not os.path.lexists(plugin), 20, "the plugin stays", 0.2)
    cluster.kubectl("delete", "pod", "--all", "-A", "--wait", "--timeout=60s", timeout=90)
    left = [path for path in Path(cluster.disk, "opt-cni", "bin").iterdir() if "capture" in path.name]
    assert left == []
