"""What is known about the pod that an attachment is for: from CNI_ARGS, the runtime, and the API server.

    CNI_ARGS                       -> Identity      namespace, name, uid
    annotations that a runtime     -> Pod           which containers injection added; neither labels nor the
    hands over                                      proxy's user and environment
    a Pod object of Kubernetes     -> Pod           everything

All of it is pure. Who asks, and in what order, is in ``cni.plugin``.
"""

from __future__ import annotations

from capture.errors import ConfigurationError
from capture.json_text import JsonError, decode
from capture.pod import DEFAULT_PROXY_ID, PROXY_CONTAINER, Pod, Proxy
from capture.values import Value
from cni.codes import BAD_ANSWER
from cni.protocol import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

STATUS_ANNOTATION = "sidecar.istio.io/status"
TEMPLATES_ANNOTATION = "inject.istio.io/templates"
DISABLE_ENVOY = "DISABLE_ENVOY"

# What upstream's injection templates make of the proxy: without its arguments and environment, their names tell.
PROXY_OF_TEMPLATE = {
    "sidecar": Proxy(),
    "gateway": Proxy(arguments=("proxy", "router")),
    "grpc-agent": Proxy(environment={DISABLE_ENVOY: "true"}),
}

# Kubelet makes pods from files itself; to the API server it shows a copy that has another uid, and names the first.
ANNOTATIONS_WITH_UID = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")


class Identity(Value):
    """Which pod an attachment is for."""

    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def identity_of(arguments: Mapping[str, str]) -> Identity | None:
    """Return which pod CNI_ARGS name; None if it is none of Kubernetes (podman sends a name and no namespace)."""
    namespace, name = arguments.get("K8S_POD_NAMESPACE", ""), arguments.get("K8S_POD_NAME", "")
    if not namespace or not name:
        return None
    return Identity(namespace, name, arguments.get("K8S_POD_UID", ""))


# --- from the runtime ------------------------------------------------------------------------------------------


def from_annotations(identity: Identity, annotations: Mapping[str, str]) -> Pod:
    """Return what the annotations tell about the pod; ConfigurationError for a status that cannot be read."""
    proxy = Proxy()
    for template in annotations.get(TEMPLATES_ANNOTATION, "").split(","):
        proxy = PROXY_OF_TEMPLATE.get(template.strip(), proxy)
    return Pod(
        namespace=identity.namespace,
        name=identity.name,
        annotations=annotations,
        containers=_injected(annotations.get(STATUS_ANNOTATION)),
        proxy=proxy,
    )


def _injected(status: str | None) -> tuple[str, ...] | None:
    """Return the containers that injection says it has added; none if it has not been here.

    The annotation is an object that names them. The bare word ``true`` says that there was an injection, and not
    of what; people write it by hand, since upstream's plugin takes any text.
    """
    if status is None:
        return ()
    try:
        plain = decode(status)
    except JsonError:
        raise _bad_status(status) from None
    if plain is True:
        return None
    if not isinstance(plain, dict):
        raise _bad_status(status)
    names: tuple[str, ...] = ()
    for key in ("initContainers", "containers"):
        listed = plain.get(key) or []  # Go writes an empty list as null
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise _bad_status(status)
        names += tuple(listed)
    return names


def _bad_status(status: str) -> ConfigurationError:
    expected = (
        'what injection writes: JSON such as {"initContainers": ["istio-validation"], "containers": ["istio-proxy"]}'
    )
    return ConfigurationError(STATUS_ANNOTATION, status, f"annotation {STATUS_ANNOTATION}", expected)


# --- from the API server ---------------------------------------------------------------------------------------


def from_object(identity: Identity, plain: object) -> Pod:
    """Return the pod that an object of the API (core/v1, Pod) describes; ``CniError`` if it describes none."""
    pod = _object(plain, "the answer")
    metadata, spec = _object(pod.get("metadata"), "metadata"), _object(pod.get("spec"), "spec")
    containers = [
        _object(container, f"spec.{key}")
        for key in ("initContainers", "containers")
        for container in _list(spec.get(key), f"spec.{key}")
    ]
    names = tuple(_text(container.get("name"), "the name of a container") for container in containers)
    proxy = _proxy(containers[names.index(PROXY_CONTAINER)]) if PROXY_CONTAINER in names else Proxy()
    return Pod(
        namespace=identity.namespace,
        name=identity.name,
        annotations=_texts(metadata.get("annotations"), "metadata.annotations"),
        labels=_texts(metadata.get("labels"), "metadata.labels"),
        containers=names,
        proxy=proxy,
        same_user=_same_user(spec, containers, proxy),
    )


def is_the_same(identity: Identity, plain: object) -> bool:
    """Return whether an object of the API is the very pod, and not another one of the same name, or what is no pod.

    A pod of a StatefulSet has the name of the one before it.
    """
    metadata = plain.get("metadata") if isinstance(plain, dict) else None
    if not identity.uid or not isinstance(metadata, dict):
        return True
    annotations = metadata.get("annotations")
    named = annotations if isinstance(annotations, dict) else {}
    return identity.uid in [metadata.get("uid"), *[named.get(name) for name in ANNOTATIONS_WITH_UID]]


def _proxy(container: dict[str, Any]) -> Proxy:
    where = f"container {PROXY_CONTAINER}"
    context = _object(container.get("securityContext") or {}, f"securityContext of {where}")
    variables = [_object(entry, f"env of {where}") for entry in _list(container.get("env"), f"env of {where}")]
    return Proxy(
        arguments=tuple(
            _text(argument, f"args of {where}") for argument in _list(container.get("args"), f"args of {where}")
        ),
        # What comes from a ConfigMap or the like has no value here.
        environment={
            _text(variable.get("name"), f"env of {where}"): _text(variable.get("value") or "", f"env of {where}")
            for variable in variables
        },
        uid=_number(context.get("runAsUser"), f"runAsUser of {where}"),
        gid=_number(context.get("runAsGroup"), f"runAsGroup of {where}"),
    )


def _same_user(spec: dict[str, Any], containers: list[dict[str, Any]], proxy: Proxy) -> tuple[str, ...]:
    """Return the containers besides the proxy that run as its user, by their own or the pod's ``runAsUser``."""
    proxy_uid = proxy.uid or int(DEFAULT_PROXY_ID)
    of_pod = _object(spec.get("securityContext") or {}, "spec.securityContext").get("runAsUser")
    return tuple(
        container["name"]
        for container in containers
        if container["name"] != PROXY_CONTAINER
        and _object(container.get("securityContext") or {}, "securityContext").get("runAsUser", of_pod) == proxy_uid
    )


def _object(value: object, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _no_pod(f"{where} is no object")


def _list(value: object, where: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise _no_pod(f"{where} is no list")


def _text(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    raise _no_pod(f"{where} is no text")


def _texts(value: object, where: str) -> dict[str, str]:
    return {name: _text(text, where) for name, text in _object(value or {}, where).items()}


def _number(value: object, where: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise _no_pod(f"{where} is no number")


def _no_pod(problem: str) -> CniError:
    return CniError(
        BAD_ANSWER,
        f"what the API server answers is no pod: {problem}",
        "Look whether 'server' in the kubeconfig is the API server of Kubernetes, and nothing in front of it answers.",
    )
