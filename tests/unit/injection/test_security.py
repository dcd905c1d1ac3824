"""The Pod Security level of a pod, by each thing that the standards forbid."""

from typing import Any

import pytest

from injection.security import level_of

STRICT: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
    "capabilities": {"drop": ["ALL"]},
}


def pod(context: dict[str, Any] | None = None, container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """Return a pod that the strictest level allows, but for what is given."""
    return {"containers": [{"name": "app", "securityContext": STRICT | (context or {})} | (container or {})]} | spec


def test_a_pod_without_a_right_is_restricted() -> None:
    assert level_of(pod()) == ("restricted", [])
    assert level_of(pod({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}})) == ("restricted", [])
    assert level_of(pod(volumes=[{"name": "v", "emptyDir": {}}])) == ("restricted", [])


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (pod(hostNetwork=True), "hostNetwork"),
        (pod(hostPID=True), "hostPID"),
        (pod(hostIPC=True), "hostIPC"),
        (pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), "volume v is a hostPath"),
        (pod({"privileged": True}), "container app is privileged"),
        (pod({"capabilities": {"drop": ["ALL"], "add": ["NET_RAW", "KILL"]}}), "container app adds NET_RAW"),
        (pod(container={"ports": [{"containerPort": 1, "hostPort": 1}]}), "container app has a hostPort"),
        (pod({"procMount": "Unmasked"}), "container app has procMount Unmasked"),
        (pod({"windowsOptions": {"hostProcess": True}}), "container app is a Windows host process"),
        (pod({"seLinuxOptions": {"type": "spc_t"}}), "container app has seLinuxOptions of its own"),
        (pod({"seLinuxOptions": {"user": "u"}}), "container app has seLinuxOptions of its own"),
        (pod({"seLinuxOptions": {"role": "r"}}), "container app has seLinuxOptions of its own"),
        (pod({"seccompProfile": {"type": "Unconfined"}}), "container app has seccompProfile Unconfined"),
        (pod({"appArmorProfile": {"type": "Unconfined"}}), "container app has appArmorProfile Unconfined"),
        (pod(securityContext={"sysctls": [{"name": "kernel.msgmax"}]}), "the pod sets kernel.msgmax"),
    ],
)
def test_what_baseline_forbids_needs_privileged(spec: dict[str, Any], why: str) -> None:
    assert level_of(spec) == ("privileged", [why])


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (pod(volumes=[{"name": "v", "nfs": {}}]), "volume v is of a kind that is not allowed"),
        (pod(securityContext={"runAsUser": 0}), "the pod sets runAsUser 0"),
        (pod({"allowPrivilegeEscalation": True}), "container app does not set allowPrivilegeEscalation: false"),
        (pod({"runAsNonRoot": False}), "container app does not set runAsNonRoot: true"),
        (pod({"runAsUser": 0}), "container app sets runAsUser 0"),
        (pod({"seccompProfile": None}), "container app does not set seccompProfile RuntimeDefault"),
        (pod({"capabilities": {}}), "container app does not drop ALL"),
        (pod({"capabilities": {"drop": ["ALL"], "add": ["KILL"]}}), "container app adds capabilities"),
    ],
)
def test_what_restricted_forbids_needs_baseline(spec: dict[str, Any], why: str) -> None:
    assert level_of(spec) == ("baseline", [why])
