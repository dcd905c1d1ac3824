"""`kubectl capture` against a kubectl that answers from files and notes how it was called."""

import json
import sys
from pathlib import Path

import pytest

from cni.agent import kubectl
from support.output.json_schemas import check_schema
from support.processes.on_terminal import on_terminal

SCRIPT = """#!/bin/sh
printf '%s\\n' "$*" >> {log}
case "$*" in
*"exec"*) printf 'from the agent \\377: %s\\n' "$*"; exit 4 ;;
*"app=capture-agent"*) cat {root}/agents.json ;;
*"deployment"*|*"deploy/"*) cat {root}/deployment.json ;;
*"--selector="*) cat {root}/pods.json ;;
*"pod web"*) cat {root}/pod.json ;;
*) echo 'E1127 06:46:22.522185   29455 memcache.go:265] "Unhandled Error" err="refused"' >&2
   echo 'Error from server (NotFound): pods "nowhere" not found' >&2; exit 1 ;;
esac
"""
POD = {"metadata": {"namespace": "shop", "name": "web"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
ENDED = ("Succeeded", "Pending")
"""Phases of pods that do not count where one runs."""
AGENTS = [
    POD | {"metadata": {"namespace": "istio-capture", "name": f"agent-{n}"}, "spec": {"nodeName": n}}
    for n in ("n1", "n2")
]  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in {
        "agents": {"items": AGENTS},
        "pod": POD,
        "pods": {"items": [POD | {"metadata": {}, "status": {"phase": phase}} for phase in ENDED] + [POD]},
        "deployment": {"spec": {"selector": {"matchLabels": {"app": "web"}}}},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    program = tmp_path / "kubectl"
    program.write_text(SCRIPT.format(log=tmp_path / "log", root=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["kubectl-capture", *arguments])
    return kubectl.main()


def last(cluster: Path) -> str:
    return (cluster / "log").read_text().splitlines()[-1]


def test_a_question_goes_to_the_agent_of_the_pods_node(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = run("why", "web", "-n", "shop", "tcp", "10.1.2.3:80", "--uid", "1000", monkeypatch=monkeypatch)
    assert code == 4
    assert "from the agent" in capfd.readouterr().out
    assert last(cluster) == (
        "exec --namespace=istio-capture agent-n1 -- /usr/libexec/istio-capture/capture"
        " node pod shop/web why tcp 10.1.2.3:80 --uid 1000"
    )


@pytest.mark.parametrize("named", [["web"], ["pod/web"], ["pods/web"], ["po/web"], ["deploy/web"], ["-l", "app=web"]])
def test_pods_by_owner_or_label(cluster: Path, monkeypatch: pytest.MonkeyPatch, named: list[str]) -> None:
    assert run("verify", *named, "-n", "shop", "--context", "far", monkeypatch=monkeypatch) == 4
    assert last(cluster).startswith("--context=far exec")
    assert last(cluster).endswith("node pod shop/web verify")
    is_selected = "--selector=app=web" in (cluster / "log").read_text()
    assert is_selected == (named[0] in ("deploy/web", "-l"))


EXPRESSIONS = [
    {"key": "a", "operator": "In", "values": ["b", "c"]},
    {"key": "d", "operator": "NotIn", "values": ["e"]},
    {"key": "f", "operator": "Exists"},
    {"key": "g", "operator": "DoesNotExist"},
]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"app": "web", "tier": "1"}, "app=web,tier=1"),  # of a Service or a ReplicationController
        ({"matchLabels": {"app": "web"}}, "app=web"),
        ({"matchExpressions": EXPRESSIONS, "matchLabels": {}}, "a in (b,c),d notin (e),f,!g"),
        ({}, ""),
        (None, ""),
    ],
)
def test_an_owner_has_the_pods_that_it_chooses(
    cluster: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    selector: dict[str, object] | None,
    expected: str,
) -> None:
    (cluster / "deployment.json").write_text(json.dumps({"spec": {"selector": selector} if selector else {}}))
    code = run("verify", "deploy/web", monkeypatch=monkeypatch)
    if expected:
        assert code == 4
        assert f"--selector={expected}" in (cluster / "log").read_text()
    else:
        assert code == 1
        assert "deploy/web chooses no pods by labels" in capfd.readouterr().err


def test_the_status_of_all_nodes(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("status", monkeypatch=monkeypatch) == 4
    calls = [line for line in (cluster / "log").read_text().splitlines() if "exec" in line]
    assert ["agent-n1" in calls[0], "agent-n2" in calls[1]] == [True, True]


def test_a_report_has_every_part(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("report", "web", "-n", "shop", monkeypatch=monkeypatch) == 0
    printed = capfd.readouterr()
    assert [line.split()[1] for line in printed.out.splitlines() if line.startswith("---")] == [
        "agent:", "pod:", "doctor:", "verify:", "why:", "dump:",
    ]  # fmt: skip
    assert "[6/6] dump" in printed.err
    calls = (cluster / "log").read_text().splitlines()
    assert [call.partition(f"{kubectl.CAPTURE_PROGRAM} ")[2] for call in calls[2:]] == [
        "node status", "node pods --pod shop/web", "doctor",
        "node pod shop/web verify", "node pod shop/web why", "node pod shop/web dump",
    ]  # fmt: skip


def test_errors_are_in_kubectls_words(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", "nowhere", monkeypatch=monkeypatch) == 1
    assert capfd.readouterr().err == 'error: kubectl: Error from server (NotFound): pods "nowhere" not found\n'
    (cluster / "agents.json").write_text('{"items": []}')
    assert run("verify", "web", monkeypatch=monkeypatch) == 1
    assert "no agent runs on node n1" in capfd.readouterr().err
    assert run("verify", monkeypatch=monkeypatch) == 2


@pytest.mark.parametrize(
    ("script", "words", "error"),
    [
        ("echo '[]'", "verify web", "kubectl: its output is not an object of Kubernetes"),
        ("true", "verify web", "kubectl: its output is not JSON"),
        (
            "echo 'E1128 10:00:00.000001 7 memcache.go:265] x' >&2; echo 'localhost:8080 was refused' >&2",
            "status",
            "kubectl: localhost:8080 was refused\n  Name the cluster: ",
        ),
        (
            "echo 'Unable to connect to the server: dial tcp 127.0.0.1:6443: connect: no route to host' >&2",
            "status",
            "kubectl: Unable to connect to the server: dial tcp 127.0.0.1:6443: connect: no route to host\n  Name the ",
        ),
        ("""echo '{"items": []}'""", "status", "no agent runs in this cluster\n  Install it as docs/agent.md"),
        (f"echo '{json.dumps({'items': [POD | {'status': {'phase': 'Pending'}}]})}'", "status", "no agent runs"),
        (
            f"echo '{json.dumps({'items': [POD | {'status': {'phase': 'Failed'}}]})}'",
            "verify -l a=b",
            "no pod of a=b is running",
        ),
    ],
)
def test_what_kubectl_cannot_tell_is_an_error(
    cluster: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    script: str,
    words: str,
    error: str,
) -> None:
    (cluster / "kubectl").write_text(f"#!/bin/sh\n{script}\n")
    assert run(*words.split(), monkeypatch=monkeypatch) == 1
    assert capfd.readouterr().err.startswith(f"error: {error}")


def test_without_kubectl(cluster: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (cluster / "kubectl").unlink()
    monkeypatch.setenv("PATH", str(cluster))
    assert run("status", monkeypatch=monkeypatch) == 1
    assert capfd.readouterr().err.startswith("error: kubectl is not in PATH\n  Install it, ")


def test_a_pod_that_starts_can_be_looked_at(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cluster / "pods.json").write_text(json.dumps({"items": [POD | {"status": {"phase": "Pending"}}]}))
    assert run("verify", "-l", "app=web", "--kubeconfig", "/k", monkeypatch=monkeypatch) == 4
    assert last(cluster).startswith("--kubeconfig=/k exec")


def test_the_status_and_a_report_as_json(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("status", "--format", "json", monkeypatch=monkeypatch) == 1
    printed = json.loads(capfd.readouterr().out)
    check_schema("kubectl-status", printed)
    assert [agent["node"] for agent in printed["agents"]] == ["n1", "n2"]

    run("report", "web", "-n", "shop", "--format=json", monkeypatch=monkeypatch)
    check_schema("kubectl-report", json.loads(capfd.readouterr().out))

    run("verify", "nowhere", "--format", "json", monkeypatch=monkeypatch)
    check_schema("error", json.loads(capfd.readouterr().out))


def test_the_agents_side_learns_for_which_terminal_it_prints(cluster: Path) -> None:
    program = "import sys; from cni.agent.kubectl import main; sys.exit(main())"
    words = ["verify", "web", "-n", "shop"]

    on_terminal([sys.executable, "-c", program, *words], 100, PATH=f"{cluster}:/usr/bin:/bin", NO_COLOR="1")

    assert last(cluster).endswith("capture node --terminal=100x50:plain pod shop/web verify")
