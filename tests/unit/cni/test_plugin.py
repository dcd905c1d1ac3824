"""What the plugin does without a kernel: whom it leaves alone, what it refuses, and what a process answers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cni import cleanup, codes, conf, plugin, protocol
from pytest_netns import require
from support.runtimes.cni_calls import ENVIRON, INJECTED, RESULT, STATUS_ANNOTATION, call, configuration, error_of
from support.runtimes.cni_calls import POD_ARGUMENTS as POD


@pytest.mark.parametrize(
    ("stdin", "arguments"),
    [
        (configuration({}), POD),
        (configuration({"a": "b"}), "K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop"),
        (configuration(INJECTED, exclude_namespaces=["shop"]), POD),
        (configuration(exclude_namespaces=["shop"]), POD),
        (configuration(agent_pod={"namespace": "shop", "name_prefix": "web-"}), POD),
        (configuration(INJECTED), "K8S_POD_NAME=web-0"),
        (configuration(), "IgnoreUnknown=1;K8S_POD_NAME=web-0"),
        (configuration(), ""),
    ],
)
def test_a_pod_that_is_left_alone_gets_the_result_it_came_with(stdin: object, arguments: str) -> None:
    done = call(stdin, CNI_ARGS=arguments)
    assert (done.returncode, json.loads(done.stdout)) == (0, RESULT)


def test_a_runtime_that_hands_over_nothing_does_not_stop_the_node(tmp_path: Path) -> None:
    requests_them: dict[str, Any] = {
        "capabilities": {conf.ANNOTATIONS_CAPABILITY: True},
        "log_file": str(tmp_path / "log"),
    }
    done = call(configuration(**requests_them))
    assert (done.returncode, json.loads(done.stdout)) == (0, RESULT)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["level"] for line in lines] == ["error", "info"]
    assert "pod shop/web-0 is left alone: the runtime hands over no annotations" in lines[0]["message"]
    insisting = call(configuration(**requests_them, pod_sources=["runtime"]))
    assert error_of(insisting)["code"] == codes.POD_UNKNOWN


@pytest.mark.parametrize(
    ("arguments", "pod"), [("", "standalone/cafe01"), ("IgnoreUnknown=1;K8S_POD_NAME=web", "standalone/web"), (POD, "")]
)
def test_a_sandbox_that_is_no_pod_of_kubernetes_is_captured_by_the_configuration(arguments: str, pod: str) -> None:
    bad = {"traffic.sidecar.istio.io/includeInboundPorts": "x"}
    standalone = {"annotations": INJECTED | bad}
    done = call(configuration({}, standalone=standalone), CNI_ARGS=arguments)
    if pod:
        assert error_of(done)["msg"].startswith(f"pod {pod}: ")
    else:
        assert done.returncode == 0


REFUSED: list[tuple[dict[str, object], int, str]] = [
    (configuration(), codes.POD_UNKNOWN, "pod shop/web-0: the runtime hands over no annotations"),
    (
        configuration(INJECTED | {"traffic.sidecar.istio.io/includeInboundPorts": "80\n-j ACCEPT"}),
        codes.VALUE_REFUSED,
        "(annotation traffic.sidecar.istio.io/includeInboundPorts): invalid value '80\\n-j ACCEPT': expected '*', or",
    ),
    (
        configuration(INJECTED | {"traffic.sidecar.istio.io/excludeOutboundIPRanges": "1" * 1_000_000}),
        codes.VALUE_REFUSED,
        "excludeOutboundIPRanges): invalid value '11111",
    ),
    (configuration({STATUS_ANNOTATION: "injected"}), codes.VALUE_REFUSED, "io/status: invalid value 'injected'"),
    (configuration(INJECTED), protocol.INVALID_ENVIRONMENT, "CNI_NETNS: network namespace /does/not/exist"),
    (configuration(INJECTED, profile="modern"), protocol.INVALID_CONFIGURATION, "'profile': invalid value \"modern\""),
    (
        configuration(INJECTED, prevResult=RESULT | {"ips": [{"address": "10.1.2.3/33"}]}),
        protocol.INVALID_CONFIGURATION,
        "prevResult: 'ips': invalid value",
    ),
    (
        configuration(INJECTED, prevResult=RESULT | {"ips": ["10.1.2.3"]}),
        protocol.INVALID_CONFIGURATION,
        "prevResult: 'ips': invalid value",
    ),
    (configuration({}, prevResult=[]), protocol.INVALID_CONFIGURATION, "prevResult"),
]


@pytest.mark.parametrize(("stdin", "code", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_refusal_names_pod_place_and_value(stdin: object, code: int, message: str) -> None:
    error = error_of(call(stdin))
    assert error["code"] == code
    assert message in error["msg"]
    assert error["details"]


def test_the_namespace_that_the_plugin_runs_in_is_refused() -> None:
    require(os.geteuid() == 0, "without privilege the plugin says so first")
    error = error_of(call(configuration(INJECTED), CNI_NETNS="/proc/self/ns/net"))
    assert error["code"] == codes.HOST_NAMESPACE


def test_status_names_the_missing_capability() -> None:
    without = ["setpriv", "--bounding-set=-net_admin,-sys_admin", "--inh-caps=-net_admin,-sys_admin"]
    stdin = configuration(cniVersion="1.1.0")
    error = error_of(call(stdin, without if os.geteuid() == 0 else (), CNI_COMMAND="STATUS"))
    assert (error["code"], error["msg"]) == (protocol.NOT_AVAILABLE, "missing capability NET_ADMIN and SYS_ADMIN")


DEL_CALLS: list[tuple[object, dict[str, str]]] = [
    (configuration(INJECTED), {}),
    (configuration(), {"CNI_NETNS": ""}),
    ({"cniVersion": "1.0.0", "name": "pods", "type": "capture-cni"}, {"CNI_NETNS": ""}),
    ({"cniVersion": "1.0.0", "name": "pods", "type": "capture-cni"}, {"CNI_NETNS": "/does/not/exist"}),
    (configuration(profile="modern", pod_sources=3), {}),
    (configuration(INJECTED), {"CNI_ARGS": "garbage"}),
    (configuration(INJECTED), {"CNI_ARGS": ""}),
    (configuration(INJECTED), {"CNI_CONTAINERID": ""}),
    (configuration(INJECTED), {"CNI_CONTAINERID": "../../etc/passwd", "CNI_IFNAME": "../x"}),
    ("", {}),
    ("not json", {}),
    ("[]", {}),
    ("\x00\xff", {}),
    ({"cniVersion": "9.9.9"}, {}),
]


@pytest.mark.parametrize(("stdin", "environ"), DEL_CALLS, ids=range(len(DEL_CALLS)))
def test_del_succeeds_with_any_input(stdin: object, environ: dict[str, str]) -> None:
    for _ in range(2):
        done = call(stdin, CNI_COMMAND="DEL", **environ)
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("stdin", ['{"cniVersion": "1.0.0"}', "{}", "", "nonsense"])
def test_version_answers_with_dummies_in_the_environment(stdin: str) -> None:
    dummies = dict.fromkeys(("CNI_IFNAME", "CNI_NETNS", "CNI_PATH", "CNI_CONTAINERID"), "dummy")
    done = call(stdin, CNI_COMMAND="VERSION", **dummies)
    assert done.returncode == 0
    assert "1.0.0" in json.loads(done.stdout)["supportedVersions"]


def test_without_a_command_no_input_is_awaited() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cni"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.read())["code"] == protocol.INVALID_ENVIRONMENT
    assert process.wait(5) == 1
    process.communicate()


def test_a_defect_is_an_answer_too(tmp_path: Path) -> None:
    """For every fault in the plugin, the runtime gets JSON to show; and DEL has succeeded."""
    script = (
        "import sys; from cni import __main__, cleanup, plugin\n"
        "def broken(request): raise RuntimeError('a\\nb')\n"
        "plugin.HANDLERS['ADD'] = cleanup.HANDLERS['DEL'] = broken\n"
        "__main__.main()\n"
    )
    for command, status in (("ADD", 1), ("DEL", 0)):
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(configuration({})),
            env={"PATH": os.environ["PATH"]} | ENVIRON | {"CNI_COMMAND": command},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status
        assert done.stderr.count("\n") == 1
        if command == "ADD":
            error = json.loads(done.stdout)
            assert (error["code"], error["msg"]) == (codes.DEFECT, "defect of the plugin: RuntimeError: a b")
            assert "in broken" in error["details"]
        else:
            assert done.stdout == ""


def test_the_log_has_what_was_done_and_why(tmp_path: Path) -> None:
    log = tmp_path / "cni.log"
    call(configuration({}, log_file=str(log)))
    call(configuration(log_file=str(log)))
    alone, failed = map(json.loads, log.read_text().splitlines())
    about = {"command": "ADD", "namespace": "shop", "pod": "web-0", "container": "cafe01", "interface": "eth0"}
    assert about.items() <= alone.items()
    assert about.items() <= failed.items()
    assert (alone["level"], alone["message"]) == ("info", "left alone")
    assert alone["reason"] == "it has no container istio-proxy"
    assert "runtime" in alone["steps_ms"]
    assert (failed["level"], failed["code"]) == ("error", codes.POD_UNKNOWN)


def test_every_command_of_the_specification_is_there() -> None:
    assert {*plugin.HANDLERS, *cleanup.HANDLERS} == set(protocol.SINCE_VERSION) - {"VERSION"}
