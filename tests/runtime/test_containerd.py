"""containerd, driven over CRI as kubelet drives it."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cni import codes
from pytest_netns import Namespace
from support.runtimes.cni_calls import INJECTED
from support.runtimes.cri_client import Container, CriClient, RuntimeRefusedError, Sandbox
from support.runtimes.networks import PROGRAMS
from support.runtimes.node import Node
from support.traffic.envoy_bootstrap import HEADER, INBOUND_PORT, OUTBOUND_PORT, Sidecar
from support.traffic.envoy_proxy import envoy_command
from support.traffic.proxies import Seen, app_command, get, listen_as_proxy

TRAFFIC = "traffic.sidecar.istio.io/"
APP_PORT = 8080
SIDECAR = Sidecar(http_ports=(APP_PORT,), log="/dev/null")
"""A container's standard output belongs to root, and Envoy opens it anew."""

RunPod = Callable[..., Sandbox]


@pytest.fixture
def run_pod(cri: CriClient) -> Iterator[RunPod]:
    """Makes pods that are removed after the test."""
    made: list[Sandbox] = []

    def run(name: str, annotations: dict[str, str] | None = None, **how: str) -> Sandbox:
        made.append(cri.run_pod(name, annotations, **how))
        return made[-1]

    yield run
    with ThreadPoolExecutor(8) as together:
        list(together.map(Sandbox.remove, made))


def namespace_of(node: Node, pod: Sandbox) -> Namespace:
    return node.namespace(pod.network_namespace())


def log_lines(node: Node, pod: Sandbox | str) -> list[dict[str, object]]:
    """Return what the plugin has logged about a pod."""
    name = pod if isinstance(pod, str) else pod.name
    lines = [json.loads(line) for line in node.read("capture.log").splitlines()]
    return [line for line in lines if line.get("pod") == name]


def state_of(node: Node) -> set[str]:
    """Return all that is remembered of attachments and namespaces."""
    state = node.outside("/run/istio-capture")
    return {path.name for path in [*state.glob("*.json"), *state.glob("attachments/*")]}


# --- captured --------------------------------------------------------------------------------------------------


def test_a_pod_is_captured_before_its_first_container_starts(node: Node, run_pod: RunPod) -> None:
    pod, peer = run_pod("early", INJECTED), run_pod("peer")
    inside, outside = namespace_of(node, pod), namespace_of(node, peer)
    listen_as_proxy(inside)
    outside.listener(("0.0.0.0", 80), ("::", 80), label="elsewhere")
    for here, there in zip(pod.addresses(), peer.addresses(), strict=True):
        assert inside.client(1000).connect(there, 80).label == "outbound"
        assert inside.client(1337).connect(there, 80).label == "elsewhere"
        assert outside.client(1000).connect(here, 80).label == "inbound"


def start_app(pod: Sandbox, namespace: Namespace) -> Container:
    app = pod.start("app", app_command(pod.name, APP_PORT), 1000, PROGRAMS)
    namespace.wait_for_port(APP_PORT)
    return app


def start_proxy(pod: Sandbox, namespace: Namespace) -> Container:
    proxy = pod.start("istio-proxy", envoy_command(SIDECAR), 1337, PROGRAMS)
    for port in (OUTBOUND_PORT, INBOUND_PORT):
        namespace.wait_for_port(port, timeout=30)
    return proxy


def request_from(container: Container, address: str, port: int) -> Seen:
    """Let a container send a request, as its user, and return what the other side saw."""
    host = f"[{address}]" if ":" in address else address
    script = f"from urllib.request import urlopen; print(urlopen('http://{host}:{port}/', timeout=5).read().decode())"
    sent = container.run(sys.executable, "-I", "-S", "-c", script)
    assert sent.exit_code == 0, sent.stderr
    return Seen.decode(sent.stdout)


def test_connections_in_and_out_pass_a_real_proxy_in_a_pod_without_capabilities(node: Node, run_pod: RunPod) -> None:
    pod, peer = run_pod("web-0", INJECTED), run_pod("peer")
    inside, outside = namespace_of(node, pod), namespace_of(node, peer)
    proxy, app = start_proxy(pod, inside), start_app(pod, inside)
    start_app(peer, outside)

    for here, there in zip(pod.addresses(), peer.addresses(), strict=True):
        out = request_from(app, there, APP_PORT)
        assert (out.label, out.passed) == ("peer", ("outbound",))
        into = get(outside.client(1000), here, APP_PORT)
        assert (into.label, into.passed) == ("web-0", ("inbound",))
        assert request_from(app, here, APP_PORT).passed == ()  # the pod's own address
    assert request_from(app, "127.0.0.1", APP_PORT).passed == ()

    assert HEADER not in pod.log_of("app")
    for container in (proxy, app):
        capabilities = container.run("grep", "^Cap", "/proc/self/status").stdout
        assert [line.split()[1] for line in capabilities.splitlines()] == ["0" * 16] * 5


