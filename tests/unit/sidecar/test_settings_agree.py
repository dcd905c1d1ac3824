"""The bootstrap follows from the settings that give the rules, from wherever they come."""

import json
from pathlib import Path
from typing import Any

import pytest

from capture.cli.group import run

INIT = """
kind: Pod
metadata: {{name: p, namespace: n}}
spec:
  initContainers:
  - name: istio-init
    args: [istio-iptables, -p, "15001", -z, "15006", -m, {mode}, -t, "77", --redirect-dns]
  containers: [{{name: istio-proxy}}, {{name: app, ports: [{{name: db, containerPort: 3306}}]}}]
"""
ANNOTATED = """
kind: Pod
metadata: {{name: p, namespace: n, annotations: {{sidecar.istio.io/interceptionMode: {mode}}}}}
spec: {{containers: [{{name: istio-proxy, env: [{{name: ISTIO_META_DNS_CAPTURE, value: "true"}}]}}]}}
"""


def bootstrap(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["sidecar", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def listener(plain: Any, name: str) -> Any:
    return next(one for one in plain["static_resources"]["listeners"] if one["name"] == name)


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_flags_arguments_and_annotations_give_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    servers = tmp_path / "resolv.conf"  # those of this machine are not the pod's
    servers.write_text("nameserver 192.0.2.1\n")
    monkeypatch.setattr("capture.system.pod_host.RESOLV_CONF", str(servers))
    init, annotated = tmp_path / "init.yaml", tmp_path / "annotated.yaml"
    init.write_text(INIT.format(mode=mode))
    annotated.write_text(ANNOTATED.format(mode=mode))
    dns = ("--redirect-dns", "--capture-all-dns")

    by_flags = bootstrap(capsys, "--pod", "n/p", "-m", mode, *dns, "-t", "77")

    assert bootstrap(capsys, "-f", str(init), "--pod", "n/p") == by_flags
    assert bootstrap(capsys, "-f", str(annotated), "-t", "77") == by_flags
    assert listener(by_flags, "virtualInbound").get("transparent", False) == (mode == "TPROXY")
    assert ('"mark": 77' in json.dumps(by_flags)) == (mode == "TPROXY")


def test_ports_are_those_of_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    plain = bootstrap(capsys, "-p", "16001", "-z", "16006")

    assert listener(plain, "virtualOutbound")["address"]["socket_address"]["port_value"] == 16001
    assert listener(plain, "virtualInbound")["address"]["socket_address"]["port_value"] == 16006


def test_a_service_at_a_port_of_the_proxy_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("kind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 15021}]}")

    assert run(["sidecar", "-f", str(file)]) == 2
    assert "port 15021 is one of the proxy's own" in capsys.readouterr().err


def test_arguments_that_cannot_be_used_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(INIT.format(mode="SOMETIMES"))

    assert run(["sidecar", "-f", str(file)]) == 2
    assert "Pod n/p" in (error := capsys.readouterr().err)
    assert "spec.initContainers[0]" in error
    assert "SOMETIMES" in error


@pytest.mark.parametrize("name", ["", "a/", "/a", "a/b/c", "a b", "ä/b"])
def test_a_text_that_is_no_pods_name_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sidecar", "--pod", name]) == 2
    assert f"--pod: invalid value {name!r}: expected NAMESPACE/NAME" in capsys.readouterr().err


def test_a_pod_that_is_not_among_those_of_the_files_is_no_pod_with_the_usual_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(INIT.format(mode="TPROXY"))

    assert run(["sidecar", "-f", str(file), "--pod", "n/other"]) == 1
    assert "error: no pod n/other among the files" in capsys.readouterr().err
