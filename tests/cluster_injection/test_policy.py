"""Injection by the API server itself: a real kube-apiserver answers as Istio's webhooks and injector do."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from capture.settings.settings import Settings
from injection.admission_policy import policy_objects
from injection.decision import SYSTEM_NAMESPACES
from injection.inject import inject
from injection.template import Template
from injection.yaml_text import as_yaml
from pytest_netns import CommandError, NamespaceFactory
from support.cluster.api_server import ApiServer
from support.cluster.injection_matrix import INJECTED, NAMESPACES, PODS

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def server(module_netns: NamespaceFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(module_netns("kubernetes"), tmp_path_factory.mktemp("kubernetes")) as server:
        for name, labels in NAMESPACES.items():
            server.kubectl("create", "namespace", name)
            if labels:
                server.kubectl("label", "namespace", name, *(f"{key}={value}" for key, value in labels.items()))
        yield server


def policy(server: ApiServer, template: Template) -> None:
    """Apply a policy, and wait until it holds."""
    server.kubectl("apply", "-f", "-", stdin=as_yaml(policy_objects(template, Settings({}), "v1beta1")))
    expected = "istio-validation" if template.uses_plugin else "istio-init"
    for _ in range(100):
        if expected in names(create(server, "enabled", json.dumps(pod("probe")))[0])[0]:
            return
    pytest.fail("the policy does not hold")


def pod(name: str, metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "app", "image": "app:1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **(metadata or {})},
        "spec": {"containers": containers, **spec},
    }


def create(server: ApiServer, namespace: str, *texts: str) -> list[Any]:
    """Return the pods as the API server would store them."""
    create = ("create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-")
    answer = server.kubectl(*create, stdin="\n".join(texts))
    decoder = json.JSONDecoder()
    made: list[Any] = []
    while answer.strip():
        one, end = decoder.raw_decode(answer := answer.lstrip())
        made += one["items"] if one["kind"] == "List" else [one]
        answer = answer[end:]
    return made


def names(made: Any) -> tuple[list[str], list[str]]:
    spec = made["spec"]
    return [one["name"] for one in spec.get("initContainers", [])], [one["name"] for one in spec["containers"]]


@pytest.mark.parametrize("uses_plugin", [False, True])
def test_the_answer_is_istios_in_all_96_cells(server: ApiServer, *, uses_plugin: bool) -> None:
    policy(server, Template(uses_plugin=uses_plugin))
    for namespace in NAMESPACES:
        made = create(server, namespace, *(json.dumps(pod(name, metadata)) for name, metadata in PODS.items()))
        injected = {one["metadata"]["name"] for one in made if "istio-proxy" in names(one)[0]}
        assert injected == INJECTED[namespace], namespace


def test_pods_of_the_system_and_of_the_node_are_left_alone(server: ApiServer) -> None:
    policy(server, Template())
    metadata = {"labels": {"sidecar.istio.io/inject": "true"}}
    for namespace in SYSTEM_NAMESPACES[:3]:
        assert names(create(server, namespace, json.dumps(pod("p", metadata)))[0]) == ([], ["app"])
    assert names(create(server, "enabled", json.dumps(pod("p", metadata, hostNetwork=True)))[0]) == ([], ["app"])


CASES: dict[str, dict[str, str]] = {
    "nothing": {},
    "TPROXY": {"sidecar.istio.io/interceptionMode": "TPROXY"},
    "NONE": {"sidecar.istio.io/interceptionMode": "NONE"},
    "ports": {
        "traffic.sidecar.istio.io/excludeInboundPorts": "22 , 9000",
        "traffic.sidecar.istio.io/includeOutboundPorts": "443",
        "traffic.sidecar.istio.io/excludeOutboundPorts": "",
        "traffic.sidecar.istio.io/includeInboundPorts": "80",
    },
    "networks": {
        "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8",
        "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.1.0.0/16",
    },
    "interfaces": {
        "traffic.sidecar.istio.io/kubevirtInterfaces": "tap0",
        "istio.io/reroute-virtual-interfaces": "tap1",
        "traffic.sidecar.istio.io/excludeInterfaces": "eth1",
    },
    "status port": {"status.sidecar.istio.io/port": "15099"},
    "no status port": {"status.sidecar.istio.io/port": "0"},
    "empty values": {
        "sidecar.istio.io/interceptionMode": "",
        "status.sidecar.istio.io/port": "",
        "traffic.sidecar.istio.io/includeInboundPorts": "",
        "traffic.sidecar.istio.io/includeOutboundIPRanges": "",
        "istio.io/reroute-virtual-interfaces": "",
        "traffic.sidecar.istio.io/kubevirtInterfaces": "tap0",
    },
    "blanks and commas": {
        "status.sidecar.istio.io/port": " 15099 ",
        "traffic.sidecar.istio.io/excludeInboundPorts": ",, 22,15020",
        "inject.istio.io/templates": "sidecar, grpc-agent",
        "sidecar.istio.io/nativeSidecar": "True",
    },
    "classic": {"sidecar.istio.io/nativeSidecar": "false"},
}


@pytest.mark.parametrize("uses_plugin", [False, True])
def test_pods_become_what_the_command_makes_of_them(server: ApiServer, *, uses_plugin: bool) -> None:
    """But for the notes in the status, and the name in the bootstrap: a policy knows no workload."""
    template = Template(uses_plugin=uses_plugin)
    policy(server, template)
    pods = [
        pod(
            f"case-{number}",
            {"annotations": annotations} if annotations else {},
            initContainers=[{"name": "first", "image": "a:1"}],
        )
        for number, annotations in enumerate(CASES.values())
    ]
    made = create(server, "enabled", *map(json.dumps, pods))
    for case, one, original in zip(CASES, made, pods, strict=True):
        text = inject(yaml.safe_dump(original), "m", template, Settings({})).text
        (expected,) = create(server, "none", text)
        assert comparable(one) == comparable(expected), case


def comparable(made: Any) -> Any:
    annotations = dict(made["metadata"].get("annotations", {}))
    status = json.loads(annotations.pop("sidecar.istio.io/status"))
    status.pop("capture", None)
    for one in [*made["spec"].get("initContainers", []), *made["spec"]["containers"]]:
        if one["name"] == "istio-proxy":
            bootstrap = json.loads(one["args"][1])
            one["args"][1] = {key: value for key, value in bootstrap.items() if key != "node"}
    return annotations, status, made["spec"]


def test_a_copy_that_lost_its_annotations_gets_nothing_twice(server: ApiServer) -> None:
    policy(server, Template())
    (made,) = create(server, "enabled", json.dumps(pod("p")))
    copy = pod("copy", **{key: made["spec"][key] for key in ("initContainers", "containers")})

    assert names(create(server, "enabled", json.dumps(copy))[0]) == (["istio-init", "istio-proxy"], ["app"])


def test_pod_security_is_what_check_says(server: ApiServer) -> None:
    """Baseline refuses istio-init; with the plugin, restricted takes what the application itself leaves."""
    for level in ("baseline", "restricted"):
        server.kubectl("label", "namespace", "none", f"pod-security.kubernetes.io/enforce={level}", "--overwrite")
        for uses_plugin in (False, True):
            context = {
                "allowPrivilegeEscalation": False,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            original = pod("p", containers=[{"name": "app", "image": "a:1", "securityContext": context}])
            text = inject(yaml.safe_dump(original), "m", Template(uses_plugin=uses_plugin), Settings({})).text
            if uses_plugin:
                create(server, "none", text)
            else:
                with pytest.raises(CommandError, match="violates PodSecurity"):
                    create(server, "none", text)
    server.kubectl("label", "namespace", "none", "pod-security.kubernetes.io/enforce-")


def test_check_tells_of_the_pods_that_run(server: ApiServer) -> None:
    dangerous = pod("by-init", securityContext={"runAsUser": 1337})
    made = {
        "by-init": inject(yaml.safe_dump(dangerous), "m", Template(), Settings({})).text,
        "by-plugin": inject(yaml.safe_dump(pod("by-plugin")), "m", Template(uses_plugin=True), Settings({})).text,
        "plain": json.dumps(pod("plain")),
        "host": json.dumps(pod("host", hostNetwork=True)),
    }
    for text in made.values():
        server.kubectl("create", "-n", "none", "-f", "-", stdin=text)
    capture = str(Path(sys.executable).with_name("capture"))
    shown = json.loads(server.run([capture, "inject", "--check", "--cluster", "--format", "json"]))
    found = {one["workload"]: (one["captured"], one["reason"]) for one in shown["workloads"]}

    assert found == {
        "Pod none/by-init": ("by istio-init", ""),
        "Pod none/by-plugin": ("by the CNI plugin", ""),
        "Pod none/plain": ("", "it has no container istio-proxy"),
        "Pod none/host": ("", "it uses the node's network (hostNetwork)"),
    }
    warnings = {one["workload"]: one["warnings"] for one in shown["workloads"]}
    assert "proxy's user 1337" in warnings["Pod none/by-init"][0]
    assert not warnings["Pod none/by-plugin"]