def test_the_pods_annotations_become_its_rules(node: Node, run_pod: RunPod) -> None:
    peer = run_pod("peer")
    ipv4, ipv6 = peer.addresses()
    pod = run_pod("excluding", INJECTED | {TRAFFIC + "excludeOutboundIPRanges": f"{ipv4}/32"})
    inside, outside = namespace_of(node, pod), namespace_of(node, peer)
    listen_as_proxy(inside)
    outside.listener(("0.0.0.0", 80), ("::", 80), label="elsewhere")
    assert inside.client(1000).connect(ipv4, 80).label == "elsewhere"
    assert inside.client(1000).connect(ipv6, 80).label == "outbound"


@pytest.mark.parametrize("annotations", [None, {"a": "b"}, INJECTED | {"inject.istio.io/templates": "gateway"}])
def test_a_pod_that_is_left_alone(node: Node, run_pod: RunPod, annotations: dict[str, str] | None) -> None:
    pod = run_pod("alone", annotations)
    assert namespace_of(node, pod).run(["nft", "list", "ruleset"]).stdout == ""
    assert log_lines(node, pod)[-1]["message"] == "left alone"


# --- refused ---------------------------------------------------------------------------------------------------


def test_a_pod_that_cannot_be_understood_does_not_start_and_leaves_nothing(
    node: Node, cri: CriClient, run_pod: RunPod
) -> None:
    before = state_of(node), set(node.outside("/run/netns").iterdir())
    with pytest.raises(RuntimeRefusedError) as error:
        cri.run_pod("hostile", INJECTED | {TRAFFIC + "includeInboundPorts": "80\n-A OUTPUT -j ACCEPT"})
    message = str(error.value)
    assert 'plugin type="capture-cni" failed (add): pod shop/hostile: ' in message
    assert (
        "annotation traffic.sidecar.istio.io/includeInboundPorts): invalid value '80\\n-A OUTPUT -j ACCEPT'" in message
    )

    add, *rest = log_lines(node, "hostile")
    assert (add["command"], add["level"], add["code"]) == ("ADD", "error", codes.VALUE_REFUSED)
    assert [line["command"] for line in rest] == ["DEL"]  # which containerd sends at once
    assert (state_of(node), set(node.outside("/run/netns").iterdir())) == before
    run_pod("hostile", INJECTED)  # corrected, it starts


# --- the end ---------------------------------------------------------------------------------------------------


def test_every_del_succeeds_and_the_first_one_forgets(node: Node, cri: CriClient) -> None:
    before = state_of(node)
    pod = cri.run_pod("short", INJECTED)
    assert len(state_of(node) - before) == 2
    pod.stop()
    assert state_of(node) == before
    pod.stop()
    pod.remove()
    commands = [line["command"] for line in log_lines(node, pod)]
    assert commands[0] == "ADD"
    assert len(commands) >= 3
    assert set(commands[1:]) == {"DEL"}


# --- many ------------------------------------------------------------------------------------------------------

AT_ONCE = 30


def test_many_pods_at_once_are_all_captured_and_none_waits_for_anothers_lock(node: Node, run_pod: RunPod) -> None:
    """All the while a program holds the lock of iptables-legacy: in a pod's own namespace it is not needed."""
    node.start(["flock", "/run/xtables.lock", "sleep", "120"], "flock.log")
    peer = run_pod("peer")
    (there4, there6), outside = peer.addresses(), namespace_of(node, peer)
    outside.listener(("0.0.0.0", 80), ("::", 80), label="elsewhere")

    started = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as all_at_once:
        pods = list(all_at_once.map(lambda number: run_pod(f"many-{number}", INJECTED), range(AT_ONCE)))
    took = time.monotonic() - started

    for pod in pods:
        inside = namespace_of(node, pod)
        listen_as_proxy(inside)
        assert inside.client(1000).connect(there4, 80).label == "outbound", pod.name
        assert inside.client(1000).connect(there6, 80).label == "outbound", pod.name
        assert outside.client(1000).connect(pod.addresses()[0], 80).label == "inbound", pod.name
    lines = [log_lines(node, pod)[0] for pod in pods]
    assert {line["message"] for line in lines} == {"captured"}
    assert took < 60
