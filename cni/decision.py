"""Which pods are captured: a list of reasons to leave one alone, of which the first that holds counts.

Upstream's list (istio/istio, ``cni/pkg/plugin/plugin.go``), in its order. What a source of facts does not know is
as if it were not said. A truth value that is neither true nor false is an error: taking it for either could leave a
pod without capture, or one without a proxy with it.
"""

from __future__ import annotations

from capture.errors import ConfigurationError
from capture.model.values import Value
from capture.settings.pod import INIT_CONTAINER, PROXY_CONTAINER
from cni.pod import DISABLE_ENVOY, STATUS_ANNOTATION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from capture.settings.pod import Pod
    from cni.conf import Configuration
    from cni.pod import Identity

INJECT = "sidecar.istio.io/inject"

# What Go's strconv.ParseBool takes, with which upstream's parts read these values.
TRUE = ("1", "t", "T", "true", "TRUE", "True")
FALSE = ("0", "f", "F", "false", "FALSE", "False")


class Line(Value):
    """One line of the list: when it holds, the pod is left alone, and this is why."""

    reason: str
    holds: Callable[[Pod], bool]


def reason_by_name(identity: Identity | None, configuration: Configuration) -> str:
    """Return why a pod is left alone whatever it is like, so that nobody need be asked about it; else ""."""
    if identity is None:
        return "not a pod of Kubernetes: CNI_ARGS name no K8S_POD_NAMESPACE and K8S_POD_NAME"
    if identity.namespace in configuration.exclude_namespaces:
        return f"namespace {identity.namespace} is excluded"
    if configuration.agent_pod and configuration.agent_pod.includes(identity.namespace, identity.name):
        return "it is our own node agent"
    return ""


def _programs_itself(pod: Pod) -> bool:
    return INIT_CONTAINER in (pod.containers or ())


def _runs_no_envoy(pod: Pod) -> bool:
    explicit = pod.proxy.environment.get(DISABLE_ENVOY, "")
    return _is_true(explicit, DISABLE_ENVOY, f"environment {DISABLE_ENVOY} of container {PROXY_CONTAINER}")


def _has_no_proxy(pod: Pod) -> bool:
    return pod.containers is not None and PROXY_CONTAINER not in pod.containers


def _is_no_sidecar(pod: Pod) -> bool:
    return len(pod.proxy.arguments) > 1 and pod.proxy.arguments[0] == "proxy" and pod.proxy.arguments[1] != "sidecar"


def _refuses_injection(pod: Pod) -> bool:
    kind, explicit = ("label", pod.labels) if INJECT in pod.labels else ("annotation", pod.annotations)
    return bool(explicit.get(INJECT)) and not _is_true(explicit[INJECT], INJECT, f"{kind} {INJECT}")


def _has_no_status(pod: Pod) -> bool:
    return STATUS_ANNOTATION not in pod.annotations


REFUSES_INJECTION = Line(f"{INJECT} says false", _refuses_injection)

LINES = (
    Line(f"its container {INIT_CONTAINER} writes the rules", _programs_itself),
    Line(f"its proxy runs no Envoy ({DISABLE_ENVOY})", _runs_no_envoy),
    Line(f"it has no container {PROXY_CONTAINER}", _has_no_proxy),
    Line("its proxy is no sidecar", _is_no_sidecar),
    REFUSES_INJECTION,
    Line(f"it has no annotation {STATUS_ANNOTATION}", _has_no_status),
)


def first_line(pod: Pod) -> Line | None:
    """Return the first line that holds for the pod; None if the pod is to be captured.

    Raises ConfigurationError for a truth value that is none, with its ``origin``.
    """
    return next((line for line in LINES if line.holds(pod)), None)


def _is_true(text: str, name: str, origin: str) -> bool:
    """Return a truth value; nothing said is false."""
    if text in TRUE:
        return True
    if text in FALSE or not text:
        return False
    raise ConfigurationError(name, text, origin, "true or false")
