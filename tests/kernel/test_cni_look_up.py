"""A look-up at the API server ends by its deadline, in any network of the node."""

import sys
from pathlib import Path

import cni
from pytest_netns import PodPair
from support.processes.private_mounts import OWN_MOUNTS

ROOT = Path(cni.__file__).parents[1]

SILENT_RESOLVER = """
import socket, time
from cni import kubeconfig, kubernetes
from cni.pod import Identity
from cni.protocol import CniError
resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
resolver.bind(("127.0.0.1", 53))  # it never answers
config = kubeconfig.Kubeconfig("/k", {"server": "https://api.example:6443"})
started = time.monotonic()
try:
    kubernetes.read_pod(config, Identity("shop", "web-0"), timeout=1.0)
except CniError as error:
    print(error.message)
    assert error.code == 11, error.code
assert time.monotonic() - started < 5, "glibc waits 5 seconds for each answer"
"""


def test_a_resolver_that_never_answers_is_not_waited_for(pod_pair: PodPair, tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n")
    mount = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
    done = pod_pair.pod.run(
        [*OWN_MOUNTS, "sh", "-c", mount, "sh", str(resolv), sys.executable, "-c", SILENT_RESOLVER], cwd=ROOT
    )
    assert "its name api.example is not resolved in time" in done.stdout
