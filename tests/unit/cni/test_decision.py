"""The decision list, line by line, as each source of facts knows a pod."""

import json
from typing import Any

import pytest

from capture.settings.pod import Pod
from cni import conf
from cni.decision import EXEMPTIONS, exemption_by_name, first_exemption, warnings_about
from cni.pod import Identity, pod_from_annotations
from cni.pod_object import pod_from_object

WEB = Identity("shop", "web-0")
STATUS = "sidecar.istio.io/status"
INJECT = "sidecar.istio.io/inject"
MODE = "sidecar.istio.io/interceptionMode"
SIDECAR = {"name": "istio-proxy", "args": ["proxy", "sidecar"]}


def status(init_containers: list[str], containers: list[str]) -> dict[str, str]:
    return {STATUS: json.dumps({"initContainers": init_containers, "containers": containers})}


def by_runtime(annotations: dict[str, str]) -> str:
    exemption = first_exemption(pod_from_annotations(WEB, annotations))
    return exemption.reason if exemption else ""


def object_pod(
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    proxy: dict[str, Any] | None = None,
    init_containers: list[dict[str, Any]] | None = None,
    containers: list[dict[str, Any]] | None = None,
) -> Pod:
    metadata = {"annotations": {STATUS: "{}"} if annotations is None else annotations, "labels": labels}
    all_containers = containers if containers is not None else [{"name": "web"}, SIDECAR | (proxy or {})]
    spec = {"initContainers": init_containers, "containers": all_containers}
    return pod_from_object(WEB, {"metadata": metadata, "spec": spec})


def by_kubernetes(**facts: Any) -> str:
    exemption = first_exemption(object_pod(**facts))
    return exemption.reason if exemption else ""


INIT = "its container istio-init writes the rules"
NO_ENVOY = "its proxy runs no Envoy (DISABLE_ENVOY)"
AMBIENT = "it belongs to the ambient mesh (istio.io/dataplane-mode), whose traffic ztunnel redirects"
NO_PROXY = "it has no container istio-proxy"
NO_SIDECAR = "its proxy is not a sidecar"
REFUSES_INJECTION = "sidecar.istio.io/inject says false"
NO_CAPTURE = "sidecar.istio.io/interceptionMode is NONE"
NO_STATUS = "it has no annotation sidecar.istio.io/status"
CAPTURED = ""


def environment(text: str) -> dict[str, Any]:
    return {"env": [{"name": "DISABLE_ENVOY", "value": text}]}


# --- who it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (Identity("kube-system", "web-0"), "namespace kube-system is excluded"),
        (Identity("kube-system-2", "web-0"), ""),
        (Identity("mesh", "agent-x7"), "it is our own node agent"),
        (Identity("mesh", "other-agent-x7"), ""),
        (Identity("mesh-2", "agent-x7"), ""),
        (WEB, ""),
    ],
)
def test_a_pod_is_left_alone_by_its_name(identity: Identity, reason: str) -> None:
    configuration = conf.parse_configuration(
        {"exclude_namespaces": ["kube-system"], "agent_pod": {"namespace": "mesh", "name_prefix": "agent-"}}
    )
    exemption = exemption_by_name(identity, configuration)
    assert (exemption.reason if exemption else "") == reason
    assert (exemption.kind if exemption else "") == ("namespace" if reason.endswith("is excluded") else "")


def test_without_a_configuration_no_name_is_special() -> None:
    assert exemption_by_name(Identity("kube-system", "agent-x7"), conf.parse_configuration({})) is None


# --- what it is ------------------------------------------------------------------------------------------------

