"""Which pods are captured: a list of exemptions, of which the first that holds counts.

The list is upstream's (istio/istio, ``cni/pkg/plugin/plugin.go``), in its order. An unknown fact counts as absent, and
so does a truth value that Go's ParseBool cannot read, as upstream has it. Two exemptions are not in upstream's plugin:
its injector leaves the capture out where the interception mode is NONE, and a pod of the ambient mesh has no proxy.
"""

from __future__ import annotations

from capture.model.values import Value
from capture.settings.options import INTERCEPTION_MODE
from capture.settings.parsers import FALSE, TRUE
from capture.settings.pod import INIT_CONTAINER, PROXY_CONTAINER, Pod
from capture.state.attachments import EXCLUDED_NAMESPACE, NOT_INJECTED
from cni.pod import DISABLE_ENVOY, STATUS_ANNOTATION, Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.conf import Configuration

INJECT = "sidecar.istio.io/inject"
(MODE,) = INTERCEPTION_MODE.annotations
DATAPLANE_MODE = "istio.io/dataplane-mode"
AMBIENT_REDIRECTION = "ambient.istio.io/redirection"


class Exemption(Value):
    """Why a pod is left alone. ``kind`` is one of those in ``capture.state.attachments``; "" for any other."""

    reason: str
    kind: str = ""


NO_POD = Exemption("not a pod of Kubernetes: CNI_ARGS name no K8S_POD_NAMESPACE and K8S_POD_NAME")
OWN_AGENT = Exemption("it is our own node agent")


def exemption_by_name(identity: Identity, configuration: Configuration) -> Exemption | None:
    """Return why a pod is left alone by its name alone, so that no source is needed."""
    if identity.namespace in configuration.exclude_namespaces:
        return Exemption(f"namespace {identity.namespace} is excluded", EXCLUDED_NAMESPACE)
    if configuration.agent_pod and configuration.agent_pod.includes(identity.namespace, identity.name):
        return OWN_AGENT
    return None


def _has_no_proxy(pod: Pod) -> bool:
    return pod.containers is not None and PROXY_CONTAINER not in pod.containers


def _is_ambient(pod: Pod) -> bool:
    """Return whether ztunnel has the pod's traffic. A sidecar takes it out of the ambient mesh, as upstream has it."""
    is_in_ambient = pod.labels.get(DATAPLANE_MODE) == "ambient" or pod.annotations.get(AMBIENT_REDIRECTION) == "enabled"
    return is_in_ambient and _has_no_proxy(pod)


def _is_no_sidecar(pod: Pod) -> bool:
    return len(pod.proxy.arguments) > 1 and pod.proxy.arguments[0] == "proxy" and pod.proxy.arguments[1] != "sidecar"


def _injection_value(pod: Pod) -> tuple[str, str]:
    """Return the pod's own value for its injection, and its origin: the label counts, even an empty one."""
    if INJECT in pod.labels:
        return f"label {INJECT}", pod.labels[INJECT]
    return f"annotation {INJECT}", pod.annotations.get(INJECT, "")


REFUSES_INJECTION = Exemption(f"{INJECT} says false")
PROGRAMS_ITSELF = Exemption(f"its container {INIT_CONTAINER} writes the rules")
OF_AMBIENT_MESH = Exemption(f"it belongs to the ambient mesh ({DATAPLANE_MODE}), whose traffic ztunnel redirects")

EXEMPTIONS: tuple[tuple[Exemption, Callable[[Pod], bool]], ...] = (
    (PROGRAMS_ITSELF, lambda pod: INIT_CONTAINER in (pod.containers or ())),
    (
        Exemption(f"its proxy runs no Envoy ({DISABLE_ENVOY})"),
        lambda pod: pod.proxy.environment.get(DISABLE_ENVOY) in TRUE,
    ),
    (OF_AMBIENT_MESH, _is_ambient),
    (Exemption(f"it has no container {PROXY_CONTAINER}", NOT_INJECTED), _has_no_proxy),
    (Exemption("its proxy is not a sidecar"), _is_no_sidecar),
    (REFUSES_INJECTION, lambda pod: _injection_value(pod)[1] in FALSE),
    (Exemption(f"{MODE} is NONE"), lambda pod: pod.annotations.get(MODE) == "NONE"),
    (
        Exemption(f"it has no annotation {STATUS_ANNOTATION}", NOT_INJECTED),
        lambda pod: STATUS_ANNOTATION not in pod.annotations,
    ),
)
"""Each exemption, and when it holds."""


def first_exemption(pod: Pod) -> Exemption | None:
    """Return the first exemption that holds for the pod; None if the pod is to be captured."""
    return next((exemption for exemption, holds in EXEMPTIONS if holds(pod)), None)


def warnings_about(pod: Pod, exemption: Exemption | None) -> list[str]:
    """Return warnings about probable mistakes: truth values that do not count, and a proxy without capture."""
    origin, text = _injection_value(pod)
    envoy = pod.proxy.environment.get(DISABLE_ENVOY, "")
    words = ((origin, text), (f"environment {DISABLE_ENVOY} of {pod.proxy.environment_from}", envoy))
    warnings = [
        f"{where}: {word!r} is ignored: expected true or false (or 1, 0, t, f), as Istio reads it"
        for where, word in words
        if word and word not in TRUE + FALSE
    ]
    if exemption is REFUSES_INJECTION and STATUS_ANNOTATION in pod.annotations and not _has_no_proxy(pod):
        warnings.append(f"{origin} is {text!r}, but the pod was injected: it runs with a proxy and without capture")
    return warnings
