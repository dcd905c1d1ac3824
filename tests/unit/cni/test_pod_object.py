"""A pod object of the API server becomes a pod, with a warning for each way round the capture."""

import json
from typing import Any

import pytest

from capture.settings.pod import Pod, Proxy
from cni.codes import BAD_ANSWER
from cni.pod import Identity
from cni.pod_object import is_same_pod, pod_from_object
from cni.protocol import CniError

WEB = Identity("shop", "web-0", "uid-1")
STATUS = "sidecar.istio.io/status"

OBJECT: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {"uid": "uid-1", "labels": {"app": "web"}, "annotations": {STATUS: "anything", "a": "b"}},
    "spec": {
        "initContainers": [{"name": "istio-validation"}],
        "containers": [
            {"name": "web", "securityContext": {"runAsUser": 1000}},
            {
                "name": "istio-proxy",
                "args": ["proxy", "sidecar", "--domain"],
                "env": [
                    {"name": "ISTIO_META_DNS_CAPTURE", "value": "false"},
                    {"name": "ISTIO_META_DNS_CAPTURE", "value": "true"},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "securityContext": {"runAsUser": 1000670000, "runAsGroup": 1000670001},
            },
        ],
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the object with another value at a path such as ``spec.containers.1.env``."""
    copy: dict[str, Any] = json.loads(json.dumps(OBJECT))
    holder: Any = copy
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps:
        holder = holder[step]
    holder[last] = value
    return copy


def test_a_pod_object_becomes_a_pod() -> None:
    assert pod_from_object(WEB, OBJECT) == Pod(
        namespace="shop",
        name="web-0",
        annotations={STATUS: "anything", "a": "b"},
        labels={"app": "web"},
        containers=("istio-validation", "web", "istio-proxy"),
        proxy=Proxy(
            arguments=("proxy", "sidecar", "--domain"),
            environment={"ISTIO_META_DNS_CAPTURE": "true", "POD_NAME": ""},
            references=("POD_NAME",),
            uid=1000670000,
            gid=1000670001,
        ),
    )


def test_a_pod_object_with_next_to_nothing() -> None:
    bare = {"metadata": {"name": "web-0"}, "spec": {"containers": [{"name": "istio-proxy"}]}}
    assert pod_from_object(WEB, bare) == Pod("shop", "web-0", {}, containers=("istio-proxy",))


def test_a_native_sidecar_is_an_init_container() -> None:
    proxy = {"name": "istio-proxy", "restartPolicy": "Always", "args": ["proxy", "sidecar"]}
    pod = pod_from_object(WEB, changed("spec.initContainers", [proxy]) | {})
    assert pod.containers == ("istio-proxy", "web", "istio-proxy")
    assert pod.proxy == Proxy(arguments=("proxy", "sidecar"))


UID, GID = 1000670000, 1000670001
WEB_CONTEXT = "spec.containers.0.securityContext"


@pytest.mark.parametrize(
    ("path", "value", "warnings"),
    [
        ("spec.initContainers.0.securityContext", {"runAsUser": UID, "runAsGroup": GID}, []),
        (WEB_CONTEXT, {"runAsUser": UID}, [f"container web runs with the proxy's user ({UID})"]),
        (WEB_CONTEXT, {"runAsUser": 1337, "runAsGroup": 1337}, []),
        (WEB_CONTEXT, {"runAsGroup": GID}, [f"container web runs with the proxy's group ({GID})"]),
        ("spec.containers.1.securityContext", {"runAsUser": 1000}, ["container web runs with the proxy's user (1000)"]),
        ("spec.securityContext", {"runAsUser": UID, "runAsGroup": GID}, ["container web runs with the proxy's group"]),
        ("spec.securityContext", {"fsGroup": GID}, [f"container web runs with fsGroup or supplementalGroups {GID}"]),
        ("spec.securityContext", {"supplementalGroups": [5, GID]}, ["container web runs with fsGroup or"]),
        ("spec.securityContext", {"fsGroup": 5, "supplementalGroups": 5}, []),
        (WEB_CONTEXT, {"privileged": True}, ["container web is privileged"]),
        (WEB_CONTEXT, {"capabilities": {"add": ["NET_BIND_SERVICE"]}}, []),
        (WEB_CONTEXT, {"capabilities": {"add": 5}}, []),
        (
            WEB_CONTEXT,
            {"capabilities": {"add": ["NET_ADMIN", "CAP_NET_RAW", "setuid", "NET_ADMIN"]}},
            [f"container web has the capability {name}: it can" for name in ("NET_ADMIN", "NET_RAW", "SETUID")],
        ),
        ("spec.runtimeClassName", "kata-qemu", ["runtimeClassName kata-qemu: Kata Containers redirects"]),
        ("spec.runtimeClassName", "gVisor", ["runtimeClassName gVisor: gVisor has a network stack of its own"]),
        ("spec.runtimeClassName", "nvidia", []),
    ],
)  # fmt: skip
def test_a_warning_for_each_way_round_the_capture(path: str, value: object, warnings: list[str]) -> None:
    found = pod_from_object(WEB, changed(path, value)).escapes
    assert len(found) == len(warnings)
    for warning, begin in zip(found, warnings, strict=True):
        assert warning.startswith(begin)


def test_a_set_gid_program_needs_to_escalate_privileges() -> None:
    plain = changed(WEB_CONTEXT, {"allowPrivilegeEscalation": False})
    plain["spec"]["securityContext"] = {"fsGroup": GID}
    assert pod_from_object(WEB, plain).escapes == ()


@pytest.mark.parametrize(
    ("own", "of_pod", "uid", "gid"),
    [
        ({}, {"runAsUser": 5000, "runAsGroup": 5001}, 5000, 5001),
        ({"runAsUser": 7}, {"runAsUser": 5000, "runAsGroup": 5001}, 7, 5001),
        ({"runAsUser": 0, "runAsGroup": None}, {"runAsUser": 5000, "runAsGroup": 5001}, 0, 5001),
        ({"runAsUser": 7, "runAsGroup": 8}, {"runAsUser": 5000, "runAsGroup": 5001}, 7, 8),
        ({}, {}, None, None),
    ],
)
def test_the_user_is_the_container_s_else_the_pod_s(
    own: dict[str, Any], of_pod: dict[str, Any], uid: object, gid: object
) -> None:
    plain = changed("spec.containers.1.securityContext", own)
    plain["spec"]["securityContext"] = of_pod
    proxy = pod_from_object(WEB, plain).proxy
    assert (proxy.uid, proxy.gid) == (uid, gid)


NO_POD = [
    ("metadata", None),
    ("metadata", "text"),
    ("spec", None),
    ("spec", []),
    ("metadata.labels", ["a"]),
    ("metadata.labels", {"a": 1}),
    ("metadata.annotations", {"a": None}),
    ("spec.securityContext", 5),
    ("spec.containers", {"name": "web"}),
    ("spec.containers.0", "web"),
    ("spec.containers.0.name", None),
    ("spec.containers.0.securityContext", "root"),
    ("spec.containers.1.args", "proxy"),
    ("spec.containers.1.args", [1]),
    ("spec.containers.1.env", {"A": "b"}),
    ("spec.containers.1.env", ["A=b"]),
    ("spec.containers.1.env", [{"value": "b"}]),
    ("spec.containers.1.env", [{"name": "A", "value": 1}]),
    ("spec.containers.1.securityContext", ["1337"]),
    ("spec.containers.1.securityContext", {"runAsUser": "1337"}),
    ("spec.containers.1.securityContext", {"runAsUser": True}),
    ("spec.containers.1.securityContext", {"runAsGroup": 1.5}),
]


@pytest.mark.parametrize(("path", "value"), NO_POD)
def test_an_object_that_is_no_pod_is_an_error(path: str, value: object) -> None:
    user = next(iter(value)) if isinstance(value, dict) and path.endswith("securityContext") else ""
    named = user or path.rstrip(".01").rpartition(".")[2]
    with pytest.raises(CniError, match=rf"{named}\b") as error:
        pod_from_object(WEB, changed(path, value))
    assert error.value.code == BAD_ANSWER


@pytest.mark.parametrize("plain", [None, [], "pod", 1])
def test_json_that_is_no_object_is_an_error(plain: object) -> None:
    with pytest.raises(CniError):
        pod_from_object(WEB, plain)


def test_the_same_pod_has_the_same_uid() -> None:
    assert is_same_pod(WEB, OBJECT)
    assert not is_same_pod(WEB, changed("metadata.uid", "uid-2"))
    assert is_same_pod(WEB.replace(uid=""), changed("metadata.uid", "uid-2"))


@pytest.mark.parametrize("name", ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"])
def test_the_copy_of_a_pod_that_kubelet_made_from_a_file_is_the_same_pod(name: str) -> None:
    copy = changed("metadata.uid", "uid-2")
    copy["metadata"]["annotations"] = {name: "uid-1"}
    assert is_same_pod(WEB, copy)
    copy["metadata"]["annotations"] = {name: "uid-3"}
    assert not is_same_pod(WEB, copy)
    copy["metadata"]["annotations"] = [name]
    assert not is_same_pod(WEB, copy)
