"""What excluded networks cost a connection: connection set-up rate with 0, 10, 1,000 and 10,000 of them.

    client namespace -- veth -- server namespace

The client opens connections as fast as it can, to an address that comes after all of the networks, so each
connection is compared with all of them and then let through. Client and server are small C programs, so that
the rules are what is measured.
"""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from measure import Namespace, NamespaceFactory
from networks import networks

from capture.operations import apply
from capture.settings.options import BACKEND, EXCLUDED_OUTBOUND_NETWORKS, FORCE_IPTABLES_BINARY
from capture.settings.settings import Settings

HERE = Path(__file__).resolve().parent
PORT = 8080
BACKENDS = (("nftables", ""), ("iptables", "nft"), ("iptables", "legacy"))


@dataclass(frozen=True)
class Rate:
    """Connections per second with so many excluded networks, by where the rules live."""

    backend: str
    networks: int
    connections_per_second: float


def measure(counts: tuple[int, ...], seconds: float, rounds: int) -> list[Rate]:
    """Return the rate of each backend with each number of networks: medians of rounds, backends in turn."""
    taken: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch, NamespaceFactory() as namespaces:
        programs = {name: compiled(name, Path(scratch)) for name in ("client", "server")}
        pod, peer = namespaces.pod_pair()
        pod.sysctl("net.ipv4.ip_local_port_range", "1024 65000")
        peer.popen([str(programs["server"]), str(PORT)], ports=[PORT])
        for number in range(rounds):
            for count in random.sample(counts, len(counts)):
                for backend, variant in BACKENDS:
                    program(pod, backend, variant, count)
                    pod.run(["conntrack", "-F"])  # a port that was used before is to be a new connection
                    rate = float(
                        pod.run([str(programs["client"]), peer.ipv4, str(PORT), str(seconds)], timeout=60).stdout
                    )
                    taken.setdefault((f"{backend}-{variant}".rstrip("-"), count), []).append(rate)
            print(f"\rdata path: {number + 1}/{rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return [Rate(backend, count, statistics.median(rates)) for (backend, count), rates in sorted(taken.items())]


def compiled(name: str, directory: Path) -> Path:
    """Return a program compiled from its C source."""
    compiler = shutil.which("cc") or "gcc"
    subprocess.run([compiler, "-O2", str(HERE / "datapath" / f"{name}.c"), "-o", str(directory / name)], check=True)
    return directory / name


def program(pod: Namespace, backend: str, variant: str, count: int) -> None:
    """Exclude so many networks and, after them, the address that is connected to, so that nothing is redirected."""
    excluded = ",".join([*networks(count), "10.77.0.0/24"])
    settings = (
        Settings({}).with_option(EXCLUDED_OUTBOUND_NETWORKS, excluded, "bench").with_option(BACKEND, backend, "bench")
    )
    if variant:
        settings = settings.with_option(FORCE_IPTABLES_BINARY, variant, "bench")
    pod.call(apply, settings)  # as a library: so many do not fit into a variable of the environment
