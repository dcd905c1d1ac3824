"""What is known about the pod that an attachment is for, from the facts of the runtime.

    CNI_ARGS                       -> Identity      namespace, name, uid
    annotations that a runtime     -> Pod           which containers injection added; neither labels nor the
    hands over                                      proxy's user and environment
    a Pod object of Kubernetes     -> Pod           everything (in ``cni.pod_object``)

All of it is pure. The order of the sources is in ``cni.sources``.
"""

from __future__ import annotations

from capture.errors import ConfigurationError
from capture.model.values import Value
from capture.settings.pod import Pod, Proxy
from capture.state.json_text import JsonError, decode
from cni.proxy_config import PROXY_CONFIG_ANNOTATION, proxy_metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS_ANNOTATION = "sidecar.istio.io/status"
TEMPLATES_ANNOTATION = "inject.istio.io/templates"
DISABLE_ENVOY = "DISABLE_ENVOY"

# What upstream's injection templates make of the proxy: without its arguments and environment, their names show it.
PROXY_OF_TEMPLATE = {
    "sidecar": Proxy(),
    "gateway": Proxy(arguments=("proxy", "router")),
    "grpc-agent": Proxy(environment={DISABLE_ENVOY: "true"}),
}


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


def from_annotations(identity: Identity, annotations: Mapping[str, str]) -> Pod:
    """Return the facts of the annotations about the pod; ConfigurationError for a status that cannot be read."""
    proxy = Proxy()
    for template in annotations.get(TEMPLATES_ANNOTATION, "").split(","):
        proxy = PROXY_OF_TEMPLATE.get(template.strip(), proxy)
    if PROXY_CONFIG_ANNOTATION in annotations:
        proxy = proxy.replace(
            environment={**proxy_metadata(annotations[PROXY_CONFIG_ANNOTATION]), **proxy.environment},
            environment_from=f"annotation {PROXY_CONFIG_ANNOTATION}",
        )
    return Pod(
        namespace=identity.namespace,
        name=identity.name,
        annotations=annotations,
        containers=_injected(annotations.get(STATUS_ANNOTATION)),
        proxy=proxy,
        knows_environment=False,
    )


def _injected(status: str | None) -> tuple[str, ...] | None:
    """Return the containers that injection has added, by its annotation; none if it has not been here.

    The annotation is an object that names them. The bare word ``true`` means that there was an injection, and not
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
