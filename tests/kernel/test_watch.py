"""``capture watch``: traffic makes the right edges count, and the terminal is left as it was."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from capture import operations
from capture.analysis.flow import Edge
from capture.cli.watch import take_snapshot
from capture.model.addresses import FAMILIES
from capture.settings.options import BACKEND, INTERCEPTION_MODE
from pytest_netns import PodPair
from support.captures.settings import Texts, settings
from support.processes.on_terminal import Terminal

PROGRAM = Path(sys.executable).with_name("capture")
FOREIGN = "table ip other { chain first { type nat hook output priority -150; tcp dport 8888 counter accept; }; }"


def counts(pair: PodPair) -> dict[tuple[str, str], int]:
    """Return how many packets each edge has counted, by where it leads and its reason."""
    found: dict[tuple[str, str], int] = {}

    def add(edges: tuple[Edge, ...]) -> None:
        for edge in edges:
            if edge.packets:
                found[edge.to, edge.text] = edge.packets
            add(edge.below)

    for flow in take_snapshot(pair.pod.path, FAMILIES).flows:
        add(flow.tables)
    return found


def capture(pair: PodPair, *texts: Texts) -> None:
    operations.apply(settings(*texts), pair.pod.path)
    pair.peer.own_every_address()


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_traffic_makes_the_right_edges_count(pod_pair: PodPair, backend: str) -> None:
    pod, peer = pod_pair
    capture(pod_pair, {BACKEND: backend})
    pod.run(["nft", FOREIGN])
    before = counts(pod_pair)
    for address in ("203.0.113.7", "2001:db8::7"):
        for _ in range(3):
            pod.client(uid=1000).connect(address, 80)
        for _ in range(2):
            pod.client(uid=1337).connect(address, 80)
    for _ in range(4):
        peer.client().connect(pod.ipv4, 8080)
    peer.client().connect(pod.ipv4, 22)
    pod.client(uid=1000).connect("203.0.113.7", 8888)

    now = counts(pod_pair)
    change = {edge: now[edge] - before.get(edge, 0) for edge in now if now[edge] != before.get(edge)}
    rule = "meta l4proto tcp tcp dport 8888 accept"
    expected = {
        ("foreign: goes on", f"rule 1: {rule}"): 1,
        ("ISTIO-OUTPUT", "outbound connections"): 11,
        ("proxy :15001", "all other outbound connections"): 7,
        ("direct", "the proxy itself goes out; anything else would be a loop"): 4,
        ("ISTIO-INBOUND", "inbound connections"): 5,
        ("proxy :15006", "all other inbound connections"): 4,
        ("direct", "ssh is left alone"): 1,
    }
    assert {edge: number for edge, number in change.items() if edge != ("direct", "policy ACCEPT")} == expected


def test_watch_counts_connections_of_a_transparent_proxy(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    capture(pod_pair, {INTERCEPTION_MODE: "TPROXY"})
    for _ in range(3):
        peer.client().connect(pod.ipv4, 8080, timeout=0.01)

    assert counts(pod_pair)["proxy :15006", "a new connection"] == 3


def test_the_live_drawing_counts_resizes_and_leaves_the_terminal_as_it_was(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    capture(pod_pair)
    # In the background of a script, interrupts are ignored (sh(1), asynchronous lists), and children inherit that.
    own_interrupt = ["env", "--default-signal=INT"]
    command = [*own_interrupt, str(PROGRAM), "watch", "--netns", pod.path, "--interval", "0.2"]
    with Terminal(command, columns=80, rows=30) as terminal:
        settings_before = terminal.settings()
        drawn = terminal.read_until("nat sees the first packet")
        assert max(map(len, plain(drawn).splitlines())) <= 80
        for _ in range(7):
            pod.client(uid=1000).connect("203.0.113.7", 80)
        terminal.read_until("all other outbound connections               7", len(terminal.text))
        begin = len(terminal.text)
        terminal.resize(120, 12)
        terminal.read_until("more lines: a taller terminal shows them", begin)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(5) == 130
        while terminal.read():
            pass
        # What would stay if it were killed: alternate screen, hidden cursor, any mode (ECMA-48 SM and RM, DECSET).
        assert set(re.findall(r"\033\[([^A-Za-z]*[A-Za-z])", terminal.text)) <= {"H", "J", "K", "0m", "1m", "32m"}
        assert terminal.settings() == settings_before


def plain(text: str) -> str:
    return re.sub(r"\033\[[^A-Za-z]*[A-Za-z]", "", text)


def test_the_picture_is_svg_with_the_same_edges(pod_pair: PodPair) -> None:
    capture(pod_pair)
    pod_pair.pod.run(["iptables-nft", "-t", "nat", "-I", "OUTPUT", "-d", "10.9.9.9", "-j", "ACCEPT"])
    command = [str(PROGRAM), "watch", "--netns", pod_pair.pod.path, "--once", "--interval", "0.1"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    drawn = subprocess.run([*command, "--format", "svg"], capture_output=True, text=True, check=True).stdout

    texts = {element.text or "" for element in ET.fromstring(drawn).iter() if element.text}  # noqa: S314  # our own output
    edges = re.findall(r"[├└]▶ (.*?)(?:: (.*?))?(?: \(IPv\d only\))?(?:  +\d.*)?$", lines, re.MULTILINE)
    assert len(edges) > 15
    assert "rule 1: -d 10.9.9.9/32 -j ACCEPT" in texts
    for to, text in edges:
        shown = f"{to}: {text}" if text else to
        assert any(shown.startswith(text) for text in texts), shown
