"""The plan for one pod, as data: from a workload and a template. Pure.

The plan is made for plain data. ``with_plan`` carries it out on plain data, ``injection.inject`` in a manifest's
text; both give the same pod.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from capture.errors import CaptureError
from capture.model.conventions import MAX_ID, PROXY_ID
from capture.model.values import Value
from capture.settings import options
from capture.settings.pod import INIT_CONTAINER, PROXY_CONTAINER
from capture.settings.settings import Settings
from cni.pod import PROXY_CONFIG_ANNOTATION, STATUS_ANNOTATION, proxy_metadata
from injection.decision import DEFAULT_REVISION
from injection.pods import Workload, containers_of
from injection.settings import PodSettings
from injection.template import (
    AUTO,
    Container,
    InjectionError,
    Template,
    as_native,
    init_container,
    validation_container,
    with_variables,
)

NATIVE_ANNOTATION = "sidecar.istio.io/nativeSidecar"
MERGE_KEYS = {"env": "name", "ports": "containerPort", "volumeMounts": "mountPath", "volumeDevices": "devicePath"}
"""The key by which entries of a container's lists are merged (core/v1, patchMergeKey)."""
LISTS = ("initContainers", "containers", "volumes")
ALTERNATIVES = (("exec", "grpc", "httpGet", "sleep", "tcpSocket"), ("value", "valueFrom"))
"""Of these fields of a probe or hook, and of a variable, one may be there (core/v1)."""
CONTRADICTED = (("privileged", True, "allowPrivilegeEscalation"), ("runAsUser", 0, "runAsNonRoot"))
"""Fields of a security context with the value that does not go with what we set in another."""


class InjectionPlan(Value):
    """The additions to a pod, and what of it is replaced."""

    annotations: dict[str, str]
    """All but the status."""
    first: dict[str, list[Container]]
    """The items before the entries of each list."""
    last: dict[str, list[Container]]
    taken: frozenset[str]
    """Names of the pod's own containers that were merged into injected ones."""
    settings: PodSettings


def make_plan(workload: Workload, template: Template, base: Settings) -> InjectionPlan:
    """Return the plan for a pod that is to be injected.

    Raises InjectionError or ConfigurationError whose text names the workload and the annotation.
    """
    spec = workload.pod["spec"]
    own = {each["name"]: each for each in containers_of(spec) if each.get("name")}
    if template.uses_plugin and INIT_CONTAINER in own:
        raise InjectionError(
            f"{workload}: container {INIT_CONTAINER}: the CNI plugin leaves pods alone that have one",
            "Remove it, or inject without --cni.",
        )
    settings = injection_settings(workload, template, base)
    try:
        proxy = with_variables(template.proxy(workload, settings), own.get(PROXY_CONTAINER, {}), settings)
        return _injection_plan(workload, template, settings, own, proxy)
    except InjectionError:
        raise
    except CaptureError as error:
        raise InjectionError(f"{workload}: {error.message}", error.remedy) from None


def injection_settings(workload: Workload, template: Template, base: Settings) -> PodSettings:
    """Return the settings of a pod; InjectionError names the annotation that cannot be used."""
    own = next((each for each in containers_of(workload.pod["spec"]) if each.get("name") == PROXY_CONTAINER), {})
    fragment = template.proxy_of_fragment()
    context = {**(fragment.get("securityContext") or {}), **(own.get("securityContext") or {})}
    metadata = proxy_metadata(workload.annotations.get(PROXY_CONFIG_ANNOTATION, ""))
    environment = {**metadata, **_container_environment(fragment), **_container_environment(own)}
    try:
        uid, gid = proxy_uid_and_gid(base, context)
        settings = PodSettings(base, workload.annotations, environment, uid, gid)
        settings.checked()
    except CaptureError as error:
        raise InjectionError(f"{workload}: {error.message}", error.remedy) from None
    return settings


def proxy_uid_and_gid(base: Settings, context: Mapping[str, Any]) -> tuple[int, int]:
    """Return user and group of the proxy: by its security context, else as for all pods. InjectionError."""
    uid = _own_number(context, "runAsUser") or _single_id(base, options.PROXY_UID, PROXY_ID)
    return uid, _own_number(context, "runAsGroup") or _single_id(base, options.PROXY_GID, uid)


def _own_number(context: Mapping[str, Any], field: str) -> int:
    """Return the user or group that the pod gives its proxy; 0 is no statement, as in Istio."""
    value = context.get(field) or 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_ID:
        raise InjectionError(
            f"{field} of container {PROXY_CONTAINER}: invalid value {value!r}: expected a number from 0 to {MAX_ID}"
        )
    return value


def _single_id(base: Settings, option: Any, default: int) -> int:
    if option not in base.explicit or not base.text(option):
        return default
    text = base.text(option)
    if not text.isdecimal():
        raise InjectionError(f"{option.name}: invalid value {text!r} ({base.origin(option)}): expected one number")
    return int(text)


