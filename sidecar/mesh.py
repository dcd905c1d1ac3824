"""Mesh config: what holds for all sidecars (istio.mesh.v1alpha1.MeshConfig), as far as a sidecar needs it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from capture.model.values import Value
from sidecar.documents import MESH_CONFIG, Document, load_yaml
from sidecar.fields import FieldError, Fields

ROOT_NAMESPACE = "istio-system"
STDOUT = "/dev/stdout"
BUILT_IN_PROVIDER = "envoy"
DETECTION_TIMEOUT = "0.1s"
"""How long the first bytes may take before a connection counts as TCP. Istio's own default, 0s, waits for ever:
the first bytes of a server at a port that is not declared TCP would never arrive."""

MESH_FIELDS = (
    "accessLogFile", "accessLogFormat", "accessLogEncoding", "extensionProviders", "outboundTrafficPolicy",
    "protocolDetectionTimeout", "defaultProviders", "rootNamespace",
)  # fmt: skip


COMMAND_OPERATOR = re.compile(r"%%|%[A-Z0-9_]+(?:\(.*?\))?(?::[0-9]+)?%")
"""Envoy's notation (source/common/formatter/substitution_format_utility.cc); which commands there are, Envoy knows."""


class FileLog(Value):
    """An access log: where it goes, and its format: a text, or names and values (JSON). None: the usual one."""

    path: str = STDOUT
    text: str | None = None
    names: Mapping[str, object] | None = None
    is_json: bool = False


class Mesh(Value):
    """The mesh config."""

    logs_to_file: bool = False
    own_log: FileLog = FileLog()
    """The log of the mesh config itself, which is also the built-in provider ``envoy``."""
    providers: Mapping[str, FileLog] = {}  # never changed
    default_providers: tuple[str, ...] = ()
    registry_only: bool = False
    detection_timeout: str = DETECTION_TIMEOUT
    root_namespace: str = ROOT_NAMESPACE


def read_mesh(documents: Sequence[Document]) -> Mesh:
    """Return the mesh config among documents: plain, under ``mesh`` as text, or in the ConfigMap ``istio``."""
    configs = [fields for document in documents for fields in _mesh_candidates(document)]
    if len(configs) > 1:
        raise FieldError(configs[1].document, "", f"a second mesh config; the first is {configs[0].document}")
    return _read_mesh(configs[0]) if configs else Mesh()


def _mesh_candidates(document: Document) -> list[Fields]:
    fields = document.fields()
    if document.kind == MESH_CONFIG:
        if "mesh" not in fields:
            return [fields]
        return [_inner_config(fields.require_known("mesh", "meshNetworks"))]
    if document.kind == "ConfigMap":
        fields.require_known("apiVersion", "kind", "metadata", "data", "immutable")
        return [_inner_config(fields.inner("data", "mesh", "meshNetworks"))]
    return []


def _inner_config(fields: Fields) -> Fields:
    """Return what ``mesh`` holds: a mapping, or YAML as text."""
    networks = fields.plain().get("meshNetworks")
    if networks and load_yaml(str(networks), fields.document) != [{"networks": {}}]:
        raise fields.error("meshNetworks", "not supported")
    plain = fields.plain().get("mesh")
    if isinstance(plain, str):
        loaded = load_yaml(plain, f"{fields.document}: {fields.path_of('mesh')}")
        plain = loaded[0] if loaded else None
    return Fields(plain, fields.document, fields.path_of("mesh"))


def _read_mesh(fields: Fields) -> Mesh:
    fields.require_known(*MESH_FIELDS)
    policy = fields.inner("outboundTrafficPolicy", "mode").one_of("mode", "ALLOW_ANY", "REGISTRY_ONLY")
    own = FileLog(
        fields.text("accessLogFile") or STDOUT,
        *_read_format(fields, "accessLogFormat", is_json=fields.one_of("accessLogEncoding", "TEXT", "JSON") == "JSON"),
    )
    return Mesh(
        logs_to_file=bool(fields.text("accessLogFile")),
        own_log=own,
        providers=dict(_read_provider(provider) for provider in fields.objects("extensionProviders")),
        default_providers=tuple(fields.inner("defaultProviders", "accessLogging").texts("accessLogging")),
        registry_only=policy == "REGISTRY_ONLY",
        detection_timeout=fields.duration("protocolDetectionTimeout", DETECTION_TIMEOUT),
        root_namespace=fields.text("rootNamespace") or ROOT_NAMESPACE,
    )


def _read_format(fields: Fields, key: str, *, is_json: bool) -> tuple[str | None, Mapping[str, object] | None, bool]:
    """Return a format of the mesh config: a text, or for JSON a text that is itself a JSON object."""
    text = fields.text(key)
    if not text or not is_json:
        _check_commands(fields, key, text)
        return (text or None, None, is_json)
    import json

    try:
        names = json.loads(text, parse_constant=_no_number)
    except ValueError:
        names = None
    if not isinstance(names, dict):
        raise fields.error(key, "expected a JSON object, because accessLogEncoding is JSON")
    _check_commands(fields, key, names)
    return (None, names, True)


def _check_commands(fields: Fields, key: str, value: object) -> None:
    """Raise FieldError for a percent sign that begins no command: Envoy does not start with it."""
    if isinstance(value, str) and "%" in COMMAND_OPERATOR.sub("", value):
        raise fields.error(key, "expected commands such as %START_TIME%, and %% for a percent sign")
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check_commands(fields, key, part)


def _no_number(word: str) -> None:
    raise ValueError(word)  # NaN and the like, which Python takes for JSON


def _read_provider(fields: Fields) -> tuple[str, FileLog]:
    fields.require_known("name", "envoyFileAccessLog")
    if "name" not in fields:
        raise fields.error("name", "missing: expected the provider's name")
    if "envoyFileAccessLog" not in fields:
        raise fields.error("envoyFileAccessLog", "missing: only providers that log to a file are supported")
    file = fields.inner("envoyFileAccessLog", "path", "logFormat")
    form = file.inner("logFormat", "text", "labels")
    names = form.inner("labels").plain() if "labels" in form else None
    if names is not None and "text" in form:
        raise form.error("labels", "expected text or labels, not both")
    _check_commands(form, "text", form.text("text"))
    _check_commands(form, "labels", names)
    return fields.text("name"), FileLog(
        file.text("path") or STDOUT, form.text("text") or None, names, names is not None
    )
