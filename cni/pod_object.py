"""The facts about a pod from its object in the API of Kubernetes (core/v1, Pod). Pure."""

from __future__ import annotations

from capture.settings.pod import PROXY_CONTAINER, Pod, Proxy
from cni.codes import BAD_ANSWER
from cni.escapes import escape_warnings
from cni.protocol import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from cni.pod import Identity

    T = TypeVar("T")

# Kubelet makes pods from files itself; to the API server it shows a copy that has another uid, and names the first.
ANNOTATIONS_WITH_UID = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")


def pod_from_object(identity: Identity, plain: object) -> Pod:
    """Return the pod that an object of the API (core/v1, Pod) describes; ``CniError`` if it describes none."""
    pod = _object(plain, "the answer")
    metadata, spec = _object(pod.get("metadata"), "metadata"), _object(pod.get("spec"), "spec")
    containers = [
        _object(container, f"spec.{key}")
        for key in ("initContainers", "containers")
        for container in _list(spec.get(key), f"spec.{key}")
    ]
    names = tuple(_text(container.get("name"), "the name of a container") for container in containers)
    for name, container in zip(names, containers, strict=True):
        _object(container.get("securityContext") or {}, f"securityContext of container {name}")
    of_pod = _object(spec.get("securityContext") or {}, "spec.securityContext")
    proxy = _proxy(containers[names.index(PROXY_CONTAINER)], of_pod) if PROXY_CONTAINER in names else Proxy()
    return Pod(
        namespace=identity.namespace,
        name=identity.name,
        annotations=_texts(metadata.get("annotations"), "metadata.annotations"),
        labels=_texts(metadata.get("labels"), "metadata.labels"),
        containers=names,
        proxy=proxy,
        escapes=escape_warnings(spec, containers, proxy),
    )


def is_same_pod(identity: Identity, plain: object) -> bool:
    """Return whether an object of the API is the very pod, and not another one of the same name, or what is no pod.

    A pod of a StatefulSet has the name of the one before it.
    """
    metadata = plain.get("metadata") if isinstance(plain, dict) else None
    if not identity.uid or not isinstance(metadata, dict):
        return True
    annotations = metadata.get("annotations")
    named = annotations if isinstance(annotations, dict) else {}
    return identity.uid in [metadata.get("uid"), *[named.get(name) for name in ANNOTATIONS_WITH_UID]]


def _proxy(container: dict[str, Any], of_pod: dict[str, Any]) -> Proxy:
    where = f"container {PROXY_CONTAINER}"
    context = _object(container.get("securityContext") or {}, f"securityContext of {where}")
    env, args = f"env of {where}", f"args of {where}"
    variables = [_object(entry, env) for entry in _list(container.get("env"), env)]
    return Proxy(
        arguments=tuple(_text(argument, args) for argument in _list(container.get("args"), args)),
        environment={_text(each.get("name"), env): _text(each.get("value") or "", env) for each in variables},
        references=tuple(str(variable.get("name")) for variable in variables if variable.get("valueFrom")),
        uid=_effective_id("runAsUser", context, of_pod, where),
        gid=_effective_id("runAsGroup", context, of_pod, where),
    )


def _effective_id(field: str, context: dict[str, Any], of_pod: dict[str, Any], path: str) -> int | None:
    """Return the user or group that a container runs as: its own, else the pod's (core/v1, PodSecurityContext)."""
    own = _number(context.get(field), f"{field} of {path}")
    return _number(of_pod.get(field), f"{field} of the pod") if own is None else own


def _object(value: object, path: str) -> dict[str, Any]:
    return _require_kind(dict, value, f"{path} is not an object")


def _list(value: object, path: str) -> list[Any]:
    return [] if value is None else _require_kind(list, value, f"{path} is not a list")


def _text(value: object, path: str) -> str:
    return _require_kind(str, value, f"{path} is not a text")


def _texts(value: object, path: str) -> dict[str, str]:
    return {name: _text(text, path) for name, text in _object(value or {}, path).items()}


def _number(value: object, path: str) -> int | None:
    return None if value is None else _require_kind(int, value, f"{path} is not a number")


def _require_kind(kind: type[T], value: object, problem: str) -> T:
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise CniError(
        BAD_ANSWER,
        f"the API server's answer is not a pod: {problem}",
        "Check that 'server' in the kubeconfig is the API server of Kubernetes, not a proxy before it.",
    )
