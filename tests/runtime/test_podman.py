"""podman's pods on a CNI network: no Kubernetes, so the network configuration captures them."""

import json
import sys
from collections.abc import Callable, Iterator

import pytest

from support.runtimes.node import Node
from support.runtimes.podman_pods import IMAGE, Podman, PodmanPod, podman_in
from support.traffic.envoy_bootstrap import INBOUND_PORT, OUTBOUND_PORT, Sidecar
from support.traffic.envoy_proxy import envoy_command
from support.traffic.proxies import Seen, app_command, get, listen_as_proxy

APP_PORT = 8080
SIDECAR = Sidecar(http_ports=(APP_PORT,), log="/dev/null")
"""A container's standard output belongs to root, and Envoy opens it anew."""


@pytest.fixture(scope="module")
def podman(node: Node) -> Podman:
    """Runs podman in the node."""
    return podman_in(node)


@pytest.fixture
def make_pod(node: Node, podman: Podman) -> Iterator[Callable[[str, str], PodmanPod]]:
    """Makes pods, which are removed after the test."""
    made: list[PodmanPod] = []

    def make(name: str, network_name: str = "captured") -> PodmanPod:
        made.append(PodmanPod(node, podman, name, network_name))
        return made[-1]

    yield make
    for pod in made:
        pod.remove()


MakePod = Callable[..., PodmanPod]


@pytest.fixture(scope="module", autouse=True)
def elsewhere(node: Node) -> Iterator[None]:
    """A host outside of all pods, which answers on port 81 of the bridges."""
    listener = node.network.listener(("0.0.0.0", 81), ("::", 81), label="elsewhere", protocols=("tcp",))
    yield
    listener.close()


def test_a_pod_is_captured_before_its_first_container_starts(node: Node, make_pod: MakePod) -> None:
    pod = make_pod("early")
    inside = pod.start()
    listen_as_proxy(inside)
    for here, gateway in zip(pod.addresses, ("10.123.21.1", "fd42:123:21::1"), strict=True):
        assert inside.client(1000).connect(gateway, 81).label == "outbound"
        assert inside.client(1337).connect(gateway, 81).label == "elsewhere"
        assert node.network.client(1000).connect(here, 80).label == "inbound"


def test_connections_in_and_out_pass_a_real_proxy_in_a_pod_without_capabilities(node: Node, make_pod: MakePod) -> None:
    pod, peer = make_pod("web"), make_pod("peer", "plain")
    inside, outside = pod.start(), peer.start()
    pod.run("proxy", 1337, envoy_command(SIDECAR), None, "--detach")
    pod.run("app", 1000, app_command("web", APP_PORT), None, "--detach")
    peer.run("app", 1000, app_command("peer", APP_PORT), None, "--detach")
    for namespace, port in ((inside, OUTBOUND_PORT), (inside, INBOUND_PORT), (inside, APP_PORT), (outside, APP_PORT)):
        namespace.wait_for_port(port, timeout=30)

    for here, there in zip(pod.addresses, peer.addresses, strict=True):
        host = f"[{there}]" if ":" in there else there
        url = f"http://{host}:{APP_PORT}/"
        script = f"from urllib.request import urlopen; print(urlopen('{url}', timeout=5).read().decode())"
        sent = pod.podman("exec", "web-app", sys.executable, "-I", "-S", "-c", script)
        out = Seen.decode(sent.stdout)
        assert (out.label, out.passed) == ("peer", ("outbound",))
        into = get(outside.client(1000), here, APP_PORT)
        assert (into.label, into.passed) == ("web", ("inbound",))
    capabilities = pod.podman("exec", "web-proxy", "grep", "^Cap", "/proc/self/status").stdout
    assert [line.split()[1] for line in capabilities.splitlines()] == ["0" * 16] * 5


def test_an_init_container_finds_the_rules_in_place(node: Node, make_pod: MakePod) -> None:
    """It has no peer yet: the proxy is a later container."""
    pod = make_pod("init")
    script = (
        "import socket, sys\n"
        "try: socket.create_connection(('10.123.21.1', 81), 2)\n"
        "except ConnectionRefusedError: print('refused')\n"
    )
    words = ["create", "--pod", "init", "--init-ctr", "always", "--name", "init-first", "--user", "1000:1000"]
    words += ["--entrypoint", "[]", "--volume", "/usr:/usr:ro"]
    pod.podman(*words, IMAGE, "/usr/bin/python3", "-I", "-S", "-c", script)
    pod.start()
    assert pod.podman("logs", "init-first").stdout == "refused\n"


def test_a_network_that_says_nothing_leaves_pods_alone(make_pod: MakePod) -> None:
    inside = make_pod("alone", "plain").start()
    assert inside.run(["nft", "list", "ruleset"]).stdout == ""


def test_a_pod_that_is_refused_does_not_start(node: Node, make_pod: MakePod) -> None:
    pod = make_pod("barred", "refused")
    before = set(node.outside("/run/netns").iterdir())
    done = pod.podman("pod", "start", "barred", check=False)
    assert done.returncode != 0
    assert "(annotation traffic.sidecar.istio.io/excludeInboundPorts): invalid value 'ssh'" in done.stderr
    assert set(node.outside("/run/netns").iterdir()) == before
    lines = [json.loads(line) for line in node.read("capture.log").splitlines()]
    commands = [line["command"] for line in lines if line["pod"].startswith("barred")]
    assert commands in (["ADD", "DEL"], ["ADD"])  # its DEL comes without the pod's name in some versions


def test_a_pod_that_is_started_again_is_captured_again(make_pod: MakePod) -> None:
    pod = make_pod("again")
    first = pod.start()
    pod.podman("pod", "stop", "--time", "0", "again")
    second = pod.start()
    assert first.inode != second.inode
    listen_as_proxy(second)
    assert second.client(1000).connect("10.123.21.1", 81).label == "outbound"