BY_RUNTIME: list[tuple[dict[str, str], str]] = [
    (status(["istio-validation"], ["istio-proxy"]), CAPTURED),
    (status(["istio-validation", "istio-proxy"], []), CAPTURED),
    ({STATUS: "true"}, CAPTURED),
    (status(["istio-init"], ["istio-proxy"]), INIT),
    (status([], ["istio-proxy"]) | {"inject.istio.io/templates": "grpc-agent"}, NO_ENVOY),
    (status([], ["other"]), NO_PROXY),
    (status([], []), NO_PROXY),
    ({}, NO_PROXY),
    ({INJECT: "true"}, NO_PROXY),
    (status([], ["istio-proxy"]) | {"inject.istio.io/templates": "gateway"}, NO_SIDECAR),
    (status([], ["istio-proxy"]) | {INJECT: "false"}, REFUSES_INJECTION),
    (status([], ["istio-proxy"]) | {INJECT: "true"}, CAPTURED),
    (status([], ["istio-proxy"]) | {INJECT: ""}, CAPTURED),
    (status([], ["istio-proxy"]) | {INJECT: "yes"}, CAPTURED),
    (status([], ["istio-proxy"]) | {MODE: "NONE"}, NO_CAPTURE),
]

BY_KUBERNETES: list[tuple[dict[str, Any], str]] = [
    ({}, CAPTURED),
    ({"containers": [{"name": "web"}], "init_containers": [SIDECAR]}, CAPTURED),
    ({"init_containers": [{"name": "istio-init"}]}, INIT),
    ({"containers": [{"name": "istio-init"}, SIDECAR]}, INIT),
    ({"proxy": environment("true")}, NO_ENVOY),
    ({"proxy": environment("1")}, NO_ENVOY),
    ({"proxy": environment("false")}, CAPTURED),
    ({"proxy": environment("")}, CAPTURED),
    ({"containers": [{"name": "web"} | environment("true")]}, NO_PROXY),
    ({"containers": []}, NO_PROXY),
    ({"containers": [], "labels": {"istio.io/dataplane-mode": "ambient"}}, AMBIENT),
    ({"containers": [], "annotations": {"ambient.istio.io/redirection": "enabled"}}, AMBIENT),
    ({"containers": [], "labels": {"istio.io/dataplane-mode": "none"}}, NO_PROXY),
    ({"labels": {"istio.io/dataplane-mode": "ambient"}}, CAPTURED),
    ({"containers": [{"name": "istio-proxy-2"}]}, NO_PROXY),
    ({"proxy": {"args": ["proxy", "router"]}}, NO_SIDECAR),
    ({"proxy": {"args": ["proxy", "sidecar", "--log_output_level=default:info"]}}, CAPTURED),
    ({"proxy": {"args": ["proxy"]}}, CAPTURED),
    ({"proxy": {"args": ["other", "router"]}}, CAPTURED),
    ({"proxy": {"args": None}}, CAPTURED),
    ({"annotations": {STATUS: "{}", INJECT: "false"}}, REFUSES_INJECTION),
    ({"annotations": {STATUS: "{}", INJECT: "False"}}, REFUSES_INJECTION),
    ({"labels": {INJECT: "false"}}, REFUSES_INJECTION),
    ({"labels": {INJECT: "0"}}, REFUSES_INJECTION),
    ({"labels": {INJECT: "true"}, "annotations": {STATUS: "{}", INJECT: "false"}}, CAPTURED),
    ({"labels": {INJECT: "false"}, "annotations": {STATUS: "{}", INJECT: "true"}}, REFUSES_INJECTION),
    ({"labels": {INJECT: ""}, "annotations": {STATUS: "{}", INJECT: "false"}}, CAPTURED),
    ({"annotations": {STATUS: "{}", MODE: "NONE"}}, NO_CAPTURE),
    ({"annotations": {STATUS: "{}", MODE: "TPROXY"}}, CAPTURED),
    ({"annotations": {}}, NO_STATUS),
    ({"annotations": {STATUS: ""}}, CAPTURED),
]


@pytest.mark.parametrize(("annotations", "reason"), BY_RUNTIME)
def test_the_annotations_of_the_runtime_decide(annotations: dict[str, str], reason: str) -> None:
    assert by_runtime(annotations) == reason


