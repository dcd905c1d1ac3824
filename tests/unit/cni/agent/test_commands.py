"""`capture node`: an agent that only notes how it would run, and one that answers from memory."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import pytest

from capture.cli.group import capture, run
from cni.agent import kubectl
from cni.agent.health import Health
from cni.agent.options import Options
from cni.agent.server import AgentServer
from cni.log import DEFAULT_FILE
from support.output.json_schemas import check_schema

GOOD_STATES = ("captured", "left-alone", "host-network", "unknown")
PODS = [
    {"pod": "shop/web", "state": "no-rules", "says": "there are no rules", "remedy": "recreate it", "since": 0.0,
     "namespace_path": "/run/netns/nowhere", "uid": "1"},
    *({"pod": f"mesh/{state}", "state": state, "says": "", "remedy": "", "since": 0.0, "namespace_path": "", "uid": "3"}
      for state in GOOD_STATES),
    {"pod": "shop/api", "state": "captured", "says": "", "remedy": "", "since": 0.0, "namespace_path": "", "uid": "2"},
]  # fmt: skip


CAPABILITY = {"io.kubernetes.cri.pod-annotations": True}
DEFAULT_ENTRY = {"capabilities": CAPABILITY, "log_file": DEFAULT_FILE}
FLAGS = """--node n1 --plugin /p --runtime-socket /r.sock --service-account /account --api-server https://lb
 --daemon-set a/b --no-audit --repair-starting apply --repair-running evict --repairs-per-minute 0
 --remove-taint x --remove-taint y --metrics-address 127.0.0.1:15014 --bin-dir /bin/./x --conf-dir /conf/
 --credentials-dir /secret --socket /s --own-config=00-x.conflist --pod-source agent --pod-source runtime
 --exclude-namespace kube-system --log-level debug"""
VARIABLES = {
    "NODE_NAME": "n1", "CAPTURE_PLUGIN": "/p", "CAPTURE_RUNTIME_SOCKET": "/r.sock", "CAPTURE_DAEMON_SET": "a/b",
    "CAPTURE_METRICS_ADDRESS": "127.0.0.1:15014", "CAPTURE_BIN_DIR": "/bin/x", "CAPTURE_CONF_DIR": "/conf",
    "CAPTURE_CREDENTIALS_DIR": "/secret", "CAPTURE_AGENT_SOCKET": "/s",
}  # fmt: skip
BY_VARIABLES = Options(
    "n1", "/p", DEFAULT_ENTRY, bin_dir="/bin/x", conf_dir="/conf", runtime_socket="/r.sock", credentials_dir="/secret",
    socket="/s", daemon_set="a/b", metrics_address="127.0.0.1:15014",
)  # fmt: skip
BY_FLAGS = BY_VARIABLES.replace(
    entry=DEFAULT_ENTRY | {"exclude_namespaces": ["kube-system"], "log_level": "debug",
                           "pod_sources": ["agent", "runtime"]},
    own_config="00-x.conflist", service_account="/account", api_server="https://lb", audit=False,
    repair_starting="apply", repair_running="evict", repairs_per_minute=0, taints=("x", "y"), log_level="debug",
)  # fmt: skip


@pytest.fixture
def options_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the options that an agent would run with; its exit code is 7."""
    seen: list[Options] = []

    class Agent:
        def __init__(self, options: Options) -> None:
            seen.append(options)

        def run(self) -> int:
            return 7

    def options(*flags: str) -> Options:
        assert run(["node", "agent", *flags]) == 7
        return seen.pop()

    (tmp_path / "capture-cni").touch(mode=0o755)
    monkeypatch.setattr("sys.argv", ["capture"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("cni.agent.process.Agent", Agent)
    return options


def test_every_option_comes_by_its_flag_or_its_variable(options_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options_of(*FLAGS.split()) == BY_FLAGS
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert options_of() == BY_VARIABLES


def test_without_flags_every_option_is_what_the_agent_takes_for_it(options_of: Any, tmp_path: Path) -> None:
    assert options_of() == Options("", f"{tmp_path}/capture-cni", DEFAULT_ENTRY)


@pytest.mark.parametrize(
    "words",
    ["--repair-starting evict", "--repair-running restart", "--repairs-per-minute -1", "--metrics-address 15014",
     "--metrics-address node:http", "--metrics-address node:65536",
     "--daemon-set capture-agent", "--pod-source kubelet", "--log-level loud",
     "--remove-taint a=b:NoSchedule", "--remove-taint a:NoSchedule", "--runtime-socket run/x.sock",
     "--api-server 10.0.0.1:6443", "--api-server http://10.0.0.1", "--api-server https://10.0.0.1:0"],
)  # fmt: skip
@pytest.mark.usefixtures("options_of")
def test_a_value_that_an_agent_could_not_use_is_refused_at_its_start(words: str) -> None:
    assert run(["node", "agent", *words.split()]) == 2


def test_an_agent_without_its_packages_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cni.agent.process", None)
    assert run(["node", "agent", "--plugin", "/p"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: the agent needs the Python package cni.agent.process")
    assert "pip install 'istio-capture[agent]'" in printed


def test_what_runs_in_a_pod_is_a_command_of_capture() -> None:
    assert set(kubectl.CAPTURE_COMMANDS) <= set(capture.list_commands(click.Context(capture)))


@pytest.mark.usefixtures("root")
def test_the_status_and_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    health = Health(("entry",))
    server = AgentServer(
        str(tmp_path / "run" / "socket"), {"status": lambda _: health.as_plain() | {"acts": True, "pods_known": 0}}
    )

    def status(*flags: str) -> tuple[int, str]:
        return run(["node", "status", "--socket", server.path, *flags]), capsys.readouterr().out

    for expected, problem in ((1, "the entry is lost"), (0, "")):
        health.report("entry", problem)
        code, words = status()
        assert words.startswith(f"agent {health.as_plain()['version']} on node")
        assert (code, problem in words) == (expected, True)
        assert status("--ready") == status("--ready", "--format", "json") == (code, "")
        assert status("--live") == status("--live", "--format", "json") == (0, "")
        code, printed = status("--format", "json")
        assert code == expected
        check_schema("node-status", json.loads(printed))
    health._turn -= 3600  # its loop is stuck
    assert status("--live") == (1, "")
    server.close()


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the code that uninstalls was called with."""
    calls: list[tuple[object, ...]] = []

    def on_this_node(options: Options, runtime: object) -> list[str]:
        calls.append((options.bin_dir, options.conf_dir, runtime))
        return [f"{options.bin_dir}/capture-cni: removed"]

    monkeypatch.setattr("cni.agent.uninstall.uninstall", on_this_node)
    monkeypatch.setattr(
        "cni.agent.uninstall.uninstall_from_all_nodes", lambda client, name: calls.append((client, name))
    )
    monkeypatch.setattr("cni.agent.api.connect", lambda account: nullcontext(f"a client as {account}"))
    monkeypatch.setattr("cni.agent.runtime.find_runtime", lambda given, known: f"first of {given!r}, {known[0]}")
    return calls


def test_a_node_is_uninstalled_with_the_runtime_that_is_found(
    uninstalled: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["node", "uninstall", "--bin-dir", "/b", "--conf-dir", "/c"]
    assert run(words) == 0
    assert capsys.readouterr().out == "/b/capture-cni: removed\n"
    monkeypatch.setitem(sys.modules, "cni.agent.runtime", None)
    monkeypatch.delattr("cni.agent.runtime")
    assert run(words) == 0
    assert uninstalled == [("/b", "/c", "first of '', /run/crio/crio.sock"), ("/b", "/c", None)]


def test_all_nodes_are_uninstalled_by_their_daemon_set(
    uninstalled: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["node", "uninstall", "--all-nodes"]) == 2
    assert run(["node", "uninstall", "--all-nodes", "--daemon-set", "a/b", "--service-account", "/account"]) == 0
    assert uninstalled == [("a client as /account", "a/b")]
    assert capsys.readouterr().out == "a/b: deleted, and every agent has uninstalled\n"


@pytest.fixture(scope="module")
def socket(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    def pods(question: dict[str, Any]) -> object:
        key = f"{question.get('namespace')}/{question.get('name')}"
        return {"pods": [pod for pod in PODS if not question.get("name") or pod["pod"] == key], "audit": "on"}

    server = AgentServer(str(tmp_path_factory.mktemp("agent") / "run" / "socket"), {"pods": pods})
    yield server.path
    server.close()


def test_faults_come_first(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pods", "--socket", socket]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no-rules             shop/web (for ")
    assert lines[0].endswith(": there are no rules")
    assert lines[1].strip() == "recreate it"
    assert lines[2].startswith("unknown              mesh/unknown")
    assert len(lines) == 2 + len(GOOD_STATES) + 1


def test_a_pod_that_is_well_or_unknown_or_none_at_all_is_nothing_wrong(
    socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for state in GOOD_STATES:
        assert run(["node", "pods", "--socket", socket, "--pod", f"mesh/{state}"]) == 0
    capsys.readouterr()
    assert run(["node", "pods", "--socket", socket, "--pod", "mesh/none"]) == 0
    assert capsys.readouterr().out == "no pod is known; the audit is on\n"
    assert run(["node", "pods", "--socket", socket, "--pod", "mesh"]) == 2


def test_one_pod_as_json(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pods", "--socket", socket, "--pod", "shop/api", "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    check_schema("node-pods", printed)
    assert [pod["pod"] for pod in printed["pods"]] == ["shop/api"]


def test_a_command_runs_in_the_pods_namespace(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pod", "--socket", socket, "shop/web", "verify"]) == 1
    assert "/run/netns/nowhere: does not exist" in capsys.readouterr().err


def test_a_pod_without_a_namespace(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pod", "--socket", socket, "shop/api", "verify"]) == 1
    assert "has no network namespace for shop/api" in capsys.readouterr().err


def test_commands_without_an_agent_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "pods", "--socket", str(tmp_path / "socket")]) == 1
    assert run(["node", "status", "--socket", str(tmp_path / "socket")]) == 1
    assert "no agent answers" in capsys.readouterr().err
    assert run(["node", "status", "--socket", str(tmp_path / "socket"), "--ready"]) == 1
    assert capsys.readouterr() == ("", "")


def test_output_is_folded_for_a_terminal_at_the_other_end_of_a_pipe(
    socket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        monkeypatch.setenv(name, "")  # what the option sets ends with the test

    run(["node", "--terminal=40x20:plain", "pods", "--socket", socket])

    assert [os.environ[name] for name in ("COLUMNS", "LINES", "NO_COLOR")] == ["40", "20", "1"]
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert len(lines) > 3
