"""Every command's JSON, of real namespaces, by the schemas that the package brings; also where a command fails."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from capture.cli.group import COMMANDS, capture, run
from capture.cli.parameter_types import ParameterType
from cni.agent.health import Health
from cni.agent.server import AgentServer
from pytest_netns import NamespaceFactory, Pod
from support.output.json_schemas import SCHEMAS, check_schema

WITHOUT_JSON = {"node agent", "node pod"}
"""The agent itself, which writes a log, and what runs another command."""
DNAT = "table ip x { chain c { type nat hook output priority -150; tcp dport 80 counter dnat to 10.0.0.9:81; }; }"
UNJUDGED = "-t mangle -A OUTPUT -m statistic --mode nth --every 2 --packet 0 -j DROP"
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: web}
"""


class Commands:
    """Runs commands in this process, and checks what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.used: set[str] = set()

    def __call__(self, line: str, schema: str, *more: str, code: int = 0) -> Any:
        words = [*shlex.split(line), *more]
        assert run([*words, "--format", "json"]) == code, self._capsys.readouterr()
        plain = json.loads(self._capsys.readouterr().out)
        check_schema(schema, plain)
        self.used.add(" ".join(words[:2]) if words[0] in ("cni", "node", "host") else words[0])
        return plain


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setattr(sys, "argv", [str(Path(sys.executable).with_name("capture"))])
    return Commands(capsys)


@pytest.fixture
def pod(netns: NamespaceFactory) -> Pod:
    return netns.pod_pair().pod


def of_leaves(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is no group, by its words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from of_leaves(below, (*words, name))
    else:
        yield " ".join(words), command


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$id"] == f"urn:capture:v1:{name}"
    assert SCHEMAS[name].get("properties", {}).get("schema") == (
        {"const": "capture/v1"} if name != "differences" else None
    )


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_output_about_live_rules_fits_its_schema(commands: Commands, pod: Pod, backend: str) -> None:
    at = ("--netns", pod.path)
    commands("verify", "verify", *at, code=4)
    commands("why", "why", *at, code=4)
    assert commands(f"apply --backend {backend} -o 5000-5040 --redirect-dns", "apply", *at)["backend"] == backend
    (warning,) = commands(f"apply --backend {backend} --profile current", "apply", *at)["warnings"]
    assert warning.startswith("recorded options are replaced by their defaults: `--istio-local-outbound-ports-exclude=")
    assert commands("verify", "verify", *at)["as_asked"]
    nat = commands("dump", "dump", *at)["tables"][0]
    assert nat["backend"] == backend
    for packet in ("tcp 203.0.113.9:80", "tcp 10.77.0.2:8080 --in eth0", "udp [2001:db8::1]:53 --uid 1337"):
        assert commands(f"trace {packet}", "trace", *at)["path"]
    assert commands("why tcp 203.0.113.9:80", "why", *at, code=4)["causes"][0]["kind"] == "not-listening"
    assert commands("explain", "explain", *at).keys() == {"schema", "ipv4", "ipv6", "impediments"}
    assert commands("doctor", "doctor", *at, code=4)["works"]
    assert commands("watch --once --interval 0.1", "watch", *at)["captured"]
    pod.run(["nft", DNAT])
    pod.run(["iptables-legacy", *shlex.split(UNJUDGED)])
    assert commands("verify", "verify", *at, code=4)["differences"][0]["effect"]["after"]["address"] == "10.0.0.9"
    assert commands("trace tcp 203.0.113.9:80", "trace", *at)["address"] == "10.0.0.9"
    commands("why", "why", *at, code=4)
    commands("explain --family ipv4", "explain", *at)
    commands("watch --once --interval 0.1", "watch", *at)
    assert commands("clean", "clean", *at)["removed"]
    assert not commands("clean", "clean", *at)["removed"]


def test_a_machine_that_captures_itself(commands: Commands, pod: Pod) -> None:
    pod.listener(*((address, port) for address in ("0.0.0.0", "::") for port in (15001, 15006)), uid=1337)
    with pod.entered():
        assert commands("host apply --keep", "apply")["changed"]
        assert commands("host status", "why")["causes"] == []
        assert commands("host clean", "clean")["removed"]


def test_commands_that_need_no_namespace(commands: Commands, tmp_path: Path) -> None:
    commands("render", "render")
    assert commands("diff '-x 10.0.0.0/8' '-o 5432'", "diff", code=4)["differences"]
    assert commands("diff '' ''", "diff")["equal"]
    (tmp_path / "web.yaml").write_text(DEPLOYMENT)
    manifest = str(tmp_path / "web.yaml")
    assert "istio-proxy" in commands("inject", "inject", "-f", manifest)["manifest"]
    commands("inject --check", "inject", "-f", manifest)
    commands("inject --policy", "inject")
    commands("sidecar", "sidecar")


def test_the_plugin_on_a_node(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "bin").mkdir()
    network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}
    (tmp_path / "conf" / "10-pods.conflist").write_text(json.dumps(network))
    (tmp_path / "bin" / "bridge").write_text("")
    places = ("--conf-dir", str(tmp_path / "conf"), "--bin-dir", str(tmp_path / "bin"))
    commands("cni status", "cni-status", *places, code=4)
    log = ("--log-file", str(tmp_path / "cni.log"))
    assert commands("cni install --runtime containerd", "changes", *places, *log)["changes"]
    commands("cni status", "cni-status", *places)
    assert commands("cni uninstall --grace 0", "changes", *places)["changes"]
    commands("node uninstall", "changes", *places)


def test_the_agent_of_a_node(commands: Commands, tmp_path: Path) -> None:
    health = Health(("entry",))
    health.report("entry", "it is lost")
    health.count("lost", "other")
    health.note(
        node="n1", api_connected=None, lost=1.0, rival="other", pod_states={"no-rules": ["shop/web"]}, audit="on"
    )
    health.note(loaded={"network": "pods", "plugins": ["bridge"], "directory": "/etc/cni/net.d"}, token_expires=2.0)
    audited = {"pod": "shop/web", "uid": "1", "state": "no-rules", "says": "", "remedy": "", "since": 0.0}
    answers = {
        "status": lambda _: health.as_plain() | {"acts": True, "pods_known": 1},
        "pods": lambda _: {"pods": [audited | {"namespace_path": ""}], "audit": "on"},
    }
    server = AgentServer(str(tmp_path / "run" / "socket"), answers)
    try:
        commands("node status", "node-status", "--socket", server.path, code=1)
        commands("node pods", "node-pods", "--socket", server.path, code=4)
    finally:
        server.close()
    commands("node status", "error", "--socket", server.path, code=1)


FAILURES = {
    "dump --netns /nowhere": 1,
    "verify --netns nowhere": 1,
    "trace tcp nowhere:80": 2,
    "explain --famly ipv4": 2,
    "apply -p 70000": 2,
    "diff '-p 0x' ''": 2,
    "inject -f /nowhere.yaml": 2,
    "watch --interval 0": 2,
    "dumpp": 2,
    "cni status --runtime other": 2,
    "node pod nowhere verify": 2,
}


@pytest.mark.parametrize("line", FAILURES)
def test_a_failure_is_json_on_standard_output_and_words_on_standard_error(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([*shlex.split(line), "--format=json"])

    printed = capsys.readouterr()
    plain = json.loads(printed.out)
    check_schema("error", plain)
    assert (code, plain["error"]["exit_code"]) == (FAILURES[line], FAILURES[line])
    assert printed.err.startswith(f"error: {plain['error']['message']}\n")


def test_every_command_has_json() -> None:
    with_json = {
        words
        for words, command in of_leaves(capture)
        for parameter in command.params
        if parameter.name == "form" and isinstance(parameter.type, ParameterType) and "json" in parameter.type.words
    }
    assert {words for words, _ in of_leaves(capture)} - with_json == WITHOUT_JSON
    assert {words.partition(" ")[0] for words in with_json} == set(COMMANDS)
