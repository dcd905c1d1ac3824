"""podman on a node: its pods, on CNI networks with the plugin last in the chain."""

import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

from pytest_netns import Namespace, require
from support.runtimes.cni_calls import INJECTED
from support.runtimes.networks import PROGRAMS, bridge, capture, network
from support.runtimes.node import Node

IMAGE = "capture.test/waiting:1"

# Without CAP_SYS_RESOURCE no limit can be raised; crun takes no hybrid of control groups v1 and v2.
CONTAINERS = """\
[network]
network_backend = "cni"
cni_plugin_dirs = ["{directory}/plugins", "{directory}"]
network_config_dir = "{directory}/podman-networks"
default_network = "plain"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
infra_image = "{image}"
tmp_dir = "/run/libpod"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{directory}/podman/store"
runroot = "/run/podman"
"""

Podman = Callable[..., subprocess.CompletedProcess[str]]


def podman_in(node: Node) -> Podman:
    """Return what runs podman in a node; the image and networks "plain", "captured" and "refused" are there then."""
    for program in ("podman", "runc", "conmon"):
        require(shutil.which(program), f"the program {program} is missing")
    directory = node.directory
    environ = {
        "CONTAINERS_CONF": str(node.write("containers.conf", CONTAINERS.format(directory=directory, image=IMAGE))),
        "CONTAINERS_STORAGE_CONF": str(node.write("storage.conf", STORAGE.format(directory=directory))),
    }
    captured = {"standalone": {"annotations": INJECTED}}
    refused = {"standalone": {"annotations": INJECTED | {"traffic.sidecar.istio.io/excludeInboundPorts": "ssh"}}}
    for subnet, (name, explicit) in enumerate({"plain": {}, "captured": captured, "refused": refused}.items(), 20):
        conflist = network(name, bridge(directory, subnet), capture(directory, **explicit))
        node.write(f"podman-networks/{name}.conflist", conflist)

    def run_podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return node.run(["podman", *arguments], env=environ, check=check)

    loaded = run_podman("load", "--quiet", "--input", str(directory / "image.tar"), check=False)
    require("cni support is not enabled" not in loaded.stderr, "this podman was built without CNI, for netavark")
    assert loaded.returncode == 0, loaded.stderr
    return run_podman


class PodmanPod:
    """A pod and the containers in it."""

    def __init__(self, node: Node, podman: Podman, name: str, network_name: str) -> None:
        self.node = node
        self.podman = podman
        self.name = name
        cgroup = f"/{node.cgroup}"
        podman("pod", "create", "--name", name, "--network", network_name, "--share", "net", "--cgroup-parent", cgroup)

    def start(self) -> Namespace:
        """Start the pod, and with it the container that holds its namespace; return that namespace."""
        self.podman("pod", "start", self.name)
        infra = json.loads(self.podman("pod", "inspect", self.name).stdout)["InfraContainerID"]
        settings: Any = json.loads(self.podman("inspect", infra).stdout)[0]["NetworkSettings"]
        (of_network,) = settings["Networks"].values()
        self.addresses = (str(of_network["IPAddress"]), str(of_network["GlobalIPv6Address"]))
        return self.node.namespace(settings["SandboxKey"])

    def run(
        self, name: str, user: int, command: list[str], env: dict[str, str] | None = None, *options: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a container in the pod, without any capability."""
        words = ["run", "--pod", self.name, "--name", f"{self.name}-{name}", "--user", f"{user}:{user}"]
        words += ["--cap-drop", "all", "--security-opt", "no-new-privileges", "--entrypoint", "[]", *options]
        for directory in PROGRAMS:
            words += ["--volume", f"{directory}:{directory}:ro"]
        for key, value in (env or {}).items():
            words += ["--env", f"{key}={value}"]
        return self.podman(*words, IMAGE, *command)

    def remove(self) -> None:
        self.podman("pod", "rm", "--force", "--time", "0", self.name)
