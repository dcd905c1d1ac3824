"""The policy as data; what an API server makes of it is in tests/cluster."""

import json
from typing import Any

import pytest
import yaml

from capture.cli.group import run
from capture.settings.settings import Settings
from injection.admission_policy import cel_expression, cel_literal, policy_objects
from injection.settings import parse_set
from injection.template import Fragment, InjectionError, Template
from sidecar.bootstrap import MeshObjects, read_mesh_objects
from sidecar.documents import documents


def test_json_is_a_literal_with_expressions_in_it() -> None:
    value = {"a": ['say "hi"', 1, True, None], "image": cel_expression("params.data['image']")}

    assert cel_literal(value) == '{"a": dyn(["say \\"hi\\"", 1, true, null]), "image": dyn(params.data[\'image\'])}'


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_the_parameters_are_those_that_the_binding_names(version: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["inject", "--policy", "--api-version", version, "--image", "envoy:1"]) == 0
    policy, binding, parameters = yaml.safe_load_all(capfd.readouterr().out)

    assert policy["apiVersion"] == binding["apiVersion"] == f"admissionregistration.k8s.io/{version}"
    assert policy["metadata"]["name"] == binding["spec"]["policyName"]
    reference = binding["spec"]["paramRef"]
    assert reference.pop("parameterNotFoundAction") == "Deny"
    assert parameters["metadata"] == reference
    assert parameters["data"]["image"] == "envoy:1"
    assert json.loads(parameters["data"]["bootstrap"])["static_resources"]["listeners"]


def expressions(template: Template, base: Settings) -> dict[str, Any]:
    spec = policy_objects(template, base)[0]["spec"]
    return {one["name"]: one["expression"] for one in spec["variables"]}


def test_settings_for_all_pods_are_defaults_of_the_annotations() -> None:
    base = parse_set(("istio-service-exclude-cidr=10.0.0.0/8", "envoy-port=16001", "profile=current"))
    arguments = expressions(Template(), base)["arguments"]

    assert '"-p", "16001"' in arguments
    assert ': "10.0.0.0/8")' in arguments
    assert arguments.endswith(' + ["--profile=current"]')


def test_settings_that_differ_from_pod_to_pod_are_refused() -> None:
    text = "kind: Telemetry\nmetadata: {name: t}\nspec: {selector: {matchLabels: {app: a}}, accessLogging: [{}]}"
    mesh_objects: MeshObjects = read_mesh_objects(list(documents(text, "mesh.yaml")))

    with pytest.raises(InjectionError, match=r"Telemetry default/t .*spec.selector"):
        policy_objects(Template(mesh_objects=mesh_objects), Settings({}))
    with pytest.raises(Exception, match="--envoy-port"):
        policy_objects(Template(uses_plugin=True), parse_set(("envoy-port=16001",)))


def test_a_fragment_takes_the_place_of_envoy() -> None:
    fragment = Fragment(
        containers=({"name": "istio-proxy", "image": "mine:1"},), volumes=({"name": "v", "emptyDir": {}},)
    )
    policy, _, parameters = policy_objects(Template(fragment=fragment), Settings({}))

    assert set(parameters["data"]) == {"init-image"}
    assert '"mine:1"' in json.dumps(policy).replace("\\", "")
    assert "/spec/volumes/-" in policy["spec"]["mutations"][0]["jsonPatch"]["expression"]
