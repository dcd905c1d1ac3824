"""Which pods get a sidecar: labels of the API server's selectors, and the injector's rules for a pod.

Both are Istio's (``manifests/charts/istio-control/istio-discovery/templates/mutatingwebhook.yaml`` and
``pkg/kube/inject/inject.go``, injectRequired): labels and annotations mean what they mean there. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capture.model.values import Value
from cni.decision import INJECT

INJECTION_LABEL = "istio-injection"
REVISION_LABEL = "istio.io/rev"
DEFAULT_REVISION = "default"

SYSTEM_NAMESPACES = ("kube-system", "kube-public", "kube-node-lease", "local-path-storage")
"""Istio's list (pkg/kube/inject, IgnoredNamespaces)."""


class InjectionDecision(Value):
    """Whether a pod gets a sidecar, why, and warnings about it."""

    inject: bool
    reason: str
    warnings: tuple[str, ...] = ()


def decide(metadata: Mapping[str, Any], spec: Mapping[str, Any], namespace: str) -> InjectionDecision:
    """Return whether a pod that the injector is shown gets a sidecar; the first thing that holds counts.

    Only the exact words true and false count here.
    """
    if spec.get("hostNetwork"):
        return InjectionDecision(inject=False, reason="it uses the node's network (hostNetwork)")
    if namespace in SYSTEM_NAMESPACES:
        return InjectionDecision(inject=False, reason=f"{namespace} is a namespace of the system")
    kind, value = _inject_value(metadata)
    if value in ("true", "false"):
        return InjectionDecision(inject=value == "true", reason=f"{kind} {INJECT} is {value}")
    warnings = (f"{kind} {INJECT}: {value!r} is neither true nor false, and decides nothing",) if kind else ()
    return InjectionDecision(inject=True, reason="injection is the default", warnings=warnings)


def _inject_value(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Return the pod's own value: its label if it is there, even empty; else its annotation."""
    for kind, key in (("label", "labels"), ("annotation", "annotations")):
        texts = metadata.get(key) or {}
        if INJECT in texts:
            return kind, str(texts[INJECT])
    return "", ""
