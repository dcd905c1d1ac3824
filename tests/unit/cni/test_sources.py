"""The plugin's sources, in what order, and where it stops."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capture.errors import ConfigurationError
from cni import conf
from cni.codes import BAD_KUBECONFIG, POD_UNKNOWN
from cni.log import PluginLog
from cni.pod import Identity
from cni.protocol import CniError
from cni.sources import find_pod
from pytest_netns import require
from support.cluster.fake_kubernetes import FakeKubernetes, server_certificate, status

WEB = Identity("shop", "web-0")
STATUS = "sidecar.istio.io/status"
INJECT = "sidecar.istio.io/inject"
INJECTED = {STATUS: json.dumps({"containers": ["istio-proxy"]})}
PROXY = {"name": "istio-proxy", "securityContext": {"runAsUser": 1000670000}}
CAPABILITY = conf.ANNOTATIONS_CAPABILITY


def a_pod(labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "metadata": {"labels": labels, "annotations": INJECTED if annotations is None else annotations},
        "spec": {"containers": [PROXY]},
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as fake:
        (tmp_path / "kubeconfig").write_text(fake.kubeconfig())
        yield fake


@pytest.fixture
def learned(tmp_path: Path) -> Any:
    def call(*sources: str, annotations: dict[str, str] | None = None) -> tuple[int | None, str]:
        """Read these sources, and return the proxy's user as it is then known, and why the pod is left alone."""
        configuration = conf.parse_configuration(
            {
                "pod_sources": list(sources),
                "kubeconfig": str(tmp_path / "kubeconfig"),
                "runtimeConfig": {} if annotations is None else {CAPABILITY: annotations},
                "log_file": str(tmp_path / "log"),
            }
        )
        pod, exemption = find_pod(WEB, configuration, PluginLog(str(tmp_path / "log")))
        return pod.proxy.uid, exemption.reason if exemption else ""

    return call


NO_PROXY = "it has no container istio-proxy"
REFUSES_INJECTION = "sidecar.istio.io/inject says false"


def test_a_pod_without_a_part_in_the_mesh_needs_no_api_server(learned: Any) -> None:
    for sources in (["runtime"], ["runtime", "kubernetes"]):
        assert learned(*sources, annotations={}) == (None, NO_PROXY)


def test_with_the_runtime_alone_what_it_does_not_know_does_not_count(learned: Any) -> None:
    assert learned("runtime", annotations=INJECTED) == (None, "")
    assert learned("runtime", annotations=INJECTED | {INJECT: "false"}) == (None, REFUSES_INJECTION)


def test_about_a_pod_of_the_mesh_the_api_server_knows_more(learned: Any, server: FakeKubernetes) -> None:
    server.pods["shop", "web-0"] = a_pod()
    assert learned("runtime", "kubernetes", annotations=INJECTED) == (1000670000, "")
    assert learned("kubernetes", "runtime", annotations=INJECTED) == (1000670000, "")
    assert learned("kubernetes", annotations=INJECTED) == (1000670000, "")
    assert learned("runtime", "kubernetes") == (1000670000, "")


def test_a_label_that_the_runtime_does_not_know_overrules_the_annotation(learned: Any, server: FakeKubernetes) -> None:
    server.pods["shop", "web-0"] = a_pod(labels={INJECT: "true"})
    assert learned("runtime", "kubernetes", annotations=INJECTED | {INJECT: "false"}) == (1000670000, "")
    server.pods["shop", "web-0"] = a_pod(labels={INJECT: "false"})
    assert learned("runtime", "kubernetes", annotations=INJECTED) == (1000670000, REFUSES_INJECTION)


def test_a_source_that_fails_fails_the_pod(learned: Any, server: FakeKubernetes, tmp_path: Path) -> None:
    server.always(status(403))
    with pytest.raises(CniError):
        learned("runtime", "kubernetes", annotations=INJECTED)
    with pytest.raises(CniError):
        learned("kubernetes", "runtime", annotations=INJECTED)
    (tmp_path / "kubeconfig").unlink()
    with pytest.raises(CniError) as error:
        learned("runtime", "kubernetes", annotations=INJECTED)
    assert error.value.code == BAD_KUBECONFIG


def test_no_source_knows_the_pod(learned: Any) -> None:
    with pytest.raises(CniError) as error:
        learned("runtime")
    assert error.value.code == POD_UNKNOWN
    assert error.value.message == "pod shop/web-0: the runtime hands over no annotations of the pod"
    assert CAPABILITY in error.value.details
    with pytest.raises(CniError) as error:
        learned("agent")
    assert error.value.message == "pod shop/web-0: the node's agent does not answer, or does not know the pod"
    assert "capture node status" in error.value.details


