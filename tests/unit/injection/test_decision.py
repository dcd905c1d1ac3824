"""Who gets a sidecar: Istio's answers, cell by cell."""

from typing import Any

import pytest

from injection.decision import decide
from support.cluster.injection_matrix import INJECTED, PODS


def test_a_pod_that_the_webhook_selects_gets_istios_answer() -> None:
    """A namespace with the label enabled selects each pod; the policy on a real API server is tested with all cells."""
    assert {name for name, pod in PODS.items() if decide(pod, {}, "shop").inject} == INJECTED["enabled"]


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
