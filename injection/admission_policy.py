"""Injection by the API server itself: a MutatingAdmissionPolicy, its binding, and its parameters (KEP-3962).

No server, certificate or outage: the expressions (CEL) run where pods are created. They mean what ``decision``,
``settings`` and ``template`` mean; tests on a real API server compare both. JSON is a literal of CEL, so
containers are written as JSON in which only what depends on the pod or the parameters is an expression.
"""

from __future__ import annotations

import json
from typing import Any

from capture.model.values import Value
from capture.settings import options
from capture.settings.options import Option
from capture.settings.pod import INIT_CONTAINER, PROXY_CONTAINER
from capture.settings.settings import Settings
from cni.decision import INJECT
from cni.pod import STATUS_ANNOTATION, TEMPLATES_ANNOTATION
from initcontainer.arguments import SUBCOMMAND
from injection import decision
from injection.inject import SIDECAR
from injection.plan import NATIVE_ANNOTATION, proxy_uid_and_gid
from injection.pods import Workload
from injection.settings import (
    DEFAULT_STATUS_PORT,
    ENVOY_PORTS,
    IF_GIVEN,
    NO_CAPTURE,
    OPTIONS_BY_FLAG,
    STATUS_PORT_ANNOTATION,
    PodSettings,
)
from injection.template import (
    VALIDATION_CONTAINER,
    InjectionError,
    Template,
    as_native,
    init_container,
    validation_container,
)

POLICY_NAME = "istio-capture-injection"
POLICY_NAMESPACE = "kube-system"
"""Where the parameters are: write access to them decides which image runs in every injected pod."""
GROUP = "admissionregistration.k8s.io"
VERSIONS = ("v1", "v1beta1")
"""Stable from Kubernetes 1.36; v1beta1 in 1.34 and 1.35, behind the feature gate MutatingAdmissionPolicy."""

ANNOTATIONS = "variables.annotations"
DELIMITER = "\x00"
"""Around an expression within a literal; no text of Kubernetes has it."""


def cel_expression(text: str) -> str:
    """Return a text that ``cel_literal`` takes for an expression."""
    return f"{DELIMITER}{text}{DELIMITER}"


def cel_literal(value: object) -> str:
    """Return a value as CEL; texts made by ``cel_expression`` are put in as they are.

    A map's values are ``dyn``: Kubernetes requires one type for those of a literal.
    """
    if isinstance(value, str):
        whole = value.startswith(DELIMITER) and value.endswith(DELIMITER) and len(value) > 1
        return value[1:-1] if whole else json.dumps(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: dyn({cel_literal(each)})" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(cel_literal, value)) + "]"
    return json.dumps(value)


class Variable(Value):
    """A named expression, which later ones may use as ``variables.NAME``."""

    name: str
    expression: str


