"""Real container runtimes on a node of their own, with the plugin last in the chain of a bridge network.

Settings that have reasons are commented; they are also right on ordinary machines.
"""

import fcntl
import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cni
from pytest_netns import NamespaceFactory, require
from support.runtimes.cri_client import CriClient, compile_messages
from support.runtimes.networks import bridge, capture, network
from support.runtimes.node import Node
from support.runtimes.oci_image import write_image

ROOT = Path(cni.__file__).parents[1]
IMAGE = "capture.test/waiting:1"
PLUGIN_DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
"""Where Debian, Kubernetes and Fedora put the reference plugins."""

PLUGIN = """\
#!{python} -IS
import sys

sys.path.insert(0, {root!r})
from cni.__main__ import main

main()
"""

INSTALL = (
    "import json, sys; from cni.install import DesiredConfiguration, install; given = json.load(sys.stdin);"
    " install(given['plugin'], given['bin_dir'], DesiredConfiguration(given['conf_dir'], given['entry']))"
)

CONTAINERD = """\
version = 2
root = "{directory}/containerd/root"
state = "{directory}/containerd/state"
[grpc]
  address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  # Without CAP_SYS_RESOURCE, a lower score than one's own cannot be given to a process.
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{directory}/plugins"
    conf_dir = "{directory}/networks"
    max_conf_num = 1
"""


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with the plugin among the reference plugins, and an image."""
    require(sys.platform == "linux" and os.geteuid() == 0, "container runtimes need Linux and root")
    for program in ("unshare", "nsenter", "catatonit", "ip"):
        require(shutil.which(program), f"the program {program} is missing")
    reference = next((path for path in PLUGIN_DIRECTORIES if Path(path, "bridge").exists()), None)
    require(reference, "the reference CNI plugins are missing (containernetworking-plugins)")
    with NamespaceFactory() as namespaces, Node(namespaces, tmp_path_factory.mktemp("node")) as made:
        python = os.path.realpath(sys.executable)
        root = str(Path(cni.__file__).parents[1])
        made.write("capture-cni", PLUGIN.format(python=python, root=root), mode=0o755)
        made.outside(made.directory / "plugins").mkdir()
        for plugin in glob.glob(f"{reference}/*"):
            made.outside(made.directory / "plugins" / Path(plugin).name).symlink_to(plugin)
        waiting_program = shutil.which("catatonit")
        assert waiting_program is not None
        write_image(made.outside(made.directory / "image.tar"), IMAGE, Path(waiting_program))
        yield made


@pytest.fixture(scope="session")
def cri(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CriClient]:
    """A client of containerd, which runs in the node and calls the plugin for each pod."""
    for program in ("containerd", "ctr", "runc"):
        require(shutil.which(program), f"the program {program} is missing")
    node.write("networks/10-pods.conflist", network("pods", bridge(node.directory, 1)))
    arguments = {
        "plugin": str(node.directory / "capture-cni"),
        "bin_dir": str(node.directory / "plugins"),
        "conf_dir": str(node.directory / "networks"),
        "entry": capture(node.directory),
    }
    node.run([sys.executable, "-c", INSTALL], stdin=json.dumps(arguments))
    settings = CONTAINERD.format(directory=node.directory, image=IMAGE)
    node.start(["containerd", "--config", node.write("containerd.toml", settings)], "containerd.log")
    socket = node.directory / "containerd.sock"
    client = CriClient(node, socket, compile_messages(tmp_path_factory.mktemp("cri")), IMAGE)
    client.call("Version", "Nothing", "Nothing")
    node.run(["ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", node.directory / "image.tar"])
    yield client
    client.close()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the programs as they are now; test processes of one run share it."""
    require(shutil.which("gcc"), "the bundle needs a C compiler (gcc)")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    target = shared / "bundle"
    with open(shared / "bundle.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            command = [sys.executable, str(ROOT / "scripts/bundle/build.py"), "--output", str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            require(done.returncode != 3, f"the bundle cannot be built here: {done.stderr}")
            assert done.returncode == 0, done.stderr
    return target
