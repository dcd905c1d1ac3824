"""The chart and the manifest; `make test-cluster` has helm, and installs both on a real node."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_netns import require
from support.cluster import builds

ROOT = Path(__file__).resolve().parents[3]
CHART, MANIFEST = ROOT / "deploy" / "chart", ROOT / "deploy" / "istio-capture.yaml"


def objects(kind: str) -> list[Any]:
    return [each for each in yaml.safe_load_all(MANIFEST.read_text()) if each and each["kind"] == kind]


def test_the_manifest_was_made_from_this_chart() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import manifest
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    assert f"# chart: {manifest.digest()}\n" in MANIFEST.read_text(), "run `make manifest`"


@pytest.mark.cluster
def test_helm_renders_the_manifest() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "manifest.py"), "--helm", helm(), "--check"]
    assert subprocess.run(command, check=False).returncode == 0


def helm() -> str:
    found = builds.find("helm")
    require(found, "the program helm is missing: `make test-cluster` builds it")
    return str(found)


@pytest.mark.cluster
def test_on_every_platform_a_path_is_mounted_once() -> None:
    """The API server refuses a second mount at one path."""
    for platform in json.loads((CHART / "values.schema.json").read_text())["properties"]["platform"]["enum"]:
        command = [helm(), "template", "capture", str(CHART), "--kube-version=1.34.4", f"--set=platform={platform}"]
        text = subprocess.run(command, check=True, capture_output=True).stdout
        [spec] = [each["spec"]["template"]["spec"] for each in yaml.safe_load_all(text) if each["kind"] == "DaemonSet"]
        mounts = spec["containers"][0]["volumeMounts"]
        paths = [mount["mountPath"] for mount in mounts]
        assert len({*paths}) == len(paths), platform
        assert [mount["name"] for mount in mounts] == [volume["name"] for volume in spec["volumes"]], platform


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert_described(values, schema, "values")


def assert_described(values: Any, schema: Any, where: str) -> None:
    if "properties" not in schema:
        return
    assert schema["additionalProperties"] is False, where
    assert values.keys() == schema["properties"].keys(), where
    for key, value in values.items():
        described = schema["properties"][key]
        kinds = {"string": str, "boolean": bool, "object": dict, "array": list, "integer": int}
        assert isinstance(value, kinds[described["type"]]), f"{where}.{key}"
        assert "enum" not in described or value in described["enum"], f"{where}.{key}"
        if isinstance(value, dict):
            assert_described(value, described, f"{where}.{key}")


def test_the_agent_has_no_privilege() -> None:
    [daemon_set] = objects("DaemonSet")
    [container] = daemon_set["spec"]["template"]["spec"]["containers"]
    context = container["securityContext"]
    assert (context["privileged"], context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (
        False,
        False,
        True,
    )
    assert context["capabilities"]["drop"] == ["ALL"]
    assert "ports" not in container  # a host port, with which an update could not start a second agent


def test_the_agent_may_look_at_pods_and_report() -> None:
    rules = [rule for each in objects("ClusterRole") for rule in each["rules"]]
    assert sorted((*rule["resources"], *rule["verbs"]) for rule in rules) == [
        ("events", "create"),
        ("nodes", "get"),
        ("pods", "get", "list", "watch"),
    ]


def test_the_arguments_are_those_of_the_program() -> None:
    from click.testing import CliRunner

    from cni.agent.commands import agent

    [daemon_set] = objects("DaemonSet")
    arguments = daemon_set["spec"]["template"]["spec"]["containers"][0]["args"]
    result = CliRunner().invoke(agent, [*arguments, "--help"])
    assert result.exit_code == 0
    known = {flag for parameter in agent.params for flag in parameter.opts}
    assert {argument.partition("=")[0] for argument in arguments} <= known


# --- alerts and dashboard ------------------------------------------------------------------------------------------


def metric_names() -> set[str]:
    """Return the metrics that an agent publishes, labels left out."""
    from prometheus_client import CollectorRegistry, generate_latest

    from cni.agent.health import Health
    from cni.agent.metrics import COUNTERS, AgentCollector

    health = Health()
    health.note(token_expires=1.0, pod_states={"no-rules": ["shop/web"]})
    for name in COUNTERS:
        health.count(name, "x")
    registry = CollectorRegistry()
    registry.register(AgentCollector(health))
    text = generate_latest(registry).decode()
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


def test_alerts_and_dashboard_use_metrics_that_there_are() -> None:
    alerts = json.loads((CHART / "files" / "alerts.json").read_text())["groups"][0]["rules"]
    board = json.loads((CHART / "files" / "dashboard.json").read_text())
    expressions = [alert["expr"] for alert in alerts] + [panel["targets"][0]["expr"] for panel in board["panels"]]
    names = {name for text in expressions for name in re.findall(r"\bcapture_[a-z_]+", text)}
    assert names
    assert names <= metric_names()


def test_every_alert_is_explained() -> None:
    alerts = json.loads((CHART / "files" / "alerts.json").read_text())["groups"][0]["rules"]
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "alerts.md").read_text(), re.MULTILINE)
    assert [alert["alert"] for alert in alerts] == headings