NOT_CERTAIN = {
    "an empty status": {STATUS: "{}"},
    "a status that cannot be read": {STATUS: "{"},
    "other containers": {STATUS: json.dumps({"containers": ["other"]})},
    "an init container that may be gone": {STATUS: json.dumps({"initContainers": ["istio-init"]})},
    "a gateway's template": INJECTED | {"inject.istio.io/templates": "sidecar,gateway"},
    "a truth value that is none": INJECTED | {INJECT: "maybe"},
}


@pytest.mark.parametrize("annotations", NOT_CERTAIN.values(), ids=NOT_CERTAIN)
def test_uncertain_annotations_leave_it_to_the_next_source(
    learned: Any, server: FakeKubernetes, annotations: dict[str, str]
) -> None:
    server.pods["shop", "web-0"] = a_pod()
    assert learned("runtime", "kubernetes", annotations=annotations) == (1000670000, "")


def test_a_status_that_cannot_be_read_is_an_error_without_another_source(learned: Any) -> None:
    with pytest.raises(ConfigurationError):
        learned("runtime", annotations={STATUS: "{"})


def test_a_status_that_cannot_be_read_is_worth_a_line_with_another_source(
    learned: Any, server: FakeKubernetes, tmp_path: Path
) -> None:
    server.pods["shop", "web-0"] = a_pod()
    learned("runtime", "kubernetes", annotations={STATUS: "{"})
    (line,) = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (line["level"], line["message"]) == ("info", "the next source decides")
    assert STATUS in line["reason"]


def test_an_unreadable_truth_value_is_worth_a_line(learned: Any, tmp_path: Path) -> None:
    assert learned("runtime", annotations=INJECTED | {INJECT: "maybe"}) == (None, "")
    (line,) = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert line["level"] == "warn"
    assert "'maybe' is ignored" in line["message"]


def test_a_server_that_is_not_verified_is_worth_a_line(learned: Any, tmp_path: Path) -> None:
    with FakeKubernetes(server_certificate("another")) as server:
        server.pods["shop", "web-0"] = a_pod()
        trust: dict[str, Any] = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
        (tmp_path / "kubeconfig").write_text(server.kubeconfig(**trust))
        assert learned("kubernetes") == (1000670000, "")
    line = json.loads((tmp_path / "log").read_text())
    assert (line["level"], "is not verified" in line["message"]) == ("warn", True)


# --- the node's agent --------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """An agent that answers what the test puts here, by the pod's name."""
    from cni.agent.server import AgentServer

    require(os.geteuid() == 0, "the plugin believes only an agent of root's")
    known: dict[str, Any] = {}
    server = AgentServer(
        str(tmp_path / "run" / "socket"), {"pod": lambda question: {"pod": known.get(question["name"])}}
    )
    yield known
    server.close()


def from_agent(tmp_path: Path, *sources: str) -> tuple[int | None, str]:
    configuration = conf.parse_configuration(
        {
            "pod_sources": list(sources),
            "kubeconfig": str(tmp_path / "kubeconfig"),
            "agent_socket": str(tmp_path / "run" / "socket"),
            "runtimeConfig": {CAPABILITY: INJECTED},
        }
    )
    pod, exemption = find_pod(WEB, configuration, PluginLog(""))
    return pod.proxy.uid, exemption.reason if exemption else ""


def test_a_pod_that_the_agent_knows_needs_no_api_server(
    tmp_path: Path, agent: dict[str, Any], server: FakeKubernetes
) -> None:
    agent["web-0"] = a_pod()
    assert from_agent(tmp_path, "runtime", "agent", "kubernetes") == (1000670000, "")
    assert server.requests == []


def test_the_api_server_knows_a_pod_that_the_agent_does_not_know(
    tmp_path: Path, agent: dict[str, Any], server: FakeKubernetes
) -> None:
    server.pods["shop", "web-0"] = a_pod(labels={INJECT: "false"})
    assert from_agent(tmp_path, "runtime", "agent", "kubernetes")[1] == f"{INJECT} says false"


def test_without_agent_and_api_server_nothing_is_certain(tmp_path: Path) -> None:
    with pytest.raises(CniError) as error:
        from_agent(tmp_path, "runtime", "agent")
    assert error.value.code == POD_UNKNOWN