def policy_objects(template: Template, base: Settings, version: str = "v1") -> list[dict[str, Any]]:
    """Return the policy, its binding and the ConfigMap with its parameters.

    InjectionError for what differs from pod to pod, which a policy cannot express.
    """
    _refuse_pod_facts(template)
    policy = _Policy(template, base)
    api = f"{GROUP}/{version}"
    return [
        {
            "apiVersion": api,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": POLICY_NAME},
            "spec": policy.spec(),
        },
        {
            "apiVersion": api,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": POLICY_NAME},
            "spec": {
                "policyName": POLICY_NAME,
                "paramRef": {"name": POLICY_NAME, "namespace": POLICY_NAMESPACE, "parameterNotFoundAction": "Deny"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": POLICY_NAME, "namespace": POLICY_NAMESPACE},
            "data": policy.parameters(),
        },
    ]


def _refuse_pod_facts(template: Template) -> None:
    for telemetry in template.mesh_objects.telemetries:
        if telemetry.selector:
            raise InjectionError(
                f"{telemetry.origin}: spec.selector: one bootstrap is for all pods here",
                "Inject the workload's manifest instead, or drop the selector.",
            )


class _Policy:
    """Writes the expressions for one template."""

    def __init__(self, template: Template, base: Settings) -> None:
        self._template = template
        self._base = base
        self._any = Workload("Pod", "default", "pod", (), {"metadata": {}, "spec": {}})
        context = template.proxy_of_fragment().get("securityContext") or {}
        self._fixed = PodSettings(base, {}, {}, *proxy_uid_and_gid(base, context))
        self._fixed.checked()
        if template.uses_plugin:
            self._fixed.plugin_annotations()  # refuses settings that have no annotation

    def spec(self) -> dict[str, Any]:
        """Return the policy's specification."""
        return {
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded",
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                ],
                "namespaceSelector": {
                    "matchExpressions": [
                        {
                            "key": "kubernetes.io/metadata.name",
                            "operator": "NotIn",
                            "values": list(decision.SYSTEM_NAMESPACES),
                        }
                    ]
                },
            },
            "variables": [{"name": each.name, "expression": each.expression} for each in self._policy_variables()],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": self._patch_list()}}],
        }

    def parameters(self) -> dict[str, str]:
        """Return the parameters: images, and Envoy's bootstraps."""
        parameters = {"init-image": self._template.init_image}
        if self._template.fragment is None:
            parameters["image"] = self._template.image
            for name, mode in (("bootstrap", "REDIRECT"), ("bootstrap-tproxy", "TPROXY")):
                parameters[name] = self._template.proxy(self._any, self._mode_settings(mode))["args"][1]
        return parameters

    def _mode_settings(self, mode: str) -> PodSettings:
        annotations = {options.INTERCEPTION_MODE.annotations[0]: mode}
        return PodSettings(self._base, annotations, {}, self._fixed.uid, self._fixed.gid)

    # -- who, and with what settings

    def _policy_variables(self) -> list[Variable]:
        ports = self._base.explicit.get(options.EXCLUDED_INBOUND_PORTS)
        return [
            Variable("labels", "has(object.metadata.labels) ? object.metadata.labels : {}"),
            Variable("annotations", "has(object.metadata.annotations) ? object.metadata.annotations : {}"),
            Variable("namespaceLabels", "has(namespaceObject.metadata.labels) ? namespaceObject.metadata.labels : {}"),
            Variable("containers", _ALL_CONTAINERS),
            Variable("injects", _injection_condition()),
            Variable("mode", _annotation_value(options.INTERCEPTION_MODE, self._fixed.mode)),
            Variable("native", _native_condition(default=self._template.is_native)),
            Variable("uid", _own_uid(self._fixed.uid)),
            Variable("statusPort", f"{_first_annotation((STATUS_PORT_ANNOTATION,), DEFAULT_STATUS_PORT)}.trim()"),
            Variable("annotatedPorts", _annotation_value(options.EXCLUDED_INBOUND_PORTS, ports.text if ports else "")),
            Variable("withStatusPort", _WITH_STATUS_PORT),
            Variable(
                "excluded", f"'{ENVOY_PORTS}' + (variables.withStatusPort == '' ? '' : ',' + variables.withStatusPort)"
            ),
            Variable("arguments", self._init_arguments()),
            Variable("captureContainer", cel_literal(self._capture_container())),
            Variable("proxy", self._proxy_expression(native=False)),
            Variable("nativeProxy", self._proxy_expression(native=True)),
        ]

    def _init_arguments(self) -> str:
        """Return the arguments of ``istio-init`` as a list, in the order of ``PodSettings.arguments``."""
        fixed = self._fixed
        ports: tuple[Option[Any], ...] = (options.PROXY_PORT, options.INBOUND_CAPTURE_PORT)
        chosen: tuple[Option[Any], ...] = IF_GIVEN
        networks = (options.OUTBOUND_NETWORKS, options.EXCLUDED_OUTBOUND_NETWORKS, options.INBOUND_PORTS)
        always = [SUBCOMMAND, *(word for each in ports for word in (f"-{each.short}", fixed.text(each)))]
        always += ["-u", cel_expression("variables.uid"), "-m", cel_expression("variables.mode")]
        for option in networks:
            always += [f"-{option.short}", cel_expression(_annotation_value(option, self._base.text(option)))]
        always += ["-d", cel_expression("variables.excluded")]
        parts = [cel_literal(always), *map(self._if_given, chosen)]
        if fixed.gid != fixed.uid:
            parts.append(cel_literal(["-g", str(fixed.gid)]))
        rest = [word for word in fixed.arguments() if word.startswith("--")]
        return " + ".join([*parts, *([cel_literal(rest)] if rest else [])])

    def _if_given(self, option: Option[Any]) -> str:
        pair = cel_literal([f"-{option.short}", cel_expression(_annotation_value(option, self._base.text(option)))])
        if option in self._base.explicit:
            return pair
        is_given = " || ".join(f"'{name}' in {ANNOTATIONS}" for name in option.annotations)
        return f"({is_given} ? {pair} : [])"

    # -- what is put in

    def _capture_container(self) -> dict[str, Any]:
        make = validation_container if self._template.uses_plugin else init_container
        container = make("", self._fixed)
        arguments = "variables.arguments"
        if self._template.uses_plugin:
            arguments += " + ['--run-validation', '--skip-rule-apply']"
        container["image"] = cel_expression("string(params.data['init-image'])")
        container["args"] = cel_expression(arguments)
        return container

    def _proxy_expression(self, *, native: bool) -> str:
        if self._template.fragment is not None:
            own = self._template.proxy_of_fragment()
            return cel_literal(as_native(own) if native else own)
        proxies = {}
        for mode, parameter in (("REDIRECT", "bootstrap"), ("TPROXY", "bootstrap-tproxy")):
            proxy = self._template.proxy(self._any, self._mode_settings(mode))
            proxy["image"] = cel_expression("string(params.data['image'])")
            proxy["args"][1] = cel_expression(f"string(params.data['{parameter}'])")
            proxies[mode] = cel_literal(as_native(proxy) if native else proxy)
        return f"variables.mode == 'TPROXY' ? {proxies['TPROXY']} : {proxies['REDIRECT']}"

    def _patch_list(self) -> str:
        container = VALIDATION_CONTAINER if self._template.uses_plugin else INIT_CONTAINER
        captured = f"variables.mode != '{NO_CAPTURE}' && {_is_missing(container)}"
        missing = _is_missing(PROXY_CONTAINER)
        early = "true" if self._template.uses_plugin else "variables.native"
        parts = [
            _patches_if("!has(object.spec.initContainers)", _add("/spec/initContainers", "[]")),
            *self._fragment_patches(),
            _patches_if(f"{missing} && variables.native", _add("/spec/initContainers/0", "variables.nativeProxy")),
            _patches_if(f"{captured} && {early}", _add("/spec/initContainers/0", "variables.captureContainer")),
            _patches_if(f"{captured} && !{early}", _add("/spec/initContainers/-", "variables.captureContainer")),
            _patches_if(f"{missing} && !variables.native", _add("/spec/containers/-", "variables.proxy")),
            _patches_if("!has(object.metadata.annotations)", _add("/metadata/annotations", "{}")),
            *self._annotation_patches(),
            _add_annotation(STATUS_ANNOTATION, self._status_expression(container)),
        ]
        return "variables.injects ? (" + "\n + ".join(parts) + ") : []"

    def _fragment_patches(self) -> list[str]:
        others = self._template.others()
        parts = [
            _patches_if(_is_missing(container["name"]), _add("/spec/initContainers/0", cel_literal(container)))
            for container in reversed(others.init_containers)
        ]
        parts += [
            _patches_if(_is_missing(container["name"]), _add("/spec/containers/-", cel_literal(container)))
            for container in others.containers
        ]
        if others.volumes:
            parts.append(_patches_if("!has(object.spec.volumes)", _add("/spec/volumes", "[]")))
        return parts + [
            _patches_if(f"!has(object.spec.volumes) || !object.spec.volumes.exists(v, v.name == '{volume['name']}')",
                _add("/spec/volumes/-", cel_literal(volume)))
            for volume in others.volumes
        ]  # fmt: skip

    def _annotation_patches(self) -> list[str]:
        """Return the patches with what the plugin cannot know; as ``PodSettings.plugin_annotations``."""
        if not self._template.uses_plugin:
            return []
        needed = self._fixed.plugin_annotations()
        ports = options.EXCLUDED_INBOUND_PORTS.annotations[0]
        needed.pop(ports, None)
        captured = f"variables.mode != '{NO_CAPTURE}'"
        parts = [
            _patches_if(
                " && ".join([captured, *(f"!('{other}' in {ANNOTATIONS})" for other in _names_of(name))]),
                _add_annotation(name, cel_literal(value)),
            )
            for name, value in needed.items()
        ]
        own = _first_annotation((ports,), "")
        differs = f"{captured} && !(variables.withStatusPort in [{own}, '{DEFAULT_STATUS_PORT}'])"
        return [*parts, _patches_if(differs, _add_annotation(ports, "variables.withStatusPort"))]

    def _status_expression(self, capture_container: str) -> str:
        """Return the status in Istio's form, as an expression."""
        others = self._template.others()

        def text(*, native: bool, captured: bool) -> str:
            init = [each["name"] for each in others.init_containers] + ([PROXY_CONTAINER] if native else [])
            late = [each["name"] for each in others.containers] + ([] if native else [PROXY_CONTAINER])
            names = ([capture_container] if captured else []) + init
            status = {
                "initContainers": names or None,
                "containers": late or None,
                "volumes": [each["name"] for each in others.volumes] or None,
                "imagePullSecrets": None,
                "revision": decision.DEFAULT_REVISION,
            }
            return cel_literal(json.dumps(status))

        def status_by_mode(*, native: bool) -> str:
            uncaptured, captured = text(native=native, captured=False), text(native=native, captured=True)
            return f"(variables.mode == '{NO_CAPTURE}' ? {uncaptured} : {captured})"

        return f"(variables.native ? {status_by_mode(native=True)} : {status_by_mode(native=False)})"


