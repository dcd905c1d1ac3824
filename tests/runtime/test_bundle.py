"""The bundle in a root file system that holds nothing else: no interpreter, no C library, no shell, no tools."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pytest_netns import NamespaceFactory, Pod
from support.processes.private_mounts import OWN_MOUNTS
from support.runtimes.cni_calls import ENVIRON, INJECTED, configuration

ENTER = 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"'
"""In a mount namespace of its own: /proc, which every node has, and the new root."""

LISTINGS = {"nftables": ["nft", "list", "ruleset"], "iptables": ["iptables-nft-save"]}


@pytest.fixture(scope="module")
def root(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with the bundle in /opt/cni/bin, and an empty directory for /proc."""
    made = tmp_path_factory.mktemp("root")
    (made / "proc").mkdir()
    shutil.copytree(bundle, made / "opt/cni/bin", symlinks=True)
    return made


def run(root: Path, *words: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the bundle there."""
    return subprocess.run(
        [*OWN_MOUNTS, "sh", "-c", ENTER, str(root), *words],
        input=stdin,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def call(root: Path, command: str, pod: Pod, backend: str) -> subprocess.CompletedProcess[str]:
    """Call the plugin as a runtime does."""
    explicit = json.dumps(configuration(INJECTED, backend=backend))
    environ = ENVIRON | {"CNI_COMMAND": command, "CNI_NETNS": pod.path, "CNI_CONTAINERID": f"bundle-{pod.inode}"}
    return run(root, "/opt/cni/bin/capture-cni", stdin=explicit, **environ)


@pytest.mark.parametrize("backend", LISTINGS)
def test_a_pod_is_captured_checked_and_let_go(root: Path, netns: NamespaceFactory, backend: str) -> None:
    pod = netns.pod()

    added = call(root, "ADD", pod, backend)

    assert (added.returncode, added.stderr) == (0, "")
    assert json.loads(added.stdout) == configuration()["prevResult"]
    assert "15006" in pod.run(LISTINGS[backend]).stdout
    checked = call(root, "CHECK", pod, backend)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    verified = run(root, "/opt/cni/bin/capture", "verify", "--netns", pod.path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    pod.run(["nft", "flush", "ruleset"])
    missed = call(root, "CHECK", pod, backend)
    assert missed.returncode == 1
    assert json.loads(missed.stdout)["msg"]
    gone = call(root, "DEL", pod, backend)
    assert (gone.returncode, gone.stdout, gone.stderr) == (0, "", "")
    assert list((root / "run/istio-capture").glob("*.json")) == []


@pytest.mark.parametrize("program", ["capture", "istio-init", "capture-cni"])
def test_each_program_says_what_it_is(root: Path, program: str) -> None:
    words = [f"/opt/cni/bin/{program}"]
    if program == "capture-cni":
        done = run(root, *words, CNI_COMMAND="VERSION")
        assert "1.0.0" in json.loads(done.stdout)["supportedVersions"]
    else:
        done = run(root, *words, "--help")
        assert done.stdout.startswith(f"Usage: {program}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--plugin", "/opt/cni/bin/capture-cni"]], ids=["itself", "a file"])
def test_the_bundle_installs_itself_whole(root: Path, arguments: list[str]) -> None:
    node = Path(tempfile.mkdtemp(dir=root))
    for name in ("bin", "net.d"):
        (node / name).mkdir()
    networks = node / "net.d" / "10-main.conflist"
    networks.write_text(json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}))
    directories = [f"--bin-dir=/{node.name}/bin", f"--conf-dir=/{node.name}/net.d"]

    done = run(root, "/opt/cni/bin/capture", "cni", "install", *directories, *arguments)

    assert done.returncode == 0, done.stderr
    assert json.loads(networks.read_text())["plugins"][1]["type"] == "capture-cni"
    answer = run(root, f"/{node.name}/bin/capture-cni", CNI_COMMAND="VERSION")
    assert "1.0.0" in json.loads(answer.stdout)["supportedVersions"]


def test_an_error_is_the_same_as_elsewhere(root: Path) -> None:
    done = run(root, "/opt/cni/bin/capture", "verify", "--netns", "/does/not/exist")

    assert done.returncode != 0
    assert "/does/not/exist" in done.stderr
    assert "Traceback" not in done.stderr
