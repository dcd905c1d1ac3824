"""A node that is itself a container is refused by evidence, and a pod that looks a little like one is not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CAPTURE = Path(sys.executable).with_name("capture")
OWN = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc"]
IS_AWAY = 'until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done'
START = 'mount -t tmpfs none /run; mkdir /run/netns; ip link set lo up; "$@"'


def in_container(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script as process 1 of a container with its own network namespace."""
    words = [*OWN, "bash", "-euc", START.replace('"$@"', script), "bash", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_a_kubelet_in_the_namespace(tmp_path: Path) -> None:
    kubelet = tmp_path / "kubelet"
    shutil.copy("/bin/sleep", kubelet)
    script = '"$2" 100 & sleep 0.2; "$1" {}'
    for command in ("apply", "clean"):
        done = in_container(script.format(command), str(CAPTURE), str(kubelet))
        assert done.returncode == 2
        assert "this network namespace is that of a node, since kubelet (process " in done.stderr
    assert in_container(script.format("apply --allow-host"), str(CAPTURE), str(kubelet)).returncode == 0


def test_a_kubelet_that_is_seen_but_runs_elsewhere(tmp_path: Path) -> None:
    """As a container sees it that shares the node's processes (hostPID)."""
    kubelet = tmp_path / "kubelet"
    shutil.copy("/bin/sleep", kubelet)
    done = in_container('"$2" 100 & sleep 0.2; unshare --net "$1" apply', str(CAPTURE), str(kubelet))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pods", [0, 1])
def test_named_pods_are_evidence_of_a_node(pods: int) -> None:
    names = "".join(f"ip netns add pod-{number}; " for number in range(pods))
    done = in_container(names + '"$1" apply', str(CAPTURE))
    assert done.returncode == (2 if pods else 0), done.stderr
    assert ("other network namespaces are named in /run/netns: pod-0" in done.stderr) == bool(pods)


def test_a_pod_with_a_name_among_others() -> None:
    done = in_container('ip netns add other; ip netns add pod; ip netns exec pod "$1" apply', str(CAPTURE))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pods", [1, 3])
def test_pods_that_hang_on_the_namespace(pods: int) -> None:
    links = "".join(
        f"unshare --net sleep 100 & {IS_AWAY}; ip link add type veth peer name eth0 netns $!; " for _ in range(pods)
    )
    done = in_container(links + '"$1" apply', str(CAPTURE))
    assert done.returncode == (2 if pods == 3 else 0), done.stderr
    assert ("its interfaces lead to 3 other network namespaces" in done.stderr) == (pods == 3)
