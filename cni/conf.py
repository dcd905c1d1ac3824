"""The plugin's part of the network configuration: from decoded JSON to a value. No file is read here.

docs/cni.md has every key, with an example. Foreign keys are ignored (SPEC, "Network configuration format"); null is
as good as absent. A bad value of one of our keys is an error: a misread configuration must not end in a pod without
capture.
"""

from __future__ import annotations

from capture.errors import ConfigurationError
from capture.model.values import Value
from capture.settings import options
from capture.settings.settings import ExplicitValue, Settings
from cni import keys
from cni.agent_socket import AGENT_SOCKET
from cni.log import configured_log_level, log_file
from cni.protocol import INVALID_CONFIGURATION, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

RUNTIME = "runtime"
AGENT = "agent"
KUBERNETES = "kubernetes"
POD_SOURCES = (RUNTIME, AGENT, KUBERNETES)

ANNOTATIONS_CAPABILITY = "io.kubernetes.cri.pod-annotations"
"""Containerd's name for the annotations of a pod, in ``capabilities`` and in ``runtimeConfig``."""

CAPTURE_OPTIONS = {
    "profile": options.PROFILE,
    "chain_names": options.CHAIN_NAMES,
    "backend": options.BACKEND,
    "driver": options.DRIVER,
    "ip_families": options.IP_FAMILIES,
    "other_family": options.OTHER_FAMILY,
}


class AgentPod(Value):
    """The pods of our own node agent: they have to start when no source answers yet."""

    namespace: str
    name_prefix: str

    def includes(self, namespace: str, name: str) -> bool:
        """Return whether the pod is one of them: exactly this namespace, a name with this prefix."""
        return namespace == self.namespace and name.startswith(self.name_prefix)


class Configuration(Value):
    """The plugin's part of the network configuration."""

    settings: Settings
    """Its settings of the rules; the pod may have others."""
    exclude_namespaces: tuple[str, ...]
    """Kubernetes namespaces whose pods are left alone."""
    pod_sources: tuple[str, ...]
    """The sources of facts about a pod, in this order."""
    kubeconfig: str
    agent_pod: AgentPod | None
    log_level: str
    log_file: str
    """Empty: no log."""
    annotations: dict[str, str] | None
    """The pod's annotations, if the runtime hands them over (capability ``io.kubernetes.cri.pod-annotations``)."""
    agent_socket: str = AGENT_SOCKET
    """Where the node's agent listens, if it is among the sources."""
    standalone: dict[str, str] | None = None
    """The annotations of a sandbox that is no pod of Kubernetes; None: it is left alone. For podman and its like."""


def parse_configuration(configuration: Mapping[str, Any]) -> Configuration:
    """Return the parsed configuration; raise ``CniError`` (code 7) with the key, the value and what is expected."""
    kubeconfig = keys.path(configuration, "kubeconfig")
    return Configuration(
        settings=_capture_settings(configuration),
        exclude_namespaces=_excluded_namespaces(configuration),
        pod_sources=_pod_sources(configuration, kubeconfig),
        kubeconfig=kubeconfig,
        agent_socket=keys.path(configuration, "agent_socket") or AGENT_SOCKET,
        agent_pod=_agent_pod(configuration),
        log_level=configured_log_level(configuration),
        log_file=log_file(configuration),
        annotations=_given_annotations(configuration),
        standalone=_standalone_annotations(configuration),
    )


def requests_annotations(configuration: Mapping[str, Any]) -> bool:
    """Return whether the entry has the capability that makes runtimes hand over annotations."""
    capabilities = configuration.get("capabilities")
    return isinstance(capabilities, dict) and capabilities.get(ANNOTATIONS_CAPABILITY) is True


def lacks_source(configuration: Mapping[str, Any]) -> bool:
    """Return whether the entry requests annotations and names no other source, and the runtime hands over none."""
    names_a_source = bool(configuration.get("kubeconfig")) or configuration.get("pod_sources") is not None
    return not names_a_source and requests_annotations(configuration) and _given_annotations(configuration) is None


