"""A Kubernetes API server of the real project, without a node: etcd and kube-apiserver in a namespace of their own.

``builds.py`` has where the programs are looked for.

    with ApiServer(namespace, directory) as server:
        server.kubectl("get", "pods", stdin="") -> str
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pytest_netns import CommandError, Namespace, require
from support.cluster import builds

GATES = ("--feature-gates=MutatingAdmissionPolicy=true", "--runtime-config=admissionregistration.k8s.io/v1beta1=true")
ADDRESS = "192.0.2.1"
TOKEN = "administrator"  # noqa: S105  # of a server that ends with the test


def path_of(name: str) -> str:
    """Return the path of a program; skip the test if it is not there."""
    found = builds.find(name)
    require(found, f"the program {name} is missing: `make test-cluster` installs or builds it")
    assert found
    return str(found)


class ApiServer:
    """A running API server."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self._namespace = namespace
        self._directory = directory

    def __enter__(self) -> Self:
        directory = self._directory
        programs = [path_of(name) for name in ("etcd", "kube-apiserver", "kubectl")]
        (directory / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        self._namespace.add_address(f"{ADDRESS}/32", "lo")
        etcd = [programs[0], "--data-dir", str(directory / "etcd"), "--unsafe-no-fsync", "--log-level", "error"]
        self._namespace.popen(etcd, ports=[2379], timeout=60)
        self._namespace.run(["openssl", "genrsa", "-out", str(directory / "sa.key"), "2048"])
        self._namespace.popen(
            [
                *(programs[1], "--etcd-servers=http://127.0.0.1:2379", f"--advertise-address={ADDRESS}"),
                *(f"--cert-dir={directory}", f"--token-auth-file={directory / 'tokens.csv'}"),
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",  # no controller makes the accounts here
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={directory / 'sa.key'}",
                f"--service-account-signing-key-file={directory / 'sa.key'}",
                *("--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged", *GATES),
            ],
            ports=[6443],
            timeout=110,
        )
        self._wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        """The processes end with the namespace."""

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + 110
        while True:
            try:
                self.kubectl("get", "--raw", "/readyz")
                self.kubectl("get", "namespace", "kube-system")
            except CommandError:
                assert time.monotonic() < give_up
                time.sleep(0.5)
            else:
                return

    def kubeconfig(self) -> Path:
        """Write a configuration with which kubectl is an administrator, and return its path."""
        path = self._directory / "kubeconfig.json"
        cluster = {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(config))
        return path

    def run(self, command: Sequence[str]) -> str:
        """Return what a program prints that uses that configuration."""
        environment = {"PATH": os.environ["PATH"], "KUBECONFIG": str(self.kubeconfig())}
        return self._namespace.run(command, timeout=60, env=environment).stdout

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Return what kubectl prints as an administrator. CommandError if it fails."""
        command: Sequence[str] = [
            *(path_of("kubectl"), "--server=https://127.0.0.1:6443", "--insecure-skip-tls-verify", f"--token={TOKEN}"),
            *(f"--cache-dir={self._directory / 'kubectl'}", *arguments),
        ]
        return self._namespace.run(command, stdin=stdin, timeout=60, env={"PATH": os.environ["PATH"]}).stdout