@pytest.mark.parametrize(("facts", "reason"), BY_KUBERNETES)
def test_the_object_of_the_api_server_decides(facts: dict[str, Any], reason: str) -> None:
    assert by_kubernetes(**facts) == reason


def test_the_tables_visit_every_line() -> None:
    lines = {exemption.reason for exemption, _ in EXEMPTIONS}
    assert lines == {reason for _, reason in BY_KUBERNETES if reason}
    # Injection writes the status and the proxy together: for the runtime, a pod without the one has not the other.
    assert lines - {NO_STATUS, AMBIENT} == {reason for _, reason in BY_RUNTIME if reason} - {AMBIENT}


def test_the_first_line_that_holds_counts() -> None:
    """With each line taken away in turn, the next one holds: the order is that of the list."""
    everything: dict[str, Any] = {
        "annotations": {INJECT: "false", MODE: "NONE"},
        "init_containers": [{"name": "istio-init"}],
        "proxy": environment("true") | {"args": ["proxy", "router"]},
    }
    assert by_kubernetes(**everything) == INIT
    everything["init_containers"] = []
    assert by_kubernetes(**everything) == NO_ENVOY
    everything["proxy"] = {"args": ["proxy", "router"]}
    ambient = {"labels": {"istio.io/dataplane-mode": "ambient"}}
    assert by_kubernetes(**everything | {"containers": []} | ambient) == AMBIENT
    assert by_kubernetes(**everything | {"containers": []}) == NO_PROXY
    assert by_kubernetes(**everything) == NO_SIDECAR
    everything["proxy"] = {}
    assert by_kubernetes(**everything) == REFUSES_INJECTION
    everything["annotations"] = {MODE: "NONE"}
    assert by_kubernetes(**everything) == NO_CAPTURE
    everything["annotations"] = {}
    assert by_kubernetes(**everything) == NO_STATUS


NO_TRUTH = [
    "yes",
    "no",
    "off",
    "tRUE",
    " true",
    "true\n",
    "2",
    "-",
    "'false'",
    "false;true",
    "\uff46alse",
    "\u0660",
    "f" * 1_000_000,
]


@pytest.mark.parametrize("text", NO_TRUTH, ids=range(len(NO_TRUTH)))
def test_a_value_neither_true_nor_false_is_ignored_with_a_warning(text: str) -> None:
    places: list[tuple[dict[str, Any], str]] = [
        ({"labels": {INJECT: text}}, f"label {INJECT}"),
        ({"annotations": {STATUS: "{}", INJECT: text}}, f"annotation {INJECT}"),
        ({"proxy": environment(text)}, "environment DISABLE_ENVOY of container istio-proxy"),
    ]
    for facts, origin in places:
        pod = object_pod(**facts)
        assert first_exemption(pod) is None
        (warning,) = warnings_about(pod, None)
        assert warning.startswith(f"{origin}: ")
        assert "is ignored" in warning
    assert by_runtime(status([], ["istio-proxy"]) | {INJECT: text}) == CAPTURED
    assert by_runtime({INJECT: text}) == NO_PROXY
    assert by_kubernetes(labels={INJECT: text}, containers=[{"name": "web"}]) == NO_PROXY


@pytest.mark.parametrize("text", ["false", "False", "0", "F"])
def test_a_proxy_that_runs_uncaptured_is_warned_of(text: str) -> None:
    for pod in (object_pod(labels={INJECT: text}), object_pod(annotations={STATUS: "{}", INJECT: text})):
        exemption = first_exemption(pod)
        assert exemption is not None
        assert exemption.reason == REFUSES_INJECTION
        (warning,) = warnings_about(pod, exemption)
        assert f"is {text!r}, but the pod was injected" in warning
    bare = object_pod(annotations={INJECT: text})
    assert warnings_about(bare, first_exemption(bare)) == []
