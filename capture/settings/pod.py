"""From a pod to settings: one function for all programs that capture a pod of Kubernetes.

The settings of a pod are in its annotations, and in the user and the environment of its proxy container. Names,
defaults and additions are upstream's (istio/istio, ``cni/pkg/plugin/sidecar_redirect.go``), so that a pod gets the
rules it would get there. Truth values are read as upstream reads them: one that cannot be read is ignored, with a
warning. Other than upstream, a list, network, port or user that cannot be understood is an error, never a default.
"""

from __future__ import annotations

from capture.model.conventions import HEALTH_PORT, METRICS_PORT, PROXY_ID, STATUS_PORT
from capture.model.text import closest_name
from capture.model.values import Value
from capture.settings import options
from capture.settings.settings import ExplicitValue, Settings, from_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from capture.settings.options import Option

INIT_CONTAINER = "istio-init"
PROXY_CONTAINER = "istio-proxy"

PROXY_PORTS = f"{STATUS_PORT},{HEALTH_PORT},{METRICS_PORT}"
DEFAULT_EXCLUDED_OUTBOUND_PORTS = str(STATUS_PORT)

MAX_CHARACTERS = 256 * 1024
"""Kubernetes' limit for all annotations of a pod together (apimachinery, TotalAnnotationSizeLimitB)."""

MAX_MISSPELT = 10
"""Each costs a search for the name that it resembles; a pod may have thousands of annotations."""

ANNOTATED_OPTIONS = tuple(option for option in options.RULE_OPTIONS if option.annotations)
ANNOTATION_NAMES = tuple(name for option in ANNOTATED_OPTIONS for name in option.annotations)
ENVIRONMENT_OPTIONS = (options.REDIRECT_DNS, options.DUAL_STACK, options.DROP_INVALID)
ENVIRONMENT_NAMES = tuple(name for option in ENVIRONMENT_OPTIONS for name in option.environment)


class Proxy(Value):
    """The proxy's container. An unknown fact counts as one that is not given."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}  # never changed
    environment_from: str = f"container {PROXY_CONTAINER}"
    references: tuple[str, ...] = ()
    """Variables that have their value from elsewhere, such as a ConfigMap (core/v1, EnvVarSource)."""
    uid: int | None = None
    gid: int | None = None


class Pod(Value):
    """The facts about a pod."""

    not_compared = ("knows_environment",)

    namespace: str
    name: str
    annotations: Mapping[str, str]
    labels: Mapping[str, str] = {}  # never changed
    containers: tuple[str, ...] | None = None
    """Names of all containers, init containers included; None if they are not known."""
    proxy: Proxy = Proxy()
    escapes: tuple[str, ...] = ()
    """The ways round the capture that its containers have, a warning for each."""
    knows_environment: bool = True
    """Whether the whole environment of the proxy is known."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def pod_settings(pod: Pod, base: Settings) -> Settings:
    """Return the settings of the pod, on top of those of all pods.

    Raises ConfigurationError whose ``origin`` names the annotation, the variable or the field.
    """
    explicit: dict[Option[Any], ExplicitValue] = {
        options.EXCLUDED_OUTBOUND_PORTS: ExplicitValue(DEFAULT_EXCLUDED_OUTBOUND_PORTS, "default"),
        options.PROXY_UID: _id_value(pod.proxy.uid, "runAsUser"),
        options.PROXY_GID: _id_value(pod.proxy.gid, "runAsGroup"),
    }
    explicit |= _annotated_values(pod.annotations)
    origin = f" of {pod.proxy.environment_from}"
    from_proxy = from_environment(pod.proxy.environment, ENVIRONMENT_OPTIONS, origin, own_names=False)
    explicit |= from_proxy.explicit
    for option, value in explicit.items():
        _require_usable(option, value)
    explicit[options.EXCLUDED_INBOUND_PORTS] = _with_proxy_ports(explicit.get(options.EXCLUDED_INBOUND_PORTS))
    explicit = {**with_all_dns(Settings(explicit)).explicit}
    references = pod.proxy.references
    unknown = [
        f"environment {name}{origin}: a reference (valueFrom), which is not followed"
        for name in references
        if name in ENVIRONMENT_NAMES
    ]
    return Settings(
        {**base.explicit, **explicit},
        (*base.warnings, *from_proxy.warnings, *unknown, *misspelling_warnings(pod.annotations)),
        knows_proxy_environment=pod.knows_environment and not {*references} & {*options.DUAL_STACK.environment},
    )


def with_all_dns(settings: Settings) -> Settings:
    """Return settings that capture all DNS if any: the pod's own resolv.conf(5) is not known outside of it."""
    if not settings[options.REDIRECT_DNS]:
        return settings
    captured = settings.explicit[options.REDIRECT_DNS]
    return settings.replace(explicit={**settings.explicit, options.CAPTURE_ALL_DNS: captured})


def _id_value(number: int | None, field: str) -> ExplicitValue:
    """Return the user or group of the proxy; 0 is no statement, as upstream has it."""
    if number:
        return ExplicitValue(str(number), f"{field} of container {PROXY_CONTAINER}")
    return ExplicitValue(str(PROXY_ID), "default")


def _annotated_values(annotations: Mapping[str, str]) -> dict[Option[Any], ExplicitValue]:
    return {
        option: ExplicitValue(annotations[name], f"annotation {name}")
        for option in ANNOTATED_OPTIONS
        for name in reversed(option.annotations)  # the first one counts
        if name in annotations
    }


def misspelling_warnings(annotations: Mapping[str, str]) -> list[str]:
    """Return a warning for each annotation that resembles one with effect, up to MAX_MISSPELT."""
    unknown = (name for name in annotations if name not in ANNOTATION_NAMES)
    meant = ((name, probable) for name in unknown if (probable := _probable_annotation(name)))
    first = zip(range(MAX_MISSPELT), meant, strict=False)
    return [f"annotation {name} has no effect; is {probable} meant?" for _, (name, probable) in first]


def _probable_annotation(name: str) -> str:
    """Return the annotation that is probably meant by another name; "" if none is."""
    last = _normalized_name(name.rpartition("/")[2])
    same = next((known for known in ANNOTATION_NAMES if _normalized_name(known.rpartition("/")[2]) == last), "")
    if same or not name.startswith(options.TRAFFIC_PREFIX):
        return same
    return closest_name(name, ANNOTATION_NAMES) or "one of Istio's other annotations"


def _normalized_name(text: str) -> str:
    """Return a name without the differences of spelling: case, dashes, underscores."""
    return text.replace("-", "").replace("_", "").lower()


def _require_usable(option: Option[Any], value: ExplicitValue) -> None:
    """Raise ConfigurationError unless the text can be used: the error shows it as the pod has it."""
    if len(value.text) > MAX_CHARACTERS:
        raise Settings({option: value}).error_for(option, f"{option.expected}; at most {MAX_CHARACTERS} characters")
    Settings({option: value})[option]


def _with_proxy_ports(excluded: ExplicitValue | None) -> ExplicitValue:
    """Return the excluded inbound ports with the proxy's own after them; each counts once, where it comes first."""
    if excluded is None:
        return ExplicitValue(PROXY_PORTS, "default")
    ports = ",".join(filter(None, (excluded.text.rstrip(" ,"), PROXY_PORTS)))
    return ExplicitValue(ports, f"{excluded.origin}, and the proxy's own ports")
