"""The answers of Istio's webhooks and injector to labels of namespace and pod: 8 namespaces, 12 pods, 96 cells.

Measured with Istio's webhook configuration on a real API server, revision ``default``, without automatic injection.
"""

from typing import Any

INJECT, INJECTION, REVISION = "sidecar.istio.io/inject", "istio-injection", "istio.io/rev"

NAMESPACES: dict[str, dict[str, str]] = {
    "none": {},
    "enabled": {INJECTION: "enabled"},
    "disabled": {INJECTION: "disabled"},
    "other": {INJECTION: "yes"},
    "rev-default": {REVISION: "default"},
    "rev-canary": {REVISION: "canary"},
    "enabled-rev-default": {INJECTION: "enabled", REVISION: "default"},
    "disabled-rev-default": {INJECTION: "disabled", REVISION: "default"},
}

PODS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "label-true": {"labels": {INJECT: "true"}},
    "label-false": {"labels": {INJECT: "false"}},
    "label-other": {"labels": {INJECT: "yes"}},
    "rev-default": {"labels": {REVISION: "default"}},
    "rev-canary": {"labels": {REVISION: "canary"}},
    "rev-default-true": {"labels": {REVISION: "default", INJECT: "true"}},
    "rev-canary-true": {"labels": {REVISION: "canary", INJECT: "true"}},
    "annotation-true": {"annotations": {INJECT: "true"}},
    "annotation-false": {"annotations": {INJECT: "false"}},
    "label-true-annotation-false": {"labels": {INJECT: "true"}, "annotations": {INJECT: "false"}},
    "label-false-annotation-true": {"labels": {INJECT: "false"}, "annotations": {INJECT: "true"}},
}

_ALL_BUT_REFUSALS = {*PODS} - {"label-false", "label-false-annotation-true", "annotation-false"}
_BY_THE_POD = {"label-true", "rev-default", "rev-default-true", "label-true-annotation-false"}

INJECTED: dict[str, set[str]] = {
    "none": _BY_THE_POD,
    "enabled": _ALL_BUT_REFUSALS,
    "disabled": set(),
    "other": set(),
    "rev-default": _ALL_BUT_REFUSALS,
    "rev-canary": set(),
    "enabled-rev-default": _ALL_BUT_REFUSALS,
    "disabled-rev-default": set(),
}
"""The pods that get a sidecar, by namespace."""