# --- expressions ---------------------------------------------------------------------------------

_ALL_CONTAINERS = (
    "(has(object.spec.initContainers) ? object.spec.initContainers.map(c, c.name) : [])"
    " + object.spec.containers.map(c, c.name)"
)
_WITH_STATUS_PORT = (
    "variables.statusPort in ['', '0'] + variables.annotatedPorts.split(',') ? variables.annotatedPorts :"
    " (variables.annotatedPorts.split(',').map(p, p.trim()).filter(p, p != '') + [variables.statusPort]).join(',')"
)


def _annotation_value(option: Option[Any], default: str) -> str:
    return _first_annotation(option.annotations, default)


def _first_annotation(names: tuple[str, ...], default: str) -> str:
    """Return the text of the first of these annotations that is there, else the default."""
    text = json.dumps(default)
    for name in reversed(names):
        text = f"('{name}' in {ANNOTATIONS} ? string({ANNOTATIONS}['{name}']) : {text})"
    return text


def _names_of(annotation: str) -> tuple[str, ...]:
    return next(
        (each.annotations for each in OPTIONS_BY_FLAG.values() if annotation in each.annotations), (annotation,)
    )


def _injection_condition() -> str:
    """Return who gets a sidecar: those whom Istio's webhooks select, then ``decision.decide``; no pod gets two."""
    inject, label, revision = INJECT, decision.INJECTION_LABEL, decision.REVISION_LABEL
    own = f"('{inject}' in variables.labels ? string(variables.labels['{inject}']) : '')"
    word = f"('{inject}' in variables.labels ? {own} : {_first_annotation((inject,), '')})"
    default = decision.DEFAULT_REVISION
    selected = (
        f"({own} == 'false' ? false"
        f" : '{label}' in variables.namespaceLabels ? string(variables.namespaceLabels['{label}']) == 'enabled'"
        f" : '{revision}' in variables.namespaceLabels ? string(variables.namespaceLabels['{revision}']) == '{default}'"
        f" : '{revision}' in variables.labels ? string(variables.labels['{revision}']) == '{default}'"
        f" : {own} == 'true')"
    )
    templates = _first_annotation((TEMPLATES_ANNOTATION,), SIDECAR)
    wants_sidecar = f"{templates}.split(',').exists(t, t.trim() == '{SIDECAR}')"
    host = "(has(object.spec.hostNetwork) && object.spec.hostNetwork)"
    return f"{selected} && {word} != 'false' && !{host} && {wants_sidecar} && !('{STATUS_ANNOTATION}' in {ANNOTATIONS})"


def _native_condition(*, default: bool) -> str:
    word = _first_annotation((NATIVE_ANNOTATION,), "")
    return f"{word} in ['true', 'false'] ? {word} == 'true' : {json.dumps(default)}"


def _own_uid(default: int) -> str:
    """Return the user of the pod's own ``istio-proxy``, else that of our template."""
    own_uids = (
        "((has(object.spec.initContainers) ? object.spec.initContainers : []) + object.spec.containers)"
        f".filter(c, c.name == '{PROXY_CONTAINER}' && has(c.securityContext) && has(c.securityContext.runAsUser)"
        " && c.securityContext.runAsUser != 0).map(c, string(c.securityContext.runAsUser))"
    )
    return f"({own_uids} + ['{default}'])[0]"


def _is_missing(name: str) -> str:
    return f"!('{name}' in variables.containers)"


def _add(path: str, value: str) -> str:
    return f'[JSONPatch{{op: "add", path: "{path}", value: {value}}}]'


def _add_annotation(name: str, value: str) -> str:
    return _add(f"/metadata/annotations/{name.replace('~', '~0').replace('/', '~1')}", value)


def _patches_if(condition: str, patches: str) -> str:
    return f"({condition} ? {patches} : [])"