def _container_environment(container: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env") or [] if isinstance(each.get("value"), str)}


def _injection_plan(
    workload: Workload, template: Template, settings: PodSettings, own: dict[str, Container], proxy: Container
) -> InjectionPlan:
    """Return each container in its place: merged with the user's own of its name, or before or after the others."""
    first: dict[str, list[Container]] = {key: [] for key in LISTS}
    last: dict[str, list[Container]] = {key: [] for key in LISTS}
    taken: set[str] = set()

    def put(target: list[Container], container: Container) -> None:
        name = container["name"]
        taken.update({name} & own.keys())
        target.append(merged(container, own[name]) if name in own else container)

    is_native, others = _is_native(workload, template, own), template.others()
    if settings.is_captured:  # what writes or proves the rules comes before a native proxy, else as late as can be
        make = validation_container if template.uses_plugin else init_container
        is_early = is_native or template.uses_plugin
        put((first if is_early else last)["initContainers"], make(template.init_image, settings))
    for container in others.init_containers:
        put(first["initContainers"], container)
    if is_native:
        put(first["initContainers"], as_native(proxy))
    else:
        put(last["containers"], proxy)
    for container in others.containers:
        put(last["containers"], container)
    volumes = {each.get("name") for each in workload.pod["spec"].get("volumes") or []}
    last["volumes"] += [each for each in others.volumes if each["name"] not in volumes]
    annotations = settings.plugin_annotations() if template.uses_plugin else {}
    return InjectionPlan(annotations, first, last, frozenset(taken), settings)


def _is_native(workload: Workload, template: Template, own: dict[str, Container]) -> bool:
    """Return whether the proxy is a native sidecar: by the annotation, or because the pod's own proxy is one."""
    spec, own_proxy = workload.pod["spec"], own.get(PROXY_CONTAINER)
    word = workload.annotations.get(NATIVE_ANNOTATION)
    if [own_proxy] == spec.get("containers"):
        return False  # a pod needs a container
    if word in ("true", "false"):
        return word == "true"
    if own_proxy in (spec.get("initContainers") or []) and own_proxy and own_proxy.get("restartPolicy") == "Always":
        return True
    return template.is_native


def merged(added: Any, users: Any) -> Any:
    """Return our container with the user's fields on top; lists are merged by name, ``image: auto`` keeps our image.

    A null is as good as absent, here as in Kubernetes.
    """
    users = {key: value for key, value in users.items() if value is not None}
    replaced = {key for fields in ALTERNATIVES if not users.keys().isdisjoint(fields) for key in fields}
    replaced |= {own for field, value, own in CONTRADICTED if field in users and users[field] == value}
    result = copy.deepcopy({key: value for key, value in added.items() if key not in replaced})
    for key, value in users.items():
        if key == "image" and value in (AUTO, ""):
            continue
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        elif key in MERGE_KEYS and isinstance(value, list) and isinstance(result.get(key), list):
            result[key] = _merged_list(result[key], value, MERGE_KEYS[key])
        else:
            result[key] = copy.deepcopy(value)
    return result


def _merged_list(added: list[Any], users: list[Any], key: str) -> list[Any]:
    entries = {each.get(key): each for each in added}
    for users_entry in users:
        name = users_entry.get(key)
        entries[name] = merged(entries[name], users_entry) if name in entries else copy.deepcopy(users_entry)
    return list(entries.values())


def with_plan(pod: dict[str, Any], plan: InjectionPlan, status: str) -> dict[str, Any]:
    """Return the pod with the plan carried out."""
    pod = copy.deepcopy(pod)
    metadata = pod.get("metadata") or {}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **plan.annotations, STATUS_ANNOTATION: status}
    pod["metadata"] = metadata
    spec = pod["spec"]
    for key in LISTS:
        existing = [each for each in spec.get(key) or [] if not _is_taken(each, key, plan)]
        entries = [*plan.first[key], *existing, *plan.last[key]]
        if entries or key in spec:
            spec[key] = entries or spec[key]
    return pod


def _is_taken(entry: Any, key: str, plan: InjectionPlan) -> bool:
    return key != "volumes" and isinstance(entry, dict) and entry.get("name") in plan.taken


def status_of(plan: InjectionPlan, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status in Istio's form, which the CNI plugin and istioctl read; and notes for taking it out again."""

    def names(key: str) -> list[str] | None:
        return [each["name"] for each in (*plan.first[key], *plan.last[key])] or None

    return {
        "initContainers": names("initContainers"),
        "containers": names("containers"),
        "volumes": names("volumes"),
        "imagePullSecrets": None,
        "revision": DEFAULT_REVISION,
        **notes,
    }
