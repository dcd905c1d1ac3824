"""Who gets a sidecar: Istio's answers, cell by cell."""

from typing import Any

import pytest

from injection.decision import decide, is_selected
from support.cluster.injection_matrix import INJECTED, NAMESPACES, PODS


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_labels_select_as_istios_webhooks_do(namespace: str) -> None:
    injected = {
        name
        for name, pod in PODS.items()
        if is_selected(NAMESPACES[namespace], pod.get("labels", {})) and decide(pod, {}, "shop").inject
    }

    assert injected == INJECTED[namespace]


def test_another_revision_leaves_what_is_not_its_own() -> None:
    assert is_selected({"istio.io/rev": "canary"}, {}, "canary")
    assert is_selected({}, {"istio.io/rev": "canary"}, "canary")
    assert not is_selected({"istio-injection": "enabled"}, {}, "canary")
    assert not is_selected({}, {"sidecar.istio.io/inject": "true"}, "canary")


INJECT = "sidecar.istio.io/inject"


@pytest.mark.parametrize(
    ("metadata", "spec", "namespace", "injected", "reason"),
    [
        ({}, {}, "shop", True, "injection is the default"),
        ({"labels": {INJECT: "true"}}, {"hostNetwork": True}, "shop", False, "hostNetwork"),
        ({"labels": {INJECT: "true"}}, {}, "kube-system", False, "namespace of the system"),
        ({}, {}, "local-path-storage", False, "namespace of the system"),
        ({"labels": {INJECT: "false"}, "annotations": {INJECT: "true"}}, {}, "shop", False, "label"),
        ({"labels": {INJECT: ""}, "annotations": {INJECT: "false"}}, {}, "shop", True, "default"),
        ({"annotations": {INJECT: "false"}}, {}, "shop", False, "annotation"),
        ({"annotations": {INJECT: "False"}}, {}, "shop", True, "default"),
    ],
)
def test_the_first_thing_that_holds_counts(
    metadata: dict[str, Any], spec: dict[str, Any], namespace: str, *, injected: bool, reason: str
) -> None:
    decision = decide(metadata, spec, namespace)

    assert decision.inject == injected
    assert reason in decision.reason


def test_a_word_that_decides_nothing_is_warned_of() -> None:
    decision = decide({"labels": {INJECT: "yes"}}, {}, "shop")

    assert decision.inject
    assert decision.warnings == (f"label {INJECT}: 'yes' is neither true nor false, and decides nothing",)