def _capture_settings(configuration: Mapping[str, Any]) -> Settings:
    explicit = {}
    for key, option in CAPTURE_OPTIONS.items():
        if configuration.get(key) is None:
            continue
        text = keys.text(configuration, key, option.expected)
        explicit[option] = ExplicitValue(text, f"the network configuration's {key!r}")
        try:
            Settings(explicit)[option]
        except ConfigurationError:
            raise keys.invalid_value(key, configuration[key], option.expected) from None
    return Settings(explicit)


def _pod_sources(configuration: Mapping[str, Any], kubeconfig: str) -> tuple[str, ...]:
    """Return the sources that the configuration names; else the runtime, and the API server with a kubeconfig."""
    expected = f"a list of one or more of {', '.join(map(repr, POD_SOURCES))}, each once"
    sources = keys.texts(configuration, "pod_sources", expected)
    if sources is None:
        return (RUNTIME, KUBERNETES) if kubeconfig else (RUNTIME,)
    if not sources or not set(sources) <= set(POD_SOURCES) or len(set(sources)) < len(sources):
        raise keys.invalid_value("pod_sources", configuration["pod_sources"], expected)
    if KUBERNETES in sources and not kubeconfig:
        raise CniError(
            INVALID_CONFIGURATION,
            "network configuration: 'pod_sources' has 'kubernetes', but there is no 'kubeconfig'",
            "Set 'kubeconfig' to the file that names the API server and our credentials, or remove 'kubernetes'.",
        )
    return sources


def _excluded_namespaces(configuration: Mapping[str, Any]) -> tuple[str, ...]:
    expected = 'a list of namespaces of Kubernetes, such as ["kube-system"]'
    namespaces = keys.texts(configuration, "exclude_namespaces", expected) or ()
    if not all(is_label(namespace) for namespace in namespaces):
        raise keys.invalid_value("exclude_namespaces", configuration["exclude_namespaces"], expected)
    return namespaces


def _agent_pod(configuration: Mapping[str, Any]) -> AgentPod | None:
    expected = 'an object such as {"namespace": "istio-system", "name_prefix": "capture-agent-"}'
    value = configuration.get("agent_pod")
    if value is None:
        return None
    if isinstance(value, dict):
        namespace, name_prefix = value.get("namespace"), value.get("name_prefix")
        if isinstance(namespace, str) and is_label(namespace) and isinstance(name_prefix, str) and name_prefix:
            return AgentPod(namespace, name_prefix)
    raise keys.invalid_value("agent_pod", value, expected)


def _standalone_annotations(configuration: Mapping[str, Any]) -> dict[str, str] | None:
    value = configuration.get("standalone")
    if value is None:
        return None
    annotations = value.get("annotations") if isinstance(value, dict) else None
    if not isinstance(annotations, dict):
        raise keys.invalid_value(
            "standalone", value, 'an object such as {"annotations": {"sidecar.istio.io/status": "..."}}'
        )
    return _checked_annotations("standalone.annotations", annotations)


def _given_annotations(configuration: Mapping[str, Any]) -> dict[str, str] | None:
    runtime_config = configuration.get("runtimeConfig")
    if runtime_config is None:
        return None
    if not isinstance(runtime_config, dict):
        raise keys.invalid_value("runtimeConfig", runtime_config, "an object")
    if ANNOTATIONS_CAPABILITY not in runtime_config:
        return None
    annotations = runtime_config[ANNOTATIONS_CAPABILITY]
    if annotations is None:  # as containerd hands over those of a pod that has none: an empty map of Go
        return {}
    return _checked_annotations(f"runtimeConfig.{ANNOTATIONS_CAPABILITY}", annotations)


def _checked_annotations(key: str, annotations: object) -> dict[str, str]:
    if isinstance(annotations, dict) and all(isinstance(value, str) for value in annotations.values()):
        return annotations
    raise keys.invalid_value(key, annotations, "an object with texts as values")


def is_label(text: str) -> bool:
    """Return whether a text can be the name of a namespace (RFC 1123, "label": 63 letters, digits, inner hyphens)."""
    plain = text.replace("-", "a")
    return len(text) <= 63 and text == text.strip("-").lower() and text.isascii() and plain.isalnum()
