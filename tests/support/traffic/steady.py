"""Steady traffic for tests: many new TCP connections a second, and who answered them.

    answer(namespace, "outside", 80)                        a server that answers with its label
    load = start_load(pod, ("203.0.113.7", 80), uid=1000)   200 new connections a second
    ...
    load.stop().answered(("203.0.113.7", 80)) -> Counter({"outbound": 1234})

    under_load = UnderLoad(netns)                           a whole pod with that, for ``captures.settings``

Both ends are processes (``steady_process``): what the test does meanwhile keeps neither from its work.
"""

import json
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pytest_netns import Namespace, NamespaceFactory, Process
from support.captures.settings import APP_PORT, INBOUND_PORTS, OUTBOUND_PORTS, OUTSIDE

Destination = tuple[str, int]
PER_SECOND = 200
_PROGRAM = [sys.executable, "-I", "-S", str(Path(__file__).with_name("steady_process.py"))]


def answer(namespace: Namespace, label: str, *ports: int, uid: int = 0, transparent: bool = False) -> Process:
    """Start a server on ports of every address of both families; it answers as the user."""
    words = [label, str(uid), str(int(transparent)), *map(str, ports)]
    return namespace.popen([*_PROGRAM, "answer", *words], ports=ports)


@dataclass(frozen=True)
class Load:
    """A process that makes connections."""

    process: Process

    def stop(self) -> "Counts":
        """End it and return what happened to its connections."""
        self.process._popen.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0, self.process.output()
        return Counts({_split(name): Counter(counts) for name, counts in self._finished().items()})

    def _finished(self) -> dict[str, dict[str, int]]:
        explicit: dict[str, dict[str, int]] = json.loads(self.process.output().splitlines()[-1])
        return explicit


@dataclass(frozen=True)
class Counts:
    """How often each destination was answered by which label, or "refused", "reset", "timed out", "unreachable"."""

    by_destination: dict[Destination, Counter[str]]

    def answered(self, *destinations: Destination) -> Counter[str]:
        """Return the counts of these destinations together; of all, if none is named."""
        return sum((self.by_destination[one] for one in destinations or self.by_destination), Counter())


def start_load(namespace: Namespace, *destinations: Destination, uid: int = 0, per_second: int = PER_SECOND) -> Load:
    """Start to make new connections as a user, to each destination in turn."""
    words = [f"{address}|{port}" for address, port in destinations]
    process = namespace.popen([*_PROGRAM, "connect", str(per_second), *words], uid=uid, reads_everything=True)
    give_up = time.monotonic() + 10
    while "ready" not in process.output():
        assert process.returncode is None, process.output()
        assert time.monotonic() < give_up, "the load does not start"
        time.sleep(0.005)
    return Load(process)


# Counts the packets that begin a connection out of the pod and arrive outside, answered or not.
WITNESS = """
table inet witness {
    counter escaped { }
    chain arriving {
        type filter hook prerouting priority -400;
        iifname "eth0" tcp dport 80 tcp flags & (syn | ack) == syn counter name escaped
    }
}
"""


class UnderLoad:
    """A pod with a proxy and an app, and 200 new connections a second in each direction."""

    def __init__(self, netns: NamespaceFactory) -> None:
        self.pod, self.peer = netns.pod_pair()
        self.peer.own_every_address()
        self.peer.run(["nft", "-f", "-"], stdin=WITNESS)
        answer(self.peer, "outside", 80)
        answer(self.pod, "proxy, outbound", *OUTBOUND_PORTS, uid=1337)
        answer(self.pod, "proxy, inbound", *INBOUND_PORTS, uid=1337, transparent=True)
        answer(self.pod, "app", APP_PORT, uid=1000)
        self._loads: list[Load] = []

    def begin(self) -> None:
        """Start the load, out of the pod and into it."""
        inside = [(address, APP_PORT) for address in (self.pod.ipv4, self.pod.ipv6)]
        self._loads = [start_load(self.pod, *OUTSIDE, uid=1000), start_load(self.peer, *inside)]

    def end(self) -> tuple[Counter[str], Counter[str]]:
        """End the load; return who answered connections out, and connections in."""
        outbound, inbound = (load.stop().answered() for load in self._loads)
        return outbound, inbound

    def escaped(self) -> int:
        """Return how many packets that begin a connection have reached the outside."""
        listed = self.peer.run(["nft", "list", "counter", "inet", "witness", "escaped"]).stdout
        return int(listed.partition("packets")[2].split()[0])


def _split(name: str) -> Destination:
    address, _, port = name.partition("|")
    return address, int(port)
