"""The capture's settings of a pod object: the arguments of its ``istio-init``, or else what the plugin reads."""

from __future__ import annotations

from collections.abc import Mapping

from capture.errors import CaptureError
from capture.settings.options import INIT_OPTIONS, OPTIONS
from capture.settings.pod import INIT_CONTAINER, pod_settings
from capture.settings.settings import ExplicitValue, Settings, from_environment
from cni.pod import Identity
from cni.pod_object import pod_from_object
from cni.protocol import CniError
from initcontainer.arguments import parse_arguments
from sidecar.fields import FieldError, Fields


def settings_of_object(plain: Mapping[str, object], origin: str) -> Settings:
    """Return the settings that give the rules of a pod: core/v1, Pod, or a template with metadata and spec.

    FieldError names the container or annotation whose value cannot be used.
    """
    fields = Fields(dict(plain), origin)
    init = next(
        (each for each in fields.inner("spec").objects("initContainers") if each.text("name") == INIT_CONTAINER), None
    )
    try:
        return _init_container_settings(init) if init else _annotation_settings(plain)
    except FieldError:
        raise
    except (CaptureError, CniError) as error:
        raise FieldError(origin, init.path if init else "metadata.annotations", error.message) from None


def _init_container_settings(container: Fields) -> Settings:
    environment = {
        variable.text("name"): variable.text("value") for variable in container.objects("env") if "value" in variable
    }
    flags = parse_arguments(container.texts("args"), OPTIONS).flags
    explicit = {**from_environment(environment).explicit}
    explicit |= {option: ExplicitValue(text, f"arguments of {INIT_CONTAINER}") for option, text in flags.items()}
    return Settings({option: what for option, what in explicit.items() if option not in INIT_OPTIONS}).checked()


def _annotation_settings(plain: Mapping[str, object]) -> Settings:
    pod = pod_from_object(Identity("", ""), {"metadata": plain.get("metadata") or {}, "spec": plain.get("spec") or {}})
    return pod_settings(pod, Settings({}))
