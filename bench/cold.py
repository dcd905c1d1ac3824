"""Cold starts: what one pod costs, by each way to write its rules, against what others do.

Each run is a process of its own in a fresh namespace with an address of both families.
"""

from __future__ import annotations

import json
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import upstream
from measure import ROOT, Command, FakeKubernetes, Namespace, Result, interleaved, run

BUNDLE = ROOT / "dist" / "bundle"
PYTHON = f"/usr/bin/python{sysconfig.get_python_version()}"
BARE = "bare interpreter"
DRIVERS = (("nftables", "netlink"), ("iptables", "netlink"))
STATUS = '{"initContainers":["istio-validation"],"containers":["istio-proxy"]}'
POD = {
    "metadata": {"name": "web-0", "annotations": {"sidecar.istio.io/status": STATUS}},
    "spec": {"containers": [{"name": "web"}, {"name": "istio-proxy", "args": ["proxy", "sidecar"]}]},
}

UPSTREAM_SEQUENCE = """
for family in ip ip6; do
  for variant in legacy nft; do
    ${family}tables-$variant-save
    ${family}tables-$variant-save --version
    ${family}tables-$variant -t nat -A INPUT -p 255 -j RETURN
    ${family}tables-$variant -t nat -D INPUT -p 255 -j RETURN
  done
done
iptables-nft-save; ip6tables-nft-save
iptables-nft-restore --noflush <"$1"; ip6tables-nft-restore --noflush <"$2"
iptables-nft-save; ip6tables-nft-save
"""
"""The processes that upstream's program starts for a pod: it looks for the variant to use, then writes and reads."""


def configuration(backend: str, driver: str) -> str:
    """Return the network configuration of a pod that is to be captured."""
    plain = {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "capture-cni",
        "backend": backend,
        "driver": driver,
        "pod_sources": ["runtime"],
        "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"sidecar.istio.io/status": STATUS}},
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": "/run/netns/pod"}],
            "ips": [{"address": "10.77.0.2/24", "interface": 0}, {"address": "fd77::2/64", "interface": 0}],
        },
    }
    return json.dumps(plain)


def plugin(namespace: Namespace, command: str, backend: str, driver: str) -> Command:
    """Return a call of the plugin as a runtime makes it."""
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"bench-{namespace.inode}",
        "CNI_NETNS": namespace.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(BUNDLE),
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=web-0",
    }
    return Command([str(BUNDLE / "capture-cni")], configuration(backend, driver), environment, inside=False)


def rules_of(directory: Path) -> tuple[Path, Path, Path]:
    """Return files with the rules of one pod: nft script, and iptables-restore input of both families."""
    from capture import operations
    from capture.settings.options import BACKEND, DRIVER
    from capture.settings.settings import ExplicitValue, Settings

    def rendered(backend: str, driver: str) -> list[tuple[str, str]]:
        explicit = {BACKEND: ExplicitValue(backend, "bench"), DRIVER: ExplicitValue(driver, "bench")}
        return operations.render(Settings(explicit))

    files = (directory / "rules.nft", directory / "rules.v4", directory / "rules.v6")
    texts = [*rendered("nftables", "netlink"), *rendered("iptables", "restore")]
    for file, (_, text) in zip(files, texts, strict=True):
        file.write_text(text)
    return files


def variants(directory: Path, kubeconfig: Path) -> dict[str, Callable[[Namespace], Command]]:
    """Return everything that is compared."""
    script, ipv4, ipv6 = rules_of(directory)
    sequence = directory / "sequence.sh"
    sequence.write_text(UPSTREAM_SEQUENCE)
    compared: dict[str, Callable[[Namespace], Command]] = {
        BARE: lambda _: Command([PYTHON, "-I", "-S", "-c", "pass"]),
        "nft -f": lambda _: Command(["nft", "-f", str(script)]),
        "iptables-nft-restore, both families": lambda _: Command(
            [
                "sh",
                "-c",
                'iptables-nft-restore --noflush <"$0"; ip6tables-nft-restore --noflush <"$1"',
                str(ipv4),
                str(ipv6),
            ]
        ),
        "upstream's processes": lambda _: Command(["sh", str(sequence), str(ipv4), str(ipv6)]),
    }
    like_own = _cni_call("ADD", *DRIVERS[0])
    compared |= upstream.init_programs() | upstream.plugins(like_own, kubeconfig)
    for backend, driver in DRIVERS:
        compared[f"ADD that queries the API server, {backend} by {driver}"] = _look_up(kubeconfig, backend, driver)
        for command in ("ADD", "CHECK", "DEL"):
            compared[f"{command}, {backend} by {driver}"] = _cni_call(command, backend, driver)
        compared[f"istio-init, {backend} by {driver}"] = _init(backend, driver)
    compared["istio-init, iptables by restore"] = _init("iptables", "restore")
    compared["capture --help"] = lambda _: Command([str(BUNDLE / "capture"), "--help"])
    compared["capture dump"] = _dump
    return compared


def _look_up(kubeconfig: Path, backend: str, driver: str) -> Callable[[Namespace], Command]:
    """Return ADDs that learn of the pod from a server on loopback, over TLS, and not from the runtime."""

    def call(namespace: Namespace) -> Command:
        made = plugin(namespace, "ADD", backend, driver)
        asking = json.loads(made.stdin) | {"pod_sources": ["kubernetes"], "kubeconfig": str(kubeconfig)}
        return replace(made, stdin=json.dumps(asking))

    return call


def _cni_call(command: str, backend: str, driver: str) -> Callable[[Namespace], Command]:
    def call(namespace: Namespace) -> Command:
        made = plugin(namespace, command, backend, driver)
        if command == "ADD":
            return made
        added = plugin(namespace, "ADD", backend, driver)
        return replace(made, before=lambda: run(added))

    return call


def _dump(namespace: Namespace) -> Command:
    added = plugin(namespace, "ADD", "nftables", "netlink")
    return Command([str(BUNDLE / "capture"), "dump"], before=lambda: run(added))


def _init(backend: str, driver: str) -> Callable[[Namespace], Command]:
    words = [str(BUNDLE / "istio-init"), *upstream.INJECTED_ARGUMENTS, "--backend", backend, "--driver", driver]
    return lambda _: Command(words)


SOURCES = {
    "ADD that queries the API server": "API server, on loopback, TLS",
    "ADD by Istio's plugin": "API server, on loopback, TLS",
    "ADD": "the runtime's annotations",
    "CHECK": "the record of ADD",
    "DEL": "none needed",
    "istio-init": "arguments",
    "Istio's init program": "arguments",
}
"""Where a process learns of the pod, by how its name begins."""


def source_of(name: str) -> str:
    """Return where a process learns of the pod; a dash for one that has nothing to do with pods."""
    return next((source for begins, source in SOURCES.items() if name.startswith(begins)), "-")


def measure(rounds: int) -> dict[str, Result]:
    """Return the results of all variants."""
    with tempfile.TemporaryDirectory() as directory, FakeKubernetes() as server:
        server.pods["bench", "web-0"] = POD
        server.accepts("secret" * 150)
        kubeconfig = Path(directory) / "istio-cni-kubeconfig"  # as Istio's plugin calls its own
        kubeconfig.write_text(server.kubeconfig({"token": "secret" * 150}))
        return interleaved(variants(Path(directory), kubeconfig), rounds, "cold starts")
