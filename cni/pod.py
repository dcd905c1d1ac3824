"""The facts about the pod of an attachment, from the runtime.

    CNI_ARGS                       -> Identity      namespace, name, uid
    annotations that a runtime     -> Pod           which containers injection added; neither labels nor the
    hands over                                      proxy's user and environment
    a Pod object of Kubernetes     -> Pod           everything (in ``cni.pod_object``)

All of it is pure. The order of the sources is in ``cni.sources``.
"""

from __future__ import annotations

from capture.errors import ConfigurationError
from capture.model.json_text import JsonError, decode_json, encode_json
from capture.model.values import Value
from capture.settings.pod import Pod, Proxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS_ANNOTATION = "sidecar.istio.io/status"
TEMPLATES_ANNOTATION = "inject.istio.io/templates"
PROXY_CONFIG_ANNOTATION = "proxy.istio.io/config"
PROXY_METADATA = "proxyMetadata"
SEPARATORS = str.maketrans(dict.fromkeys("{}[],", "\n"))
DISABLE_ENVOY = "DISABLE_ENVOY"

# What upstream's injection templates make of the proxy: without its arguments and environment, their names show it.
PROXY_OF_TEMPLATE = {
    "sidecar": Proxy(),
    "gateway": Proxy(arguments=("proxy", "router")),
    "grpc-agent": Proxy(environment={DISABLE_ENVOY: "true"}),
}


class Identity(Value):
    """The pod of an attachment."""

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


def pod_from_annotations(identity: Identity, annotations: Mapping[str, str]) -> Pod:
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
        containers=_injected_containers(annotations.get(STATUS_ANNOTATION)),
        proxy=proxy,
        knows_environment=False,
    )


def _injected_containers(status: str | None) -> tuple[str, ...] | None:
    """Return the containers that injection has added, by its annotation; none if it has not been here.

    The annotation is an object that names them. The bare word ``true`` means that there was an injection, and not
    of what; people write it by hand, since upstream's plugin takes any text.
    """
    if status is None:
        return ()
    try:
        plain = decode_json(status)
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
    expected = 'JSON such as {"initContainers": ["istio-validation"], "containers": ["istio-proxy"]}'
    return ConfigurationError(STATUS_ANNOTATION, status, f"annotation {STATUS_ANNOTATION}", expected)


def proxy_metadata(annotation: str) -> dict[str, str]:
    """Return the variables that the annotation ``proxy.istio.io/config`` gives to the proxy.

    It is YAML (istio/api, mesh/v1alpha1, ProxyConfig). What is read of it is what people write: JSON, a block with one
    variable a line, or mappings in braces. Only truth values decide on the capture, so others need not come out whole.
    """
    try:
        plain = decode_json(annotation)
    except JsonError:
        return _pairs_of_yaml(annotation)
    metadata = plain.get(PROXY_METADATA) if isinstance(plain, dict) else None
    pairs = metadata.items() if isinstance(metadata, dict) else ()
    return {name: value if isinstance(value, str) else encode_json(value) for name, value in pairs}


def _pairs_of_yaml(text: str) -> dict[str, str]:
    """Return the pairs behind the key ``proxyMetadata``; of several with one name the first."""
    lines = [line.partition(" #")[0].rstrip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    before, behind = _split_at_metadata("\n".join(filter(None, lines)))
    first, *lines = behind.lstrip("\"' :").split("\n")
    if "{" not in first:
        depth = _indentation_of(before.rpartition("\n")[2])  # the block ends at a line that is no deeper than its name
        lines = lines[: next((at for at, line in enumerate(lines) if _indentation_of(line) <= depth), None)]
    pairs: dict[str, str] = {}
    for piece in "\n".join([first, *lines]).translate(SEPARATORS).split("\n"):
        name, colon, value = piece.partition(":")
        if colon:
            pairs.setdefault(_unquoted_text(name), _unquoted_text(value))
    return pairs


def _split_at_metadata(text: str) -> tuple[str, str]:
    """Return what is before and behind the key ``proxyMetadata``; values and other keys may have the word, too."""
    before, key, behind = text.partition(PROXY_METADATA)
    while key and not (before[-1:] in ("", *" \n\"'{,") and behind.lstrip("\"' ").startswith(":")):
        passed, key, behind = behind.partition(PROXY_METADATA)
        before += PROXY_METADATA + passed
    return before, behind


def _indentation_of(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _unquoted_text(text: str) -> str:
    bare = text.strip()
    return bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'" else bare
