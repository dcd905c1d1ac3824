"""Which way traffic goes in pods that the agent's plugin captured, by what the application saw."""

import json
from collections.abc import Iterator

import pytest

from support.cluster.calls import BOTH, IN, NONE, OUT, address, call_from_pod, service_address, sides_passed
from support.cluster.installed import Cluster
from support.cluster.pods import APP_PORT, HOST_PORT, PYTHON, ROOT, container, deployment, pod, service

TRAFFIC = "traffic.sidecar.istio.io"
PROXIED_FROM = {"127.0.0.6", "::6", "::ffff:127.0.0.6"}


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with a pod of every kind, all of them ready."""
    pods = [
        pod("web"), pod("client"), pod("plain", mesh=False), pod("other", mesh=False),
        pod("transparent", transparent=True), pod("native", native=True), pod("host", mesh=False, hostNetwork=True),
        pod("dns", dns=True), pod("user2000", uid=2000),
        pod("label", labels={"sidecar.istio.io/inject": "false"}),
        pod("annotation", annotations={"sidecar.istio.io/inject": "false"}),
        pod("skipin", annotations={f"{TRAFFIC}/excludeInboundPorts": str(APP_PORT)}),
        pod("skipout", annotations={f"{TRAFFIC}/excludeOutboundPorts": str(APP_PORT)}),
    ]  # fmt: skip
    cluster.apply(*pods, *map(service, ("web", "other")))
    names = [made["metadata"]["name"] for made in pods]
    cluster.kubectl("wait", "pod", *names, "--for=condition=Ready", "--timeout=120s")
    yield cluster
    cluster.kubectl("delete", "pod,service,job,deployment", "-l", "app", "--grace-period=1", "--wait")


def test_a_call_from_pod_to_pod_passes_both_proxies(mesh: Cluster) -> None:
    """From the mesh to the mesh, each family of the cluster: through both proxies."""
    for family in mesh.families:
        answer = call_from_pod(mesh, "client", address(mesh, "web", family))
        assert (sides_passed(answer), answer["peer"][0] in PROXIED_FROM) == (BOTH, True)


def test_a_call_to_a_service_passes_both_proxies(mesh: Cluster) -> None:
    """By the address of a Service, each family: through both proxies."""
    for family in mesh.families:
        assert sides_passed(call_from_pod(mesh, "client", service_address(mesh, "web", family))) == BOTH


def test_a_call_over_the_edge_of_the_mesh_passes_one_proxy(mesh: Cluster) -> None:
    """Into the mesh, out of it, and outside it: one proxy, one proxy, none."""
    assert sides_passed(call_from_pod(mesh, "plain", address(mesh, "web"))) == [IN]
    assert sides_passed(call_from_pod(mesh, "client", address(mesh, "other"))) == [OUT]
    answer = call_from_pod(mesh, "plain", address(mesh, "other"))
    assert sides_passed(answer) == NONE
    assert answer["peer"][0].removeprefix("::ffff:") == address(mesh, "plain").strip("[]")


def test_tproxy_keeps_the_address_of_the_client(mesh: Cluster) -> None:
    """TPROXY, each family: in through the proxy with the client's own address kept, and out through it."""
    for family in mesh.families:
        answer = call_from_pod(mesh, "plain", address(mesh, "transparent", family))
        source = address(mesh, "plain", family).strip("[]")
        assert (sides_passed(answer), answer["peer"][0].removeprefix("::ffff:")) == ([IN], source)
        assert sides_passed(call_from_pod(mesh, "transparent", address(mesh, "web", family))) == BOTH


def test_a_native_sidecar_is_passed_in_and_out(mesh: Cluster) -> None:
    """A native sidecar: in and out."""
    assert sides_passed(call_from_pod(mesh, "client", address(mesh, "native"))) == BOTH
    assert sides_passed(call_from_pod(mesh, "native", address(mesh, "web"))) == BOTH


def test_an_init_container_needs_a_native_sidecar_before_it(mesh: Cluster) -> None:
    """An init container after a native sidecar passes it; before an ordinary one it is refused, since captured."""
    url = f"http://{address(mesh, 'web')}:{APP_PORT}/"
    early = container("early", ["/usr/bin/sh", "-c", f"curl -gsS -m5 '{url}'; echo rc=$?"])
    mesh.apply(pod("late", native=True, init=[early]), pod("early", init=[early]))
    mesh.kubectl("wait", "pod", "late", "early", "--for=condition=Ready", "--timeout=60s")
    assert '"x-capture-proxy": ["outbound", "inbound"]' in mesh.kubectl("logs", "late", "-c", "early")
    assert "rc=7" in mesh.kubectl("logs", "early", "-c", "early")


def test_look_ups_reach_the_proxy_where_dns_is_captured(mesh: Cluster) -> None:
    """ISTIO_META_DNS_CAPTURE: questions by UDP and TCP reach the proxy's port; in other pods they do not."""
    program = (
        "import socket, struct; q = b'\\0\\1\\1\\0\\0\\1' + bytes(6) + b'\\3any\\4mesh\\0\\0\\1\\0\\1';"
        "u = socket.socket({family}, socket.SOCK_DGRAM); u.settimeout(2); u.sendto(q, ('{server}', 53));"
        "print(u.recv(512)[-4:]); t = socket.create_connection(('{server}', 53), 2);"
        "t.sendall(struct.pack('!H', len(q)) + q); print(t.recv(512)[-4:])"
    )
    ipv4 = mesh.families[0] == "ipv4"
    server, family = ("192.0.2.53", "socket.AF_INET") if ipv4 else ("2001:db8::53", "socket.AF_INET6")
    command = [PYTHON, "-c", program.format(server=server, family=family)]
    if ipv4:  # the answering program listens there only
        assert mesh.kubectl("exec", "dns", "-c", "app", "--", *command).count("b'\\n{-C'") == 2
    assert "b'\\n{-C'" not in mesh.kubectl("exec", "web", "-c", "app", "--", *command, check=False)


def test_a_pod_that_opts_out_has_no_proxy_in_the_way(mesh: Cluster) -> None:
    """The label or the annotation inject=false: neither side has a proxy in the way."""
    for name in ("label", "annotation"):
        assert sides_passed(call_from_pod(mesh, name, address(mesh, "other"))) == NONE
        assert sides_passed(call_from_pod(mesh, "plain", address(mesh, name))) == NONE


def test_excluded_ports_pass_no_proxy(mesh: Cluster) -> None:
    """ExcludeInboundPorts and excludeOutboundPorts."""
    assert sides_passed(call_from_pod(mesh, "client", address(mesh, "skipin"))) == [OUT]
    assert sides_passed(call_from_pod(mesh, "skipout", address(mesh, "web"))) == [IN]


def test_a_pod_of_the_nodes_network_is_untouched(mesh: Cluster) -> None:
    """A pod of the node's network: untouched, and in touch with the mesh both ways."""
    assert sides_passed(call_from_pod(mesh, "host", address(mesh, "web"))) == [IN]
    assert sides_passed(call_from_pod(mesh, "client", address(mesh, "host"), HOST_PORT)) in ([OUT], NONE)


def test_a_proxy_of_another_user_is_passed(mesh: Cluster) -> None:
    """A proxy that runs as another user than 1337."""
    assert sides_passed(call_from_pod(mesh, "user2000", address(mesh, "web"))) == BOTH
    assert sides_passed(call_from_pod(mesh, "client", address(mesh, "user2000"))) == BOTH


def test_neither_app_nor_proxy_has_a_capability(mesh: Cluster) -> None:
    """Neither application nor proxy has a capability."""
    for of in ("app", "istio-proxy"):
        answer = mesh.kubectl("exec", "web", "-c", of, "--", "/usr/bin/grep", "CapEff", "/proc/self/status")
        assert answer.split()[-1] == "0" * 16


def test_the_validation_container_proves_the_capture(mesh: Cluster) -> None:
    """The validation init container proves the capture, without a capability."""
    program = [
        PYTHON,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from initcontainer.__main__ import main; sys.exit(main())",
    ]
    context = {"runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
    validation = container(
        "istio-validation", [*program, "--skip-rule-apply", "--run-validation"], securityContext=context
    )
    mesh.apply(pod("validated", init=[validation]))
    mesh.kubectl("wait", "pod", "validated", "--for=condition=Ready", "--timeout=60s")


def test_jobs_end_in_the_mesh_and_outside_of_it(mesh: Cluster) -> None:
    """Jobs in the mesh and outside of it."""
    url = f"http://{address(mesh, 'web')}:{APP_PORT}/"
    command = ["/usr/bin/sh", "-c", f"sleep 2; curl -gsS -m10 '{url}'"]
    for name, in_mesh, expected in (("meshjob", True, '["outbound", "inbound"]'), ("plainjob", False, '["inbound"]')):
        made = pod(name, mesh=in_mesh, native=in_mesh, command=command, restartPolicy="Never")
        spec = {"backoffLimit": 0, "template": {"metadata": made["metadata"] | {"name": None}, "spec": made["spec"]}}
        mesh.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": made["metadata"], "spec": spec})
        mesh.kubectl("wait", f"job/{name}", "--for=condition=Complete", "--timeout=60s")
        assert f'"x-capture-proxy": {expected}' in mesh.kubectl("logs", f"job/{name}", "-c", "app")


def test_a_pod_with_an_unreadable_annotation_does_not_start(mesh: Cluster) -> None:
    """A pod whose annotation cannot be read does not start, and its event names annotation and value."""
    answer = ""
    mesh.apply(pod("bad", annotations={f"{TRAFFIC}/excludeOutboundPorts": "80x"}))
    for _ in range(40):
        answer = mesh.kubectl("get", "events", "--field-selector=involvedObject.name=bad", "-o", "yaml")
        if "excludeOutboundPorts" in answer:
            break
    assert "80x" in answer
    mesh.kubectl("delete", "pod", "bad", "--force", "--grace-period=0")


def test_a_pod_with_a_user_namespace_is_captured(mesh: Cluster) -> None:
    """A pod with hostUsers: false, where the runtime has them."""
    if mesh.runtime is None:
        pytest.skip("containerd 1 has no user namespaces")
    mesh.apply(pod("userns", hostUsers=False))
    mesh.kubectl("wait", "pod", "userns", "--for=condition=Ready", "--timeout=60s")
    assert sides_passed(call_from_pod(mesh, "client", address(mesh, "userns"))) == BOTH
    assert sides_passed(call_from_pod(mesh, "userns", address(mesh, "web"))) == BOTH


def test_forty_pods_at_once_are_captured_and_leave_nothing(mesh: Cluster) -> None:
    """Forty pods of the mesh at once: all captured, and nothing of them is left."""
    mesh.apply(deployment("many", 40, pause_proxy=True, command=["/pause", "-P"]))
    mesh.kubectl("rollout", "status", "deployment/many", "--timeout=180s", timeout=200)
    names = mesh.kubectl("get", "pods", "-l", "app=many", "-o", "name").split()
    log = mesh.run(["cat", "/var/log/istio-capture/cni.log"])
    captured = {json.loads(line)["pod"] for line in log.splitlines() if '"captured"' in line}
    assert {name.removeprefix("pod/") for name in names} <= captured
    mesh.kubectl("delete", "deployment", "many", "--wait")
    mesh.kubectl("wait", "pod", "-l", "app=many", "--for=delete", "--timeout=120s", timeout=150)
